"""A prune of real stores: what is kept restores to the byte, whatever ends the run and when."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path, PurePosixPath

import pytest

import fibackup as fb
from fibackup.cli.main import main
from fibackup.host import qemu_img
from fibackup.host.files import open_directory
from fibackup.host.lock import hold_image_lock
from fibackup.host.record import Recorder
from hypervisor.host import run
from hypervisor.images import MIB
from hypervisor.killing import Killer
from hypervisor.qcow2_reader import read_qcow2
from hypervisor.stores import START, StoreMaker, content, named, nothing_is_left_over
from integration.interrupted import killed_after_its_journal
from integration.needed import absent

pytestmark = pytest.mark.libvirt

NOW = START.replace(year=2029)
PAST = START.replace(year=2020)


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    """Give something that runs prunes and kills them."""
    with Killer() as made:
        yield made


def ids(maker: StoreMaker) -> list[str]:
    """Return the points that are read."""
    return [point.id for point in maker.history().points]


def prune(maker: StoreMaker, policy: fb.RetentionPolicy, wait_seconds: float = 5.0) -> fb.Report:
    """Plan and run."""
    plan = fb.plan_prune(maker.history(), policy, now=NOW, wait_seconds=wait_seconds)
    return fb.Executor(None, maker.store).run(plan)


def files(maker: StoreMaker) -> set[str]:
    """Return the files of the domain, but for locks, seals and what was verified."""
    found = {str(path.relative_to(maker.home)) for path in maker.home.rglob("*") if path.is_file()}
    return found - {"lock", "lock.readers", "lock.verified", "points.sha256", "verified.json"}


def check(maker: StoreMaker, into: Path) -> None:
    """See that every point of the store restores to what was written."""
    history = maker.history()
    assert history.damaged == frozenset()
    assert not history.unreadable
    assert not history.lost
    for point in history.points:
        assert maker.restores(point.id, into), point


def test_dropped_points_are_gone_and_kept_ones_restore(tmp_path: Path) -> None:
    """Files and seals go with them; the modes stay private."""
    with StoreMaker(tmp_path) as maker:
        for number in range(5):
            maker.point({"vda": {number: number + 1, 9: number}, "vdb": {number: 7}})
        report = prune(maker, fb.RetentionPolicy(keep_last=2, protect=(ids(maker)[1],)))
        assert [number for number, v in enumerate(report.plan.verdicts) if v.kept] == [1, 3, 4]
        assert report.freed_bytes > 0
        assert files(maker) == named(maker.history())
        assert all(p.stat().st_mode & 0o077 == 0 for p in maker.home.rglob("*"))
        seals = maker.path("points.sha256").read_text()
        assert [point for point in ids(maker) if f"{point}.json" in seals] == ids(maker)
        check(maker, tmp_path / "out")
        assert maker.point({"vda": {3: 9}, "vdb": {}}).disks[0].kind is fb.DiskKind.INCREMENT
        check(maker, tmp_path / "out")


def test_a_file_beside_the_manifest_protects_a_point(tmp_path: Path) -> None:
    """It is kept by whatever policy, until the file goes."""
    with StoreMaker(tmp_path) as maker:
        for number in range(3):
            maker.point({"vda": {number: 1}})
        first, second, third = ids(maker)
        maker.path(f"{first}.protected").touch()
        prune(maker, fb.RetentionPolicy(keep_last=1))
        assert ids(maker) == [first, third]
        assert second not in str(files(maker) - {f"vda/{second}.qcow2"})
        maker.path(f"{first}.protected").unlink()
        prune(maker, fb.RetentionPolicy(keep_last=1))
        assert ids(maker) == [third]


def test_a_prune_waits_for_those_who_read(tmp_path: Path) -> None:
    """For its time; then it leaves everything as it is."""
    with StoreMaker(tmp_path) as maker:
        for number in range(3):
            maker.point({"vda": {number: 1}})
        before = files(maker)
        with ExitStack() as reading:
            reading.enter_context(maker.store.locked(maker.uuid, "web1", exclusive=False))
            with pytest.raises(fb.StepError, match="a restore or a verification reads") as caught:
                prune(maker, fb.RetentionPolicy(keep_last=1), wait_seconds=0.1)
            assert isinstance(caught.value.__cause__, fb.LockedError)
            assert caught.value.__cause__.owner == ""
            assert files(maker) == before
            waiting = threading.Thread(target=prune, args=(maker, fb.RetentionPolicy(keep_last=1)))
            waiting.start()
            time.sleep(0.2)
            assert files(maker) == before
        waiting.join()
        assert len(ids(maker)) == 1


def test_a_reader_waits_for_a_prune(tmp_path: Path) -> None:
    """Some time, and then it says who is in the way."""
    with StoreMaker(tmp_path) as maker:
        maker.point({"vda": {1: 1}})
        lock = os.open(maker.path("lock.readers"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        maker.store.reader_wait_seconds = 0.1
        with (
            pytest.raises(fb.LockedError),
            maker.store.locked(maker.uuid, "web1", exclusive=False),
        ):
            pass
        maker.store.reader_wait_seconds = 20.0
        threading.Timer(0.3, os.close, (lock,)).start()
        check(maker, tmp_path / "out")


def kept_base(directory: Path) -> StoreMaker:
    """Make a store with a full of 12 MiB and increments of one cluster."""
    maker = StoreMaker(directory, size_bytes=16 * MIB)
    maker.point({"vda": dict.fromkeys(range(192), 1)})
    for number in range(5):
        maker.point({"vda": {number: number + 2}})
    return maker


def test_a_merge_costs_the_increments_and_not_the_disk(tmp_path: Path) -> None:
    """The large image under them is not written, nor is the newest one, and all read the same."""
    with kept_base(tmp_path) as maker:
        points = ids(maker)
        had = content(maker.root)
        base, newest = (maker.path(f"vda/{points[n]}.qcow2") for n in (0, 5))
        before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (base, newest)]
        report = prune(maker, fb.RetentionPolicy(keep_last=1, protect=(points[4],)))
        assert [(p.stat().st_ino, p.stat().st_mtime_ns) for p in (base, newest)] == before
        assert 0 < report.copied_bytes < MIB < base.stat().st_size
        assert report.freed_bytes > 0
        point = maker.history().point(points[4])
        assert [image.name[:16] for image in point.disks[0].images] == [points[4], points[0]]
        assert content(maker.root) == {point: had[point] for point in (points[4], points[5])}
        nothing_is_left_over(maker.root, maker.uuid)
        assert maker.point({"vda": {3: 99}}).disks[0].parent == points[5]
        check(maker, tmp_path / "out")


def test_a_merge_writes_as_much_for_a_disk_four_times_the_size(tmp_path: Path) -> None:
    """The same dropped bytes; only the tables of qcow2 know the size of the disk."""
    wrote: dict[int, int] = {}
    for size_mib in (32, 128):
        home = tmp_path / str(size_mib)
        home.mkdir()
        with StoreMaker(home, size_bytes=size_mib * MIB) as maker:
            maker.point({"vda": dict.fromkeys(range(size_mib * 4), 1)})  # a quarter of the disk
            for number in range(4):
                maker.point({"vda": {3 * number + part: number + 2 for part in range(4)}})
            points = ids(maker)
            full = maker.path(f"vda/{points[0]}.qcow2")
            before = full.stat().st_mtime_ns
            report = prune(maker, fb.RetentionPolicy(keep_last=1, protect=(points[0], points[3])))
            steps = [type(step) for step in report.plan.steps]
            assert steps == [fb.VerifyFiles, fb.DropPoints, fb.MergeImages]
            assert full.stat().st_mtime_ns == before
            wrote[size_mib] = report.copied_bytes
            had = maker.references[points[3]]["vda"].read_bytes()
            assert read_qcow2(maker.path(f"vda/{points[3]}.qcow2")) == had
    assert 10 * 65536 <= wrote[32] < 10 * 65536 + MIB
    assert abs(wrote[128] - wrote[32]) <= 4 * 65536


def test_merged_images_are_sound_for_qemu(tmp_path: Path) -> None:
    """Also where zeros lie over data."""
    with StoreMaker(tmp_path) as maker:
        maker.point({"vda": dict.fromkeys(range(8), 1)})
        for number in range(3):
            maker.point({"vda": {number: 0, number + 8: 5, 20: number + 1}})
        had = content(maker.root)
        prune(maker, fb.RetentionPolicy(keep_last=1, protect=(ids(maker)[2],)))
        assert content(maker.root) == {point: had[point] for point in ids(maker)}
        for path in maker.home.glob("vda/*.qcow2"):
            run("qemu-img", "check", "-q", "-f", "qcow2", path)


def test_an_image_that_a_domain_runs_on_is_not_deleted(tmp_path: Path) -> None:
    """Nor is anything else of that step."""
    with StoreMaker(tmp_path) as maker:
        maker.point({"vda": {1: 1}})
        maker.point({"vda": {2: 2}}, full=True)
        before = files(maker)
        with maker.path(f"vda/{ids(maker)[0]}.qcow2").open("rb") as image:
            hold_image_lock(image.fileno(), "")
            with pytest.raises(fb.StepError, match="a process has the image open") as caught:
                prune(maker, fb.RetentionPolicy(keep_last=1))
            assert isinstance(caught.value.__cause__, fb.DomainBusyError)
            assert "virsh blockpull" in caught.value.__cause__.remedy
            assert files(maker) == before
        prune(maker, fb.RetentionPolicy(keep_last=1))
        assert len(ids(maker)) == 1


def test_whatever_point_is_listed_is_whole_while_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifests go from the newest to the oldest: what lies on another goes before it."""
    really_unlink = os.unlink
    with StoreMaker(tmp_path) as maker:
        for full in (True, False, False, True):
            maker.point({"vda": {1: 1}}, full=full)
        gone: list[str] = []

        def unlink(path: str, *, dir_fd: int | None = None) -> None:
            if path.endswith("Z.json"):
                history = maker.history()
                assert all(history.images(point.id, "vda") for point in history.points)
                gone.append(path.removesuffix(".json"))
            really_unlink(path, dir_fd=dir_fd)

        before = ids(maker)
        monkeypatch.setattr(os, "unlink", unlink)
        prune(maker, fb.RetentionPolicy(keep_last=1))
        assert gone == before[2::-1]


