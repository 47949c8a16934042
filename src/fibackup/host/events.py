"""
What a run tells while it runs.

::

    StepStarted(3) -> CopyProgress* -> ImageCopied* -> StepFinished(3)

Events come from whatever thread makes the progress, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from attrs import frozen

from fibackup.plan.steps import Step, headline
from fibackup.units import format_bytes, printable

__all__ = [
    "CopyProgress",
    "Event",
    "FileVerified",
    "Gate",
    "ImageCopied",
    "OnEvent",
    "StepFinished",
    "StepStarted",
    "Warned",
    "ignore_events",
    "no_gate",
]


@frozen
class StepStarted:
    """
    A step begins.

    Attributes:
        index: Index in ``plan.steps``.
        step: The step.
    """

    index: int
    step: Step

    def __str__(self) -> str:
        """Return the step's headline."""
        return f"{self.index + 1}. {headline(self.step)}"


@frozen
class StepFinished:
    """
    A step is done.

    Attributes:
        index: Index in ``plan.steps``.
        step: The step.
        seconds: How long it took.
    """

    index: int
    step: Step
    seconds: float

    def __str__(self) -> str:
        """Return the step's number and time."""
        return f"{self.index + 1}. done in {self.seconds:.2f} s"


@frozen
class CopyProgress:
    """
    An image is being copied or written.

    Attributes:
        target: The disk.
        name: The image that is written.
        done_bytes: Bytes handled so far.
        total_bytes: Bytes in all.
    """

    target: str
    name: str
    done_bytes: int
    total_bytes: int

    def __str__(self) -> str:
        """Return disk, image and how far it is."""
        done, total = format_bytes(self.done_bytes), format_bytes(self.total_bytes)
        return f"{self.target}: {printable(self.name)}: {done} of {total}"


@frozen
class ImageCopied:
    """
    An image is complete and durable.

    Attributes:
        target: The disk.
        name: The image.
        size_bytes: Its size.
        sha256: Its sha256.
    """

    target: str
    name: str
    size_bytes: int
    sha256: str

    def __str__(self) -> str:
        """Return disk, image, size and the beginning of the hash."""
        size = format_bytes(self.size_bytes)
        return f"{self.target}: {printable(self.name)} complete, {size}, sha256 {self.sha256[:12]}"


@frozen
class FileVerified:
    """
    A stored file, or a disk as a guest reads it, was compared with what it should be.

    Attributes:
        file: The file, in the domain's directory of the store; the top image, for a disk.
        size_bytes: Its size.
        fault: What is wrong, empty when nothing is.
    """

    file: str
    size_bytes: int
    fault: str = ""

    def __str__(self) -> str:
        """Return the file and what is wrong with it."""
        words = f"WRONG: {printable(self.fault)}" if self.fault else "right"
        return f"{printable(self.file)} ({format_bytes(self.size_bytes)}) is {words}"


@frozen
class Warned:
    """
    Something the user should know; the run goes on.

    Attributes:
        text: In words.
    """

    text: str

    def __str__(self) -> str:
        """Return the text."""
        return f"warning: {printable(self.text)}"


Event: TypeAlias = StepStarted | StepFinished | CopyProgress | ImageCopied | FileVerified | Warned
"""What a run tells while it goes on; `str` of one is a line for people."""

OnEvent: TypeAlias = Callable[[Event], object]
"""Called for each event, by whatever thread makes the progress, but one at a time."""


Gate: TypeAlias = Callable[[Step], object]
"""Called right before a step; a `FibackupError` that it raises keeps the step from beginning."""


def no_gate(_: Step) -> None:
    """
    Let every step begin: the default gate.

    Source:
        docs/embed.md.
    """


def ignore_events(_: Event) -> None:
    """
    Do nothing: the default listener.

    Source:
        docs/embed.md.
    """
