"""Writes into README, guides and configs what they repeat of launch/benchmarks/*.json.

    python -m tests.recorded_results

A page marks where. In Markdown it is `<!-- gib plan_v5p_2x2x1 hbm_per_chip_gib -->80.1<!-- end -->`
in a sentence or a cell, or such marks on lines of their own around a table; in a config's docstring
a line `# hours lora 1024` before the text and a line `# end` after it. A mark names a function of
result_tables.py and its arguments. Only what is between marks is written.
tests/test_recorded_results.py fails as long as it is something else.
"""

import re
import textwrap
from pathlib import Path

from tests.result_tables import RESULTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "launch/guides").glob("*.md"))]
PAGES += sorted((ROOT / "configs").glob("*.py"))
MARKDOWN = re.compile(r"<!-- ([^>\n]+) -->(.*?)<!-- end -->", re.DOTALL)
DOCSTRING = re.compile(r"^( +)# (.+)\n(?:(?! *#).*\n)*? +# end$", re.MULTILINE)


def write(page: Path) -> str:
    """The text of a page with what the files say now between its marks.

    Raises:
      LookupError: a mark is not closed, or names what is not there.
    """
    text = page.read_text()
    return write_docstring(text) if page.suffix == ".py" else write_markdown(text)


def write_markdown(text: str) -> str:
    def fill(match: re.Match[str]) -> str:
        mark, before = match[1], match[2]
        new = result(mark)
        if before.startswith("\n"):
            new = f"\n{new}\n"
        elif text[: match.start()].endswith("\n"):
            raise LookupError(f"{match[0]} starts a line: in Markdown the paragraph ends there.")
        return f"<!-- {mark} -->{new}<!-- end -->"

    written, count = MARKDOWN.subn(fill, text)
    if text.count("<!--") != 2 * count:
        raise LookupError("a mark is not closed, or was not opened")
    return written


def write_docstring(text: str) -> str:
    def fill(match: re.Match[str]) -> str:
        indent, mark = match[1], match[2]
        return textwrap.indent(f"# {mark}\n{result(mark)}\n# end", indent)

    written, count = DOCSTRING.subn(fill, text)
    if len(re.findall(r"^ *# end$", text, re.MULTILINE)) != count:
        raise LookupError("a mark was not opened")
    return written


def result(mark: str) -> str:
    """What a function of result_tables.py makes of its arguments."""
    name, *words = mark.split()
    if name not in RESULTS:
        raise LookupError(f"tests/result_tables.py has no {name}")
    return RESULTS[name](*words)


if __name__ == "__main__":
    for page in PAGES:
        if (new := write(page)) != page.read_text():
            page.write_text(new)
            print(f"wrote {page.relative_to(ROOT)}")
