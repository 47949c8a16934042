"""
Look at the files of a chain: identity, sizes, and what each header says.

::

    Image(path, format)  --stat, first cluster-->  Image(..., identity, header_backing)

No backing file is opened because a header names it: only what libvirt lists is looked at.
"""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath

from attrs import evolve

from fibackup.errors import FibackupError, HostError, ParseError
from fibackup.host.copy_image import read_qcow2_head
from fibackup.host.files import identity_of, os_errors
from fibackup.model.chain import BackingChain, Image
from fibackup.parse.qcow2_header import Qcow2Header, resolve_backing

__all__ = ["examine_chain"]


def examine_chain(chain: BackingChain) -> BackingChain:
    """
    Return *chain* with what its files tell.

    Only qcow2 images have their header read; an image that is declared raw is never looked into,
    because its guest may have written anything there.

    Args:
        chain: Paths and formats, as libvirt gives them.

    Returns:
        The same images with identity, sizes and header facts; a file that cannot be read or
        understood has its ``problem`` set.

    Source:
        QEMU docs/interop/qcow2.txt; stat(2).
    """
    following = (*chain.images[1:], None)
    return evolve(
        chain,
        images=tuple(
            _examine(image, under) for image, under in zip(chain.images, following, strict=True)
        ),
    )


def _examine(image: Image, under: Image | None) -> Image:
    try:
        with os_errors(str(image.path)):
            fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _examine_open(image, under, fd)
        finally:
            os.close(fd)
    except FibackupError as error:
        return evolve(image, problem=error.reason)


def _examine_open(image: Image, under: Image | None, fd: int) -> Image:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise HostError(reason="not a regular file", path=str(image.path))
    known = evolve(image, identity=identity_of(fd), allocated_bytes=found.st_blocks * 512)
    if image.format == "raw":
        return evolve(known, virtual_size_bytes=found.st_size)
    if image.format != "qcow2":
        return known
    header, _ = read_qcow2_head(fd, str(image.path))
    _refuse_features(header)
    return evolve(
        known,
        virtual_size_bytes=header.virtual_size_bytes,
        header_backing=_backing(header, image.path, under),
    )


def _refuse_features(header: Qcow2Header) -> None:
    if header.has_data_file:
        raise ParseError(reason="its data is in another file (data-file)")
    if header.corrupt:
        raise ParseError(reason="QEMU has marked it corrupt; look at it with qemu-img check")
    if header.encrypted:
        raise ParseError(reason="it is encrypted")


def _backing(header: Qcow2Header, path: PurePosixPath, under: Image | None) -> str:
    """Return the backing file, as libvirt names it where that is the same file."""
    if header.backing_name is None:
        return ""
    named = resolve_backing(header.backing_name, path.parent)
    if under is not None and os.path.realpath(named) == os.path.realpath(under.path):
        return str(under.path)
    return str(named)
