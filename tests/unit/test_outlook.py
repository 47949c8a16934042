"""Facts about what a plan will leave: the chains are as foreseen, whatever the plan does."""

from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.host.executor import Executor
from fibackup.model.domain import Domain
from fibackup.model.ledger import Ledger
from fibackup.plan.backup import plan_backup
from fibackup.plan.consolidate import ConsolidationPolicy, Method, plan_consolidation
from fibackup.plan.outlook import DiskOutlook, foresee
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.restore import RestoreForm, plan_restore
from fibackup.plan.steps import DeleteOverlays, EachDisk, FinishBlockJob, Plan, TakeSnapshot
from fibackup.render.drawable import Picture
from fibackup.render.scene import Box, Change, Link, LinkKind, Section, Tint
from fibackup.testing import FakeHost, FakeStore

TEMPLATE = PurePosixPath("/images/template.qcow2")
OWN = PurePosixPath("/images/web1-vda.qcow2")
NOW = datetime(2026, 11, 24, tzinfo=UTC)
NEW = PurePosixPath("/images/web1-vda.bimg-20261124T000000Z")
NEXT = PurePosixPath("/images/web1-vda.bimg-20261124T000000Z-2")


class World:
    """A domain of two disks over a template, with points in a store."""

    def __init__(self, points: int = 0) -> None:
        """Make both, and take the points."""
        self.host = FakeHost()
        self.host.add_image(TEMPLATE, {0: 1})
        self.uuid = self.host.add_domain("web1", {"vda": {1: 2}, "vdb": {}}, template=TEMPLATE)
        self.store = FakeStore(self.host)
        for number in range(points):
            Executor(self.host, self.store).run(self.backup())
            self.host.write("web1", "vda", 1, 10 + number)

    def backup(self, policy: BackupPolicy | None = None) -> Plan:
        """Plan a backup."""
        history = self.store.read_history(self.uuid)
        return plan_backup(self.domain, history, now=NOW, policy=policy)

    def consolidation(self, policy: ConsolidationPolicy | None = None) -> Plan:
        """Plan a consolidation."""
        return plan_consolidation(self.domain, policy=policy)

    @property
    def domain(self) -> Domain:
        """The domain as it is."""
        return self.host.read_domain("web1")

    def chains(self) -> dict[str, tuple[PurePosixPath, ...]]:
        """Return the chains as they are."""
        return {disk.target: disk.chain.paths for disk in self.domain.disks if disk.chain}


def plans(world: World) -> dict[str, Plan]:
    """Return every kind of plan that changes a live chain, or leaves it."""
    pull = Method.BLOCKPULL
    return {
        "backup": world.backup(),
        "one disk": world.backup(BackupPolicy(disks=("vda",))),
        "no freeze": world.backup(BackupPolicy(quiesce=Quiesce.OFF)),
        "rolling backup": world.backup(BackupPolicy(consolidate=True)),
        "commit": world.consolidation(),
        "rolling": world.consolidation(ConsolidationPolicy(keep_overlay=True)),
        "pull": world.consolidation(ConsolidationPolicy(method=pull)),
        "rolling pull": world.consolidation(ConsolidationPolicy(method=pull, keep_overlay=True)),
    }


@pytest.mark.parametrize("kind", plans(World(3)))
def test_a_plan_leaves_the_chains_as_foreseen(kind: str) -> None:
    """What is foreseen from the steps is what the host has after the run, and before it too."""
    world = World(3)
    plan = plans(world)[kind]
    foreseen = {each.target: each for each in foresee(plan)}
    before, images = world.chains(), world.host.images()
    assert {target: each.before for target, each in foreseen.items()} == {
        target: before[target] for target in foreseen
    }
    Executor(world.host, world.store).run(plan)
    after = world.chains()
    assert after == before | {target: each.after for target, each in foreseen.items()}
    deleted = {path for each in foreseen.values() for path in each.deleted}
    assert deleted == {path for path in images if path not in world.host.images()}
    assert any(each.changes for each in foreseen.values())


def test_a_domain_that_is_off_keeps_its_chain_in_a_backup() -> None:
    """An offline backup changes nothing of the domain; an offline commit does."""
    world = World(1)
    world.host.shut_off("web1")
    assert not any(each.changes for each in foresee(world.backup()))
    outlook = foresee(world.consolidation())[0]
    assert outlook.after == (OWN, TEMPLATE)
    assert outlook.written == {OWN}
    assert len(outlook.deleted) == 1


def test_steps_whose_end_is_not_known_change_nothing_that_is_foreseen() -> None:
    """A job that a killed run left, deleted overlays: the chain stays as it is in the picture."""
    plan = evolve(
        World(1).consolidation(),
        steps=(FinishBlockJob("vda", "commit"), DeleteOverlays((NEW,))),
    )
    assert all(each.before == each.after and not each.changes for each in foresee(plan))


