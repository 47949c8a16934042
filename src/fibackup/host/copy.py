"""
The copier: one pass that reads, hashes and writes an image, holes stay holes.

::

    source   header | data ...... | hole ........ | data |
    hash     as in the copy: rewritten header, data, zeros for holes
    copy     header'| data ...... | hole ........ | data |

Hashing runs beside writing in a second thread; what was read and written leaves the page cache
behind the copier, so that the host keeps its cache for the guests.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from fibackup.errors import HostError
from fibackup.host.cancel import CancelToken
from fibackup.host.page_cache import begin_writing, drop, wait_until_written

__all__ = ["BLOCK_BYTES", "copy_and_hash", "hash_file"]

BLOCK_BYTES = 1024 * 1024
"""Bytes in one read; the copier of each disk keeps two such blocks."""

_ZEROS = bytes(1024 * 1024)
_WINDOW_BYTES = 16 * 1024 * 1024

OnBytes = Callable[[int], None]


def extents(fd: int, size_bytes: int) -> Iterator[tuple[bool, int, int]]:
    """
    Iterate over a file's data and holes.

    Args:
        fd: The open file.
        size_bytes: Its size.

    Yields:
        ``(is_data, start, end)``, in order, without gaps.

    Source:
        lseek(2) ``SEEK_DATA``, ``SEEK_HOLE``; a file system without them shows data only.
    """
    position = 0
    while position < size_bytes:
        start = _seek(fd, position, os.SEEK_DATA, size_bytes)
        if start > position:
            yield False, position, start
        if start < size_bytes:
            end = _seek(fd, start, os.SEEK_HOLE, size_bytes)
            yield True, start, end
            start = end
        position = start


def _seek(fd: int, position: int, whence: int, size_bytes: int) -> int:
    try:
        return min(os.lseek(fd, position, whence), size_bytes)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data up to the end
            return size_bytes
        if error.errno == errno.EINVAL:  # the file system cannot tell
            return position if whence == os.SEEK_DATA else size_bytes
        raise


class _Cache:
    """Pushes what was written to the disk, and both files out of the page cache, in windows."""

    def __init__(self, source: int, destination: int | None) -> None:
        self._source = source
        self._destination = destination
        self._done = 0

    def passed(self, position: int) -> None:
        if position - self._done < _WINDOW_BYTES:
            return
        self._drop(self._done, position - self._done)
        self._done = position

    def finish(self) -> None:
        self._drop(0, 0)

    def _drop(self, start: int, length: int) -> None:
        drop(self._source, start, length)
        if self._destination is None:
            return
        if length:
            begin_writing(self._destination, start, length)
            before = max(0, start - _WINDOW_BYTES)
            wait_until_written(self._destination, before, start - before or 1)
            drop(self._destination, before, start - before or 1)
        else:
            drop(self._destination)


def copy_and_hash(
    source: int,
    destination: int,
    size_bytes: int,
    *,
    head: bytes,
    on_bytes: OnBytes,
    cancel: CancelToken,
) -> str:
    """
    Copy an open file into an empty one, with *head* in place of its first bytes.

    Args:
        source: The file to read.
        destination: An empty file open for writing.
        size_bytes: Size of the source; the copy gets the same.
        head: What the copy begins with; shorter than *size_bytes* or as long.
        on_bytes: Called with the position reached.
        cancel: Asked between two blocks.

    Returns:
        sha256 of the copy, 64 hexadecimal digits.

    Raises:
        HostError: The source is shorter than it should be, or cannot be read: EIO twice in one
            place, any other error once.
        CancelledError: *cancel* was set.
        OSError: Writing failed, or some of what was written is lost. Neither a write nor a sync is
            tried again.
    """
    os.ftruncate(destination, size_bytes)
    _write_all(destination, memoryview(head), 0)
    with ThreadPoolExecutor(1, "fibackup-hash") as hasher:
        copier = _Copier(source, destination, hashlib.sha256(head), hasher, on_bytes, cancel)
        for is_data, start, end in _after(extents(source, size_bytes), len(head)):
            if is_data:
                copier.data(start, end)
            else:
                copier.hole(start, end)
        digest = copier.digest()
    os.fdatasync(destination)
    copier.cache.finish()
    return digest


def _after(
    parts: Iterator[tuple[bool, int, int]], position: int
) -> Iterator[tuple[bool, int, int]]:
    for is_data, start, end in parts:
        if end > position:
            yield is_data, max(start, position), end


def _read(fd: int, block: memoryview, position: int) -> int:
    """
    Read; tell an error of the source from one of the store, which has the same numbers.

    EIO is tried again, once: a failed read changes nothing, and the kernel asks the device anew.
    No other error is: it would be the same a moment later. Writes and syncs never are.
    """
    try:
        try:
            return os.preadv(fd, [block], position)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        return os.preadv(fd, [block], position)
    except OSError as error:
        raise HostError(reason=f"reading at byte {position}: {error.strerror}") from error


class _Digest(Protocol):
    """What the copier needs of a hash."""

    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Copier:
    """
    Two blocks in turn: while one is hashed in the other thread, it is written, the next is read.

    ::

        this thread    read A   write A   read B    write B   (wait for hash A)  read A ...
        hash thread             hash A              hash B
    """

    def __init__(
        self,
        source: int,
        destination: int,
        digest: _Digest,
        hasher: ThreadPoolExecutor,
        on_bytes: OnBytes,
        cancel: CancelToken,
    ) -> None:
        self._source = source
        self._destination = destination
        self._digest = digest
        self._hasher = hasher
        self._on_bytes = on_bytes
        self._cancel = cancel
        self._blocks = (bytearray(BLOCK_BYTES), bytearray(BLOCK_BYTES))
        self._turn = 0
        self._pending: Future[None] | None = None
        self.cache = _Cache(source, destination)

    def data(self, start: int, end: int) -> None:
        position = start
        while position < end:
            self._cancel.check()
            block = memoryview(self._blocks[self._turn])[: min(BLOCK_BYTES, end - position)]
            count = _read(self._source, block, position)
            if count == 0:
                raise HostError(reason=f"the image ends at byte {position}, expected {end}")
            self._wait()
            self._pending = self._hasher.submit(self._digest.update, block[:count])
            _write_all(self._destination, block[:count], position)
            position += count
            self._turn = 1 - self._turn
            self.cache.passed(position)
            self._on_bytes(position)

    def hole(self, start: int, end: int) -> None:
        self._wait()
        _hash_zeros(self._digest.update, end - start, self._cancel)
        self._on_bytes(end)

    def digest(self) -> str:
        self._wait()
        return self._digest.hexdigest()

    def _wait(self) -> None:
        """Wait for the hash of the block before; the block that was just read is the other one."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def _write_all(fd: int, view: memoryview, position: int) -> None:
    while view:
        count = os.pwrite(fd, view, position)
        view = view[count:]
        position += count


