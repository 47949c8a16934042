"""
Make one image of several, beside them, then put it in their place.

::

    K <- (children)      K.merged        qemu-img commit K, A into an empty image on P; hash; sync
    A                    merge.json      from here on it is either there or finished
    P                    K.merged -> K   by one rename; a reader takes the point of the journal now
                         manifest        of the point
                         A, merge.json   removed

Where one of them has compressed clusters, so has the new image, if it can (`can_compress`); else
it could be larger than all.
The images are read only, and whole until the last step. What lies on K goes on lying on K, which
reads the same, so nothing else is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import PurePosixPath

from attrs import evolve, frozen

from fibackup.errors import HostError, ManifestError, RequirementError, StoreError
from fibackup.host import qemu_img
from fibackup.host.cancel import CancelToken
from fibackup.host.compress_image import can_compress, write_compressed
from fibackup.host.copy import hash_file
from fibackup.host.copy_image import read_qcow2_head, stored_depth
from fibackup.host.events import CopyProgress, ImageCopied, OnEvent
from fibackup.host.files import (
    TEMP_SUFFIX,
    fsync_directory,
    open_directory,
    publish_file,
    read_small,
    replace_file,
    temporary_file,
    write_once,
)
from fibackup.host.journals import read_merge
from fibackup.host.linked import refuse_needed
from fibackup.host.qemu_img import OnPercent
from fibackup.host.seals import MANIFEST_SUFFIX, seal_points, unseal_points
from fibackup.host.store_files import directories_in, exists, list_directory
from fibackup.host.stored_images import OpenImage, opened_images, while_verified
from fibackup.model.journal import Merge
from fibackup.model.point import RestorePoint, StoredImage
from fibackup.model.records import MERGE_FILE
from fibackup.parse.manifest import render_manifest, render_merge
from fibackup.plan.prune_steps import MergeImages
from fibackup.plan.requirements import check_compression
from fibackup.plan.steps import CopyImage

__all__ = [
    "MERGED_SUFFIX",
    "Prepared",
    "prepare",
    "put_in_place",
    "recover_merge",
    "remove_waiting",
]

MERGED_SUFFIX = ".merged"
"""What the name of a complete new image ends with until it has its place."""

_BLOCK_BYTES = 512
_HALF = 2
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@frozen
class Prepared:
    """
    A new image that waits for its place.

    Attributes:
        merge: What is to be done.
        image: The new image.
        freed_bytes: What the file system gets back, all in all.
    """

    merge: Merge
    image: StoredImage
    freed_bytes: int


def prepare(
    step: MergeImages,
    point: RestorePoint,
    dir_fd: int,
    path: PurePosixPath,
    on_event: OnEvent,
    cancel: CancelToken,
) -> Prepared:
    """
    Write the new image beside the old ones; readers are not disturbed.

    Args:
        step: The images.
        point: Their point, as its manifest says.
        dir_fd: The domain's directory, under the writer's lock.
        path: Its path.
        on_event: Gets `CopyProgress`, then `ImageCopied`.
        cancel: Asked while it runs.

    Returns:
        What to do under the readers' lock.

    Raises:
        StoreError: The point does not have these images.
        VerifyError: A stored image is not what its manifest says. Nothing is left behind.
        HostError: Writing failed. Nothing is left behind.
    """
    images = _own(step, point)
    with open_directory(step.target, dir_fd) as disk:
        image, freed = _write(step, disk, path / step.target, on_event, cancel)
    merged = evolve(
        point,
        disks=tuple(
            evolve(each, images=(*images[0], image, *images[1]))
            if each.target == step.target
            else each
            for each in point.disks
        ),
    )
    gone = tuple(each.name for each in step.images[1:])
    merge = Merge(step.target, image.name + MERGED_SUFFIX, image.name, merged, gone)
    on_event(ImageCopied(step.target, image.name, image.size_bytes, image.sha256))
    return Prepared(merge, image, freed)


def _own(
    step: MergeImages, point: RestorePoint
) -> tuple[tuple[StoredImage, ...], tuple[StoredImage, ...]]:
    """Return the point's images above and below those of the step."""
    own = point.disk(step.target).images
    start = own.index(step.images[0]) if step.images[0] in own else 0
    end = start + len(step.images)
    if own[start:end] != step.images:
        raise StoreError(
            domain=point.domain,
            target=step.target,
            reason=f"point {point.id} has other images than when the plan was made; plan again",
        )
    return own[:start], own[end:]


