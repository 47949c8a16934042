"""
Firmware variables and the state of a TPM: where libvirt keeps them, read and written.

::

    qemu:///system     /var/lib/libvirt/qemu/nvram/NAME_VARS.fd    /var/lib/libvirt/swtpm/UUID/
    qemu:///session    ~/.config/libvirt/qemu/nvram/               ~/.config/libvirt/qemu/swtpm/
    qemu:///embed      ROOT/lib/qemu/nvram/                        ROOT/lib/swtpm/

    archive of a TPM   tpm2/tpm2-00.permall                        a tar file, as swtpm has it
"""

from __future__ import annotations

import io
import os
import pwd
import re
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath
from urllib.parse import parse_qs, urlsplit

from fibackup.errors import DestinationExistsError, HostError
from fibackup.host.files import open_directory, os_errors, write_all
from fibackup.host.restored import make_passage, sync_directory
from fibackup.host.store_files import list_directory
from fibackup.parse.machine_state import TpmBackend

__all__ = [
    "nvram_directory",
    "pack_tpm",
    "read_state_file",
    "remove_tpm",
    "tpm_directory",
    "unpack_tpm",
]

MAX_STATE_BYTES = 128 * 1024 * 1024
"""More than any firmware has: the variables of 64-bit ARM take 64 MiB."""

_PARTS = {"2.0": "tpm2", "1.2": "tpm1.2"}
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", re.ASCII)
_ATTEMPTS = 3
_USERS = ("tss", "swtpm")  # of Debian, of Fedora


def nvram_directory(uri: str) -> PurePosixPath:
    """
    Return where libvirt keeps firmware variables whose place the XML does not name.

    Args:
        uri: The connection's URI.

    Source:
        libvirt ``virQEMUDriverConfigNew``.
    """
    return _home(uri, system="qemu") / "nvram"


def tpm_directory(uri: str, uuid: str) -> PurePosixPath:
    """
    Return where libvirt keeps the state of a domain's emulated TPM.

    Args:
        uri: The connection's URI.
        uuid: The domain's UUID.

    Source:
        libvirt ``virQEMUDriverConfigNew``, ``virTPMEmulatorInitPaths``.
    """
    return _home(uri, system="") / "swtpm" / uuid


def _home(uri: str, *, system: str) -> PurePosixPath:
    parts = urlsplit(uri)
    if parts.path == "/embed":
        return PurePosixPath(parse_qs(parts.query).get("root", ["/"])[0], "lib", system)
    if parts.path == "/session":
        config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        return PurePosixPath(config, "libvirt", "qemu")
    return PurePosixPath("/var/lib/libvirt", system)


def read_state_file(path: PurePosixPath) -> bytes:
    """
    Return the content of a small file, which did not change while it was read.

    Args:
        path: The file; a link to a file is followed, as QEMU does.

    Raises:
        HostError: It is missing, no regular file, too large, or never stands still.
    """
    with os_errors(str(path)):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _read(fd, str(path))
        finally:
            os.close(fd)


def _read(fd: int, path: str) -> bytes:
    """Read twice: mtime moves with the kernel's tick, and two writes in one tick look like none."""
    for _ in range(_ATTEMPTS):
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise HostError(reason="not a regular file", path=path)
        if before.st_size > MAX_STATE_BYTES:
            raise HostError(reason=f"{before.st_size} bytes are too many for it", path=path)
        data, again = (os.pread(fd, before.st_size, 0) for _ in range(2))
        after = os.fstat(fd)
        same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        if same and len(data) == before.st_size and data == again:
            return data
    raise HostError(reason="it is written all the time", path=path)


