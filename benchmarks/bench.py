"""
What a backup and a restore cost beside the plainest ways to do the same, measured in one run.

::

    make bench                          or: .venv/bin/python benchmarks/bench.py [--help]

    full         two paused disks, incompressible data and holes, whole images
    increment    what was written since the point before
    restore      the last point of two disks, and of one: flat as qcow2 and as raw, and linked
    memory       peak of a process that backs up one large disk, through a daemon

The contestants take turns, in a random order each round: what one leaves behind helps or harms the
next. Every one begins after a sync, with none of the images in the page cache, and ends when its
outputs are durable. What counts are the medians, of the seconds and of the ratios in each round to
the plain way (``cp``, or ``qemu-img``). fibackup alone also freezes and proves (libvirt), hashes
(sha256), and leaves nothing in the page cache; ``snapshot + cp`` is the method of fi-backup.sh.

A hypervisor may have taken back the memory that a virtual machine left free, and who asks first
for it waits: a way that fills the page cache takes up to twice as long, and which one it meets is
chance. So before each restore as much memory as it fills is asked for, and given back.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from attrs import evolve

import fibackup as fb
from hypervisor import MIB, BlockDomain, DiskSpec, Embedded, PrivateDaemon, copy_sparse
from hypervisor.host import run as run_tool

PAUSED: Final = fb.BackupPolicy(allow_paused=True)
FULL: Final = fb.BackupPolicy(allow_paused=True, full=True)
TARGETS: Final = ("vda", "vdb")
RSS_LIMIT: Final = 80_000_000
_SNAPSHOT_FLAGS: Final = 16 | 128 | 4  # disk only, atomic, no metadata
_MADV_POPULATE_WRITE: Final = 23


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    disk_mib: int
    increment_mib: int
    large_mib: int
    rounds: int


@dataclass
class Result:
    """What was measured of one contestant."""

    seconds: list[float] = field(default_factory=list[float])
    copy_seconds: list[float] = field(default_factory=list[float])
    cpu_seconds: list[float] = field(default_factory=list[float])
    cached_bytes: list[int] = field(default_factory=list[int])
    output_bytes: int = 0
    processes: int = 0
    calls: int = 0


# --- counting -----------------------------------------------------------------------------------


class Counter:
    """Processes started by this one, and libvirt calls made through `counting`."""

    def __init__(self) -> None:
        """Start counting processes; there is no end to an audit hook."""
        self.processes = self.calls = 0
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _: tuple[object, ...]) -> None:
        self.processes += event == "subprocess.Popen"

    def counting(self, wrapped: Any) -> Any:  # noqa: ANN401 - a connection or a domain
        """Return a stand-in for a libvirt object that counts each method called on it."""
        return _Counted(wrapped, self)


class _Counted:
    def __init__(self, wrapped: Any, counter: Counter) -> None:  # noqa: ANN401 - see counting
        self._wrapped = wrapped
        self._counter = counter

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._wrapped, name)

        def call(*arguments: object) -> Any:  # noqa: ANN401 - what libvirt returns
            self._counter.calls += 1
            result = method(*arguments)
            return _Counted(result, self._counter) if name.startswith("lookup") else result

        return call


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def cached_bytes(path: Path) -> int:
    """Return how much of a file is in the page cache, as fincore(1) does."""
    size = path.stat().st_size
    if size == 0:
        return 0
    pages = bytes(-(-size // mmap.PAGESIZE))
    buffer = ctypes.create_string_buffer(pages, len(pages))
    with path.open("rb") as stream:
        place = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), 0)
        try:
            if _libc.mincore(place, size, buffer) != 0:
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            _libc.munmap(place, size)
    return sum(byte & 1 for byte in buffer.raw) * mmap.PAGESIZE


def touch_memory(mib: int) -> None:
    """Have memory that is free be there, whatever a hypervisor thinks of it: madvise(2)."""
    with mmap.mmap(-1, mib * MIB) as pages:
        pages.madvise(mmap.MADV_HUGEPAGE)
        pages.madvise(_MADV_POPULATE_WRITE)


def forget(directory: Path, *others: Path) -> None:
    """Make all files durable, then drop those below a directory, and others, from the cache."""
    os.sync()
    for path in (*directory.rglob("*"), *others):
        if not path.is_file():
            continue
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- images -------------------------------------------------------------------------------------


def make_image(path: Path, data_mib: int, seed: int) -> Path:
    """Make a qcow2 image of random data; every fifth stretch was discarded, and is a hole."""
    raw = path.with_suffix(".raw")
    rng = random.Random(seed)
    with raw.open("wb") as stream:
        for _ in range(data_mib * 5 // 4):
            stream.write(rng.randbytes(MIB))
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
    raw.unlink()
    holes = [word for at in range(0, data_mib * 5 // 4, 40) for word in ("-c", f"discard {at}M 8M")]
    run_tool("qemu-io", "-d", "unmap", "-f", "qcow2", *holes, path)
    return path


def scatter(domain: BlockDomain, total_mib: int, seed: int) -> None:
    """Write *total_mib* to each disk, as the guest, a MiB here and a MiB there."""
    rng = random.Random(seed)
    for target, disk in domain.disks.items():
        places = rng.sample(range(disk.size_bytes // MIB), total_mib)
        for place in places:
            domain.write(target, place * MIB, MIB, rng.randrange(1, 256))


def sync_files(directory: Path) -> None:
    """Make every file below a directory durable, and their names too."""
    for path in (*directory.rglob("*"), directory):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


# --- contestants --------------------------------------------------------------------------------


@dataclass
class Stage:
    """Where the contest takes place."""

    hypervisor: Embedded
    counter: Counter
    bases: dict[str, Path]
    size_bytes: int
    sizes: Sizes

    @contextmanager
    def domain(self, bases: dict[str, Path] | None = None) -> Iterator[BlockDomain]:
        """Give a paused domain on the common base images, which it never writes, or on others."""
        specs = [
            DiskSpec(target=target, path=path, size_bytes=self.size_bytes)
            for target, path in (bases or self.bases).items()
        ]
        domain = self.hypervisor.block_domain(*specs)
        try:
            yield domain
        finally:
            domain.close()
            for path in self.hypervisor.images.glob("*.bimg-*"):
                path.unlink()

    def copied_bases(self, name: str) -> dict[str, Path]:
        """Copy the base images, for a domain that lives beside another."""
        directory = self.hypervisor.images / name
        directory.mkdir()
        return {
            target: copy_sparse(path, directory / path.name) for target, path in self.bases.items()
        }

    def host(self) -> fb.LibvirtHost:
        """Give a host whose libvirt calls are counted."""
        return fb.LibvirtHost(self.counter.counting(self.hypervisor.connection))


Timed = Callable[[], fb.Report | None]
Contestant = Callable[[Stage, Path], AbstractContextManager[tuple[Sequence[Path], Timed]]]


def back_up(
    host: fb.LibvirtHost, store: fb.Store, name: str, policy: fb.BackupPolicy, threads: int
) -> fb.Report:
    """Read, plan, run."""
    domain = host.read_domain(name)
    history = store.read_history(domain.uuid)
    plan = fb.plan_backup(domain, history, now=datetime.now(UTC), policy=policy)
    return fb.Executor(host, store, threads=threads).run(plan)


def fibackup_full(threads: int, policy: fb.BackupPolicy | None = None) -> Contestant:
    """Return a contestant: a full by fibackup, that many disks at a time."""

    @contextmanager
    def contestant(stage: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
        with stage.domain() as domain, fb.Store.create(out) as store:
            host = stage.host()
            yield (
                tuple(stage.bases.values()),
                lambda: back_up(host, store, domain.name, policy or FULL, threads),
            )

    return contestant


@contextmanager
def copy_bases(stage: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
    """Copy the base images by cp."""
    sources = tuple(stage.bases.values())
    yield sources, lambda: cp(sources, out)


@contextmanager
def convert_bases(stage: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
    """Copy the base images by qemu-img."""
    sources = tuple(stage.bases.values())
    yield sources, lambda: convert(sources, out)


@contextmanager
def compress_bases(stage: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
    """Compress the base images by qemu-img, and compare nothing."""
    sources = tuple(stage.bases.values())
    yield sources, lambda: convert(sources, out, options=("-c", "-o", "compression_type=zstd"))


@contextmanager
def snapshot_and_copy(stage: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
    """Freeze the base images by a snapshot, then copy them by cp."""
    sources = tuple(stage.bases.values())
    with stage.domain() as domain:

        def timed() -> None:
            snapshot(domain, "o")
            cp(sources, out)

        yield sources, timed


def cp(sources: Sequence[Path], out: Path) -> None:
    """Copy files, durably."""
    subprocess.run(["cp", "--sparse=always", *map(str, sources), str(out)], check=True)
    sync_files(out)


def convert(
    sources: Sequence[Path],
    out: Path,
    backings: Sequence[Path] = (),
    options: Sequence[str] = (),
) -> None:
    """Convert images to qcow2, durably; with backings only what lies above them."""
    for number, source in enumerate(sources):
        on = ["-B", str(backings[number]), "-F", "qcow2"] if backings else []
        words = ["-f", "qcow2", "-O", "qcow2", *options, *on]
        subprocess.run(
            ["qemu-img", "convert", *words, str(source), str(out / source.name)], check=True
        )
    sync_files(out)


def snapshot(domain: BlockDomain, suffix: str) -> None:
    """Do what ``virsh snapshot-create-as --disk-only --atomic --no-metadata`` does."""
    disks = "".join(
        f"<disk name='{target}' snapshot='external' type='file'><driver type='qcow2'/>"
        f"<source file='{domain.directory / f'{target}.{suffix}'}'/></disk>"
        for target in domain.disks
    )
    xml = f"<domainsnapshot><disks>{disks}</disks></domainsnapshot>"
    domain.dom.snapshotCreateXML(xml, _SNAPSHOT_FLAGS)


# --- the increment ------------------------------------------------------------------------------


class Increments:
    """Two domains that are written alike: one for fibackup, one for the others."""

    def __init__(self, stage: Stage, ours: BlockDomain, theirs: BlockDomain, store: Path) -> None:
        """Take the point, and the snapshot, that the first increments lie on."""
        self._sizes = stage.sizes
        self._ours, self._theirs = ours, theirs
        self._store = fb.Store.create(store)
        self._host = stage.host()
        self._written = 0
        back_up(self._host, self._store, ours.name, PAUSED, 4)
        snapshot(theirs, "0")
        self._scatter(theirs)
        self._frozen = self._active(theirs)
        snapshot(theirs, "1")

    def contestants(self) -> dict[str, Contestant]:
        """Return the contestants by name."""
        return {
            "fibackup": self._fibackup,
            "cp --sparse=always": self._cp,
            "qemu-img convert": self._convert,
            "snapshot + cp": self._snapshot_and_cp,
        }

    def _scatter(self, domain: BlockDomain) -> None:
        self._written += 1
        scatter(domain, self._sizes.increment_mib, self._written)

    @staticmethod
    def _active(domain: BlockDomain) -> tuple[Path, ...]:
        return tuple(domain.active(target) for target in TARGETS)

    @contextmanager
    def _fibackup(self, _: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
        self._scatter(self._ours)
        sources = self._active(self._ours)
        yield sources, lambda: back_up(self._host, self._store, self._ours.name, PAUSED, 4)
        newest = self._store.read_history(self._ours.uuid).points[-1]
        for path in Path(self._store.path).rglob(f"{newest.id}.qcow2"):
            os.link(path, out / f"{path.parent.name}.qcow2")

    @contextmanager
    def _cp(self, _: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
        yield self._frozen, lambda: cp(self._frozen, out)

    @contextmanager
    def _convert(self, _: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
        under = tuple(map(backing_of, self._frozen))
        yield self._frozen, lambda: convert(self._frozen, out, under)

    @contextmanager
    def _snapshot_and_cp(self, _: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
        self._scatter(self._theirs)
        active, name = self._active(self._theirs), str(self._written)

        def timed() -> None:
            snapshot(self._theirs, name)
            cp(active, out)
            self._frozen = active

        yield active, timed


def backing_of(image: Path) -> Path:
    """Return the backing file that a qcow2 image names, as qemu-img reads it."""
    said = run_tool("qemu-img", "info", "-U", "-f", "qcow2", image)
    names = (line.partition("backing file: ")[2] for line in said.splitlines())
    return Path(next(name for name in names if name))


# --- the restore --------------------------------------------------------------------------------


class Restores:
    """A store with a full and two increments of two disks, and ways to bring the newest back."""

    def __init__(self, stage: Stage, ours: BlockDomain, store: Path) -> None:
        """Take the points."""
        self._store = fb.Store.create(store)
        self._uuid, host = ours.uuid, stage.host()
        for number in range(3):
            back_up(host, self._store, ours.name, PAUSED, 4)
            scatter(ours, stage.sizes.increment_mib, 100 + number)
        back_up(host, self._store, ours.name, PAUSED, 4)
        self._stored = tuple(store.glob("*/vd?/*.qcow2"))
        self._tops = {target: max(store.glob(f"*/{target}/*.qcow2")) for target in TARGETS}

    @property
    def stored_mib(self) -> int:
        """Return what the images of one disk take in the store; all of it is hashed."""
        return sum(path.stat().st_blocks * 512 for path in self._stored) // len(TARGETS) // MIB

    def contests(self) -> dict[str, tuple[str, dict[str, Contestant]]]:
        """Return for each form of a restore the plain way to do it, and the contestants."""
        return {
            "2 disks, flat, qcow2": self._flat(fb.ImageFormat.QCOW2),
            "2 disks, flat, raw": self._flat(fb.ImageFormat.RAW),
            "1 disk, flat, qcow2": self._flat(fb.ImageFormat.QCOW2, TARGETS[:1]),
            "1 disk, flat, raw": self._flat(fb.ImageFormat.RAW, TARGETS[:1]),
            "2 disks, linked": (
                "qemu-img create",
                {
                    "fibackup": self._fibackup(fb.RestoreForm.LINKED),
                    "fibackup --no-verify": self._fibackup(fb.RestoreForm.LINKED, verify=False),
                    "qemu-img create": self._create,
                    "sha256sum": self._hash,
                },
            ),
        }

    def _flat(
        self, image_format: fb.ImageFormat, targets: tuple[str, ...] = TARGETS
    ) -> tuple[str, dict[str, Contestant]]:
        contestants: dict[str, Contestant] = {
            "fibackup": self._fibackup(fb.RestoreForm.FLAT, image_format, targets=targets),
            "qemu-img convert": self._convert(image_format, targets),
        }
        return "qemu-img convert", contestants

    def _fibackup(
        self,
        form: fb.RestoreForm,
        image_format: fb.ImageFormat = fb.ImageFormat.QCOW2,
        *,
        targets: tuple[str, ...] = TARGETS,
        verify: bool = True,
    ) -> Contestant:
        @contextmanager
        def contestant(_: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
            def timed() -> fb.Report:
                history = self._store.read_history(self._uuid)
                into = PurePosixPath(out)
                plan = fb.plan_restore(
                    history,
                    "latest",
                    into=into,
                    disks=targets,
                    form=form,
                    image_format=image_format,
                    verify=verify,
                )
                return fb.Executor(None, self._store).run(plan)

            yield self._stored, timed

        return contestant

    def _convert(self, image_format: fb.ImageFormat, targets: tuple[str, ...]) -> Contestant:
        @contextmanager
        def contestant(_: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
            def timed() -> None:
                for target in targets:
                    options = ["-f", "qcow2", "-O", str(image_format), str(self._tops[target])]
                    destination = out / f"{target}.{image_format}"
                    subprocess.run(["qemu-img", "convert", *options, destination], check=True)
                sync_files(out)

            yield self._stored, timed

        return contestant

    @contextmanager
    def _create(self, _: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
        def timed() -> None:
            for target, top in self._tops.items():
                options = ["-q", "-f", "qcow2", "-F", "qcow2", "-b", str(top)]
                destination = out / f"{target}.qcow2"
                subprocess.run(["qemu-img", "create", *options, destination], check=True)
            sync_files(out)

        yield self._stored, timed

    @contextmanager
    def _hash(self, _: Stage, out: Path) -> Iterator[tuple[Sequence[Path], Timed]]:
        del out

        def timed() -> None:
            run_tool("sha256sum", *self._stored)

        yield self._stored, timed


# --- measuring ----------------------------------------------------------------------------------


def compete(
    stage: Stage, contestants: dict[str, Contestant], touched_mib: int = 0
) -> dict[str, Result]:
    """Let them take turns; the first round is for warming up, and is not counted."""
    results: dict[str, Result] = defaultdict(Result)
    names = list(contestants)
    for number in range(stage.sizes.rounds + 1):
        for name in random.Random(number).sample(names, len(names)):
            found = Result() if number == 0 else results[name]
            measure(stage, contestants[name], found, touched_mib)
    return {name: results[name] for name in names}


def measure(stage: Stage, contestant: Contestant, result: Result, touched_mib: int) -> None:
    """Run one contestant once."""
    out = Path(tempfile.mkdtemp(dir=stage.hypervisor.root))
    counter = stage.counter
    with contestant(stage, out) as (sources, timed):
        forget(stage.hypervisor.images, *sources)
        if touched_mib:
            touch_memory(touched_mib)
        before = (counter.processes, counter.calls)
        clock, cpu = time.monotonic(), cpu_seconds()
        report = timed()
        result.seconds.append(time.monotonic() - clock)
        result.cpu_seconds.append(cpu_seconds() - cpu)
        result.processes = counter.processes - before[0]
        result.calls = counter.calls - before[1]
        if report is not None:
            result.copy_seconds.append(copy_seconds(report))
    outputs = [path for path in out.rglob("*") if path.is_file()]
    result.output_bytes = sum(path.stat().st_blocks * 512 for path in outputs)
    result.cached_bytes.append(sum(map(cached_bytes, (*sources, *outputs))))
    shutil.rmtree(out)


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(each)[:2]) for each in whose)


def copy_seconds(report: fb.Report) -> float:
    """Return the time of the step that copies."""
    return sum(
        outcome.seconds
        for outcome in report.steps
        if isinstance(report.plan.steps[outcome.index], fb.InParallel)
    )


# --- memory -------------------------------------------------------------------------------------


def memory(large_mib: int) -> str:
    """Back up one large disk in a process of its own, and return its line."""
    with PrivateDaemon() as daemon:
        path = daemon.images / "large.qcow2"
        run_tool("qemu-img", "create", "-q", "-f", "qcow2", path, f"{large_mib}M")
        writes = [
            word
            for at in range(0, large_mib, 256)
            for word in ("-c", f"write -P 90 {at}M {min(256, large_mib - at)}M")
        ]
        run_tool("qemu-io", "-f", "qcow2", *writes, path)
        domain = daemon.block_domain(DiskSpec(path=path, size_bytes=large_mib * MIB))
        store = daemon.root / "store"
        store.mkdir()
        done = subprocess.run(
            [sys.executable, __file__, "--child", daemon.uri, str(store), domain.name],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        domain.close()
    idle, peak, seconds = done.stdout.split()
    limit = "below" if int(peak) < RSS_LIMIT else "NOT BELOW"
    return (
        f"memory: a process that backs up a disk of {large_mib} MiB peaks at "
        f"{int(peak) / 1e6:.1f} MB ({int(idle) / 1e6:.1f} before the run), {limit} "
        f"{RSS_LIMIT / 1e6:.0f} MB; {large_mib / float(seconds):.0f} MiB/s"
    )


def child(uri: str, directory: str, name: str) -> None:
    """Be that process."""
    with fb.LibvirtHost.open(uri) as host, fb.Store.create(directory) as store:
        host.read_domain(name)
        idle = peak_rss()
        report = back_up(host, store, name, PAUSED, 4)
    print(idle, peak_rss(), report.seconds)


def peak_rss() -> int:
    """Return the most memory that this process has had; ru_maxrss is inherited over an exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


