"""
Every error that fibackup raises; the facts are fields, the text is derived from them.

Only `StepError` can mean that the host was changed. Everything else is raised before the first
step of a plan, or by a function that only reads::

    FibackupError
    |-- ModelError (ValueError)      the input makes no sense          nothing touched
    |   |-- ChainError               cycle, gap, header against XML
    |   `-- ParseError               .where "disk[2]/source"  .reason
    |-- PlanError                    it cannot be planned              nothing touched
    |   |-- DomainStateError         off, paused, crashed, busy with a managed save
    |   |-- UnsupportedDiskError     network, block, lun, encrypted, ...
    |   |-- SharedBaseError          another domain needs this image
    |   |-- DomainExistsError        nothing that is defined is ever overwritten
    |   |-- ForeignConfigError       the XML reaches out of the guest: .parts .difference
    |   `-- PolicyError              the wishes contradict each other
    |-- StalePlanError               plan.expects is not what is found: plan again
    |-- HostError                    the outside refused; after a step began: __cause__ of StepError
    |   |-- LibvirtError             .code
    |   |   `-- NoSuchDomainError
    |   |-- AgentError               the guest agent: absent, silent, refusing
    |   |-- QemuImgError             .argv .returncode .stderr
    |   |-- PermissionDeniedError    names owner, mode, path
    |   |-- NoSpaceError             .needed_bytes .free_bytes
    |   |-- BlockJobError            a job failed or is in the way
    |   |-- DomainBusyError          another job holds the domain or the image
    |   |-- RequirementError         libvirt or qemu-img missing or too old
    |   `-- CancelledError           the caller asked to stop
    |-- StoreError                   .path
    |   |-- NotAStoreError
    |   |-- LockedError              .owner
    |   |-- FormatTooNewError        written by a newer fibackup
    |   |-- ManifestError
    |   |-- VerifyError              the bytes are not the recorded ones
    |   |-- DestinationExistsError   nothing is ever overwritten
    |   `-- NoSuchPointError
    `-- StepError                    .plan .index .done .remaining .state .next_command
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TypeVar

from attrs import define, fields

__all__ = [
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

_E = TypeVar("_E", bound="FibackupError")


class SupportsJson(Protocol):
    """What `StepError` needs of a plan: that it can be kept."""

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        ...


def _rebuild(kind: Callable[..., _E], values: dict[str, object]) -> _E:
    return kind(**values)


@define(kw_only=True)
class FibackupError(Exception):
    """
    Root of the tree; carries the domain, disk and path it is about, where there are such.

    Attributes:
        reason: What happened, one sentence without a final stop.
        domain: Name of the domain, or None.
        target: Disk target such as ``"vda"``, or None.
        path: The file or directory it is about, or None.
    """

    reason: str
    domain: str | None = None
    target: str | None = None
    path: str | None = None

    def __str__(self) -> str:
        """Return ``domain 'web1': disk vda: reason: path``, leaving out what is unknown."""
        parts = [
            f"domain {self.domain!r}" if self.domain is not None else "",
            f"disk {self.target}" if self.target is not None else "",
            self.reason,
        ]
        text = ": ".join(part for part in parts if part)
        return text if self.path is None or self.path in text else f"{text}: {self.path}"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by field names, so that keyword-only errors travel between processes."""
        cls = type(self)
        return _rebuild, (cls, {a.name: getattr(self, a.name) for a in fields(cls)})


class ModelError(FibackupError, ValueError):
    """The input makes no sense. Nothing was touched."""


class ChainError(ModelError):
    """A backing chain has a cycle, a gap, or a header that disagrees with libvirt."""


@define(kw_only=True)
class ParseError(ModelError):
    """
    Text or bytes that cannot be understood.

    Attributes:
        where: Path of the bad node, such as ``"disk[2]/source"`` or ``"point.disks[0].kind"``.
    """

    where: str = ""

    def __str__(self) -> str:
        """Return the reason behind the place it is about."""
        text = f"{self.where}: {self.reason}" if self.where else self.reason
        return text if self.path is None else f"{self.path}: {text}"


def _with_remedy(error: FibackupError, remedy: str) -> str:
    text = FibackupError.__str__(error)
    return f"{text} ({remedy})" if remedy else text


class PlanError(FibackupError):
    """It cannot be planned. Nothing was touched."""


@define(kw_only=True)
class DomainStateError(PlanError):
    """
    The domain is off, paused, crashed or has a managed-save image.

    Attributes:
        remedy: What the user can do, as a command where there is one.
    """

    remedy: str = ""

    def __str__(self) -> str:
        """Return the reason, and what to do."""
        return _with_remedy(self, self.remedy)


class UnsupportedDiskError(PlanError):
    """A chosen disk cannot be backed up this way."""


@define(kw_only=True)
class SharedBaseError(PlanError):
    """
    Another domain's chain uses the image.

    Attributes:
        dependents: Names of the domains that use it.
    """

    dependents: tuple[str, ...] = ()


class DomainExistsError(PlanError):
    """A domain of this name or UUID is defined; nothing is ever overwritten."""


