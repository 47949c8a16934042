"""
Do the same with several things, side by side; nobody works on any more when it is over.

::

    vda   |-----------X          fails, which cancels the token that all of them ask
    vdb   |-------------|        stops at its next block
    vdc                          does not begin
                        raise    what vda failed with

Where what the others come to is kept in any case, they are not stopped by a failure. Ctrl-C in the
thread that waits stops all of them, in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TypeVar

from typing_extensions import override

from fibackup.errors import CancelledError, FibackupError
from fibackup.host.cancel import CancelToken

__all__ = ["ChildToken", "side_by_side", "stand_back"]

_T = TypeVar("_T")
_R = TypeVar("_R")

NICENESS = 5  # a third of the processor that others get, where there is none to spare


def stand_back() -> None:
    """
    Give this thread a lower priority, for the rest of its life.

    Source:
        setpriority(2), "C library/kernel differences": on Linux, 0 means the thread that calls.
    """
    with suppress(OSError):  # a sandbox that forbids it: it costs time only
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


class ChildToken(CancelToken):
    """A token that also stops when its parent is set."""

    def __init__(self, parent: CancelToken) -> None:
        super().__init__()
        self._parent = parent

    @override
    def check(self) -> None:
        self._parent.check()
        super().check()


def side_by_side(
    act: Callable[[_T, CancelToken], _R],
    items: Iterable[_T],
    cancel: CancelToken,
    *,
    threads: int,
    name: str,
    together: bool = True,
) -> tuple[_R, ...]:
    """
    Do something with each of *items*; when it returns or raises, no thread of it runs any more.

    Args:
        act: Called with an item, and with the token that it has to ask while it works.
        items: They are begun in this order.
        cancel: Stops all of them.
        threads: How many at the same time.
        name: What the names of the threads begin with.
        together: True: one that fails stops the others; False: only *cancel* and Ctrl-C do.

    Returns:
        What *act* returned, in the order of the items.

    Raises:
        BaseException: What an item failed with; that others were stopped is only its consequence.
    """
    linked = ChildToken(cancel)

    def lane(item: _T) -> _R:
        try:
            linked.check()
            return act(item, linked)
        except BaseException as error:
            if together or not isinstance(error, FibackupError):
                linked.cancel()
            raise

    with ThreadPoolExecutor(threads, name) as pool:
        try:
            futures = [pool.submit(lane, item) for item in items]
            wait(futures)
        except BaseException:  # Ctrl-C in a notebook
            linked.cancel()
            raise
    failures = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(failures, key=lambda each: isinstance(each, CancelledError)):
        raise error
    return tuple(future.result() for future in futures)
