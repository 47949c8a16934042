r"""
Reading a guest's records back from an image, on the host, without mounting anything.

::

    records-1     REC 1 vda 8192 <md5>\n <8192 bytes> \nEND 1 vda\n REC 2 vda ...
    records-2     the same, from the second boot

A record that is torn at the end of a file was never acknowledged, and is left out. One that is
damaged with a whole record after it is an error, and so is a gap in the numbers of one file.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tempfile
from pathlib import Path
from typing import Final

from hypervisor.host import run
from hypervisor.images import copy_sparse

_HEADER: Final = re.compile(rb"REC (\d+) (\w+) (\d+) ([0-9a-f]{32})\n")
_LISTED: Final = re.compile(r"^/\d+/\d+/\d+/\d+/(records-(\d+))/", re.MULTILINE)


class DamagedRecordsError(AssertionError):
    """An image holds records that a guest never wrote, or not in this order."""


def read_records(raw_image: Path, disk: str, *, replay_journal: bool) -> list[int]:
    """Return the numbers of the whole records, in order; replay the journal as a boot does."""
    with tempfile.TemporaryDirectory(dir=raw_image.parent) as scratch:
        image = raw_image
        if replay_journal:
            image = copy_sparse(raw_image, Path(scratch) / "replayed.raw")
            run("e2fsck", "-fy", image, accept=(0, 1, 2))
        files = _dump(image, Path(scratch))
        return [number for content in files for number in _numbers(content, disk)]


def fsck_clean(raw_image: Path) -> bool:
    """Tell whether an ext4 image needs neither repair nor a replay of its journal."""
    features = run("dumpe2fs", "-h", raw_image)
    if re.search(r"^Filesystem features:.*\bneeds_recovery\b", features, re.MULTILINE):
        return False
    try:
        run("e2fsck", "-fn", raw_image)
    except RuntimeError:
        return False
    return True


def _dump(image: Path, scratch: Path) -> list[bytes]:
    listed = _LISTED.findall(run("debugfs", "-R", "ls -p /", image))
    contents = []
    for name, _ in sorted(listed, key=lambda pair: int(pair[1])):
        run("debugfs", "-R", f"dump /{name} {scratch}/{name}", image)
        contents.append((scratch / name).read_bytes())
    return contents


def _numbers(content: bytes, disk: str) -> list[int]:
    numbers, place = [], 0
    while (record := _record_at(content, place, disk)) is not None:
        number, place = record
        numbers.append(number)
    if any(_record_at(content, match.start(), disk) for match in _HEADER.finditer(content, place)):
        raise DamagedRecordsError(
            f"{disk}: the record after {numbers[-1:]} is damaged, with whole records behind it"
        )
    if any(after != before + 1 for before, after in itertools.pairwise(numbers)):
        raise DamagedRecordsError(f"{disk}: the numbers have gaps: {numbers}")
    return numbers


def _record_at(content: bytes, place: int, disk: str) -> tuple[int, int] | None:
    match = _HEADER.match(content, place)
    if match is None:
        return None
    end = match.end() + int(match[3])
    trailer = b"\nEND %s %s\n" % (match[1], match[2])
    if not content.startswith(trailer, end) or _md5(content[match.end() : end]) != match[4]:
        return None
    if match[2] != disk.encode():
        raise DamagedRecordsError(f"a record of {match[2].decode()} on {disk}")
    return int(match[1]), end + len(trailer)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).hexdigest().encode()
