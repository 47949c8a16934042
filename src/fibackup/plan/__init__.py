"""Decisions: pure functions from what was observed to a `Plan`."""

from __future__ import annotations

from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.report import Report, RestoredImage, StepOutcome
from fibackup.plan.restore import ImageFormat, plan_restore
from fibackup.plan.steps import (
    CopyImage,
    Decision,
    Expectation,
    FlattenImage,
    InParallel,
    Plan,
    PublishPoint,
    SaveDomainConfig,
    Step,
    TakeSnapshot,
    ThawGuest,
    WhileFrozen,
    WriteLedger,
)

__all__ = [
    "plan_backup",
    "plan_restore",
    "BackupPolicy",
    "Quiesce",
    "ImageFormat",
    "Plan",
    "Decision",
    "Expectation",
    "Step",
    "WriteLedger",
    "ThawGuest",
    "TakeSnapshot",
    "WhileFrozen",
    "CopyImage",
    "InParallel",
    "SaveDomainConfig",
    "PublishPoint",
    "FlattenImage",
    "Report",
    "RestoredImage",
    "StepOutcome",
]
