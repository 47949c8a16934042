"""
What a backup costs: calls, processes, memory, page cache and bytes, counted and not timed.

::

    d disks, l layers each      libvirt calls 53 + 3 d        qemu-img processes: one a raw image
    n bytes of data             memory flat                   each byte read once
"""

from __future__ import annotations

import ctypes
import itertools
import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, cast

import libvirt
import pytest

import fibackup
from fibackup import (
    BackupPolicy,
    Executor,
    ImageFormat,
    LibvirtHost,
    Quiesce,
    Report,
    Store,
    plan_backup,
    plan_restore,
)
from fibackup.host.child import bound_to_us
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    Embedded,
    LinuxGuest,
    MakeBlockDomain,
    MakeLinuxGuest,
    PrivateDaemon,
    differences,
)
from hypervisor.host import CACHE, run, tool

pytestmark = pytest.mark.libvirt

KIB = 1024
SOURCES = Path(fibackup.__file__).parents[1]


def backup(
    domain: BlockDomain | LinuxGuest, host: LibvirtHost, store: Store, quiesce: Quiesce
) -> Report:
    """Read, plan and run: one backup, as a caller does it."""
    found = host.read_domain(domain.name)
    policy = BackupPolicy(quiesce=quiesce, allow_paused=True)
    history = store.read_history(domain.uuid)
    plan = plan_backup(found, history, now=datetime.now(UTC), policy=policy)
    return Executor(host, store).run(plan)


def check(domain: BlockDomain, store: Store, into: Path) -> None:
    """Assert that the newest point is what the guest has now."""
    history = store.read_history(domain.uuid)
    raw = ImageFormat.RAW
    plan = plan_restore(history, "latest", into=PurePosixPath(into), image_format=raw)
    for image in Executor(None, store).run(plan).restored:
        reference = domain.reference(image.target, into.name)
        assert differences(Path(image.path), "raw", reference) == ""


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Path]:
    """Give new names for directories."""
    return (tmp_path / f"restored-{number}" for number in itertools.count())


# -- libvirt calls and processes -----------------------------------------------------------------


@dataclass
class Counting:
    """A libvirt object that counts the calls made through it, and through what it returns."""

    inner: object
    calls: Counter[str] = field(default_factory=Counter)

    def __getattr__(self, name: str) -> Callable[..., object]:
        """Return a method that counts itself."""
        method: Callable[..., object] = getattr(self.inner, name)

        def counted(*args: object) -> object:
            self.calls[name] += 1
            result = method(*args)
            return Counting(result, self.calls) if name.startswith("lookup") else result

        return counted


@pytest.fixture
def counting(hypervisor: Embedded) -> tuple[LibvirtHost, Counter[str]]:
    """Give a host, and the count of its calls to libvirt."""
    connection = Counting(hypervisor.connection)
    return LibvirtHost(cast("libvirt.virConnect", connection)), connection.calls


