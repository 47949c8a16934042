"""What a verification makes of what it finds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

import fibackup as fb
from fibackup.model.tree import ImageTree
from fibackup.model.verification import READS_OTHERWISE
from fibackup.plan.records import going_warnings
from fibackup.plan.verdict import judge
from fibackup.plan.verified import last_verified, settled, trusted, with_found_wrong
from hypervisor.histories import (
    chain,
    digest,
    disk,
    found_files,
    history,
    image_name,
    point,
    point_id,
)

NOW = datetime(2026, 12, 24, tzinfo=UTC)
BRANCHED = history(
    point(1, disk(1), disk(1, target="vdb")),
    point(2, disk(2, 1), disk(2, 1, target="vdb")),
    point(3, disk(3), disk(3, 2, target="vdb")),
)


def survey(of: fb.History) -> fb.Survey:
    """Return what lies there."""
    return fb.Survey(of, found_files(of))


def wrong(file: str, kind: fb.FaultKind = fb.FaultKind.SHA256) -> fb.FileCheck:
    """Return the check of a file that is not what it was."""
    return fb.FileCheck(file, digest(file.rpartition("/")[2]), NOW, kind, "it is wrong")


def right(file: str, read: int | None = 7) -> fb.FileCheck:
    """Return the check of a file that is what it was."""
    return fb.FileCheck(file, digest(file.rpartition("/")[2]), NOW, read_bytes=read)


def test_a_store_without_faults_is_whole() -> None:
    """Every point is, and the sums are told."""
    checks = (right(f"vda/{image_name(1)}", 1000), right(f"{point_id(1)}.xml", None))
    found = judge(survey(chain(2)), checks)
    assert found.whole == (point_id(1), point_id(2))
    assert (found.faults, found.spoiled, found.warnings) == ((), (), ())
    assert (found.read_files, found.read_bytes, found.skipped_files) == (1, 1000, 1)
    assert str(found) == "2 of 2 points whole\n1 file read, 1000 B, 1 looked at only"


def test_a_fault_in_a_base_spoils_every_point_that_reads_through_it() -> None:
    """And no other, and no other disk."""
    found = judge(survey(BRANCHED), [wrong(f"vda/{image_name(1)}")])
    (fault,) = found.faults
    assert fault.points == (point_id(1), point_id(2))
    assert found.whole == (point_id(3),)
    assert [health.disks for health in found.points] == [("vdb",), ("vdb",), ("vda", "vdb")]
    assert "spoils 20261101T000000Z, 20261102T000000Z" in str(fault)
    assert "disks that can be restored: vdb" in str(found)


def test_a_fault_in_the_xml_spoils_the_point_and_no_disk() -> None:
    """The disks can still be restored."""
    found = judge(survey(chain(2)), [wrong(f"{point_id(1)}.xml")])
    first, second = found.points
    assert (first.whole, first.disks) == (False, ("vda",))
    assert second.whole


def test_a_damaged_and_a_lost_manifest_spoil_their_points() -> None:
    """They stand in their places among the others, without disks."""
    of = evolve(
        history(point(2, disk(2))),
        unreadable=((f"{point_id(1)}.json", "not JSON"),),
        lost=(point_id(3),),
    )
    found = judge(survey(of))
    assert [(each.id, each.whole) for each in found.points] == [
        (point_id(1), False),
        (point_id(2), True),
        (point_id(3), False),
    ]
    assert [fault.kind for fault in found.faults] == [fb.FaultKind.MANIFEST, fb.FaultKind.LOST]
    assert "can be restored: none" in str(found)


def test_a_point_on_a_lost_one_is_spoiled() -> None:
    """Its images lie on one that no point names."""
    of = evolve(history(point(2, disk(2, 1)), point(3, disk(3, 2, images=0))), lost=(point_id(1),))
    found = judge(survey(of))
    assert found.spoiled == (point_id(1), point_id(2), point_id(3))
    assert fb.FaultKind.CHAIN in {fault.kind for fault in found.faults}


def test_a_disk_that_is_as_at_a_point_that_is_gone_is_spoiled() -> None:
    """The fault names the manifest that says so."""
    found = judge(survey(history(point(3, disk(3, 2, images=0), disk(3, target="vdb")))))
    (fault,) = found.faults
    assert (fault.file, fault.points) == (f"{point_id(3)}.json", (point_id(3),))
    assert found.points[0].disks == ("vdb",)


def test_a_file_that_no_point_needs_any_more_is_no_fault() -> None:
    """A retention may have dropped its point meanwhile."""
    gone = (wrong(f"vda/{image_name(9)}"), wrong(f"vdz/{image_name(1)}"), wrong("gone.xml"))
    assert judge(survey(chain(2)), gone).faults == ()


def test_faults_of_one_point_are_told_when_only_that_was_asked_for() -> None:
    """And faults of the store's own files, which are everybody's."""
    of = evolve(chain(3), lost=(point_id(9),))
    seals = fb.Fault(fb.FaultKind.SEALS, "points.sha256", "cut")
    what = evolve(survey(of), faults=(seals,), unsealed=(point_id(1), point_id(2)))
    what = evolve(what, files=(*what.files, fb.FoundFile("x", 1)))
    what = evolve(what, digests=((point_id(1), "a" * 64), (point_id(2), "b" * 64)))
    checks = [wrong(f"vda/{image_name(2)}"), wrong(f"{point_id(3)}.xml")]
    found = judge(what, checks, point=point_id(2))
    assert [fault.kind for fault in found.faults] == [fb.FaultKind.SEALS, fb.FaultKind.SHA256]
    assert [health.id for health in found.points] == [point_id(2)]
    assert found.strangers == ()
    assert found.manifests == ((point_id(2), "b" * 64),)
    assert len(found.odd) == 1


def test_a_fault_of_the_seals_spoils_no_point() -> None:
    """It says so."""
    seals = fb.Fault(fb.FaultKind.SEALS, "points.sha256", "cut")
    found = judge(evolve(survey(chain(1)), faults=(seals,)))
    assert (found.faults, found.whole) == ((seals,), (point_id(1),))
    assert "(spoils no point)" in str(found)


def test_an_image_of_no_point_may_be_of_one_whose_manifest_is_gone() -> None:
    """No run leaves an image without a receipt; what a prune takes away is in its journal."""
    file = f"vda/{image_name(9)}"
    what = survey(chain(1))
    what = evolve(what, files=(*what.files, fb.FoundFile(file, 1)))
    assert judge(what).leftovers == ((file, "no point names it: left by a killed run"),)
    xml = evolve(survey(chain(1)), files=(fb.FoundFile(f"{point_id(9)}.xml", 1),))
    ((_, why),) = judge(xml).leftovers
    assert why.startswith("no point names it: the manifest of its point is gone")
    lost = evolve(what, history=evolve(what.history, orphans=frozenset({file})))
    ((_, why),) = judge(lost).leftovers
    assert why.startswith("the manifest of its point may be gone")


def test_what_came_of_another_image_of_that_name_counts_for_nothing() -> None:
    """
    A merge has put this one in its place while the other was looked at, where nobody can lock.

    It says so: nothing has compared what is there now.
    """
    check = wrong(f"vda/{image_name(1)}")
    assert judge(survey(chain(2)), [check]).spoiled == (point_id(1), point_id(2))
    for other in (check, right(check.file), right(check.file, None)):
        found = judge(survey(chain(2)), [evolve(other, sha256="f" * 64)])
        assert found.faults == ()
        (warning,) = found.warnings
        assert warning == (
            f"{check.file} was replaced while it was verified, and is not verified: "
            f"verify points {point_id(1)}, {point_id(2)} again"
        )
        assert (found.read_files, found.read_bytes, found.skipped_files) == (0, 0, 0)
    gone = evolve(check, file=f"vda/{image_name(9)}")
    assert judge(survey(chain(2)), [gone]).warnings == ()
    xml = evolve(right(f"{point_id(1)}.xml"), sha256="f" * 64)
    (warning,) = judge(survey(chain(2)), [xml]).warnings
    assert warning.endswith(f"verify point {point_id(1)} again")
    assert judge(survey(chain(2)), [xml], point=point_id(2)).warnings == ()


def test_images_of_no_point_are_a_fault_when_no_seal_tells_what_was_published() -> None:
    """They may be all that is left; a writer at work, or a look at one point, tells nothing."""
    file = f"vda/{image_name(9)}"
    orphans = frozenset({file})
    empty = survey(evolve(chain(1), points=(), orphans=orphans))
    empty = evolve(empty, files=(fb.FoundFile(file, 1),))
    unsealed = evolve(survey(evolve(chain(1), orphans=orphans)), unsealed=(point_id(1),))
    for of in (empty, unsealed):
        found = judge(of)
        assert [(fault.kind, fault.file) for fault in found.faults] == [("lost", file)]
        assert found.leftovers == ()
        assert judge(evolve(of, busy=True)).faults == ()
    assert judge(unsealed, point=point_id(1)).faults == ()
    assert judge(evolve(unsealed, unsealed=())).faults == ()


# --- what was read as a guest does --------------------------------------------------------------


def content(number: int, kind: fb.FaultKind | None = None, at: str = "") -> fb.ContentCheck:
    """Return the check of a disk that was read."""
    file = f"vda/{image_name(number)}"
    return fb.ContentCheck(
        file, "0" * 64, NOW, None if kind else "c" * 64, kind, "words" if kind else "", at
    )


def test_a_disk_that_reads_otherwise_spoils_the_points_that_show_it() -> None:
    """Those above it are read themselves, and compared with what was found while it was right."""
    of = history(point(1, disk(1)), point(2, disk(2, 1)), point(3, disk(3, 1, images=0)))
    chain = ImageTree(of, "vda").fingerprints()[image_name(2)]
    was = evolve(content(1).entry(4), time=NOW - timedelta(days=1))
    told = evolve(survey(of), record=fb.VerificationRecord(contents=(was,)))
    bad = evolve(content(1, fb.FaultKind.DISK), earlier=was, reason=f"{READS_OTHERWISE} than then")
    above = evolve(content(2), chain=chain)
    shown, all_three = (point_id(1), point_id(3)), (point_id(1), point_id(2), point_id(3))
    for since, points in ((0, shown), (4, shown), (5, all_three), (None, all_three)):
        found = judge(told, (), [bad, evolve(above, since=since)])
        (fault,) = found.faults
        assert fault.points == points
        assert found.read_disks == 1
    (fault,) = judge(told, (), [bad]).faults
    assert fault.points == all_three
    unreadable = evolve(bad, kind=fb.FaultKind.UNREADABLE)
    (fault,) = judge(told, (), [unreadable]).faults
    assert fault.points == shown


def test_what_is_recorded_already_is_not_added_to_the_record() -> None:
    """A newer reading of another verification stays."""
    of = history(point(1, disk(1)))
    now = content(1)
    newer = evolve(content(1, fb.FaultKind.DISK).entry(9), time=NOW + timedelta(seconds=9))
    told = evolve(survey(of), record=fb.VerificationRecord(contents=(newer,)))
    assert judge(told, (), [now]).faults == ()
    assert not judge(told).points[0].whole


def test_a_broken_structure_spoils_all_that_lies_on_it() -> None:
    """The fault names the image."""
    at = f"vda/{image_name(1)}"
    found = judge(survey(chain(3)), (), [content(1, fb.FaultKind.STRUCTURE, at)])
    (fault,) = found.faults
    assert (fault.file, fault.points) == (at, (point_id(1), point_id(2), point_id(3)))


def test_a_disk_that_is_gone_meanwhile_is_no_fault() -> None:
    """Neither its target nor its image is there."""
    other = evolve(content(1, fb.FaultKind.DISK), file="vdz/x.qcow2")
    checks = [content(9, fb.FaultKind.DISK), other]
    assert judge(survey(chain(1)), (), checks).faults == ()


def test_what_is_odd_about_a_disk_is_noted() -> None:
    """Leaked clusters are no fault."""
    found = judge(survey(chain(1)), (), [evolve(content(1), note="leaks")], notes=("hello",))
    assert found.notes == ("hello", f"vda/{image_name(1)}: leaks")
    assert f"note: vda/{image_name(1)}: leaks" in str(found)
    assert "1 disk read as a guest does" in str(found)


# --- when it was verified -----------------------------------------------------------------------


def entry(file: str, days: int, fault: str = "") -> fb.CheckedFile:
    """Return an entry of the record, so many days old."""
    name = file.rpartition("/")[2]
    return fb.CheckedFile(file, digest(name), NOW - timedelta(days=days), 1, fault)


def test_a_point_was_verified_when_its_oldest_file_was() -> None:
    """All files that it reads through count."""
    entries = [entry(f"vda/{image_name(number)}", 10 - number) for number in (1, 2, 3)]
    entries += [entry(f"{point_id(number)}.xml", 1) for number in (1, 2, 3)]
    record = fb.VerificationRecord(files=tuple(entries))
    ages = fb.last_verified(chain(3), record)
    assert {age.files for age in ages.values()} == {NOW - timedelta(days=9)}
    assert not any(age.wrong or age.contents for age in ages.values())
    found = judge(evolve(survey(chain(3)), record=record))
    assert {health.verified for health in found.points} == {NOW - timedelta(days=9)}


def test_a_point_with_a_file_that_was_never_read_is_not_verified() -> None:
    """Or with one of which the record says something else."""
    files = (entry(f"vda/{image_name(1)}", 1), entry(f"{point_id(1)}.xml", 1))
    for changed in ((files[0],), (files[0], evolve(files[1], sha256="0" * 64))):
        ages = fb.last_verified(chain(1), fb.VerificationRecord(files=changed))
        assert ages == {point_id(1): fb.Verified()}


def test_a_point_with_a_file_that_was_wrong_is_not_verified() -> None:
    """And is known to be wrong, as is what lies on it."""
    entries = [entry(f"vda/{image_name(number)}", 1) for number in (1, 2)]
    entries += [entry(f"{point_id(number)}.xml", 1) for number in (1, 2)]
    entries[0] = evolve(entries[0], fault="cut")
    ages = fb.last_verified(chain(2), fb.VerificationRecord(files=tuple(entries)))
    assert set(ages.values()) == {fb.Verified(wrong=True)}


def test_contents_were_verified_when_all_disks_were_read() -> None:
    """With the images that they have now."""
    prints = {
        target: ImageTree(BRANCHED, target).fingerprints()[image_name(1)]
        for target in ("vda", "vdb")
    }
    contents = [
        fb.CheckedContent(f"{target}/{image_name(1)}", prints[target], NOW, 1, "c" * 64)
        for target in ("vda", "vdb")
    ]
    record = fb.VerificationRecord(contents=tuple(contents))
    ages = fb.last_verified(BRANCHED, record)
    assert [age.contents for age in ages.values()] == [NOW, None, None]
    wrong_one = evolve(contents[0], fault="otherwise")
    record = fb.VerificationRecord(contents=(wrong_one, contents[1]))
    assert fb.last_verified(BRANCHED, record)[point_id(1)] == fb.Verified(wrong=True)
    merged = evolve(contents[0], chain="0" * 64)
    record = fb.VerificationRecord(contents=(merged, contents[1]))
    assert fb.last_verified(BRANCHED, record)[point_id(1)] == fb.Verified()


# --- what lies about ----------------------------------------------------------------------------

ID = point_id(9)
LYING = {
    f"vda/.{ID}.qcow2.tmp": "killed run",
    f".{ID}.xml.tmp": "killed run",
    f"vda/{ID}.qcow2": "no point names it",
    f"vda/{ID}-1.qcow2": "no point names it",
    f"{ID}.xml": "no point names it",
    f"{ID}.nvram": "no point names it",
    f"vda/{ID}.qcow2.receipt": "a receipt",
    "readme.txt": None,
    f"{ID}.exe": None,
    "vda/notes": None,
    f"vda/{ID}.xml": None,
    f"Weird/{ID}.qcow2": None,
    f"{ID}.receipt": None,
    f"{ID}.json": "",
    "lock.verified": "",
    "merge.json": "",
    "prune.json": "",
    f"vda/{ID}.qcow2.merged": "no point names it",
    f"{ID}.protected": "",
    f"vda/{ID}.protected": None,
    "verified.json": "",
}


@pytest.mark.parametrize("name", LYING)
def test_leftovers_are_told_from_strangers(name: str) -> None:
    """What a run of ours may leave, and what nobody knows."""
    of = chain(1)
    found = judge(evolve(survey(of), files=found_files(of, [name])))
    why = LYING[name]
    assert [file for file, _ in found.leftovers] == ([name] if why else [])
    assert [file for file, _ in found.strangers] == ([name] if why is None else [])
    assert all(why in words for _, words in found.leftovers if why)
    assert bool(found.warnings) == (why != "")
    assert found.faults == ()


def test_what_is_no_regular_file_is_a_stranger() -> None:
    """Whatever its name is."""
    link = fb.FoundFile(f"vda/{ID}.qcow2", 1, regular=False)
    assert judge(evolve(survey(chain(1)), files=(link,))).strangers[0][0] == link.name


def test_nothing_is_left_over_while_a_writer_is_at_work() -> None:
    """What has no point yet is its own."""
    of = chain(1)
    files = found_files(of, [f"vda/.{ID}.qcow2.tmp", f"{ID}.xml", "readme.txt"])
    found = judge(evolve(survey(of), files=files, busy=True))
    assert (found.leftovers, [file for file, _ in found.strangers]) == ((), ["readme.txt"])


def test_points_that_are_going_are_told_of_unless_a_prune_is_at_work() -> None:
    """One wording for all; a point that is not going is not troubled."""
    of = survey(evolve(chain(2), going=frozenset({point_id(1)})))
    [words] = going_warnings(of.history)
    assert tuple(fb.record_warnings(of.history)) == (words,)
    assert judge(of).odd == judge(of, point=point_id(1)).odd == (words,)
    assert judge(of, point=point_id(2)).odd == judge(evolve(of, busy=True)).odd == ()


def test_files_of_a_lost_point_are_no_leftovers() -> None:
    """They are needed, once its manifest is back."""
    of = evolve(chain(1), lost=(ID,), unreadable=((f"{point_id(8)}.json", "cut"),))
    names = [f"vda/{ID}.qcow2", f"{ID}.xml", f"vda/{point_id(8)}.qcow2", f"{point_id(8)}.json"]
    found = judge(evolve(survey(of), files=found_files(of, names)))
    assert found.leftovers == found.strangers == ()


def test_an_image_with_a_receipt_is_taken_over_by_the_next_backup() -> None:
    """It is complete."""
    image = disk(9).images[0]
    of = evolve(chain(1), receipts=(fb.Receipt("vda", image),))
    found = judge(evolve(survey(of), files=found_files(of, [f"vda/{ID}.qcow2"])))
    assert "takes it over" in found.leftovers[0][1]


# --- records ------------------------------------------------------------------------------------


def test_a_check_becomes_an_entry_when_there_is_something_to_keep() -> None:
    """A file that was looked at only is not said to be verified."""
    file = f"vda/{image_name(1)}"
    assert right(file, None).entry(3) is None
    assert right(file).entry(3) == fb.CheckedFile(file, digest(image_name(1)), NOW, 3)
    kept = wrong(file).entry(3)
    assert kept is not None
    assert kept.fault == "it is wrong"
    read = fb.CheckedContent(file, "0" * 64, NOW, 3, "c" * 64, since=3)
    assert content(1).entry(3) == read
    assert evolve(content(1), since=1).entry(3) == evolve(read, since=1)
    assert (read.last_right, read.compared_since) == (3, 3)
    assert evolve(read, since=None).compared_since == 3


def test_newer_entries_replace_older_ones_and_what_is_gone_goes() -> None:
    """By file."""
    old = fb.VerificationRecord(files=(entry("a", 9), entry("b", 9)))
    assert old.named == {"a", "b"}
    read = content(1).entry(1)
    new = old.with_entries([entry("b", 1), entry("c", 1)], [read], forget=["a", read.file])
    assert new == fb.VerificationRecord(files=(entry("b", 1), entry("c", 1)))
    kept = old.with_entries(contents=[read], forget=["a", "b"])
    assert kept == fb.VerificationRecord(contents=(read,))


def test_what_a_disk_was_is_not_forgotten_while_it_is_wrong() -> None:
    """Or the next reading would compare with what is wrong, and find nothing."""
    for kind in (fb.FaultKind.DISK, fb.FaultKind.STRUCTURE, fb.FaultKind.UNREADABLE):
        was = content(1).entry(1)
        check = evolve(content(1, kind), sha256="d" * 64, earlier=was)
        kept = check.entry(2)
        assert (kept.sha256, kept.last_right) == ("c" * 64, 1)
        again = evolve(check, earlier=kept).entry(3)
        assert (again.sha256, again.last_right) == ("c" * 64, 1)
        never = evolve(check, earlier=None).entry(2)
        assert (never.sha256, never.last_right) == (None, 0)
    was = evolve(content(1).entry(1), sha256="d" * 64)
    assert evolve(content(1), earlier=was).entry(2).sha256 == "c" * 64


def test_that_a_disk_reads_otherwise_stays_while_it_cannot_be_read() -> None:
    """A restore refuses it for that; a reading that fails clears nothing, and is told as well."""
    otherwise = f"{READS_OTHERWISE} than before: sha256 {'d' * 64}, {'c' * 64} then"
    was = evolve(content(1).entry(1), fault=otherwise)
    unread = evolve(content(1, fb.FaultKind.UNREADABLE), reason="no memory")
    for run in (2, 3):
        was = evolve(unread, earlier=was).entry(run)
        assert was.fault == f"{otherwise}; and now it cannot be told: no memory"
        assert (was.reads_otherwise, was.run) == (True, run)
    anew = evolve(content(1, fb.FaultKind.DISK), reason=f"{READS_OTHERWISE}, anew", earlier=was)
    assert anew.entry(4).fault == f"{READS_OTHERWISE}, anew"
    assert evolve(content(1), earlier=was).entry(4).fault == ""


def test_when_a_file_was_last_right_is_kept_while_it_is_wrong() -> None:
    """Of any file of that name: a merge reads what it replaces."""
    record = fb.VerificationRecord(files=(entry("a", 0),))
    bad = evolve(entry("a", 0), sha256="f" * 64, fault="cut")
    for run in (4, 5):
        record = record.with_entries([evolve(bad, run=run)])
        assert (record.files[0].run, record.files[0].last_right) == (run, entry("a", 0).run)
    assert record.with_entries([evolve(bad, file="b")]).files[1].last_right == 0
    again = record.with_entries([evolve(entry("a", 0), run=6)])
    assert (again.files[0].last_right, again.files[0].since) == (6, None)


def test_nothing_is_compared_with_what_was_read_through_something_wrong() -> None:
    """A disk that was right goes; of one that was wrong the fault stays."""
    of = chain(3)
    files = [f"vda/{image_name(number)}" for number in (1, 2, 3)]
    prints = ImageTree(of, "vda").fingerprints()

    def read(number: int, run: int) -> fb.CheckedContent:
        """Return the entry of a disk that was read first in a run."""
        name = image_name(number)
        return fb.CheckedContent(f"vda/{name}", prints[name], NOW, run, "c" * 64, since=run)

    otherwise = f"{READS_OTHERWISE} than before: sha256 {'d' * 64}, {'c' * 64} then"
    sure, late = read(2, 1), read(3, 2)
    for cause in (
        fb.VerificationRecord(contents=(evolve(read(1, 4), fault=otherwise, since=1),)),
        fb.VerificationRecord(files=(fb.CheckedFile(files[0], "f" * 64, NOW, 4, "cut", 1),)),
        fb.VerificationRecord(
            files=(fb.CheckedFile(files[2], digest(image_name(3)), NOW, 4, "cut", 1),)
        ),
    ):
        record = cause.with_entries(contents=(sure, late))
        kept = trusted(of, record)
        assert {each.file for each in record.contents} - {each.file for each in kept.contents} == {
            files[2]
        }
        assert trusted(of, record, before=3) == kept
        assert trusted(of, record, before=2) == record
        wrong_one = evolve(late, run=3, fault=otherwise, since=2, reference_run=2)
        record = cause.with_entries(contents=(sure, wrong_one))
        left = trusted(of, record).contents[-1]
        assert (left.fault, left.since, left.reference) == (otherwise, 2, None)
        for reference in (1, None):
            known = cause.with_entries(contents=(evolve(wrong_one, reference_run=reference),))
            assert trusted(of, known) == known
    right_now = fb.VerificationRecord(contents=(sure, late))
    assert trusted(of, right_now) is right_now


def test_what_another_found_wrong_meanwhile_is_not_replaced() -> None:
    """By what was read before that, in a verification that ended later."""
    read = entry("a", 0)
    wrong_now = evolve(read, time=read.time + timedelta(seconds=3), fault="it is wrong")
    there = fb.VerificationRecord(files=(wrong_now,))
    assert there.with_entries([read]) == there
    assert there.with_entries([evolve(read, run=wrong_now.run + 1)]).files[0].fault == ""
    later = evolve(read, time=wrong_now.time + timedelta(seconds=1))
    assert there.with_entries([later]).files == (later,)


def test_what_a_disk_was_is_told_from_what_was_wrong() -> None:
    """Also by an entry that has the wrong hash, as its words show."""
    words = f"the disk reads otherwise than before: sha256 {'d' * 64}, {'c' * 64} then"
    kept = evolve(content(1).entry(1), fault=words)
    assert evolve(kept, sha256="d" * 64).reference == "c" * 64
    assert evolve(kept, sha256="c" * 64).reference == "c" * 64
    assert evolve(kept, sha256=None, fault="cut").reference is None


def test_the_fault_of_an_image_that_was_handed_over_ends_with_a_right_reading() -> None:
    """It is read with the point that has it now; until then all that lies on it is spoiled."""
    of = history(point(1, disk(1)), point(3, disk(3, 1, images=2)))
    heir = of.points[1].disks[0]
    name = f"vda/{heir.images[1].name}"
    bad = evolve(content(1, fb.FaultKind.STRUCTURE).entry(1), file=name)
    top = f"vda/{heir.images[0].name}"
    chain = ImageTree(of, "vda").fingerprints()[heir.images[0].name]
    for run, since, ends in ((1, 0, False), (2, 0, True), (2, 2, False), (2, None, False)):
        right_now = evolve(content(1).entry(run), file=top, chain=chain, since=since)
        record = fb.VerificationRecord(contents=(bad, right_now))
        assert (with_found_wrong(of, record).found_wrong == frozenset()) is ends
        faults = judge(evolve(survey(of), record=record)).faults
        assert [(fault.file, fault.points) for fault in faults] == (
            [] if ends else [(name, (point_id(3),))]
        )
        for fault in faults:
            assert f"reads the disk of {point_id(3)}, which has the image now" in fault.reason
            assert fault.reason.endswith("remove verified.json)")
        assert settled(of, record).contents == ((right_now,) if ends else record.contents)
    unread = fb.VerificationRecord(contents=(bad,))
    assert with_found_wrong(of, unread).found_wrong == {name}


def test_a_structure_that_was_wrong_spoils_what_lies_on_it_until_it_is_read_again() -> None:
    """A disk that only reads otherwise spoils the points that show it."""
    of = history(point(1, disk(1)), point(2, disk(2, 1)))
    chain = ImageTree(of, "vda").fingerprints()[image_name(2)]
    broken = content(1, fb.FaultKind.STRUCTURE).entry(2)
    other = evolve(broken, fault=f"{READS_OTHERWISE} than before: sha256 x, y then", since=1)
    above = evolve(content(2).entry(2), chain=chain, since=1)
    both = (point_id(1), point_id(2))
    for entries, points in (
        ((broken, above), both),
        ((other, above), both[:1]),
        ((other, evolve(above, run=1)), both),
        ((other,), both),
    ):
        told = evolve(survey(of), record=fb.VerificationRecord(contents=entries))
        found = judge(told)
        (fault,) = found.faults
        assert fault.points == points
        ages = fb.last_verified(of, told.record)
        assert tuple(each for each, age in ages.items() if age.wrong) == points


def test_all_that_is_right_above_what_was_wrong_is_right() -> None:
    """Each by its own reading."""
    of = chain(4)
    prints = ImageTree(of, "vda").fingerprints()
    fault = f"{READS_OTHERWISE} than before: sha256 x, y then"
    wrong_one = evolve(content(1).entry(2), fault=fault, since=1)
    above = (
        evolve(content(number).entry(2), chain=prints[image_name(number)], since=since)
        for number, since in ((2, 1), (3, 1), (4, 2))
    )
    told = evolve(survey(of), record=fb.VerificationRecord(contents=(wrong_one, *above)))
    assert judge(told).spoiled == (point_id(1), point_id(4))


def test_what_was_found_wrong_stays_a_fault_until_it_is_read_again() -> None:
    """Of disks, which only a deep verification reads, also when images were merged under them."""
    of = history(point(1, disk(1)), point(2, disk(2, 1)))
    file, image = f"vda/{image_name(2)}", f"vda/{image_name(1)}"
    disk_wrong = evolve(content(2, fb.FaultKind.DISK).entry(1), chain="a" * 64)
    told = evolve(survey(of), record=fb.VerificationRecord(contents=(disk_wrong,)))
    (fault,) = judge(told).faults
    words = "words (found 2026-12-24; fibackup verify --deep reads it again)"
    assert (fault.kind, fault.file, fault.reason) == (fb.FaultKind.DISK, file, words)
    assert fault.points == (point_id(2),)
    assert with_found_wrong(of, told.record).found_wrong == {file}
    assert judge(told, (), [content(2)]).faults == ()
    assert judge(told, point=point_id(1)).faults == ()
    kept = wrong(image).entry(1)
    other = evolve(kept, file=file) if kept is not None else None
    assert kept is not None
    assert other is not None  # of another file of this name
    told = evolve(survey(of), record=fb.VerificationRecord(files=(kept, other)))
    (fault,) = judge(told).faults
    assert (fault.file, fault.points) == (image, (point_id(1), point_id(2)))
    assert judge(told, [right(image, None)]).faults == (fault,)
    assert judge(told, [right(image)]).faults == ()


def lines(call: Callable[[], object]) -> int:
    """Count the lines that run, each round of a loop anew."""
    found = 0

    def tracer(_: object, event: str, __: object) -> object:
        nonlocal found
        found += event == "line"
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)  # type: ignore[arg-type]
    try:
        call()
    finally:
        sys.settrace(before)
    return found


def all_wrong(chains: int, length: int) -> fb.Survey:
    """Return a survey in whose record every disk of every chain reads otherwise."""
    numbers = range(chains * length)
    of = history(*(point(n + 1, disk(n + 1, n if n % length else None)) for n in numbers))
    prints = ImageTree(of, "vda").fingerprints()
    words = f"{READS_OTHERWISE} than before: sha256 x, y then"
    record = fb.VerificationRecord(
        contents=tuple(
            fb.CheckedContent(f"vda/{name}", print_, NOW, 2, "b" * 64, words, 1)
            for name, print_ in prints.items()
        )
    )
    return evolve(survey(of), record=record)


def test_the_work_on_a_chain_that_is_wrong_grows_with_the_points_and_no_faster() -> None:
    """Also where every disk of it reads otherwise, because its base was swapped."""
    few, many = all_wrong(1, 50), all_wrong(1, 200)
    for work in (
        lambda what: last_verified(what.history, what.record),
        lambda what: with_found_wrong(what.history, what.record),
    ):
        assert lines(lambda: work(many)) < 4.6 * lines(lambda: work(few))  # noqa: B023


def test_the_work_of_a_verdict_grows_with_what_it_names() -> None:
    """Four times the chains, four times the work: a fault is not looked for in all others."""
    few, many = all_wrong(10, 5), all_wrong(40, 5)
    assert lines(lambda: judge(many)) < 4.6 * lines(lambda: judge(few))


def test_a_disk_that_could_not_be_read_is_told_from_one_that_reads_otherwise() -> None:
    """Of one that does not reach a base, too; what is worse is told first."""
    of = chain(3)
    prints = ImageTree(of, "vda").fingerprints()

    def read(number: int, fault: str) -> fb.CheckedContent:
        """Return what was found of a disk."""
        name = image_name(number)
        return fb.CheckedContent(f"vda/{name}", prints[name], NOW, 3, "b" * 64, fault, 1)

    record = fb.VerificationRecord(contents=(read(1, "no memory"), read(2, "")))
    told = with_found_wrong(of, record).wrong_disks
    assert [(each.point, each.otherwise) for each in told] == [
        (point_id(number), False) for number in (1, 2, 3)
    ]
    both = fb.VerificationRecord(contents=(read(1, "no memory"), read(3, READS_OTHERWISE)))
    told = with_found_wrong(of, both).wrong_disks
    assert [each.otherwise for each in told] == [False, False, True]
    assert told[-1].file == f"vda/{image_name(3)}"
    cut = evolve(of, points=of.points[1:])
    above = fb.VerificationRecord(contents=(read(2, READS_OTHERWISE),))
    assert [each.point for each in with_found_wrong(cut, above).wrong_disks] == [
        point_id(2),
        point_id(3),
    ]
