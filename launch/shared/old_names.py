"""Flags that were renamed: the old name sets the new flag for one version, and says so on stderr.

They are in no --help; launch/guides/changelog.md lists them.
"""

import sys

from absl import flags

LAST = "0.4"  # the version without them

_NEW_NAMES: dict[str, str] = {}


def keep_old_name(old: str, new: str) -> None:
    """Let `--old` set the flag `--new`, which must be defined already."""
    flags.DEFINE_alias(old, new)
    _NEW_NAMES[old] = new


def is_old_name(name: str) -> bool:
    """Return whether a flag is only the former name of another one."""
    return name in _NEW_NAMES


def say_new_names() -> None:
    """Print one line on stderr for each old name on the command line."""
    for old, new in _NEW_NAMES.items():
        if flags.FLAGS[old].present:
            print(f"--{old} is now --{new}; the old name goes away in {LAST}", file=sys.stderr)
