"""
What `fibackup verify` finds of damage to a real store, and that a restore refuses just that.

::

    vda    point 1 full  <-  point 2 increment        point 3 full
    vdb    point 1 full  <-  point 2 increment        point 3 full
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import pytest
from attrs import evolve

import fibackup as fb
import fibackup.host.verify as verify_module
import fibackup.host.verify_contents as verify_contents_module
from fibackup.host.events import FileVerified
from fibackup.host.files import open_directory
from fibackup.host.nbd import NbdClient
from fibackup.host.pace import Pace
from fibackup.host.record import Recorder
from fibackup.host.seals import seal_points
from fibackup.parse.manifest import parse_manifest, render_manifest
from fibackup.parse.qcow2_header import parse_qcow2_header
from hypervisor import differences
from hypervisor.host import run
from hypervisor.stores import CLUSTER, StoreMaker

pytestmark = pytest.mark.libvirt

SOURCE = Path(fb.__file__).parents[1]
STATES = {fb.FileRole.NVRAM: b"variables" * 100, fb.FileRole.MEMORY: bytes(range(256)) * 8}


@dataclass
class Copy:
    """A copy of the store, to be damaged."""

    root: Path
    home: Path
    points: tuple[str, str, str]
    references: dict[str, dict[str, Path]]

    def file(self, name: str) -> Path:
        """Return a file of the domain; ``{1}`` in its name is the id of the first point."""
        return self.home / self.named(name)

    def named(self, name: str) -> str:
        """Fill in the ids of points."""
        return name.format(None, *self.points)

    def verify(self, *words: str, code: int = 12) -> dict[str, Any]:
        """Run the command in a process of its own; return its document."""
        done = run_cli("verify", "--store", self.root, "--json", *words)
        assert done.returncode == code, done
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def restorable(self, into: Path) -> dict[str, set[str]]:
        """Return the disks of each point that a restore brings back, right to the byte."""
        found: dict[str, set[str]] = {}
        with fb.Store.open(self.root) as store:
            for point in self.points:
                found[point] = set()
                for target in ("vda", "vdb"):
                    place = into / f"{point}-{target}"
                    try:
                        history = store.read_history(store.domains()[0])
                        plan = fb.plan_restore(
                            history,
                            point,
                            into=PurePosixPath(place),
                            disks=(target,),
                            image_format=fb.ImageFormat.RAW,
                        )
                        (image,) = fb.Executor(None, store).run(plan).restored
                    except (fb.StoreError, fb.StepError):
                        assert not place.exists() or not list(place.iterdir())
                        continue
                    reference = self.references[point][target]
                    assert Path(image.path).read_bytes() == reference.read_bytes()
                    found[point].add(target)
        return found


def run_cli(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line; it never shows a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "fibackup", *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "FIBACKUP_CONFIG": ""},
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreMaker]:
    """Give a store with three points of two disks, with NVRAM and memory."""
    with StoreMaker(tmp_path_factory.mktemp("verify")) as made:
        for number in (1, 2, 3):
            writes = {number: number, 10: number}
            made.point({"vda": writes, "vdb": writes}, full=number == 3, states=STATES)
        yield made


@pytest.fixture
def copy(maker: StoreMaker, tmp_path: Path) -> Copy:
    """Give a copy of it."""
    root = tmp_path / "copy"
    shutil.copytree(maker.root, root)
    first, second, third = maker.references
    return Copy(root, root / maker.home.name, (first, second, third), maker.references)


# -- one damage at a time ------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Take the last byte away."""
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    """Take everything away."""
    os.truncate(path, 0)


def edit(path: Path) -> None:
    """Change what a manifest says, as an editor does."""
    path.write_text(path.read_text().replace('"crash"', '"application"'))


