"""What a damaged small file of a domain means."""

from __future__ import annotations

import pytest

from fibackup.model import records
from fibackup.model.verification import FaultKind
from fibackup.plan.records import describe_damaged, record_faults

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


@pytest.mark.parametrize("file", KINDS)
def test_what_it_means_is_said_in_the_same_words(file: str) -> None:
    """A warning names the file first; a fault has it in a field of its own."""
    [fault] = record_faults({file: "cut"})
    assert (fault.kind, fault.file, fault.points) == (KINDS[file], file, ())
    reason, _, meaning = fault.reason.partition(": ")
    assert reason == "cut"
    assert describe_damaged(file, "cut") == f"{file} is damaged (cut): {meaning}"
    assert "; " in meaning
