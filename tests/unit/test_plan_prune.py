"""Facts about the plan of a prune: what is dropped, who takes over which image, what is deleted."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from jsonschema import Draft202012Validator

from fibackup.errors import ManifestError, ModelError, NoSuchPointError
from fibackup.model.chain import FileIdentity
from fibackup.model.journal import Merge, Removal, as_merged
from fibackup.model.point import (
    Consistency,
    DiskKind,
    History,
    PointDisk,
    RestorePoint,
    SourceImage,
    StoredImage,
    format_point_id,
)
from fibackup.parse.manifest import parse_merge, parse_removal, render_merge, render_removal
from fibackup.plan.merge import MAX_OWN
from fibackup.plan.pictures import plan_picture
from fibackup.plan.prune import plan_prune
from fibackup.plan.prune_steps import DropPoints, MergeImages, misfit, shared, spoiled
from fibackup.plan.removal import left_to_remove, points_going
from fibackup.plan.report import Report
from fibackup.plan.retention import RetentionPolicy
from fibackup.plan.steps import Plan, headline
from fibackup.plan.verify_steps import VerifyFiles
from hypervisor import histories
from hypervisor.histories import XML_SIZE, point_at

START = datetime(2026, 11, 1, 4, tzinfo=UTC)
NOW = START + timedelta(days=1000)
OPEN = "a process has it open"
SOURCE = SourceImage("/i/disk.qcow2", "qcow2", FileIdentity(1, 65536, 1))
MIB = 1 << 20
LAST = RetentionPolicy(keep_last=1)


def pid(number: int) -> str:
    """Return the id of a point by its number, which is its sequence too."""
    return format_point_id(START + timedelta(hours=number))


class Builder:
    """Builds histories point by point."""

    def __init__(self) -> None:
        """Begin without points."""
        self.points: list[RestorePoint] = []

    def add(
        self,
        disks: dict[str, int | None] | None = None,
        *,
        same: tuple[str, ...] = (),
        layers: int = 1,
        consistency: Consistency = Consistency.CRASH,
    ) -> str:
        """
        Add a point whose disks lie on the points with these numbers; None makes a full.

        Disks in *same* are as at their parent; *layers* is the number of images of each other disk.
        """
        number = len(self.points) + 1
        wanted = disks if disks is not None else {"vda": number - 1 or None}
        made = tuple(
            self._disk(target, number, parent, same=target in same, layers=layers)
            for target, parent in wanted.items()
        )
        before = pid(number - 1) if number > 1 else None
        point = point_at(START + timedelta(hours=number), number, *made, parent=before)
        self.points.append(evolve(point, consistency=consistency))
        return point.id

    def _disk(
        self, target: str, number: int, parent: int | None, *, same: bool, layers: int
    ) -> PointDisk:
        kind = DiskKind.FULL if parent is None else DiskKind.INCREMENT
        on = pid(parent) if parent is not None else None
        names = [f"{pid(number)}{f'-{layer}' if layer else ''}.qcow2" for layer in range(layers)]
        below = [*names[1:], self._top(target, on)]
        images = tuple(
            StoredImage(name, "qcow2", MIB * (number + layer), "a" * 64, 9 * MIB, under, SOURCE)
            for layer, (name, under) in enumerate(zip(names, below, strict=True))
        )
        return PointDisk(target, kind, "why", on, 9 * MIB, () if same else images)

    def _top(self, target: str, parent: str | None) -> str | None:
        while parent is not None:
            found = next(point for point in self.points if point.id == parent)
            if found.disk(target).images:
                return found.disk(target).images[0].name
            parent = found.disk(target).parent
        return None

    def history(self) -> History:
        """Return what was built."""
        return histories.history(*self.points)


def chain(count: int) -> History:
    """Return a full and its increments, each on the one before."""
    made = Builder()
    for _ in range(count):
        made.add()
    return made.history()


def plan(history: History, policy: RetentionPolicy = LAST, *, in_use: tuple[str, ...] = ()) -> Plan:
    """Plan, and hold the plan to what every plan of a prune must be."""
    found = plan_prune(history, policy, now=NOW, in_use=dict.fromkeys(in_use, OPEN))
    merges = [step for step in found.steps if isinstance(step, MergeImages)]
    kinds = ["VerifyFiles"] * bool(merges) + ["DropPoints"] * any(
        isinstance(step, DropPoints) for step in found.steps
    )
    assert [type(step).__name__ for step in found.steps] == kinds + ["MergeImages"] * len(merges)
    if merges:  # what goes into them is read before anything goes
        assert isinstance(found.steps[0], VerifyFiles)
        read = [(each.file, each.sha256, each.read) for each in found.steps[0].files]
        merged = [(f"{s.target}/{i.name}", i.sha256, True) for s in merges for i in s.images]
        assert read == merged
    assert Plan.from_json(found.to_json()) == found
    after = pruned(history, found)
    for point in after.points:
        for disk in point.disks:
            images = history.images(point.id, disk.target)
            assert after.images(point.id, disk.target) == images
            assert after.top(point.id, disk.target) == images[0]
            assert disk.parent is None or after.find(disk.parent)
            if disk.parent is not None:  # it lies on an image that the parent shows
                assert after.images(disk.parent, disk.target)
    return found


def drop_of(found: Plan) -> DropPoints:
    """Return the step that drops."""
    (step,) = (step for step in found.steps if isinstance(step, DropPoints))
    return step


def pruned(history: History, found: Plan) -> History:
    """Return what the store holds after the step, and see that no needed file goes."""
    steps = [step for step in found.steps if isinstance(step, DropPoints)]
    if not steps:
        return history
    (step,) = steps
    heirs = {point.id: point for point in step.heirs}
    kept = tuple(
        heirs.get(point.id, point) for point in history.points if point.id not in step.points
    )
    named = {f"{d.target}/{i.name}" for p in kept for d in p.disks for i in d.images}
    named |= {file.name for p in kept for file in p.files}
    assert not named & set(step.files)
    Removal(step.points, step.files)  # nothing but files of points
    return evolve(history, points=kept)


def images(history: History, number: int, target: str = "vda") -> list[str]:
    """Return the names of the images that are a point's own, without their suffix."""
    disk = history.point(pid(number)).disk(target)
    return [image.name.removesuffix(".qcow2") for image in disk.images]


