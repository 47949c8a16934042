"""What a store remembers of linked disks, as values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import ManifestError, ModelError
from fibackup.model.linked import LinkedDisk, LinkedDisks
from fibackup.parse.manifest import parse_linked, parse_record, render_linked
from hypervisor.schemas import validator

IMAGES = ("20261125T040407Z.qcow2", "20261124T040407Z-1.qcow2")
DISK = LinkedDisk(
    overlay=PurePosixPath("/images/now/vda.qcow2"),
    machine="0b2c",
    places=("65024:12", "65024:2"),
    target="vda",
    images=IMAGES,
    time=datetime(2026, 11, 25, 9, tzinfo=UTC),
)
LATER = datetime(2026, 11, 26, 9, tzinfo=UTC)


def test_they_read_back_and_are_as_their_schema_says() -> None:
    """To the last field; nothing else is taken for them."""
    text = render_linked(LinkedDisks((DISK,)))
    assert parse_linked(text) == LinkedDisks((DISK,))
    fits = validator("linked").is_valid
    document = json.loads(text)
    assert fits(document)
    for key, bad in (("overlay", "vda.qcow2"), ("images", ["../x"]), ("target", "../vda")):
        changed = {**document["linked"]["disks"][0], key: bad}
        assert not fits({**document, "linked": {"disks": [changed]}}), key
    with pytest.raises(ManifestError):
        parse_record(text)
    with pytest.raises(ManifestError):
        parse_linked(text.replace("/images/now", "/images/then"))


def test_one_of_the_same_place_and_images_takes_the_place() -> None:
    """Of the same machine; the newest is the last. One of other images may be what is there."""
    again, elsewhere = evolve(DISK, time=LATER), evolve(DISK, machine="1c3d")
    other = evolve(DISK, images=IMAGES[1:])
    found = LinkedDisks().with_disk(DISK).with_disk(elsewhere).with_disk(again).with_disk(other)
    assert found.disks == (elsewhere, again, other)
    assert found.rivals(again) == {IMAGES[1]}
    assert found.rivals(other) == {IMAGES[0]}
    assert found.rivals(elsewhere) == frozenset()
    assert DISK.files == (f"vda/{IMAGES[0]}", f"vda/{IMAGES[1]}")


@pytest.mark.parametrize(
    "change",
    [
        {"overlay": PurePosixPath("vda.qcow2")},
        {"images": ("../20261125T040407Z.qcow2",)},
        {"images": ("passwd",)},
        {"target": "../vda"},
        {"machine": ""},
    ],
)
def test_what_no_restore_writes_is_refused(change: dict[str, object]) -> None:
    """It would keep what nobody uses, or read elsewhere."""
    with pytest.raises(ModelError):
        evolve(DISK, **change)  # type: ignore[arg-type]
