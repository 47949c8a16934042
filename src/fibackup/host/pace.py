"""A limit on bytes in a second, for everything that a run reads together."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from fibackup.host.cancel import CancelToken

__all__ = ["Pace"]

_NAP_SECONDS = 0.2


class Pace:
    """
    Lets bytes pass at a rate, and makes threads wait that are ahead of it; thread-safe.

    Args:
        bytes_per_second: The rate, 0 without a limit.
        cancel: Ends a wait.
        clock: Seconds that only go up.
        sleep: Waits.
    """

    def __init__(
        self,
        bytes_per_second: int,
        cancel: CancelToken,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin now; nothing is saved up for later."""
        self._rate = bytes_per_second
        self._cancel = cancel
        self._clock = clock
        self._sleep = sleep
        self._lock = Lock()
        self._due = clock()

    def spend(self, count: int) -> None:
        """
        Wait until as many bytes may pass.

        Args:
            count: Bytes that were just read.

        Raises:
            CancelledError: The run was cancelled meanwhile.
        """
        if not self._rate:
            return
        with self._lock:
            self._due = max(self._due, self._clock()) + count / self._rate
            due = self._due
        while (left := due - self._clock()) > 0:
            self._cancel.check()
            self._sleep(min(left, _NAP_SECONDS))
