"""Start of all commands, and their end when the user made a mistake."""

import atexit
import logging as python_logging
import math
import os
import re
import select
import signal
import sys
import warnings
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from launch.shared import interrupt
from launch.shared.exit_codes import ERROR, INTERRUPTED, READER_GONE
from launch.shared.old_names import is_old_name, say_new_names
from launch.shared.usage import HELP, is_required, usage
from step1x_jax.errors import UserError
from step1x_jax.parallel.compile_cache import enable_compile_cache


def run(main: Callable[..., int | None], operands: Sequence[str] = ()) -> None:
    """Parse flags and call `main`, whose result is the exit code (None: 0).

    With `operands`, the command takes one of them before its flags, and `main` is given it.

    A UserError, and what else a user can correct, becomes one line on stderr and exit code 1. What
    was compiled is kept on disk, so that a second run with the same shapes need not compile again.
    """

    def guarded(argv: Sequence[str]) -> int:
        interrupt.give_back()
        # Pillow's word on large pictures: ours have a limit and a sentence of their own.
        warnings.filterwarnings("ignore", message=".*could be decompression bomb")
        handler = logging.get_absl_handler()
        handler.setFormatter(python_logging.Formatter("%(levelname)s: %(message)s"))
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # libraries tell much at INFO
        if operands and (len(argv) != 2 or argv[1] not in operands):
            return _say(f"give one of {', '.join(operands)}, then flags.")
        if not operands and len(argv) > 1:
            return _say(f"unexpected argument {argv[1]!r}; flags start with --.")
        # What ends the process must not be interrupted halfway: all is done or undone by then.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        enable_compile_cache()
        try:
            code = main(*argv[1:]) or 0
            sys.stdout.flush()
            return code
        except UserError as e:
            return _say(str(e))
        except BrokenPipeError:
            if not _reader_is_gone():
                raise
            return READER_GONE
        except ImportError as e:
            if "nstall " not in str(e) or e.name:  # other than fsspec's "Please install gcsfs ..."
                raise
            return _say(f"{e}; for gs://: pip install 'step1x_jax[gcs]'.")
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            reason = str(e).splitlines()[0]
            return _say(f"{reason}; take a smaller batch or size, or more devices (mesh.fsdp).")
        except MemoryError:
            return _say(
                "the memory of this machine does not suffice; take a smaller batch or size."
            )
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED

    app.run(guarded, flags_parser=_parse_flags)


def _check_given_once() -> None:
    """Warn of a setting that is given again, of which the last counts: scripts append their own.

    Raises:
      flags.Error: it is one that the command cannot do without, such as the picture to edit: then
        nobody knows which was meant.
    """
    every = ((name, flags.FLAGS[name]) for name in flags.FLAGS if not is_old_name(name))
    for name, flag in every:
        if flag.present > 1 and not isinstance(flag, flags.MultiFlag):
            if is_required(flag):
                raise flags.Error(f"--{name} is given more than once; give it once.")
            print(
                f"warning: --{name} is given more than once; the last counts, {flag.value!r:.80}.",
                file=sys.stderr,
            )


def _check_finite() -> None:
    """Raise flags.Error for a number that is NaN or infinite: bounds of flags let NaN through."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if is_old_name(name):
            continue
        values = flag.value if isinstance(flag, flags.MultiFlag) else [flag.value]
        if not all(math.isfinite(x) for x in values or [] if isinstance(x, float)):
            raise flags.Error(f"flag --{name}={flag.value}: give a finite number")


def _reader_is_gone() -> bool:
    """Return whether stdout has no reader any more, as with `| head`; if so, silence it."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def _say(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return ERROR


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse flags; a wrong one, or a wrong file of configs/, is one sentence and exit code 1."""
    if any(argument in HELP for argument in argv[1:]):
        print(usage(), end="")
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
        say_new_names()
        _check_given_once()
        _check_finite()
        return rest
    except flags.Error as e:
        missing = re.search(r"Flag (--\S+) must have a value other than None", str(e))
        message = f"{missing[1]} is missing; --help tells more." if missing else str(e)
    except OSError as e:  # from ml_collections: a field is set, but --config cannot be opened
        message = " ".join(str(e).split())
    except KeyError as e:  # from ml_collections: --config.section.no_such_field=...
        message = re.sub(r"<class '(?:.*\.)?(\w+)'>", r"\1", str(e.args[0]))
    except UserError as e:  # whatever the Python of a config file raises
        message = str(e)
    sys.exit(_say(message))
