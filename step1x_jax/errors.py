"""The one exception for what a user can mend."""


class UserError(Exception):
    """A mistake outside the code: its message is one sentence that says what to do.

    Commands print it on stderr and end with exit code 1, without a traceback.
    """