def test_what_is_merged_is_only_read(tmp_path: Path) -> None:
    """An image with a bitmap changes when QEMU opens it for writing; readers hold their locks."""
    base, low, top, into, scratch = (tmp_path / f"{name}.qcow2" for name in "blnis")
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "4M")
    for path, under, byte in ((low, base, 1), (top, low, 2)):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", under.name, "-F", "qcow2", path)
        run("qemu-io", "-f", "qcow2", "-c", f"write -q -P {byte} {byte}M 1M", path)
        run("qemu-img", "bitmap", "-f", "qcow2", "--add", path, "b0")
    before = [path.read_bytes() for path in (base, low, top)]
    token = fb.CancelToken()
    paths = [PurePosixPath(path) for path in (into, scratch, top, low)]
    for made, backing in ((paths[0], base.name), (paths[1], None)):
        qemu_img.create_empty(made, 4 * MIB, cluster_bytes=65536, backing=backing, cancel=token)
    with ExitStack() as reading:
        for path in (base, low, top):
            hold_image_lock(reading.enter_context(path.open("rb")).fileno(), str(path))
        qemu_img.gather(
            paths[2:], paths[0], paths[1], on_percent=lambda _: None, cancel=fb.CancelToken()
        )
    assert [path.read_bytes() for path in (base, low, top)] == before
    assert read_qcow2(into) == read_qcow2(top)
    with pytest.raises(fb.QemuImgError):
        qemu_img.gather(
            paths[2:], PurePosixPath("/none"), paths[1], on_percent=lambda _: None, cancel=token
        )


