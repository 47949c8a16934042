"""
A prune between the backups of a real domain: the next one is an increment all the same.

::

    points       1 <- 2 <- 3 <- 4 <- 5        then 6, 7: as many bytes as the guest has written
    protected         2         4    5 newest
                      `- 1      `- 3          taken over, and merged
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import fibackup as fb
from hypervisor import MIB, BlockDomain, DiskSpec, Embedded, MakeBlockDomain, differences
from hypervisor.series import PointSeries, series_with_stores

pytestmark = pytest.mark.libvirt

CLUSTER = 64 * 1024
PATTERNS = itertools.cycle(range(1, 250))


class Series(PointSeries):
    """A domain whose points are pruned, its store, and what the guest had at each point."""

    def ids(self) -> list[str]:
        """Return the points that it lists."""
        return [point.id for point in self.history.points]

    def write(self, *clusters: int) -> None:
        """Let the guest write clusters of each disk, each time with another value."""
        for target in self.domain.disks:
            for cluster in clusters:
                self.domain.write(target, cluster * CLUSTER, CLUSTER, next(PATTERNS))

    def backup(self, *, consolidate: bool = False) -> fb.Report:
        """Take a point; what the guest has is kept."""
        policy = fb.BackupPolicy(quiesce=fb.Quiesce.OFF, allow_paused=True, consolidate=consolidate)
        return self.take(policy)

    def increment(self, *clusters: int, consolidate: bool = False) -> None:
        """Write, take a point, and see that it is an increment of what was written."""
        before = self.history.latest
        assert before is not None
        self.write(*clusters)
        report = self.backup(consolidate=consolidate)
        assert report.point is not None
        for disk in report.point.disks:
            assert (disk.kind, disk.parent) == (fb.DiskKind.INCREMENT, before.id), disk.reason
        written = len(clusters) * CLUSTER * len(self.domain.disks)
        assert report.copied_bytes <= written + 8 * CLUSTER * len(self.domain.disks)

    def prune(self, *protect: str, last: int = 1) -> fb.Report:
        """Prune; every kept point is restored before, at each step, and after."""
        policy = fb.RetentionPolicy(keep_last=last, protect=protect)
        now = datetime.now(UTC) + timedelta(days=1)
        plan = fb.plan_prune(self.history, policy, now=now)
        kept = [verdict.point for verdict in plan.verdicts if verdict.kept]

        def look(event: fb.Event) -> None:
            if isinstance(event, fb.StepStarted | fb.StepFinished | fb.ImageCopied):
                self.check(kept)

        self.check(kept)
        report = fb.Executor(None, self.store).run(plan, on_event=look)
        assert self.ids() == kept
        self.check(kept)
        return report

    def check(self, points: list[str]) -> None:
        """Assert that points restore to what the guest had."""
        assert self.history.damaged == frozenset()
        for point in points:
            for image, reference in self.again(point):
                assert differences(Path(image.path), "raw", reference) == "", (point, image)

    def files(self) -> set[str]:
        """Return the names in the disks' directories of the store."""
        home = self.directory
        return {str(path.relative_to(home)) for path in home.glob("vd?/*")}

    def named(self) -> set[str]:
        """Return those that manifests name."""
        return {
            f"{disk.target}/{image.name}"
            for point in self.history.points
            for disk in point.disks
            for image in disk.images
        }


MakeSeries = Callable[[BlockDomain], Series]


@pytest.fixture
def series(tmp_path: Path, hypervisor: Embedded) -> Iterator[MakeSeries]:
    """Give a factory of series, each with a store of its own."""
    with series_with_stores(Series, tmp_path, hypervisor) as make:
        yield make


@pytest.mark.parametrize("consolidate", [False, True])
def test_the_next_backup_after_a_prune_is_an_increment(
    block_domain: MakeBlockDomain, series: MakeSeries, *, consolidate: bool
) -> None:
    """With points dropped and images merged in between, once and again, rolling or not."""
    disks = DiskSpec(target="vda", size_bytes=64 * MIB), DiskSpec(target="vdb", format="raw")
    made = series(block_domain(*disks))
    made.write(*range(6))
    made.backup(consolidate=consolidate)
    for number in range(4):
        made.increment(number, 8 + number, consolidate=consolidate)
    points = made.ids()
    report = made.prune(points[1], points[3])
    steps = [type(step) for step in report.plan.steps]
    assert steps == [fb.VerifyFiles, fb.DropPoints] + [fb.MergeImages] * 4
    assert made.files() == made.named()
    made.increment(5, 20, consolidate=consolidate)
    made.increment(6, consolidate=consolidate)
    made.check(made.ids())
    made.prune(last=1)
    assert made.files() == made.named()
    made.increment(7, 21, consolidate=consolidate)
    made.check(made.ids())


def test_a_domain_that_was_off_gets_an_increment_after_a_prune(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """A point of a domain that was off lies beside the live chain, which sits on its parent."""
    made = series(block_domain(DiskSpec(target="vda", size_bytes=64 * MIB)))
    made.write(*range(6))
    made.backup()
    made.increment(1)
    made.domain.destroy()
    report = made.backup()
    assert report.point is not None
    assert report.point.consistency is fb.Consistency.OFFLINE
    points = made.ids()
    made.prune(last=1)
    assert points[2] in made.ids()
    made.domain.start()
    latest = made.history.latest
    assert latest is not None
    made.write(3)
    report = made.backup()
    assert report.point is not None
    assert [disk.kind for disk in report.point.disks] == [fb.DiskKind.INCREMENT]
    assert report.copied_bytes < 16 * CLUSTER
    made.check(made.ids())
