"""A prune of real stores: what is kept restores to the byte, whatever ends the run and when."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

import fibackup as fb
from hypervisor.killing import Killer
from hypervisor.qcow2_reader import read_qcow2
from hypervisor.stores import START, StoreMaker

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
    """Return the files of the domain, but for locks and seals."""
    found = {str(path.relative_to(maker.home)) for path in maker.home.rglob("*") if path.is_file()}
    return found - {"lock", "lock.readers", "points.sha256"}


def named(history: fb.History) -> set[str]:
    """Return the files that manifests name, and the manifests."""
    return {
        name
        for point in history.points
        for name in (
            f"{point.id}.json",
            *(file.name for file in point.files),
            *(f"{disk.target}/{image.name}" for disk in point.disks for image in disk.images),
        )
    }


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
            with pytest.raises(fb.StepError, match="another run holds the lock") as caught:
                prune(maker, fb.RetentionPolicy(keep_last=1), wait_seconds=0.1)
            assert isinstance(caught.value.__cause__, fb.LockedError)
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


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreMaker]:
    """Give a store with two disks, one of them not in every point."""
    with StoreMaker(tmp_path_factory.mktemp("some"), start=PAST) as maker:
        for number in range(5):
            writes = {"vda": {number: number + 1, 20 + number: number}}
            maker.point(writes | ({"vdb": {number: 9}} if number % 2 else {}))
        yield maker


def content(root: Path) -> dict[str, dict[str, bytes]]:
    """Return what every disk of every point of a store reads, after looking at each file's hash."""
    found: dict[str, dict[str, bytes]] = {}
    with fb.Store.open(root) as store:
        (uuid,) = store.domains()
        history = store.read_history(uuid)
    assert (history.damaged, history.unreadable, history.lost) == (frozenset(), (), ())
    (home,) = root.glob(f"*{uuid}")
    for point in history.points:
        found[point.id] = {}
        for disk in point.disks:
            images = history.images(point.id, disk.target)
            for image in images:
                data = (home / disk.target / image.name).read_bytes()
                assert sha256(data).hexdigest() == image.sha256, (point.id, image.name)
            found[point.id][disk.target] = read_qcow2(home / disk.target / images[0].name)
    return found


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


def nothing_is_left_over(root: Path, uuid: str) -> None:
    """See that every file is named by a manifest."""
    (home,) = root.glob(f"*{uuid}")
    found = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    with fb.Store.open(root) as store:
        history = store.read_history(uuid)
    assert found - {"lock", "lock.readers", "points.sha256"} == named(history)


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
        done = command(*words, "--json")
        assert done.returncode == 5, done.stderr
        results = {each["domain"]: each for each in json.loads(done.stdout)["results"]}
        assert results["web1"]["report"]["freed_bytes"] > 0
        assert [v["kept"] for v in results["web1"]["report"]["plan"]["verdicts"]] == [0, 0, 1]
        assert results["db1"]["error"]["type"] == "ManifestError"
        assert (len(ids(one)), len(ids(two))) == (1, 2)
        check(one, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 1, "a policy that drops everything is refused"),
        (("--keep-last", "0"), 2, "not a number of 1 or more"),
        (("--keep-within", "1y"), 2, "not a span such as"),
        (("--keep-daily", "1", "--time-zone", "Mars"), 1, "no time zone"),
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
    assert done.stdout.count("keep: within 2 days") == 3
