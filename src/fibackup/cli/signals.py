"""
Ctrl-C, SIGTERM and the end of the terminal as a wish to stop.

The run stops between two steps or inside a copy, never between a freeze and its thaw.
"""

from __future__ import annotations

import signal
from types import FrameType

import fibackup as fb

__all__ = ["Signals"]


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into a cancel token, and remembers which it was."""

    def __init__(self) -> None:
        self.token: fb.CancelToken = fb.CancelToken()
        self.number: int = 0

    def install(self) -> None:
        """Handle them from now on; under nohup(1) the end of the terminal stays without effect."""
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number
        self.token.cancel()
