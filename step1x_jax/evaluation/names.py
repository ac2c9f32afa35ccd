"""Names that become names of files and folders: of methods and judges, tasks and keys."""

from step1x_jax.errors import UserError
from step1x_jax.json_files import shown

LONGEST = 200  # bytes in UTF-8: file systems take 255, and an ending and a temporary name are added
FORBIDDEN = frozenset('/\\:*?"<>|')  # on some system or other


def is_name(text: str) -> bool:
    """Whether a text can be the name of a file on every system, and is none that means more."""
    return (
        0 < len(text.encode(errors="replace")) <= LONGEST
        and text.isprintable()  # which surrogates are not
        and not FORBIDDEN & set(text)
        and text == text.strip()
        and not text.startswith(".")
        and not text.endswith(".")
    )


def check_name(text: str, what: str) -> None:
    """Raise UserError, which begins with `what`, if a text cannot be the name of a file."""
    if not is_name(text):
        raise UserError(
            f"{what} is {shown(text)}, which is no name of a file; give one without slashes and"
            " signs such as : * ?, that does not begin with a dot."
        )
