"""
Stores on file systems that are not the one of the other tests.

::

    btrfs    a descriptor of a directory lists what was there when it was opened

So does whatever FUSE and a server far away keep of a directory: what a run has just written is
looked for through a descriptor that is younger than that.
"""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

import fibackup as fb
from hypervisor.stores import START, StoreMaker, nothing_is_left_over
from integration.needed import own_disk

pytestmark = pytest.mark.libvirt  # it needs qemu-img, as those do
NOW = START + timedelta(days=30)
RIGHT = ()


def faults(maker: StoreMaker) -> tuple[fb.Fault, ...]:
    """Verify all, in depth, and return what is wrong."""
    plan = fb.plan_verify(
        maker.store.survey(maker.uuid), now=NOW, policy=fb.VerifyPolicy(deep=True)
    )
    found = fb.Executor(None, maker.store).run(plan).verification
    assert found is not None
    return found.faults


def test_a_store_on_btrfs(tmp_path: Path) -> None:
    """Each point has its seal at once; a prune, a verification and a restore are as elsewhere."""
    with own_disk(tmp_path, "btrfs") as volume, StoreMaker(volume.place) as maker:
        for number in range(4):
            made = maker.point({"vda": {number: number + 1, 9: number + 1}}).id
            assert made in (maker.home / "points.sha256").read_text()
            assert maker.store.survey(maker.uuid).unsealed == ()
        assert faults(maker) == RIGHT
        history = maker.history()
        plan = fb.plan_prune(history, fb.RetentionPolicy(keep_last=2), now=NOW)
        fb.Executor(None, maker.store).run(plan)
        kept = maker.history().points
        assert [point.id for point in kept] == [point.id for point in history.points[2:]]
        assert maker.store.survey(maker.uuid).unsealed == ()
        assert faults(maker) == RIGHT
        for point in kept:
            assert maker.restores(point.id, volume.place / "out")
        nothing_is_left_over(maker.root, maker.uuid)


def test_a_point_that_is_lost_at_once_on_btrfs(tmp_path: Path) -> None:
    """The newest manifest is gone before there is another point: its seal tells it."""
    with own_disk(tmp_path, "btrfs") as volume, StoreMaker(volume.place) as maker:
        first, last = maker.point({"vda": {0: 1}}), maker.point({"vda": {0: 2}})
        shutil.move(maker.home / f"{last.id}.json", tmp_path / "lost.json")
        (lost,) = [each for each in faults(maker) if each.kind is fb.FaultKind.LOST]
        assert lost.file == f"{last.id}.json"
        assert maker.restores(first.id, volume.place / "out")
