"""Ctrl-C and SIGTERM as a wish to stop: between two steps or inside a copy, never in a freeze."""

from __future__ import annotations

import signal
from types import FrameType

import fibackup as fb

__all__ = ["Signals"]


class Signals:
    """Turns SIGINT and SIGTERM into a cancel token, and remembers which it was."""

    def __init__(self) -> None:
        self.token: fb.CancelToken = fb.CancelToken()
        self.number: int = 0

    def install(self) -> None:
        """Handle both from now on."""
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number
        self.token.cancel()