def test_the_top_of_a_chain_goes_with_its_files() -> None:
    """Nothing lies on the branch beside: its manifest, XML and image are deleted."""
    made = Builder()
    made.add()
    made.add({"vda": 1})
    made.add({"vda": 1})
    made.add({"vda": 3})
    found = plan(made.history(), RetentionPolicy(keep_last=1, protect=(pid(1), pid(3))))
    assert drop_of(found) == DropPoints(
        points=(pid(2),),
        heirs=(),
        files=(f"{pid(2)}.xml", f"vda/{pid(2)}.qcow2"),
        freed_bytes=2 * MIB + XML_SIZE,
    )
    assert [verdict.kept for verdict in found.verdicts] == [True, False, True, True]
    assert found.verdicts[1].freed_bytes == 2 * MIB + XML_SIZE
    assert "2 MiB freed at once" in str(found)
    assert "steps\n  1. drop 1 point, delete 2 files (2 MiB)\ncost" in str(found)
    assert str(found).endswith("cost: 0 B to write and 0 B to read, at most; frees 2 MiB at once")


def test_a_whole_chain_goes_when_nothing_of_it_is_kept() -> None:
    """A new full is the beginning of another chain."""
    made = Builder()
    for parent in (None, 1, 2, None, 4):
        made.add({"vda": parent})
    found = plan(made.history(), RetentionPolicy(keep_last=2))
    step = drop_of(found)
    assert (step.points, step.heirs) == (tuple(pid(n) for n in (1, 2, 3)), ())
    assert len(step.files) == 6
    assert step.freed_bytes == 6 * MIB + 3 * XML_SIZE


def test_what_a_kept_point_needs_becomes_its_own() -> None:
    """Dropping the base under an increment makes that a full of several images."""
    history = chain(3)
    found = plan(history)
    after = pruned(history, found)
    (point,) = after.points
    disk = point.disks[0]
    assert (point.id, disk.kind, disk.parent) == (pid(3), DiskKind.FULL, None)
    assert images(after, 3) == [pid(3), pid(2), pid(1)]
    assert "pruned" in disk.reason
    assert drop_of(found).files == (f"{pid(1)}.xml", f"{pid(2)}.xml")
    assert f"point {pid(3)} takes over 3 images of vda" in str(found)


def test_a_point_between_kept_ones_goes_to_the_one_above() -> None:
    """The kept point below stays as it is; the next one is an increment on it."""
    history = chain(5)
    found = plan(history, RetentionPolicy(keep_last=1, protect=(pid(2),)))
    after = pruned(history, found)
    assert images(after, 2) == [pid(2), pid(1)]
    assert images(after, 5) == [pid(5), pid(4), pid(3)]
    assert after.points[1].disks[0].parent == pid(2)
    assert after.points[1].disks[0].kind is DiskKind.INCREMENT


def test_a_point_that_is_not_touched_keeps_its_manifest() -> None:
    """Only heirs are written anew."""
    history = chain(5)
    found = plan(history, RetentionPolicy(keep_last=3))
    assert [point.id for point in drop_of(found).heirs] == [pid(3)]


def test_each_disk_is_handed_over_on_its_own() -> None:
    """A disk that was not in every point goes to another heir."""
    made = Builder()
    made.add({"vda": None, "vdb": None})
    made.add({"vda": 1})
    made.add({"vda": 2, "vdb": 1})
    history = made.history()
    after = pruned(history, plan(history, RetentionPolicy(keep_last=2)))
    assert images(after, 2) == [pid(2), pid(1)]
    assert images(after, 3) == [pid(3)]
    assert images(after, 3, "vdb") == [pid(3), pid(1)]


def test_a_disk_that_left_the_domain_is_deleted() -> None:
    """No kept point has it, which is told: it may merely have been left out for a while."""
    made = Builder()
    made.add({"vda": None, "vdb": None})
    made.add({"vda": 1})
    found = plan(made.history())
    assert f"vdb/{pid(1)}.qcow2" in drop_of(found).files
    assert found.warnings == ("no point that is kept has disk vdb: protect one, or it is gone",)
    assert plan(made.history(), RetentionPolicy(keep_last=2)).warnings == ()


def test_images_of_one_point_go_together() -> None:
    """A point may have brought several."""
    made = Builder()
    made.add(layers=2)
    made.add(layers=2)
    made.add()
    after = pruned(made.history(), plan(made.history()))
    assert images(after, 3) == [pid(3), pid(2), f"{pid(2)}-1", pid(1), f"{pid(1)}-1"]


def test_a_point_that_is_as_its_dropped_parent_takes_its_place() -> None:
    """The oldest point that shows an image has it; the others lie on that point."""
    made = Builder()
    made.add()
    made.add(same=("vda",))
    made.add({"vda": 2}, same=("vda",))
    made.add({"vda": 1})
    history = made.history()
    after = pruned(history, plan(history, RetentionPolicy(keep_last=3)))
    assert images(after, 2) == [pid(1)]
    assert [point.disks[0].parent for point in after.points] == [None, pid(2), pid(2)]
    assert after.points[0].disks[0].kind is DiskKind.FULL