def test_disks_that_a_plan_does_not_expect_are_left_out() -> None:
    """A plan that names chains of other disks in its steps has no outlook for them."""
    world = World(1)
    expects = evolve(world.backup().expects, disks=())
    assert foresee(evolve(world.backup(), expects=expects)) == ()
    assert foresee(evolve(world.consolidation(), expects=expects)) == ()


def test_rows_keep_the_order_of_both_chains() -> None:
    """New images come first, then those of now; so both columns of a picture are level."""
    outlook = DiskOutlook("vda", (NEW, OWN), (NEXT, OWN))
    assert outlook.rows == (NEXT, NEW, OWN)
    assert outlook.changes


# --- pictures -----------------------------------------------------------------------------------


def column(picture: Picture, title: str, section: int = 0) -> list[Box | None]:
    """Return a column of a section."""
    return next(list(c.boxes) for c in picture.sections[section].columns if c.title == title)


def shown(boxes: list[Box | None]) -> list[tuple[str, Change, str] | None]:
    """Return name, change and place."""
    return [None if box is None else (box.name, box.change, box.tag) for box in boxes]


def test_a_backup_is_seen_before_and_after() -> None:
    """A new active layer, what it freezes, and where that goes in the store."""
    world = World(1)
    plan = world.backup()
    found = plan.picture()
    old = world.domain.disks[0].chain
    assert old is not None
    top = old.active.path.name
    new = plan.copies[0].name
    assert shown(column(found, "now"))[:2] == [None, (top, Change.SAME, "active layer")]
    assert shown(column(found, "after"))[:2] == [
        (f"web1-vda.bimg-{plan.point}", Change.NEW, "active layer"),
        (top, Change.SAME, "frozen"),
    ]
    assert shown(column(found, "store")) == [
        None,
        (new, Change.NEW, "increment"),
        (plan.copies[0].backing, Change.SAME, "parent"),
    ]
    assert [(link.column, link.start, link.end) for link in found.sections[0].links] == [(1, 1, 1)]
    assert found.facts[0] == f"point {plan.point}"
    assert [row[0] for row in found.tables[1].rows] == [str(n + 1) for n in range(len(plan.steps))]


def test_a_full_shows_every_image_that_it_copies() -> None:
    """The first point copies the whole chain: one arrow for each image, and no parent."""
    found = World().backup().picture()
    assert shown(column(found, "store")) == [
        None,
        ("20261124T000000Z.qcow2", Change.NEW, "full"),
        ("20261124T000000Z-1.qcow2", Change.NEW, ""),
    ]
    assert [(link.start, link.end) for link in found.sections[0].links] == [(1, 1), (2, 2)]
    assert [box.tint for box in column(found, "store") if box] == [Tint.FULL, Tint.FULL]


def test_a_consolidation_shows_what_is_written_and_what_goes() -> None:
    """The base is written, overlays are deleted; after a pull the disk's own image stays behind."""
    world = World(2)
    found = column(world.consolidation().picture(), "after")
    assert [box.change for box in found if box] == [
        Change.GONE,
        Change.GONE,
        Change.WRITTEN,
        Change.SAME,
    ]
    assert [box.words[0] for box in found if box][:2] == ["is deleted", "is deleted"]
    pulled = column(
        world.consolidation(ConsolidationPolicy(method=Method.BLOCKPULL)).picture(), "after"
    )
    assert [(box.change, box.words[0]) for box in pulled if box] == [
        (Change.WRITTEN, "qcow2"),
        (Change.GONE, "is deleted"),
        (Change.GONE, "its file stays"),
        (Change.SAME, "qcow2"),
    ]


def test_sizes_are_those_that_the_plan_knows() -> None:
    """Copies have their estimate, qcow2 images the size of their file, raw ones none."""
    host = FakeHost()
    uuid = host.add_domain("web1", {"vda": {0: 1}}, image_format="raw")
    store = FakeStore(host)
    Executor(host, store).run(
        plan_backup(host.read_domain("web1"), store.read_history(uuid), now=NOW)
    )
    plan = plan_backup(host.read_domain("web1"), store.read_history(uuid), now=NOW)
    now = [box for box in column(plan.picture(), "now") if box]
    assert [box.size_bytes is None for box in now] == [False, True]
    full = World(1).backup(BackupPolicy(full=True))
    frozen = [box for box in column(full.picture(), "now") if box]
    assert all(box.size_bytes for box in frozen)
    commit = World(2).consolidation()
    assert next(box.size_bytes for box in column(commit.picture(), "now") if box) is None
    assert all(box.size_bytes for box in column(commit.picture(), "now")[1:] if box)


