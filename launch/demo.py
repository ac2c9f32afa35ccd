"""Edit pictures on a web page.

python -m launch.demo --model=quickstart
python -m launch.demo --model=weights --share    # for others, too: prints an address and a password

Needs the extra [demo]. The page is served to this machine alone, unless --host or --share says
otherwise; then it asks for a password. It edits one picture at a time; others wait. Nothing is
downloaded from the web, except by --share, which uses gradio's tunnel. --model, and the flags that
say what is loaded and where it computes, are those of launch.edit.
"""

import os
import pathlib
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable

from absl import flags

from launch.demonstration.queue import EditQueue
from launch.shared import editor_flags
from launch.shared.command import run
from launch.shared.exit_codes import TERMINATED
from step1x_jax.editing.editor import Editor
from step1x_jax.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_MODEL = flags.DEFINE_string(
    "model", None, "quickstart, a run's folder, or a file or folder of weights.", required=True
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Where the page is served: this machine alone; 0.0.0.0: its network."
)
_PORT = flags.DEFINE_integer(
    "port", 7860, "The port of the page.", lower_bound=1, upper_bound=65535
)
_SHARE = flags.DEFINE_bool("share", False, "Also at a public address, through gradio's tunnel.")
_PASSWORD = flags.DEFINE_string(
    "password", None, "Password of the page (with --share or another --host: one is made)."
)
_LIMIT = flags.DEFINE_integer("upload_limit", 30, "Largest uploaded file, in MB.", lower_bound=1)
flags.adopt_module_key_flags(editor_flags)


def main() -> None:
    """Load, serve until it is interrupted, and remove all uploads."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    with tempfile.TemporaryDirectory(prefix="step1x_demo_") as folder:
        root = pathlib.Path(folder).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(root / "uploads")
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        try:
            from launch.demonstration.page import Page, serve
        except ModuleNotFoundError as e:
            if e.name != "gradio":
                raise
            raise UserError(
                "the page needs gradio, which is not installed: pip install -e '.[demo]'"
            ) from e
        editor = Editor.load(
            _MODEL.value,
            **editor_flags.loading(),
            say=lambda line: print(line, file=sys.stderr),
        )
        queue = EditQueue()
        page = Page(editor, queue, root / "pictures")
        password = _password()
        try:
            addresses = serve(
                page,
                host=_HOST.value,
                port=_PORT.value,
                share=_SHARE.value,
                password=password,
                upload_limit=_LIMIT.value,
            )
            wait = _until_signalled()
            print(f"open {' or '.join(addresses)}", flush=True)
            if password is not None:
                print(f"any name, password: {password}", flush=True)
            wait()
        finally:
            page.blocks.close()
            queue.close()


def _until_signalled() -> Callable[[], None]:
    """A function that waits for Ctrl-C or SIGTERM, and raises what these do.

    The signals' handlers only note them: what a handler raises is lost where it happens to run in a
    callback of the garbage collector (JAX has one), and then nothing would end the page.
    """
    noted = threading.Event()
    numbers: list[int] = []

    def note(number: int, frame: object) -> None:
        numbers.append(number)
        noted.set()

    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}

    def wait() -> None:
        noted.wait()
        for number, handler in before.items():
            signal.signal(number, handler)  # a second one ends what hangs
        signal.raise_signal(numbers[0])

    return wait


def _password() -> str | None:
    """Return the page's password; None if it can be opened from this machine alone."""
    if _PASSWORD.value is not None:
        return _PASSWORD.value
    if _HOST.value in LOOPBACK and not _SHARE.value:
        return None
    return secrets.token_urlsafe(9)


if __name__ == "__main__":
    run(main)
