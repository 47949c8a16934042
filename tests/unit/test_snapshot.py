"""Facts about the snapshot."""

from pathlib import PurePosixPath

import pytest

from fibackup.errors import ModelError
from fibackup.model.snapshot import NewOverlay, Snapshot

ONE = NewOverlay("vda", PurePosixPath("/i/a.qcow2"), PurePosixPath("/i/a.bimg-A"))
TWO = NewOverlay("vdb", PurePosixPath("/i/b.qcow2"), PurePosixPath("/i/b.bimg-A"))


def test_a_snapshot_shows_what_lies_on_what() -> None:
    """One line for each disk, the frozen image first."""
    assert str(Snapshot("s", (ONE, TWO))).splitlines() == [
        "vda: /i/a.qcow2 <- /i/a.bimg-A",
        "vdb: /i/b.qcow2 <- /i/b.bimg-A",
    ]


@pytest.mark.parametrize(
    ("overlays", "excluded", "words"),
    [
        ((), (), "no disk"),
        ((ONE, NewOverlay("vdb", TWO.source, ONE.path)), (), "share an overlay"),
        ((ONE, NewOverlay("vda", TWO.source, TWO.path)), (), "named twice"),
        ((ONE,), ("vda",), "named twice"),
    ],
)
def test_a_snapshot_that_cannot_be_is_refused(
    overlays: tuple[NewOverlay, ...], excluded: tuple[str, ...], words: str
) -> None:
    """It has a disk, no two overlays in one place, and names no disk twice."""
    with pytest.raises(ModelError, match=words):
        Snapshot("s", overlays, excluded)