@define(kw_only=True)
class ForeignConfigError(PlanError):
    """
    The XML of a point has parts that reach out of the guest, and nobody has allowed them.

    Attributes:
        parts: The parts, in words.
        difference: A unified diff of the stored XML and of the definition without them.
    """

    parts: tuple[str, ...] = ()
    difference: str = ""

    def __str__(self) -> str:
        """Return the reason, the parts, and the difference that it makes to take them out."""
        if not self.parts:
            return FibackupError.__str__(self)
        parts = (f"  {part}" for part in self.parts)
        lines = (FibackupError.__str__(self) + ":", *parts, *self.difference.splitlines())
        return "\n".join(lines)


class PolicyError(PlanError):
    """What was asked for contradicts itself, or leaves nothing to do."""


class StalePlanError(FibackupError):
    """The host is not as the plan expects; plan again. Nothing was touched."""


class HostError(FibackupError):
    """The outside refused: libvirt, qemu-img, the file system or the guest."""


@define(kw_only=True)
class LibvirtError(HostError):
    """
    libvirt refused.

    Attributes:
        code: A ``virErrorNumber``, or 0.
    """

    code: int = 0


class NoSuchDomainError(LibvirtError):
    """No domain has this name or UUID (``VIR_ERR_NO_DOMAIN``)."""


@define(kw_only=True)
class AgentError(HostError):
    """
    The guest agent is absent, does not answer or refuses.

    Attributes:
        maybe_frozen: True when the guest's file systems may be frozen still.
    """

    maybe_frozen: bool = False


@define(kw_only=True)
class QemuImgError(HostError):
    """
    A child process failed.

    Attributes:
        argv: Its command line.
        returncode: Its exit status; negative for a signal.
        stderr: What it said, the last 4 KiB.
    """

    argv: tuple[str, ...] = ()
    returncode: int = 0
    stderr: str = ""

    def __str__(self) -> str:
        """Return the reason with the program's own words."""
        said = self.stderr.strip().splitlines()
        text = FibackupError.__str__(self)
        return f"{text}: {said[-1]}" if said else text


@define(kw_only=True)
class PermissionDeniedError(HostError):
    """
    An image or directory cannot be read or written by this process.

    Attributes:
        remedy: What lets it in, as a command where there is one; nothing where that is not known.
    """

    remedy: str = ""


@define(kw_only=True)
class NoSpaceError(HostError):
    """
    The file system is full (ENOSPC, EDQUOT), or it is clear beforehand that it will be.

    Attributes:
        needed_bytes: What the plan needs, 0 when unknown.
        free_bytes: What was free, 0 when unknown.
    """

    needed_bytes: int = 0
    free_bytes: int = 0


@define(kw_only=True)
class BlockJobError(HostError):
    """
    A block job failed, or one that is not ours is in the way.

    Attributes:
        unsafe: True: the chain is shorter, but the device lost some of what the job wrote to
            `path`. The images that left the chain still have it, and stay.
    """

    unsafe: bool = False


@define(kw_only=True)
class DomainBusyError(HostError):
    """
    Another job holds the domain, or a writer holds an image that must not change.

    Attributes:
        remedy: What the user can do, where waiting does not help.
    """

    remedy: str = ""

    def __str__(self) -> str:
        """Return the reason, and what to do."""
        return _with_remedy(self, self.remedy)


@define(kw_only=True)
class RequirementError(HostError):
    """
    libvirt or qemu-img is missing or too old.

    Attributes:
        remedy: What the user can do, where it is not to install or upgrade what is named.
    """

    remedy: str = ""

    def __str__(self) -> str:
        """Return the reason, and what to do."""
        return _with_remedy(self, self.remedy)


class CancelledError(HostError):
    """The caller's cancel token was set."""


class StoreError(FibackupError):
    """The store refused, or is not what it should be."""


class NotAStoreError(StoreError):
    """The directory carries no ``fibackup-store.json``: an unmounted disk, perhaps."""


@define(kw_only=True)
class LockedError(StoreError):
    """
    Another run holds the lock.

    Attributes:
        owner: Who holds it, as it said itself, such as ``"pid 4711 on hv7"``.
    """

    owner: str = ""


class FormatTooNewError(StoreError):
    """The store or the manifest was written by a newer fibackup."""


class ManifestError(StoreError):
    """A manifest is damaged, or contradicts the files beside it."""


@define(kw_only=True)
class VerifyError(StoreError):
    """
    The bytes of a stored file are not the ones that were recorded, or a disk reads otherwise.

    Attributes:
        found: When a verification found that, aware; None: it was found just now.
    """

    found: datetime | None = None


class DestinationExistsError(StoreError):
    """The file to write exists; nothing is ever overwritten."""


class NoSuchPointError(StoreError):
    """The store has no such restore point, or the point has no such disk."""


@define(kw_only=True)
class StepError(FibackupError):
    """
    A step of a plan failed; the steps before it were done.

    The cause is in ``__cause__``.

    Attributes:
        plan: The plan that was run.
        index: Index of the failed step in ``plan.steps``.
        done: Headlines of the steps done.
        remaining: Headlines of the steps not done, the failed one first.
        state: Where the guest writes now, and what must not be deleted.
        next_command: What to run next.
    """

    plan: SupportsJson
    index: int
    done: tuple[str, ...] = ()
    remaining: tuple[str, ...] = ()
    state: str = ""
    next_command: str = ""

    def __str__(self) -> str:
        """Return the failure, the state it left behind and what to run next."""
        lines = [FibackupError.__str__(self)]
        if self.state:
            lines.append(f"state: {self.state}")
        if self.next_command:
            lines.append(f"next: {self.next_command}")
        return "\n".join(lines)
