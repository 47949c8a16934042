"""A store shows itself in a notebook without reading anything."""

import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

from fibackup import Store


def test_a_store_shows_what_it_knows_without_reading(tmp_path: Path) -> None:
    """Path, UUID, and whether it is open: even when the directory has gone meanwhile."""
    place = tmp_path / "<b>backup"
    place.mkdir()
    with Store.create(place) as store:
        shutil.rmtree(place)
        opened = store._repr_html_()
    closed = store._repr_html_()
    for html, state in ((opened, "open"), (closed, "closed")):
        texts = [each.text for each in ET.fromstring(html).iter("{http://www.w3.org/2000/svg}text")]
        assert texts[1] == f"{state} \u00b7 {store.uuid}"
        assert str(texts[0]).endswith("/<b>backup")