def test_a_wrong_byte_is_not_merged(tmp_path: Path) -> None:
    """It would get a right hash; nothing goes, and the next one knows of it."""
    with StoreMaker(tmp_path) as maker:
        for number in range(4):
            maker.point({"vda": {number: number + 1}})
        points = ids(maker)
        path = maker.path(f"vda/{points[1]}.qcow2")
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(fb.StepError, match="sha256 is") as caught:
            prune(maker, fb.RetentionPolicy(keep_last=1, protect=(points[2],)))
        assert isinstance(caught.value.__cause__, fb.VerifyError)
        assert ids(maker) == points
        assert maker.history().found_wrong == {f"vda/{points[1]}.qcow2"}
        prune(maker, fb.RetentionPolicy(keep_last=1, protect=(points[2],)))
        assert ids(maker) == [points[0], *points[2:]]  # the first is the newest that is whole
        assert path.read_bytes() == data
        nothing_is_left_over(maker.root, maker.uuid)


def test_a_byte_that_goes_wrong_between_reading_and_merging_is_not_merged(tmp_path: Path) -> None:
    """The merge reads for itself; what was kept is as it was."""
    with StoreMaker(tmp_path) as maker:
        for number in range(4):
            maker.point({"vda": {number: number + 1}})
        points = ids(maker)
        path = maker.path(f"vda/{points[1]}.qcow2")

        def spoil(step: fb.Step) -> None:
            if isinstance(step, fb.MergeImages):
                path.write_bytes(path.read_bytes()[:-1] + b"!")

        policy = fb.RetentionPolicy(keep_last=1, protect=(points[2],))
        plan = fb.plan_prune(maker.history(), policy, now=NOW)
        with pytest.raises(fb.StepError, match="sha256 is") as caught:
            fb.Executor(None, maker.store).run(plan, gate=spoil)
        assert "points that need the wrong file are spoiled" in str(caught.value)
        assert ids(maker) == points[2:]
        nothing_is_left_over(maker.root, maker.uuid)


def merge_due(directory: Path) -> StoreMaker:
    """Make a store where a prune that keeps points 2 and 4 drops 1 and 3, and merges 2 with 1."""
    maker = StoreMaker(directory, start=PAST)
    for number in range(4):
        maker.point({"vda": {number: number + 1, 9: number}})
    return maker


def merge_plan(maker: StoreMaker, *, wait_seconds: float = 0.1) -> fb.Plan:
    """Return the plan of that prune."""
    policy = fb.RetentionPolicy(keep_last=1, protect=(ids(maker)[-3],))
    return fb.plan_prune(maker.history(), policy, now=NOW, wait_seconds=wait_seconds)


def interrupt_merge(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch, call: str = "rename", number: int = 1
) -> None:
    """Run the prune until a merge, with its journal written, makes this call so many times."""
    count = 0

    def fail(*words: object, **named: object) -> None:
        nonlocal count
        count += maker.path("merge.json").exists() and not str(words[0]).startswith(".merge.json")
        if count >= number:
            raise OSError(28, "No space left on device")
        original(*words, **named)

    original = getattr(os, call)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(fb.StepError, match="No space left"):
            fb.Executor(None, maker.store).run(merge_plan(maker))
    assert maker.path("merge.json").exists()


READ_ONLY = (
    "unshare", "-m", "--propagation", "private", "sh", "-c",
    'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"',
)  # fmt: skip


@pytest.mark.parametrize(
    ("call", "number", "placed"),
    [("rename", 1, False), ("rename", 2, True), ("rename", 3, True), ("unlink", 1, True)],
)
def test_an_interrupted_merge_reads_right_where_nobody_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, *, placed: bool
) -> None:
    """A store on read-only media: the new image waits, has its place, or is in the manifest."""
    if os.geteuid() != 0:
        absent("root", "only root may mount")
    with merge_due(tmp_path) as maker:
        interrupt_merge(maker, monkeypatch, call, number)
        points = ids(maker)
        assert placed is not any(maker.home.glob("vda/*.merged"))
        had = {point: maker.references[point]["vda"].read_bytes() for point in points}
        before = {path: path.read_bytes() for path in maker.root.rglob("*") if path.is_file()}
        fibackup = (sys.executable, "-m", "fibackup")
        words = ("--store", maker.root)
        for point in points:
            into = tmp_path / point
            more = ("--format", "raw", "--point", point, "--into", into, "web1")
            run(*READ_ONLY, maker.root, *fibackup, "restore", *words, *more)
            assert (into / "vda.raw").read_bytes() == had[point]
        said = run(*READ_ONLY, maker.root, *fibackup, "verify", *words, "--deep", "--json")
        (found,) = json.loads(said)["results"]
        assert [point["whole"] for point in found["verification"]["points"]] == [True, True]
        assert found["verification"]["faults"] == []
        assert {p: p.read_bytes() for p in maker.root.rglob("*") if p.is_file()} == before
        with maker.store.locked(maker.uuid, "web1", exclusive=True):
            pass
        nothing_is_left_over(maker.root, maker.uuid)
        assert maker.point({"vda": {3: 9}}).disks[0].kind is fb.DiskKind.INCREMENT
        check(maker, tmp_path / "out")


