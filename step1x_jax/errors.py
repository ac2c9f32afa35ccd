"""The one exception for what a user can correct, and the usual way to raise it for a setting."""

BEGINNING, END = 1000, 400  # characters of a message that are kept


class UserError(Exception):
    """A mistake outside the code: its message is one sentence that says what to do.

    Commands print it on stderr and end with exit code 1, without a traceback. What it quotes may
    come from files of strangers: control characters and halves of surrogate pairs are escaped, and
    a message is cut in its middle where a name or a value in it is very long.
    """

    def __init__(self, message: str):
        if len(message) > BEGINNING + END:
            message = f"{message[:BEGINNING]} ... {message[-END:]}"
        if not message.isprintable():
            message = "".join(c if c.isprintable() else _escaped(c) for c in message)
        super().__init__(message)


def _escaped(char: str) -> str:
    return " " if char == "\n" else char.encode("unicode_escape", "surrogatepass").decode()


def require(fine: bool, field: str, value: object, advice: str) -> None:
    """Raise a UserError that names the setting `field` and its value, unless `fine`."""
    if not fine:
        raise UserError(f"{field} is {value!r}; {advice}.")
