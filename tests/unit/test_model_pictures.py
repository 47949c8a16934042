"""Facts about the pictures of models: whose images are, what is a copy, and what is on what."""

from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.host.executor import Executor
from fibackup.model.chain import BackingChain, Image
from fibackup.model.domain import Disk, Domain
from fibackup.model.ledger import Ledger, Overlay, Run
from fibackup.model.pictures import draw_chains, draw_history, live_boxes, picture_chains
from fibackup.model.point import History
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy
from fibackup.render.scene import Box, LinkKind, Section, Tint
from fibackup.testing import FakeHost, FakeStore

TEMPLATE = PurePosixPath("/images/template.qcow2")
START = datetime(2026, 11, 24, tzinfo=UTC)
MINE = PurePosixPath("/i/disk.bimg-20261124T000000Z")
OLDER = PurePosixPath("/i/disk.bimg-20261123T000000Z")
OWN, BASE = PurePosixPath("/i/disk.qcow2"), PurePosixPath("/i/template.qcow2")
STORE = "5702e000-0000-4000-8000-000000000001"


class World:
    """A domain with points in a store."""

    def __init__(self, points: int = 0, *, consolidate: bool = False) -> None:
        """Make both, and take the points, one a day."""
        self.host = FakeHost()
        self.host.add_image(TEMPLATE, {0: 1})
        self.uuid = self.host.add_domain("web1", {"vda": {1: 2}}, template=TEMPLATE)
        self.store = FakeStore(self.host)
        self.policy = BackupPolicy(consolidate=consolidate)
        for day in range(points):
            self.backup(day)
            self.host.write("web1", "vda", day, 7 + day)

    def backup(self, day: int) -> None:
        """Take a point."""
        plan = plan_backup(self.domain, self.history, now=self.day(day), policy=self.policy)
        Executor(self.host, self.store).run(plan)

    @staticmethod
    def day(day: int) -> datetime:
        """Return a time."""
        return START + timedelta(days=day)

    @property
    def domain(self) -> Domain:
        """The domain as it is."""
        return self.host.read_domain("web1")

    @property
    def history(self) -> History:
        """What the store holds."""
        return self.store.read_history(self.uuid)

    def section(self) -> Section:
        """Return the section of the disk."""
        return picture_chains(self.domain, self.history).sections[0]


def boxes(section: Section, column: int = 0) -> list[Box]:
    """Return the images of a column, without the empty places."""
    return [box for box in section.columns[column].boxes if box is not None]


def arrows(section: Section, kind: LinkKind = LinkKind.COPY) -> list[tuple[str, str]]:
    """Return the names at both ends of the arrows of a kind."""
    left, right = (column.boxes for column in section.columns)
    out = []
    for link in section.links:
        start, end = left[link.start], right[link.end]
        assert start is not None
        assert end is not None
        if link.kind is kind:
            out.append((start.name, end.name))
    return out


# --- live chains --------------------------------------------------------------------------------


def chain(*paths: PurePosixPath) -> BackingChain:
    """Return a chain of qcow2 images."""
    return BackingChain("vda", tuple(Image(path, "qcow2", 1 << 30, 4096) for path in paths))


def overlay(path: PurePosixPath, below: PurePosixPath, *, stale: bool = False) -> Overlay:
    """Return the entry of an overlay of ours, which sits on the point in its name."""
    return Overlay("vda", path, below, path.name[-16:], STORE, stale=stale)


def test_a_chain_alone_says_nothing_of_whose_it_is() -> None:
    """Without a ledger no image is ours and none is foreign; places and sizes are told."""
    section = chain(MINE, OWN).picture().sections[0]
    assert [
        (box.name, box.tint, box.tag, box.active, box.size_bytes) for box in boxes(section)
    ] == [
        (MINE.name, Tint.PLAIN, "active layer", True, 4096),
        (OWN.name, Tint.PLAIN, "base", False, 4096),
    ]
    assert chain(OWN).picture().facts == ("1 GiB virtual",)
    assert BackingChain("vda", (Image(OWN, "raw"),)).picture().facts == ()


def test_the_ledger_says_what_is_ours() -> None:
    """An overlay in the ledger is ours; one that is only named so is not, and that is said."""
    found = live_boxes(chain(MINE, OLDER, OWN), Ledger((overlay(MINE, OLDER),)))
    assert [box.tint for box in found] == [Tint.OURS, Tint.OTHER, Tint.OTHER]
    assert found[0].words == ("qcow2", "ours")
    assert found[1].words == ("qcow2", "named like ours, not in the ledger")
    assert found[2].words == ("qcow2", "template: only read")


