"""A store shows itself in a notebook without reading anything."""

import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from fibackup import Store, picture_of
from fibackup.testing import FakeHost, FakeStore


def texts(document: str) -> list[str]:
    """Return what is written in a picture."""
    root = ET.fromstring(document)
    return ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_store_shows_what_it_knows_without_reading(tmp_path: Path) -> None:
    """Path, UUID, and whether it is open: even when the directory has gone meanwhile."""
    place = tmp_path / "<b>backup"
    place.mkdir()
    with Store.create(place) as store:
        shutil.rmtree(place)
        opened = (store._repr_html_(), store._repr_svg_())
    closed = (store._repr_html_(), store._repr_svg_())
    for documents, state in ((opened, "open"), (closed, "closed")):
        for document in documents:
            words = texts(document)
            assert words[1] == f"{state} \u00b7 {store.uuid}"
            assert words[0].endswith("/<b>backup")
            assert "<b>" not in document


def test_a_fake_store_shows_the_same_without_a_call() -> None:
    """Path and UUID; the host counts no call, and a fault at the next one is not met."""
    host = FakeHost()
    host.fail_at(1)
    store = FakeStore(host, path="/<i>backup")
    for document in (store._repr_html_(), store._repr_svg_()):
        assert texts(document)[:2] == ["store /<i>backup", f"in memory \u00b7 {store.uuid}"]
        assert "<i>" not in document
    assert repr(store) == f"<FakeStore '/<i>backup' {store.uuid}>"


def test_what_is_no_store_has_no_picture() -> None:
    """A host is not drawn: only what it has read."""
    with pytest.raises(TypeError, match="FakeHost has no picture"):
        picture_of(FakeHost())