@dataclass
class Processes:
    """Every process: those that Python starts, and the first word of each qemu-img."""

    wrapper: Path
    log: Path
    started: list[str] = field(default_factory=list)

    def clear(self) -> None:
        """Forget what was started so far."""
        self.log.write_text("")
        self.started.clear()

    def taken(self) -> list[str]:
        """Return what was asked of qemu-img; nothing else may have been started."""
        asked = self.log.read_text().split()
        assert self.started == [str(self.wrapper)] * len(asked)
        return asked


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Processes:
    """Count processes."""
    log, wrapper = tmp_path / "processes", tmp_path / "counted-qemu-img"
    wrapper.write_text(f'#!/bin/sh\necho "$1" >>{log}\nexec {tool("qemu-img")} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("FIBACKUP_QEMU_IMG", str(wrapper))
    found = Processes(wrapper, log)
    before = bound_to_us([])  # it becomes what comes after it

    class Popen(subprocess.Popen[Any]):
        """A process that is counted."""

        def __init__(self, argv: list[str], *args: Any, **options: Any) -> None:  # noqa: ANN401
            found.started.append(argv[len(before) if argv[: len(before)] == before else 0])
            super().__init__(argv, *args, **options)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return found


def expected_calls(disks: int) -> Counter[str]:
    """
    Return the calls of one backup of a domain with *disks* disks, of any number of layers.

    The domain is read three times: for the plan, before the first step, after the snapshot.
    """
    reading = {
        "isPersistent": 1, "XMLDesc": 2, "state": 1, "isActive": 1, "jobInfo": 1,
        "hasManagedSaveImage": 1, "metadata": 1, "listAllSnapshots": 1, "blockJobInfo": disks,
    }  # fmt: skip
    writing = {"isActive": 1, "isPersistent": 1, "setMetadata": 1}
    once = {"snapshotCreateXML": 1, "XMLDesc": 2, "getLibVersion": 1, "getVersion": 1, "getURI": 1}
    once |= {"isPersistent": 1, "autostart": 1}
    lookups = 3 + 3 + 1 + 1 + 1
    total = Counter({"lookupByName": 1, "lookupByUUIDString": lookups - 1}) + Counter(once)
    for part in [reading] * 3 + [writing] * 3:
        total.update(part)
    return total


def foreign_overlay(domain: BlockDomain, number: int) -> None:
    """Put one more layer on every disk, as another tool would."""
    disks = "".join(
        f"<disk name='{target}'><source file='{domain.directory / target}.{number}'/></disk>"
        for target in domain.disks
    )
    flags = (
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    )
    domain.dom.snapshotCreateXML(f"<domainsnapshot><disks>{disks}</disks></domainsnapshot>", flags)


@pytest.mark.parametrize(("qcow2", "raw", "foreign"), [(1, 0, 0), (0, 1, 2), (2, 1, 1), (4, 3, 0)])
def test_calls_and_processes(
    block_domain: MakeBlockDomain,
    counting: tuple[LibvirtHost, Counter[str]],
    processes: Processes,
    store: Store,
    names: Iterator[Path],
    qcow2: int,
    raw: int,
    foreign: int,
) -> None:
    """
    A backup of d disks makes 53 + 3 d calls to libvirt, whatever the number of layers.

    It starts one qemu-img for each raw image that it stores, which only a full does, and no other
    process. Calls: 3 x (10 + d) to read the domain, 3 x 4 for the ledger, 3 for the snapshot, 2 for
    the XML, 3 for the autostart flag, 2 for versions, 1 for the name of the lock.
    """
    host, calls = counting
    formats = ["qcow2"] * qcow2 + ["raw"] * raw
    specs = [
        DiskSpec(target=f"vd{letter}", format="raw" if image_format == "raw" else "qcow2")
        for letter, image_format in zip("abcdefg", formats, strict=False)
    ]
    domain = block_domain(*specs)
    for number in range(3):
        for target in domain.disks:
            domain.write(target, number * MIB, MIB, 1 + number)
        for _ in range(foreign):
            foreign_overlay(domain, next(COUNT))
        calls.clear()
        processes.clear()
        report = backup(domain, host, store, Quiesce.OFF)
        assert processes.taken() == ["convert"] * (raw if number == 0 else 0)
        assert calls == expected_calls(len(specs))
        assert calls.total() == 53 + 3 * len(specs)
        assert report.point is not None
        assert {len(disk.images) for disk in report.point.disks} == {1 + foreign}
    check(domain, store, next(names))


COUNT = itertools.count()


def test_a_quiesced_backup_makes_six_more_calls(
    linux_guest: MakeLinuxGuest,
    counting: tuple[LibvirtHost, Counter[str]],
    processes: Processes,
    store: Store,
) -> None:
    """A freeze and a thaw are 6 calls: two lookups, the time limit, a question, and the two."""
    host, calls = counting
    guest = linux_guest()
    guest.wait_acked(1)
    processes.clear()
    report = backup(guest, host, store, Quiesce.REQUIRE)
    more = ("agentSetResponseTimeout", "fsInfo", "fsFreeze", "fsThaw")
    expected = expected_calls(2) + Counter(more) + Counter({"lookupByUUIDString": 2})
    assert calls == expected
    assert calls.total() == 53 + 3 * 2 + 6
    assert processes.taken() == ["convert"]
    assert report.frozen_seconds > 0
    guest.close()


# -- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_an_increment_costs_what_was_written(
    block_domain: MakeBlockDomain,
    hypervisor: Embedded,
    store: Store,
    names: Iterator[Path],
    image_format: str,
) -> None:
    """An increment copies the clusters that were written and a little metadata, not the disk."""
    spec = DiskSpec(format="raw" if image_format == "raw" else "qcow2", size_bytes=1024 * MIB)
    domain = block_domain(spec)
    domain.write("vda", 0, 64 * MIB, 1)
    host = LibvirtHost(hypervisor.connection)
    assert backup(domain, host, store, Quiesce.OFF).copied_bytes >= 64 * MIB
    for clusters in (0, 1, 16, 64):
        for number in range(clusters):
            domain.write("vda", number * 15 * MIB + 512, 512, 2)
        report = backup(domain, host, store, Quiesce.OFF)
        assert report.point is not None
        [image] = report.point.disk("vda").images
        [path] = Path(store.path).glob(f"*/vda/{image.name}")
        limit = 1.1 * clusters * 64 * KIB + 8 * 64 * KIB
        assert report.copied_bytes == image.size_bytes <= limit
        assert path.stat().st_blocks * 512 <= limit
    check(domain, store, next(names))


