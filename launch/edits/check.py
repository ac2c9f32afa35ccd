"""launch.edit --check: what was found of weights, line by line, and what to report."""

import sys
from collections.abc import Iterable

import jax

from launch.shared.exit_codes import ERROR
from step1x_jax import __version__
from step1x_jax.editing.published import DIFFERS, NOT_COMPARED, OK, Finding

WIDTH = 40  # of names; the longest ones go beyond


def print_findings(findings: Iterable[Finding]) -> int:
    """Print them as they are made.

    Returns:
      The exit code: 0 if nothing differs, else 1.
    """
    counts = dict.fromkeys((OK, DIFFERS, NOT_COMPARED), 0)
    devices = jax.devices()
    versions = f"step1x_jax {__version__}, jax {jax.__version__}"
    print(f"{versions}, {len(devices)} x {devices[0].device_kind}")
    for finding in findings:
        counts[finding.result] = counts.get(finding.result, 0) + 1
        what = " ".join(finding.what.split())
        print(f"{finding.result:<12}  {finding.name:<{WIDTH}}  {what}", flush=True)
    print(", ".join(f"{count} {result}" for result, count in counts.items() if result in counts))
    if counts[DIFFERS]:
        print(
            'Please open an issue of the project with this whole report: the lines "differs", the'
            " first line (versions and device), and the sha256 lines; and say where the files are"
            " from."
        )
        return ERROR
    print("Nothing differs.")
    return 0


def print_progress(file: str, read: int, size: int) -> None:
    """One line on a terminal, in place, of how far a file is read."""
    if sys.stderr.isatty():
        end = "\n" if read >= size else ""
        print(f"\rreading {file}: {read / max(size, 1):.0%}", end=end, file=sys.stderr, flush=True)
