"""Facts about restore points and the history of a domain in a store."""

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePosixPath

import pytest
from attrs import evolve
from typing_extensions import override

from fibackup.errors import ManifestError, ModelError, NoSuchPointError, StoreError
from fibackup.model.chain import FileIdentity
from fibackup.model.point import (
    Consistency,
    DiskKind,
    FileRole,
    History,
    PointDisk,
    Receipt,
    RestorePoint,
    SourceImage,
    StoredFile,
    StoredImage,
    format_point_id,
    is_point_id,
    parse_point_id,
)

UUID = "0f6b2b2e-5b1f-4a5c-9d5e-000000000001"
STORE = "5702e000-0000-4000-8000-000000000001"
FIRST, SECOND = "20261124T040000Z", "20261125T040000Z"
XML = StoredFile(FileRole.DOMAIN_XML, f"{FIRST}.xml", 3, "b" * 64)
TIME = datetime(2026, 11, 24, 4, tzinfo=UTC)


def stored(name: str, backing: str | None = None) -> StoredImage:
    """Return a stored image of 64 KiB."""
    source = SourceImage("/i/disk.qcow2", "qcow2", FileIdentity(1, 65536, 1))
    return StoredImage(f"{name}.qcow2", "qcow2", 65536, "a" * 64, 1 << 20, backing, source)


def point(
    name: str, sequence: int = 1, *, on: str | None = None, backing: str | None = None
) -> RestorePoint:
    """Return a point of one disk, lying on point *on*."""
    under = backing if backing is not None else f"{on}.qcow2" if on else None
    kind = DiskKind.INCREMENT if on else DiskKind.FULL
    disk = PointDisk("vda", kind, "why", on, 1 << 20, (stored(name, under),))
    return RestorePoint(
        id=name,
        sequence=sequence,
        parent=on,
        store=STORE,
        time=TIME,
        domain="web1",
        uuid=UUID,
        consistency=Consistency.CRASH,
        consistency_detail="",
        files=(XML,),
        disks=(disk,),
        skipped=(("sda", "cdrom"),),
    )


def history(*points: RestorePoint, damaged: frozenset[str] = frozenset()) -> History:
    """Return a store's history of the domain."""
    return History(STORE, PurePosixPath("/backup"), UUID, points, damaged=damaged)


BOTH = history(point(FIRST), point(SECOND, 2, on=FIRST))


def test_an_id_is_the_time_in_utc() -> None:
    """Any aware time gives the same id for the same moment, without fractions."""
    there = timezone(timedelta(hours=2))
    moment = datetime(2026, 11, 24, 6, 4, 7, 999, tzinfo=there)
    assert format_point_id(moment) == "20261124T040407Z"
    assert parse_point_id("20261124T040407Z") == moment.replace(microsecond=0)


def test_a_naive_time_names_no_point() -> None:
    """It could be any of 27 moments."""
    with pytest.raises(ModelError, match="time zone"):
        format_point_id(datetime(2026, 11, 24))  # noqa: DTZ001


@pytest.mark.parametrize("text", ["", "latest", "20261399T000000Z", "20261124T040407", "x" * 16])
def test_an_id_that_is_no_time_is_refused(text: str) -> None:
    """Wrong shape or impossible date."""
    with pytest.raises(ModelError, match="not the id"):
        parse_point_id(text)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-rf", "a\0b"])
def test_a_stored_name_is_a_plain_file_name(name: str) -> None:
    """No name in a store leads out of its directory, or looks like an option."""
    with pytest.raises(ModelError, match="plain file name"):
        StoredFile(FileRole.NVRAM, name, 1, "a" * 64)


@pytest.mark.parametrize("digest", ["", "A" * 64, "a" * 63])
def test_a_digest_is_64_lower_case_digits(digest: str) -> None:
    """Two spellings of one digest would never be equal."""
    with pytest.raises(ModelError, match="sha256"):
        StoredFile(FileRole.NVRAM, "a", 1, digest)


@pytest.mark.parametrize("backing", ["", ".", "..", "/abs", "a/b", f"{FIRST}.qcow2"])
def test_a_backing_name_is_another_file_of_the_same_directory(backing: str) -> None:
    """Paths, empty names and the image itself are refused."""
    with pytest.raises(ModelError, match="backing file"):
        stored(FIRST, backing)


