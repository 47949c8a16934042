"""A store's directory: whose it is, its modes, its locks, and that nothing is left lying about."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from attrs import evolve

import fibackup as fb
from fibackup.cli.main import main
from fibackup.cli.stores import open_store
from fibackup.host import store_reader, survey
from fibackup.host.cancel import CancelToken
from fibackup.host.copy import copy_and_hash, hash_file
from fibackup.host.destination import temporary_destination
from fibackup.host.files import make_directories, open_directory
from fibackup.host.lock import hold_alone, hold_store_lock
from fibackup.host.restored import make_passage
from fibackup.host.side_by_side import side_by_side
from fibackup.model.verification import FoundFile, VerificationRecord
from fibackup.parse.manifest import render_manifest, render_receipt
from fibackup.testing import FakeHost
from hypervisor.host import logged_qemu_img, run
from hypervisor.stores import UUID, StoreMaker
from integration.needed import need_strace

pytestmark = pytest.mark.libvirt  # it needs qemu-img, as those do
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
SOURCE = Path(fb.__file__).resolve().parents[1]
RUN = "20261130T040407Z"


@pytest.fixture
def maker(tmp_path: Path) -> Iterator[StoreMaker]:
    """Give a store with one point."""
    with StoreMaker(tmp_path) as made:
        made.point({"vda": {0: 1}})
        yield made


def names(directory: Path) -> list[str]:
    """Return every path below a directory."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# -- whose it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o707])
@pytest.mark.parametrize("place", ["store", "domain"])
def test_a_directory_that_others_can_write_takes_no_point(
    maker: StoreMaker, tmp_path: Path, mode: int, place: str
) -> None:
    """Whoever writes there could exchange a file while qemu-img reads it; restores go on."""
    directory = maker.root if place == "store" else maker.home
    directory.chmod(mode)
    before = names(maker.root)
    with pytest.raises(fb.PermissionDeniedError, match=r"others can write .*chmod go-w") as caught:
        maker.point({"vda": {1: 2}})
    assert caught.value.path == str(directory)
    with pytest.raises(fb.PermissionDeniedError, match="others can write") as told:
        fb.Store.require_writable(maker.root, UUID)
    assert told.value.remedy == caught.value.remedy == f"chmod go-w {directory}"
    assert names(maker.root) == before
    (point,) = maker.history().points
    assert maker.restores(point.id, tmp_path / "out")
    directory.chmod(0o755)
    fb.Store.require_writable(maker.root, UUID)
    maker.point({"vda": {2: 3}})


@as_root
def test_a_store_of_somebody_else_takes_no_point(maker: StoreMaker, tmp_path: Path) -> None:
    """Its owner could do the same."""
    os.chown(maker.root, 12345, 12345)
    with pytest.raises(fb.PermissionDeniedError, match="owner 12345") as caught:
        maker.point({"vda": {1: 2}})
    assert caught.value.remedy == f"chown {os.geteuid()} {maker.root}"
    (point,) = maker.history().points
    assert maker.restores(point.id, tmp_path / "out")


@as_root
def test_what_root_reads_stays_with_whom_it_belongs_to(maker: StoreMaker, tmp_path: Path) -> None:
    """A verification and a linked restore by root lock nobody out of a store of their own."""
    for path in (maker.root, *maker.root.rglob("*")):
        os.chown(path, 12345, 12345)
    survey_of = maker.store.survey(UUID)
    fb.Executor(None, maker.store).run(fb.plan_verify(survey_of, now=datetime.now(UTC)))
    into = PurePosixPath(tmp_path / "out")
    plan = fb.plan_restore(maker.history(), "latest", into=into, form=fb.RestoreForm.LINKED)
    fb.Executor(None, maker.store).run(plan)
    made = {"lock.readers", "lock.verified", "verified.json", "linked.json"}
    assert {path.name for path in maker.home.iterdir()} > made
    found = {path.lstat().st_uid for path in (maker.root, *maker.root.rglob("*"))}
    assert found == {12345}
    assert (tmp_path / "out" / "vda.qcow2").stat().st_uid == 0


