"""
fibackup: forward-incremental backups of libvirt/KVM domains, for ever, as plain qcow2 files.

Five words do a backup::

    with fibackup.LibvirtHost.open() as host, fibackup.Store.open("/backup") as store:  # open
        web1 = host.read_domain("web1")  # read
        plan = fibackup.plan_backup(web1, store.read_history(web1.uuid), now=now)  # plan
        report = fibackup.Executor(host, store).run(plan)  # run
        print(report)  # report

`import fibackup` imports nothing else; each name is imported when it is first used, and only
`LibvirtHost` needs libvirt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers; at run time __getattr__ below does it
    from fibackup.codec import (
        JsonValue,
        decode,
        encode,
    )
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
    from fibackup.host.api import (
        Host,
        PointStore,
    )
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
    from fibackup.host.executor import (
        Executor,
    )
    from fibackup.host.libvirt_host import (
        LibvirtHost,
    )
    from fibackup.host.store import (
        Store,
    )
    from fibackup.model import (
        BackingChain,
        Consistency,
        Disk,
        DiskKind,
        Domain,
        DomainState,
        FileIdentity,
        FileRole,
        FrozenImage,
        History,
        Image,
        ImageUse,
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
    from fibackup.parse import (
        parse_domain_xml,
    )
    from fibackup.plan import (
        BackupPolicy,
        CommitImages,
        CommitOffline,
        ConsolidateDisk,
        ConsolidationPolicy,
        CopyImage,
        CopyMemory,
        Decision,
        DeleteMemory,
        DeleteOverlays,
        EachDisk,
        Expectation,
        FinishBlockJob,
        FlattenImage,
        ImageFormat,
        InParallel,
        Method,
        Plan,
        PublishPoint,
        PullImages,
        Quiesce,
        Report,
        RestoredDisk,
        RestoredImage,
        RestoreMemory,
        ResumeDomain,
        SaveDomainConfig,
        SaveState,
        Step,
        StepOutcome,
        TakeSnapshot,
        ThawGuest,
        WhileFrozen,
        WriteLedger,
        plan_backup,
        plan_consolidation,
        plan_recovery,
        plan_restore,
    )
    from fibackup.render import (
        draw_chains,
        draw_history,
    )
    from fibackup.units import (
        format_bytes,
        format_seconds,
        printable,
    )

__all__ = [
    # Open a host, read a domain, plan, run, report.
    "LibvirtHost",
    "Store",
    "plan_backup",
    "plan_consolidation",
    "plan_recovery",
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
    "ConsolidationPolicy",
    "Method",
    "Quiesce",
    "ImageFormat",
    "Plan",
    "Decision",
    "Expectation",
    "Step",
    "WriteLedger",
    "TakeSnapshot",
    "ThawGuest",
    "FinishBlockJob",
    "DeleteOverlays",
    "WhileFrozen",
    "CopyImage",
    "InParallel",
    "SaveDomainConfig",
    "SaveState",
    "PublishPoint",
    "EachDisk",
    "ConsolidateDisk",
    "CommitImages",
    "PullImages",
    "CommitOffline",
    "FlattenImage",
    "CopyMemory",
    "DeleteMemory",
    "RestoreMemory",
    "RestoredDisk",
    "ResumeDomain",
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
    "FileRole",
    "FrozenImage",
    "ImageUse",
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
    "printable",
    "encode",
    "decode",
    "JsonValue",
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

# Where each name lives. A module is imported when a name of it is first used (PEP 562), so that
# `import fibackup` costs next to nothing and works where libvirt is not installed.
_HOMES: dict[str, tuple[str, ...]] = {
    "fibackup.codec": (
        "JsonValue",
        "decode",
        "encode",
    ),
    "fibackup.errors": (
        "AgentError",
        "BlockJobError",
        "CancelledError",
        "ChainError",
        "DestinationExistsError",
        "DomainBusyError",
        "DomainStateError",
        "FibackupError",
        "FormatTooNewError",
        "HostError",
        "LibvirtError",
        "LockedError",
        "ManifestError",
        "ModelError",
        "NoSpaceError",
        "NoSuchDomainError",
        "NoSuchPointError",
        "NotAStoreError",
        "ParseError",
        "PermissionDeniedError",
        "PlanError",
        "PolicyError",
        "QemuImgError",
        "RequirementError",
        "SharedBaseError",
        "StalePlanError",
        "StepError",
        "StoreError",
        "UnsupportedDiskError",
        "VerifyError",
    ),
    "fibackup.host.api": (
        "Host",
        "PointStore",
    ),
    "fibackup.host.events": (
        "CancelToken",
        "CopyProgress",
        "Event",
        "ImageCopied",
        "OnEvent",
        "StepFinished",
        "StepStarted",
        "Warned",
        "ignore_events",
    ),
    "fibackup.host.executor": ("Executor",),
    "fibackup.host.libvirt_host": ("LibvirtHost",),
    "fibackup.host.store": ("Store",),
    "fibackup.model": (
        "BackingChain",
        "Consistency",
        "Disk",
        "DiskKind",
        "Domain",
        "DomainState",
        "FileIdentity",
        "FileRole",
        "FrozenImage",
        "History",
        "Image",
        "ImageUse",
        "KnownStore",
        "Ledger",
        "NewOverlay",
        "Overlay",
        "PointDisk",
        "Receipt",
        "RestorePoint",
        "Run",
        "RunPhase",
        "Snapshot",
        "SourceImage",
        "StoredFile",
        "StoredImage",
        "Versions",
        "format_point_id",
        "parse_point_id",
    ),
    "fibackup.parse": ("parse_domain_xml",),
    "fibackup.plan": (
        "BackupPolicy",
        "CommitImages",
        "CommitOffline",
        "ConsolidateDisk",
        "ConsolidationPolicy",
        "CopyImage",
        "CopyMemory",
        "Decision",
        "DeleteMemory",
        "DeleteOverlays",
        "EachDisk",
        "Expectation",
        "FinishBlockJob",
        "FlattenImage",
        "ImageFormat",
        "InParallel",
        "Method",
        "Plan",
        "PublishPoint",
        "PullImages",
        "Quiesce",
        "Report",
        "RestoredDisk",
        "RestoredImage",
        "RestoreMemory",
        "ResumeDomain",
        "SaveDomainConfig",
        "SaveState",
        "Step",
        "StepOutcome",
        "TakeSnapshot",
        "ThawGuest",
        "WhileFrozen",
        "WriteLedger",
        "plan_backup",
        "plan_consolidation",
        "plan_recovery",
        "plan_restore",
    ),
    "fibackup.render": (
        "draw_chains",
        "draw_history",
    ),
    "fibackup.units": (
        "format_bytes",
        "format_seconds",
        "printable",
    ),
}

if not TYPE_CHECKING:  # else every misspelled name would pass

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for."""
        home = next((module for module, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        try:
            value: object = getattr(import_module(home), name)
        except ModuleNotFoundError as error:
            if error.name != "libvirt":
                raise
            from fibackup.errors import RequirementError

            raise RequirementError(
                reason="libvirt-python is missing; on Debian: apt install python3-libvirt"
            ) from error
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the public names, most important first."""
    return list(__all__)
