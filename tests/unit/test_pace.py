"""A limit on bytes in a second, on a clock that the test turns."""

from __future__ import annotations

import pytest

from fibackup.errors import CancelledError
from fibackup.host.cancel import CancelToken
from fibackup.host.pace import Pace


class Clock:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self) -> None:
        """Begin at noon."""
        self.now = 43200.0
        self.naps: list[float] = []

    def time(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


def pace(clock: Clock, rate: int, cancel: CancelToken | None = None) -> Pace:
    """Return a pace on the clock."""
    return Pace(rate, cancel or CancelToken(), clock=clock.time, sleep=clock.sleep)


def test_bytes_take_the_time_that_the_rate_gives_them(clock: Clock) -> None:
    """In all, however they are cut."""
    limit = pace(clock, 1000)
    for _ in range(30):
        limit.spend(100)
    assert clock.now == pytest.approx(43200 + 3)
    assert max(clock.naps) <= 0.2


def test_time_that_was_not_used_is_not_saved_up(clock: Clock) -> None:
    """After a pause the rate is the same: no burst."""
    limit = pace(clock, 1000)
    clock.now += 3600
    limit.spend(500)
    assert clock.now == pytest.approx(43200 + 3600 + 0.5)


def test_without_a_limit_nobody_waits(clock: Clock) -> None:
    """0 is none."""
    pace(clock, 0).spend(10**12)
    assert clock.naps == []


def test_a_cancelled_run_does_not_wait(clock: Clock) -> None:
    """It ends where it stands."""
    cancel = CancelToken()
    limit = pace(clock, 1, cancel)
    cancel.cancel()
    with pytest.raises(CancelledError):
        limit.spend(3600)
    assert clock.naps == []