def test_a_receipt_is_for_a_disk_target() -> None:
    """The target becomes a directory's name."""
    with pytest.raises(ModelError, match="target"):
        Receipt("../x", stored(FIRST))


@pytest.mark.parametrize(
    ("kind", "parent", "images", "words"),
    [
        (DiskKind.FULL, None, (), "without an image"),
        (DiskKind.FULL, None, (stored(SECOND, "other.qcow2"), stored(FIRST)), "not on"),
        (DiskKind.FULL, FIRST, (stored(FIRST),), f"on point {FIRST}"),
        (DiskKind.FULL, None, (stored(SECOND, "x.qcow2"),), r"image on x\.qcow2"),
        (DiskKind.INCREMENT, None, (stored(SECOND, "x.qcow2"),), "on point None"),
        (DiskKind.INCREMENT, FIRST, (stored(SECOND),), "image on None"),
    ],
)
def test_a_disk_of_a_point_agrees_with_its_images(
    kind: DiskKind, parent: str | None, images: tuple[StoredImage, ...], words: str
) -> None:
    """Images lie on each other, a full on nothing, an increment on a parent."""
    with pytest.raises(ModelError, match=words):
        PointDisk("vda", kind, "why", parent, 0, images)


def test_a_point_without_disks_or_with_one_twice_is_refused() -> None:
    """A point brings something back, and each disk once."""
    one = point(FIRST)
    for disks in ((), (one.disks[0], one.disks[0])):
        with pytest.raises(ModelError, match="a point of the disks"):
            evolve(one, disks=disks)


def test_a_point_has_the_xml_and_no_role_twice() -> None:
    """Without its XML a domain cannot be defined again."""
    for files in ((), (XML, XML)):
        with pytest.raises(ModelError, match="with the files"):
            evolve(point(FIRST), files=files)


def test_the_time_of_a_point_has_a_zone() -> None:
    """A naive time is refused."""
    with pytest.raises(ModelError, match="time zone"):
        evolve(point(FIRST), time=datetime(2026, 11, 24))  # noqa: DTZ001


def test_a_point_is_full_when_every_disk_is() -> None:
    """One increment makes it an increment."""
    assert point(FIRST).kind is DiskKind.FULL
    assert point(SECOND, 2, on=FIRST).kind is DiskKind.INCREMENT
    assert point(FIRST).size_bytes == 65536


def test_a_point_finds_its_disks_by_target() -> None:
    """An unknown target is an error that names the known ones."""
    assert point(FIRST).disk("vda").target == "vda"
    with pytest.raises(NoSuchPointError, match="it has: vda"):
        point(FIRST).disk("vdb")


def test_a_history_finds_points_by_id_and_the_latest() -> None:
    """`latest` is the newest by sequence; an unknown id is an error that names the newest."""
    assert BOTH.point("latest").id == SECOND
    assert BOTH.point(FIRST).id == FIRST
    assert (BOTH.latest, BOTH.find("x")) == (BOTH.points[1], None)
    with pytest.raises(NoSuchPointError) as caught:
        BOTH.point("x")
    assert str(caught.value) == f"no point x (the newest are: {FIRST}, {SECOND}): {BOTH.path}"
    with pytest.raises(NoSuchPointError, match="the newest are: none"):
        history().point("latest")
    assert history().latest is None


def test_the_images_of_a_disk_reach_down_to_a_base() -> None:
    """They are followed by name through the points, top first."""
    names = [image.name for image in BOTH.images(SECOND, "vda")]
    assert names == [f"{SECOND}.qcow2", f"{FIRST}.qcow2"]


class Watched(tuple[RestorePoint, ...]):
    """Points that count how often they are gone through."""

    __slots__ = ()
    walks = 0

    @override
    def __iter__(self) -> Iterator[RestorePoint]:
        type(self).walks += 1
        return super().__iter__()


