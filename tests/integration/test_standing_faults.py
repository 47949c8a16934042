"""
What was found wrong stays so, whatever happens to points and manifests, until it is read right.

::

    A <- B <- C     B holds other bytes than it did, and its manifest agrees: only --deep can tell
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path, PurePosixPath

import pytest
from attrs import evolve

import fibackup as fb
from fibackup.cli.main import main
from fibackup.parse.manifest import render_manifest
from fibackup.parse.seals import render_seals
from hypervisor.host import run
from hypervisor.stores import CLUSTER, START, StoreMaker

pytestmark = pytest.mark.libvirt  # it needs qemu-img and qemu-nbd, as those do


@pytest.fixture
def maker(tmp_path: Path) -> Iterator[StoreMaker]:
    """Give a store without points."""
    with StoreMaker(tmp_path) as made:
        yield made


def verify(
    maker: StoreMaker, *, deep: bool = False, sample: float = 100, skip: bool = False
) -> fb.Verification:
    """Verify the points; *skip*: without what was read before."""
    survey = maker.store.survey(maker.uuid)
    since = START - timedelta(days=999) if skip else None
    policy = fb.VerifyPolicy(deep=deep, sample_percent=sample, skip_since=since)
    plan = fb.plan_verify(survey, now=datetime.now(UTC), policy=policy)
    found = fb.Executor(None, maker.store).run(plan).verification
    assert found is not None
    return found


def make_wrong(maker: StoreMaker, point: fb.RestorePoint, cluster: int) -> None:
    """Change what a disk reads as a faulty merge would: the manifest says what is there."""
    (disk,) = point.disks
    (image,) = disk.images
    path = maker.path(f"vda/{image.name}")
    run("qemu-io", "-f", "qcow2", "-c", f"write -q -P 9 {cluster * CLUSTER} {CLUSTER}", path)
    data = path.read_bytes()
    other = evolve(image, size_bytes=len(data), sha256=sha256(data).hexdigest())
    changed = evolve(point, disks=(evolve(disk, images=(other,)),))
    maker.path(f"{point.id}.json").write_text(render_manifest(changed))
    seal(maker)


def seal(maker: StoreMaker) -> None:
    """Seal the manifests as they are."""
    ids = [path.name.removesuffix(".json") for path in maker.home.glob("*T*Z.json")]
    seals = {each: sha256(maker.path(f"{each}.json").read_bytes()).hexdigest() for each in ids}
    maker.path("points.sha256").write_text(render_seals(seals))


def test_what_was_read_first_through_it_does_not_make_it_right(maker: StoreMaker) -> None:
    """Neither the point above it, nor the one that has its image when its own point is gone."""
    first = maker.point({"vda": {0: 1}})
    second = maker.point({"vda": {1: 2}})
    assert verify(maker, deep=True).faults == ()
    make_wrong(maker, second, 1)
    third = maker.point({"vda": {2: 3}})
    assert verify(maker, deep=True).spoiled == (second.id, third.id)
    assert verify(maker).spoiled == (second.id, third.id)
    policy = fb.RetentionPolicy(keep_last=1)
    now = START + timedelta(days=9)
    fb.Executor(None, maker.store).run(fb.plan_prune(maker.history(), policy, now=now))
    assert [point.id for point in maker.history().points] == [first.id, third.id]
    for deep in (False, True, False):
        assert verify(maker, deep=deep).spoiled == (third.id,)
        assert maker.history().found_wrong == {f"vda/{second.id}.qcow2"}


def test_what_is_right_above_it_is_right(maker: StoreMaker) -> None:
    """It was read before, and reads the same: nothing shows of what lies under it."""
    maker.point({"vda": {0: 1}})
    second = maker.point({"vda": {1: 2}})
    third = maker.point({"vda": {1: 3}})
    assert verify(maker, deep=True).faults == ()
    make_wrong(maker, second, 1)
    assert verify(maker, deep=True).spoiled == (second.id,)
    listed = fb.list_points(maker.history(), maker.store.read_record(maker.uuid))
    assert [each.point.id for each in listed if each.verified.wrong] == [second.id]
    assert maker.restores(third.id, maker.root.parent / "out")


@pytest.mark.parametrize("sample", [10, 100])
def test_what_was_read_through_it_is_no_reference_when_it_is_right_again(
    maker: StoreMaker, sample: int
) -> None:
    """Also when it was not read in the verification that found the other one right."""
    first = maker.point({"vda": {0: 1, 1: 1}})
    assert verify(maker, deep=True).faults == ()
    files = (maker.path(f"vda/{first.id}.qcow2"), maker.path(f"{first.id}.json"))
    kept = [path.read_bytes() for path in files]
    make_wrong(maker, first, 1)
    later = [maker.point({"vda": {number: 2}}).id for number in (2, 3)]
    assert verify(maker, deep=True).spoiled == (first.id, *later)
    for path, data in zip(files, kept, strict=True):
        path.write_bytes(data)
    seal(maker)
    verify(maker, deep=True, sample=sample)
    for _ in range(2):
        found = verify(maker, deep=True)
        assert (found.faults, found.whole) == ((), (first.id, *later))
    assert maker.history().found_wrong == frozenset()


@pytest.mark.parametrize("told", ["in depth", "of files", "never"])
def test_what_was_read_through_a_rotten_file_is_no_reference(maker: StoreMaker, told: str) -> None:
    """The file was read before it rotted, and not when the disk was read first."""
    first = maker.point({"vda": {0: 1, 1: 1}})
    second = maker.point({"vda": {2: 2}})
    assert verify(maker).faults == ()
    path = maker.path(f"vda/{first.id}.qcow2")
    kept = path.read_bytes()
    rotten = bytearray(kept)
    rotten[kept.rindex(b"\1" * 512)] ^= 1
    path.write_bytes(rotten)
    assert verify(maker, deep=True, skip=True).faults == ()
    if told != "never":
        assert verify(maker, deep=told == "in depth").spoiled == (first.id, second.id)
    path.write_bytes(kept)
    for _ in range(3):
        found = verify(maker, deep=True)
        assert (found.faults, found.whole) == ((), (first.id, second.id))
    make_wrong(maker, second, 2)
    assert verify(maker, deep=True).spoiled == (second.id,)


def test_a_manifest_that_cannot_be_read_for_a_while_forgets_nothing(maker: StoreMaker) -> None:
    """What its images were found to be stands in the record until it is back."""
    maker.point({"vda": {0: 1}})
    second = maker.point({"vda": {1: 2}})
    assert verify(maker, deep=True).faults == ()
    make_wrong(maker, second, 1)
    assert verify(maker, deep=True).spoiled == (second.id,)
    manifest = maker.path(f"{second.id}.json")
    kept = manifest.read_bytes()
    for damage in (lambda: manifest.write_bytes(b"x"), manifest.unlink):
        damage()
        assert verify(maker).spoiled == (second.id,)
        manifest.write_bytes(kept)
        for deep in (False, True):
            assert verify(maker, deep=deep).spoiled == (second.id,)


def test_a_point_has_nothing_of_one_that_had_its_id(maker: StoreMaker) -> None:
    """A clock that goes back gives an id again; what was read of that name was another image."""
    first = maker.point({"vda": {0: 1}})
    maker.point({"vda": {1: 2}}, full=True)
    assert verify(maker, deep=True).faults == ()
    policy = fb.RetentionPolicy(keep_last=1)
    now = START + timedelta(days=9)
    fb.Executor(None, maker.store).run(fb.plan_prune(maker.history(), policy, now=now))
    assert f"vda/{first.id}.qcow2" in maker.store.read_record(maker.uuid).named
    maker.start -= timedelta(days=2)
    again = maker.point({"vda": {3: 9}}, full=True)
    assert again.id == first.id
    assert f"vda/{first.id}.qcow2" not in maker.store.read_record(maker.uuid).named
    for _ in range(2):
        assert verify(maker, deep=True).faults == ()


def test_a_record_that_cannot_be_read_keeps_no_point_away(maker: StoreMaker) -> None:
    """What an id had before is not known then."""
    maker.point({"vda": {0: 1}})
    verify(maker)
    record = maker.path("verified.json")
    name = f'"vda/{fb.format_point_id(START + timedelta(days=1))}.qcow2"'
    record.write_text(name)
    second = maker.point({"vda": {1: 2}})
    assert maker.history().points[-1] == second
    assert record.read_text() == name


def one_wrong(maker: StoreMaker) -> tuple[fb.RestorePoint, fb.RestorePoint, fb.RestorePoint]:
    """Give three points; the disk of the second has been found wrong, that of the third right."""
    first = maker.point({"vda": {0: 1}})
    second = maker.point({"vda": {1: 2}})
    third = maker.point({"vda": {1: 3}})
    assert verify(maker, deep=True).faults == ()
    make_wrong(maker, second, 1)
    assert verify(maker, deep=True).spoiled == (second.id,)
    return first, second, third


@pytest.mark.parametrize("form", fb.RestoreForm)
def test_a_restore_of_what_was_found_wrong_is_refused(maker: StoreMaker, form: str) -> None:
    """Its images are what their manifest says; that shows nothing of the disk."""
    first, second, third = one_wrong(maker)
    into = PurePosixPath(maker.root.parent / "out")
    wanted = fb.RestoreForm(form)
    with pytest.raises(fb.VerifyError) as caught:
        fb.plan_restore(maker.history(), second.id, into=into, form=wanted)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert f"disk vda: point {second.id}: vda/{second.id}.qcow2" in str(caught.value)
    assert f"found wrong on {today}" in str(caught.value)
    assert caught.value.found is not None
    plan = fb.plan_restore(maker.history(), second.id, into=into, form=wanted, found_wrong=True)
    assert sum(f"vda/{second.id}.qcow2 was found wrong" in each for each in plan.warnings) == 1
    fb.Executor(None, maker.store).run(plan)
    for point in (first, third):
        sound = fb.plan_restore(maker.history(), point.id, into=into)
        assert sound.warnings == ()
    assert maker.restores(third.id, maker.root.parent / "sound")


def test_what_is_right_above_it_stays_so_when_it_is_dropped(maker: StoreMaker) -> None:
    """Then, and when what has shown it is dropped too; the fault stays until it is read again."""
    _, second, third = one_wrong(maker)

    def prune(keep: int) -> None:
        policy, now = fb.RetentionPolicy(keep_last=keep), START + timedelta(days=9)
        fb.Executor(None, maker.store).run(fb.plan_prune(maker.history(), policy, now=now))

    prune(1)
    assert [point.id for point in maker.history().points] == [third.id]
    assert maker.history().found_wrong == {f"vda/{second.id}.qcow2"}
    assert maker.restores(third.id, maker.root.parent / "out")
    found = verify(maker)
    assert [(fault.file, fault.points) for fault in found.faults] == [
        (f"vda/{second.id}.qcow2", ())
    ]
    assert found.whole == (third.id,)
    found = verify(maker, deep=True)
    assert (found.faults, found.whole) == ((), (third.id,))
    fourth = maker.point({"vda": {3: 4}})
    assert fourth.disks[0].parent == third.id
    prune(1)
    assert maker.history().found_wrong == frozenset()
    assert verify(maker).whole == (fourth.id,)
    assert maker.restores(fourth.id, maker.root.parent / "later")


def test_a_file_that_is_right_again_is_restored(maker: StoreMaker) -> None:
    """A restore reads it by itself, and need not wait for a verification."""
    first = maker.point({"vda": {0: 1}})
    path = maker.path(f"vda/{first.id}.qcow2")
    kept = path.read_bytes()
    assert verify(maker, deep=True).faults == ()
    path.write_bytes(kept[:-1])
    assert verify(maker, deep=True).spoiled == (first.id,)
    path.write_bytes(kept)
    assert maker.history().found_wrong
    assert maker.restores(first.id, maker.root.parent / "out")


def test_the_command_refuses_what_was_found_wrong(
    maker: StoreMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 12, and what leads on; whoever wants it all the same is warned, however quiet."""
    _, second, third = one_wrong(maker)
    out = maker.root.parent
    words = ["restore", "--store", str(maker.root), "web1", "--point", second.id, "-q"]
    capsys.readouterr()
    assert main([*words, "--into", str(out / "a")]) == 12
    said = capsys.readouterr().err
    assert f"vda/{second.id}.qcow2 was found wrong on" in said
    assert f"next: restore another point; fibackup verify --store {maker.root} --deep" in said
    assert "--found-wrong" in said
    assert not (out / "a").exists()
    for more in ([], ["--json"], ["--dry-run"]):
        into = ["--into", str(out / f"b{len(more)}{more}"), "--found-wrong"]
        assert main([*words, *into, *more]) == 0
        said = capsys.readouterr().err
        assert f"warning: web1: disk vda of point {second.id}: vda/{second.id}.qcow2" in said
    words = ["restore", "--store", str(maker.root), "web1", "--point", third.id, "-q"]
    assert main([*words, "--into", str(out / "c"), "--found-wrong"]) == 0
    assert capsys.readouterr().err == ""


def test_the_command_ends_with_what_stands(
    maker: StoreMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 12 each night."""
    maker.point({"vda": {0: 1}})
    second = maker.point({"vda": {1: 2}})
    verify(maker, deep=True)
    make_wrong(maker, second, 1)
    words = ["verify", "--store", str(maker.root), "--json"]
    for more in (["--deep"], [], ["--sample", "1%"]):
        assert main([*words, *more]) == 12
        (result,) = json.loads(capsys.readouterr().out)["results"]
        assert [each["whole"] for each in result["verification"]["points"]] == [True, False]
