"""What comes of the answers of sync_file_range(2), and who gets them while a process writes."""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import repeat
from threading import enumerate as enumerate_threads

import pytest

from fibackup.errors import CancelledError
from fibackup.host import page_cache
from fibackup.host.cancel import CancelToken
from fibackup.host.page_cache import (
    begin_writing,
    read_ahead,
    wait_until_written,
    written_as_it_comes,
)

Answers = Callable[[Iterable[int]], list[int]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Let the kernel give these errors in turn, 0 for none; tells with which flags it was asked."""

    def give(errors: Iterable[int]) -> list[int]:
        flags: list[int] = []
        rest = iter(errors)

        def sync_file_range(_fd: int, _start: int, _length: int, how: int) -> int:
            flags.append(how)
            ctypes.set_errno(number := next(rest))
            return -1 if number else 0

        monkeypatch.setattr(page_cache, "_sync_file_range", sync_file_range)
        return flags

    return give


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_lost_data_is_told_at_once_and_not_asked_for_again(answers: Answers, number: int) -> None:
    """A second call would say that all is well."""
    asked = answers([number, 0])
    with pytest.raises(OSError, match=r"\[Errno") as told:
        wait_until_written(3, 0, 5)
    assert told.value.errno == number
    assert asked == [7]


def test_an_interrupted_call_is_made_again(answers: Answers) -> None:
    """As Python does with its own (PEP 475)."""
    asked = answers([errno.EINTR, errno.EINTR, 0])
    begin_writing(3)
    assert asked == [2, 2, 2]


def test_a_sandbox_that_does_not_know_the_call_costs_time_only(answers: Answers) -> None:
    """The sync in the end writes everything."""
    asked = answers([errno.ENOSYS, errno.ENOSYS])
    begin_writing(3)
    wait_until_written(3, 0, 5)
    assert asked == [2, 7]


def test_the_kernel_takes_the_numbers() -> None:
    """The constants are the kernel's, and a descriptor that is none is an error."""
    with tempfile.TemporaryFile() as stream:
        stream.write(b"x" * 5000)
        stream.flush()
        begin_writing(stream.fileno())
        wait_until_written(stream.fileno(), 0, 5000)
    with pytest.raises(OSError, match="Bad file descriptor"):
        wait_until_written(-1, 0, 1)


# -- another process writes ----------------------------------------------------------------------


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait, not for ever."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it never came to be")


def test_what_is_written_is_sent_to_the_disk_again_and_again(answers: Answers) -> None:
    """Until the writer has ended, and not a moment longer; nobody waits for it to get there."""
    asked = answers(repeat(0))
    with tempfile.TemporaryFile() as stream:
        with written_as_it_comes(stream.fileno(), CancelToken()):
            wait_for(lambda: len(asked) >= 3)
        count = len(asked)
        time.sleep(0.1)
    assert len(asked) == count
    assert set(asked) == {2}


def test_a_disk_that_takes_no_more_stops_the_writer(answers: Answers) -> None:
    """And it is what the writer is said to have failed of, not that it was stopped."""
    answers([0, errno.ENOSPC])
    token = CancelToken()

    def write_for_ever() -> None:
        for _ in range(1000):
            token.check()
            time.sleep(0.01)

    with (
        tempfile.TemporaryFile() as stream,
        pytest.raises(OSError, match="No space left") as told,
        written_as_it_comes(stream.fileno(), token),
    ):
        write_for_ever()
    assert isinstance(told.value.__context__, CancelledError)


def test_a_writer_that_fails_is_heard(answers: Answers) -> None:
    """The disk is all right."""
    answers(repeat(0))
    with (
        tempfile.TemporaryFile() as stream,
        pytest.raises(ZeroDivisionError),
        written_as_it_comes(stream.fileno(), CancelToken()),
    ):
        raise ZeroDivisionError


# -- the disk reads before the reader ------------------------------------------------------------

MIB = 1024 * 1024


class Asked:
    """What the kernel was asked to read, of a reader that stands where it was put."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.position = 0
        self.ranges: list[tuple[int, int]] = []
        monkeypatch.setattr(os, "posix_fadvise", self._advise)
        monkeypatch.setattr(page_cache, "_AHEAD_BYTES", 6 * MIB)

    def _advise(self, fd: int, start: int, length: int, advice: int) -> None:
        assert (fd, advice) == (5, os.POSIX_FADV_WILLNEED)
        self.ranges.append((start // MIB, (start + length) // MIB))

    def reached(self) -> int:
        """Tell where the reader stands."""
        return self.position


def data(*extents: tuple[bool, int, int]) -> Iterable[tuple[bool, int, int]]:
    """Give extents, of MiB."""
    return [(is_data, start * MIB, end * MIB) for is_data, start, end in extents]


def test_the_disk_reads_what_comes_next_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A little at a time, no holes, and never far from the reader; what was read is past."""
    asked = Asked(monkeypatch)
    with read_ahead(5, data((True, 0, 5), (False, 5, 8), (True, 8, 100)), asked.reached):
        wait_for(lambda: len(asked.ranges) == 3)
        assert asked.ranges == [(0, 2), (2, 4), (4, 5)]
        asked.position = 40 * MIB
        wait_for(lambda: (46, 48) in asked.ranges)
        assert (10, 12) not in asked.ranges
        asked.position = 100 * MIB
    assert max(asked.ranges) <= (98, 100)


def test_nobody_asks_any_more_when_the_reader_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """He failed, or was cancelled: the rest of the file is not read for nothing."""
    asked = Asked(monkeypatch)

    def fail() -> None:
        with read_ahead(5, data((True, 0, 100)), asked.reached):
            wait_for(lambda: len(asked.ranges) == 4)
            raise CancelledError(reason="stop")

    with pytest.raises(CancelledError):
        fail()
    assert asked.ranges[-1] == (6, 8)
    assert not [each for each in enumerate_threads() if "readahead" in each.name]


def test_a_kernel_that_refuses_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader goes on; what is wrong with the file it finds out itself."""
    asked = Asked(monkeypatch)

    def refuse(*_: int) -> None:
        asked.ranges.append((0, 0))
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    with read_ahead(5, data((True, 0, 100)), asked.reached):
        wait_for(lambda: bool(asked.ranges))
    assert asked.ranges == [(0, 0)]