def test_a_drop_that_a_merge_has_overtaken_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A merge waits for a reader to be finished, and the drop was planned before it is.

    Its heirs would get manifests that name images which the merge has taken away.
    """
    with merge_due(tmp_path) as maker:
        interrupt_merge(maker, monkeypatch)
        (merged, newest) = ids(maker)
        had = content(maker.root)
        policy = fb.RetentionPolicy(keep_last=1)
        with ThreadPoolExecutor(1) as pool:
            with maker.store.locked(maker.uuid, "web1", exclusive=False):
                plan = fb.plan_prune(maker.history(), policy, now=NOW, wait_seconds=20.0)
                step = dropping(plan)
                assert step.points == (merged,)
                assert len(step.heirs[0].disks[0].images) == 4
                running = pool.submit(fb.Executor(None, maker.store).run, plan)
                time.sleep(0.3)
            error = running.exception()
        assert isinstance(error, fb.StepError), error
        assert isinstance(error.__cause__, fb.StalePlanError)
        assert content(maker.root) == had
        prune(maker, policy)
        assert content(maker.root) == {newest: had[newest]}
        nothing_is_left_over(maker.root, maker.uuid)


def test_a_merge_that_gives_up_leaves_the_one_before_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that waits beside a journal is not taken for a leftover."""
    with merge_due(tmp_path) as maker:
        interrupt_merge(maker, monkeypatch)
        had = content(maker.root)
        with maker.store.locked(maker.uuid, "web1", exclusive=False):
            with pytest.raises(fb.StepError, match="a restore or a verification reads"):
                fb.Executor(None, maker.store).run(merge_plan_again(maker))
            assert len([*maker.home.glob("vda/*.merged")]) == 1
            assert content(maker.root) == had
        with maker.store.locked(maker.uuid, "web1", exclusive=True):
            pass
        assert content(maker.root) == had
        nothing_is_left_over(maker.root, maker.uuid)