CLIENT = """
import json, sys
from datetime import UTC, datetime
import fibackup
uri, store, name = sys.argv[1:]
def reads():
    with open("/proc/self/io") as io:
        return int(next(line for line in io if line.startswith("rchar")).split()[1])
with fibackup.LibvirtHost.open(uri) as host, fibackup.Store.open(store) as store:
    domain = host.read_domain(name)
    policy = fibackup.BackupPolicy(quiesce=fibackup.Quiesce.OFF, allow_paused=True)
    history = store.read_history(domain.uuid)
    plan = fibackup.plan_backup(domain, history, now=datetime.now(UTC), policy=policy)
    executor = fibackup.Executor(host, store)  # imported by now
    before = reads()
    report = executor.run(plan)
    read = reads() - before
with open("/proc/self/status") as status:
    # Not ru_maxrss: that of the parent is inherited across exec.
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
print(json.dumps({"peak": peak, "read": read, "copied": report.copied_bytes}))
"""


def in_a_process_of_its_own(daemon: PrivateDaemon, store: Store, name: str) -> dict[str, int]:
    """Make a backup in a new Python; return its peak memory and the bytes that it read."""
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, daemon.uri, str(store.path), name],
        check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_memory_is_flat_and_each_byte_is_read_once(
    block_domain: MakeBlockDomain,
    private_daemon: PrivateDaemon,
    tmp_path: Path,
    names: Iterator[Path],
) -> None:
    """A backup of 1 GiB takes the memory of one of 64 MiB, and reads each byte of data once."""
    peaks = []
    for sizes in ((64,), (1024,), (96, 96, 96, 96)):
        disks = [
            DiskSpec(target=f"vd{letter}", size_bytes=size * MIB, options=("preallocation=full",))
            for letter, size in zip("abcd", sizes, strict=False)
        ]
        domain = block_domain(*disks, on=private_daemon)
        found_sizes = [domain.path(disk.target).stat() for disk in disks]
        size, data = sum(found.st_size for found in found_sizes), sum(sizes) * MIB
        assert sum(found.st_blocks for found in found_sizes) * 512 >= data
        place = tmp_path / next(names)
        place.mkdir()
        with Store.create(place) as store:
            found = in_a_process_of_its_own(private_daemon, store, domain.name)
            assert found["copied"] == size
            assert data <= found["read"] <= size + MIB
            if sizes == (64,):
                check(domain, store, next(names))
        peaks.append(found["peak"])
        domain.close()
    assert max(peaks) < 80 * MIB
    assert peaks[1] <= 1.1 * peaks[0]


# -- the page cache ------------------------------------------------------------------------------


def resident_pages(path: Path) -> int:
    """Return how many pages of a file are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
    ]  # fmt: skip
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        place = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    assert libc.mincore(place, size, pages) == 0
    libc.munmap(place, size)
    return sum(page & 1 for page in pages.raw)


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a directory of a file system whose pages can leave the memory."""
    for place in (tmp_path, CACHE):
        if run("stat", "-f", "-c", "%T", place).strip() != "tmpfs":
            with tempfile.TemporaryDirectory(prefix="fib-cache-", dir=place) as made:
                Path(made).chmod(0o755)
                yield Path(made)
            return
    raise AssertionError("every file system here is a tmpfs")


@pytest.mark.parametrize("mebibytes", [4, 40])
@pytest.mark.parametrize("image_format", ImageFormat)
def test_the_page_cache_is_left_to_the_guests(
    block_domain: MakeBlockDomain,
    hypervisor: Embedded,
    on_disk: Path,
    image_format: ImageFormat,
    mebibytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    After a backup and a restore next to nothing of what they read or wrote is in the cache.

    A restore leaves what it has read of little images, as qemu-img does.
    """
    source = on_disk / "disk"
    domain = block_domain(DiskSpec(format=image_format.value, path=source))
    domain.write("vda", 0, mebibytes * MIB, 7)
    run("sync", source)
    assert resident_pages(source) * mmap.PAGESIZE >= mebibytes * MIB / 2
    (on_disk / "store").mkdir()
    few = 128  # half a mebibyte: the header, and what the kernel read ahead of it
    with Store.create(on_disk / "store") as store:
        backup(domain, LibvirtHost(hypervisor.connection), store, Quiesce.OFF)
        [stored] = Path(store.path).glob("*/vda/*.qcow2")
        assert stored.stat().st_blocks * 512 >= mebibytes * MIB
        assert resident_pages(source) <= few
        assert resident_pages(stored) <= few
        history = store.read_history(domain.uuid)
        for memory_bytes, is_dropped in ((3 * mebibytes * MIB, True), (6 * mebibytes * MIB, False)):
            pages = memory_bytes // mmap.PAGESIZE
            known = {"SC_PHYS_PAGES": pages, "SC_PAGE_SIZE": mmap.PAGESIZE}
            into = PurePosixPath(on_disk / f"restored-{is_dropped}")
            plan = plan_restore(history, "latest", into=into, image_format=image_format)
            with monkeypatch.context() as patched:
                patched.setattr(os, "sysconf", known.__getitem__)
                [restored] = Executor(None, store).run(plan).restored
            assert (resident_pages(stored) <= few) is is_dropped
            assert resident_pages(Path(restored.path)) <= few
        check(domain, store, on_disk / "checked")