@as_root
def test_a_lock_that_is_there_is_not_given_away(maker: StoreMaker, tmp_path: Path) -> None:
    """It may be a file of root's, by a link that the owner of the directory has made."""
    os.chown(maker.home, 12345, 12345)
    for name in ("lock.readers", "lock.verified"):
        (tmp_path / name).write_text("root's")
        (maker.home / name).unlink(missing_ok=True)
        (maker.home / name).hardlink_to(tmp_path / name)
    fb.Executor(None, maker.store).run(
        fb.plan_verify(maker.store.survey(UUID), now=datetime.now(UTC))
    )
    for name in ("lock.readers", "lock.verified"):
        assert ((tmp_path / name).stat().st_uid, (tmp_path / name).read_text()) == (0, "root's")
    assert (maker.home / "verified.json").stat().st_uid == 12345


@as_root
def test_a_record_that_may_not_be_read_is_told_and_done_without(maker: StoreMaker) -> None:
    """As one that another user has left: points are listed all the same."""
    fb.Executor(None, maker.store).run(
        fb.plan_verify(maker.store.survey(UUID), now=datetime.now(UTC))
    )
    for path in (maker.root, *maker.root.rglob("*")):
        os.chown(path, 12345, 12345)
    os.chown(maker.home / "verified.json", 0, 0)
    os.seteuid(12345)
    try:
        assert maker.store.read_record(UUID) == VerificationRecord()
        found = maker.history(), maker.store.survey(UUID)
    finally:
        os.seteuid(0)
    assert len(found[0].points) == 1
    assert found[0].damaged_records == (("verified.json", "Permission denied"),)
    [fault] = found[1].faults
    assert fault.file == "verified.json"
    assert "Permission denied" in fault.reason


