"""
Commit overlays of a domain that is off, and keep it off until its definition names the base.

::

    qemu-img commit      QEMU's own lock: nobody else has an image of the chain
    hold_image_lock      on the active layer, as it was before: nobody started the domain
    yield                the caller defines the domain with the base
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from fibackup.errors import DomainBusyError, HostError
from fibackup.host import qemu_img
from fibackup.host.cancel import CancelToken
from fibackup.host.copy_image import read_qcow2_head
from fibackup.host.events import CopyProgress, OnEvent
from fibackup.host.files import identity_of, os_errors
from fibackup.host.lock import hold_image_lock
from fibackup.model.chain import MAX_DEPTH
from fibackup.plan.steps import CommitOffline

__all__ = ["committed"]


@contextmanager
def committed(job: CommitOffline, on_event: OnEvent, cancel: CancelToken) -> Generator[None]:
    """
    Commit the images of *job*, and hold the active layer so that the domain cannot start on it.

    Args:
        job: What to commit.
        on_event: Gets `CopyProgress`.
        cancel: Ends the commit.

    Yields:
        While nobody can write the active layer, and its content is in the base as well.

    Raises:
        HostError: The active layer has bitmaps, or the commit failed. It shows what it showed
            before.
        DomainBusyError: Somebody has written the active layer, or writes it now.
        CancelledError: *cancel* was set.

    Source:
        qemu-img(1), ``commit``; QEMU docs/system/images, "Disk image file locking".
    """
    total = job.identity.size_bytes

    def on_percent(percent: float) -> None:
        done = int(total * percent / 100)
        on_event(CopyProgress(job.target, "commit", done, total))

    path = str(job.top)
    with os_errors(path):
        fd = os.open(job.top, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _refuse_bitmaps(fd, path)
    finally:
        os.close(fd)
    qemu_img.commit(
        job.base, job.top, "qcow2", depth=MAX_DEPTH, on_percent=on_percent, cancel=cancel
    )
    with os_errors(path):
        fd = os.open(job.top, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        hold_image_lock(fd, path)
        if identity_of(fd) != job.identity:
            raise DomainBusyError(reason="the image was written while it was committed", path=path)
        yield
    finally:
        os.close(fd)


def _refuse_bitmaps(fd: int, path: str) -> None:
    """Refuse an image whose bitmaps qemu-img would leave behind, and store anew as it closes it."""
    header, _ = read_qcow2_head(fd, path)
    if header.has_bitmaps:
        raise HostError(
            reason="it has bitmaps, such as those of libvirt's checkpoints, which a commit of a "
            "domain that is off would lose: start the domain and consolidate it then, or delete "
            "them first: virsh checkpoint-delete",
            path=path,
        )
