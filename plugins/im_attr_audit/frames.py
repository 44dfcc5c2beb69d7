"""Errors without the frames in which they were made, where those hold a secret. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def without_frames(function: Callable[P, T]) -> Callable[P, T]:
    """Raise what ``function`` raises without its traceback, cause and context.

    For a function whose frames, or those of what it calls, hold a key, a UserSig or a password:
    some renderers of tracebacks show local variables. It covers Ctrl-C and Airflow's time-out of a
    task, which come at any line. The arguments stay visible: they must show no secret.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            outcome = error
            outcome.__cause__ = outcome.__context__ = None
        raise outcome.with_traceback(None)

    return call
