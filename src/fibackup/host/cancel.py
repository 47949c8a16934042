"""
How a run is told to stop.

It stands alone: a command makes its token before it knows which plans, if any, it is going to need.
"""

from __future__ import annotations

from fibackup.errors import CancelledError

__all__ = ["CancelToken"]


class CancelToken:
    """
    A flag that asks a run to stop; thread-safe, and safe to set from a signal handler.

    The run stops between two steps, or in the middle of a copy. It never stops between a freeze
    and its thaw, nor before the ledger knows the snapshot.
    """

    def __init__(self) -> None:
        """Make a token that is not set."""
        self._cancelled = False  # no Event: a second signal may come while it is being set

    def cancel(self) -> None:
        """
        Ask the run to stop.

        Source:
            docs/embed.md.
        """
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """True once `cancel` was called."""
        return self._cancelled

    def check(self) -> None:
        """
        Raise when the run should stop.

        Raises:
            CancelledError: `cancel` was called.

        Source:
            docs/embed.md.
        """
        if self._cancelled:
            raise CancelledError(reason="the run was cancelled")