def test_a_point_stays_while_a_process_has_its_image_open() -> None:
    """As when a domain runs on a linked disk: the others go, and the plan says what waits."""
    made = Builder()
    for parent in (None, 1, 2, None, 4):
        made.add({"vda": parent})
    history, policy = made.history(), RetentionPolicy(keep_last=2)
    chain_of_2 = (f"vda/{pid(2)}.qcow2", f"vda/{pid(1)}.qcow2")
    found = plan(history, policy, in_use=chain_of_2)
    assert drop_of(found).points == (pid(3),)
    assert [verdict.kept for verdict in found.verdicts] == [True, True, False, True, True]
    assert found.verdicts[1].reasons == (f"vda/{pid(2)}.qcow2: a process has it open",)
    assert len(found.warnings) == 1
    words = f"vda/{pid(1)}.qcow2 cannot go yet, nor 1 more: a process has it open. A domain"
    assert found.warnings[0].startswith(words)
    assert "virsh blockpull" in found.warnings[0]
    assert drop_of(plan(history, policy, in_use=chain_of_2[1:])).points == (pid(2), pid(3))
    assert plan(history, policy, in_use=(f"vda/{pid(5)}.qcow2",)) == plan(history, policy)


def test_a_linked_disk_keeps_its_point_and_those_that_it_lies_on() -> None:
    """Also where a kept point would take over their images: off, a domain needs the point."""
    history = chain(5)
    files = tuple(f"vda/{pid(number)}.qcow2" for number in (2, 1))
    found = plan(history, in_use=files)
    assert [verdict.kept for verdict in found.verdicts] == [True, True, False, False, True]
    assert drop_of(found).points == (pid(3), pid(4))
    assert f"{files[1]} cannot go yet, nor 1 more" in found.warnings[0]
    assert plan(history, keep(1, 2, 5), in_use=files).warnings == ()


def test_an_image_is_not_merged_away_while_a_process_has_it_open() -> None:
    """Its point has several; others may be merged into it, as its name stays."""
    history = pruned(chain(5), plan(chain(5)))
    assert images(history, 5) == [pid(5), pid(4), pid(3), pid(2), pid(1)]

    def merged(*in_use: int) -> tuple[list[list[str]], list[bool]]:
        files = [f"vda/{pid(number)}.qcow2" for number in in_use]
        found = plan_prune(history, LAST, now=NOW, in_use=dict.fromkeys(files, OPEN))
        merges = [step.images for step in found.steps if isinstance(step, MergeImages)]
        names = [[image.name.removesuffix(".qcow2") for image in each] for each in merges]
        return names, [files[-1] in warning for warning in found.warnings]

    assert merged() == ([[pid(4), pid(3), pid(2), pid(1)]], [])
    assert merged(2, 1) == ([[pid(4), pid(3)]], [True])
    assert merged(3, 2, 1) == ([], [True])
    assert merged(4) == ([[pid(4), pid(3), pid(2), pid(1)]], [])
    assert merged(3) == ([[pid(3), pid(2), pid(1)]], [True])


def test_a_point_under_two_branches_stays() -> None:
    """Its images cannot become those of both; the reason says so."""
    made = Builder()
    made.add()
    made.add({"vda": 1})
    made.add({"vda": 1})
    found = plan(made.history(), RetentionPolicy(keep_last=2))
    assert found.steps == ()
    assert found.verdicts[0].reasons == ("2 branches of vda lie on it",)


def test_a_point_that_stays_for_one_disk_may_make_another_stay() -> None:
    """Its other disk is needed then, and may fork in its turn."""
    made = Builder()
    made.add({"vda": None, "vdb": None})
    made.add({"vda": 1, "vdb": 1})
    made.add({"vda": 2, "vdb": 1})
    made.add({"vda": 2, "vdb": None})
    found = plan(made.history(), RetentionPolicy(keep_last=2))
    assert [verdict.kept for verdict in found.verdicts] == [True] * 4
    assert found.verdicts[0].reasons == ("2 branches of vdb lie on it",)


def test_what_the_live_chain_may_sit_on_stays() -> None:
    """A point of a domain that was off is a copy beside: the next one lies on its parent."""
    made = Builder()
    made.add()
    made.add()
    made.add({"vda": 2}, consistency=Consistency.OFFLINE)
    made.add({"vda": 3}, same=("vda",), consistency=Consistency.OFFLINE)
    found = plan(made.history())
    assert [verdict.kept for verdict in found.verdicts] == [False, True, True, True]
    assert found.verdicts[1].reasons == ("the next point may lie on it",)


def test_under_an_offline_full_the_live_chain_sits_on_the_last_point_of_when_it_ran() -> None:
    """That stays, and its image is not merged; a domain that never ran has no such point."""
    made = Builder()
    for consistency in (Consistency.CRASH, Consistency.CRASH, Consistency.OFFLINE):
        made.add(consistency=consistency)
    made.add({"vda": None}, consistency=Consistency.OFFLINE)
    found = plan(made.history())
    assert [verdict.kept for verdict in found.verdicts] == [False, True, False, True]
    assert found.verdicts[1].reasons == ("the next point may lie on it",)
    assert [type(step) for step in found.steps] == [DropPoints]
    never = Builder()
    for _ in range(3):
        never.add({"vda": None}, consistency=Consistency.OFFLINE)
    assert [verdict.kept for verdict in plan(never.history()).verdicts] == [False, False, True]


def test_an_image_that_may_be_of_a_lost_point_ends_every_prune() -> None:
    """What its point lies on is not known, as when the seals are damaged too."""
    history = evolve(chain(3), orphans=frozenset({"vda/x.qcow2"}))
    for points in (history.points, ()):  # also when it may be all that is left
        with pytest.raises(ManifestError, match=r"vda/x\.qcow2 is of no point"):
            plan_prune(evolve(history, points=points), LAST, now=NOW)


