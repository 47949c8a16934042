"""What a damaged small file of a domain means."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from attrs import evolve

import fibackup as fb
from fibackup.model import records
from fibackup.model.verification import FaultKind
from fibackup.plan.records import GONE, describe_damaged, record_faults, record_warnings
from hypervisor.histories import STORE, UUID, chain, image_name, point_id

KINDS = {
    records.SEALS_FILE: FaultKind.SEALS,
    records.RECORD_FILE: FaultKind.RECORD,
    records.MERGE_FILE: FaultKind.JOURNAL,
    records.REMOVAL_FILE: FaultKind.JOURNAL,
    records.LINKED_FILE: FaultKind.RECORD,
}


def test_each_small_file_is_known() -> None:
    """A new one must be told of too."""
    assert sorted(KINDS) == sorted(getattr(records, name) for name in records.__all__)


def test_images_of_no_point_are_told_of_once() -> None:
    """Where the seals are damaged, what is said of these tells of them."""
    history = fb.History(STORE, PurePosixPath("/s"), UUID, orphans=frozenset({"vda/x.qcow2"}))
    [words] = record_warnings(history)
    assert words.startswith("vda/x.qcow2 is of no point")
    [words] = record_warnings(evolve(history, damaged_records=((records.SEALS_FILE, "cut"),)))
    assert words.endswith("of no point there is: vda/x.qcow2")
    assert list(record_warnings(evolve(history, lost=("20261120T040407Z",)))) == []


@pytest.mark.parametrize(("lost", "above"), [(2, f"{point_id(3)} lies on it"), (1, " lie on it")])
def test_points_that_lie_on_an_image_of_no_point_are_named(lost: int, above: str) -> None:
    """Whoever moves it away must know what it carries."""
    history = chain(3)
    points = tuple(point for point in history.points if point.id != point_id(lost))
    orphan = f"vda/{image_name(lost)}"
    [words] = record_warnings(evolve(history, points=points, orphans=frozenset({orphan})))
    assert above in words
    assert "can be restored by hand alone" in words
    assert words.count(point_id(3)) == 1


@pytest.mark.parametrize("file", KINDS)
def test_what_it_means_is_said_in_the_same_words(file: str) -> None:
    """A warning names the file first; a fault has it in a field of its own."""
    [fault] = record_faults({file: "cut"})
    assert (fault.kind, fault.file, fault.points) == (KINDS[file], file, ())
    reason, _, meaning = fault.reason.partition(": ")
    assert reason == "cut"
    assert describe_damaged(file, "cut") == f"{file} is damaged (cut): {meaning}"
    assert "; " in meaning


def test_what_is_gone_is_not_called_damaged() -> None:
    """Of seals that must have been there."""
    words = describe_damaged(records.SEALS_FILE, GONE)
    assert words.startswith("points.sha256 is gone: it cannot be told whether a point was lost; ")
