"""
What ``qemu-img`` prints with ``--output=json``.

::

    qemu-img info  --output=json -f qcow2 --backing-chain IMAGE    ImageInfo, ImageInfo, ...
    qemu-img check --output=json -f qcow2 IMAGE                    CheckResult
    qemu-img map   --output=json IMAGE                             Extent, Extent, ...

Keys that are not used may come and go between versions of QEMU; those that are used are read
strictly.
"""

from __future__ import annotations

import json
import re
from typing import TypeVar, cast

from attrs import frozen

from fibackup.errors import ParseError

__all__ = [
    "CheckResult",
    "Extent",
    "ImageInfo",
    "is_stale_count",
    "parse_check",
    "parse_image_info",
    "parse_map",
]

_T = TypeVar("_T", str, int, bool)
_STALE_COUNT = re.compile(
    r"ERROR (cluster \d+ refcount=\d+ reference=1"
    r"|OFLAG_COPIED (data|L2) cluster: .*\brefcount=\d+)",
    re.ASCII,
)


@frozen
class ImageInfo:
    """
    An image, as ``qemu-img info`` sees it.

    Attributes:
        filename: The name that it was opened by.
        format: The driver that read it.
        virtual_size_bytes: What a guest sees.
        actual_size_bytes: What the file takes, None when the protocol does not tell.
        backing_filename: Backing file name as written, or None.
        full_backing_filename: The same, made absolute by QEMU.
        backing_format: Declared format of the backing file, or None.
        cluster_bytes: Size of a cluster, None for formats without.
        encrypted: True when guest data is encrypted.
    """

    filename: str
    format: str
    virtual_size_bytes: int
    actual_size_bytes: int | None = None
    backing_filename: str | None = None
    full_backing_filename: str | None = None
    backing_format: str | None = None
    cluster_bytes: int | None = None
    encrypted: bool = False


@frozen
class CheckResult:
    """
    What ``qemu-img check`` found.

    Attributes:
        filename: The name that the image was opened by.
        format: The driver that read it.
        check_errors: Errors that kept it from checking.
        corruptions: Metadata that is wrong.
        leaks: Clusters that nothing refers to: lost space, not lost data.
        image_end_offset: Where the image ends in the file, None when not told.
        compressed_clusters: Clusters that are compressed.
        stale_counts: Those of the corruptions that are wrong counts of references, and no more.
    """

    filename: str
    format: str
    check_errors: int = 0
    corruptions: int = 0
    leaks: int = 0
    image_end_offset: int | None = None
    compressed_clusters: int = 0
    stale_counts: int = 0

    @property
    def sound(self) -> bool:
        """True when the data can be trusted; leaks do no harm to it."""
        return not self.check_errors and not self.corruptions

    @property
    def sound_if_dirty(self) -> bool:
        """True when the data of an image can be trusted whose header has the dirty bit."""
        return not self.check_errors and self.corruptions == self.stale_counts


@frozen
class Extent:
    """
    A run of bytes that an image has itself, or leaves to the image under it.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        present: True when the image has it itself, be it as zeros.
    """

    start: int
    end: int
    present: bool


def parse_image_info(text: str) -> tuple[ImageInfo, ...]:
    """
    Return the images that ``qemu-img info`` described.

    Args:
        text: Its standard output, with or without ``--backing-chain``.

    Returns:
        One image, or the whole chain with the active layer first.

    Raises:
        ParseError: Not JSON, or a value that is needed is missing or of another type. Nothing was
            touched.

    Source:
        QEMU qapi/block-core.json, ``ImageInfo``.
    """
    document = _load(text, "info")
    if not isinstance(document, list):
        return (_info(document, "info"),)
    items = cast("list[object]", document)
    return tuple(_info(item, f"info[{number}]") for number, item in enumerate(items))


def is_stale_count(line: str) -> bool:
    """
    Tell whether a complaint is only about a count of references that lags behind.

    It is what QEMU leaves of an image with ``lazy_refcounts`` when it is killed: nobody needs the
    counts to read, and the next writer makes them anew. A cluster that has two references, one that
    is not aligned, or one beyond the end is another matter.

    Args:
        line: Of the standard error of ``qemu-img check``.

    Source:
        QEMU docs/interop/qcow2.txt, the dirty bit; block/qcow2-refcount.c,
        ``compare_refcounts()`` and ``check_oflag_copied()``.
    """
    return _STALE_COUNT.fullmatch(line.strip()) is not None