def test_the_template_under_the_disks_own_image_is_only_read() -> None:
    """What lies under the image on which our oldest overlay was made is never written."""
    ledger = Ledger((overlay(MINE, OLDER), overlay(OLDER, OWN)))
    found = live_boxes(chain(MINE, OLDER, OWN, BASE), ledger)
    assert [box.words[-1] for box in found] == ["ours", "ours", "qcow2", "template: only read"]
    assert [box.tag for box in found] == ["active layer", "frozen", "frozen", "base"]


def test_an_overlay_that_lies_elsewhere_now_makes_no_template() -> None:
    """When the disk's own image has left the chain, nothing is called a template."""
    found = live_boxes(chain(MINE, BASE), Ledger((overlay(MINE, OWN),)))
    assert [box.words for box in found] == [("qcow2", "ours"), ("qcow2",)]


def test_an_overlay_tells_its_point_and_its_doubt() -> None:
    """The point is told where the name does not; a stale or freed overlay says so."""
    entry = overlay(MINE, OWN)
    assert live_boxes(chain(MINE, OWN), Ledger((evolve(entry, point="20260101T000000Z"),)))[
        0
    ].words == ("qcow2", "ours", "on 20260101T000000Z")
    assert live_boxes(chain(MINE, OWN), Ledger((evolve(entry, stale=True),)))[0].words == (
        *("qcow2", "ours", "its proof is gone"),
    )
    assert (
        "to be deleted"
        in live_boxes(chain(MINE, OWN), Ledger((evolve(entry, freed=True),)))[0].words
    )


def test_what_one_points_at_tells_all() -> None:
    """The whole path, the sizes, a writer, and the point that an overlay sits on."""
    image = Image(MINE, "qcow2", 1 << 30, 4096, being_written=True, problem="cut")
    box = live_boxes(BackingChain("vda", (image,)), Ledger((overlay(MINE, OWN),)))[0]
    assert box.problem == "cut"
    assert box.hint == (
        f"{MINE} (qcow2)",
        "4 KiB allocated",
        "1 GiB virtual",
        "a process has it open for writing",
        f"sits on point 20261124T000000Z of store {STORE}",
    )
    assert live_boxes(BackingChain("vda", (Image(MINE, "raw"),)), None)[0].hint == (
        f"{MINE} (raw)",
    )


# --- side by side -------------------------------------------------------------------------------


def test_arrows_lead_from_images_to_their_copies() -> None:
    """Every frozen image that is stored has an arrow to its copy, and the arrows are level."""
    section = World(2).section()
    names = [box.name for box in boxes(section)]
    assert arrows(section) == [
        (names[1], "20261125T000000Z.qcow2"),
        (names[2], "20261124T000000Z.qcow2"),
        (names[3], "20261124T000000Z-1.qcow2"),
    ]
    assert all(link.start == link.end for link in section.links if link.kind is LinkKind.COPY)
    assert arrows(section, LinkKind.SITS_ON) == [(names[0], "20261125T000000Z.qcow2")]


def test_an_image_that_was_written_since_has_no_arrow() -> None:
    """After a rolling consolidation no live image is a copy; the active layer has its point."""
    section = World(3, consolidate=True).section()
    assert len(boxes(section)) == 3
    assert arrows(section) == [("template.qcow2", "20261124T000000Z-1.qcow2")]
    assert arrows(section, LinkKind.SITS_ON) == [
        ("web1-vda.bimg-20261126T000000Z", "20261126T000000Z.qcow2")
    ]


def test_a_stale_overlay_sits_on_no_point() -> None:
    """When the proof is gone, the picture does not claim it; nor for another store."""
    world = World(1)
    ledger = world.domain.ledger
    for changed in (
        evolve(ledger.overlays[0], stale=True),
        evolve(ledger.overlays[0], store=STORE[:-1] + "9"),
    ):
        domain = evolve(world.domain, ledger=evolve(ledger, overlays=(changed,)))
        found = picture_chains(domain, world.history).sections[0]
        assert arrows(found, LinkKind.SITS_ON) == []


