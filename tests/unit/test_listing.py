"""Facts about a list of points, and how much work it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
from attrs import evolve

import fibackup as fb
from fibackup.cli.verbs import list as list_verb
from fibackup.model import tree as tree_module
from hypervisor.histories import disk, history, image_name, point, point_id

XML = 10


def sizes(found: tuple[fb.ListedPoint, ...]) -> list[tuple[int, int, int]]:
    """Return own, total and freed bytes of each point."""
    return [(each.own_bytes, each.total_bytes, each.freed_bytes) for each in found]


def test_a_point_takes_what_it_added_and_needs_what_lies_under_it() -> None:
    """What another point reads through is not freed; its other files are."""
    found = fb.list_points(
        history(
            point(1, disk(1, size_bytes=1000)),
            point(2, disk(2, 1, size_bytes=20)),
            point(3, disk(3, 2, size_bytes=3)),
        )
    )
    assert sizes(found) == [
        (1000 + XML, 1000 + XML, XML),
        (20 + XML, 1020 + XML, XML),
        (3 + XML, 1023 + XML, 3 + XML),
    ]


def test_a_branch_of_its_own_goes_with_its_point() -> None:
    """A full that nothing lies on, with all of its images, and each disk by itself."""
    found = fb.list_points(
        history(
            point(1, disk(1, images=2), disk(1, target="vdb", size_bytes=7)),
            point(2, disk(2, 1, target="vdb", size_bytes=1)),
        )
    )
    assert sizes(found) == [(2007 + XML, 2007 + XML, 2000 + XML), (1 + XML, 8 + XML, 1 + XML)]


def test_a_point_as_its_parent_is_frees_nothing_of_it() -> None:
    """Both show one image."""
    found = fb.list_points(history(point(1, disk(1)), point(2, disk(2, 1, images=0))))
    assert sizes(found) == [(1000 + XML, 1000 + XML, XML), (XML, 1000 + XML, XML)]
    assert found[1].tops[0][1].name == image_name(1)


def test_what_is_missing_or_damaged_is_said() -> None:
    """Of the point, and of those that read through it."""
    good = history(point(1, disk(1)), point(2, disk(2, 1)), point(3, disk(3)))
    assert [each.whole for each in fb.list_points(good)] == [True, True, True]
    cut = evolve(good, damaged=frozenset({f"vda/{image_name(1)}"}))
    assert [each.whole for each in fb.list_points(cut)] == [False, False, True]
    without = history(*good.points[1:])
    assert [each.whole for each in fb.list_points(without)] == [False, True]
    gone = history(point(2, disk(2, 1, images=0)))
    assert [(each.whole, each.tops) for each in fb.list_points(gone)] == [(False, ())]


def test_protection_and_the_last_verification_are_said() -> None:
    """From the record; a point whose files were not all read was not verified."""
    there = evolve(
        history(point(1, disk(1)), point(2, disk(2))), protected=frozenset({point_id(2)})
    )
    (file,), image = there.points[0].files, there.points[0].disks[0].images[0]
    when = datetime(2026, 12, 1, tzinfo=UTC)
    record = fb.VerificationRecord(
        files=tuple(
            fb.CheckedFile(name, digest, when, 1)
            for name, digest in ((file.name, file.sha256), (f"vda/{image.name}", image.sha256))
        )
    )
    first, second = fb.list_points(there, record)
    assert (first.protected, second.protected) == (False, True)
    assert (first.verified.files, second.verified.files) == (when, None)


@pytest.mark.parametrize("count", [100, 400])
def test_the_work_grows_with_the_number_of_points(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Each image is summed up once and is in one tree; hashed only when a disk was ever read."""
    calls = [0]
    trees = [0]
    climb = tree_module.ImageTree.climb
    find_tops = tree_module.ImageTree._find_tops

    def counted(self: tree_module.ImageTree, combine: Callable[..., object]) -> object:
        def one(image: object, under: object) -> object:
            calls[0] += 1
            return combine(image, under)

        return climb(self, one)

    def made(self: tree_module.ImageTree, disks: Mapping[str, fb.PointDisk]) -> None:
        trees[0] += 1
        find_tops(self, disks)

    monkeypatch.setattr(tree_module.ImageTree, "climb", counted)
    monkeypatch.setattr(tree_module.ImageTree, "_find_tops", made)
    points = [point(n, disk(n, n - 1 if n > 1 else None)) for n in range(1, count + 1)]
    found = fb.list_points(history(*points))
    assert found[-1].total_bytes == count * 1000 + XML
    assert (calls[0], trees[0]) == (2 * count, 1)  # sums, ages
    read = fb.CheckedContent(f"vda/{image_name(1)}", "c" * 64, datetime.now(UTC), 1, None)
    fb.list_points(history(*points), fb.VerificationRecord(contents=(read,)))
    assert (calls[0], trees[0]) == (5 * count, 2)  # fingerprints too


def test_marks_stand_apart_from_when_it_was_verified() -> None:
    """Else a damaged point that was never verified reads as one that was "never damaged"."""
    there = evolve(
        history(point(1, disk(1))),
        damaged=frozenset({f"vda/{image_name(1)}"}),
        protected=frozenset({point_id(1)}),
        going=frozenset({point_id(1)}),
    )
    table = list_verb._table(fb.list_points(there))
    assert "  never; damaged; protected; going\n" in table