def test_a_journal_without_its_image_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes, as long as what should replace it is not proven to be there."""
    with merge_due(tmp_path) as maker:
        interrupt_merge(maker, monkeypatch)
        (waiting,) = maker.home.glob("vda/*.merged")
        waiting.unlink()
        had = content(maker.root)
        with maker.store.locked(maker.uuid, "web1", exclusive=True):
            assert not maker.path("merge.json").exists()
        assert content(maker.root) == had
        prune(maker, fb.RetentionPolicy(keep_last=9))
        assert content(maker.root) == had
        nothing_is_left_over(maker.root, maker.uuid)


def test_a_plan_of_before_another_merge_is_refused(tmp_path: Path) -> None:
    """The store has the same points, and other images."""
    with merge_due(tmp_path) as maker:
        plan = merge_plan(maker)
        store = maker.store
        with store.locked(maker.uuid, "web1", exclusive=True):
            store.drop(maker.uuid, dropping(plan))
        late = fb.plan_prune(maker.history(), fb.RetentionPolicy(keep_last=1), now=NOW)
        fb.Executor(None, store).run(merge_plan_again(maker))
        had = content(maker.root)
        with pytest.raises(fb.StepError) as caught:
            fb.Executor(None, store).run(late)
        assert isinstance(caught.value.__cause__, fb.StalePlanError)
        assert content(maker.root) == had


def dropping(plan: fb.Plan) -> fb.DropPoints:
    """Return the step of a plan that drops points."""
    (step,) = (step for step in plan.steps if isinstance(step, fb.DropPoints))
    return step


def merge_plan_again(maker: StoreMaker) -> fb.Plan:
    """Return a plan that drops nothing, and merges what is due."""
    plan = fb.plan_prune(
        maker.history(), fb.RetentionPolicy(keep_last=9), now=NOW, wait_seconds=0.1
    )
    assert [type(step) for step in plan.steps] == [fb.VerifyFiles, fb.MergeImages]
    return plan


def test_a_point_that_was_protected_meanwhile_stays(tmp_path: Path) -> None:
    """The file counts until the last moment."""
    with merge_due(tmp_path) as maker:
        plan = merge_plan(maker)
        maker.path(f"{ids(maker)[0]}.protected").touch()
        with pytest.raises(fb.StepError, match="is protected"):
            fb.Executor(None, maker.store).run(plan)
        assert len(ids(maker)) == 4


def test_an_image_that_a_domain_runs_on_is_not_merged_away(tmp_path: Path) -> None:
    """It is of a point that was dropped: its image was handed over, and now it would go."""
    with merge_due(tmp_path) as maker:
        plan = merge_plan(maker)
        first = ids(maker)[0]
        had = content(maker.root)
        with maker.path(f"vda/{first}.qcow2").open("rb") as image:
            hold_image_lock(image.fileno(), "")
            with pytest.raises(fb.StepError, match="a process has the image open") as caught:
                fb.Executor(None, maker.store).run(plan)
            assert isinstance(caught.value.__cause__, fb.DomainBusyError)
            assert maker.path(f"vda/{first}.qcow2").exists()
            nothing_is_left_over(maker.root, maker.uuid)
        fb.Executor(None, maker.store).run(merge_plan_again(maker))
        assert not maker.path(f"vda/{first}.qcow2").exists()
        assert content(maker.root) == {point: had[point] for point in ids(maker)}


def test_those_who_restore_and_verify_see_nothing_of_a_prune(tmp_path: Path) -> None:
    """Processes that run all the time, while points go and images are merged."""
    with StoreMaker(tmp_path, start=PAST) as maker:
        for number in range(12):
            maker.point({"vda": {number: number + 1, 30: number}, "vdb": {number: 3}})
        points = ids(maker)
        newest = points[-1]
        script = (
            "import itertools, subprocess, sys, pathlib\n"
            "store, point, stop = sys.argv[1:]\n"
            "for number in itertools.count():\n"
            "    if pathlib.Path(stop).exists(): break\n"
            "    for words in (['restore', 'web1', '--point', point, '--format', 'raw', '--into',\n"
            "                   f'{stop}-{number}'], ['verify', 'web1']):\n"
            "        subprocess.run([sys.executable, '-m', 'fibackup', words[0], '-s', store,\n"
            "                        *words[1:]], check=True, capture_output=True)\n"
            "print(number)\n"
        )
        stop = tmp_path / "stop"
        reading = subprocess.Popen(
            [sys.executable, "-c", script, str(maker.root), newest, str(stop)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            for last in range(11, 0, -1):
                prune(maker, fb.RetentionPolicy(keep_last=last), wait_seconds=60.0)
        finally:
            stop.touch()
            said, errors = reading.communicate(timeout=60)
        assert reading.returncode == 0, errors
        assert int(said) > 0
        for restored in tmp_path.glob("stop-*/vda.raw"):
            assert restored.read_bytes() == maker.references[newest]["vda"].read_bytes()


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreMaker]:
    """Give a store with two disks, one of them not in every point."""
    with StoreMaker(tmp_path_factory.mktemp("some"), start=PAST) as maker:
        for number in range(5):
            writes = {"vda": {number: number + 1, 20 + number: number}}
            maker.point(writes | ({"vdb": {number: 9}} if number % 2 else {}))
        yield maker


@pytest.mark.parametrize("fault", ["kill", "fail"])
def test_any_call_may_be_the_last(
    tmp_path: Path, some: StoreMaker, killer: Killer, fault: str
) -> None:
    """Killed, or out of space for good: every point reads right, and the next prune finishes it."""
    points = ids(some)
    kept = [points[1], points[4]]
    had = content(some.root)
    said, at = "", 0
    while said != "done":
        at += 1
        root = tmp_path / str(at)
        shutil.copytree(some.root, root)
        faults = {"kill_at": at} if fault == "kill" else {"fail_at": at}
        said = killer.prune(root, some.uuid, keep_last=1, protect=kept[:1], **faults)
        assert said == "done" or "killed" in said or "No space left" in said, said
        now = content(root)
        assert set(kept) <= set(now)
        assert {point: had[point] for point in now} == now
        assert killer.prune(root, some.uuid, keep_last=1, protect=kept[:1]) == "done"
        assert content(root) == {point: had[point] for point in kept}
        nothing_is_left_over(root, some.uuid)
        shutil.rmtree(root)
    assert at > 25


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``fibackup prune`` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "fibackup", "prune", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command_prunes_every_domain(tmp_path: Path) -> None:
    """A dry run changes nothing; a domain that fails does not hide the other's result."""
    other = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc45530"
    with (
        StoreMaker(tmp_path, start=PAST) as one,
        StoreMaker(tmp_path, uuid=other, name="db1", start=PAST) as two,
    ):
        for number in range(3):
            one.point({"vda": {number: 1}})
            two.point({"vda": {number: 2}})
        words = ("--store", one.root, "--keep-last", "1")
        dry = command(*words, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert dry.stdout.count("drop: no rule keeps it") == 4
        assert len(ids(one)) == len(ids(two)) == 3
        two.path(f"{ids(two)[0]}.json").write_text("{}")
        kept = tmp_path / "fibackup.prom"
        done = command(*words, "--json", "--metrics", kept)
        assert done.returncode == 5, done.stderr
        samples = fb.parse_metrics(kept.read_text())
        points = [each for each in samples if each.name == "fibackup_points"]
        assert [(each.label("domain"), each.value) for each in points] == [("web1", 1)]
        results = {each["domain"]: each for each in json.loads(done.stdout)["results"]}
        assert results["web1"]["report"]["freed_bytes"] > 0
        assert [v["kept"] for v in results["web1"]["report"]["plan"]["verdicts"]] == [0, 0, 1]
        assert results["db1"]["error"]["type"] == "ManifestError"
        assert (len(ids(one)), len(ids(two))) == (1, 2)
        check(one, tmp_path / "out")


def test_the_command_leaves_what_a_domain_runs_on(tmp_path: Path) -> None:
    """It is no failure: a dry run says it before, and the next prune goes on."""
    with StoreMaker(tmp_path, start=PAST) as maker:
        for full in (True, False, True):
            maker.point({"vda": {2: 2}}, full=full)
        points = ids(maker)
        words = ("--store", maker.root, "--keep-last", "1")
        with ExitStack() as held:
            for point in points[:1]:
                image = held.enter_context(maker.path(f"vda/{point}.qcow2").open("rb"))
                hold_image_lock(image.fileno(), "")
            waits = f"vda/{points[0]}.qcow2 cannot go yet"
            dry = command(*words, "--dry-run")
            assert (dry.returncode, waits in dry.stdout) == (0, True), dry.stderr
            done = command(*words)
            assert (done.returncode, waits in done.stdout) == (0, True), done.stderr
            assert ids(maker) == [points[0], points[2]]
            strict = command(*words, "--strict", "--quiet")
            assert (strict.returncode, strict.stdout) == (4, "")
            assert strict.stderr.startswith(f"fibackup: warning: web1: {waits}")
        done = command(*words, "--strict")
        assert (done.returncode, "warning" in done.stdout) == (0, False)
        assert ids(maker) == points[2:]


def test_a_dry_run_prints_points_with_reasons_and_what_is_freed(tmp_path: Path) -> None:
    """What a person reads before he lets points go; nothing of the store changes."""
    with merge_due(tmp_path) as maker:
        points = ids(maker)
        before = {path: path.read_bytes() for path in maker.home.rglob("*") if path.is_file()}
        words = ("--store", maker.root, "--keep-last", "1", "--protect", points[1], "--dry-run")
        done = command(*words)
        assert done.returncode == 0, done.stderr
        sizes = [maker.path(f"{points[number]}.xml").stat().st_size for number in (0, 2)]
        assert f"at most; frees {sum(sizes)} B at once" in done.stdout
        lines = [line.strip() for line in done.stdout.splitlines()]
        assert lines[0] == "prune of web1"
        assert [line.split(",")[0] for line in lines[1:5]] == [
            f"{points[0]}  drop: no rule keeps it",
            f"{points[1]}  keep: protected",
            f"{points[2]}  drop: no rule keeps it",
            f"{points[3]}  keep: last",
        ]
        assert "freed at once" in lines[1]
        for number, start in (
            (6, "1. look at 2 files, read and hash 2 of them ("),
            (7, "2. drop 2 points, delete 2 files ("),
            (8, f"point {points[1]} takes over 2 images of vda"),
            (9, f"point {points[3]} takes over 2 images of vda"),
            (10, f"3. vda: merge 2 images of point {points[1]} into one ("),
        ):
            assert lines[number].startswith(start), lines
        after = {path: path.read_bytes() for path in maker.home.rglob("*") if path.is_file()}
        assert after == before
        plan = json.loads(command(*words, "--json").stdout)["results"][0]["plan"]
        assert [verdict["kept"] for verdict in plan["verdicts"]] == [False, True, False, True]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "a policy that drops everything is refused"),
        (("--keep-last", "0"), 2, "not a number of 1 or more"),
        (("--keep-within", "1y"), 2, "not a span such as"),
        (("--keep-daily", "1", "--time-zone", "Mars"), 2, "no time zone"),
        (("--keep-last", "1", "web2"), 1, "no point of this domain"),
        (("--keep-last", "1", "--protect", "20200101T000000Z"), 1, "no point 20200101T000000Z"),
    ],
)
def test_what_makes_no_sense_drops_nothing(
    some: StoreMaker, words: tuple[str, ...], code: int, said: str
) -> None:
    """Above all a prune without a rule."""
    done = command("--store", some.root, *words)
    assert (done.returncode, len(ids(some))) == (code, 5)
    assert said in done.stderr