def pack_tpm(backend: TpmBackend, usual: PurePosixPath) -> bytes:
    """
    Return the state of an emulated TPM as a tar archive.

    Args:
        backend: What is behind the TPM.
        usual: The directory that libvirt has for it.

    Returns:
        The archive: regular files below ``tpm2`` or ``tpm1.2``, with the names of their owners.

    Raises:
        HostError: It is no emulator, or its state cannot be read.

    Source:
        swtpm(8), ``--tpmstate``; tar(5), ustar.
    """
    if backend.kind != "emulator":
        raise HostError(reason=f"the state of a TPM of type {backend.kind} is not in files")
    if backend.in_file:
        raise HostError(reason="the state of the TPM is in a file of its own, which is not copied")
    part = _PARTS.get(backend.version, "tpm2")
    where = backend.place or usual / part
    target = io.BytesIO()
    with (
        os_errors(str(where)),
        open_directory(str(where)) as directory,
        tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in _state_files(directory):
            _add(archive, f"{part}/{name}", name, directory, where)
        if not archive.getmembers():
            raise HostError(reason="the TPM has no state: it was never started", path=str(where))
    return target.getvalue()


def _state_files(directory: int) -> Iterator[str]:
    """Iterate over what swtpm keeps; its lock, and what it has not finished, are passed over."""
    for name in sorted(list_directory(directory)):
        if _NAME.fullmatch(name) and not name.startswith("TMP"):
            yield name


def _add(
    archive: tarfile.TarFile, member: str, name: str, directory: int, where: PurePosixPath
) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(name, flags, dir_fd=directory)
    try:
        data = _read(fd, str(where / name))
        with open(fd, "rb", closefd=False) as file:
            entry = archive.gettarinfo(arcname=member, fileobj=file)
        entry.size, entry.mode = len(data), 0o600
        archive.addfile(entry, io.BytesIO(data))
    finally:
        os.close(fd)


def unpack_tpm(data: bytes, directory: PurePosixPath) -> None:
    """
    Write the state of an emulated TPM, as `pack_tpm` took it.

    Args:
        data: The archive.
        directory: The directory that libvirt has for the domain's state; it must not exist.

    Raises:
        DestinationExistsError: The directory exists. It was not touched.
        HostError: It is not such an archive, or it cannot be written. Nothing is left.

    Source:
        tar(5); swtpm(8), ``--tpmstate``.
    """
    files = tuple(_members(data))
    with os_errors(str(directory)):
        make_passage(directory.parent)
        try:
            os.mkdir(directory, 0o711)
        except FileExistsError:
            raise DestinationExistsError(
                reason="the domain has a state of its TPM already", path=str(directory)
            ) from None
        try:
            for entry, content in files:
                _write_member(directory, entry, content)
            parts = sorted({directory / entry.name.partition("/")[0] for entry, _ in files})
            for each in (*parts, directory, directory.parent):
                sync_directory(each)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise


def remove_tpm(directory: PurePosixPath) -> None:
    """
    Remove the state of an emulated TPM that a restore has written; a missing one is fine.

    Args:
        directory: The directory that libvirt has for the domain's state.

    Raises:
        HostError: It cannot be removed.
    """
    with os_errors(str(directory)), suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _members(data: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Iterate over the files of an archive; one with anything but plain files is refused."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for entry in archive:
                part, _, name = entry.name.partition("/")
                plain = entry.isreg() and entry.sparse is None and entry.size <= len(data)
                file = archive.extractfile(entry) if plain else None
                if file is None or part not in _PARTS.values() or not _NAME.fullmatch(name):
                    raise HostError(reason=f"{entry.name!r} is no file of a TPM's state")
                yield entry, file.read()
    except tarfile.TarError as error:
        raise HostError(reason=f"the state of the TPM is no archive: {error}") from error


def _write_member(directory: PurePosixPath, entry: tarfile.TarInfo, content: bytes) -> None:
    path = os.path.join(directory, entry.name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, content)
        if os.geteuid() == 0:
            owner = _owner(entry)
            os.fchown(fd, *owner)
            os.chown(os.path.dirname(path), *owner)
        os.fsync(fd)
    finally:
        os.close(fd)


def _owner(entry: tarfile.TarInfo) -> tuple[int, int]:
    """Return who swtpm runs as: the owner before, or else the user that libvirt has for it."""
    for name in (entry.uname, *_USERS):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return found.pw_uid, found.pw_gid
    return entry.uid, entry.gid