def test_an_offline_point_whose_parent_is_gone_lies_on_nothing() -> None:
    """What is whole stays."""
    made = Builder()
    made.add()
    made.add({"vda": None}, consistency=Consistency.OFFLINE)
    history = made.history()
    disk = evolve(history.points[1].disks[0], kind=DiskKind.INCREMENT, parent=pid(7), images=())
    newest = evolve(history.points[1], disks=(disk,))
    history = evolve(history, points=(history.points[0], newest))
    found = plan_prune(history, LAST, now=NOW)
    assert [verdict.kept for verdict in found.verdicts] == [True, True]
    assert found.verdicts[0].reasons == ("the newest point that is whole",)


def test_a_chain_that_ends_in_nothing_is_left_as_it_is() -> None:
    """A point that is not whole is handed what there is; its kind does not get better by that."""
    made = Builder()
    for _ in range(3):
        made.add()
    made.add({"vda": None})
    history = made.history()
    broken = evolve(history, points=history.points[1:])
    step = drop_of(plan_prune(broken, RetentionPolicy(keep_last=2), now=NOW))
    (heir,) = step.heirs
    assert (heir.id, heir.disks[0].kind, heir.disks[0].parent) == (
        pid(3),
        DiskKind.INCREMENT,
        pid(1),
    )


def test_an_interrupted_hand_over_is_taken_up_either_way() -> None:
    """Two manifests name one image: whoever is kept has it, and its file is safe."""
    history = chain(3)
    after = pruned(history, plan(history, RetentionPolicy(keep_last=2)))
    both = evolve(history, points=(history.points[0], *after.points))
    again = plan(both, RetentionPolicy(keep_last=2))
    assert (drop_of(again).points, drop_of(again).heirs) == ((pid(1),), ())
    assert drop_of(again).files == (f"{pid(1)}.xml",)
    other = plan(both, RetentionPolicy(keep_last=2, protect=(pid(1),)))
    step = drop_of(other)
    assert (step.points, step.files, step.freed_bytes) == ((), (), 0)
    assert [images(pruned(both, other), number) for number in (1, 2, 3)] == [
        images(history, number) for number in (1, 2, 3)
    ]
    assert plan(history, RetentionPolicy(keep_last=2, protect=(pid(1),))).steps == ()
    assert headline(step) == "take up a prune that was interrupted: 1 point names what is its own"


def test_what_an_interrupted_hand_over_left_is_written_before_anything_is_merged() -> None:
    """Or the merge would delete images that the other manifest names."""
    history = pruned(chain(3), plan(chain(3), RetentionPolicy(keep_last=2)))
    last = pruned(history, plan(history, RetentionPolicy(keep_last=1)))
    both = evolve(history, points=(history.points[0], *last.points))
    found = plan(both, RetentionPolicy(keep_last=2))
    kinds = [type(step) for step in found.steps]
    assert kinds == [VerifyFiles, DropPoints, MergeImages]
    assert [heir.id for heir in drop_of(found).heirs] == [pid(3)]


def test_an_image_that_was_found_wrong_since_is_not_merged() -> None:
    """Its result would have a right hash; what is wrong elsewhere does not matter."""
    history = chain(3)
    [merge] = [
        step
        for step in plan(history, RetentionPolicy(keep_last=2)).steps
        if isinstance(step, MergeImages)
    ]
    wrong, other = merge.images[1].name, f"vda/{pid(3)}.qcow2"
    found = frozenset({f"vda/{wrong}"})
    assert spoiled(merge, evolve(history, wrong_files=frozenset({other}))) is None
    assert spoiled(merge, evolve(history, wrong_files=found)) == f"{wrong} was found wrong"
    assert spoiled(merge, evolve(history, damaged=found)) == f"{wrong} was found wrong"


def test_an_image_that_two_points_name_is_not_merged() -> None:
    """Whatever the plan was made of: what is published counts."""
    history = pruned(chain(3), plan(chain(3), RetentionPolicy(keep_last=2)))
    again = plan(history, RetentionPolicy(keep_last=2))
    [merge] = [step for step in again.steps if isinstance(step, MergeImages)]
    assert shared(merge, history.points) is None
    last = pruned(history, plan(history, RetentionPolicy(keep_last=1)))
    assert shared(merge, (history.points[0], *last.points)) == (
        f"point {pid(3)} names {pid(2)}.qcow2 too"
    )


def test_a_file_that_two_dropped_points_name_is_deleted_once() -> None:
    """As after an interrupted hand-over; what is freed is said once as well."""
    made = Builder()
    for on in (None, 1, None):
        made.add({"vda": on})
    history = made.history()
    after = pruned(history, plan(history, RetentionPolicy(keep_last=2)))
    both = evolve(history, points=(history.points[0], *after.points))
    found = plan(both)
    step = drop_of(found)
    assert step.points == (pid(1), pid(2))
    assert sorted(step.files) == sorted(
        name for number in (1, 2) for name in (f"{pid(number)}.xml", f"vda/{pid(number)}.qcow2")
    )
    sizes = sum(image.size_bytes for point in history.points[:2] for image in point.disks[0].images)
    assert (
        step.freed_bytes == sum(each.freed_bytes for each in found.verdicts) == sizes + 2 * XML_SIZE
    )


def test_when_all_is_kept_nothing_is_done() -> None:
    """The plan has verdicts, and no step."""
    found = plan(chain(3), RetentionPolicy(keep_last=9))
    assert found.steps == ()
    assert found.expects.sequence == 3
    assert found.expects.points == (pid(1), pid(2), pid(3))


def test_a_manifest_that_cannot_be_read_stops_the_prune() -> None:
    """Nobody knows what its point needs; the same when it is gone."""
    history = chain(3)
    for each in (
        evolve(history, unreadable=(("20261101T000000Z.json", "cut"),)),
        evolve(history, lost=("20261101T000000Z",)),
    ):
        with pytest.raises(ManifestError, match=r"20261101T000000Z\.json is damaged or gone"):
            plan_prune(each, LAST, now=NOW)