def _write(
    step: MergeImages,
    disk_fd: int,
    disk_path: PurePosixPath,
    on_event: OnEvent,
    cancel: CancelToken,
) -> tuple[StoredImage, int]:
    """Write, check and sync the new image, and give it its waiting name."""
    top = step.images[0]
    waiting = top.name + MERGED_SUFFIX
    with ExitStack() as stack:
        files = stack.enter_context(opened_images(step.images, disk_fd, disk_path))
        header, _ = read_qcow2_head(files[0][1], str(disk_path / top.name))
        parent = top.virtual_size_bytes if step.backing is not None else 0  # they all have one
        fits = can_compress(top.virtual_size_bytes, header.cluster_bytes, parent)
        depth = stored_depth(top.name, disk_fd)
        method = _method(files, disk_path, depth, cancel) if fits else None
        temp = stack.enter_context(temporary_file(waiting, disk_fd))
        names = [waiting, f"{top.name}.scratch", *([f"{top.name}.gathered"] if method else [])]
        for name in names[1:]:
            stack.enter_context(temporary_file(name, disk_fd))
        into, scratch, *rest = (disk_path / f".{name}{TEMP_SUFFIX}" for name in names)
        gathered = rest[0] if rest else into
        for destination, backing in ((gathered, step.backing), (scratch, None)):
            qemu_img.create_empty(
                destination,
                top.virtual_size_bytes,
                cluster_bytes=header.cluster_bytes,
                backing=backing,
                depth=depth,
                cancel=cancel,
            )
        progress = _progress(step, on_event)
        half = _HALF if method else 1
        _gather_and_verify(
            files, gathered, scratch, disk_path, depth, lambda done: progress(done / half), cancel
        )
        if method:
            write_compressed(
                CopyImage(step.target, gathered, "qcow2", waiting, step.backing, None, 0),
                disk_path,
                into,
                header.cluster_bytes,
                parent,
                method=method,
                depth=depth,
                on_percent=lambda done: progress(50 + done / half),
                cancel=cancel,
            )
        os.fdatasync(temp)
        image = _record(top, step.backing, temp, into, depth, cancel)
        freed = sum(os.fstat(fd).st_blocks for _, fd in files) - os.fstat(temp).st_blocks
        publish_file(waiting, disk_fd)
    return image, freed * _BLOCK_BYTES


def _method(
    files: Sequence[OpenImage], disk_path: PurePosixPath, depth: int, cancel: CancelToken
) -> str | None:
    """Return how the new image is compressed: as one of these is, or not when none is."""
    methods: set[str] = set()
    for image, fd in files:
        path = disk_path / image.name
        if qemu_img.check(path, "qcow2", depth=depth, cancel=cancel).compressed_clusters:
            methods.add(read_qcow2_head(fd, str(path))[0].compression)
    if not methods:
        return None
    try:
        check_compression(qemu_img.qemu_img_version())
    except RequirementError:  # it could not be proven, and a larger image is a right one
        return None
    return "zstd" if "zstd" in methods else "zlib"


def _progress(step: MergeImages, on_event: OnEvent) -> OnPercent:
    def progress(percent: float) -> None:
        done = int(step.write_bytes * percent / 100)
        on_event(CopyProgress(step.target, step.images[0].name, done, step.write_bytes))

    return progress


def _gather_and_verify(
    files: Sequence[OpenImage],
    into: PurePosixPath,
    scratch: PurePosixPath,
    disk_path: PurePosixPath,
    depth: int,
    on_percent: OnPercent,
    cancel: CancelToken,
) -> None:
    """Merge, and hash every image that is merged at the same time; a wrong one stops it."""
    paths = tuple(disk_path / image.name for image, _ in files)

    def act(linked: CancelToken) -> None:
        qemu_img.gather(paths, into, scratch, depth=depth, on_percent=on_percent, cancel=linked)

    while_verified(files, disk_path, act, cancel, threads=1)


