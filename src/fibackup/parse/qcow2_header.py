"""
The header of a qcow2 image: read strictly, and rewritten with another backing file name.

All of it lies in the first cluster; numbers are big-endian::

    0        72           104..112        header_length
    +--------+------------+---------------+------------------+-----+--------------+-- ... --+
    | common | version 3  | compression   | extensions       | END | backing name |  zeros  |
    +--------+------------+---------------+------------------+-----+--------------+-- ... --+
      |                                     type length data        ^               one cluster
      `-- backing_file_offset, backing_file_size -------------------'

Nothing is opened here: a name in a header is text, and it may be a lie.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from struct import Struct
from typing import cast

from attrs import frozen

from fibackup.errors import ParseError

__all__ = [
    "MAX_BACKING_NAME_BYTES",
    "MAX_CLUSTER_BYTES",
    "NEEDED_BYTES",
    "Qcow2Header",
    "backing_files",
    "is_qcow2",
    "needed_bytes",
    "parse_qcow2_header",
    "resolve_backing",
    "rewrite_backing",
    "stored_header_fault",
]

MAX_BACKING_NAME_BYTES = 1023
"""The specification's limit for a backing file name."""

MAX_CLUSTER_BYTES = 2 << 20
"""QEMU's limit for a cluster, and so for what a reader of headers must supply."""

NEEDED_BYTES = 512
"""The smallest cluster: what `needed_bytes` wants to see of a file."""

_MAGIC = b"QFI\xfb"
_COMMON = Struct(">4sIQIIQIIQQIIQ")
_VERSION_3 = Struct(">QQQII")
_EXTENSION = Struct(">II")
_PLACE = Struct(">QI")  # backing_file_offset, backing_file_size
_PLACE_OFFSET = 8
_V2_BYTES = 72
_V3_BYTES = 104
_MIN_CLUSTER_BITS, _MAX_CLUSTER_BITS = 9, 21

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2

_END = 0
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE_NAME = 0x44415441
_BITMAPS = 0x23852875
_ENCRYPTION = 0x0537BE77
_ONCE = frozenset({_BACKING_FORMAT, _DATA_FILE_NAME, _BITMAPS, _ENCRYPTION})
_MAX_EXTENSIONS = 256

_MAX_OFFSET = 1 << 63
_MAX_L1_ENTRIES = 1 << 22  # 32 MiB, QCOW_MAX_L1_SIZE
_MAX_SNAPSHOTS = 1 << 16  # QCOW_MAX_SNAPSHOTS
_MAX_REFCOUNT_BYTES = 8 << 20  # QCOW_MAX_REFTABLE_SIZE
_MAX_REFCOUNT_ORDER = 6
_MAX_CRYPT_METHOD = 2
_DEFAULT_REFCOUNT_ORDER = 4
_COMPRESSION_NAMES = ("zlib", "zstd")

_FORMAT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", re.ASCII)  # QEMU keeps 15 bytes of it
_PROTOCOL = re.compile(r"[^:/]*:")  # QEMU, path_has_protocol()
_LOCAL = ("file:", "host_device:")
_REMOTE = frozenset(
    {
        *("ftp", "ftps", "gluster", "gluster+rdma", "gluster+tcp", "http", "https", "iscsi"),
        *("iser", "nbd", "nbd+tcp", "nfs", "rbd", "sheepdog", "ssh", "tftp", "vxhs"),
    }
)
"""Protocols of images that another machine has."""


