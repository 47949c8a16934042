"""
fibackup: forward-incremental backups of libvirt/KVM domains, for ever, as plain qcow2 files.

Five words do a backup:

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
        DomainExistsError,
        DomainStateError,
        FibackupError,
        ForeignConfigError,
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
    from fibackup.host.cancel import (
        CancelToken,
    )
    from fibackup.host.doctor import (
        read_domain_facts,
        read_hypervisor_facts,
        read_store_facts,
    )
    from fibackup.host.events import (
        CopyProgress,
        Event,
        FileVerified,
        Gate,
        ImageCopied,
        OnEvent,
        StepFinished,
        StepStarted,
        Warned,
        ignore_events,
        no_gate,
    )
    from fibackup.host.executor import (
        Executor,
    )
    from fibackup.host.libvirt_host import (
        LibvirtHost,
    )
    from fibackup.host.metrics import (
        update_metrics,
    )
    from fibackup.host.store import (
        Store,
    )
    from fibackup.host.store_reader import (
        StoreReader,
    )
    from fibackup.model.chain import BackingChain, FileIdentity, Image
    from fibackup.model.domain import Disk, Domain, DomainState, ImageUse
    from fibackup.model.host_facts import HostFacts
    from fibackup.model.ledger import FrozenImage, KnownStore, Ledger, Overlay, Run, RunPhase
    from fibackup.model.metrics import (
        METRICS,
        Sample,
        merge_samples,
    )
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
        WrongDisk,
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
    from fibackup.parse.definition import Foreign
    from fibackup.parse.domain_xml import parse_domain_xml
    from fibackup.parse.prometheus import (
        parse_metrics,
        render_metrics,
    )
    from fibackup.plan.backup import plan_backup
    from fibackup.plan.consolidate import ConsolidationPolicy, Method, plan_consolidation
    from fibackup.plan.define import NewDomain
    from fibackup.plan.doctor import (
        DomainFacts,
        Finding,
        HypervisorFacts,
        Level,
        OverlayPlace,
        StoreFacts,
        diagnose_domain,
        diagnose_hypervisor,
        diagnose_store,
    )
    from fibackup.plan.listing import ListedPoint, list_points
    from fibackup.plan.metrics import (
        pruned_metrics,
        run_metrics,
        store_metrics,
        verified_metrics,
    )
    from fibackup.plan.outlook import DiskOutlook, foresee
    from fibackup.plan.policy import BackupPolicy, Quiesce
    from fibackup.plan.prune import plan_prune
    from fibackup.plan.prune_steps import DropPoints, MergeImages
    from fibackup.plan.records import record_warnings
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
        DefineDomain,
        DeleteMemory,
        DeleteOverlays,
        EachDisk,
        Expectation,
        FinishBlockJob,
        FlattenImage,
        InParallel,
        MakeDirectory,
        MendHeader,
        Plan,
        PublishPoint,
        PullImages,
        RestoredDisk,
        RestoreDisks,
        RestoreMemory,
        RestoreNvram,
        RestoreTpm,
        ResumeDomain,
        ResumeGuest,
        SaveDomainConfig,
        SaveState,
        SmokeStart,
        StartDomain,
        Step,
        TakeSnapshot,
        ThawGuest,
        WhileFrozen,
        WriteLedger,
    )
    from fibackup.plan.verified import Verified, last_verified
    from fibackup.plan.verify import VerifyPolicy, plan_verify
    from fibackup.plan.verify_steps import (
        ContentToVerify,
        ExpectedHeader,
        FileToVerify,
        VerifyContents,
        VerifyFiles,
    )
    from fibackup.render.drawable import Drawable, Picture, picture_of
    from fibackup.render.scene import Box, Change, Column, Link, LinkKind, Section, Table, Tint
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
    "plan_verify",
    "plan_prune",
    "choose_points",
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
    "HostFacts",
    "Survey",
    "Verification",
    "Fault",
    "FaultKind",
    "PointHealth",
    # What is wanted, and what will be done.
    "BackupPolicy",
    "ConsolidationPolicy",
    "Method",
    "Quiesce",
    "RetentionPolicy",
    "PointVerdict",
    "ImageFormat",
    "RestoreForm",
    "NewDomain",
    "Foreign",
    "VerifyPolicy",
    "Plan",
    "Decision",
    "Expectation",
    "Step",
    "WriteLedger",
    "TakeSnapshot",
    "ThawGuest",
    "ResumeGuest",
    "MendHeader",
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
    "CopyStored",
    "CreateLinked",
    "RestoreDisks",
    "DropPoints",
    "MergeImages",
    "MakeDirectory",
    "RestoreNvram",
    "DefineDomain",
    "RestoreTpm",
    "SmokeStart",
    "StartDomain",
    "CopyMemory",
    "DeleteMemory",
    "RestoreMemory",
    "RestoredDisk",
    "ResumeDomain",
    "VerifyFiles",
    "FileToVerify",
    "ExpectedHeader",
    "VerifyContents",
    "ContentToVerify",
    # While it runs.
    "Event",
    "OnEvent",
    "StepStarted",
    "StepFinished",
    "CopyProgress",
    "ImageCopied",
    "FileVerified",
    "Warned",
    "CancelToken",
    "ignore_events",
    "Gate",
    "no_gate",
    "StepOutcome",
    "RestoredImage",
    # The seams.
    "Host",
    "PointStore",
    "StoreReader",
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
    "WrongDisk",
    "FoundFile",
    "FileCheck",
    "ContentCheck",
    "VerificationRecord",
    "CheckedFile",
    "CheckedContent",
    "Verified",
    "last_verified",
    "list_points",
    "ListedPoint",
    "record_warnings",
    # What is to be seen.
    "picture_chains",
    "picture_of",
    "draw_chains",
    "draw_history",
    "foresee",
    "DiskOutlook",
    "Drawable",
    "Picture",
    "Section",
    "Column",
    "Box",
    "Link",
    "Table",
    "Tint",
    "Change",
    "LinkKind",
    # What is wrong, or will be.
    "Finding",
    "Level",
    "read_hypervisor_facts",
    "read_store_facts",
    "read_domain_facts",
    "diagnose_hypervisor",
    "diagnose_store",
    "diagnose_domain",
    "HypervisorFacts",
    "StoreFacts",
    "DomainFacts",
    "OverlayPlace",
    # Metrics.
    "Sample",
    "METRICS",
    "run_metrics",
    "verified_metrics",
    "pruned_metrics",
    "store_metrics",
    "merge_samples",
    "render_metrics",
    "parse_metrics",
    "update_metrics",
    # Functions on text and time.
    "parse_domain_xml",
    "format_point_id",
    "parse_point_id",
    "format_bytes",
    "format_seconds",
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
    "DomainExistsError",
    "ForeignConfigError",
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
        "DomainExistsError",
        "DomainStateError",
        "FibackupError",
        "ForeignConfigError",
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
    "fibackup.host.doctor": (
        "read_domain_facts",
        "read_hypervisor_facts",
        "read_store_facts",
    ),
    "fibackup.host.cancel": ("CancelToken",),
    "fibackup.host.events": (
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
    ),
    "fibackup.host.executor": ("Executor",),
    "fibackup.host.libvirt_host": ("LibvirtHost",),
    "fibackup.host.metrics": ("update_metrics",),
    "fibackup.host.store": ("Store",),
    "fibackup.host.store_reader": ("StoreReader",),
    "fibackup.model.chain": (
        "BackingChain",
        "FileIdentity",
        "Image",
    ),
    "fibackup.model.domain": (
        "Disk",
        "Domain",
        "DomainState",
        "ImageUse",
    ),
    "fibackup.model.host_facts": ("HostFacts",),
    "fibackup.model.ledger": (
        "FrozenImage",
        "KnownStore",
        "Ledger",
        "Overlay",
        "Run",
        "RunPhase",
    ),
    "fibackup.model.metrics": (
        "METRICS",
        "Sample",
        "merge_samples",
    ),
    "fibackup.model.pictures": (
        "draw_chains",
        "draw_history",
        "picture_chains",
    ),
    "fibackup.model.point": (
        "Consistency",
        "DiskKind",
        "FileRole",
        "History",
        "PointDisk",
        "Receipt",
        "RestorePoint",
        "SourceImage",
        "StoredFile",
        "StoredImage",
        "Versions",
        "WrongDisk",
        "format_point_id",
        "parse_point_id",
    ),
    "fibackup.model.snapshot": (
        "NewOverlay",
        "Snapshot",
    ),
    "fibackup.model.verification": (
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
    ),
    "fibackup.parse.definition": ("Foreign",),
    "fibackup.parse.domain_xml": ("parse_domain_xml",),
    "fibackup.parse.prometheus": (
        "parse_metrics",
        "render_metrics",
    ),
    "fibackup.plan.backup": ("plan_backup",),
    "fibackup.plan.consolidate": (
        "ConsolidationPolicy",
        "Method",
        "plan_consolidation",
    ),
    "fibackup.plan.define": ("NewDomain",),
    "fibackup.plan.doctor": (
        "DomainFacts",
        "Finding",
        "HypervisorFacts",
        "Level",
        "OverlayPlace",
        "StoreFacts",
        "diagnose_domain",
        "diagnose_hypervisor",
        "diagnose_store",
    ),
    "fibackup.plan.listing": (
        "ListedPoint",
        "list_points",
    ),
    "fibackup.plan.metrics": (
        "pruned_metrics",
        "run_metrics",
        "store_metrics",
        "verified_metrics",
    ),
    "fibackup.plan.outlook": (
        "DiskOutlook",
        "foresee",
    ),
    "fibackup.plan.policy": (
        "BackupPolicy",
        "Quiesce",
    ),
    "fibackup.plan.prune": ("plan_prune",),
    "fibackup.plan.prune_steps": (
        "DropPoints",
        "MergeImages",
    ),
    "fibackup.plan.records": ("record_warnings",),
    "fibackup.plan.recover": ("plan_recovery",),
    "fibackup.plan.report": (
        "Report",
        "RestoredImage",
        "StepOutcome",
    ),
    "fibackup.plan.restore": (
        "ImageFormat",
        "RestoreForm",
        "plan_restore",
    ),
    "fibackup.plan.retention": (
        "PointVerdict",
        "RetentionPolicy",
        "choose_points",
    ),
    "fibackup.plan.steps": (
        "CommitImages",
        "CommitOffline",
        "ConsolidateDisk",
        "CopyImage",
        "CopyMemory",
        "CopyStored",
        "CreateLinked",
        "Decision",
        "DefineDomain",
        "DeleteMemory",
        "DeleteOverlays",
        "EachDisk",
        "Expectation",
        "FinishBlockJob",
        "FlattenImage",
        "InParallel",
        "MakeDirectory",
        "MendHeader",
        "Plan",
        "PublishPoint",
        "PullImages",
        "RestoredDisk",
        "RestoreDisks",
        "RestoreMemory",
        "RestoreNvram",
        "RestoreTpm",
        "ResumeDomain",
        "ResumeGuest",
        "SaveDomainConfig",
        "SaveState",
        "SmokeStart",
        "StartDomain",
        "Step",
        "TakeSnapshot",
        "ThawGuest",
        "WhileFrozen",
        "WriteLedger",
    ),
    "fibackup.plan.verified": (
        "Verified",
        "last_verified",
    ),
    "fibackup.plan.verify": (
        "VerifyPolicy",
        "plan_verify",
    ),
    "fibackup.plan.verify_steps": (
        "ContentToVerify",
        "ExpectedHeader",
        "FileToVerify",
        "VerifyContents",
        "VerifyFiles",
    ),
    "fibackup.render.drawable": (
        "Drawable",
        "Picture",
        "picture_of",
    ),
    "fibackup.render.scene": (
        "Box",
        "Change",
        "Column",
        "Link",
        "LinkKind",
        "Section",
        "Table",
        "Tint",
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
