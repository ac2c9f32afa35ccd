"""The published leaderboard of GEditBench v2, as data.

Its judges are other ones, they saw each pair in one order alone, and the scores depend on which
models were compared: its rows are shown beside measured ones, never among them.
"""

import dataclasses

from etils import epath

import step1x_jax
from step1x_jax.evaluation.benchmarks import GEDIT_V2
from step1x_jax.json_files import build, read_json

FILE = epath.Path(step1x_jax.__file__).parent / "assets" / "evaluation" / "gedit2_published.json"
BENCHMARK = GEDIT_V2.name  # to whose tables it belongs

EloWithOffsets = tuple[int, int, int]  # and what the ends of the 95 % interval are away from it


@dataclasses.dataclass(frozen=True)
class LeaderboardRow:
    """A model of the leaderboard.

    Attributes:
      model: its name, with the date of pictures from a service.
      source: "open" or "closed" weights.
      samples: pictures that it returned, of 1200.
      instruction_following: Elo and offsets.
      visual_quality: likewise.
      visual_consistency: likewise.
      overall: likewise.
      arena_elo: what people preferred, in Artificial Analysis' arena.
    """

    model: str
    source: str
    samples: int
    instruction_following: EloWithOffsets
    visual_quality: EloWithOffsets
    visual_consistency: EloWithOffsets
    overall: EloWithOffsets
    arena_elo: int


@dataclasses.dataclass(frozen=True)
class PublishedLeaderboard:
    """The leaderboard.

    Attributes:
      source: where it is from.
      benchmark: its name.
      judges: of each dimension.
      form: what the numbers are.
      rows: by falling overall Elo.
    """

    source: str
    benchmark: str
    judges: dict[str, str]
    form: str
    rows: tuple[LeaderboardRow, ...]


def read_published() -> PublishedLeaderboard:
    """The leaderboard that ships with the package."""
    return build(PublishedLeaderboard, read_json(FILE), str(FILE))
