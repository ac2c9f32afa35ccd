"""What all commands share: how they start, and how they end when the user made a mistake."""

import sys
from collections.abc import Callable, Sequence

from absl import app

from step1x_jax.errors import UserError


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Parses flags and calls `main(argv)`, whose result is the exit code (None: 0).

    A UserError becomes one line on stderr and exit code 1.
    """

    def guarded(argv: Sequence[str]) -> int:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}; flags start with --.")
        try:
            return main(argv) or 0
        except UserError as e:
            print(f"error: {e}", file=sys.stderr)
            return 1

    app.run(guarded)
