"""Decisions: pure functions from what was observed to a `Plan`."""

from __future__ import annotations

from fibackup.plan.backup import plan_backup
from fibackup.plan.consolidate import ConsolidationPolicy, Method, plan_consolidation
from fibackup.plan.outlook import DiskOutlook, foresee
from fibackup.plan.pictures import plan_picture, report_picture
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.prune import plan_prune
from fibackup.plan.prune_steps import DropPoints, MergeImages
from fibackup.plan.recover import plan_recovery
from fibackup.plan.report import Report, RestoredImage, StepOutcome
from fibackup.plan.restore import ImageFormat, RestoreForm, plan_restore
from fibackup.plan.retention import PointVerdict, RetentionPolicy, choose_points
from fibackup.plan.steps import (
    CommitImages,
    CommitOffline,
    ConsolidateDisk,
    CopyImage,
    CopyMemory,
    CopyStored,
    CreateLinked,
    Decision,
    DeleteMemory,
    DeleteOverlays,
    EachDisk,
    Expectation,
    FinishBlockJob,
    FlattenImage,
    InParallel,
    Plan,
    PublishPoint,
    PullImages,
    RestoredDisk,
    RestoreMemory,
    ResumeDomain,
    SaveDomainConfig,
    SaveState,
    Step,
    TakeSnapshot,
    ThawGuest,
    WhileFrozen,
    WriteLedger,
)
from fibackup.plan.verdict import Verified, judge, last_verified
from fibackup.plan.verify import VerifyPolicy, plan_verify
from fibackup.plan.verify_steps import (
    ContentToVerify,
    ExpectedHeader,
    FileToVerify,
    VerifyContents,
    VerifyFiles,
)

__all__ = [
    "plan_backup",
    "plan_consolidation",
    "plan_recovery",
    "plan_restore",
    "plan_verify",
    "judge",
    "last_verified",
    "Verified",
    "VerifyPolicy",
    "VerifyFiles",
    "FileToVerify",
    "ExpectedHeader",
    "VerifyContents",
    "ContentToVerify",
    "plan_prune",
    "choose_points",
    "BackupPolicy",
    "ConsolidationPolicy",
    "Method",
    "Quiesce",
    "RetentionPolicy",
    "PointVerdict",
    "ImageFormat",
    "RestoreForm",
    "Plan",
    "Decision",
    "Expectation",
    "Step",
    "WriteLedger",
    "ThawGuest",
    "FinishBlockJob",
    "DeleteOverlays",
    "TakeSnapshot",
    "WhileFrozen",
    "CopyImage",
    "InParallel",
    "SaveDomainConfig",
    "SaveState",
    "PublishPoint",
    "FlattenImage",
    "CopyStored",
    "CreateLinked",
    "DropPoints",
    "MergeImages",
    "CopyMemory",
    "DeleteMemory",
    "RestoreMemory",
    "RestoredDisk",
    "ResumeDomain",
    "EachDisk",
    "ConsolidateDisk",
    "CommitImages",
    "PullImages",
    "CommitOffline",
    "Report",
    "RestoredImage",
    "StepOutcome",
    "foresee",
    "DiskOutlook",
    "plan_picture",
    "report_picture",
]