def test_a_span_keeps_what_is_younger(some: StoreMaker) -> None:
    """Points lie a day apart."""
    done = command("--store", some.root, "--keep-within", "2d", "--dry-run", "web1")
    assert done.stdout.count("keep: within 2d") == 3


def test_a_prune_that_died_before_its_journal_is_taken_up_by_one_that_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two manifests name one image then, and a merge of the one must not take it from the other."""

    def full(name: str, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    with StoreMaker(tmp_path) as maker:
        maker.point({"vda": {0: 1, 9: 1}})
        maker.point({"vda": {1: 2}})
        prune(maker, fb.RetentionPolicy(keep_last=1))  # it takes over the full, which is not merged
        maker.point({"vda": {2: 3}})
        points = ids(maker)
        stale = fb.plan_prune(maker.history(), fb.RetentionPolicy(keep_last=2), now=NOW)
        with monkeypatch.context() as patched:
            patched.setattr("fibackup.host.prune.write_once", full)
            with pytest.raises(fb.StepError, match="No space left"):
                prune(maker, fb.RetentionPolicy(keep_last=1))
        assert len(maker.history().points[1].disks[0].images) == 3
        with pytest.raises(fb.StepError, match=f"point {points[1]} names .* too; plan again"):
            fb.Executor(None, maker.store).run(stale)
        prune(maker, fb.RetentionPolicy(keep_last=2))
        assert ids(maker) == points
        assert [len(point.disks[0].images) for point in maker.history().points] == [1, 1]
        nothing_is_left_over(maker.root, maker.uuid)
        check(maker, tmp_path / "out")


def test_what_a_verification_finds_while_a_prune_waits_for_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command plans after it has waited; a plan that was made before is refused."""
    with StoreMaker(tmp_path) as maker:
        maker.point({"vda": {0: 1}})
        maker.point({"vda": {0: 2}}, full=True)
        first, second = ids(maker)
        early = fb.plan_prune(maker.history(), fb.RetentionPolicy(keep_last=1), now=NOW)
        image = maker.path(f"vda/{second}.qcow2")
        image.write_bytes(bytes([image.read_bytes()[0] ^ 1]) + image.read_bytes()[1:])
        asked = fb.Store.images_in_use

        def wait(store: fb.Store, uuid: str, *, wait_seconds: float = 0.0) -> Mapping[str, str]:
            assert wait_seconds > 0
            assert main(["verify", "--store", str(maker.root)]) == 12
            return asked(store, uuid, wait_seconds=wait_seconds)

        monkeypatch.setattr(fb.Store, "images_in_use", wait)
        assert main(["prune", "--store", str(maker.root), "--keep-last", "1"]) == 0
        assert ids(maker) == [first, second]
        assert maker.restores(first, tmp_path / "out")
        with pytest.raises(fb.StepError, match="no point that would stay is whole; plan again"):
            fb.Executor(None, maker.store).run(early)
        assert ids(maker) == [first, second]


