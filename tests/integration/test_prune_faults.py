"""
Every call of a small prune fails, once each; the power goes at every step.

::

    points       1 <- 2 <- 3 <- 4        kept: 2, which takes over and merges 1, and 4, with 3
    after each   what is listed reads as before, kept points are listed, success is never claimed
                 falsely; the next prune succeeds and leaves nothing over

The children that merge are QEMU's; their calls fail too.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL

import pytest

import fibackup as fb
from hypervisor.faulty import (
    CUT,
    DONE,
    REFUSED,
    Act,
    Zygote,
    every_fault,
    fork_server,
    read_trace,
)
from hypervisor.power import FILE_SYSTEMS
from hypervisor.stores import START, StoreMaker, content, nothing_is_left_over
from integration.needed import need_strace, own_disk

pytestmark = pytest.mark.libvirt  # it needs qemu-img, as those do
EVERYTHING = bool(os.environ.get("FIBACKUP_EXHAUSTIVE"))
CLUSTERS = 16


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Give the process that forks."""
    with fork_server() as made:
        yield made


class Site:
    """A store with four points, and what each reads."""

    def __init__(self, directory: Path, kept_in: Path) -> None:
        """Make it, and a copy to begin anew from."""
        with StoreMaker(
            directory, size_bytes=CLUSTERS * 65536, start=START.replace(year=2020)
        ) as maker:
            for number in range(4):
                maker.point({"vda": {number: number + 1, 9: number}})
            self.points = [point.id for point in maker.history().points]
            self.store, self.uuid = maker.root, maker.uuid
        self.had = content(self.store)
        self.kept = {self.points[1], self.points[3]}
        self.act = Act("prune", str(self.store), "", "", protect=self.points[1])
        self._copy = kept_in
        shutil.copytree(self.store, self._copy)

    def again(self) -> None:
        """Begin anew; the directory stays, which a file system may be mounted above."""
        for path in self.store.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self._copy, self.store, dirs_exist_ok=True)

    def check(self) -> int:
        """See that what is listed reads as it did; return how many points that are."""
        now = content(self.store)
        assert self.kept <= now.keys()
        assert {point: self.had[point] for point in now} == now
        return len(now)

    def finish(self, zygote: Zygote) -> None:
        """
        Prune again, without a fault: only now nothing may be left over.

        An image that could not be opened counts as wrong until a verification has read it.
        """
        with fb.Store.open(self.store) as store:
            if store.read_history(self.uuid).found_wrong:
                plan = fb.plan_verify(store.survey(self.uuid), now=datetime.now(UTC))
                found = fb.Executor(None, store).run(plan).verification
                assert found is not None
                assert found.faults == ()
        assert zygote.run(self.act) == DONE
        assert self.check() == len(self.kept)
        nothing_is_left_over(self.store, self.uuid)


def test_every_call_of_a_prune_fails_once(zygote: Zygote, tmp_path: Path) -> None:
    """Killed, an error, a full disk, an interruption: in our process, and in QEMU's."""
    need_strace()
    site = Site(tmp_path, tmp_path / "kept")
    calls = read_trace(zygote, site.act, tmp_path / "trace", site.store)
    assert {"fsync", "fdatasync", "linkat", "renameat", "unlinkat", "pwrite64", "write"} <= {
        call.kind for call in calls
    }
    codes: Counter[int] = Counter()
    for fault in every_fault(calls, site.store, everything=EVERYTHING):
        site.again()
        code = zygote.run(site.act, *fault.words)
        codes[code] += 1
        assert code in {DONE, REFUSED, -SIGKILL}, fault
        left = site.check()
        if code == DONE:
            assert left == len(site.kept), fault
            nothing_is_left_over(site.store, site.uuid)
        site.finish(zygote)
    assert min(codes[code] for code in (DONE, REFUSED, -SIGKILL)) > 3, codes


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_the_power_goes_at_every_step_of_a_prune(zygote: Zygote, tmp_path: Path, kind: str) -> None:
    """What is listed is whole after the power is back, and the next prune is right and tidy."""
    with own_disk(tmp_path, kind) as volume:
        site = Site(volume.place, tmp_path / "kept")
        seen: set[int] = set()
        number = 0
        for number in range(1, 300):
            os.sync()
            code = zygote.run(Act(**{**vars(site.act), "cut": number}))
            if code == DONE:
                break
            assert code == CUT
            volume.power_on()
            seen.add(site.check())
            site.finish(zygote)
            site.again()
        assert 40 < number < 299
        assert seen >= {2, 4}