def test_a_domain_without_points_has_nothing_to_prune() -> None:
    """It is most likely a misspelled name."""
    with pytest.raises(NoSuchPointError, match="no point of domain"):
        plan_prune(chain(0), LAST, now=NOW)


def sized(history: History, *sizes: int) -> History:
    """Return the history with images of these sizes, oldest first."""
    points = tuple(
        evolve(
            point,
            disks=tuple(
                evolve(disk, images=tuple(evolve(image, size_bytes=size) for image in disk.images))
                for disk in point.disks
            ),
        )
        for point, size in zip(history.points, sizes, strict=True)
    )
    return evolve(history, points=points)


def merges(found: Plan) -> list[list[str]]:
    """Return the points whose images each merge takes, top first."""
    return [
        [image.name.removesuffix(".qcow2") for image in step.images]
        for step in found.steps
        if isinstance(step, MergeImages)
    ]


def keep(*numbers: int) -> RetentionPolicy:
    """Keep these points, and the newest."""
    return RetentionPolicy(keep_last=1, protect=tuple(pid(number) for number in numbers))


def test_images_of_like_sizes_are_merged_into_the_name_of_the_top() -> None:
    """What lies on the kept point goes on lying on an image of that name."""
    found = plan(sized(chain(5), 1000, 30, 20, 10, 10), keep(4))
    assert merges(found) == [[pid(4), pid(3), pid(2)]]
    step = next(step for step in found.steps if isinstance(step, MergeImages))
    assert (step.point, step.target, step.backing) == (pid(4), "vda", f"{pid(1)}.qcow2")
    assert (step.write_bytes, step.read_bytes) == (60, 120)
    assert f"vda: merge 3 images of point {pid(4)} into one on {pid(1)}.qcow2" in str(found)
    assert "cost: 60 B to write and 180 B to read, at most" in str(found)


def test_a_large_image_waits_until_enough_lies_on_it() -> None:
    """Each byte of a dropped point is written a few times, however large the disk is."""
    assert merges(plan(sized(chain(3), 1000, 10, 10), keep(2))) == []
    assert merges(plan(sized(chain(3), 1000, 250, 10), keep(2))) == [[pid(2), pid(1)]]
    assert "into one (" in str(plan(sized(chain(3), 1000, 250, 10), keep(2)))


def test_images_under_one_that_is_much_smaller_are_merged_with_each_other() -> None:
    """The result has the name of the upper of them."""
    assert merges(plan(sized(chain(4), 90, 90, 1, 1), keep(3))) == [[pid(2), pid(1)]]


def test_the_newest_image_is_never_written_anew() -> None:
    """Its hash is in the ledger, and proves the next increment."""
    assert merges(plan(sized(chain(4), 10, 10, 10, 10))) == [[pid(3), pid(2), pid(1)]]
    assert merges(plan(sized(chain(2), 10, 10))) == []


def test_a_point_is_left_as_it_was_taken() -> None:
    """Several images that it brought are no business of a prune."""
    made = Builder()
    made.add(layers=3)
    made.add()
    assert plan(made.history(), RetentionPolicy(keep_last=9)).steps == ()


def test_too_many_images_are_merged_whatever_their_sizes() -> None:
    """A chain that is too deep cannot be opened."""
    count = MAX_OWN + 4
    history = sized(chain(count), *(5 ** (count - number) for number in range(count)))
    (run,) = merges(plan(history, keep(count - 1)))
    assert len(run) == 4


def test_an_image_on_which_another_lies_is_not_merged_away() -> None:
    """Only the topmost of a merge may carry others."""
    made = Builder()
    for parent in (None, 1, 2, 2, 4):
        made.add({"vda": parent})
    history = made.history()
    # an older prune handed 2 and 1 to point 3, although point 4 lies on 2 as well
    heir = evolve(
        history.points[2],
        disks=(
            evolve(
                history.points[2].disks[0],
                kind=DiskKind.FULL,
                parent=None,
                images=history.images(pid(3), "vda"),
            ),
        ),
    )
    odd = sized(evolve(history, points=(heir, *history.points[3:])), 9, 9, 9)
    found = plan_prune(odd, RetentionPolicy(keep_last=9), now=NOW)
    assert merges(found) == [[pid(2), pid(1)]]


def test_what_lies_on_nothing_is_not_merged() -> None:
    """No qemu-img reads it; a prune that keeps it does the rest, and does not fail each time."""
    made = sized(chain(5), 10, 10, 10, 10, 10)
    whole = Builder()
    whole.points = list(made.points)
    whole.add({"vda": None})
    history = whole.history()
    assert merges(plan_prune(history, keep(4, 6), now=NOW)) == [[pid(4), pid(3), pid(2), pid(1)]]
    without = evolve(history, points=history.points[1:])
    assert merges(plan_prune(without, keep(4, 6), now=NOW)) == []
    cut = evolve(history, damaged=frozenset({f"vda/{pid(1)}.qcow2"}))
    for kept in ((1, 4, 6), (1, 2, 4, 6)):
        assert merges(plan_prune(history, keep(*kept), now=NOW)) != []
        assert merges(plan_prune(cut, keep(*kept), now=NOW)) == []


