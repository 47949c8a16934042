"""What comes of the answers of sync_file_range(2), and who gets them while a process writes."""

from __future__ import annotations

import ctypes
import errno
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import repeat

import pytest

from fibackup.errors import CancelledError
from fibackup.host import page_cache
from fibackup.host.events import CancelToken
from fibackup.host.page_cache import begin_writing, wait_until_written, written_as_it_comes

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
