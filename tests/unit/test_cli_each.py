"""Many domains: so many at a time, in their order."""

from __future__ import annotations

from threading import Barrier, Lock

import pytest

from fibackup.cli.each import _side_by_side


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_as_many_as_asked_for_are_at_work_and_never_more(jobs: int) -> None:
    """The barrier opens when as many wait; whoever is one too many is counted."""
    barrier, lock, now = Barrier(jobs, timeout=30), Lock(), list[str]()
    most: list[int] = []

    def work(name: str) -> str:
        with lock:
            now.append(name)
            most.append(len(now))
        barrier.wait()
        with lock:
            now.remove(name)
        return name.upper()

    assert _side_by_side(work, list("abcdef"), jobs) == list("ABCDEF")
    assert max(most) == jobs
