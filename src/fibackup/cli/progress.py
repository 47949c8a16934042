"""
Progress on stderr: bars on a terminal when rich is there, else plain lines.

Nothing here writes to stdout, which carries data only.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

import fibackup as fb

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Listener", "progress_for"]

_LINE_SECONDS = 5.0


class Listener(Protocol):
    """What a command does with events."""

    def __call__(self, event: fb.Event) -> None:
        """Take one event."""
        ...


class _Lines:
    """A line for each step and each finished image; in between, one every few seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: fb.Event) -> None:
        now = time.monotonic()
        if isinstance(event, fb.CopyProgress):
            if now - self._last < _LINE_SECONDS:
                return
            self._last = now
        if isinstance(event, fb.StepFinished):
            return
        print(event, file=sys.stderr, flush=True)


class _Bars:
    """A bar for each image that is copied, with rate and time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __call__(self, event: fb.Event) -> None:
        if isinstance(event, fb.CopyProgress):
            key = (event.target, event.name)
            if key not in self._tasks:
                self._tasks[key] = self._progress.add_task(f"{event.target} {fb.printable(event.name)}", total=None)
            self._progress.update(self._tasks[key], completed=event.done_bytes, total=event.total_bytes)
        elif isinstance(event, (fb.StepStarted, fb.ImageCopied, fb.Warned)):
            self._progress.print(str(event), markup=False, highlight=False)


def _ignore(_: fb.Event) -> None:
    """Take an event and say nothing."""


def progress_for(*, quiet: bool) -> AbstractContextManager[Listener]:
    """
    Return a context manager that gives the listener for a run.

    Args:
        quiet: True: no progress at all.

    Source:
        docs/design.md, "Command line".
    """
    if quiet:
        return nullcontext(_ignore)
    if sys.stderr.isatty():
        try:
            return _rich_bars()
        except ModuleNotFoundError:
            pass
    return nullcontext(_Lines())


def _rich_bars() -> AbstractContextManager[Listener]:
    from rich.console import Console  # noqa: PLC0415 - optional, and slow to import
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    class Bars(Progress):
        """Progress whose context manager gives our listener."""

        def __enter__(self) -> Listener:  # type: ignore[override]
            super().__enter__()
            return _Bars(self)

    return Bars(  # type: ignore[return-value]
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
