"""What qemu-img prints as JSON."""

from __future__ import annotations

import json

import pytest

from fibackup.errors import ParseError
from fibackup.parse.qemu_img_json import (
    CheckResult,
    Extent,
    ImageInfo,
    is_stale_count,
    parse_check,
    parse_image_info,
    parse_map,
)

INFO = {
    "virtual-size": 4194304,
    "filename": "/i/top.qcow2",
    "cluster-size": 65536,
    "format": "qcow2",
    "actual-size": 200704,
    "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}},
    "full-backing-filename": "/i/base.qcow2",
    "backing-filename": "base.qcow2",
    "backing-filename-format": "qcow2",
    "dirty-flag": False,
}
CHECK = {"filename": "/i/top.qcow2", "format": "qcow2", "check-errors": 0, "total-clusters": 64}


def test_an_image_is_read() -> None:
    """Every field that is used is read; keys that are not used may be there."""
    assert parse_image_info(json.dumps(INFO)) == (
        ImageInfo(
            filename="/i/top.qcow2",
            format="qcow2",
            virtual_size_bytes=4194304,
            actual_size_bytes=200704,
            backing_filename="base.qcow2",
            full_backing_filename="/i/base.qcow2",
            backing_format="qcow2",
            cluster_bytes=65536,
        ),
    )


def test_a_chain_is_read_in_order() -> None:
    """A list is a chain, the active layer first; what is left out is None."""
    base = {"filename": "/i/base.raw", "format": "raw", "virtual-size": 7, "encrypted": True}
    found = parse_image_info(json.dumps([INFO, base]))
    assert found[1] == ImageInfo("/i/base.raw", "raw", 7, encrypted=True)


@pytest.mark.parametrize(
    ("change", "where", "reason"),
    [
        ({"filename": None}, "info.filename", "missing"),
        ({"virtual-size": "7"}, "info.virtual-size", "expected int, found str"),
        ({"virtual-size": True}, "info.virtual-size", "expected int, found bool"),
        ({"actual-size": -1}, "info.actual-size", "-1 is negative"),
        ({"encrypted": 1}, "info.encrypted", "expected bool, found int"),
    ],
)
def test_a_bad_value_is_named(change: dict[str, object], where: str, reason: str) -> None:
    """A value of another type than expected is named, never converted."""
    with pytest.raises(ParseError, match=reason) as caught:
        parse_image_info(json.dumps({**INFO, **change}))
    assert caught.value.where == where


@pytest.mark.parametrize("text", ["", "7", "[7]", '"x"', "[" * 100_000])
def test_other_text_is_refused(text: str) -> None:
    """What is no JSON object or list of them is refused."""
    with pytest.raises(ParseError):
        parse_image_info(text)


@pytest.mark.parametrize(
    ("line", "stale"),
    [
        ("ERROR cluster 5 refcount=0 reference=1\n", True),
        ("ERROR OFLAG_COPIED data cluster: l2_entry=8000000000050000 refcount=0", True),
        ("ERROR OFLAG_COPIED L2 cluster: l1_index=0 l1_entry=8000000000050000 refcount=0", True),
        ("ERROR cluster 5 refcount=0 reference=2", False),
        ("ERROR cluster 5 refcount=0 reference=11", False),
        ("ERROR offset=50200: Data cluster is not properly aligned; L2 entry corrupted.", False),
        ("Leaked cluster 4 refcount=1 reference=0", False),
    ],
)
def test_a_count_that_lags_behind_is_told_from_what_is_wrong(line: str, *, stale: bool) -> None:
    """A cluster with one reference and none counted is what lazy counting leaves."""
    assert is_stale_count(line) is stale


@pytest.mark.parametrize(
    ("counts", "stale", "sound"),
    [({}, 0, True), ({"corruptions": 3}, 3, True), ({"corruptions": 4}, 3, False)],
)
def test_a_dirty_image_is_sound_when_only_counts_lag_behind(
    counts: dict[str, int], stale: int, *, sound: bool
) -> None:
    """Whatever else is wrong makes it unsound."""
    check = parse_check(json.dumps({**CHECK, **counts}), stale_counts=stale)
    assert check.sound_if_dirty is sound
    assert not parse_check(json.dumps({**CHECK, "check-errors": 1})).sound_if_dirty


def test_a_clean_check_is_read() -> None:
    """Counts that qemu-img leaves out are 0."""
    check = parse_check(json.dumps(CHECK))
    assert check == CheckResult("/i/top.qcow2", "qcow2")
    assert check.sound


@pytest.mark.parametrize(
    ("counts", "sound"),
    [({"leaks": 3}, True), ({"corruptions": 1}, False), ({"check-errors": 1}, False)],
)
def test_leaks_do_no_harm(counts: dict[str, int], sound: bool) -> None:  # noqa: FBT001
    """Leaked clusters lose no data; corruptions and errors do."""
    more = {"image-end-offset": 262144, "compressed-clusters": 7}
    check = parse_check(json.dumps({**CHECK, **more, **counts}))
    assert check.sound is sound
    assert (check.image_end_offset, check.compressed_clusters) == (262144, 7)


def extent(start: int, length: int, present: object = True) -> dict[str, object]:  # noqa: FBT002
    """Return an entry of a map, with what is not used."""
    return {"start": start, "length": length, "depth": 0, "present": present, "zero": False}


def test_a_map_says_what_an_image_has() -> None:
    """Neighbours of one kind are one: where the data lies makes no difference."""
    found = parse_map(json.dumps([extent(0, 5), extent(5, 5), extent(10, 7, present=False)]))
    assert found == (Extent(0, 10, present=True), Extent(10, 17, present=False))
    assert parse_map("[]") == ()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{}", "map"),
        ("[7]", "map[0]"),
        (json.dumps([extent(0, 5), extent(6, 5)]), "map[1].start"),
        (json.dumps([{"start": 0, "length": 5}]), "map[0].present"),
        (json.dumps([extent(0, 5, present=1)]), "map[0].present"),
        (json.dumps([extent(0, -5)]), "map[0].length"),
    ],
)
def test_a_map_with_a_gap_or_without_presence_is_refused(text: str, where: str) -> None:
    """A qemu-img that is too old does not say what is present."""
    with pytest.raises(ParseError) as caught:
        parse_map(text)
    assert caught.value.where == where