# --- the tables ---------------------------------------------------------------------------------


def table(title: str, results: dict[str, Result], plain: str = "cp --sparse=always") -> str:
    """Return one contest as a table; a ratio is the median of those to the plain way by round."""
    unit = results[plain].seconds
    head = (
        "seconds",
        f"of {plain.split(maxsplit=1)[0]}",
        "spread",
        "processor",
        "copying",
        "wrote",
        "in cache",
        "children",
        "calls",
    )
    lines = [title, f"  {'':26}" + "".join(f"{word:>12}" for word in head)]
    for name, found in results.items():
        ratio = statistics.median(ours / its for ours, its in zip(found.seconds, unit, strict=True))
        cells = (
            f"{statistics.median(found.seconds):.3f}",
            f"{ratio:.2f}",
            f"{min(found.seconds):.2f}-{max(found.seconds):.2f}",
            f"{statistics.median(found.cpu_seconds):.3f}",
            f"{statistics.median(found.copy_seconds):.3f}" if found.copy_seconds else "-",
            f"{found.output_bytes / MIB:.0f} MiB",
            f"{statistics.median(found.cached_bytes) / MIB:.0f} MiB",
            str(found.processes),
            str(found.calls or "-"),
        )
        lines.append(f"  {name:26}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def bench(sizes: Sizes) -> None:
    """Run everything, print the tables."""
    with Embedded() as hypervisor:
        bases = {
            target: make_image(hypervisor.images / f"{target}-base.qcow2", sizes.disk_mib, number)
            for number, target in enumerate(TARGETS)
        }
        stage = Stage(hypervisor, Counter(), bases, sizes.disk_mib * 5 // 4 * MIB, sizes)
        size = f"{len(bases)} disks of {sizes.disk_mib} MiB"
        print(table(f"full: {size}, {sizes.rounds} rounds", full(stage)), "", sep="\n", flush=True)
        size = f"{len(bases)} disks, {sizes.increment_mib} MiB written to each"
        found = increment(stage)
        print(table(f"increment: {size}, {sizes.rounds} rounds", found), "", sep="\n", flush=True)
        restore(stage)
    print(memory(sizes.large_mib))


def full(stage: Stage) -> dict[str, Result]:
    """Compare fulls."""
    contestants: dict[str, Contestant] = {
        "fibackup": fibackup_full(4),
        "fibackup, disk by disk": fibackup_full(1),
        "cp --sparse=always": copy_bases,
        "qemu-img convert": convert_bases,
        "fibackup, compressed": fibackup_full(4, evolve(FULL, compress=True)),
        "qemu-img convert -c": compress_bases,
        "snapshot + cp": snapshot_and_copy,
    }
    return compete(stage, contestants)


def increment(stage: Stage) -> dict[str, Result]:
    """Compare increments."""
    store = stage.hypervisor.root / "increments"
    store.mkdir()
    one, other = stage.copied_bases("ours"), stage.copied_bases("theirs")
    with stage.domain(one) as ours, stage.domain(other) as theirs:
        return compete(stage, Increments(stage, ours, theirs, store).contestants())


def restore(stage: Stage) -> None:
    """Compare restores, and print the tables."""
    store = stage.hypervisor.root / "restores"
    store.mkdir()
    with stage.domain(stage.copied_bases("restored")) as ours:
        restores = Restores(stage, ours, store)
        for form, (plain, contestants) in restores.contests().items():
            found = compete(stage, contestants, touched_mib=len(TARGETS) * 3 * stage.sizes.disk_mib)
            rounds = f"{stage.sizes.rounds} rounds"
            each = f"4 images, {restores.stored_mib} MiB, for each disk"
            title = f"restore, {form}: {each}, {rounds}"
            print(table(title, found, plain), "", sep="\n", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--disk-mib", type=int, default=512, help="data on each of two disks")
    parser.add_argument("--increment-mib", type=int, default=64, help="written to each disk")
    parser.add_argument("--large-mib", type=int, default=4096, help="the disk for the memory")
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(*options.child)
        return
    bench(Sizes(options.disk_mib, options.increment_mib, options.large_mib, options.rounds))


if __name__ == "__main__":
    main()
