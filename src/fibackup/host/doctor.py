"""Reading the facts that `fibackup.plan.doctor` judges; nothing is changed, nothing locked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath

from fibackup.errors import FibackupError, PermissionDeniedError, RequirementError, StoreError
from fibackup.host.files import open_directory, os_errors
from fibackup.host.libvirt_host import LibvirtHost
from fibackup.host.lock import look_at_lock
from fibackup.host.qemu_img import qemu_img_version
from fibackup.host.run_lock import run_directory
from fibackup.host.store import Store
from fibackup.model.domain import Domain
from fibackup.model.ledger import KnownStore
from fibackup.model.verification import VerificationRecord
from fibackup.plan.doctor import DomainFacts, HypervisorFacts, OverlayPlace, StoreFacts

__all__ = ["read_domain_facts", "read_hypervisor_facts", "read_store_facts"]


def read_hypervisor_facts(host: LibvirtHost) -> HypervisorFacts:
    """
    Read what `diagnose_hypervisor` judges.

    Args:
        host: Open.

    Returns:
        Facts as they are now.

    Raises:
        LibvirtError: libvirt refused.

    Source:
        docs/operate.md, "Doctor".
    """
    directory = run_directory()
    try:
        qemu_img = qemu_img_version()
    except RequirementError:
        qemu_img = None
    return HypervisorFacts(
        uri=host.uri,
        versions=host.versions(),
        qemu_img=qemu_img,
        user_id=os.geteuid(),
        security_models=host.security_models,
        run_directory=directory,
        run_directory_fault=_fault(directory),
    )


def _fault(directory: str) -> str:
    """Say why the locks cannot be held there; one that is missing is made when it is needed."""
    try:
        found = os.lstat(directory)
    except FileNotFoundError:
        parent = os.path.dirname(directory)
        return "" if os.access(parent, os.W_OK | os.X_OK) else f"{parent} cannot be written"
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(found.st_mode):
        return "it is no directory"
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}"
    return "others may write it" if found.st_mode & 0o022 else ""


def read_store_facts(path: str) -> StoreFacts:
    """
    Read what `diagnose_store` judges.

    Args:
        path: The store.

    Returns:
        Facts as they are now.

    Raises:
        StoreError: It is none, or cannot be read.

    Source:
        docs/operate.md, "Doctor".
    """
    with Store.open(path) as store, os_errors(path):
        fault, remedy = _refusal_of_all(store)
        found, room = os.stat(path), os.statvfs(path)
        return StoreFacts(
            path=str(store.path),
            user_id=os.geteuid(),
            owner_id=found.st_uid,
            mode=stat.S_IMODE(found.st_mode),
            free_bytes=room.f_bavail * room.f_frsize,
            total_bytes=room.f_blocks * room.f_frsize,
            free_files=room.f_favail,
            total_files=room.f_files,
            filesystem=_filesystem(found.st_dev),
            histories=tuple(store.read_history(uuid) for uuid in store.domains()),
            temporary=tuple(sorted(_temporary(path))),
            records=tuple(_records(store)),
            fault=fault,
            remedy=remedy,
            misnamed=tuple(store.misnamed()),
        )


def _refusal_of_all(store: Store) -> tuple[str, str]:
    """Say why no domain's point can be stored, and what helps; nothing where one's can."""
    found = [_refusal(store.path, uuid) for uuid in store.domains() or ("",)]
    return found[0] if all(fault for fault, _ in found) else ("", "")


def _refusal(path: PurePosixPath | str, uuid: str = "") -> tuple[str, str]:
    """Say why no point can be stored there, and what helps; nothing where one can."""
    try:
        Store.require_writable(path, uuid)
    except PermissionDeniedError as error:
        return error.reason, error.remedy
    except FibackupError:  # which those who read the store say better
        pass
    return "", ""


def _records(store: Store) -> Iterator[tuple[str, VerificationRecord]]:
    for uuid in store.domains():
        with suppress(StoreError):  # a damaged one is told by verify, and nothing depends on it
            yield uuid, store.read_record(uuid)


def _filesystem(device: int) -> str:
    """Return the type of the file system on a device, as the kernel calls it."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with (
        suppress(OSError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file,
    ):
        for line in file:
            fields, _, rest = line.partition(" - ")
            if fields.split()[2] == wanted:
                return rest.split()[0]
    return ""


def _temporary(path: str) -> Iterator[str]:
    for directory, _, files in os.walk(path):
        for name in files:
            if name.startswith(".") and name.endswith(".tmp"):
                yield os.path.relpath(os.path.join(directory, name), path)


def read_domain_facts(host: LibvirtHost, name: str, store: Store | None) -> DomainFacts:
    """
    Read what `diagnose_domain` judges.

    Args:
        host: Open.
        name: Name or UUID of the domain.
        store: Open; None: no store is looked at.

    Returns:
        Facts as they are now.

    Raises:
        HostError: The domain, or an image of it, cannot be read.
        ModelError: What libvirt says of it cannot be understood.

    Source:
        docs/operate.md, "Doctor".
    """
    domain = host.read_domain(name)
    fault, remedy = _refusal(store.path, domain.uuid) if store is not None else ("", "")
    return DomainFacts(
        domain=domain,
        history=store.read_history(domain.uuid) if store is not None else None,
        store_free_bytes=store.free_bytes() if store is not None else 0,
        places=tuple(_places(host, domain, store)),
        lost_stores=tuple(each for each in domain.ledger.stores if _is_lost(each)),
        at_work=_at_work(domain.uuid),
        store_fault=fault,
        store_remedy=remedy,
    )


def _places(host: LibvirtHost, domain: Domain, store: Store | None) -> Iterator[OverlayPlace]:
    device = os.stat(store.path).st_dev if store is not None else None
    disks = (each for each in domain.disks if each.chain and each.skip_reason is None)
    for path in dict.fromkeys(each.chain.active.path.parent for each in disks if each.chain):
        with os_errors(str(path)):
            room, found = os.statvfs(path), os.stat(path)
        fault, remedy = _no_overlay(host, path)
        yield OverlayPlace(
            path=str(path),
            free_bytes=room.f_bavail * room.f_frsize,
            total_bytes=room.f_blocks * room.f_frsize,
            beside_store=found.st_dev == device,
            fault=fault,
            remedy=remedy,
        )


def _at_work(uuid: str) -> bool:
    """Tell whether a run holds the domain now; the lock of one that runs is not tried."""
    with suppress(OSError), open_directory(run_directory()) as fd:
        return look_at_lock(f"{uuid}.lock", fd).held
    return False


def _no_overlay(host: LibvirtHost, directory: PurePosixPath) -> tuple[str, str]:
    """Say why no overlay can be made there, and what helps, where that is known."""
    try:
        host.occupied((directory / ".fibackup-doctor",))
    except PermissionDeniedError as error:
        return error.reason, error.remedy
    except FibackupError as error:
        return error.reason, ""
    return "", ""


def _is_lost(known: KnownStore) -> bool:
    try:
        with Store.open(known.path) as store:
            return store.uuid != known.uuid
    except FibackupError:
        return True
