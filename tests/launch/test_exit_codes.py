"""launch/guides/errors.md: the exit codes that there are, and sentences that there are."""

import ast
import re
from pathlib import Path

import pytest

from launch.shared import exit_codes
from step1x_jax.training.failures.lost_peer import LOST

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "launch/guides/errors.md"
ENDS = ("sys.exit", "os._exit", "SystemExit", "exit")
# Ends that no line of this project asks for: JAX's abort and a kill.
FOREIGN = {134, 137}


def table(text):
    """Rows of the guide's tables, as lists of cells."""
    for line in text.splitlines():
        if re.match(r"\| [^ ]", line) and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def in_guide():
    """Code -> whether restarting.sh runs the command again."""
    rows = [row for row in table(GUIDE.read_text()) if row[0].isdigit()]
    return {int(row[0]): {"yes": True, "no": False}[row[3]] for row in rows}


def values(node, known):
    """Numbers that an expression may be: literals, and names of `known` or of what is imported."""
    if isinstance(node, ast.IfExp):
        return values(node.body, known) | values(node.orelse, known)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return {node.value}
    if isinstance(node, ast.Name) and node.id in known:
        return {known[node.id]}
    return set()


def codes_in(source):
    """Exit codes of a module of launch/: what functions that give an int return, and what ends."""
    tree = ast.parse(source)
    known = {name: x for name, x in vars(exit_codes).items() if type(x) is int} | {"LOST": LOST}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            known |= {ast.unparse(name): node.value.value for name in node.targets}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and gives_int(node):
            returns = (one.value for one in ast.walk(node) if isinstance(one, ast.Return))
            found |= {code for value in returns for code in values(value, known)}
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ENDS and node.args:
            found |= values(node.args[0], known)
    return found


def gives_int(node):
    return node.returns is not None and "int" in ast.unparse(node.returns).split(" | ")


def in_code():
    python = [*(ROOT / "launch").rglob("*.py"), ROOT / "step1x_jax/training/failures/lost_peer.py"]
    scripts = [*(ROOT / "launch").rglob("*.sh"), *(ROOT / "launch").rglob("*.sbatch")]
    found = {code for path in python for code in codes_in(path.read_text())}
    for path in scripts:
        found |= {int(code) for code in re.findall(r"\bexit (\d+)", path.read_text())}
    return found


def test_the_guide_has_all_exit_codes_and_no_others():
    assert set(in_guide()) - FOREIGN == in_code()
    constants = {x for x in vars(exit_codes).values() if type(x) is int}
    assert in_code() == constants | {0, 2, LOST}


def test_codes_are_found_wherever_they_are():
    source = (
        "import sys\nODD = 5\n"
        "def main() -> int | None:\n    if x:\n        return 4\n    return ODD if y else 0\n"
        "def other() -> str:\n    return 9\n"
        "sys.exit(7)\nraise SystemExit(8)\n"
    )
    assert codes_in(source) == {0, 4, 5, 7, 8}


def test_the_guide_says_what_restarting_does():
    script = (ROOT / "launch/restarting.sh").read_text()
    ending = re.search(r"^ +([\d |]+)\) exit ", script, re.MULTILINE)[1]
    ending = {int(code) for code in ending.split(" | ")}
    assert {code for code, again in in_guide().items() if not again} == ending


def text_of(node):
    """A string of the code, with ... in place of what is filled in; None: it is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "..." for part in node.values)
    return None


@pytest.fixture(scope="module")
def sentences():
    """All strings of package and commands."""
    files = [*(ROOT / "step1x_jax").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    texts = [text for node in nodes if (text := text_of(node))]
    return "\n".join([*texts, *(path.read_text() for path in (ROOT / "launch").rglob("*.sh"))])


def quoted():
    rows = [row[0] for row in table(GUIDE.read_text()) if row[0].startswith("`")]
    return [row.strip("`") for row in rows]


@pytest.mark.parametrize("sentence", quoted())
def test_sentences_of_the_guide_are_those_of_the_code(sentence, sentences):
    pattern = ".*".join(map(re.escape, sentence.split("...")))
    assert re.search(pattern, sentences), "the code has no such sentence any more"


def test_a_sentence_that_is_gone_is_noticed(sentences):
    assert len(quoted()) > 40
    assert not re.search(re.escape("the picture is upside down"), sentences)