def parse_check(text: str, *, stale_counts: int = 0) -> CheckResult:
    """
    Return what ``qemu-img check`` found.

    Args:
        text: Its standard output.
        stale_counts: Lines of its standard error that are `is_stale_count`.

    Returns:
        The counts; those that are left out are 0.

    Raises:
        ParseError: Not JSON, or a value that is needed is missing or of another type. Nothing was
            touched.

    Source:
        QEMU qapi/block-core.json, ``ImageCheck``.
    """
    found = _object(_load(text, "check"), "check")
    return CheckResult(
        filename=_need(_get(found, "filename", str, "check"), "filename", "check"),
        format=_need(_get(found, "format", str, "check"), "format", "check"),
        check_errors=_need(_size(found, "check-errors", "check"), "check-errors", "check"),
        corruptions=_size(found, "corruptions", "check") or 0,
        leaks=_size(found, "leaks", "check") or 0,
        image_end_offset=_size(found, "image-end-offset", "check"),
        compressed_clusters=_size(found, "compressed-clusters", "check") or 0,
        stale_counts=stale_counts,
    )


def parse_map(text: str) -> tuple[Extent, ...]:
    """
    Return what ``qemu-img map`` said; neighbours of one kind are one.

    Args:
        text: Its standard output.

    Returns:
        The extents in order, without gaps.

    Raises:
        ParseError: Not JSON, extents with a gap, or one that does not say ``present``, as before
            QEMU 6.1. Nothing was touched.

    Source:
        QEMU docs/tools/qemu-img.rst, ``map``.
    """
    document = _load(text, "map")
    if not isinstance(document, list):
        raise ParseError(where="map", reason=f"expected a list, found {type(document).__name__}")
    found: list[Extent] = []
    for number, item in enumerate(cast("list[object]", document)):
        where = f"map[{number}]"
        entry = _object(item, where)
        start = _need(_size(entry, "start", where), "start", where)
        length = _need(_size(entry, "length", where), "length", where)
        present = _need(_get(entry, "present", bool, where), "present", where)
        end = start + length
        if start != (found[-1].end if found else 0):
            raise ParseError(where=f"{where}.start", reason=f"{start} does not follow")
        if found and found[-1].present == present:
            start = found.pop().start
        found.append(Extent(start, end, present))
    return tuple(found)


def _info(data: object, where: str) -> ImageInfo:
    found = _object(data, where)
    return ImageInfo(
        filename=_need(_get(found, "filename", str, where), "filename", where),
        format=_need(_get(found, "format", str, where), "format", where),
        virtual_size_bytes=_need(_size(found, "virtual-size", where), "virtual-size", where),
        actual_size_bytes=_size(found, "actual-size", where),
        backing_filename=_get(found, "backing-filename", str, where),
        full_backing_filename=_get(found, "full-backing-filename", str, where),
        backing_format=_get(found, "backing-filename-format", str, where),
        cluster_bytes=_size(found, "cluster-size", where),
        encrypted=_get(found, "encrypted", bool, where) or False,
    )


def _load(text: str, where: str) -> object:
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParseError(where=where, reason=f"not JSON: {error}") from None
    return document


def _object(data: object, where: str) -> dict[str, object]:
    if not isinstance(data, dict):
        raise ParseError(where=where, reason=f"expected an object, found {type(data).__name__}")
    return cast("dict[str, object]", data)


def _get(found: dict[str, object], key: str, kind: type[_T], where: str) -> _T | None:
    value = found.get(key)
    if value is None:
        return None
    if type(value) is not kind:
        reason = f"expected {kind.__name__}, found {type(value).__name__}"
        raise ParseError(where=f"{where}.{key}", reason=reason)
    return value


def _size(found: dict[str, object], key: str, where: str) -> int | None:
    value = _get(found, key, int, where)
    if value is not None and value < 0:
        raise ParseError(where=f"{where}.{key}", reason=f"{value} is negative")
    return value


def _need(value: _T | None, key: str, where: str) -> _T:
    if value is None:
        raise ParseError(where=f"{where}.{key}", reason="missing")
    return value
