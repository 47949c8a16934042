"""
Points of a real domain, one after the other, and what the guest had at each of them.

::

    take()   guest -- backup --> store        references: the disks, as they are now
    again()  store -- restore --> scratch     compared with them by the caller
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TypeVar

import fibackup as fb
from hypervisor.block_domain import BlockDomain
from hypervisor.embedded import Embedded

__all__ = ["PointSeries", "series_with_stores"]

_S = TypeVar("_S", bound="PointSeries")


@dataclass
class PointSeries:
    """A domain, its store, and what the guest had at each point."""

    domain: BlockDomain
    host: fb.LibvirtHost
    store: fb.Store
    scratch: Path
    references: dict[str, dict[str, Path]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def history(self) -> fb.History:
        """What the store holds of the domain."""
        return self.store.read_history(self.domain.uuid)

    @property
    def directory(self) -> Path:
        """The domain's directory in the store."""
        (found,) = Path(self.store.path).glob(f"*{self.domain.uuid}")
        return found

    def plan_point(self, policy: fb.BackupPolicy) -> fb.Plan:
        """Plan the next point."""
        found = self.host.read_domain(self.domain.name)
        return fb.plan_backup(found, self.history, now=datetime.now(UTC), policy=policy)

    def take(self, policy: fb.BackupPolicy) -> fb.Report:
        """Take a point; what the guest has is kept, also when a later step fails."""
        plan = self.plan_point(policy)
        name = f"{self.store.uuid[:8]}-{plan.point}"
        (publish,) = (step for step in plan.steps if isinstance(step, fb.PublishPoint))
        self.references[plan.point] = {
            disk.target: self.domain.reference(disk.target, name) for disk in publish.disks
        }
        return fb.Executor(self.host, self.store).run(plan)

    def again(
        self,
        point: str,
        *,
        image_format: fb.ImageFormat = fb.ImageFormat.RAW,
        store: fb.Store | None = None,
    ) -> Iterator[tuple[fb.RestoredImage, Path]]:
        """Restore a point: each image, and what the guest had; they are gone after their turn."""
        source = store or self.store
        into = self.scratch / f"restored-{next(self.numbers)}"
        history = source.read_history(self.domain.uuid)
        plan = fb.plan_restore(history, point, into=PurePosixPath(into), image_format=image_format)
        restored = fb.Executor(None, source).run(plan).restored
        references = self.references[point]
        assert {image.target for image in restored} == set(references)
        for image in restored:
            yield image, references[image.target]
        shutil.rmtree(into)


@contextmanager
def series_with_stores(
    kind: type[_S], directory: Path, hypervisor: Embedded
) -> Iterator[Callable[[BlockDomain], _S]]:
    """Give a factory of series, each with a store of its own."""
    with ExitStack() as stores:
        numbers = itertools.count()

        def make(domain: BlockDomain) -> _S:
            place = directory / f"store-{next(numbers)}"
            place.mkdir()
            store = stores.enter_context(fb.Store.create(place))
            return kind(domain, fb.LibvirtHost(hypervisor.connection), store, directory)

        yield make