def link(path: Path) -> None:
    """Put a symbolic link to the file in its place."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def unlink(path: Path) -> None:
    """Remove it."""
    path.unlink()


ALL = "vda vdb"
DAMAGE: dict[str, tuple[Callable[[Path], None], str, str, tuple[str, str, str]]] = {
    # what happens, to which file; the kind; what can be restored of each point
    "a flipped bit": (flip, "vda/{1}.qcow2", "sha256", ("vdb", "vdb", ALL)),
    "a flipped bit in an increment": (flip, "vda/{2}.qcow2", "sha256", (ALL, "vdb", ALL)),
    "a cut image": (cut, "vdb/{2}.qcow2", "size", (ALL, "vda", ALL)),
    "an empty image": (empty, "vdb/{1}.qcow2", "size", ("vda", "vda", ALL)),
    "a missing image": (unlink, "vda/{3}.qcow2", "missing", (ALL, ALL, "vdb")),
    "a link": (link, "vda/{3}.qcow2", "not-a-file", (ALL, ALL, "vdb")),
    "a changed manifest": (edit, "{2}.json", "manifest", (ALL, "", ALL)),
    "a flipped bit in a manifest": (flip, "{3}.json", "manifest", (ALL, ALL, "")),
    "a cut manifest": (cut, "{2}.json", "manifest", (ALL, "", ALL)),
    "an empty manifest": (empty, "{2}.json", "manifest", (ALL, "", ALL)),
    "a missing manifest": (unlink, "{2}.json", "lost", (ALL, "", ALL)),
    "changed XML": (flip, "{1}.xml", "sha256", (ALL, ALL, ALL)),
    "missing XML": (unlink, "{3}.xml", "missing", (ALL, ALL, ALL)),
    "changed NVRAM": (flip, "{2}.nvram", "sha256", (ALL, ALL, ALL)),
    "cut NVRAM": (cut, "{2}.nvram", "size", (ALL, ALL, ALL)),
    "changed memory": (flip, "{3}.mem", "sha256", (ALL, ALL, ALL)),
    "empty memory": (empty, "{3}.mem", "size", (ALL, ALL, ALL)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_is_found_and_named(copy: Copy, tmp_path: Path, name: str) -> None:
    """
    Exit code 12, the file, the points that it spoils and those that are whole.

    A restore brings back just the disks that the verdict says, right to the byte.
    """
    damage, file, kind, left = DAMAGE[name]
    damage(copy.file(file))
    (result,) = copy.verify()["results"]
    (fault,) = result["verification"]["faults"]
    assert (fault["kind"], fault["file"]) == (kind, copy.named(file))
    health = {point["id"]: point for point in result["verification"]["points"]}
    assert list(health) == list(copy.points)
    disks = {point: set(words.split()) for point, words in zip(copy.points, left, strict=True)}
    assert {point: set(found["disks"]) for point, found in health.items()} == disks
    spoiled = {point for point, found in health.items() if not found["whole"]}
    assert spoiled == set(fault["points"])
    assert spoiled
    whole = ", ".join(point for point in copy.points if point not in spoiled)
    assert f"points that are whole: {whole}" in result["error"]["message"]
    assert copy.restorable(tmp_path / "into") == disks


def test_swapped_files_are_both_found(copy: Copy, tmp_path: Path) -> None:
    """Each is sound, and has the size of the other."""
    one, other = copy.file("vda/{1}.qcow2"), copy.file("vda/{3}.qcow2")
    assert one.stat().st_size == other.stat().st_size
    one.rename(tmp_path / "third")
    other.rename(one)
    (tmp_path / "third").rename(other)
    (result,) = copy.verify()["results"]
    faults = {each["file"]: each["points"] for each in result["verification"]["faults"]}
    first, second, third = copy.points
    assert faults == {
        copy.named("vda/{1}.qcow2"): [first, second],
        copy.named("vda/{3}.qcow2"): [third],
    }
    assert copy.restorable(tmp_path / "into") == {point: {"vdb"} for point in copy.points}


def test_people_are_told_the_file_and_the_points(copy: Copy) -> None:
    """On stdout, also when all else is not wanted; and stderr says what is whole."""
    flip(copy.file("vda/{1}.qcow2"))
    for words in ((), ("--quiet",)):
        done = run_cli("verify", "--store", copy.root, *words)
        assert done.returncode == 12
        (line,) = [line for line in done.stdout.splitlines() if "sha256 is" in line]
        assert copy.named("vda/{1}.qcow2: ") in line
        assert copy.named("(spoils {1}, {2})") in line
        assert copy.named("points that are whole: {3}") in done.stderr
    found = fb.diagnose_store(fb.read_store_facts(str(copy.root)))
    (wrong,) = (each.text for each in found if each.level is fb.Level.PROBLEM)
    assert wrong.endswith(copy.named("found wrong what points need: {1}, {2}"))
    flip(copy.file("vda/{3}.qcow2"))
    assert "no point is whole" in run_cli("verify", "--store", copy.root).stderr


def of_another_store(manifest: str) -> str:
    """Return a manifest as another store would have it."""
    return render_manifest(evolve(parse_manifest(manifest), store=str(uuid4())))


def test_points_under_another_name_are_not_passed_over_in_silence(copy: Copy) -> None:
    """Nothing reads them: a timer that verifies must not stay green; the advice is the cure."""
    (home,) = copy.root.glob("web1-*")
    home.rename(copy.root / "foo bar")
    listed = run_cli("list", "--store", copy.root)
    assert (listed.returncode, listed.stdout) == (0, "no points\n")
    assert f"{copy.root}/foo bar: it holds points that are not listed" in listed.stderr
    pruned = run_cli("prune", "--store", copy.root, "--keep-last", "1")
    assert f"{copy.root}/foo bar: it holds points that are not pruned" in pruned.stderr
    assert fb.read_store_facts(str(copy.root)).misnamed == ("foo bar",)
    done = run_cli("verify", "--store", copy.root)
    assert done.returncode == 12
    assert "nothing reads them" in done.stderr
    assert "no fibackup writes such a file" not in done.stderr
    (result,) = copy.verify(code=12)["results"]
    assert (result["ok"], result["error"]["exit_code"]) == (False, 12)
    run(*shlex.split(result["error"]["next_command"]))
    copy.verify("--strict", code=0)
    shutil.copytree(home, copy.root / "foo")
    (result, another) = copy.verify(code=12)["results"]
    assert (result["ok"], another["ok"]) == (True, False)
    assert another["error"]["next_command"].startswith("move it out of the store")
    home.rename(copy.root / "bar")
    results = copy.verify(code=12)["results"]
    steps = [each["error"]["next_command"] for each in results]
    assert [step.startswith("move it out") for step in steps] == [True, True], "which is the newer?"
    shutil.rmtree(copy.root / "foo")
    (result,) = copy.verify(code=12)["results"]
    assert result["error"]["next_command"].startswith("mv -nT ")
    for manifest in (copy.root / "bar").glob("*Z.json"):
        manifest.write_text(of_another_store(manifest.read_text()))
    (result,) = copy.verify(code=12)["results"]
    assert result["error"]["next_command"].endswith("its points are of another store")


def test_what_lies_about_is_told_and_is_no_fault(copy: Copy) -> None:
    """A stranger, a leftover; a mark that protects a point is neither."""
    copy.file("{2}.protected").touch()
    copy.verify("--strict", code=0)
    copy.file("notes.txt").touch()
    copy.file("vda/20200101T000000Z.qcow2").touch()
    (result,) = copy.verify(code=0)["results"]
    found = result["verification"]
    assert [file for file, _ in found["strangers"]] == ["notes.txt"]
    assert [file for file, _ in found["leftovers"]] == ["vda/20200101T000000Z.qcow2"]
    quiet = run_cli("verify", "--store", copy.root, "--strict", "--quiet")
    assert (quiet.returncode, quiet.stdout) == (4, "")
    assert "warning: web1: vda/20200101T000000Z.qcow2: " in quiet.stderr


@pytest.mark.parametrize(("name", "kind"), [("merge.json", "journal"), ("linked.json", "record")])
def test_what_a_prune_must_know_is_named_when_it_is_damaged(
    copy: Copy, name: str, kind: str
) -> None:
    """It spoils no point; everybody says why nothing is pruned, and what to do."""
    copy.file(name).write_text('{"format": 1')
    (result,) = copy.verify()["results"]
    (fault,) = result["verification"]["faults"]
    assert (fault["kind"], fault["file"], fault["points"]) == (kind, name, [])
    assert result["verification"]["odd"] == []
    words = "nothing is pruned while it is there"
    assert words in fault["reason"]
    for each in (("web1",), ("-n", "web1")):
        failed = run_cli("prune", "--store", copy.root, "--keep-last", "1", *each)
        assert (failed.returncode, words in failed.stderr) == (12, True)
    told = run_cli("list", "--store", copy.root).stderr
    assert f"{copy.home.name}: {name} is damaged" in told
    assert words in told
    copy.file(name).unlink()
    copy.verify(code=0)


def test_a_damaged_journal_of_a_removal_is_told_before_it_goes(copy: Copy) -> None:
    """The next prune removes it: until then nobody hides that there was something to finish."""
    copy.file("prune.json").write_text("x")
    (result,) = copy.verify()["results"]
    assert [each["kind"] for each in result["verification"]["faults"]] == ["journal"]
    words = "prune.json is damaged (not JSON"
    assert words in run_cli("list", "--store", copy.root).stderr
    done = run_cli("prune", "--store", copy.root, "--keep-last", "9", "web1", "-v")
    assert (done.returncode, words in done.stderr) == (0, True)
    assert not copy.file("prune.json").exists()
    copy.verify(code=0)


def test_a_record_that_a_killed_run_left_half_written_is_no_hindrance(copy: Copy) -> None:
    """Whoever holds its lock writes it; nobody is told of what is gone by then."""
    copy.file(".verified.json.tmp").write_text("{")
    copy.verify("--strict", code=0)
    assert not copy.file(".verified.json.tmp").exists()
    assert copy.file("verified.json").exists()


@pytest.mark.parametrize("damage", ['{"x": 1', "", "{}\n"])
def test_what_was_found_wrong_is_not_forgotten_without_a_word(copy: Copy, damage: str) -> None:
    """The next verification writes the record anew, and says so; until then all others do."""
    copy.verify(code=0)
    copy.file("verified.json").write_text(damage)
    words = "verified.json is damaged"
    assert words in run_cli("list", "--store", copy.root).stderr
    dry = run_cli("prune", "--store", copy.root, "--keep-last", "1", "-n", "--strict", "web1")
    assert (dry.returncode, words in dry.stdout + dry.stderr) == (4, True)
    back = run_cli(
        *("restore", "--store", copy.root, "web1", "--disk", "vda", "-q"),
        *("--into", copy.root.parent / "back"),
    )
    assert (back.returncode, words in back.stderr) == (0, True)
    quiet = run_cli("verify", "--store", copy.root, "--quiet", "--sample", "1%")
    assert (quiet.returncode, quiet.stdout.count("verified.json: ")) == (12, 1)
    copy.file("verified.json").write_text(damage)
    (result,) = copy.verify()["results"]
    (fault,) = result["verification"]["faults"]
    assert (fault["kind"], fault["file"], fault["points"]) == ("record", "verified.json", [])
    assert "and writes it anew" in fault["reason"]
    assert len(result["verification"]["points"]) == 3
    assert all(point["whole"] for point in result["verification"]["points"])
    copy.verify("--strict", code=0)
    assert run_cli("list", "--store", copy.root).stderr == ""


def test_a_quiet_list_does_not_warn(copy: Copy) -> None:
    """As all verbs; what was asked for is printed."""
    copy.file("verified.json").write_text("{}")
    quiet = run_cli("list", "--store", copy.root, "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert copy.points[0] in quiet.stdout


def test_an_empty_file_of_the_store_is_named(copy: Copy) -> None:
    """Whoever reads the message knows what to look at."""
    copy.file("../fibackup-store.json").write_text("")
    assert "fibackup-store.json" in run_cli("list", "--store", copy.root).stderr


def test_metrics_say_since_when_all_is_good(copy: Copy, tmp_path: Path) -> None:
    """A fault, or a part of the files, does not move it."""
    file = tmp_path / "fibackup.prom"
    copy.verify("--metrics", str(file), "--sample", "10%", code=0)
    assert not file.exists()
    copy.verify("--metrics", str(file), code=0)
    with fb.Store.open(copy.root) as store:
        record = store.read_record(store.domains()[0])
    (line,) = [line for line in file.read_text().splitlines() if line[0] != "#"]
    assert line.startswith('fibackup_last_verified_timestamp_seconds{domain="web1"')
    oldest = min(entry.time for entry in record.files)
    assert float(line.split()[-1]) == pytest.approx(oldest.timestamp(), abs=1e-3)
    flip(copy.file("{1}.xml"))
    before = file.read_bytes()
    copy.verify("--metrics", str(file))
    assert file.read_bytes() == before


def test_a_good_copy_heals(copy: Copy, maker: StoreMaker) -> None:
    """What was wrong is read again, first of all, also when nothing else is."""
    flip(copy.file("vda/{1}.qcow2"))
    copy.verify()
    shutil.copy(maker.path(copy.named("vda/{1}.qcow2")), copy.file("vda/{1}.qcow2"))
    (result,) = copy.verify("--skip-since", "1h", code=0)["results"]
    assert result["verification"]["read_files"] == 1


# -- in depth ------------------------------------------------------------------------------------


def leak(data: bytearray, counts: int) -> None:
    """Let a cluster be in use that nothing uses."""
    number = len(data) // CLUSTER
    data.extend(bytes(CLUSTER))
    data[counts + 2 * number : counts + 2 * number + 2] = b"\0\1"


def corrupt(data: bytearray, counts: int) -> None:
    """Let the last cluster, which is in use, be free."""
    number = len(data) // CLUSTER - 1
    data[counts + 2 * number : counts + 2 * number + 2] = bytes(2)


def stored_as(copy: Copy, point: str, change: Callable[[bytearray, int], None]) -> None:
    """Let vda of a point have been stored with a change of its count of references."""
    path = copy.file(f"vda/{point}.qcow2")
    data = bytearray(path.read_bytes())
    table = int.from_bytes(data[48:56], "big")
    change(data, int.from_bytes(data[table : table + 8], "big"))
    path.write_bytes(data)
    with fb.Store.open(copy.root) as store:
        found = store.read_history(store.domains()[0]).point(point)

    def told(disk: fb.PointDisk) -> fb.PointDisk:
        if disk.target != "vda":
            return disk
        digest = sha256(data).hexdigest()
        image = evolve(disk.images[0], size_bytes=len(data), sha256=digest)
        return evolve(disk, images=(image,))

    manifest = render_manifest(evolve(found, disks=tuple(map(told, found.disks))))
    copy.file(f"{point}.json").write_text(manifest)
    with open_directory(str(copy.home)) as fd:
        seal_points(point, fd)


def test_an_image_that_was_stored_corrupt_is_found_in_depth(copy: Copy) -> None:
    """Every hash is right, and qemu-img check says otherwise; leaked clusters harm nobody."""
    first, second, third = copy.points
    stored_as(copy, third, leak)
    (result,) = copy.verify("--deep", code=0)["results"]
    assert any("1 leaked clusters" in note for note in result["verification"]["notes"])
    stored_as(copy, first, corrupt)
    copy.verify(code=0)
    (result,) = copy.verify("--deep")["results"]
    (fault,) = result["verification"]["faults"]
    assert (fault["kind"], fault["file"]) == ("structure", f"vda/{first}.qcow2")
    assert fault["points"] == [first, second]


# -- what QEMU leaves when it is killed ----------------------------------------------------------

LAZY = ("lazy_refcounts=on",)


@pytest.fixture
def dirty(tmp_path: Path) -> Iterator[StoreMaker]:
    """Give a store with four points, each of an image whose QEMU was killed."""
    with StoreMaker(tmp_path) as made:
        for number in (1, 2, 3, 4):
            made.point({"vda": {number: number, 10: number}}, options=LAZY, killed=True)
            image = made.path(f"vda/{made.history().points[-1].id}.qcow2")
            assert parse_qcow2_header(image.read_bytes()[:CLUSTER]).dirty
        yield made


def verify_in_depth(made: StoreMaker) -> fb.Verification:
    """Verify all that there is."""
    policy = fb.VerifyPolicy(deep=True)
    plan = fb.plan_verify(made.store.survey(made.uuid), now=datetime.now(UTC), policy=policy)
    found = fb.Executor(None, made.store).run(plan).verification
    assert found is not None
    return found


def test_counts_that_lag_behind_are_no_fault(dirty: StoreMaker, tmp_path: Path) -> None:
    """Dirty images are whole: verified, restored in each form, built upon and merged."""
    points = [point.id for point in dirty.history().points]
    found = verify_in_depth(dirty)
    assert (found.faults, found.whole) == ((), tuple(points))
    assert any("stale refcounts" in note for note in found.notes)
    assert dirty.history().found_wrong == frozenset()
    for form in fb.RestoreForm:
        for point in points:
            into = PurePosixPath(tmp_path / f"{form}-{point}")
            plan = fb.plan_restore(dirty.history(), point, into=into, form=form)
            restored = fb.Executor(None, dirty.store).run(plan).restored[-1]
            reference = dirty.references[point]["vda"]
            assert differences(Path(restored.path), "qcow2", reference) == "", (form, point)
            shutil.rmtree(into)
    dirty.path("linked.json").unlink()  # those disks are gone
    policy = fb.RetentionPolicy(keep_last=1, protect=(points[1],))
    with dirty.store.locked(dirty.uuid, dirty.name, exclusive=True):
        pass
    now = datetime(2027, 1, 1, tzinfo=UTC)
    fb.Executor(None, dirty.store).run(fb.plan_prune(dirty.history(), policy, now=now))
    kept = [point.id for point in dirty.history().points]
    assert kept == [points[1], points[3]]
    assert (verify_in_depth(dirty).faults, verify_in_depth(dirty).whole) == ((), tuple(kept))
    for point in kept:
        assert dirty.restores(point, tmp_path / "raw")


def test_a_compressed_copy_of_a_dirty_image_is_a_clean_one(
    dirty: StoreMaker, tmp_path: Path
) -> None:
    """It is written anew, and reads the same."""
    point = dirty.point({"vda": {5: 5}}, options=LAZY, killed=True, compress=True)
    image = dirty.path(f"vda/{point.id}.qcow2")
    assert not parse_qcow2_header(image.read_bytes()[:CLUSTER]).dirty
    assert verify_in_depth(dirty).faults == ()
    assert dirty.restores(point.id, tmp_path / "raw")


def test_what_else_is_wrong_with_a_dirty_image_is_a_fault(dirty: StoreMaker) -> None:
    """A cluster beyond the end would read as zeros: that is no count."""
    points = [point.id for point in dirty.history().points]
    copy = Copy(dirty.root, dirty.home, (points[0], points[1], points[2]), dirty.references)

    def beyond(data: bytearray, _: int) -> None:
        level_1 = int.from_bytes(data[40:48], "big")
        level_2 = int.from_bytes(data[level_1 : level_1 + 8], "big") & ~(1 << 63)
        data[level_2 + 8 : level_2 + 16] = (1 << 63 | 1 << 30).to_bytes(8, "big")

    stored_as(copy, points[0], beyond)
    (result,) = copy.verify("--deep")["results"]
    (fault,) = result["verification"]["faults"]
    assert (fault["kind"], fault["file"]) == ("structure", f"vda/{points[0]}.qcow2")
    assert fault["points"] == points


def test_counts_of_an_image_that_was_closed_do_not_lag_behind(dirty: StoreMaker) -> None:
    """Without the dirty bit in its header, wrong counts are a fault."""
    points = [point.id for point in dirty.history().points]
    copy = Copy(dirty.root, dirty.home, (points[0], points[1], points[2]), dirty.references)

    def closed(data: bytearray, _: int) -> None:
        data[72:80] = bytes(8)

    stored_as(copy, points[3], closed)
    (result,) = copy.verify("--deep")["results"]
    (fault,) = result["verification"]["faults"]
    assert (fault["kind"], fault["file"]) == ("structure", f"vda/{points[3]}.qcow2")


# -- how much is read ----------------------------------------------------------------------------


def verified(copy: Copy, policy: fb.VerifyPolicy, stop_after: int = 0) -> list[str]:
    """Verify in this process; return the files that were read."""
    read: list[str] = []
    token = fb.CancelToken()

    def listener(event: fb.Event) -> None:
        if isinstance(event, FileVerified) and event.size_bytes:
            read.append(event.file)
            if len(read) == stop_after:
                token.cancel()

    with fb.Store.open(copy.root) as store:
        survey = store.survey(store.domains()[0])
        plan = fb.plan_verify(survey, now=datetime.now(UTC), policy=policy)
        executor = fb.Executor(None, store, threads=1)
        if stop_after:
            with pytest.raises(fb.StepError):
                executor.run(plan, on_event=listener, cancel=token)
        else:
            executor.run(plan, on_event=listener)
    return read


def test_an_interrupted_verification_goes_on(copy: Copy) -> None:
    """What was read is not read again; together everything was read once."""
    since = datetime.now(UTC) - timedelta(minutes=1)
    first = verified(copy, fb.VerifyPolicy(skip_since=since), stop_after=4)
    second = verified(copy, fb.VerifyPolicy(skip_since=since))
    assert len(first) == 4
    assert sorted(first + second) == sorted(set(first + second))
    assert len(first + second) == len(verified(copy, fb.VerifyPolicy()))


def checks(store: fb.Store) -> list[fb.FileCheck]:
    """Return what reading every file of the only domain comes to, when all is right."""
    now = datetime.now(UTC)
    step = fb.plan_verify(store.survey(store.domains()[0]), now=now).steps[0]
    assert isinstance(step, fb.VerifyFiles)
    return [
        fb.FileCheck(file.file, file.sha256, now, read_bytes=file.size_bytes) for file in step.files
    ]


def test_one_that_is_killed_has_remembered_all_but_its_last_seconds(copy: Copy) -> None:
    """It writes every ten seconds, here of a clock that goes on by three for each file."""
    seconds = [0.0]
    with fb.Store.open(copy.root) as store, open_directory(str(copy.home)) as fd:
        found = checks(store)
        names = {check.file for check in found}
        recorder = Recorder(fd, 1, names, clock=lambda: seconds[0])
        for check in found:
            seconds[0] += 3.0
            recorder.add(check)
        kept = {entry.file for entry in store.read_record(store.domains()[0]).files}
    lost = [check.file for check in found if check.file not in kept]
    assert kept
    assert lost == [check.file for check in found][len(kept) :]
    assert len(lost) * 3.0 < 10.0


def test_two_at_a_time_remember_what_both_have_read(copy: Copy) -> None:
    """Each adds its own to what is there when it writes."""
    with fb.Store.open(copy.root) as store, open_directory(str(copy.home)) as fd:
        found = checks(store)
        names = {check.file for check in found}
        one, other = Recorder(fd, 1, names), Recorder(fd, 1, names)
        for number, check in enumerate(found):
            (one if number % 2 else other).add(check)
        one.finish()
        other.finish()
        assert {entry.file for entry in store.read_record(store.domains()[0]).files} == names


def test_a_long_one_does_not_forget_what_a_newer_one_found_of_a_later_point(copy: Copy) -> None:
    """It knows the files of when it began, and takes away what was gone by then only."""
    with fb.Store.open(copy.root) as store, open_directory(str(copy.home)) as fd:
        found = checks(store)
        began = {check.file for check in found} - {copy.named("vda/{3}.qcow2")}
        old = evolve(found[0], file="vda/20200101T000000Z.qcow2")
        before = Recorder(fd, 1, [])
        before.add(old)
        before.finish()
        long = Recorder(fd, 2, began)
        newer = Recorder(fd, 3, {check.file for check in found})
        for check in found:
            if check.file not in began:
                newer.add(evolve(check, kind=fb.FaultKind.SHA256, reason="it is wrong"))
        newer.finish()
        for check in found:
            if check.file in began:
                long.add(check)
        long.finish()
        (uuid,) = store.domains()
        assert store.read_record(uuid).named == {check.file for check in found}
        assert store.read_history(uuid).found_wrong == {copy.named("vda/{3}.qcow2")}


def test_two_halves_are_everything(copy: Copy) -> None:
    """A sample takes what was read longest ago."""
    half = fb.VerifyPolicy(sample_percent=50)
    first, second = verified(copy, half), verified(copy, half)
    assert set(first) | set(second) == set(verified(copy, fb.VerifyPolicy()))
    assert set(first) != set(second)


class Clock:
    """A clock that goes on only while somebody waits; those who wait at once wait together."""

    def __init__(self) -> None:
        """Begin at noon."""
        self.now = 43200.0
        self.rates: list[int] = []
        self._mine = threading.local()

    def time(self) -> float:
        """Return the time, and remember when this thread has looked."""
        self._mine.looked = self.now
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let the time pass, from when this thread has looked."""
        self.now = max(self.now, self._mine.looked + seconds)

    def pace(self, rate: int, cancel: fb.CancelToken) -> Pace:
        """Make a limit that goes by this clock."""
        self.rates.append(rate)
        return Pace(rate, cancel, clock=self.time, sleep=self.sleep)


