"""
fibackup: forward-incremental backups of libvirt/KVM domains, for ever, as plain qcow2 files.

Five words do a backup::

    with fibackup.LibvirtHost.open() as host, fibackup.Store.open("/backup") as store:   # open
        web1 = host.read_domain("web1")                                                  # read
        plan = fibackup.plan_backup(web1, store.read_history(web1.uuid), now=now)        # plan
        report = fibackup.Executor(host, store).run(plan)                                # run
        print(report)                                                                    # report

`import fibackup` does not import libvirt; `LibvirtHost` does when it is first used.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fibackup.errors import (
    AgentError,
    BlockJobError,
    CancelledError,
    ChainError,
    DestinationExistsError,
    DomainBusyError,
    DomainStateError,
    FibackupError,
    FormatTooNewError,
    HostError,
    LibvirtError,
    LockedError,
    ManifestError,
    ModelError,
    NoSpaceError,
    NoSuchDomainError,
    NoSuchPointError,
    NotAStoreError,
    ParseError,
    PermissionDeniedError,
    PlanError,
    PolicyError,
    QemuImgError,
    RequirementError,
    SharedBaseError,
    StalePlanError,
    StepError,
    StoreError,
    UnsupportedDiskError,
    VerifyError,
)
from fibackup.host.api import Host, PointStore
from fibackup.host.events import (
    CancelToken,
    CopyProgress,
    Event,
    ImageCopied,
    OnEvent,
    StepFinished,
    StepStarted,
    Warned,
    ignore_events,
)
from fibackup.host.executor import Executor
from fibackup.host.store import Store
from fibackup.model import (
    BackingChain,
    Consistency,
    Disk,
    DiskKind,
    Domain,
    DomainState,
    FileIdentity,
    FrozenImage,
    History,
    Image,
    KnownStore,
    Ledger,
    NewOverlay,
    Overlay,
    PointDisk,
    Receipt,
    RestorePoint,
    Run,
    RunPhase,
    Snapshot,
    SourceImage,
    StoredFile,
    StoredImage,
    Versions,
    format_point_id,
    parse_point_id,
)
from fibackup.parse import parse_domain_xml
from fibackup.plan import (
    BackupPolicy,
    CopyImage,
    Decision,
    Expectation,
    FlattenImage,
    ImageFormat,
    InParallel,
    Plan,
    PublishPoint,
    Quiesce,
    Report,
    RestoredImage,
    SaveDomainConfig,
    Step,
    StepOutcome,
    TakeSnapshot,
    WhileFrozen,
    WriteLedger,
    plan_backup,
    plan_restore,
)
from fibackup.render import draw_chains, draw_history
from fibackup.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from fibackup.host.libvirt_host import LibvirtHost

__all__ = [
    # Open a host, read a domain, plan, run, report.
    "LibvirtHost",
    "Store",
    "plan_backup",
    "plan_restore",
    "Executor",
    "Report",
    # What exists.
    "Domain",
    "Disk",
    "BackingChain",
    "Image",
    "Snapshot",
    "NewOverlay",
    "RestorePoint",
    "PointDisk",
    "StoredImage",
    "History",
    # What is wanted, and what will be done.
    "BackupPolicy",
    "Quiesce",
    "ImageFormat",
    "Plan",
    "Decision",
    "Expectation",
    "Step",
    "WriteLedger",
    "TakeSnapshot",
    "WhileFrozen",
    "CopyImage",
    "InParallel",
    "SaveDomainConfig",
    "PublishPoint",
    "FlattenImage",
    # While it runs.
    "Event",
    "OnEvent",
    "StepStarted",
    "StepFinished",
    "CopyProgress",
    "ImageCopied",
    "Warned",
    "CancelToken",
    "ignore_events",
    "StepOutcome",
    "RestoredImage",
    # The seams.
    "Host",
    "PointStore",
    # Smaller values.
    "Consistency",
    "DiskKind",
    "DomainState",
    "FileIdentity",
    "FrozenImage",
    "KnownStore",
    "Ledger",
    "Overlay",
    "Receipt",
    "Run",
    "RunPhase",
    "SourceImage",
    "StoredFile",
    "Versions",
    # Functions on text and time.
    "parse_domain_xml",
    "format_point_id",
    "parse_point_id",
    "format_bytes",
    "format_seconds",
    "draw_chains",
    "draw_history",
    # Errors; the tree is drawn in fibackup.errors.
    "FibackupError",
    "ModelError",
    "ChainError",
    "ParseError",
    "PlanError",
    "DomainStateError",
    "UnsupportedDiskError",
    "SharedBaseError",
    "PolicyError",
    "StalePlanError",
    "HostError",
    "LibvirtError",
    "NoSuchDomainError",
    "AgentError",
    "QemuImgError",
    "PermissionDeniedError",
    "NoSpaceError",
    "BlockJobError",
    "DomainBusyError",
    "RequirementError",
    "CancelledError",
    "StoreError",
    "NotAStoreError",
    "LockedError",
    "FormatTooNewError",
    "ManifestError",
    "VerifyError",
    "DestinationExistsError",
    "NoSuchPointError",
    "StepError",
]

logging.getLogger("fibackup").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    """Import the libvirt side when it is first asked for (PEP 562)."""
    if name == "LibvirtHost":
        try:
            from fibackup.host.libvirt_host import LibvirtHost
        except ModuleNotFoundError as error:
            if error.name != "libvirt":
                raise
            raise RequirementError(
                reason="libvirt-python is missing; on Debian: apt install python3-libvirt"
            ) from error
        return LibvirtHost
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, most important first."""
    return list(__all__)
