"""Evaluate edited pictures: launch/guides/evaluate.md.

python -m launch.evaluate generate --dataset=data/gedit --results=results --method=mine \
    --model=weights
python -m launch.evaluate judge --dataset=data/gedit --results=results --method=mine --endpoint=URL
python -m launch.evaluate report --results=results --methods=mine,others --output=report
python -m launch.evaluate compare --results=results --methods=mine,others --output=comparison

generate: edits a benchmark's pictures. judge: asks a judge about a method's pictures, or with
--against about pairs. report, compare: tables of judgements, of one method against another. rank:
Elo scores from pairs. judge-check: a judge against pairs that people have judged. study build,
study score: asks people. deidentify scan, deidentify review, deidentify export: a benchmark without
private pictures. reference: measures against true edits.

Each has its own flags: python -m launch.evaluate generate --help
"""

import importlib
import re
import sys

from absl import flags

from launch.shared.command import run

COMMANDS = {
    name: f"launch.evaluations.{re.sub('[- ]', '_', name)}"
    for name in (
        "generate", "judge", "report", "compare", "rank", "judge-check", "study build",
        "study score", "deidentify scan", "deidentify review", "deidentify export", "reference",
    )
}  # fmt: skip


def main() -> None:
    """Run the command that is named first, in one word or two, as if it were the main module.

    Of the commands only that one is imported, so only its flags are there.
    """
    words = 2 if " ".join(sys.argv[1:3]) in COMMANDS else 1
    name = " ".join(sys.argv[1 : 1 + words])
    if name not in COMMANDS:
        del sys.argv[2:]  # flags are of a command
        run(lambda _: 0, tuple(COMMANDS))
    module = importlib.import_module(COMMANDS[name])
    del sys.argv[1 : 1 + words]
    sys.modules["__main__"].__doc__ = module.__doc__  # what --help prints
    flags.adopt_module_key_flags(module)
    run(module.main)


if __name__ == "__main__":
    main()
