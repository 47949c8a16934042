"""
Compress one frozen image into the store, and prove that the copy reads as the image does.

::

    convert    SOURCE on the stored parent    ->  qcow2, zstd clusters, the same cluster size
    compare    SOURCE alone  =  copy alone        what both have themselves, to the byte
    map        SOURCE alone  =  copy alone        what both leave to the parent

The last two together show that the copy reads on the stored parent as the byte copy would, at the
cost of what the image has itself; the parent's content is not read.

::

    parent     [ cluster ][ cluster ][ part]       where the parent, or the image, ends inside a
    image      [ written ]                         cluster, convert writes that cluster from the
    copy       [ written ]           [ part]       parent: such an image is not compressed
"""

from __future__ import annotations

import json
import tempfile
from pathlib import PurePosixPath

from fibackup.errors import HostError, QemuImgError, RequirementError
from fibackup.host import qemu_img
from fibackup.host.cancel import CancelToken
from fibackup.host.qemu_img import OnPercent
from fibackup.parse.qemu_img_json import Extent
from fibackup.plan.requirements import check_compression
from fibackup.plan.steps import CopyImage

__all__ = ["can_compress", "require_compression", "write_compressed"]

_RAW_CLUSTER_BYTES = 65536
_HALF = 2


def can_compress(virtual_bytes: int, cluster_bytes: int, parent_bytes: int) -> bool:
    """
    Tell whether a compressed copy can leave to its parent what the image leaves to it.

    Args:
        virtual_bytes: Virtual size of the image.
        cluster_bytes: Size of its clusters.
        parent_bytes: Virtual size of the stored image that it lies on, 0 without.

    Returns:
        False where what both have ends inside a cluster: qemu-img writes that cluster into the
        copy, where it would hide the parent's.

    Source:
        QEMU ``convert_iteration_sectors``: only whole clusters are left to a backing file.
    """
    return min(virtual_bytes, parent_bytes) % cluster_bytes == 0


def require_compression() -> None:
    """
    Make sure that qemu-img can write and prove images with clusters compressed by zstd.

    Raises:
        RequirementError: It is missing, too old, or was built without zstd.

    Source:
        QEMU 5.1, ``compression_type``; QEMU 6.1, ``present`` of ``qemu-img map``.
    """
    qemu_img.find_qemu_img()
    check_compression(qemu_img.qemu_img_version())
    with tempfile.TemporaryDirectory(prefix="fibackup-zstd-") as directory:
        try:
            qemu_img.create_zstd(PurePosixPath(directory, "try.qcow2"), cancel=CancelToken())
        except QemuImgError as error:
            raise RequirementError(
                reason=f"compression needs a qemu-img that was built with zstd: {error}"
            ) from error


def write_compressed(
    step: CopyImage,
    disk_path: PurePosixPath,
    destination: PurePosixPath,
    cluster_bytes: int | None,
    parent_bytes: int,
    *,
    method: str = "zstd",
    depth: int = 1,
    on_percent: OnPercent,
    cancel: CancelToken,
) -> None:
    """
    Write the image of *step* to *destination*, and compare.

    Args:
        step: What to copy; its source is locked by the caller.
        disk_path: Directory of the stored images of the disk.
        destination: In that directory; an empty file.
        cluster_bytes: Size of the source's clusters, None for a raw image.
        parent_bytes: Virtual size of the stored image that it lies on, 0 without.
        method: ``"zstd"`` or ``"zlib"``.
        depth: Images that the new one consists of, those under it included.
        on_percent: Called with 0 to 100.
        cancel: Ends the child.

    Raises:
        HostError: The copy does not read like its source.
        QemuImgError: It failed; the destination is incomplete.
        CancelledError: *cancel* was set; the destination is incomplete.

    Source:
        docs/adr/0024-compressed-images-are-proven.md.
    """
    under = disk_path / step.backing if step.backing is not None else None
    qemu_img.compress(
        _image(step, step.source, under),
        destination,
        step.backing,
        cluster_bytes or _RAW_CLUSTER_BYTES,
        method=method,
        depth=depth,
        on_percent=lambda percent: on_percent(percent / _HALF),
        cancel=cancel,
    )
    source, copy = _image(step, step.source, None), _qcow2(destination, None)
    same = qemu_img.compare(
        source, copy, on_percent=lambda percent: on_percent(50 + percent / _HALF), cancel=cancel
    )
    if same and step.backing is not None:
        had = qemu_img.allocation(source, cancel=cancel)
        has = qemu_img.allocation(copy, cancel=cancel)
        same = _below(had, parent_bytes) == _below(has, parent_bytes)
    if not same:
        raise HostError(
            target=step.target,
            reason="the compressed copy does not read like the image",
            path=str(step.source),
        )


def _below(extents: tuple[Extent, ...], end: int) -> tuple[Extent, ...]:
    """Return them up to *end*: above it, nothing and zeros are the same."""
    return tuple(
        Extent(each.start, min(each.end, end), each.present) for each in extents if each.start < end
    )


def _image(step: CopyImage, path: PurePosixPath, under: PurePosixPath | None) -> str:
    return (
        _qcow2(path, under)
        if step.format != "raw"
        else _options({"driver": "raw", "file": _file(path)})
    )


def _qcow2(path: PurePosixPath, under: PurePosixPath | None) -> str:
    backing = {"driver": "qcow2", "file": _file(under)} if under is not None else None
    return _options({"driver": "qcow2", "file": _file(path), "backing": backing})


def _file(path: PurePosixPath) -> dict[str, str]:
    return {"driver": "file", "filename": str(path)}


def _options(options: dict[str, object]) -> str:
    return "json:" + json.dumps(options)
