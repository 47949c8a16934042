"""What the pictures of a prune and of a restore say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import fibackup as fb
from fibackup.testing import FakeHost, FakeStore

FIRST = datetime(2026, 11, 21, 4, 4, 7, tzinfo=UTC)
LATER = datetime(2100, 1, 1, tzinfo=UTC)  # after what the fake host's clock says


def three_nights() -> tuple[FakeStore, fb.History]:
    """Return a store with three points of a domain that was made from a template."""
    host = FakeHost()
    host.add_image("/t/debian.qcow2", {0: 1})
    uuid = host.add_domain("web1", {"vda": {1: 2}}, template="/t/debian.qcow2")
    store = FakeStore(host)
    for night in range(3):
        host.write("web1", "vda", 2, night + 3)
        plan = fb.plan_backup(
            host.read_domain("web1"), store.read_history(uuid), now=FIRST + timedelta(days=night)
        )
        fb.Executor(host, store).run(plan)
    return store, store.read_history(uuid)


def boxes(picture: fb.Picture) -> list[tuple[str, str, str]]:
    """Return name, tag and first word of each box of the first column."""
    column = picture.sections[0].columns[0]
    return [(b.name, b.tag, b.words[0] if b.words else "") for b in column.boxes if b]


def test_a_prune_shows_what_becomes_of_each_point() -> None:
    """Newest first: what keeps a point, or that it goes; the report shows the same."""
    store, history = three_nights()
    policy = fb.RetentionPolicy(keep_last=1)
    plan = fb.plan_prune(history, policy, now=LATER)
    first, second, third = (point.id for point in history.points)
    expected = [
        (third, "kept", "last"),
        (second, "", "no rule keeps it"),
        (first, "", "no rule keeps it"),
    ]
    assert boxes(plan.picture()) == expected
    assert "1 kept, 2 dropped" in plan.picture().facts
    column = plan.picture().sections[0].columns[0]
    changes = [box.change for box in column.boxes if box]
    assert changes == [fb.Change.SAME, fb.Change.GONE, fb.Change.GONE]
    report = fb.Executor(None, store).run(plan)
    assert boxes(report.picture()) == expected
    assert "1 kept, 2 dropped" in report.picture().facts


def test_points_are_no_chain_of_images() -> None:
    """Points that stand below each other are not counted as images."""
    _, history = three_nights()
    plan = fb.plan_prune(history, fb.RetentionPolicy(keep_last=9), now=LATER)
    assert "3 kept, 0 dropped" in plan.to_svg()
    assert "3 images" not in plan.to_svg()


def test_a_restore_shows_both_images_of_a_full_as_one() -> None:
    """A full of a disk with a template has two images; neither of them is an increment."""
    _, history = three_nights()
    first, second, third = (point.id for point in history.points)
    plan = fb.plan_restore(history, third, into=PurePosixPath("/out"))
    assert boxes(plan.picture()) == [
        (f"{third}.qcow2", "increment", ""),
        (f"{second}.qcow2", "increment", ""),
        (f"{first}.qcow2", "full", ""),
        (f"{first}-1.qcow2", "", "of the same point"),
    ]
    assert "4 images" in plan.to_svg()