def test_a_rate_is_that_of_the_whole_run(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only waiting moves: what all threads read takes the time that it should."""
    clock, rate = Clock(), 100_000
    read: list[int] = []
    real_read, real_blocks = os.preadv, NbdClient.blocks

    def preadv(*words: Any) -> int:  # noqa: ANN401 - as the real one
        read.append(real_read(*words))
        return read[-1]

    def blocks(client: NbdClient) -> Iterator[tuple[memoryview, int, int]]:
        for block, count, position in real_blocks(client):
            read.append(count)
            yield block, count, position

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(NbdClient, "blocks", blocks)
    for module in (verify_module, verify_contents_module):
        monkeypatch.setattr(module, "Pace", clock.pace)
    with fb.Store.open(copy.root) as store:
        survey = store.survey(store.domains()[0])
        policy = fb.VerifyPolicy(deep=True, rate_bytes=rate)
        plan = fb.plan_verify(survey, now=datetime.now(UTC), policy=policy)
        found = fb.Executor(None, store).run(plan).verification
    assert found is not None
    assert (found.faults, found.read_disks) == ((), 6)
    assert clock.rates == [rate, rate]  # files, then disks: one limit for all threads of each
    assert sum(read) > 20 * CLUSTER
    assert clock.now - 43200 == pytest.approx(sum(read) / rate)


# -- what follows --------------------------------------------------------------------------------


def test_a_prune_keeps_a_point_that_was_not_found_wrong(copy: Copy, tmp_path: Path) -> None:
    """The newest point has a flipped bit, which its size does not tell: the one before stays."""
    _, second, third = copy.points
    flip(copy.file("vda/{3}.qcow2"))
    copy.verify()
    done = run_cli("prune", "--store", copy.root, "--keep-last", "1")
    assert done.returncode == 0, done
    left = copy.restorable(tmp_path / "into")
    assert left == {copy.points[0]: set(), second: {"vda", "vdb"}, third: {"vdb"}}