def test_a_point_that_the_store_does_not_have_is_not_pointed_at() -> None:
    """An overlay whose point was removed from the store has no arrow, and nothing is lowered."""
    world = World(2)
    history = evolve(world.history, points=world.history.points[:1])
    section = picture_chains(world.domain, history).sections[0]
    assert arrows(section, LinkKind.SITS_ON) == []
    assert section.columns[1].boxes[:2] == (None, None)


def test_a_store_with_newer_points_lowers_the_live_chain() -> None:
    """Where the copies are further down in the store, the live chain begins lower."""
    world = World(2)
    old = world.domain
    world.backup(2)
    world.host.write("web1", "vda", 0, 99)
    world.backup(3)
    section = picture_chains(old, world.history).sections[0]
    assert section.columns[0].boxes[0] is None
    assert all(link.start == link.end for link in section.links if link.kind is LinkKind.COPY)


def test_chains_that_are_far_apart_are_not_levelled() -> None:
    """For an arrow over many places the columns stay at the top."""
    world = World(1)
    old = world.domain
    for day in range(1, 9):
        world.host.write("web1", "vda", 0, 50 + day)
        world.backup(day)
    section = picture_chains(old, world.history).sections[0]
    assert section.columns[0].boxes[0] is not None
    assert section.columns[1].boxes[0] is not None


def test_stored_chains_begin_anew_with_each_full() -> None:
    """An increment lies on the image that it names; a full lies on nothing."""
    world = World(2)
    world.policy = BackupPolicy(full=True)
    world.backup(2)
    found = boxes(world.section(), 1)
    lowered = len(world.section().columns[1].boxes) - len(found)
    assert [
        (box.name, box.tag, None if box.on is None else found[box.on - lowered].name)
        for box in found
    ][-3:] == [
        ("20261125T000000Z.qcow2", "increment", "20261124T000000Z.qcow2"),
        ("20261124T000000Z.qcow2", "full", "20261124T000000Z-1.qcow2"),
        ("20261124T000000Z-1.qcow2", "", None),
    ]
    assert found[0].tag == "full"
    assert found[3].on is None


def test_a_point_in_which_nothing_was_written_is_seen() -> None:
    """A domain that is off, unchanged: the point has a place, on its parent's image."""
    world = World(1)
    world.host.shut_off("web1")
    world.backup(1)
    world.backup(2)
    found = world.history.picture().sections[0].columns[0].boxes
    assert [(b.name, b.tag, b.on) for b in found if b][:3] == [
        ("20261126T000000Z", "unchanged", 1),
        ("20261125T000000Z.qcow2", "increment", 2),
        ("20261124T000000Z.qcow2", "full", 3),
    ]
    assert arrows(world.section())[0][1] == "20261125T000000Z.qcow2"
    point = world.history.points[-1].picture().sections[0]
    assert [b.name for b in boxes(point)] == ["20261126T000000Z", "20261125T000000Z"]


def test_trouble_in_a_store_is_seen() -> None:
    """Damaged images are marked; damaged manifests and files that no point names are told."""
    world = World(1)
    world.store.damage(world.uuid, "vda", "20261124T000000Z.qcow2")
    history = evolve(
        world.history,
        damaged=frozenset({"vda/20261124T000000Z.qcow2"}),
        unclaimed=frozenset({"vda/left.qcow2"}),
        unreadable=(("20261101T000000Z.json", "not JSON"),),
    )
    seen = picture_chains(world.domain, history)
    assert boxes(seen.sections[0], 1)[0].problem == "missing, or cut short"
    assert seen.notes == history.picture().notes
    assert [note.split(":")[0] for note in seen.notes] == [
        "the manifest 20261101T000000Z.json is damaged",
        "missing or cut short",
        "files that no point names",
    ]


# --- domains ------------------------------------------------------------------------------------


def test_disks_without_a_chain_say_why() -> None:
    """A cdrom, an empty drive, a network disk: one line each; a job is told beside the chain."""
    disks = (
        Disk("vda", chain=chain(OWN), block_job="commit"),
        Disk("vdb", source_type="network"),
        Disk("sda", device="cdrom"),
    )
    found = Domain("web1", "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a", disks=disks).picture()
    assert found.sections[0].note == "1 GiB virtual, a block job runs: commit"
    assert [each.note for each in found.sections[1:]] == [
        "no chain: network: only disks that are files have a backing chain to copy",
        "no chain: cdrom",
    ]
    assert all(not each.columns for each in found.sections[1:])


