"""A domain whose image is on a file system that can lose its power, and points of it elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fibackup as fb
from hypervisor import BlockDomain, DiskSpec, Embedded, MakeBlockDomain
from hypervisor.images import MIB
from hypervisor.power import Volume
from hypervisor.series import PointSeries, series_with_stores
from integration.needed import own_disk

ROLLING = fb.BackupPolicy(quiesce=fb.Quiesce.OFF, allow_paused=True, consolidate=True)


@contextmanager
def series_on_own_disk(
    directory: Path,
    kind: str,
    block_domain: MakeBlockDomain,
    hypervisor: Embedded,
    *,
    size_bytes: int = 64 * MIB,
    room_bytes: int | None = None,
) -> Iterator[tuple[Volume, BlockDomain, PointSeries]]:
    """Give the file system, the domain with its disk vda, and a series with a store of its own."""
    with own_disk(directory, kind, room_bytes=room_bytes) as volume:
        image = volume.place / "vda.qcow2"
        domain = block_domain(DiskSpec(target="vda", path=image, size_bytes=size_bytes))
        with series_with_stores(PointSeries, directory, hypervisor) as make:
            yield volume, domain, make(domain)