def test_a_question_to_a_history_does_not_go_through_all_points() -> None:
    """A list or a plan asks once for each of ten thousand points."""
    asked = History(STORE, PurePosixPath("/backup"), UUID, Watched(BOTH.points))
    Watched.walks = 0
    for each in (FIRST, SECOND):
        assert asked.find(each) == asked.point(each)
        assert asked.top(each, "vda").name == f"{each}.qcow2"
        assert asked.images(each, "vda") == BOTH.images(each, "vda")
        assert asked.damage(each, "vda") is None
    assert asked.find("20261126T040000Z") is None
    assert Watched.walks == 0


def test_histories_are_equal_when_their_points_are() -> None:
    """What is kept beside them to answer quickly does not count, nor does it show."""
    same = evolve(BOTH, points=tuple(BOTH.points))
    assert (same, hash(same), repr(same)) == (BOTH, hash(BOTH), repr(BOTH))
    assert "_by_id" not in repr(same)
    assert evolve(BOTH, points=BOTH.points[:1]).find(SECOND) is None
    assert pickle.loads(pickle.dumps(same)) == BOTH  # noqa: S301 - it is our own


def test_a_backing_name_that_leads_nowhere_is_an_error() -> None:
    """The manifest of the point below is gone."""
    with pytest.raises(ManifestError, match="which no point names"):
        history(point(SECOND, 2, on=FIRST)).images(SECOND, "vda")


def test_backing_names_that_lead_in_a_circle_are_an_error() -> None:
    """Following them ends."""
    one = point(FIRST, 1, on="20261123T040000Z", backing=f"{SECOND}.qcow2")
    with pytest.raises(ManifestError, match="which no point names"):
        history(one, point(SECOND, 2, on=FIRST)).images(SECOND, "vda")


def test_damage_below_a_point_is_damage_of_the_point() -> None:
    """The first image from the top that is missing or cut is named."""
    lost = history(*BOTH.points, damaged=frozenset({f"vda/{FIRST}.qcow2"}))
    assert lost.damage(SECOND, "vda") == f"vda/{FIRST}.qcow2"
    assert BOTH.damage(SECOND, "vda") is None


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ((point(FIRST, 2), point(SECOND, 1)), "share a place"),
        ((point(FIRST, 1), point(SECOND, 1)), "share a place"),
        ((point(FIRST, 1), point(FIRST, 2)), "share a place"),
        ((evolve(point(FIRST), uuid=STORE),), "another domain"),
        ((evolve(point(FIRST), store=UUID),), "another domain or store"),
    ],
)
def test_a_history_that_cannot_be_is_refused(points: tuple[RestorePoint, ...], words: str) -> None:
    """Points are in order, have ids of their own, and are of this domain and store."""
    with pytest.raises(ManifestError, match=words):
        history(*points)


def test_points_print_their_disks_and_what_is_left_out() -> None:
    """One line for the point, one for each disk; an empty history says so."""
    text = str(BOTH)
    assert f"{SECOND} #2 increment crash 64 KiB" in text
    assert f"  vda increment on {FIRST} 64 KiB: why" in text
    assert "sda not in the point: cdrom" in text
    assert str(history()) == "no points"


def test_a_long_reason_is_folded_between_words() -> None:
    """No line of a printed point is wider than a hundred columns, and no word is lost."""
    reason = " ".join(f"word{number}" for number in range(40))
    one = point(FIRST)
    long = evolve(one, disks=(evolve(one.disks[0], reason=reason),), skipped=(("sda", reason),))
    lines = str(long).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) > 5
    assert " ".join(str(long).split()).count(reason) == 2


def test_a_disk_that_did_not_change_shows_the_image_of_its_parent() -> None:
    """A point without an image of a disk reads as the point that it names."""
    first = point(FIRST)
    second = evolve(
        point(SECOND, 2),
        disks=(
            PointDisk(
                "vda", DiskKind.INCREMENT, "nothing was written", first.id, 1 << 20, images=()
            ),
        ),
    )
    both = history(first, second)
    assert both.top(second.id, "vda") == first.disks[0].images[0]
    assert both.images(second.id, "vda") == both.images(first.id, "vda")


