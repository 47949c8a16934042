"""
What a guest sees of a qcow2 image, read in Python: an oracle that shares no code with fibackup.

Good for small images without encryption, data files and subclusters. Backing files are found by
the names in the headers, in the same directory.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

__all__ = ["read_qcow2"]

_OFFSET = (1 << 56) - 512
_COMPRESSED = 1 << 62


def read_qcow2(path: Path) -> bytes:
    """Return all that a guest sees of an image and what it lies on."""
    data = path.read_bytes()
    magic, version, name_at, name_length, bits, size = struct.unpack_from(">4sIQIIQ", data)
    assert magic == b"QFI\xfb"
    l1_entries, l1_at = struct.unpack_from(">IQ", data, 36)
    cluster = 1 << bits
    name = data[name_at : name_at + name_length].decode()
    seen = bytearray(read_qcow2(path.with_name(name))[:size] if name_at else b"")
    seen.extend(bytes(size - len(seen)))
    for number in range(-(-size // cluster)):
        l1_index, l2_index = divmod(number, cluster // 8)
        l1 = _number(data, l1_at + 8 * l1_index) if l1_index < l1_entries else 0
        entry = _number(data, (l1 & _OFFSET) + 8 * l2_index) if l1 & _OFFSET else 0
        found = _cluster(data, entry, bits, version)
        if found is not None:
            start = number * cluster
            seen[start : start + cluster] = found[: size - start]
    return bytes(seen)


def _cluster(data: bytes, entry: int, bits: int, version: int) -> bytes | None:
    """Return a cluster of an image; None when it is the backing file's."""
    cluster = 1 << bits
    if entry & _COMPRESSED:
        shift = 62 - (bits - 8)
        at = entry & ((1 << shift) - 1)
        length = (((entry & (_COMPRESSED - 1)) >> shift) + 1) * 512 - at % 512
        return zlib.decompressobj(-12).decompress(data[at : at + length], cluster).ljust(cluster)
    if version > 2 and entry & 1:
        return bytes(cluster)
    at = entry & _OFFSET
    return data[at : at + cluster].ljust(cluster, b"\0") if at else None


def _number(data: bytes, at: int) -> int:
    found: int = struct.unpack_from(">Q", data.ljust(at + 8, b"\0"), at)[0]
    return found