def test_images_of_different_sizes_or_with_damage_are_not_merged() -> None:
    """The end of a smaller one would show what lies under it; what is damaged stays as it is."""
    history = sized(chain(4), 10, 10, 10, 10)
    old = history.points[0]
    small = evolve(old.disks[0].images[0], virtual_size_bytes=MIB)
    grown = evolve(
        history,
        points=(
            evolve(old, disks=(evolve(old.disks[0], images=(small,)),)),
            *history.points[1:],
        ),
    )
    assert merges(plan(grown)) == []
    assert merges(plan(grown, keep(1, 3))) == []
    damaged = evolve(history, damaged=frozenset({f"vda/{pid(1)}.qcow2"}))
    whole = Builder()
    whole.points = list(damaged.points)
    whole.add({"vda": None})
    both = evolve(damaged, points=whole.history().points)
    assert merges(plan_prune(both, keep(4), now=NOW)) == []
    wrong = evolve(both, damaged=frozenset(), wrong_files=damaged.damaged)
    assert merges(plan_prune(wrong, keep(4), now=NOW)) == []
    assert merges(plan_prune(evolve(wrong, wrong_files=frozenset()), keep(4), now=NOW)) != []


def test_a_merge_counts_once_its_image_has_its_place() -> None:
    """Before, the manifest is right; after, the journal is."""
    history = sized(chain(3), 10, 10, 10)
    after = pruned(history, plan(history, keep(2)))
    point = after.points[0]
    disk = point.disks[0]
    merged = evolve(point, disks=(evolve(disk, images=(evolve(disk.images[0], backing=None),)),))
    merge = Merge("vda", f"{pid(2)}.qcow2.merged", f"{pid(2)}.qcow2", merged, (f"{pid(1)}.qcow2",))
    assert as_merged(after.points, merge, {merge.file: 1}) == after.points
    size = merge.image.size_bytes
    assert as_merged(after.points, merge, {merge.name: size}) == (merged, after.points[1])


def _valid(name: str, text: str) -> bool:
    """Tell whether a published schema describes a file."""
    path = Path(__file__).parents[2] / "docs" / "schema" / f"{name}.schema.json"
    validator: Any = Draft202012Validator(json.loads(path.read_text("utf-8")))
    return bool(validator.is_valid(json.loads(text)))


def test_the_journals_read_back_and_are_as_their_schemas_say() -> None:
    """What another program may rely on."""
    history = chain(3)
    step = drop(history)
    removal = Removal(step.points, step.files)
    assert removal.files
    text = render_removal(removal)
    assert (parse_removal(text), _valid("removal", text)) == (removal, True)
    point, name = history.points[2], f"{pid(3)}.qcow2"
    merge = Merge("vda", f"{name}.merged", name, point, (f"{pid(1)}.qcow2",))
    text = render_merge(merge)
    assert (parse_merge(text), _valid("merge", text)) == (merge, True)
    for bad, schema in (
        (text.replace("vda", "../vda"), "merge"),
        (text.replace(f'"{name}.merged"', '"lock"'), "merge"),
        (text.replace('"gone"', '"went"'), "merge"),
        (render_removal(removal).replace(pid(1), "../../../../x"), "removal"),
    ):
        assert not _valid(schema, bad), bad


def removal_of(*numbers: int) -> Removal:
    """Return the journal of a prune that takes points of one image each."""
    images = (f"vda/{pid(number)}.qcow2" for number in numbers)
    return Removal(tuple(map(pid, numbers)), (*(f"{pid(each)}.xml" for each in numbers), *images))


def fulls(count: int) -> Builder:
    """Return points that stand alone."""
    made = Builder()
    for _ in range(count):
        made.add({"vda": None})
    return made


def test_what_a_removal_takes_is_needed_by_nobody() -> None:
    """It is finished as it was begun."""
    made = Builder()
    made.add()
    made.add()
    made.add({"vda": None})
    assert left_to_remove(removal_of(1, 2), made.history()) == removal_of(1, 2)
    gone = histories.history(*made.points[2:])
    assert left_to_remove(removal_of(1, 2), gone, {pid(1)}) == removal_of(1, 2)


def test_points_of_a_removal_stay_when_one_of_them_is_protected_or_needed() -> None:
    """The files of those that are gone already go: no point would ever name them again."""
    made = Builder()
    for _ in range(3):
        made.add()
    made.add({"vda": None})
    files = (f"{pid(3)}.xml", f"vda/{pid(3)}.qcow2")
    listed = [*made.points[:2], made.points[3]]
    history = histories.history(*listed)
    assert left_to_remove(removal_of(1, 2, 3), history) == removal_of(1, 2, 3)
    assert left_to_remove(removal_of(1, 2, 3), history, {pid(2)}) == Removal((), files)
    protected = evolve(history, protected=frozenset({pid(2)}))
    assert left_to_remove(removal_of(1, 2, 3), protected) == Removal((), files)
    made.add({"vda": 2})
    history = histories.history(*listed, made.points[-1])
    assert left_to_remove(removal_of(1, 2, 3), history) == Removal((), files)


def test_points_of_a_removal_stay_when_another_is_as_at_one_of_them() -> None:
    """It has no image of its own that would tell."""
    made = fulls(2)
    made.add({"vda": 1}, same=("vda",))
    files = (f"{pid(2)}.xml", f"vda/{pid(2)}.qcow2")
    history = histories.history(made.points[0], made.points[2])
    assert left_to_remove(removal_of(1, 2), history) == Removal((), files)


def test_points_of_a_removal_stay_when_no_other_is_whole() -> None:
    """Whatever is wrong with those that were to stay: damaged, found wrong, or gone."""
    made = fulls(3)
    history, journal = made.history(), removal_of(1, 2)
    for found in (
        evolve(history, damaged=frozenset({f"vda/{pid(3)}.qcow2"})),
        evolve(history, wrong_files=frozenset({f"{pid(3)}.xml"})),
    ):
        assert left_to_remove(journal, found) == Removal((), ())
        assert points_going(journal, found) == frozenset()
    found = histories.history(*made.points[:2])
    assert left_to_remove(journal, found) == Removal((), ())
    unreadable = ((f"{pid(1)}.json", "damaged"),)  # it may come back, and be the only one
    assert left_to_remove(journal, evolve(histories.history(), unreadable=unreadable)) is None
    assert left_to_remove(journal, histories.history()) == journal


