"""People look at edits: a page to judge them on, and the stage that reads what they said.

The page has all edits that came to the stage. It keeps verdicts in the browser, and saves them as a
file with a line for each: {"id": ..., "verdict": "keep" or "reject", "reason": ...}.
"""

import dataclasses
import hashlib
import html
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from etils import epath

from step1x_jax.conditioning.images import decode_image
from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.curation.engine.rows import ID, Rejected, Row
from step1x_jax.curation.engine.stage import Operator, Stage, each
from step1x_jax.errors import UserError, require
from step1x_jax.files import making_folder, user_path
from step1x_jax.json_files import build, parse_json

REASONS = {
    "not_as_told": "not what the instruction says",
    "too_much": "more was changed than that",
    "artefacts": "one sees that it was edited",
    "instruction": "the instruction is wrong or unclear",
    "harmful": "it should not be learned",
}
LARGEST = 1 << 28  # bytes of a file of verdicts
LONGEST_SIDE = 640  # pixels of a picture on the page


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What somebody said of an edit."""

    id: str
    verdict: Literal["keep", "reject"]
    reason: str = ""


@dataclasses.dataclass
class Review(Stage):
    """Leaves out what was rejected, and what nobody has looked at where that is required.

    Attributes:
      verdicts: the file that the page saved; "": there is none.
      required: categories of which only edits that somebody kept go on.
    """

    verdicts: str = ""
    required: tuple[str, ...] = ()

    reads: ClassVar = {"category": str}
    aside: ClassVar = ("verdicts",)  # its content counts

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        data = _read(self.verdicts)
        return {"verdicts": hashlib.sha256(data).hexdigest() if data else ""}

    def open(self) -> Operator:
        """See `Stage`."""
        verdicts = read_verdicts(self.verdicts)

        def look(row: Row) -> Mapping[str, Any] | Rejected:
            verdict = verdicts.get(row[ID])
            if verdict is not None and verdict.verdict == "reject":
                return Rejected(f"reviewer_{verdict.reason or 'rejected'}")
            if verdict is None and row["category"] in self.required:
                return Rejected("not_reviewed")
            return {}

        return each(look)


def read_verdicts(path: str) -> dict[str, Verdict]:
    """Verdicts by id; of several of one edit the last.

    Raises:
      UserError: the file is not there, or not as the page saves it.
    """
    verdicts = {}
    for number, line in enumerate(_read(path).decode(errors="replace").splitlines(), 1):
        if line.strip():
            source = f"{path}, line {number}"
            verdict = build(Verdict, parse_json(line, source), source)
            known = verdict.reason in ("", *REASONS)
            require(known, f"{source}: reason", verdict.reason, f"give one of {', '.join(REASONS)}")
            verdicts[verdict.id] = verdict
    return verdicts


def _read(path: str) -> bytes:
    return read_input_file(user_path(path), "a file of verdicts", LARGEST) if path else b""


def write_page(rows: Iterable[Row], output: epath.PathLike) -> int:
    """Writes the page with its pictures as a folder: complete, or not at all.

    Args:
      rows: edits with category, source, target and both instructions.
      output: the folder, which must not exist.

    Returns:
      How many edits are on the page.

    Raises:
      UserError: the folder exists, or cannot be written.
    """
    output = epath.Path(output)
    if output.exists():
        raise UserError(f"{output} exists; remove it, or give another --output.")
    with making_folder(output) as folder:
        (folder / "pictures").mkdir()
        blocks = list(_blocks(rows, folder))
        (folder / "index.html").write_text(_page("\n".join(blocks)))
    return len(blocks)


def _blocks(rows: Iterable[Row], folder: epath.Path) -> Iterator[str]:
    for number, row in enumerate(rows):
        for name in ("source", "target"):
            image = decode_image(row[name], name)
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            with (folder / "pictures" / f"{number:07d}-{name}.jpg").open("wb") as file:
                image.save(file, format="jpeg", quality=92)
        yield _BLOCK.format(
            id=html.escape(row[ID], quote=True),
            number=f"{number:07d}",
            category=html.escape(row["category"]),
            english=html.escape(row["instruction_en"]),
            chinese=html.escape(row["instruction_cn"]),
            options="".join(
                f'<option value="{name}">{html.escape(text)}</option>'
                for name, text in REASONS.items()
            ),
        )


_BLOCK = """<section data-id="{id}">
<h2>{category} <small>{id}</small></h2>
<img src="pictures/{number}-source.jpg" alt="source" loading="lazy">
<img src="pictures/{number}-target.jpg" alt="target" loading="lazy">
<p>{english}<br><span lang="zh">{chinese}</span></p>
<button data-verdict="keep">keep</button>
<button data-verdict="reject">reject</button>
<select>{options}</select>
</section>"""


def _page(blocks: str) -> str:
    # What is kept in the browser belongs to this page alone, not to others from the same disk.
    key = hashlib.sha256(blocks.encode()).hexdigest()[:16]
    return _PAGE.replace("BLOCKS", blocks).replace("KEY", json.dumps(f"verdicts {key}"))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Review of edits</title>
<style>
body { font: 15px/1.4 sans-serif; margin: 2em; color: #202020 }
section { border-top: 1px solid #ddd; padding: 1em 0 }
section[data-verdict="keep"] { background: #eef8ee }
section[data-verdict="reject"] { background: #fbeeee }
section:not([data-verdict="reject"]) select { display: none }
small { color: #777; font-weight: normal }
img { max-width: 46%; vertical-align: top }
header { position: sticky; top: 0; background: #fff; padding: .5em 0 }
</style>
<header><button id="save">save verdicts</button> <span id="count"></span></header>
BLOCKS
<script>
const key = KEY;
const verdicts = JSON.parse(localStorage.getItem(key) || "{}");
const sections = [...document.querySelectorAll("section")];
function show() {
  for (const section of sections) {
    const said = verdicts[section.dataset.id];
    if (said) {
      section.dataset.verdict = said.verdict;
      if (said.reason) section.querySelector("select").value = said.reason;
    }
  }
  document.getElementById("count").textContent =
    `${Object.keys(verdicts).length} of ${sections.length}`;
  localStorage.setItem(key, JSON.stringify(verdicts));
}
for (const section of sections) {
  const id = section.dataset.id, select = section.querySelector("select");
  for (const button of section.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const verdict = button.dataset.verdict;
      verdicts[id] = { id, verdict, reason: verdict === "reject" ? select.value : "" };
      show();
    });
  }
  select.addEventListener("change", () => {
    if (verdicts[id] && verdicts[id].verdict === "reject") verdicts[id].reason = select.value;
    show();
  });
}
document.getElementById("save").addEventListener("click", () => {
  const lines = Object.values(verdicts).map(one => JSON.stringify(one) + "\\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/json" }));
  link.download = "verdicts.jsonl";
  link.click();
});
show();
</script>
</html>
"""
