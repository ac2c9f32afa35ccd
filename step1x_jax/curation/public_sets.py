"""Sizes of public sets of edits, as the papers say them, or their authors beside the data.

From the paper: UltraEdit, GPT-Image-Edit and NHR-Edit (version 2) in the abstract; AnyEdit's kinds
in the text. From the authors' pages of the data or code: OmniEdit (1 202 797 rows), AnyEdit
(2 504 683), ImgEdit (10 kinds of one turn and 3 of several) and Pico-Banana.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PublicSet:
    """A set of edits.

    Attributes:
      name: of it.
      edits: how many, as its paper says.
      categories: how many kinds; 0: open, not counted.
      paper: its number at arxiv.org.
      note: what else there is to say of the figure.
    """

    name: str
    edits: int
    categories: int
    paper: str
    note: str = ""


PUBLIC_SETS = (
    PublicSet("Step1X-Edit", 1_000_000, 11, "2504.17761", "over; of over 20 million; not public"),
    PublicSet("UltraEdit", 4_000_000, 9, "2407.05282", "about; 9 kinds and more"),
    PublicSet("AnyEdit", 2_500_000, 25, "2411.15738"),
    PublicSet("GPT-Image-Edit", 1_500_000, 0, "2507.21033", "over; three older sets, made anew"),
    PublicSet("OmniEdit", 1_200_000, 7, "2411.07199"),
    PublicSet("ImgEdit", 1_200_000, 13, "2505.20275"),
    PublicSet("NHR-Edit", 720_000, 0, "2507.14119"),
    PublicSet("Pico-Banana", 257_000, 35, "2510.19808", "of a single turn; 400 000 in all"),
)
