"""Arguments that were renamed: the old name works for one version, with a DeprecationWarning."""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

LAST = "0.4"  # the version without them

P = ParamSpec("P")
R = TypeVar("R")


def rename_argument(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a decorator that lets a function take its keyword argument `new` as `old`, too.

    Raises:
      TypeError: by the function, if it is called with both.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if old in kwargs:
                if new in kwargs:
                    raise TypeError(f"{function.__name__}() got both {new} and {old}, its old name")
                warnings.warn(
                    f"{old} is now {new}; the old name goes away in {LAST}",
                    DeprecationWarning,
                    stacklevel=2,
                )
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