def _hash_zeros(update: Callable[[memoryview], None], count: int, cancel: CancelToken) -> None:
    zeros = memoryview(_ZEROS)
    while count:
        cancel.check()
        update(zeros[: min(count, len(zeros))])
        count -= min(count, len(zeros))


def hash_file(
    fd: int,
    size_bytes: int,
    *,
    on_bytes: OnBytes,
    cancel: CancelToken,
    pace: OnBytes | None = None,
    keep_cached: bool = False,
) -> str:
    """
    Return the sha256 of an open file; holes are hashed as zeros without being read.

    Args:
        fd: The file.
        size_bytes: Its size.
        on_bytes: Called with the position reached.
        cancel: Asked between two blocks.
        pace: Called with the bytes of each block that was read; may wait.
        keep_cached: True: what was read stays in the page cache, for another who reads it now.

    Returns:
        64 hexadecimal digits, as sha256sum(1) prints.

    Raises:
        HostError: The file is shorter than *size_bytes*, or cannot be read.
        CancelledError: *cancel* was set.

    Source:
        FIPS 180-4.
    """
    digest = hashlib.sha256()
    cache = _Cache(fd, None)
    buffer = bytearray(BLOCK_BYTES)
    for is_data, start, end in extents(fd, size_bytes):
        if not is_data:
            _hash_zeros(digest.update, end - start, cancel)
        position = start if is_data else end
        while position < end:
            cancel.check()
            view = memoryview(buffer)[: min(BLOCK_BYTES, end - position)]
            count = _read(fd, view, position)
            if count == 0:
                raise HostError(reason=f"the file ends at byte {position}, expected {end}")
            if pace is not None:
                pace(count)
            digest.update(view[:count])
            position += count
            if not keep_cached:
                cache.passed(position)
            on_bytes(position)
    if not keep_cached:
        cache.finish()
    return digest.hexdigest()