@frozen
class Qcow2Header:
    """
    What the header of a qcow2 image says.

    Attributes:
        version: 2 or 3.
        virtual_size_bytes: What a guest sees.
        cluster_bytes: Size of a cluster, a power of two from 512 to 2 MiB.
        backing_name: Backing file name as written, bytes that are not UTF-8 as surrogates;
            None when there is none.
        backing_format: Format of the backing file, None when the header does not say.
        data_file: Name of the external data file, None when the header names none.
        incompatible: Feature bits that a reader must know.
        compatible: Feature bits that a reader may ignore.
        autoclear: Feature bits that a writer clears when it does not know them.
        crypt_method: 0 none, 1 AES, 2 LUKS.
        compression: ``"zlib"`` or ``"zstd"``.
        header_length: Length of the fixed part.
        refcount_order: Refcounts have ``1 << refcount_order`` bits.
        snapshot_count: Number of internal snapshots.
        snapshots_offset: Where their table lies.
        l1_entries: Entries of the L1 table.
        l1_offset: Where it lies.
        refcount_offset: Where the refcount table lies.
        refcount_clusters: Clusters that it takes.
        extensions: Type and data of each header extension, in order, without the end mark.
    """

    version: int
    virtual_size_bytes: int
    cluster_bytes: int
    backing_name: str | None
    backing_format: str | None
    data_file: str | None
    incompatible: int
    compatible: int
    autoclear: int
    crypt_method: int
    compression: str
    header_length: int
    refcount_order: int
    snapshot_count: int
    snapshots_offset: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    extensions: tuple[tuple[int, bytes], ...]

    @property
    def dirty(self) -> bool:
        """True when refcounts may be stale: the image was not closed (``lazy_refcounts``)."""
        return bool(self.incompatible & _DIRTY)

    @property
    def corrupt(self) -> bool:
        """True when QEMU found the image damaged; nobody may write it."""
        return bool(self.incompatible & _CORRUPT)

    @property
    def has_data_file(self) -> bool:
        """True when guest data lies in another file."""
        return bool(self.incompatible & _DATA_FILE)

    @property
    def extended_l2(self) -> bool:
        """True when clusters have subclusters."""
        return bool(self.incompatible & _EXTENDED_L2)

    @property
    def has_bitmaps(self) -> bool:
        """True when bitmaps of dirty clusters are in the image."""
        return any(kind == _BITMAPS for kind, _ in self.extensions)

    @property
    def encrypted(self) -> bool:
        """True when guest data is encrypted."""
        return self.crypt_method != 0


@frozen
class _Common:
    """The first 72 bytes, as they lie there."""

    magic: bytes
    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    virtual_size_bytes: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshot_count: int
    snapshots_offset: int


@frozen
class _Version3:
    """What version 3 adds, with the values that version 2 has by definition."""

    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = _DEFAULT_REFCOUNT_ORDER
    header_length: int = _V2_BYTES


def needed_bytes(first_512: bytes) -> int:
    """
    Return how many bytes of a file `parse_qcow2_header` and `rewrite_backing` want to see.

    Args:
        first_512: The first bytes of the file, 72 or more.

    Returns:
        The size of a cluster, 512 bytes to 2 MiB.

    Raises:
        ParseError: Not a qcow2 image. Nothing was touched.

    Source:
        QEMU docs/interop/qcow2: header, extensions and name lie in the first cluster.
    """
    return 1 << _common(first_512).cluster_bits


def parse_qcow2_header(data: bytes) -> Qcow2Header:
    """
    Return what the header of a qcow2 image says.

    Args:
        data: The first bytes of the file: its first cluster, or all of a shorter file.

    Returns:
        The header; dirty and corrupt images have one too.

    Raises:
        ParseError: Not a qcow2 image, or not as the specification wants it. Nothing was touched.

    Source:
        QEMU docs/interop/qcow2, "Header" and "Header extensions".
    """
    common = _common(data)
    cluster = data[: 1 << common.cluster_bits]
    added = _version_3(cluster, common)
    _check_tables(common, added)
    extensions = _extensions(cluster, added.header_length, common)
    known = dict(extensions)
    data_file = _text(known[_DATA_FILE_NAME], "data file") if _DATA_FILE_NAME in known else None
    return Qcow2Header(
        version=common.version,
        virtual_size_bytes=common.virtual_size_bytes,
        cluster_bytes=1 << common.cluster_bits,
        backing_name=_backing_name(cluster, common),
        backing_format=_backing_format(known.get(_BACKING_FORMAT, b"")),
        data_file=data_file,
        incompatible=added.incompatible,
        compatible=added.compatible,
        autoclear=added.autoclear,
        crypt_method=common.crypt_method,
        compression=_compression(cluster, added),
        header_length=added.header_length,
        refcount_order=added.refcount_order,
        snapshot_count=common.snapshot_count,
        snapshots_offset=common.snapshots_offset,
        l1_entries=common.l1_entries,
        l1_offset=common.l1_offset,
        refcount_offset=common.refcount_offset,
        refcount_clusters=common.refcount_clusters,
        extensions=extensions,
    )


def resolve_backing(name: str, directory: PurePosixPath) -> PurePosixPath:
    """
    Return the path that a backing file name means, by its letters alone.

    Args:
        name: The name as the header has it.
        directory: Absolute directory of the image that has the name.

    Returns:
        An absolute path; ``..`` stays in it, because QEMU leaves it to the kernel.

    Raises:
        ParseError: The name is empty, or names no file but a protocol. Nothing was touched.

    Source:
        QEMU ``path_has_protocol()`` and ``path_combine()``.
    """
    if not name or "\0" in name or not directory.is_absolute():
        raise ParseError(where="backing file", reason=f"{name!r} in {directory} is no file name")
    _refuse_protocol(name)
    return directory / name