def test_a_domain_that_has_its_directory_needs_no_new_one(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of root's may have directories that are ours; then only new domains are refused."""
    real, root = os.access, maker.root.stat().st_ino

    def access(path: str, mode: int, *, dir_fd: int, effective_ids: bool) -> bool:
        new = mode & os.W_OK and os.fstat(dir_fd).st_ino == root
        return not new and real(path, mode, dir_fd=dir_fd, effective_ids=effective_ids)

    monkeypatch.setattr(os, "access", access)
    fb.Store.require_writable(maker.root, UUID)
    for uuid in ("", "11111111-2222-3333-4444-555555555555"):
        with pytest.raises(fb.PermissionDeniedError, match="Permission denied"):
            fb.Store.require_writable(maker.root, uuid)
    assert fb.read_store_facts(str(maker.root)).fault == ""
    maker.home.chmod(0o777)
    facts = fb.read_store_facts(str(maker.root))
    assert "others can write the domain's directory" in facts.fault
    assert facts.remedy == f"chmod go-w {maker.home}"


@as_root
def test_a_store_that_is_mounted_read_only_is_told_beforehand(maker: StoreMaker) -> None:
    """By a backup, a dry run of it and the doctor alike, with the command that helps."""
    asked = """
import sys, pathlib, fibackup as fb
from fibackup.host.images import refuse_unwritable
for call in (
    lambda: fb.Store.require_writable(sys.argv[1], sys.argv[2]),
    lambda: refuse_unwritable(pathlib.PurePosixPath(sys.argv[1]), as_us=False),
):
    try: call()
    except fb.PermissionDeniedError as no: print(no.reason, no.remedy, sep='\\n')
"""
    mounts = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
    script = f'{mounts} && exec "$1" -c "$2" "$0" "$3"'
    words = [str(maker.root), sys.executable, asked, UUID]
    done = run("unshare", "--mount", "sh", "-c", script, *words)
    reason, remedy, of_overlay, same = done.splitlines()
    assert reason.startswith("Read-only file system")
    assert "mounted read-only" in of_overlay
    assert remedy.endswith(f"mount -o remount,rw {maker.root}")
    assert same == remedy


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_modes_under_any_umask(tmp_path: Path, mask: int) -> None:
    """Files are 0600 and directories 0700, also of a restore."""
    with umask(mask), StoreMaker(tmp_path) as maker:
        with umask(0o022):
            maker.root.chmod(0o700)
        point = maker.point({"vda": {0: 1}})
        plan = fb.plan_restore(maker.history(), point.id, into=PurePosixPath(tmp_path / "a" / "b"))
        fb.Executor(None, maker.store).run(plan)
    checked = 0
    for path in (*maker.root.rglob("*"), tmp_path / "a", *(tmp_path / "a").rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == wanted, path
        checked += 1
    assert checked > 8


# -- nothing is left lying about -----------------------------------------------------------------


def test_a_run_that_stores_nothing_leaves_no_directory(tmp_path: Path) -> None:
    """The domain's directory is there while the lock is held, and gone when nothing came."""
    (tmp_path / "store").mkdir()
    with fb.Store.create(tmp_path / "store") as store:
        with store.locked(UUID, "web1", exclusive=True):
            assert store.domains() == (UUID,)
        assert names(tmp_path / "store") == ["fibackup-store.json"]
        step = fb.CopyImage("vda", PurePosixPath("/none"), "qcow2", f"{RUN}.qcow2", None, None, 0)
        with pytest.raises(fb.HostError), store.locked(UUID, "web1", exclusive=True):
            store.copy_image(UUID, step, fb.ignore_events, CancelToken())
        assert names(tmp_path / "store") == ["fibackup-store.json"]
        with store.locked(UUID, "web1", exclusive=True):  # its XML waits for a point in vain
            store.save_config(UUID, f"{RUN}.xml", "<domain/>")
        assert names(tmp_path / "store") == ["fibackup-store.json"]


def test_a_run_that_was_killed_while_it_made_the_store_is_in_nobodys_way(tmp_path: Path) -> None:
    """What it had not named yet is replaced."""
    need_strace()
    place = tmp_path / "store"
    place.mkdir(mode=0o700)
    make = f"import fibackup; fibackup.Store.create({str(place)!r})"
    words = ["strace", "-qq", "-e", "trace=linkat", "-e", "inject=linkat:signal=KILL"]
    subprocess.run([*words, sys.executable, "-c", make], check=False, capture_output=True)
    assert names(place) == [".fibackup-store.json.tmp"]
    fb.Store.require_empty(place)
    with fb.Store.open_or_create(place) as store:
        assert store.strangers() == ()
    assert names(place) == ["fibackup-store.json"]


def test_runs_that_make_a_store_at_once_have_the_same(tmp_path: Path) -> None:
    """As the first backups of two domains do, in commands of their own."""
    for number in range(20):
        place = tmp_path / str(number)
        place.mkdir(mode=0o700)
        with ThreadPoolExecutor(4) as pool:
            stores = list(pool.map(fb.Store.open_or_create, [place] * 4))
        assert len({store.uuid for store in stores}) == 1
        assert names(place) == ["fibackup-store.json"]
        for store in stores:
            store.close()


def test_a_backup_takes_the_store_that_another_makes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made between the look and the making; then nothing is new."""
    real, made = fb.Store.create, list[str]()

    def create(path: str) -> fb.Store:
        with real(path) as store:
            made.append(store.uuid)
        return real(path)

    monkeypatch.setattr(fb.Store, "create", create)
    host = FakeHost()
    domain = host.read_domain(host.add_domain("web1", {"vda": {0: 1}}))
    place = tmp_path / "store"
    place.mkdir(mode=0o700)
    told: list[str] = []
    policy, now = fb.BackupPolicy(), datetime.now(UTC)
    with open_store(str(place), domain, policy, now=now, on_new=told.append) as store:
        assert [store.uuid] == made
    assert told == []


def test_a_directory_with_anything_in_it_stays(maker: StoreMaker) -> None:
    """Files that are not ours, and images that wait for a point, are left alone."""
    (maker.home / "notes.txt").write_text("mine")
    (maker.home / "empty").mkdir()
    with maker.store.locked(UUID, "web1", exclusive=True):
        before = names(maker.root)
    assert names(maker.root) == before


def test_locking_while_the_directory_goes(tmp_path: Path) -> None:
    """Of many that lock a domain at once, one at a time has it, in a directory that exists."""
    (tmp_path / "store").mkdir()
    inside, wrong, taken = [0], [0], [0]

    def lock_often() -> None:
        with fb.Store.open(tmp_path / "store") as store:
            mine = 0
            while mine < 25:
                try:
                    with store.locked(UUID, "web1", exclusive=True):
                        inside[0] += 1
                        wrong[0] += inside[0] != 1 or store.domains() != (UUID,)
                        taken[0] += 1
                        inside[0] -= 1
                    mine += 1
                except fb.LockedError:
                    pass

    fb.Store.create(tmp_path / "store").close()
    threads = [threading.Thread(target=lock_often) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, inside) == ([0], [0])
    assert taken[0] == 6 * 25
    assert names(tmp_path / "store") == ["fibackup-store.json"]


def test_a_lock_that_has_lost_its_name_locks_nobody_out(tmp_path: Path) -> None:
    """Who got a lock file that was removed meanwhile takes the one that is there."""
    with open_directory(str(tmp_path)) as fd:
        real = fcntl.flock
        calls: list[int] = []

        def flock(lock: int, how: int) -> None:
            real(lock, how)
            if not calls:
                (tmp_path / "lock").unlink()
            calls.append(os.fstat(lock).st_ino)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fcntl, "flock", flock)
            with hold_store_lock("lock", fd, exclusive=True):
                assert len(calls) == 2
                assert (tmp_path / "lock").stat().st_ino == calls[1]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_store_can_be_read(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: int
) -> None:
    """Also where nobody has read it before, so that there is no lock yet; a writer is refused."""
    (maker.home / "lock.readers").unlink(missing_ok=True)
    real = os.open

    def full(name: str, flags: int, *rest: int, **more: int | None) -> int:
        if flags & os.O_CREAT and name.startswith("lock"):
            raise OSError(error, "it is full")
        return real(name, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", full)
    assert maker.restores(maker.history().points[-1].id, tmp_path / "into")
    assert main(["verify", "--store", str(maker.root)]) == 0
    with (
        open_directory(str(maker.home)) as fd,
        pytest.raises(OSError, match="it is full"),
        hold_store_lock("lock.other", fd, exclusive=True),
    ):
        pass


@pytest.mark.parametrize("stopped", ["at the manifest", "at the check", "at the seal"])
def test_a_point_that_is_not_published_names_nothing(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    """Its files have no names, whatever stopped it; without a seal it is a point all the same."""
    before = [name for name in names(maker.home) if RUN not in name]
    real = os.link

    def link(temp: str, name: str, **more: object) -> None:
        if name.endswith(".json"):
            raise OSError(errno.EIO, "it failed, as it should")
        real(temp, name, **more)  # type: ignore[arg-type]

    if stopped == "at the manifest":
        monkeypatch.setattr(os, "link", link)
    if stopped == "at the seal":
        monkeypatch.setattr("os.rename", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "no")))
    with maker.store.locked(UUID, "web1", exclusive=True):
        config = maker.store.save_config(UUID, f"{RUN}.xml", "<domain/>")
        (first,) = maker.history().points
        disk = fb.PointDisk(
            "vda",
            fb.DiskKind.INCREMENT,
            "as before",
            first.id,
            first.disks[0].virtual_size_bytes,
            (),
        )
        files: tuple[fb.StoredFile, ...] = (config,)
        if stopped == "at the check":
            files += (fb.StoredFile(fb.FileRole.NVRAM, f"{RUN}.nvram", 3, "0" * 64),)
        point = fb.RestorePoint(
            id=RUN, sequence=2, parent=first.id, store=first.store, time=first.time,
            domain="web1", uuid=UUID, consistency=fb.Consistency.CRASH, consistency_detail="",
            files=files, disks=(disk,),
        )  # fmt: skip
        if stopped == "at the seal":
            maker.store.publish(point)
        else:
            with pytest.raises(fb.FibackupError):
                maker.store.publish(point)
    if stopped == "at the seal":
        assert maker.history().points == (first, point)
    else:
        assert maker.history().points == (first,)
        assert names(maker.home) == before


def test_copies_that_are_interrupted_leave_nothing(maker: StoreMaker, tmp_path: Path) -> None:
    """Both are half done; when the call has come back, no thread writes and no file is left."""
    maker.point({"vda": {1: 2}, "vdb": {1: 2}})
    before, half_done = names(maker.root), threading.Barrier(2)
    steps = []
    for target in ("vda", "vdb"):
        image = tmp_path / f"{target}.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", image, "16M")
        run("qemu-io", "-f", "qcow2", "-c", "write -q 0 16M", image)
        source, name = PurePosixPath(image), f"{RUN}.qcow2"
        steps.append(fb.CopyImage(target, source, "qcow2", name, None, None, 0))

    def copy(step: fb.CopyImage, cancel: CancelToken) -> None:
        def interrupt(event: fb.Event) -> None:
            if isinstance(event, fb.CopyProgress) and event.done_bytes > 4 << 20:
                half_done.wait(10)
                if step.target == "vdb":
                    raise KeyboardInterrupt
                while not cancel.cancelled:
                    time.sleep(0.01)

        maker.store.copy_image(UUID, step, interrupt, cancel)

    with maker.store.locked(UUID, "web1", exclusive=True), pytest.raises(KeyboardInterrupt):
        side_by_side(copy, steps, CancelToken(), threads=2, name="fibackup-copy")
    working = [
        each for each in threading.enumerate() if re.match("fibackup-(copy|hash)", each.name)
    ]
    assert working == []
    assert names(maker.root) == before


def test_the_next_run_removes_what_a_killed_one_named(maker: StoreMaker) -> None:
    """The whole manifest that did not get its name tells which files are a killed run's."""
    before = names(maker.home)
    (first,) = maker.history().points
    config = fb.StoredFile(fb.FileRole.DOMAIN_XML, f"{RUN}.xml", 4, "0" * 64)
    killed = render_manifest(evolve(first, id=RUN, sequence=2, files=(config,)))
    (maker.home / f"{RUN}.xml").write_text("ours")
    (maker.home / f".{RUN}.json.tmp").write_text(killed)
    other = "20261129T040407Z"
    (maker.home / f"{other}.xml").write_text("of a lost point")
    (maker.home / f".{other}.json.tmp").write_text(killed.replace(RUN, other)[:-20])
    with maker.store.locked(UUID, "web1", exclusive=True):
        assert names(maker.home) == sorted([*before, f"{other}.xml"])


def test_a_receipt_without_its_image_goes(maker: StoreMaker) -> None:
    """A run that was killed between the two leaves a receipt that means nothing."""
    before = names(maker.home)
    (first,) = maker.history().points
    for image in (f"{RUN}.qcow2", f"{first.id}.qcow2"):
        (maker.home / "vda" / f"{image}.receipt").write_text("{}")
    with maker.store.locked(UUID, "web1", exclusive=True):
        assert names(maker.home) == before


def leave_image(maker: StoreMaker) -> str:
    """Leave a stored image with a receipt, as a run does that is killed after a copy."""
    point = maker.point({"vda": {1: 2}}).id
    image = maker.history().top(point, "vda")
    receipt = maker.path(f"vda/{image.name}.receipt")
    receipt.write_text(render_receipt(fb.Receipt("vda", image)))
    for file in (f"{point}.json", f"{point}.xml", "points.sha256"):
        maker.path(file).unlink()
    assert len(maker.history().receipts) == 1
    return image.name


def test_an_image_that_two_points_have_passed_over_goes_before_its_receipt(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, or when the power goes, no image is without a receipt or a point."""
    image = leave_image(maker)
    calls: list[str] = []
    unlink, fsync = os.unlink, os.fsync

    def unlinked(name: str, *, dir_fd: int | None = None) -> None:
        unlink(name, dir_fd=dir_fd)
        if name.startswith(image):
            calls.append(name)

    def synced(fd: int) -> None:
        fsync(fd)
        calls.append(Path(f"/proc/self/fd/{fd}").readlink().name)

    maker.point({"vda": {2: 2}}, full=True)
    assert f"{image}.receipt" in names(maker.path("vda"))
    monkeypatch.setattr(os, "unlink", unlinked)
    monkeypatch.setattr(os, "fsync", synced)
    maker.point({"vda": {3: 2}})
    assert calls[-3:] == [image, "vda", f"{image}.receipt"]
    assert maker.history().unclaimed == frozenset()


@pytest.mark.parametrize("why", ["damaged", "gone"])
def test_no_image_is_passed_over_while_a_point_is_not_known(maker: StoreMaker, why: str) -> None:
    """It may be of that one, whose run was killed before it removed the receipt."""
    image = leave_image(maker)
    maker.point({"vda": {2: 2}}, full=True)
    first, second = maker.history().points
    if why == "damaged":
        maker.path(f"{first.id}.json").write_text("{")
    else:
        maker.path(f"{first.id}.json").unlink()
    for number in (3, 4):
        maker.point({"vda": {number: 2}}, full=True)
    assert image in names(maker.path("vda"))
    assert second in maker.history().points


def test_the_directories_of_a_restore_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one that is made is made durable in the one above it."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    make_directories(str(tmp_path / "a" / "b"))
    assert synced == [str(tmp_path), str(tmp_path / "a")]
    make_directories(str(tmp_path / "a" / "b"))
    assert len(synced) == 2
    synced.clear()
    for _ in range(2):
        make_passage(PurePosixPath(tmp_path / "c" / "d" / "e"))
    assert synced == [str(tmp_path), str(tmp_path / "c"), str(tmp_path / "c" / "d")]


# -- restores ------------------------------------------------------------------------------------


def test_a_failed_restore_removes_nobody_elses_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has put another file in the place of the one that it made."""
    with StoreMaker(tmp_path) as maker:
        maker.point({"vda": {0: 1}, "vdb": {0: 2}})
        into, real = tmp_path / "into", maker.store.flatten

        def flatten(uuid: str, step: fb.FlattenImage, *more: Any) -> fb.RestoredImage:  # noqa: ANN401 - as the real one
            if step.target == "vdb":
                (tmp_path / "other").write_text("mine")
                (tmp_path / "other").rename(into / "vda.qcow2")
                raise fb.HostError(reason="it failed, as it should")
            return real(uuid, step, *more)

        monkeypatch.setattr(maker.store, "flatten", flatten)
        plan = fb.plan_restore(maker.history(), "latest", into=PurePosixPath(into))
        with pytest.raises(fb.StepError, match="as it should"):
            fb.Executor(None, maker.store, threads=1).run(plan)
        assert names(into) == ["vda.qcow2"]
        assert (into / "vda.qcow2").read_text() == "mine"


@pytest.mark.parametrize("form", fb.RestoreForm)
def test_two_restores_do_not_write_one_file(
    maker: StoreMaker, tmp_path: Path, form: fb.RestoreForm
) -> None:
    """The second one is refused, and takes nothing of the first away."""
    into = tmp_path / "into"
    plan = fb.plan_restore(maker.history(), "latest", into=PurePosixPath(into), form=form)
    path = Path(plan.expects.absent[-1])
    path.parent.mkdir(parents=True)
    with open_directory(str(path.parent)) as fd, temporary_destination(path.name, fd) as first:
        before = names(into), os.fstat(first).st_ino
        with pytest.raises(fb.StepError, match="another restore writes there") as caught:
            fb.Executor(None, maker.store).run(plan)
        assert isinstance(caught.value.__cause__, fb.LockedError)
        assert (names(into), (path.parent / f".{path.name}.tmp").stat().st_ino) == before
    fb.Executor(None, maker.store).run(plan)
    assert path.exists()


def test_what_keeps_two_restores_apart_is_no_lock_of_qemu(tmp_path: Path) -> None:
    """NFS turns flock(2) into a lock on all bytes, and QEMU could not have those that it needs."""
    with open_directory(str(tmp_path)) as fd, temporary_destination("vda.qcow2", fd) as mine:
        inode = os.fstat(mine).st_ino
        held = [
            words
            for line in Path("/proc/locks").read_text().splitlines()
            if (words := line.split())[-3].endswith(f":{inode}")
        ]
        assert held, "it is locked"
        for _, kind, *_, first, last in held:
            assert kind == "OFDLCK", held
            assert set(range(int(first), int(last) + 1)).isdisjoint(range(100, 264)), held


@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_restores_that_begin_at_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """
    One finds the other's file before that has locked it, and takes it for a killed run's.

    *before*: it has just locked it, and is about to remove it; *after*: it has one of its own.
    """
    real, temp = hold_alone, tmp_path / ".vda.qcow2.tmp"
    with open_directory(str(tmp_path)) as fd, ExitStack() as other:

        def late(mine: int) -> None:
            monkeypatch.setattr("fibackup.host.destination.hold_alone", real)
            if moment == "before":
                real(other.enter_context(temp.open("r+b")).fileno())
            else:
                other.enter_context(temporary_destination("vda.qcow2", fd))
            real(mine)

        monkeypatch.setattr("fibackup.host.destination.hold_alone", late)
        with (
            pytest.raises(fb.LockedError, match="another restore"),
            temporary_destination("vda.qcow2", fd),
        ):
            pytest.fail("both have it")
        assert temp.exists() is (moment == "after"), "what it has is its own"


@pytest.mark.parametrize("form", fb.RestoreForm)
def test_a_header_that_leads_elsewhere_is_seen_before_qemu_opens_it(
    maker: StoreMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: fb.RestoreForm
) -> None:
    """Its hash is wrong as well; but until that is known, QEMU would have read another file."""
    newest = maker.point({"vda": {1: 2}})
    secret, (qemu_img, log) = tmp_path / "secret", logged_qemu_img(tmp_path)
    secret.write_bytes(bytes(65536))
    image = maker.path(f"vda/{newest.id}.qcow2")
    size = image.stat().st_size
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", secret, "-F", "raw", image)
    assert image.stat().st_size == size
    monkeypatch.setenv("FIBACKUP_QEMU_IMG", str(qemu_img))
    into = PurePosixPath(tmp_path / "into")
    plan = fb.plan_restore(maker.history(), newest.id, into=into, form=form)
    with pytest.raises(fb.StepError, match="backing file") as caught:
        fb.Executor(None, maker.store).run(plan)
    assert isinstance(caught.value.__cause__, fb.VerifyError)
    assert not log.exists() or newest.id not in log.read_text()
    assert not Path(into).exists()


# -- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["copy", "hash"])
def test_a_read_that_fails_is_tried_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """EIO at a place once is nothing, twice is an error; no other error is tried again."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    good = sha256(source.read_bytes()).hexdigest()
    failing: list[int] = []
    real = os.preadv

    def preadv(*words: object) -> int:
        if failing:
            raise OSError(failing.pop(), "it failed, as it should")
        return real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", preadv)

    def read(*errors: int) -> str:
        failing[:] = errors
        with source.open("rb") as file, (tmp_path / "copy").open("w+b") as copy:
            if what == "hash":
                return hash_file(
                    file.fileno(), 100_000, on_bytes=lambda _: None, cancel=CancelToken()
                )
            return copy_and_hash(
                file.fileno(), copy.fileno(), 100_000,
                head=b"", on_bytes=lambda _: None, cancel=CancelToken(),
            )  # fmt: skip

    assert read(errno.EIO) == good
    for errors in ((errno.EIO, errno.EIO), (errno.EACCES,), (errno.ESTALE,)):
        with pytest.raises(fb.HostError, match="reading at byte 0"):
            read(*errors)
        assert failing == []


# -- locks ---------------------------------------------------------------------------------------


HOLD = """
import sys, fibackup as fb
with fb.Store.open(sys.argv[1]) as store:
    with store.locked(sys.argv[2], "web1", exclusive=sys.argv[3] == "writer"):
        print("held", flush=True)
        sys.stdin.read()
"""


@contextmanager
def holder(maker: StoreMaker, role: str) -> Iterator[subprocess.Popen[str]]:
    """Hold a domain's lock in another process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(maker.root), UUID, role],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.communicate()


def test_the_owner_of_a_lock_is_named(maker: StoreMaker) -> None:
    """Process, host, command and since when; and kill -9 ends the lock at once."""
    with holder(maker, "writer") as other:
        with pytest.raises(fb.LockedError) as caught:
            maker.point({"vda": {1: 2}})
        who = f"pid {other.pid} on {re.escape(socket.gethostname())}"
        assert re.fullmatch(
            rf"{who}, python {re.escape(str(maker.root))} {UUID} writer, since \S+Z",
            caught.value.owner,
        )
        assert caught.value.owner in str(caught.value)
        assert caught.value.path == str(maker.home / "lock")
        other.send_signal(signal.SIGKILL)
        other.wait()
    maker.point({"vda": {1: 2}})
    record = json.loads((maker.home / "lock").read_text())
    assert (record["pid"], record["host"]) == (os.getpid(), socket.gethostname())
    assert set(record) == {"pid", "host", "boot_id", "command", "since"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"pid": "x"}', b'{"pid": 1, "host": "h"}', b"9" * 10_000],
)
def test_what_a_lock_says_decides_nothing(maker: StoreMaker, content: bytes) -> None:
    """A lock that nobody holds is free whatever is in it; one that is held may say anything."""
    lock = maker.home / "lock"
    mine = json.dumps(
        {"pid": 1, "host": "x", "boot_id": "y", "command": "\x1b[31m", "since": "then"}
    )
    for text in (content, mine.encode()):
        lock.write_bytes(text)
        maker.point({"vda": {1: 2}})
    with holder(maker, "writer"):
        lock.write_bytes(content)
        with pytest.raises(fb.LockedError) as caught:
            maker.point({"vda": {1: 2}})
        assert caught.value.owner == "unknown"
        lock.write_bytes(mine.encode())
        with pytest.raises(fb.LockedError) as caught:
            maker.point({"vda": {1: 2}})
        assert "\x1b" not in caught.value.owner


def test_a_full_disk_keeps_nobody_from_the_lock(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signing is for people; without room for it the lock is held all the same."""
    monkeypatch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with maker.store.locked(UUID, "web1", exclusive=True), pytest.raises(fb.LockedError):
        maker.point({"vda": {1: 2}})


def test_a_look_at_the_lock_refuses_no_run(maker: StoreMaker) -> None:
    """A verification that asks whether a run is at work holds the lock for a moment."""
    with open_directory(str(maker.home)) as fd:
        looking = os.open("lock", os.O_RDONLY, dir_fd=fd)
    fcntl.flock(looking, fcntl.LOCK_SH)
    done = threading.Timer(0.1, os.close, (looking,))
    done.start()
    try:
        maker.point({"vda": {1: 2}})
    finally:
        done.join()
    assert len(maker.history().points) == 2


def test_a_look_at_the_lock_believes_the_kernel_alone(maker: StoreMaker) -> None:
    """Who signs is between two writes of the lock file; it is at work nevertheless."""
    with maker.store.locked(UUID, "web1", exclusive=True):
        (maker.home / "lock").write_bytes(b"")
        assert maker.store.survey(UUID).busy
    assert not maker.store.survey(UUID).busy


def test_a_run_that_comes_and_goes_while_files_are_listed_is_seen(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is listed may have been its own, as after a look at a lock that is held."""
    real = survey.list_files

    def listed_late(dir_fd: int) -> tuple[FoundFile, ...]:
        maker.point({"vda": {1: 2}})
        return real(dir_fd)

    monkeypatch.setattr(store_reader, "list_files", listed_late)
    assert maker.store.survey(UUID).busy


def test_a_record_that_is_being_written_is_not_swept(maker: StoreMaker) -> None:
    """A run that begins leaves it to the verification that writes it; the next one removes it."""
    record = maker.home / ".verified.json.tmp"
    record.write_bytes(b"{")
    with (maker.home / "lock.verified").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        maker.point({"vda": {1: 2}})
        assert record.exists()
    maker.point({"vda": {2: 3}})
    assert not record.exists()


def test_a_restore_and_a_backup_do_not_wait_for_each_other(
    maker: StoreMaker, tmp_path: Path
) -> None:
    """Readers share with a writer and with each other; two writers do not."""
    (first,) = maker.history().points
    with holder(maker, "reader"), holder(maker, "reader"):
        second = maker.point({"vda": {1: 2}})
    with holder(maker, "writer"), holder(maker, "reader"):
        for point in (first, second):
            assert maker.restores(point.id, tmp_path / point.id)
        with pytest.raises(fb.LockedError):
            maker.point({"vda": {2: 3}})
    assert {point.id for point in maker.history().points} == {first.id, second.id}
