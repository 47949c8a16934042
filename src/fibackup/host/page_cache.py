"""
Written data goes to the disk as it comes, and leaves the page cache; what is read next is there.

::

    read by a hash        |==== done ====|.... asked for ....|
                                         > position          128 MiB further

    written by a copier   |==== out ====|---- on its way ----|.... dirty ....|
                               dropped       sync_file_range      > position

    written by qemu-img   every 20 ms:  begin to write what is dirty, drop what is clean

So the last sync finds little to do, a disk is written while the rest is still read, and the host
keeps its cache for the guests.

An error of the device is told once for each open file, by the first call that waits for the data
or syncs it: whoever waits must not overhear it, because the sync that follows says all is well.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from fibackup.host.cancel import CancelToken

__all__ = ["begin_writing", "drop", "read_ahead", "wait_until_written", "written_as_it_comes"]

_WAIT = 1 | 2 | 4  # SYNC_FILE_RANGE_WAIT_BEFORE | WRITE | WAIT_AFTER
_BEGIN = 2  # SYNC_FILE_RANGE_WRITE
_INTERVAL_SECONDS = 0.02
_AHEAD_BYTES = 128 << 20
_AT_ONCE_BYTES = 2 << 20
_MOMENT_SECONDS = 0.002  # in which a disk of 2 GB/s reads 4 MiB
_sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def begin_writing(fd: int, start: int = 0, length: int = 0) -> None:
    """
    Begin to write what is dirty; nothing is durable by it.

    Args:
        fd: A file, open for writing.
        start: First byte.
        length: Bytes; 0 is up to the end.

    Raises:
        OSError: It could not be begun.

    Source:
        sync_file_range(2), ``SYNC_FILE_RANGE_WRITE``.
    """
    _call(fd, start, length, _BEGIN)


def wait_until_written(fd: int, start: int, length: int) -> None:
    """
    Wait until data is on the disk; it is not durable by it, fdatasync(2) makes it so.

    Args:
        fd: A file, open for writing.
        start: First byte.
        length: Bytes.

    Raises:
        OSError: Some of what was written to this file is lost; no later call will say so again.

    Source:
        sync_file_range(2); Linux fs/sync.c and mm/filemap.c, ``file_check_and_advance_wb_err``.
    """
    _call(fd, start, length, _WAIT)


def _call(fd: int, start: int, length: int, flags: int) -> None:
    while _sync_file_range(fd, start, length, flags) != 0:
        number = ctypes.get_errno()
        if number == errno.ENOSYS:  # a sandbox without it: the sync in the end does it all
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def drop(fd: int, start: int = 0, length: int = 0) -> None:
    """
    Drop what is clean from the page cache.

    Args:
        fd: An open file.
        start: First byte.
        length: Bytes; 0 is up to the end.

    Source:
        posix_fadvise(2), ``POSIX_FADV_DONTNEED``.
    """
    os.posix_fadvise(fd, start, length, os.POSIX_FADV_DONTNEED)


@contextmanager
def written_as_it_comes(fd: int, cancel: CancelToken) -> Generator[None]:
    """
    Send to the disk what another process writes meanwhile.

    Args:
        fd: The file, open for writing; it has to be synced afterwards.
        cancel: Set when the disk takes no more, so that the writer is stopped.

    Raises:
        OSError: The disk takes no more.
    """
    failures: list[OSError] = []

    def send(over: Event) -> None:
        while not over.wait(_INTERVAL_SECONDS):
            try:
                begin_writing(fd)
                drop(fd)
            except OSError as error:
                failures.append(error)
                cancel.cancel()
                return

    try:
        with _beside(send, "fibackup-writeback"):
            yield
    finally:
        if failures:
            raise failures[0]


@contextmanager
def read_ahead(
    fd: int, extents: Iterable[tuple[bool, int, int]], reached: Callable[[], int]
) -> Generator[None]:
    """
    Let the disk read what a reader comes to next, where the kernel does not expect that reader.

    Whoever reads a file after another has read parts of it finds pages everywhere but there: the
    kernel sees no stream that it could read ahead of, and each of those parts is waited for.

    Args:
        fd: The file.
        extents: What is in it, in order: whether it is data, its start and its end.
        reached: Tells the position that the reader has reached.

    Source:
        posix_fadvise(2), ``POSIX_FADV_WILLNEED``; Linux mm/readahead.c.
    """

    def ask(over: Event) -> None:
        with suppress(OSError):  # it costs time only; the reader meets the error itself
            for start, length in _pieces(extents):
                while start > reached() + _AHEAD_BYTES and not over.wait(_MOMENT_SECONDS):
                    pass
                if over.is_set():
                    return
                if start + length > reached():
                    os.posix_fadvise(fd, start, length, os.POSIX_FADV_WILLNEED)

    with _beside(ask, "fibackup-readahead"):
        yield


@contextmanager
def _beside(act: Callable[[Event], None], name: str) -> Generator[None]:
    """Do something in a thread of its own, until it is told that the rest is over."""
    over = Event()
    thread = Thread(target=act, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _pieces(extents: Iterable[tuple[bool, int, int]]) -> Iterator[tuple[int, int]]:
    """Give start and length of what is data, a little at a time."""
    for is_data, start, end in extents:
        for position in range(start, end, _AT_ONCE_BYTES) if is_data else ():
            yield position, min(_AT_ONCE_BYTES, end - position)
