"""
A host that restarts: other device numbers, an empty /run, another daemon, the guest started anew.

::

    disk.img on /dev/loopA  ->  umount, everything ends  ->  disk.img on /dev/loopB, mounted again
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

import fibackup as fb
from hypervisor import MIB, BlockDomain, DiskSpec, PrivateDaemon, differences
from hypervisor.host import run

pytestmark = [
    pytest.mark.libvirt,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]


@contextlib.contextmanager
def mounted(image: Path, place: Path) -> Iterator[int]:
    """Mount a file system; give its device number."""
    device = run("losetup", "--find", "--show", image).strip()
    try:
        run("mount", device, place)
        try:
            yield place.stat().st_dev
        finally:
            run("umount", "--lazy", place)
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def another_loop_device(place: Path) -> Iterator[None]:
    """Take the loop device that would be the next."""
    place.write_bytes(bytes(MIB))
    device = run("losetup", "--find", "--show", place).strip()
    try:
        yield
    finally:
        run("losetup", "--detach", device)


def backup(daemon: PrivateDaemon, store: fb.Store, uuid: str) -> fb.Report:
    """Take a point."""
    policy = fb.BackupPolicy(allow_paused=True, quiesce=fb.Quiesce.OFF)
    with fb.LibvirtHost.open(daemon.uri) as host:
        history = store.read_history(uuid)
        now = datetime.now(UTC)
        plan = fb.plan_backup(host.read_domain(uuid), history, now=now, policy=policy)
        return fb.Executor(host, store).run(plan)


def test_a_restart_of_the_host_costs_no_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system has another device number, and the next point is an increment."""
    disks, store_place, locks = tmp_path / "disks", tmp_path / "store", tmp_path / "locks"
    for place in (disks, store_place):
        place.mkdir()
    monkeypatch.setenv("FIBACKUP_RUN_DIR", str(locks))
    image = tmp_path / "disks.ext4"
    with image.open("wb") as made:
        made.truncate(128 * MIB)
    run("mkfs.ext4", "-q", "-F", image)
    points: list[tuple[fb.RestorePoint, dict[str, Path]]] = []
    devices: list[int] = []

    def take(daemon: PrivateDaemon, domain: BlockDomain, store: fb.Store) -> fb.Report:
        for target in domain.disks:
            domain.write(target, len(points) * MIB, 2 * MIB, 0x21 + len(points))
        references = {t: domain.reference(t, f"point{len(points)}") for t in domain.disks}
        report = backup(daemon, store, domain.uuid)
        assert report.point is not None
        points.append((report.point, references))
        return report

    with contextlib.ExitStack() as stack:
        store = stack.enter_context(fb.Store.create(store_place))
        filesystem = stack.enter_context(contextlib.ExitStack())
        devices.append(filesystem.enter_context(mounted(image, disks)))
        daemon = stack.enter_context(PrivateDaemon())
        specs = DiskSpec(path=disks / "a"), DiskSpec(target="vdb", format="raw", path=disks / "b")
        domain = daemon.block_domain(*specs)
        for _ in range(2):
            take(daemon, domain, store)
        domain.write("vda", 0, 512, 0x41)
        domain.destroy()
        daemon.stop()
        shutil.rmtree(locks)
        filesystem.close()
        stack.enter_context(another_loop_device(tmp_path / "other"))
        filesystem = stack.enter_context(contextlib.ExitStack())
        devices.append(filesystem.enter_context(mounted(image, disks)))
        daemon.start()
        domain.dom = daemon.connection.lookupByUUIDString(domain.uuid)
        domain.start()
        report = take(daemon, domain, store)
        assert report.copied_bytes < 8 * MIB
        domain.destroy()
        for point, references in points:
            into = PurePosixPath(tmp_path / point.id)
            plan = fb.plan_restore(store.read_history(point.uuid), point.id, into=into)
            for restored in fb.Executor(None, store).run(plan).restored:
                reference = references[restored.target]
                assert differences(Path(restored.path), "qcow2", reference) == ""
    assert devices[0] != devices[1]
    kinds = [{str(disk.kind) for disk in point.disks} for point, _ in points]
    assert kinds == [{"full"}, {"increment"}, {"increment"}]
    assert [len(disk.images) for disk in points[-1][0].disks] == [1, 1]
