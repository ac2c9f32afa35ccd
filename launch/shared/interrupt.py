"""Ctrl-C in the seconds in which a command imports its libraries: one word and no traceback."""

import os
import signal
import sys
from types import FrameType

from launch.shared.exit_codes import INTERRUPTED


def end_at_once(number: int, frame: FrameType | None) -> None:
    """End the process; nothing is to be cleaned up yet."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def install_if_command() -> None:
    """Take over Ctrl-C in a process of `python -m`, which says so while it finds the module."""
    if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)


def give_back() -> None:
    """Leave Ctrl-C to Python again."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
