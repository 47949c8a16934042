"""
What is shown while it runs.

::

    --json-lines                 an object for each event, on stdout
    a terminal, and rich         a bar for each image, with rate and time left, on stderr
    else                         a line for each step and image, on stderr

There is one display for the whole command, also when several domains are worked on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from typing import TYPE_CHECKING

import fibackup as fb
from fibackup.cli.output import print_line
from fibackup.cli.say import WARNING, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Display", "Pace", "aside", "progress"]

_LINE_SECONDS = 5.0
_JSON_SECONDS = 1.0


class Pace:
    """How fast an image is copied, and how long it takes still."""

    def __init__(self, done_bytes: int, now: float) -> None:
        self._done = done_bytes
        self._start = now

    def words(self, event: fb.CopyProgress, now: float) -> str:
        """Return ``", 210 MiB/s, 14 s left"``; nothing while that cannot be known."""
        seconds, done = now - self._start, event.done_bytes - self._done
        if seconds <= 0 or done <= 0:
            return ""
        rate = done / seconds
        left = max(0, event.total_bytes - event.done_bytes) / rate
        return f", {fb.format_bytes(int(rate))}/s, {fb.format_seconds(left)} left"


class _Lines:
    """A line for each step and each finished image; in between, one every few seconds."""

    def __init__(self, prefix: str, clock: Callable[[], float]) -> None:
        self._prefix = prefix
        self._clock = clock
        self._last = clock()
        self._paces: dict[tuple[str, str], Pace] = {}

    def __call__(self, event: fb.Event) -> None:
        match event:
            case fb.CopyProgress():
                self._copying(event)
            case fb.Warned():
                say(f"{self._prefix}{event}", WARNING)
            case fb.StepStarted() | fb.ImageCopied():
                say(f"{self._prefix}{event}")
            case fb.FileVerified() if event.fault:
                say(f"{self._prefix}{event}", WARNING)
            case _:
                pass

    def _copying(self, event: fb.CopyProgress) -> None:
        now = self._clock()
        pace = self._paces.setdefault((event.target, event.name), Pace(event.done_bytes, now))
        if now - self._last >= _LINE_SECONDS:
            self._last = now
            say(f"{self._prefix}{event}{pace.words(event, now)}")


class _Bars:
    """A bar for each image that is copied; one that is complete becomes a line."""

    def __init__(self, prefix: str, progress: Progress) -> None:
        self._prefix = prefix
        self._progress = progress
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __call__(self, event: fb.Event) -> None:
        match event:
            case fb.CopyProgress():
                self._copying(event)
            case fb.ImageCopied():
                self._forget((event.target, event.name))
                self._print(event)
            case fb.FileVerified():
                target, _, name = event.file.rpartition("/")
                self._forget((target or "-", name))
                if event.fault:
                    self._print(event)
            case fb.StepStarted() | fb.Warned():
                self._print(event)
            case _:
                pass

    def _copying(self, event: fb.CopyProgress) -> None:
        key = (event.target, event.name)
        if key not in self._tasks:
            words = f"{self._prefix}{event.target} {fb.printable(event.name)}"
            self._tasks[key] = self._progress.add_task(words, total=None)
        self._progress.update(self._tasks[key], completed=event.done_bytes, total=event.total_bytes)

    def _print(self, event: fb.Event) -> None:
        self._progress.print(f"{self._prefix}{event}", markup=False, highlight=False)

    def _forget(self, key: tuple[str, str]) -> None:
        if key in self._tasks:
            self._progress.remove_task(self._tasks.pop(key))

    def end(self) -> None:
        """Take the bars away that are left, such as those of an image that failed."""
        for key in list(self._tasks):
            self._forget(key)


class _JsonLines:
    """An object for each event; of each image one in a second, and the last one."""

    def __init__(self, domain: str, uuid: str, clock: Callable[[], float]) -> None:
        self._who = {"domain": domain, "uuid": uuid}
        self._clock = clock
        self._told: dict[tuple[str, str], float] = {}

    def __call__(self, event: fb.Event) -> None:
        match event:
            case fb.StepStarted():
                self._step(event, "started")
            case fb.StepFinished():
                self._step(event, "finished", seconds=round(event.seconds, 3))
            case fb.CopyProgress():
                self._copying(event)
            case fb.ImageCopied():
                more = {"size_bytes": event.size_bytes, "sha256": event.sha256}
                self._print("image", disk=event.target, image=event.name, **more)
            case fb.FileVerified():
                more = {"size_bytes": event.size_bytes, "fault": event.fault or None}
                self._print("verified", file=event.file, **more)
            case fb.Warned():
                self._print("warning", text=event.text)

    def _step(self, event: fb.StepStarted | fb.StepFinished, state: str, **more: float) -> None:
        words = str(event).partition(". ")[2] if isinstance(event, fb.StepStarted) else ""
        text = {"headline": words} if words else {}
        step = type(event.step).__name__
        self._print("step", state=state, index=event.index, step=step, **text, **more)

    def _copying(self, event: fb.CopyProgress) -> None:
        now, key = self._clock(), (event.target, event.name)
        soon = now - self._told.get(key, -_JSON_SECONDS) < _JSON_SECONDS
        if soon and event.done_bytes < event.total_bytes:
            return
        self._told[key] = now
        sizes = {"done_bytes": event.done_bytes, "total_bytes": event.total_bytes}
        self._print("progress", disk=event.target, image=event.name, **sizes)

    def _print(self, kind: str, **item: object) -> None:
        print_line(kind, {**self._who, **item})


class Display:
    """
    What the command shows while it runs.

    Args:
        arguments: Parsed.
        clock: Seconds that only go up.
    """

    def __init__(
        self, arguments: argparse.Namespace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._json: bool = arguments.json_lines
        self._quiet: bool = arguments.quiet or arguments.no_progress
        chosen = getattr(arguments, "all", False) or getattr(arguments, "running", False)
        self._several: bool = chosen or len(getattr(arguments, "domains", ())) > 1
        self._clock = clock
        self._lock = RLock()
        self._bars: Progress | None = None
        self._users = 0
        self._asides = 0

    @contextmanager
    def listen(self, domain: str, uuid: str) -> Generator[fb.OnEvent]:
        """
        Give the listener for a run.

        Args:
            domain: Name of the domain, or nothing.
            uuid: Its UUID, or nothing.

        Yields:
            What `Executor.run` takes as ``on_event``.

        Source:
            docs/cli.md, "Progress".
        """
        prefix = f"{domain}: " if self._several and domain else ""
        if self._json:
            yield _JsonLines(domain, uuid, self._clock)
        elif self._quiet:
            yield fb.ignore_events
        elif not _on_a_terminal() or (bars := self._enter()) is None:
            yield _Lines(prefix, self._clock)
        else:
            listener = _Bars(prefix, bars)
            try:
                yield listener
            finally:
                listener.end()
                self._leave()

    @contextmanager
    def aside(self) -> Generator[None]:
        """
        Take the bars away while something else is printed.

        Source:
            docs/cli.md, "Progress".
        """
        with self._lock:
            self._asides += 1
            if self._bars is not None:
                self._bars.stop()
        try:
            yield
        finally:
            with self._lock:
                self._asides -= 1
                if self._bars is not None and not self._asides:
                    self._bars.start()

    def _enter(self) -> Progress | None:
        with self._lock:
            if self._bars is None:
                self._bars = _rich_progress()
                if self._bars is None:
                    return None
                if not self._asides:
                    self._bars.start()
            self._users += 1
            return self._bars

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._bars is not None:
                self._bars.stop()
                self._bars = None


def progress(
    arguments: argparse.Namespace, domain: str = "", uuid: str = ""
) -> AbstractContextManager[fb.OnEvent]:
    """
    Give the listener for a run.

    Args:
        arguments: Parsed, with the display of the command.
        domain: Name of the domain that is worked on.
        uuid: Its UUID.

    Returns:
        A context manager that gives what `Executor.run` takes as ``on_event``.

    Source:
        docs/cli.md, "Progress".
    """
    display: Display = arguments.display
    return display.listen(domain, uuid)


def aside(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """
    Keep bars out of the way while a result is printed.

    Args:
        arguments: Parsed, with the display of the command.

    Source:
        docs/cli.md, "Progress".
    """
    display: Display | None = arguments.display
    return nullcontext() if display is None else display.aside()


def _on_a_terminal() -> bool:
    """Tell whether stderr is a terminal on which a cursor can be moved."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


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
        from rich.table import Column
    except ModuleNotFoundError:
        return None
    name = Column(no_wrap=True, overflow="ellipsis", min_width=12, ratio=1)
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(bar_width=20),
        DownloadColumn(binary_units=True, table_column=Column(no_wrap=True)),
        TransferSpeedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        console=Console(stderr=True),
        expand=True,
    )