def test_a_disk_without_an_image_needs_its_parent() -> None:
    """Where the parent is missing the point cannot be read."""
    orphan = evolve(
        point(SECOND, 2),
        disks=(PointDisk("vda", DiskKind.INCREMENT, "unchanged", "20200101T000000Z", 1, ()),),
    )
    with pytest.raises(ManifestError, match="which is not there"):
        history(orphan).top(orphan.id, "vda")


def test_points_that_lie_on_each_other_in_a_circle_are_refused() -> None:
    """Two points that both say "as at the other one" lead nowhere."""
    a, b = point(FIRST), point(SECOND, 2)
    a = evolve(a, disks=(PointDisk("vda", DiskKind.INCREMENT, "as b", b.id, 1, ()),))
    b = evolve(b, disks=(PointDisk("vda", DiskKind.INCREMENT, "as a", a.id, 1, ()),))
    with pytest.raises(ManifestError):
        history(a, b).top(b.id, "vda")


def test_a_point_with_a_damaged_manifest_is_told_from_one_that_never_was() -> None:
    """The first is a ManifestError that names the file, the second a NoSuchPointError."""
    file = "20261124T040407Z.json"
    damaged = evolve(history(), directory="web1-x", unreadable=((file, "the checksum is wrong"),))
    with pytest.raises(ManifestError, match="checksum") as caught:
        damaged.point("20261124T040407Z")
    assert caught.value.path == f"/backup/web1-x/{file}"
    with pytest.raises(NoSuchPointError):
        damaged.point("20261124T040408Z")


def test_the_next_place_in_the_order_leaves_room_for_damaged_points() -> None:
    """A damaged manifest that is repaired must not meet another point with its number."""
    damaged = evolve(history(point(FIRST)), unreadable=(("x.json", "damaged"),))
    assert damaged.next_sequence == 3
    assert evolve(damaged, lost=("20261125T040407Z",)).next_sequence == 4
    orphans = frozenset({"vda/20261126T040407Z.qcow2", "vdb/20261126T040407Z-1.qcow2"})
    assert evolve(damaged, orphans=orphans).next_sequence == 4


def test_a_point_whose_manifest_is_gone_is_told_from_one_that_never_was() -> None:
    """It was published, so its absence is damage."""
    lost = evolve(history(point(FIRST)), lost=("20261125T040407Z",))
    with pytest.raises(ManifestError, match="the manifest of point 20261125T040407Z is gone"):
        lost.point("20261125T040407Z")
    with pytest.raises(NoSuchPointError):
        lost.point("20261126T040407Z")


def test_the_latest_point_is_none_that_is_older_than_one_that_cannot_be_read() -> None:
    """Who asks for it gets what is wrong, and the point before it."""
    found = history(point(FIRST))
    older, newer = "20201124T040407Z", "20261126T040407Z"
    for damage, reason in (
        (evolve(found, lost=(newer, older)), "it is gone"),
        (evolve(found, unreadable=((f"{newer}.json", "not JSON"),)), "not JSON"),
    ):
        words = (
            rf"the latest point is {newer}, .* cannot be read \({reason}\): .*{found.points[0].id}"
        )
        with pytest.raises(ManifestError, match=words) as caught:
            damage.point("latest")
        assert str(caught.value.path).endswith(f"{newer}.json")
        assert damage.point(found.points[0].id) == found.points[0]
    assert evolve(found, lost=(older,)).point("latest") == found.points[0]


@pytest.mark.parametrize(("text", "good"), [("20261124T040407Z", True), ("20261124T0404Z", False)])
def test_a_point_is_told_by_the_form_of_its_id(text: str, *, good: bool) -> None:
    """Eight digits, T, six digits, Z."""
    assert is_point_id(text) is good


def test_what_may_be_a_copy_is_refused() -> None:
    """Both directories are named, the one that is read twice, and what helps."""
    BOTH.refuse_copies()
    assert BOTH.doubt == ""
    doubtful = evolve(BOTH, directory="old-web1", copies=("web1",))
    with pytest.raises(StoreError) as caught:
        doubtful.refuse_copies()
    assert caught.value.reason == doubtful.doubt
    assert ": old-web1, web1; only old-web1 is read: move the copy out" in doubtful.doubt
