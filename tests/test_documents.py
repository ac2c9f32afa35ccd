"""What README, guides and notebook name is there: files, headings, commands, flags, extras."""

import dataclasses
import json
import pathlib
import re
import shlex
import tomllib
import typing

import pytest

from configs.curate_embedded import get_config as get_curate_config
from launch.evaluate import COMMANDS
from step1x_jax.training.config import TrainConfig

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / ".github/CONTRIBUTING.md"]
DOCUMENTS += sorted((ROOT / "launch/guides").glob("*.md"))
DOCUMENTS += sorted((ROOT / "launch/notebooks").glob("*.ipynb"))
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def text_of(path):
    """A document's text; of a notebook what is to be read."""
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def commands(text):
    """Lists of words: of every `python -m ...` and `bash ...` in blocks and in running text."""
    blocks, rest = [], []
    for number, part in enumerate(text.replace("\\\n", " ").split("```")):
        (blocks if number % 2 else rest).append(part)
    for part in rest:
        blocks += [line for line in part.splitlines() if line.startswith("    ")]
        blocks += [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", part)]
    for line in (line for block in blocks for line in block.splitlines()):
        if re.match(r"\s*(\S*python|bash|sbatch|hf|pip|rm) ", line):
            yield shlex.split(line, comments=True)


def flags_of(module):
    """Names that a command and what it imports from launch/ define."""
    source = (ROOT / "launch" / f"{module.replace('.', '/')}.py").read_text()
    found = set(re.findall(r'(?i)\bdefine_\w+\(\s*"(\w+)"', source))
    for place, names in re.findall(r"^from launch\.?([\w.]*) import (.+)$", source, re.MULTILINE):
        folder = place.replace(".", "/")
        if (ROOT / "launch" / folder).is_dir():  # names are modules
            for name in re.findall(r"\w+", names.split(" as ")[0]):
                found |= flags_of(f"{place}.{name}".lstrip("."))
        else:
            found |= flags_of(place)
    return found


def has_curate_field(path):
    """Whether such a field of the embedded config can be set by --config.PATH."""
    value = get_curate_config()
    for name in path.split("."):
        fields = value if isinstance(value, dict) else vars(value)
        if name not in fields:
            return False
        value = fields[name]
    return True


def has_field(path):
    """Whether such a field can be set by --config.PATH."""
    kind = TrainConfig
    for name in path.split("."):
        if not dataclasses.is_dataclass(kind):
            return False
        hints = typing.get_type_hints(kind)
        if name not in hints:
            return False
        kind = hints[name]
    return True


def mistakes(words):
    """What a command names that is not there."""
    module = words[words.index("-m") + 1] if "-m" in words[:3] else ""
    for word in words:
        if re.fullmatch(r"(--config=)?(configs|launch|tests)/[\w/.]+", word):
            path = word.removeprefix("--config=")
            if not (ROOT / path).exists() and path != "configs/NAME.py":
                yield f"no file {path}"
        field = re.match(r"--config\.([\w.]+)", word)
        known = has_curate_field if module == "launch.curate" else has_field
        if field and not known(field[1]):
            yield f"no field {field[1]}"
    package, _, name = module.partition(".")
    if package != "launch":
        return
    if name == "evaluate" and len(words) > 3:  # its commands are modules, of one word or two
        count = 2 if " ".join(words[3:5]) in COMMANDS else 1
        command = " ".join(words[3 : 3 + count])
        module = f"{module} {command}"
        name = COMMANDS.get(command, command).removeprefix("launch.")
        words = words[count:]
    if not (ROOT / "launch" / f"{name.replace('.', '/')}.py").exists():
        yield f"no command {module}"
        return
    for word in words[3:]:
        flag = re.match(r"--(?:no)?(\w+)", word)
        if flag and not {flag[1], word[2:].partition("=")[0]} & flags_of(name):
            yield f"{module} has no --{flag[1]}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_files_and_flags_exist(name):
    found = [*commands(text_of(ROOT / name))]
    assert found
    wrong = {" ".join(words): [*mistakes(words)] for words in found}
    assert {command: why for command, why in wrong.items() if why} == {}


def test_what_is_not_there_is_found():
    text = (
        "`python -m launch.edit --picture=a.jpg`\n```\nbash launch/gone.sh  # it is\n"
        "python -m launch.train --config=configs/lora.py \\\n    --config.lora.rang=3\n```\n"
        "    python -m launch.gone\n"
        "    python -m launch.evaluate report --model=a\n    python -m launch.evaluate jury\n"
        "    python -m launch.evaluate study build --picture=a.jpg\n"
        "    python -m launch.evaluate study gone\n"
    )
    wrong = sorted(why for words in commands(text) for why in mistakes(words))
    assert wrong == [
        "launch.edit has no --picture",
        "launch.evaluate report has no --model",
        "launch.evaluate study build has no --picture",
        "no command launch.evaluate jury",
        "no command launch.evaluate study",
        "no command launch.gone",
        "no field lora.rang",
        "no file launch/gone.sh",
    ]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


def headings(text):
    """Anchors, as GitHub makes them."""
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    path = ROOT / name
    for link in re.findall(r"\]\(([^)]+)\)", text_of(path)):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in headings(text_of(target)), link


def test_extras_that_are_named_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    sources = [*DOCUMENTS, *(ROOT / "launch").rglob("*.sh"), *(ROOT / "launch").rglob("*.py")]
    sources += [ROOT / "launch/gke/Dockerfile", ROOT / "launch/slurm.sbatch"]
    sources += (ROOT / "step1x_jax").rglob("*.py")
    named = set()
    for path in sources:
        for group in re.findall(r"(?:'\.|step1x_jax)\[([a-z,]+)\]'", path.read_text()):
            named |= set(group.split(","))
    assert {"gpu", "tpu"} <= named <= set(extras)
