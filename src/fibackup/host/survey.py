"""What lies in a domain's directory of a store: names, sizes, kinds, and what QEMU has open."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from fibackup.host.files import open_directory
from fibackup.host.lock import is_in_use
from fibackup.host.store_files import list_directory
from fibackup.model.point import describe_copies
from fibackup.model.verification import Fault, FaultKind, FoundFile
from fibackup.plan.records import record_faults

__all__ = ["list_files", "open_images", "survey_faults"]

_IMAGE = ".qcow2"


def list_files(dir_fd: int) -> tuple[FoundFile, ...]:
    """
    Return every file in a domain's directory and in the directories below it.

    Args:
        dir_fd: The domain's directory.

    Returns:
        By name; a link, and a directory below those, is one that is not regular.

    Source:
        lstat(2).
    """
    return tuple(sorted(_files(dir_fd, ""), key=lambda file: file.name))


def _files(dir_fd: int, prefix: str) -> Iterator[FoundFile]:
    for name in list_directory(dir_fd):
        with suppress(FileNotFoundError):  # what a writer has just taken away
            status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and not prefix:
                with open_directory(name, dir_fd) as below:
                    yield from _files(below, f"{name}/")
            else:
                regular = stat.S_ISREG(status.st_mode)
                yield FoundFile(prefix + name, status.st_size, regular)


def open_images(dir_fd: int) -> frozenset[str]:
    """
    Return the images that a QEMU process has open, such as ``"vda/20261124T040407Z.qcow2"``.

    Args:
        dir_fd: The domain's directory.

    Source:
        QEMU block/file-posix.c; where a file system has no such locks, none can be told.
    """
    return frozenset(
        file.name
        for file in list_files(dir_fd)
        if file.regular and file.name.endswith(_IMAGE) and _is_open(file.name, dir_fd)
    )


def _is_open(file: str, dir_fd: int) -> bool:
    with suppress(OSError):  # nothing can be told of what cannot be read
        return is_in_use(file, dir_fd)
    return False


def survey_faults(
    directories: Sequence[str], damaged_records: Mapping[str, str]
) -> tuple[Fault, ...]:
    """
    Return what is wrong beside the points' own files.

    Args:
        directories: Directories of the store with the domain's UUID.
        damaged_records: What is wrong with the small files that tell of all points, by name.

    Source:
        docs/verify.md, "What is found".
    """
    found = list(record_faults(damaged_records))
    if len(directories) > 1:
        found.insert(0, Fault(FaultKind.COPY, directories[0], describe_copies(directories)))
    return tuple(found)