def _record(
    top: StoredImage,
    backing: str | None,
    temp: int,
    path: PurePosixPath,
    depth: int,
    cancel: CancelToken,
) -> StoredImage:
    """Return what the manifest will say of the new image, once QEMU finds it sound."""
    result = qemu_img.check(path, "qcow2", depth=depth, cancel=cancel)
    header, _ = read_qcow2_head(temp, str(path))
    if not result.sound or (header.backing_name, header.virtual_size_bytes) != (
        backing,
        top.virtual_size_bytes,
    ):
        raise HostError(reason="the merged image is not what it should be", path=str(path))
    size = os.fstat(temp).st_size
    digest = hash_file(temp, size, on_bytes=lambda _: None, cancel=cancel)
    return evolve(top, size_bytes=size, sha256=digest, backing=backing)


# --- putting it in place ------------------------------------------------------------------------


def put_in_place(merge: Merge, dir_fd: int) -> None:
    """
    Write the journal, and do what it says.

    Args:
        merge: What is to be done.
        dir_fd: The domain's directory, under both locks.

    Raises:
        DomainBusyError: A domain runs on an image that would go, or a linked disk lies on it.
            Nothing was touched.
    """
    refuse_needed([f"{merge.target}/{name}" for name in merge.gone], dir_fd)
    write_once(MERGE_FILE, render_merge(merge).encode(), dir_fd)
    _finish(merge, dir_fd)


def recover_merge(dir_fd: int) -> None:
    """
    Finish a merge that a killed run has left; a journal whose image is nowhere only goes.

    Args:
        dir_fd: The domain's directory, under both locks.

    Raises:
        ManifestError: The journal is damaged: nothing is touched.
    """
    merge = read_merge(dir_fd)
    if merge is None:
        return
    if _is_there(merge, dir_fd):
        _finish(merge, dir_fd)
    else:
        _abandon(dir_fd)


def _is_there(merge: Merge, dir_fd: int) -> bool:
    """Tell whether the new image waits, or is what has its place: nothing goes without it."""
    with open_directory(merge.target, dir_fd) as disk:
        if exists(merge.file, disk):
            return True
        with suppress(FileNotFoundError):
            fd = os.open(merge.name, _OPEN, dir_fd=disk)
            try:
                size = merge.image.size_bytes
                return os.fstat(fd).st_size == size and merge.image.sha256 == hash_file(
                    fd, size, on_bytes=lambda _: None, cancel=CancelToken()
                )
            finally:
                os.close(fd)
    return False


def remove_waiting(dir_fd: int) -> None:
    """
    Remove images that wait for a place without a journal that would give it to them.

    Args:
        dir_fd: The domain's directory, under the writer's lock.
    """
    for target in sorted(directories_in(dir_fd)):
        with open_directory(target, dir_fd) as disk:
            for name in list_directory(disk):
                if name.endswith(MERGED_SUFFIX):
                    os.unlink(name, dir_fd=disk)


def _finish(merge: Merge, dir_fd: int) -> None:
    """Each act may have happened already."""
    point = merge.point.id + MANIFEST_SUFFIX
    with open_directory(merge.target, dir_fd) as disk:
        if exists(merge.file, disk):
            os.rename(merge.file, merge.name, src_dir_fd=disk, dst_dir_fd=disk)
            fsync_directory(disk)
        manifest = render_manifest(merge.point).encode()
        with suppress(FileNotFoundError, ManifestError):
            if read_small(point, dir_fd) == manifest:
                manifest = b""
        if manifest:
            unseal_points((merge.point.id,), dir_fd)
            replace_file(point, manifest, dir_fd)
        for name in merge.gone:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=disk)
        fsync_directory(disk)
    seal_points("", dir_fd)  # before the journal goes: whoever dies between is finished by the next
    _abandon(dir_fd)


def _abandon(dir_fd: int) -> None:
    """Remove the journal."""
    os.unlink(MERGE_FILE, dir_fd=dir_fd)
    fsync_directory(dir_fd)
