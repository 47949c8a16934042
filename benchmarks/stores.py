"""
What a store costs: verify beside sha256sum, a list and a plan of ten thousand points, merges.

Contestants take turns on the same files, which are in the page cache: what is measured is the
hashing. No domain runs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from attrs import evolve

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import fibackup as fb
from fibackup.parse.manifest import render_manifest
from fibackup.parse.seals import render_seals
from hypervisor.histories import UUID, disk, point
from hypervisor.images import MIB
from hypervisor.stores import CLUSTER, StoreMaker

ROUNDS: Final = 5
POLICY: Final = fb.RetentionPolicy(keep_last=10, keep_daily=60, keep_weekly=52, keep_monthly=24)


def seconds(act: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median of the rounds; one before them is for warming up."""
    found: list[float] = []
    for _ in range(rounds + 1):
        clock = time.monotonic()
        act()
        found.append(time.monotonic() - clock)
    return statistics.median(found[1:])


def verify(directory: Path, image_mib: int) -> str:
    """Compare a verification of four images with sha256sum of the same files."""
    size = image_mib * MIB
    everything = {cluster: 1 + cluster % 255 for cluster in range(size // CLUSTER)}
    with StoreMaker(directory, size_bytes=size * 2) as maker:
        for _ in range(2):
            maker.point({"vda": everything, "vdb": everything}, full=True)
        files = sorted(maker.home.glob("*/*.qcow2"))
        total = sum(file.stat().st_size for file in files)

        def run(threads: int) -> None:
            plan = fb.plan_verify(maker.store.survey(maker.uuid), now=datetime.now(UTC))
            found = fb.Executor(None, maker.store, threads=threads).run(plan).verification
            assert found is not None
            assert not found.faults
            assert found.read_bytes >= total

        def sha256sum(processes: int) -> None:
            words = ["xargs", "-n", "1", "-P", str(processes), "sha256sum"]
            names = "\n".join(map(str, files))
            subprocess.run(words, check=True, input=names.encode(), stdout=subprocess.DEVNULL)

        lines = [f"verify: {len(files)} images, {total // MIB} MiB, in the page cache"]
        for threads in (1, 4):
            ours = seconds(partial(run, threads))
            theirs = seconds(partial(sha256sum, threads))
            lines.append(
                f"  {threads} at a time: fibackup {ours:.2f} s ({total / MIB / ours:.0f} MiB/s), "
                f"sha256sum {theirs:.2f} s, ratio {ours / theirs:.2f}"
            )
    return "\n".join(lines)


def many_points(directory: Path, count: int) -> fb.Store:
    """Return a store with a chain of points whose images are empty but for their size."""
    (directory / "store").mkdir()
    store = fb.Store.create(directory / "store")
    home = directory / "store" / f"web1-{UUID}"
    (home / "vda").mkdir(parents=True)
    digests: dict[str, str] = {}
    for number in range(1, count + 1):
        made = point(number, disk(number, number - 1 if number > 1 else None))
        text = render_manifest(evolve(made, store=store.uuid))
        (home / f"{made.id}.json").write_text(text)
        digests[made.id] = digest_of(text)
        (home / f"{made.id}.xml").write_bytes(bytes(made.files[0].size_bytes))
        for each in made.disks[0].images:
            with (home / "vda" / each.name).open("wb") as file:
                file.truncate(each.size_bytes)
    (home / "points.sha256").write_text(render_seals(digests))
    return store


def digest_of(text: str) -> str:
    """Return the sha256 of a manifest."""
    return sha256(text.encode()).hexdigest()


def listing(directory: Path, count: int) -> str:
    """Measure a list: reading the manifests, and the sums."""
    with many_points(directory, count) as store:
        history = store.read_history(UUID)
        assert len(history.points) == count
        assert not history.unreadable
        planning = seconds(
            partial(fb.plan_prune, history, POLICY, now=datetime(2040, 1, 1, tzinfo=UTC))
        )
        reading = seconds(lambda: store.read_history(UUID))
        summing = seconds(lambda: fb.list_points(history, store.read_record(UUID)))
    total = reading + summing
    return (
        f"list: {count} points, {total:.2f} s ({reading:.2f} to read, {summing:.2f} to sum up)\n"
        f"prune: {count} points, {planning:.2f} s to plan"
    )


def merging(directory: Path, size_mib: int) -> str:
    """Measure a prune that drops three increments of 8 MiB, on a full of half the disk."""
    half = size_mib * MIB // 2 // CLUSTER
    with StoreMaker(
        directory, size_bytes=size_mib * MIB, start=datetime(2020, 1, 1, tzinfo=UTC)
    ) as m:
        m.point({"vda": dict.fromkeys(range(half), 1)})
        for number in range(5):
            m.point({"vda": dict.fromkeys(range(number * 128, (number + 1) * 128), number + 2)})
        history = m.history()
        points = [each.id for each in history.points]
        policy = fb.RetentionPolicy(keep_last=1, protect=(points[0], points[4]))
        plan = fb.plan_prune(history, policy, now=datetime.now(UTC))
        clock = time.monotonic()
        report = fb.Executor(None, m.store).run(plan)
        took = time.monotonic() - clock
    return (
        f"merge: 3 points of 8 MiB dropped, a disk of {size_mib} MiB: "
        f"{report.copied_bytes / MIB:.1f} MiB written in {took:.2f} s"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--image-mib", type=int, default=128, help="data in each of four images")
    parser.add_argument("--points", type=int, default=10_000, help="points to list")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fibackup-bench-") as place:
        images, points = Path(place, "images"), Path(place, "points")
        images.mkdir()
        points.mkdir()
        print(verify(images, options.image_mib), "", sep="\n", flush=True)
        print(listing(points, options.points), "", sep="\n", flush=True)
        for size_mib in (128, 512):
            home = Path(place, str(size_mib))
            home.mkdir()
            print(merging(home, size_mib), flush=True)


if __name__ == "__main__":
    main()
