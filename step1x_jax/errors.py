"""The one exception for what a user can mend, and the usual way to raise it for a setting."""


class UserError(Exception):
    """A mistake outside the code: its message is one sentence that says what to do.

    Commands print it on stderr and end with exit code 1, without a traceback.
    """


def require(fine: bool, field: str, value: object, advice: str) -> None:
    """Raises a UserError that names the setting `field` and its value, unless `fine`."""
    if not fine:
        raise UserError(f"{field} is {value!r}; {advice}.")
