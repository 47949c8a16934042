"""
Write a disk of a point as one image, while the stored images that it is made of are checked.

::

    A.qcow2 <- B.qcow2 <- C.qcow2      each is hashed --- wrong: stop, nothing is written
                             `-------- qemu-img convert -- INTO/.vda.qcow2.tmp
                                                           all right: link INTO/vda.qcow2

The source goes through the page cache, because two read it. What is written goes to the disk while
the rest is read, and not in the end; whoever hashes stands back for qemu-img, which takes longer,
and for the hash of the largest image, which takes as long and is read ahead of: it follows qemu-img
through the pages, and what later images hide is missing there.

What was read is dropped from the page cache in the end, when it takes so much of the memory that
the guests would miss it. Below that the dropping is a tenth of the time that somebody waits for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import PurePosixPath

from fibackup.host.cancel import CancelToken
from fibackup.host.copy import extents
from fibackup.host.destination import destination_directory, temporary_destination
from fibackup.host.events import CopyProgress, OnEvent
from fibackup.host.files import TEMP_SUFFIX, publish_file
from fibackup.host.page_cache import drop, read_ahead, written_as_it_comes
from fibackup.host.qemu_img import convert
from fibackup.host.stored_images import OpenImage, opened_images, while_verified
from fibackup.plan.report import RestoredImage
from fibackup.plan.steps import FlattenImage

__all__ = ["flatten"]

_DROPPED_AT_ONCE = 64 << 20
_MUCH_OF_MEMORY = 4  # a fourth of it


def flatten(
    step: FlattenImage,
    disk_fd: int,
    disk_path: PurePosixPath,
    on_event: OnEvent,
    cancel: CancelToken,
) -> RestoredImage:
    """
    Write the images of a step as one.

    Args:
        step: The images, top first, and the destination.
        disk_fd: The disk's directory in the store.
        disk_path: Its path, for qemu-img.
        on_event: Gets `CopyProgress`.
        cancel: Asked while it runs.

    Returns:
        What was written.

    Raises:
        VerifyError: A stored image is not what its manifest says. Nothing is left behind.
        DestinationExistsError: The destination exists.
    """
    with ExitStack() as stack:
        files = stack.enter_context(opened_images(step.images, disk_fd, disk_path))
        directory = stack.enter_context(destination_directory(step.destination))
        temp = stack.enter_context(temporary_destination(step.destination.name, directory))
        crowded = _fills_memory(fd for _, fd in files)
        _convert_and_verify(step, files, temp, disk_path, on_event, cancel, crowded=crowded)
        if crowded:
            _drop_cache((fd, image.size_bytes) for image, fd in files)
        size = os.fstat(temp).st_size
        publish_file(step.destination.name, directory)
    return RestoredImage(
        target=step.target,
        path=step.destination,
        format=step.format,
        virtual_size_bytes=step.images[0].virtual_size_bytes,
        size_bytes=size,
    )


def _fills_memory(fds: Iterable[int]) -> bool:
    """Tell whether files take so much of the memory that others would miss it."""
    data_bytes = sum(os.fstat(fd).st_blocks * 512 for fd in fds)
    return data_bytes * _MUCH_OF_MEMORY > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _drop_cache(files: Iterable[tuple[int, int]]) -> None:
    """Drop clean pages up to a position, in several places at once: each page takes time."""
    parts = [
        (fd, start, min(_DROPPED_AT_ONCE, end - start))
        for fd, end in files
        for start in range(0, end, _DROPPED_AT_ONCE)
    ]
    with ThreadPoolExecutor(2, "fibackup-cache") as pool:
        for done in [pool.submit(drop, *part) for part in parts]:
            done.result()


def _convert_and_verify(
    step: FlattenImage,
    files: Sequence[OpenImage],
    temp_fd: int,
    disk_path: PurePosixPath,
    on_event: OnEvent,
    cancel: CancelToken,
    *,
    crowded: bool,
) -> None:
    """Convert and hash at the same time; a wrong hash stops the conversion."""
    total = step.images[0].virtual_size_bytes
    hashed: dict[str, int] = {}

    def progress(percent: float) -> None:
        on_event(
            CopyProgress(step.target, step.destination.name, int(total * percent / 100), total)
        )

    def act(linked: CancelToken) -> None:
        top = disk_path / step.images[0].name
        temp = step.destination.with_name(f".{step.destination.name}{TEMP_SUFFIX}")
        with written_as_it_comes(temp_fd, linked):
            convert(
                top,
                "qcow2",
                temp,
                step.format,
                depth=len(step.images),
                on_percent=progress,
                cancel=linked,
            )
        os.fdatasync(temp_fd)
        drop(temp_fd)
        if crowded:
            _drop_cache((fd, hashed.get(image.name, 0)) for image, fd in files)

    largest, fd = max(files, key=lambda each: each[0].size_bytes)
    found = extents(fd, largest.size_bytes)
    with read_ahead(fd, found, lambda: hashed.get(largest.name, 0)):
        while_verified(
            files,
            disk_path,
            act,
            cancel,
            threads=2,
            keep_cached=True,
            on_bytes=hashed.__setitem__,
        )
