"""What exists: frozen, validated values, no input or output."""

from __future__ import annotations

from fibackup.model.chain import MAX_DEPTH, BackingChain, FileIdentity, Image
from fibackup.model.domain import Disk, Domain, DomainState, ImageUse
from fibackup.model.host_facts import HostFacts
from fibackup.model.ledger import FrozenImage, KnownStore, Ledger, Overlay, Run, RunPhase
from fibackup.model.pictures import draw_chains, draw_history, picture_chains
from fibackup.model.point import (
    Consistency,
    DiskKind,
    FileRole,
    History,
    PointDisk,
    Receipt,
    RestorePoint,
    SourceImage,
    StoredFile,
    StoredImage,
    Versions,
    format_point_id,
    parse_point_id,
)
from fibackup.model.snapshot import NewOverlay, Snapshot
from fibackup.model.verification import (
    CheckedContent,
    CheckedFile,
    ContentCheck,
    Fault,
    FaultKind,
    FileCheck,
    FoundFile,
    PointHealth,
    Survey,
    Verification,
    VerificationRecord,
)

__all__ = [
    "Domain",
    "Disk",
    "BackingChain",
    "Image",
    "Snapshot",
    "NewOverlay",
    "RestorePoint",
    "PointDisk",
    "StoredImage",
    "StoredFile",
    "SourceImage",
    "History",
    "Receipt",
    "Ledger",
    "Overlay",
    "FrozenImage",
    "KnownStore",
    "Run",
    "RunPhase",
    "Consistency",
    "DiskKind",
    "FileRole",
    "DomainState",
    "FileIdentity",
    "ImageUse",
    "HostFacts",
    "Versions",
    "CheckedContent",
    "CheckedFile",
    "ContentCheck",
    "Fault",
    "FaultKind",
    "FileCheck",
    "FoundFile",
    "PointHealth",
    "Survey",
    "Verification",
    "VerificationRecord",
    "MAX_DEPTH",
    "format_point_id",
    "parse_point_id",
    "picture_chains",
    "draw_chains",
    "draw_history",
]