def interrupt_drop(maker: StoreMaker, patch: pytest.MonkeyPatch, *, keep_last: int) -> None:
    """Let a prune die right after it has written its journal."""
    with killed_after_its_journal(patch):
        prune(maker, fb.RetentionPolicy(keep_last=keep_last))


def test_a_point_that_is_protected_after_the_kill_stays_with_all_that_it_lies_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it is listed it is not too late; what no point needs goes."""
    with StoreMaker(tmp_path) as maker:
        for number in range(4):
            maker.point({"vda": {number: 1}}, full=number == 3)
        first, second, third, last = ids(maker)
        interrupt_drop(maker, monkeypatch, keep_last=1)
        maker.path(f"{third}.json").unlink()  # it had come so far
        maker.path(f"{second}.protected").touch()
        maker.point({"vda": {3: 2}})
        assert ids(maker)[:-1] == [first, second, last]
        assert f"vda/{third}.qcow2" not in files(maker)
        check(maker, tmp_path / "out")
        maker.path(f"{second}.protected").unlink()
        prune(maker, fb.RetentionPolicy(keep_last=1))
        nothing_is_left_over(maker.root, maker.uuid)


def test_a_journal_that_is_out_of_date_leaves_no_image_of_a_point_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point was laid on one of those that were to go, while a reader kept them."""
    with StoreMaker(tmp_path) as maker:
        for number in range(4):
            maker.point({"vda": {number: 1}}, full=number == 2)
        first, second, third, fourth = ids(maker)
        interrupt_drop(maker, monkeypatch, keep_last=2)
        maker.path(f"{second}.json").unlink()  # it had come so far
        maker.lay_next_on("vda", first)
        with maker.store.locked(maker.uuid, maker.name, exclusive=False):
            late = maker.point({"vda": {5: 1}})
        maker.point({"vda": {6: 1}})
        assert ids(maker)[:4] == [first, third, fourth, late.id]
        assert maker.history().orphans == frozenset()
        assert f"{second}.xml" not in files(maker)
        check(maker, tmp_path / "out")
        prune(maker, fb.RetentionPolicy(keep_last=1))
        nothing_is_left_over(maker.root, maker.uuid)


def test_nothing_is_taken_away_while_a_manifest_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its point needs is not known; the removal waits until it is back."""
    with StoreMaker(tmp_path) as maker:
        for number in range(3):
            maker.point({"vda": {number: 1}}, full=number == 1)
        points = ids(maker)
        interrupt_drop(maker, monkeypatch, keep_last=2)
        damaged = maker.path(f"{points[1]}.json")
        text = damaged.read_text("utf-8")
        damaged.write_text("{", "utf-8")
        maker.point({"vda": {5: 1}})
        assert f"vda/{points[0]}.qcow2" in files(maker)
        damaged.write_text(text, "utf-8")
        maker.point({"vda": {6: 1}})
        assert ids(maker)[:2] == points[1:]
        check(maker, tmp_path / "out")
        nothing_is_left_over(maker.root, maker.uuid)


def test_a_protected_point_stays_also_while_its_manifest_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it lies on stays too; with the manifest back, all of it is as it was."""
    with StoreMaker(tmp_path) as maker:
        for number in range(3):
            maker.point({"vda": {number: 1}}, full=number == 2)
        first, second, last = ids(maker)
        interrupt_drop(maker, monkeypatch, keep_last=1)
        maker.path(f"{second}.protected").touch()
        damaged = maker.path(f"{second}.json")
        text = damaged.read_text("utf-8")
        damaged.write_text("{", "utf-8")
        late = maker.point({"vda": {5: 1}})
        assert ids(maker) == [first, last, late.id]
        damaged.write_text(text, "utf-8")
        assert ids(maker) == [first, second, last, late.id]
        check(maker, tmp_path / "out")
        prune(maker, fb.RetentionPolicy(keep_last=1))
        assert ids(maker) == [second, late.id]
        check(maker, tmp_path / "out")


