"""Things that are done side by side: what stops what, what is said, what comes back."""

from __future__ import annotations

import time
from threading import Event
from threading import enumerate as enumerate_threads

import pytest

from fibackup.errors import CancelledError, HostError
from fibackup.host.cancel import CancelToken
from fibackup.host.side_by_side import ChildToken, side_by_side
from fibackup.host.verify import check_all


def until_cancelled(cancel: CancelToken) -> str:
    """Work on until somebody says stop."""
    for _ in range(1000):
        cancel.check()
        time.sleep(0.01)
    pytest.fail("nobody stopped it")


def threads() -> list[str]:
    """Name the threads that still work."""
    return [each.name for each in enumerate_threads() if "fibackup-test" in each.name]


def test_what_comes_back_is_in_the_order_of_the_items() -> None:
    """Whoever is done first."""

    def act(item: int, _cancel: CancelToken) -> int:
        time.sleep(0.02 * (3 - item))
        return item * 2

    done = side_by_side(act, [0, 1, 2], CancelToken(), threads=3, name="fibackup-test")
    assert done == (0, 2, 4)
    assert side_by_side(act, [], CancelToken(), threads=3, name="fibackup-test") == ()


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("error", [HostError(reason="it failed"), KeyboardInterrupt()])
def test_one_that_fails_stops_all(bad: int, error: BaseException) -> None:
    """Those that are at work, and those that wait for their turn; the cause is what is raised."""
    begun = list[int]()

    def act(item: int, cancel: CancelToken) -> str:
        begun.append(item)
        if item == bad:
            raise error
        return until_cancelled(cancel)

    with pytest.raises(type(error)):
        side_by_side(act, range(6), CancelToken(), threads=3, name="fibackup-test")
    assert set(begun) <= {0, 1, 2}
    assert threads() == []


def test_the_token_of_the_caller_is_never_set() -> None:
    """A failure stops what belongs together, and no other work of the same run."""
    token = CancelToken()

    def act(_item: int, cancel: CancelToken) -> None:
        raise HostError(reason=f"cancelled before: {cancel.cancelled}")

    with pytest.raises(HostError, match="cancelled before: False"):
        side_by_side(act, [0], token, threads=1, name="fibackup-test")
    assert not token.cancelled


def test_an_interrupted_verification_stops_what_it_reads() -> None:
    """Nothing more is begun when that is known."""
    linked, reads = ChildToken(CancelToken()), Event()
    begun = list[int]()

    def check(item: int) -> str:
        linked.check()
        begun.append(item)
        if item == 0:
            reads.wait(10)
            raise KeyboardInterrupt
        reads.set()
        return until_cancelled(linked)

    with pytest.raises(KeyboardInterrupt):
        check_all(check, range(9), linked, 2)
    assert set(begun) <= {0, 1, 2}
    with pytest.raises(CancelledError):
        linked.check()
