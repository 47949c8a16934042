"""
Progress on stderr: bars on a terminal when rich is there, else plain lines.

Nothing here writes to stdout, which carries data only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import fibackup as fb

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["progress", "progress_for"]

_LINE_SECONDS = 5.0


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
                self._tasks[key] = self._progress.add_task(
                    f"{event.target} {fb.printable(event.name)}", total=None
                )
            self._progress.update(
                self._tasks[key], completed=event.done_bytes, total=event.total_bytes
            )
        elif isinstance(event, (fb.StepStarted, fb.ImageCopied, fb.Warned)):
            self._progress.print(str(event), markup=False, highlight=False)


def progress(arguments: argparse.Namespace) -> AbstractContextManager[fb.OnEvent]:
    """
    Give the listener for a run; bars are for one domain at a time.

    Args:
        arguments: Parsed.

    Source:
        docs/design.md, "Command line".
    """
    quiet = arguments.quiet or arguments.no_progress
    return progress_for(quiet=quiet, plain=getattr(arguments, "jobs", 1) > 1)


@contextmanager
def progress_for(*, quiet: bool, plain: bool = False) -> Generator[fb.OnEvent]:
    """
    Give the listener for a run.

    Args:
        quiet: True: no progress at all.
        plain: True: lines, also on a terminal.

    Yields:
        What `Executor.run` takes as ``on_event``.

    Source:
        docs/design.md, "Command line".
    """
    bars = None if quiet or plain or not sys.stderr.isatty() else _rich_progress()
    if quiet:
        yield fb.ignore_events
    elif bars is None:
        yield _Lines()
    else:
        with bars:
            yield _Bars(bars)


def _rich_progress() -> Progress | None:
    """Return bars with rate and time left, None when rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
    except ModuleNotFoundError:
        return None
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
