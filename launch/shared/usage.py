"""Text of --help: what the command does, then its flags, the required ones first."""

import re
import sys

from absl import flags

from launch.shared.old_names import is_old_name

HELP = ("-h", "--h", "-help", "--help")
_REQUIRED = "must have a value other than None"


def usage() -> str:
    """The main module's docstring and flags, in the order in which they are defined."""
    module = sys.modules["__main__"]
    # A docstring's line that ends in a backslash continues after the next one's indentation.
    text = re.sub(r"(?<=\S) {4,}(?=\S)", " \\\\\n    ", (module.__doc__ or "").strip())
    known = flags.FLAGS.get_flags_for_module(sys.argv[0])
    keys = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    ordered = [*known, *(flag for flag in keys if flag not in known)]
    ordered = [flag for flag in ordered if not is_old_name(flag.name)]
    needed = [flag for flag in ordered if is_required(flag)]
    others = [flag for flag in ordered if flag not in needed]
    sections = [text]
    for title, group in (("Needed:", needed), ("Others:", others)):
        if group:
            sections.append("\n".join([title, *map(_line, group)]))
    return "\n\n".join(sections) + "\n"


def is_required(flag: flags.Flag) -> bool:
    """Whether the command cannot do without it."""
    return any(_REQUIRED in str(validator.message) for validator in flag.validators)


def _line(flag: flags.Flag) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    default = "" if flag.default in (None, "", []) else f" (default: {flag.default_as_str})"
    return f"  {name}: {flag.help}{default}"