def test_a_disk_that_the_domain_has_no_more_is_seen_in_the_store() -> None:
    """Stored images of a disk that was taken away, or that is another kind now, are drawn."""
    world = World(1)
    world.host.attach_disk("web1", "vdb", {0: 1})
    world.backup(1)
    world.host.set_disk("web1", Disk("vda", source_type="network"))
    world.host.detach_disk("web1", "vdb")
    domain = evolve(world.domain, disks=(Disk("vda", source_type="network"),))
    found = picture_chains(domain, world.history)
    assert [(each.title, each.columns[0].note[:8]) for each in found.sections] == [
        ("vda", "no chain"),
        ("vdb", "the doma"),
    ]
    assert len(boxes(found.sections[0], 1)) == 3
    unknown = evolve(
        domain, disks=(*domain.disks, Disk("vdc", chain=evolve(chain(OWN), target="vdc")))
    )
    assert (
        picture_chains(unknown, world.history).sections[1].columns[1].note == "nothing of this disk"
    )


def test_a_domain_tells_what_is_under_way() -> None:
    """A run that has not ended, a managed-save image and libvirt's snapshots are told."""
    domain = evolve(
        World().domain,
        ledger=Ledger(run=Run("20261124T000000Z", STORE)),
        managed_save=True,
        snapshots=("before upgrade",),
    )
    assert domain.picture().notes == (
        "a run has not ended: point 20261124T000000Z (intent)",
        "the domain has a managed-save image",
        "libvirt keeps snapshots: before upgrade",
    )


# --- points and histories -----------------------------------------------------------------------


def test_a_point_shows_what_it_added_on_what() -> None:
    """Its images, the parent's image under them, and its other facts in a table."""
    world = World(2)
    world.host.set_disk("web1", Disk("sda", device="cdrom"))
    world.backup(2)
    found = world.history.points[-1].picture()
    assert [(box.name, box.tag) for box in boxes(found.sections[0])] == [
        ("20261126T000000Z.qcow2", "increment"),
        ("20261125T000000Z.qcow2", "parent"),
    ]
    rows = {row[0]: row[1] for row in found.tables[0].rows}
    assert rows["parent"] == "20261125T000000Z"
    assert rows["time"].endswith(" UTC")
    assert rows["vda"] == "increment: ledger, chain and store agree on point 20261125T000000Z"
    assert rows["sda"] == "not in the point: cdrom"
    assert rows["consistency"] == "application"
    first = evolve(world.history.points[0], consistency_detail="no agent", warnings=("careful",))
    assert ("consistency", "application: no agent") in first.picture().tables[0].rows
    assert first.picture().notes == ("careful",)
    assert len(boxes(first.picture().sections[0])) == 2


def test_a_history_shows_every_point() -> None:
    """Chains as pictures, points as a table; a store without a point is no error."""
    world = World(2)
    found = world.history.picture()
    assert found.title == "web1"
    assert found.facts[0].startswith("2 points, ")
    assert [row[0] for row in found.tables[0].rows] == ["20261124T000000Z", "20261125T000000Z"]
    empty = evolve(world.history, points=())
    assert empty.picture().title == world.uuid
    assert empty.picture().facts[0] == "0 points, 0 B"
    assert evolve(empty, points=world.history.points[:1]).picture().facts[0].startswith("1 point, ")


def test_a_full_is_drawn_on_nothing() -> None:
    """What a point lies on says its disks, not which point was taken before it."""
    world = World(3)
    points = world.history.points
    disk = points[0].disks[0]
    again = evolve(points[2], disks=(evolve(disk, images=(evolve(disk.images[-1], name="a"),)),))
    found = evolve(world.history, points=(*points[:2], again))
    ends = [line.split()[-1] for line in draw_history(found).splitlines()]
    assert ends == ["on", "-", points[0].id, "-"]


@pytest.mark.parametrize("width", [60, 100])
def test_drawings_for_the_terminal_keep_their_width(width: int) -> None:
    """Chains side by side, and the table of points, are as wide as they may be."""
    world = World(3)
    world.host.set_disk("web1", Disk("sda", device="cdrom"))
    for text in (
        draw_chains(world.domain, world.history, width=width),
        draw_history(world.history, width=width),
    ):
        assert max(map(len, text.splitlines())) <= width
    assert "web1-vda.bimg-20261126T000000Z" in draw_chains(world.domain, world.history)
    assert draw_history(world.history).splitlines()[1].split()[:3] == [
        "20261124T000000Z",
        "1",
        "full",
    ]
