"""The laws of pictures: whatever a value holds, its drawings are sound, quiet, and the same."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from xml.etree import ElementTree as ET

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from fibackup.model.chain import BackingChain
from fibackup.model.domain import Domain
from fibackup.model.pictures import picture_chains
from fibackup.model.point import History, RestorePoint
from fibackup.render.drawable import Picture
from fibackup.render.fit import columns_of
from property.strategies import chains, domains, restore_points, targets, texts

pytestmark = pytest.mark.property

HIDDEN = {"Cc", "Cs"}


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draw a history of up to three points, of one domain and store."""
    points = draw(st.lists(restore_points(), max_size=3, unique_by=lambda point: point.id))
    store, uuid = "5702e000-0000-4000-8000-000000000001", "0f6b2b2e-5b1f-4a5c-9d5e-000000000001"
    return History(
        store,
        PurePosixPath("/backup"),
        uuid,
        points=tuple(
            evolve(point, store=store, uuid=uuid, sequence=number)
            for number, point in enumerate(points, 1)
        ),
        damaged=frozenset(draw(st.lists(texts, max_size=2))),
        unreadable=tuple(draw(st.lists(st.tuples(texts, texts), max_size=2))),
    )


def hold(picture: Picture, width: int) -> None:
    """Hold a picture to the laws."""
    for text in (picture.to_svg(), picture._repr_html_()):
        ET.fromstring(text)
        lowered = text.lower()
        assert "<script" not in lowered
        assert not re.search(r"\bon[a-z]+\s*=\s*[\"']", re.sub(r">[^<]*<", "><", lowered))
        assert not {char for char in text if unicodedata.category(char) in HIDDEN} - {"\n"}
        assert not set(text) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\ufffe\uffff")
    assert picture.to_svg() == picture.to_svg()
    lines = picture.to_text(width=width).splitlines()
    assert max(map(columns_of, lines)) <= max(width, 50)
    for line in picture.to_mermaid().splitlines():
        assert line.isprintable() or all(unicodedata.category(c) not in HIDDEN for c in line)


widths = st.integers(50, 160)


@given(chain=chains(targets), width=widths)
def test_chains(chain: BackingChain, width: int) -> None:
    """Every chain can be drawn, alone."""
    hold(chain.picture(), width)


@given(domain=domains(), history=st.none() | histories(), width=widths)
def test_domains_beside_histories(domain: Domain, history: History | None, width: int) -> None:
    """Every domain can be drawn beside any history, even one of another domain."""
    hold(picture_chains(domain, history), width)


@given(history=histories(), width=widths)
def test_histories(history: History, width: int) -> None:
    """Every history can be drawn, whatever its points name."""
    hold(history.picture(), width)


@given(point=restore_points(), width=widths)
def test_points(point: RestorePoint, width: int) -> None:
    """Every point can be drawn."""
    hold(point.picture(), width)