def test_a_point_that_is_to_stay_stays_also_while_its_manifest_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command cannot tell what it is asked to keep, and says so; nothing goes."""
    with StoreMaker(tmp_path, start=PAST) as maker:
        maker.point({"vda": {0: 1}})
        maker.point({"vda": {0: 2}}, full=True)
        first, last = ids(maker)
        interrupt_drop(maker, monkeypatch, keep_last=1)
        damaged = maker.path(f"{first}.json")
        text = damaged.read_text("utf-8")
        damaged.write_text("{", "utf-8")
        words = ["prune", "--store", str(maker.root), "--keep-last", "1", "--protect", first]
        assert main(words) == 12
        damaged.write_text(text, "utf-8")
        assert main(words) == 0
        assert ids(maker) == [first, last]
        check(maker, tmp_path / "out")


def test_points_that_were_going_are_told_of_and_stay_when_the_next_prune_keeps_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a dry run says of them is what becomes of them."""
    with StoreMaker(tmp_path, start=PAST) as maker:
        for number in range(4):
            maker.point({"vda": {number: 1}}, full=number == 3)
        first, second, third, last = ids(maker)
        interrupt_drop(maker, monkeypatch, keep_last=1)
        maker.path(f"{third}.json").unlink()  # it had come so far
        assert maker.history().going == {first, second}
        told = f"prune.json: a prune takes away {first}, {second}; if it was interrupted, the next"
        where = ("--store", str(maker.root))
        prunes = ("prune", *where, "--keep-last", "1", "--protect", first)
        for words in (("list", *where), ("verify", *where), (*prunes, "--dry-run")):
            assert main(list(words)) == 0
            printed = capsys.readouterr()
            assert told in printed.out + printed.err, words
            assert words[0] != "list" or printed.out.count("never; going\n") == 2
            assert words[0] != "prune" or f"{first}  keep: protected" in printed.out
        assert main(list(prunes)) == 0
        assert ids(maker) == [first, last]
        assert maker.history().going == frozenset()
        check(maker, tmp_path / "out")
        nothing_is_left_over(maker.root, maker.uuid)


def test_points_that_a_rule_keeps_stay_while_a_reader_keeps_the_removal_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is finished when the reader is done, by a step of a prune that keeps them."""
    with StoreMaker(tmp_path) as maker:
        for number in range(7):
            maker.point({"vda": {number: 1}})
        points = ids(maker)
        interrupt_drop(maker, monkeypatch, keep_last=4)
        policy = fb.RetentionPolicy(keep_last=1, protect=(points[1], points[2]))
        plan = fb.plan_prune(maker.history(), policy, now=NOW, wait_seconds=60)
        reader = ExitStack()
        reader.enter_context(maker.store.locked(maker.uuid, maker.name, exclusive=False))
        threading.Timer(1, reader.close).start()
        fb.Executor(None, maker.store).run(plan)
        assert ids(maker) == [*points[1:3], points[6]]
        check(maker, tmp_path / "out")
        nothing_is_left_over(maker.root, maker.uuid)


def test_what_another_prune_was_taking_away_by_the_time_of_the_lock_is_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had written its journal, and died, after the history was read."""
    with StoreMaker(tmp_path, start=PAST) as maker:
        maker.point({"vda": {0: 1}})
        maker.point({"vda": {0: 2}}, full=True)
        first, last = ids(maker)
        real = fb.Store.locked
        died: list[bool] = []

        def locked(
            store: fb.Store,
            uuid: str,
            name: str,
            *,
            exclusive: bool,
            spared: Callable[[fb.History], Container[str]],
        ) -> AbstractContextManager[None]:
            if not died:
                died.append(True)
                interrupt_drop(maker, monkeypatch, keep_last=1)
            return real(store, uuid, name, exclusive=exclusive, spared=spared)

        with monkeypatch.context() as patched:
            patched.setattr(fb.Store, "locked", locked)
            where = ("--store", str(maker.root))
            assert main(["prune", *where, "--keep-last", "1", "--protect", first]) == 0
        assert died
        assert ids(maker) == [first, last]
        assert main(["prune", *where, "--keep-last", "1"]) == 0
        assert ids(maker) == [last]


def test_a_prune_that_cannot_finish_ends_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next prune says which file it is about."""
    with StoreMaker(tmp_path) as maker:
        maker.point({"vda": {0: 1}})
        maker.point({"vda": {0: 2}}, full=True)
        stuck = f"{ids(maker)[0]}.qcow2"
        unlink = os.unlink

        def refuse(name: str, *, dir_fd: int | None = None) -> None:
            if name == stuck:
                raise PermissionError(errno.EPERM, "Operation not permitted", name)
            unlink(name, dir_fd=dir_fd)

        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", refuse)
            for _ in range(2):
                with pytest.raises(fb.StepError) as caught:
                    prune(maker, fb.RetentionPolicy(keep_last=1))
                assert f"vda/{stuck}" in str(caught.value)
                maker.point({"vda": {1: 2}})
        check(maker, tmp_path / "out")
        prune(maker, fb.RetentionPolicy(keep_last=1))
        nothing_is_left_over(maker.root, maker.uuid)


def test_what_was_found_wrong_since_the_plan_is_not_merged(tmp_path: Path) -> None:
    """A new image of it would have a right hash, and nothing would be wrong any more."""
    with StoreMaker(tmp_path) as maker:
        for number in range(5):
            maker.point({"vda": {number: 1}}, full=number == 4)
        points = ids(maker)
        policy = fb.RetentionPolicy(keep_last=2)
        plan = fb.plan_prune(maker.history(), policy, now=NOW)
        found = fb.ContentCheck(
            f"vda/{points[1]}.qcow2", "0" * 64, NOW, None, fb.FaultKind.STRUCTURE, "leaks"
        )
        with open_directory(str(maker.home)) as fd:
            recorder = Recorder(fd, 1, [])
            recorder.add(found)
            recorder.finish()
        with pytest.raises(fb.StepError, match=f"{points[1]}.qcow2 was found wrong; plan again"):
            fb.Executor(None, maker.store).run(plan)
        again = fb.plan_prune(maker.history(), policy, now=NOW)
        assert not [step for step in again.steps if isinstance(step, fb.MergeImages)]
        maker.path("verified.json").unlink()  # a disk that was found wrong is not restored
        check(maker, tmp_path / "out")