def test_a_removal_waits_while_it_cannot_be_told_what_a_point_needs() -> None:
    """A damaged manifest may be of a point that stays; of one that goes it does not count."""
    made = fulls(3)
    journal = removal_of(1, 2)
    for listed, damaged, waits in ((made.points[:2], 3, True), (made.points[1:], 1, False)):
        unreadable = ((f"{pid(damaged)}.json", "damaged"),)
        history = evolve(histories.history(*listed), unreadable=unreadable)
        assert (left_to_remove(journal, history) is None) is waits
        assert (left_to_remove(journal, evolve(history, lost=(pid(9),)))) is None
        assert left_to_remove(journal, history, {pid(1)}) is None
        assert left_to_remove(journal, history, {pid(2)}) is None
        protected = evolve(history, protected=frozenset({pid(1)}))
        assert left_to_remove(journal, protected) is None
        assert points_going(journal, protected) == frozenset()
    gone = evolve(histories.history(made.points[2]), protected=frozenset({pid(1)}))
    assert left_to_remove(journal, gone) == journal


def test_a_removal_waits_while_a_file_that_would_go_is_in_use() -> None:
    """As long as its point is listed that stays, and nothing is left to wait for."""
    made = fulls(3)
    journal, used = removal_of(1, 2), {f"vda/{pid(2)}.qcow2"}
    assert left_to_remove(journal, made.history(), used=used) == Removal((), ())
    files = tuple(file for file in journal.files if pid(1) in file)
    without_first = histories.history(*made.points[1:])
    assert left_to_remove(journal, without_first, used=used) == Removal((), files)
    assert left_to_remove(journal, without_first, used={files[1]}) is None
    assert left_to_remove(journal, histories.history(made.points[2]), used=used) is None


def test_points_are_going_while_they_are_listed_and_nothing_keeps_them() -> None:
    """What is gone already is not going."""
    points = fulls(3).points
    history = histories.history(*points)
    assert points_going(None, history) == frozenset()
    journal = removal_of(1, 2)
    assert points_going(journal, history) == {pid(1), pid(2)}
    assert points_going(journal, histories.history(*points[1:])) == {pid(2)}
    assert points_going(journal, evolve(history, protected=frozenset({pid(1)}))) == frozenset()


def test_nothing_is_taken_from_under_a_point_whose_chain_no_manifest_tells() -> None:
    """It lies on an image of a point that is gone, and that on others."""
    history = histories.history(*chain(3).points[2:])
    assert left_to_remove(removal_of(1, 2), history) == Removal((), ())


def test_the_schema_of_a_merge_has_the_point_of_a_manifest() -> None:
    """One definition, in two files that stand alone."""
    folder = Path(__file__).parents[2] / "docs" / "schema"
    merge, manifest = (
        json.loads((folder / f"{name}.schema.json").read_text("utf-8"))["$defs"]
        for name in ("merge", "manifest")
    )
    assert manifest.items() <= merge.items()


def test_a_journal_whose_image_is_nowhere_says_nothing() -> None:
    """Its image neither waits nor has the place, which has the old one or none."""
    points = chain(2).points
    merge = Merge("vda", f"{pid(2)}.qcow2.merged", f"{pid(2)}.qcow2", points[1], ())
    other = evolve(points[1], consistency_detail="what the manifest says")
    before = (points[0], other)
    assert as_merged(before, merge, {merge.name: merge.image.size_bytes + 1}) == before
    assert as_merged(before, merge, {}) == before


def test_nothing_is_planned_while_a_journal_is_damaged() -> None:
    """Nobody can tell what was about to be merged, or what lies on the points."""
    for file in ("merge.json", "linked.json"):
        with pytest.raises(ManifestError, match=rf"{file} is damaged \(not JSON\): .*, remove it"):
            plan(evolve(chain(2), damaged_records=(("verified.json", "cut"), (file, "not JSON"))))


@pytest.mark.parametrize("file", ["points.sha256", "verified.json", "prune.json"])
def test_a_record_that_is_damaged_is_told(file: str) -> None:
    """What can be told without it is done."""
    history = evolve(chain(2), damaged_records=((file, "not JSON"),))
    [warning] = plan(history).warnings
    assert warning.startswith(f"{file} is damaged (not JSON): ")
    assert plan(evolve(history, damaged_records=())).warnings == ()


def test_a_point_that_is_kept_and_was_found_wrong_is_named() -> None:
    """All of them in one line: who prunes had better know what is left."""
    made = Builder()
    for parent in (None, 1, None):
        made.add({"vda": parent})
    wrong = evolve(made.history(), wrong_files=frozenset({f"vda/{pid(1)}.qcow2"}))
    [warning] = plan_prune(wrong, keep(1, 2), now=NOW).warnings
    assert warning.endswith(f"found wrong by a verification: {pid(1)}, {pid(2)}")
    assert plan_prune(wrong, LAST, now=NOW).warnings == ()


# --- pictures -----------------------------------------------------------------------------------


def test_the_picture_of_a_prune_shows_points_with_reasons_and_merges_before_and_after() -> None:
    """What goes is crossed out; what lies under the merged images is there, and stays."""
    history = sized(chain(6), 1000, 10, 10, 10, 10, 10)
    made = plan(history, RetentionPolicy(keep_last=1, protect=(pid(1), pid(5))))
    picture = plan_picture(made)
    assert "3 kept, 3 dropped" in picture.facts
    _, section = picture.sections
    now, after = section.columns
    images = [f"{pid(number)}.qcow2" for number in (5, 4, 3, 2, 1)]
    assert [box and box.name for box in now.boxes] == images
    assert [box and box.name for box in after.boxes] == images
    assert [str(box.change) for box in after.boxes if box] == [
        "new",
        "gone",
        "gone",
        "gone",
        "same",
    ]
    assert f"vda of point {pid(5)}" in made.to_svg()
    for words in ("drop", "4 images in one", pid(3), f"vda of point {pid(5)}"):
        assert words in made._repr_html_(), words