def test_an_offline_backup_has_no_after() -> None:
    """Nothing of the domain changes: the chain, and what the store gets."""
    world = World(1)
    world.host.shut_off("web1")
    found = world.backup().picture()
    assert [each.title for each in found.sections[0].columns] == ["now", "store"]
    assert [(link.column, link.start, link.end) for link in found.sections[0].links] == [(0, 0, 0)]
    Executor(world.host, world.store).run(world.backup())
    unchanged = world.backup().picture()
    assert [each.title for each in unchanged.sections[0].columns] == ["now, and after", "store"]
    parent = column(unchanged, "store")[0]
    assert parent is not None
    assert parent.words[1] == "nothing to copy"


def test_what_an_earlier_run_has_stored_is_not_new() -> None:
    """An image that a killed run has copied already is shown as it is, on its parent."""
    world = World(1)
    world.host.fail_at(1 + [*_calls(World(1))].index("publish"))
    with pytest.raises(Exception, match=r"."):
        Executor(world.host, world.store).run(world.backup())
    world.host.heal()
    found = world.backup().picture()
    store = [box for box in column(found, "store") if box]
    assert "stored by an earlier run" in {word for box in store for word in box.words}


def _calls(world: World) -> list[str]:
    begin = len(world.host.calls)
    Executor(world.host, world.store).run(world.backup())
    return world.host.calls[begin:]


def test_a_restore_shows_the_chain_that_becomes_one_image() -> None:
    """The stored images of a disk on the left, the image that is written on the right."""
    world = World(2)
    history = world.store.read_history(world.uuid)
    plan = plan_restore(history, "latest", into=PurePosixPath("/restored"), disks=("vda",))
    section: Section = plan.picture().sections[0]
    assert [box.tag for box in section.columns[0].boxes if box] == [
        "increment",
        "full",
        "",
    ]
    assert shown(list(section.columns[1].boxes)) == [("vda.qcow2", Change.NEW, "qcow2")]
    report = Executor(world.host, world.store).run(plan)
    assert report.picture().tables[1].rows[0][:2] == ("vda", "/restored/vda.qcow2")
    assert report.picture().facts[1:] == ()


def test_a_report_shows_what_was_done() -> None:
    """Sizes are those that were stored; each step has its time."""
    world = World(1)
    report = Executor(world.host, world.store).run(world.backup())
    found = report.picture()
    assert report.point is not None
    stored = column(found, "store")[1]
    assert stored is not None
    assert stored.size_bytes == report.point.disks[0].images[0].size_bytes
    assert stored.words[0] == ""
    assert len(found.tables[0].rows) == len(report.steps)
    assert [each.title for each in found.sections[0].columns] == ["before", "after", "store"]
    assert "copied" in found.facts[2]
    assert "frozen" in found.facts[3]


def test_a_plan_without_chains_is_a_list_of_steps() -> None:
    """Steps that have no picture are told in the table."""
    plan = World(1).consolidation()
    plan = evolve(plan, steps=(EachDisk(()),), expects=evolve(plan.expects, disks=()))
    assert plan.picture().sections == ()
    assert plan.picture().tables[1].rows == (("1", "consolidate 0 disks:"),)


def test_whose_an_image_is_needs_a_ledger() -> None:
    """Without any ledger in the plan no image is called ours."""
    plan = World(1).consolidation()
    blind = evolve(plan, expects=evolve(plan.expects, ledger=None))
    assert {box.tint for box in column(blind.picture(), "now") if box} == {Tint.OTHER}
    assert isinstance(plan.expects.ledger, Ledger)
    assert not any(isinstance(step, TakeSnapshot) for step in plan.steps)


def test_a_restored_chain_is_a_copy_image_by_image() -> None:
    """As a chain, each stored image has its copy beside it, on the same backing."""
    world = World(2)
    history = world.store.read_history(world.uuid)
    plan = plan_restore(
        history, "latest", into=PurePosixPath("/r"), disks=("vda",), form=RestoreForm.CHAIN
    )
    section = plan.picture().sections[0]
    assert [(link.start, link.end) for link in section.links] == [(0, 0), (1, 1), (2, 2)]
    copies = [box for box in section.columns[1].boxes if box]
    assert [(box.change, box.on) for box in copies] == [
        (Change.NEW, 1),
        (Change.NEW, 2),
        (Change.NEW, None),
    ]
    assert copies[0].hint == (f"/r/vda/{copies[0].name}",)


def test_a_linked_restore_lies_on_the_store() -> None:
    """Linked, the new overlay stands beside the stored image that it lies on."""
    world = World(1)
    history = world.store.read_history(world.uuid)
    plan = plan_restore(
        history, "latest", into=PurePosixPath("/r"), disks=("vda",), form=RestoreForm.LINKED
    )
    section = plan.picture().sections[0]
    assert [each.title for each in section.columns] == ["restored", "store"]
    assert section.links == (Link(0, 0, 0, LinkKind.SITS_ON),)
