"""Commands: flags, printing, files. Run them as `python -m launch.NAME` from the root."""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # what a shell reports for a process that ended on Ctrl-C


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Ends the process on Ctrl-C while it imports, when nothing is to be cleaned up."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


# As a command (Python says so while it looks for the module), not where the package is imported.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