def is_qcow2(head: bytes) -> bool:
    """
    Tell whether QEMU would take a file for a qcow2 image, sound or not.

    Args:
        head: Its first bytes, 4 or more.

    Source:
        QEMU docs/interop/qcow2, "Header": the magic number.
    """
    return head.startswith(_MAGIC)


def backing_files(name: str, directory: PurePosixPath) -> tuple[PurePosixPath, ...]:
    """
    Return the files of this machine that a backing file name means, however it says so.

    Nothing that comes from here is trusted: it tells what somebody else may need.

    Args:
        name: The name as the header has it: a path, ``file:...`` or ``json:{...}``.
        directory: Absolute directory of the image that has the name.

    Returns:
        The files; none when the image is on another machine.

    Raises:
        ParseError: It cannot be told. Nothing was touched.

    Source:
        QEMU ``bdrv_fill_options()``: "json:" holds the options of ``blockdev-add``.
    """
    if name.startswith("json:"):
        return _json_files(name.removeprefix("json:"))
    for prefix in _LOCAL:
        name = name.removeprefix(prefix)
    if (found := _PROTOCOL.match(name)) and found[0][:-1] in _REMOTE:
        return ()
    return (resolve_backing(name, directory),)


def _json_files(text: str) -> tuple[PurePosixPath, ...]:
    """Return the files that options of QEMU name; libvirt starts QEMU in the root directory."""
    try:
        options = tuple(_options(json.loads(text)))
    except (ValueError, RecursionError):
        raise _bad("backing file", f"{text!r} is not JSON") from None
    names = [value for option, value in options if option == "filename"]
    remote = any(value in _REMOTE for option, value in options if option == "driver")
    if not names and not remote:
        raise _bad("backing file", f"{text!r} names no file")
    root = PurePosixPath("/")
    return tuple(path for name in names for path in backing_files(name, root))


