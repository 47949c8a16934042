"""
``linked.json``: the disks that restores have put on the images of a domain's points.

::

    restore --as linked    notes the overlay, then makes it
    prune                  asks: is it still there, does it lie on anything, and is that ours?
                             yes, or of another machine, or it cannot be told    images stay
                             no: removed, pulled local, replaced                 forgotten

A domain that is off has nothing open, so that no lock tells of its disk.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath

from fibackup.errors import DomainBusyError, FibackupError, ManifestError, ParseError
from fibackup.host.copy_image import read_qcow2_head
from fibackup.host.journals import read_linked
from fibackup.host.lock import is_in_use, refuse_users_of
from fibackup.host.record import hold_record_lock, replace_record
from fibackup.host.store_file import STORE_FILE, uuid_of
from fibackup.model.linked import LinkedDisk, LinkedDisks
from fibackup.model.records import LINKED_FILE
from fibackup.parse.manifest import render_linked
from fibackup.parse.qcow2_header import is_qcow2
from fibackup.plan.steps import CreateLinked

__all__ = [
    "forget_independent",
    "linked_files",
    "needed_files",
    "note_linked",
    "refuse_needed",
]

_MACHINE_ID = "/etc/machine-id"


def note_linked(step: CreateLinked, dir_fd: int) -> None:
    """
    Note, durably, that an overlay is about to be made.

    Args:
        step: The overlay, and the images under it.
        dir_fd: The domain's directory.

    Raises:
        OSError: It cannot be written, as on a store that is mounted read-only.
        ManifestError: What stands there already is damaged.
    """
    disk = LinkedDisk(
        overlay=step.destination,
        machine=_machine(),
        places=tuple(map(_place, step.destination.parents)),
        target=step.target,
        images=tuple(image.name for image in step.images),
        time=datetime.now(UTC).replace(microsecond=0),
    )
    with hold_record_lock(dir_fd):
        _write(read_linked(dir_fd).with_disk(disk), dir_fd)


def linked_files(dir_fd: int) -> dict[str, str]:
    """
    Return the stored images that linked disks lie on, and of each in words which one.

    Args:
        dir_fd: The domain's directory.

    Raises:
        ManifestError: The list is damaged, so nobody can tell.
    """
    machine = _machine()
    return {
        file: _in_words(disk, machine)
        for disk in _still_linked(read_linked(dir_fd), machine, dir_fd)
        for file in disk.files
    }


def refuse_needed(files: Collection[str], dir_fd: int) -> None:
    """
    Refuse to take away what a process has open, or a linked disk lies on.

    Args:
        files: The images that would go, such as ``"vda/20261124T040407Z.qcow2"``.
        dir_fd: The domain's directory, whose readers are kept away.

    Raises:
        DomainBusyError: One of them is needed.
        ManifestError: The list is damaged, so nobody can tell.
    """
    for file in files:
        refuse_users_of(file, dir_fd)
    for file, why in linked_files(dir_fd).items():
        if file in files:
            raise DomainBusyError(reason=why, path=file, remedy="plan again: its points stay")


def needed_files(files: Collection[str], dir_fd: int) -> frozenset[str]:
    """
    Return those of some files that a process has open, or a linked disk lies on.

    Args:
        files: Such as ``"vda/20261124T040407Z.qcow2"``.
        dir_fd: The domain's directory, whose readers are kept away.

    Returns:
        The files; all of them while the list of linked disks is damaged.
    """
    try:
        linked = linked_files(dir_fd)
    except ManifestError:
        return frozenset(files)
    return frozenset(file for file in files if file in linked or is_in_use(file, dir_fd))


def forget_independent(dir_fd: int) -> None:
    """
    Forget the disks that are gone, or lie on nothing any more; a damaged list stays as it is.

    Args:
        dir_fd: The domain's directory, under the writer's lock, and without readers: one of them
            may have noted what it is about to make.
    """
    with suppress(ManifestError):
        linked = read_linked(dir_fd)
        gone = {*linked.disks}.difference(_still_linked(linked, _machine(), dir_fd))
        if not gone:
            return
        with hold_record_lock(dir_fd):
            left = tuple(disk for disk in read_linked(dir_fd).disks if disk not in gone)
            if left:
                _write(LinkedDisks(left), dir_fd)
            else:
                os.unlink(LINKED_FILE, dir_fd=dir_fd)


def _write(linked: LinkedDisks, dir_fd: int) -> None:
    replace_record(LINKED_FILE, render_linked(linked), dir_fd)


def _in_words(disk: LinkedDisk, machine: str) -> str:
    if disk.machine != machine:
        made = disk.machine.partition(" ")[0]
        return f"the linked disk {disk.overlay}, made on {made}, lies on it"
    words = f"the linked disk {disk.overlay} lies on it"
    if os.path.exists(disk.overlay):
        return words
    return f"{words}, or is gone: to have it forgotten, {_to_forget(disk)}"


def _to_forget(disk: LinkedDisk) -> str:
    """Say how to let a disk end that cannot be seen; where it is there after all, it stays."""
    file, directory = shlex.quote(str(disk.overlay)), shlex.quote(str(disk.overlay.parent))
    return f"mkdir -p {directory} && touch {file}"


def _still_linked(linked: LinkedDisks, machine: str, dir_fd: int) -> tuple[LinkedDisk, ...]:
    return tuple(
        disk for disk in linked.disks if _is_linked(disk, machine, linked.rivals(disk), dir_fd)
    )


def _is_linked(disk: LinkedDisk, machine: str, rivals: Collection[str], dir_fd: int) -> bool:
    """Tell whether a disk may still lie on these images; a doubt counts as yes."""
    if disk.machine != machine:
        return True
    try:
        if not stat.S_ISREG(os.stat(disk.overlay).st_mode):  # to open a device may do something
            return False
        fd = os.open(disk.overlay, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return os.path.lexists(disk.overlay) or not _is_the_place(disk)  # not mounted, perhaps
    except OSError:
        return True
    try:
        backing = read_qcow2_head(fd, str(disk.overlay))[0].backing_name
        if backing is None or _is_of_another(PurePosixPath(backing), dir_fd):
            return False
        return PurePosixPath(backing).name not in rivals
    except ParseError:  # something else has its name now, or it is damaged, or a newer QEMU's
        return _is_qcow2(fd)
    except (OSError, FibackupError):
        return True
    finally:
        os.close(fd)


def _is_qcow2(fd: int) -> bool:
    try:
        return is_qcow2(os.pread(fd, 4, 0))
    except OSError:
        return True


def _is_of_another(image: PurePosixPath, dir_fd: int) -> bool:
    """
    Tell whether an image is surely one of another domain's directory of a store.

    Name and inode of the directory must say so, and it must be there: by a link, or behind another
    mount, it could be ours.
    """
    real = PurePosixPath(os.path.realpath(image))
    home = real.parent.parent
    names = image.parent.parent.name, home.name, PurePosixPath(_path_of(dir_fd)).name
    named, theirs, ours = map(uuid_of, names)
    if not image.is_absolute() or None in {theirs, ours} or named != theirs or theirs == ours:
        return False
    return (
        os.path.isfile(real)
        and os.path.isfile(home.parent / STORE_FILE)
        and not os.path.samestat(os.stat(home), os.fstat(dir_fd))
    )


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def _is_the_place(disk: LinkedDisk) -> bool:
    """
    Tell whether the nearest directory that is left of an overlay's path is the one it was.

    A link that leads nowhere is left: what it leads to may be on a disk that is not mounted.
    """
    for directory, was in zip(disk.overlay.parents, disk.places, strict=False):
        try:
            return _place(directory) == was
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(directory):
                return False
    return False


def _place(directory: PurePosixPath) -> str:
    """Return what tells a directory from others of its path: of other mounts, or of later times."""
    found = os.stat(directory)
    return f"{found.st_dev}:{found.st_ino}"


def _machine() -> str:
    """Return what tells this machine from others: copies of one have the same machine-id(5)."""
    found = ""
    with suppress(OSError, UnicodeDecodeError), open(_MACHINE_ID, encoding="ascii") as file:
        found = file.read(64).strip()
    return f"{os.uname().nodename or 'localhost'} {found}".strip()
