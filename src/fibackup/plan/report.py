"""What a run did: a value for people (`str`) and for scripts (JSON)."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import PurePosixPath
from typing import Self

from attrs import frozen

from fibackup.codec import decode, encode
from fibackup.model.point import RestorePoint
from fibackup.model.verification import Verification
from fibackup.plan.steps import PLAN_SCHEMA, Plan, headline, open_document
from fibackup.render.drawable import Drawable
from fibackup.units import format_bytes, format_seconds, printable

__all__ = ["Report", "RestoredImage", "StepOutcome"]


@frozen
class StepOutcome:
    """
    One step that was done.

    Attributes:
        index: Index in ``plan.steps``.
        seconds: How long it took.
    """

    index: int
    seconds: float


@frozen
class RestoredImage:
    """
    An image that a restore wrote.

    Attributes:
        target: The disk.
        path: The file.
        format: Its format.
        virtual_size_bytes: What a guest sees.
        size_bytes: Bytes that the file takes.
    """

    target: str
    path: PurePosixPath
    format: str
    virtual_size_bytes: int
    size_bytes: int


@frozen
class Report(Drawable):
    """
    What a run did.

    Attributes:
        plan: The plan that was run.
        started: When, aware.
        seconds: How long the run took.
        steps: Its steps.
        copied_bytes: Bytes that were written to the store.
        freed_bytes: Bytes that a prune gave back to the store's file system.
        frozen_seconds: How long the guest was frozen, 0 when it was not.
        point: The point that was published, or None.
        restored: Images that were written, for a restore.
        warnings: What the plan and the run warned of.
        verification: What a verification found, or None.
    """

    plan: Plan
    started: datetime
    seconds: float
    steps: tuple[StepOutcome, ...]
    copied_bytes: int = 0
    frozen_seconds: float = 0.0
    point: RestorePoint | None = None
    restored: tuple[RestoredImage, ...] = ()
    warnings: tuple[str, ...] = ()
    verification: Verification | None = None
    freed_bytes: int = 0

    def to_json(self) -> str:
        """
        Return the report as JSON text that `Report.from_json` reads.

        Source:
            docs/design.md: plans and reports travel as JSON.
        """
        return json.dumps({"schema": PLAN_SCHEMA, "report": encode(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """
        Read a report, strictly.

        Args:
            text: What `to_json` returned.

        Returns:
            An equal report.

        Raises:
            ParseError: Not JSON, another schema, or not a report. Nothing was touched.

        Source:
            docs/design.md: plans and reports travel as JSON.
        """
        return decode(cls, open_document(text, "report"), "report")

    def __str__(self) -> str:
        """Return what was done, with sizes and times."""
        took = format_seconds(self.seconds)
        lines = [f"{self.plan.verb} of {printable(self.plan.domain)} done in {took}"]
        if self.point is not None:
            lines.extend(f"  {line}" for line in str(self.point).splitlines())
            lines.append(f"  copied {format_bytes(self.copied_bytes)}")
        if self.plan.verb == "prune":
            dropped = sum(not verdict.kept for verdict in self.plan.verdicts)
            kept = len(self.plan.verdicts) - dropped
            changed = format_bytes(abs(self.freed_bytes))
            freed = f"freed {changed}" if self.freed_bytes >= 0 else f"takes {changed} more now"
            written = format_bytes(self.copied_bytes)
            lines.append(f"  kept {kept}, dropped {dropped}, {freed}, wrote {written}")
        if self.frozen_seconds:
            lines.append(f"  the guest was frozen for {format_seconds(self.frozen_seconds)}")
        lines.extend(
            f"  {image.target}: {printable(str(image.path))} ({image.format}, "
            f"{format_bytes(image.virtual_size_bytes)} virtual)"
            for image in self.restored
        )
        for outcome in self.steps:
            step = self.plan.steps[outcome.index]
            lines.append(
                f"  {outcome.index + 1}. {headline(step)}  {format_seconds(outcome.seconds)}"
            )
        if self.verification is not None:
            lines.extend(f"  {line}" for line in str(self.verification).splitlines())
        lines.extend(f"  warning: {printable(warning)}" for warning in self.warnings)
        return "\n".join(lines)