def _options(node: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the last part of the name of each option that is a text, and that text."""
    if isinstance(node, str):
        yield name.rpartition(".")[2], node
    elif isinstance(node, dict):
        for key, value in cast("dict[str, object]", node).items():
            yield from _options(value, key)
    elif isinstance(node, list):
        for value in cast("list[object]", node):
            yield from _options(value)


def rewrite_backing(cluster: bytes, *, name: str | None, format: str | None) -> bytes:  # noqa: A002
    """
    Return the first cluster of an image with another backing file name and format.

    Args:
        cluster: The whole first cluster; of a file that is shorter than one, all of it.
        name: The new backing file name, or None for an image that stands alone.
        format: Format of the new backing file, or None to leave it out.

    Returns:
        One cluster; all other header fields and extensions are the same, bit for bit.

    Raises:
        ParseError: Not a sound qcow2 header, something else lies in the first cluster, or the
            name does not fit. Nothing was touched.

    Source:
        QEMU ``qcow2_update_header()``, which writes the cluster anew in the same order.
    """
    header = parse_qcow2_header(cluster)
    _check_alone(header, len(cluster))
    name_bytes = _name_bytes(name, format)
    extensions = _with_format(header.extensions, format)
    head = cluster[: header.header_length] + b"".join(map(_pack, extensions)) + bytes(8)
    place = _PLACE.pack(len(head) if name_bytes else 0, len(name_bytes))
    after = _PLACE_OFFSET + _PLACE.size
    out = head[:_PLACE_OFFSET] + place + head[after:] + name_bytes
    if len(out) > header.cluster_bytes:
        raise _bad("backing file", f"{name!r} does not fit into {header.cluster_bytes} bytes")
    return out.ljust(header.cluster_bytes, b"\0")


def stored_header_fault(
    header: Qcow2Header, *, backing: str | None, virtual_size_bytes: int
) -> str:
    """
    Return how the header of a stored image contradicts its manifest, or nothing.

    Args:
        header: The header.
        backing: Backing file name by the manifest, None for a base.
        virtual_size_bytes: What a guest sees by the manifest.

    Source:
        docs/store-format.md, ``images``.
    """
    if header.has_data_file or header.data_file is not None:
        return "its header names a data file"
    if header.backing_name != backing:
        return (
            f"its header names the backing file {header.backing_name!r}, the manifest {backing!r}"
        )
    if backing is not None and header.backing_format != "qcow2":
        return f"its header says that the backing file has the format {header.backing_format!r}"
    if header.virtual_size_bytes != virtual_size_bytes:
        found = header.virtual_size_bytes
        return f"its header says {found} bytes virtual, the manifest {virtual_size_bytes}"
    return ""


def _bad(where: str, reason: str) -> ParseError:
    return ParseError(where=where, reason=reason)


def _common(data: bytes) -> _Common:
    """Read and judge the first 72 bytes."""
    if data[:4] != _MAGIC:
        raise _bad("magic", "not a qcow2 image")
    if len(data) < _V2_BYTES:
        raise _bad("header", f"cut off after {len(data)} bytes")
    common = _Common(*_COMMON.unpack_from(data))
    if common.version not in {2, 3}:
        raise _bad("version", f"{common.version} is not 2 or 3")
    if not _MIN_CLUSTER_BITS <= common.cluster_bits <= _MAX_CLUSTER_BITS:
        raise _bad("cluster_bits", f"{common.cluster_bits} is not 9 to 21")
    return common


def _version_3(cluster: bytes, common: _Common) -> _Version3:
    """Read and judge what version 3 adds."""
    if common.version == 2:
        return _Version3()
    if len(cluster) < _V3_BYTES:
        raise _bad("header", f"cut off after {len(cluster)} bytes")
    added = _Version3(*_VERSION_3.unpack_from(cluster, _V2_BYTES))
    unknown = added.incompatible & ~_KNOWN_INCOMPATIBLE
    if unknown:
        raise _bad("incompatible_features", f"unknown feature bits {unknown:#x}")
    length = added.header_length
    if length < _V3_BYTES or length % 8 or length > len(cluster):
        raise _bad("header_length", f"{length} is impossible")
    if added.refcount_order > _MAX_REFCOUNT_ORDER:
        raise _bad("refcount_order", f"{added.refcount_order} is more than 6")
    return added


def _check_tables(common: _Common, added: _Version3) -> None:
    """Refuse sizes and places of tables that QEMU refuses."""
    cluster_bytes = 1 << common.cluster_bits
    limits = (
        ("size", common.virtual_size_bytes, _MAX_OFFSET - 1),
        ("crypt_method", common.crypt_method, _MAX_CRYPT_METHOD),
        ("l1_size", common.l1_entries, _MAX_L1_ENTRIES),
        ("nb_snapshots", common.snapshot_count, _MAX_SNAPSHOTS),
        ("refcount_table_clusters", common.refcount_clusters, _MAX_REFCOUNT_BYTES // cluster_bytes),
    )
    for where, value, limit in limits:
        if value > limit:
            raise _bad(where, f"{value} is more than {limit}")
    offsets = (
        ("l1_table_offset", common.l1_offset),
        ("refcount_table_offset", common.refcount_offset),
        ("snapshots_offset", common.snapshots_offset),
    )
    for where, offset in offsets:
        if offset % cluster_bytes or offset >= _MAX_OFFSET:
            raise _bad(where, f"{offset} is not the start of a cluster")
    if added.incompatible & _EXTENDED_L2 and common.cluster_bits < 14:
        raise _bad("cluster_bits", "extended L2 entries need clusters of 16 KiB")


def _compression(cluster: bytes, added: _Version3) -> str:
    """Read the compression type, which the feature bit announces when it is not zlib."""
    kind = cluster[_V3_BYTES] if added.header_length > _V3_BYTES else 0
    if kind >= len(_COMPRESSION_NAMES) or bool(kind) != bool(added.incompatible & _COMPRESSION):
        raise _bad("compression_type", f"{kind} contradicts the feature bits, or is unknown")
    return _COMPRESSION_NAMES[kind]


def _extensions(cluster: bytes, start: int, common: _Common) -> tuple[tuple[int, bytes], ...]:
    """Walk the extensions up to the end mark, the backing file name or the cluster's end."""
    stop = common.backing_offset or len(cluster)
    if not start <= stop <= len(cluster):
        raise _bad("backing_file_offset", f"{stop} is not behind the header in the first cluster")
    found: list[tuple[int, bytes]] = []
    at = start
    while at < stop:
        if at + _EXTENSION.size > stop:
            raise _bad("extensions", f"cut off at {at}")
        kind, length = _EXTENSION.unpack_from(cluster, at)
        at += _EXTENSION.size
        if kind == _END:
            break
        if length > stop - at:
            raise _bad("extensions", f"{kind:#010x} at {at} is {length} bytes long: too long")
        found.append((kind, cluster[at : at + length]))
        at += (length + 7) // 8 * 8
        _check_growth(found)
    return tuple(found)


def _check_growth(found: list[tuple[int, bytes]]) -> None:
    kind = found[-1][0]
    if len(found) > _MAX_EXTENSIONS:
        raise _bad("extensions", f"more than {_MAX_EXTENSIONS}")
    if kind in _ONCE and any(other == kind for other, _ in found[:-1]):
        raise _bad("extensions", f"{kind:#010x} stands there twice")


def _backing_name(cluster: bytes, common: _Common) -> str | None:
    """Read the backing file name; `_extensions` has judged its place."""
    if not common.backing_offset:
        return None
    end = common.backing_offset + common.backing_size
    if not 0 < common.backing_size <= MAX_BACKING_NAME_BYTES or end > len(cluster):
        raise _bad("backing_file_size", f"{common.backing_size} is impossible")
    return _text(cluster[common.backing_offset : end], "backing file")


def _backing_format(data: bytes) -> str | None:
    if not data:
        return None
    text = data.decode("latin-1")
    if not _FORMAT.fullmatch(text):
        raise _bad("backing format", f"{text!r} is no name of a format")
    return text


def _text(data: bytes, where: str) -> str:
    if b"\0" in data or not data:
        raise _bad(where, "the name is empty or has a NUL byte")
    return data.decode("utf-8", "surrogateescape")


def _refuse_protocol(name: str) -> None:
    if _PROTOCOL.match(name):
        raise _bad(
            "backing file",
            f"{name!r} is no plain file name but a protocol; set it with: qemu-img rebase -u",
        )


def _check_alone(header: Qcow2Header, given: int) -> None:
    """Refuse to rewrite a cluster in which anything but the header lies."""
    if given > header.cluster_bytes:
        raise _bad("cluster", f"{given} bytes are more than a cluster")
    if header.corrupt:
        raise _bad("incompatible_features", "the image is marked corrupt and must not be written")
    tables = [("refcount_table_offset", header.refcount_offset)]
    if header.l1_entries:
        tables.append(("l1_table_offset", header.l1_offset))
    if header.snapshot_count:
        tables.append(("snapshots_offset", header.snapshots_offset))
    tables.extend(_extension_tables(header.extensions))
    for where, offset in tables:
        if offset < header.cluster_bytes:
            raise _bad(where, f"{offset} lies in the first cluster, which has to be rewritten")


def _extension_tables(extensions: tuple[tuple[int, bytes], ...]) -> list[tuple[str, int]]:
    """Return where the tables lie that extensions point at."""
    found: list[tuple[str, int]] = []
    for kind, data in extensions:
        at = {_BITMAPS: 16, _ENCRYPTION: 0}.get(kind)
        if at is not None:
            found.append((f"extension {kind:#010x}", int.from_bytes(data[at : at + 8], "big")))
    return found


def _name_bytes(name: str | None, backing_format: str | None) -> bytes:
    if name is None:
        if backing_format is not None:
            raise _bad("backing format", "a format without a backing file")
        return b""
    _refuse_protocol(name)
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise _bad("backing file", f"{name!r}: {error.reason}") from None
    if not 0 < len(data) <= MAX_BACKING_NAME_BYTES or b"\0" in data:
        raise _bad("backing file", f"{name!r} is empty, has a NUL byte or is too long")
    return data


def _with_format(
    extensions: tuple[tuple[int, bytes], ...], backing_format: str | None
) -> tuple[tuple[int, bytes], ...]:
    """Return the extensions with this format: in its old place, or else in front."""
    if backing_format is None:
        return tuple(pair for pair in extensions if pair[0] != _BACKING_FORMAT)
    if not _FORMAT.fullmatch(backing_format):
        raise _bad("backing format", f"{backing_format!r} is no name of a format")
    new = (_BACKING_FORMAT, backing_format.encode())
    if any(kind == _BACKING_FORMAT for kind, _ in extensions):
        return tuple(new if pair[0] == _BACKING_FORMAT else pair for pair in extensions)
    return (new, *extensions)


def _pack(extension: tuple[int, bytes]) -> bytes:
    kind, data = extension
    return _EXTENSION.pack(kind, len(data)) + data + bytes(-len(data) % 8)
