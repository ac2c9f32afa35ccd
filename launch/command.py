"""What all commands share: how they start, and how they end when the user made a mistake."""

import re
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging
from etils import epath

from step1x_jax.errors import UserError


def run(main: Callable[[], int | None]) -> None:
    """Parses flags and calls `main`, whose result is the exit code (None: 0).

    A UserError becomes one line on stderr and exit code 1. What was compiled is kept on disk, so
    that a second run with the same shapes need not compile again.
    """

    def guarded(argv: Sequence[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # libraries tell much at INFO
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}; flags start with --.")
        cache = epath.Path("~/.cache/step1x_jax/compiled").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        try:
            return main() or 0
        except UserError as e:
            print(f"error: {e}", file=sys.stderr)
            return 1

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses flags; a wrong one is one sentence and exit code 1."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        message = str(e)
    except OSError as e:  # from ml_collections: a field is set, but --config cannot be opened
        message = " ".join(str(e).split())
    except KeyError as e:  # from ml_collections: --config.section.no_such_field=...
        message = re.sub(r"<class '(?:.*\.)?(\w+)'>", r"\1", str(e.args[0]))
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