def test_a_full_that_is_merged_is_drawn_as_a_full() -> None:
    """Nothing lies under it; the report tells what was freed."""
    made = plan(sized(chain(3), 10, 10, 10), keep(2))
    _, section = plan_picture(made).sections
    merged = section.columns[1].boxes[0]
    assert merged is not None
    assert (merged.tag, str(merged.tint)) == ("full", "full")
    assert len(plan_picture(plan(chain(2), keep(1))).sections) == 1


def test_of_many_merges_some_are_drawn() -> None:
    """A picture of all of them shows nothing."""
    history = sized(chain(61), *[10] * 61)
    made = plan(
        history, RetentionPolicy(keep_last=1, protect=tuple(pid(n) for n in range(2, 60, 2)))
    )
    picture = plan_picture(made)
    assert len(merges(made)) > 12 == len(picture.sections) - 1
    assert f"{len(merges(made))} merges, 12 of them drawn" in picture.facts


# --- a drop that was planned before -------------------------------------------------------------


def drop(history: History) -> DropPoints:
    """Plan to keep the newest point, and point 2."""
    return drop_of(plan(history, RetentionPolicy(keep_last=1, protect=(pid(2),))))


def test_a_drop_fits_what_it_was_planned_for() -> None:
    """And what is left of it after it was interrupted."""
    history = chain(4)
    step = drop(history)
    assert misfit(step, history) is None
    half = {heir.id: heir for heir in step.heirs}
    points = tuple(half.get(point.id, point) for point in history.points)
    assert misfit(step, evolve(history, points=points)) is None
    assert misfit(step, evolve(history, points=points[1:])) is None


def test_a_drop_does_not_fit_what_has_changed_since() -> None:
    """Each of these would leave a listed point without its images, or a promise unkept."""
    history = chain(4)
    step = drop(history)
    points = history.points
    lower = evolve(points[0].disks[0].images[0], sha256="e" * 64)
    merged = evolve(points[0], disks=(evolve(points[0].disks[0], images=(lower,)),))
    told = evolve(points[3], domain="web2")
    more = evolve(step, files=(*step.files, f"{pid(2)}.xml"))
    under = evolve(step, heirs=(), files=(*step.files, f"vda/{pid(3)}.qcow2"))
    for now, then, words in (
        (evolve(history, unreadable=(("x.json", "cut"),)), step, "damaged or gone"),
        (evolve(history, lost=(pid(9),)), step, "damaged or gone"),
        (evolve(history, protected=frozenset({pid(1)})), step, f"{pid(1)} is protected"),
        (evolve(history, points=points[:3]), step, f"{pid(4)} is not what it was"),
        (evolve(history, points=(*points[:3], told)), step, f"{pid(4)} is not what it was"),
        (evolve(history, points=(merged, *points[1:])), step, "images that are not there"),
        (evolve(history, wrong_files=frozenset({f"vda/{pid(2)}.qcow2"})), step, "is whole"),
        (history, more, f"{pid(2)} needs a file"),
        (history, under, f"{pid(4)} needs a file"),
    ):
        assert words in (misfit(then, now) or ""), words


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "20261101T050000Z-9.qcow2"},
        {"gone": ("20261101T060000Z.qcow2",)},
        {"file": "20261101T060000Z.qcow2"},
        {"file": "lock"},
        {"gone": ("points.sha256",)},
    ],
)
def test_a_merge_touches_images_of_its_point_only(changes: dict[str, str]) -> None:
    """Whatever a file says."""
    history = chain(2)
    merge = Merge("vda", f"{pid(2)}.qcow2.merged", f"{pid(2)}.qcow2", history.points[1], ())
    assert merge.point.id == pid(2) == "20261101T060000Z"
    with pytest.raises(ModelError):
        evolve(merge, **changes)  # type: ignore[arg-type, unused-ignore]


@pytest.mark.parametrize(
    ("points", "files"),
    [
        (("../20261101T000000Z",), ()),
        ((), ("../20261101T000000Z.xml",)),
        ((), ("vda/../20261101T000000Z.qcow2",)),
        ((), ("lock",)),
        ((), ("vda/20261101",)),
    ],
)
def test_a_journal_deletes_files_of_points_only(
    points: tuple[str, ...], files: tuple[str, ...]
) -> None:
    """Whatever a file says, nothing else in the store or outside is removed."""
    with pytest.raises(ModelError, match="restore point"):
        Removal(points, files)


def test_the_report_counts_points_and_bytes() -> None:
    """What was kept, what was dropped, what the file system got back."""
    found = plan(chain(3), RetentionPolicy(keep_last=2))
    report = Report(found, NOW, 1.0, (), freed_bytes=3 * MIB)
    assert "kept 2, dropped 1, freed 3 MiB, wrote 0 B" in str(report)
    assert Report.from_json(report.to_json()) == report
    fuller = Report(found, NOW, 1.0, (), freed_bytes=-3 * MIB)
    assert "dropped 1, takes 3 MiB more now, wrote 0 B" in str(fuller)


def test_a_step_counts_in_words() -> None:
    """One point, two points."""
    found = plan(chain(3))
    assert headline(drop_of(found)) == "drop 2 points, delete 2 files (20 B)"


def _calls(history: History) -> int:
    count = 0

    def tracer(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(tracer)
    try:
        plan_prune(history, RetentionPolicy(keep_last=20, keep_daily=30), now=NOW)
    finally:
        sys.setprofile(None)
    return count


def test_the_work_grows_with_the_points_and_no_faster() -> None:
    """Four times the points in one chain take four times the calls."""
    few, many = _calls(chain(300)), _calls(chain(1200))
    assert many < 4.6 * few
