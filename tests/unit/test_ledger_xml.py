"""The ledger as XML in libvirt's metadata."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from fibackup.errors import ParseError
from fibackup.model.chain import FileIdentity
from fibackup.model.ledger import FrozenImage, KnownStore, Ledger, Overlay, Run, RunPhase
from fibackup.parse.ledger_xml import LEDGER_PREFIX, LEDGER_URI, parse_ledger, render_ledger

STORE = "0b3b8f3e-7c55-4f0e-9a58-3c9c4fb1e0a1"
POINT = "20261124T040407Z"
LEDGER = Ledger(
    overlays=(
        Overlay("vda", PurePosixPath("/i/d.bimg-A"), PurePosixPath("/i/d"), POINT, STORE, "a" * 64),
        Overlay("vdb", PurePosixPath("/i/e.bimg-A"), PurePosixPath("/i/e"), POINT, STORE),
    ),
    images=(
        FrozenImage(PurePosixPath("/i/d"), "raw", None, FileIdentity(12, 4096, -5)),
        FrozenImage(PurePosixPath("/i/e"), "qcow2", PurePosixPath("/i/template")),
    ),
    stores=(KnownStore(STORE, "/backup", POINT),),
    run=Run(POINT, STORE, RunPhase.TAKEN, frozen=True, suspended=True),
)
OVERLAY = f'target="vda" path="/a" below="/b" point="{POINT}" store="{STORE}"'


def ledger(inside: str) -> str:
    """Return a ledger with this inside."""
    return f'<ledger version="1">{inside}</ledger>'


def test_a_ledger_reads_back() -> None:
    """Everything in a ledger is in its XML."""
    assert parse_ledger(render_ledger(LEDGER)) == LEDGER


def test_an_empty_ledger_is_one_element() -> None:
    """A ledger without entries is the element alone."""
    assert render_ledger(Ledger()) == '<ledger version="1" />'
    assert parse_ledger(render_ledger(Ledger())) == Ledger()


def test_an_intent_is_written_as_libvirt_will_keep_it() -> None:
    """Attributes carry all data; there is no namespace, because libvirt adds it."""
    text = render_ledger(Ledger(run=Run(POINT, STORE)))
    assert text == (
        '<ledger version="1">\n'
        f'  <run point="{POINT}" store="{STORE}" phase="intent" frozen="no" />\n'
        "</ledger>"
    )


@pytest.mark.parametrize("inner", ["", f"{LEDGER_PREFIX}:"])
def test_a_namespaced_ledger_is_read(inner: str) -> None:
    """The element is read with the namespace too, on the root alone or on all elements."""
    text = f"<{LEDGER_PREFIX}:ledger xmlns:{LEDGER_PREFIX}='{LEDGER_URI}' version='1'>"
    text += f"<{inner}store uuid='{STORE}' path='/b' point='{POINT}'/></{LEDGER_PREFIX}:ledger>"
    assert parse_ledger(text).stores == (KnownStore(STORE, "/b", POINT),)


@pytest.mark.parametrize(
    "path", ["/a b&c<d>\"e'", "/line\nbreak\ttab", "/\x01\x1b[0m", "/\udcff", "/100%25", "/\u65e5"]
)
def test_any_path_survives_xml(path: str) -> None:
    """Paths are bytes: what XML cannot carry is percent-encoded."""
    kept = Ledger(images=(FrozenImage(PurePosixPath(path), "raw"),))
    text = render_ledger(kept)
    assert text.isascii()
    assert parse_ledger(text) == kept


def test_a_path_that_is_no_bytes_is_refused() -> None:
    """A surrogate that stands for no byte cannot be the name of a file."""
    with pytest.raises(ParseError, match="surrogates not allowed"):
        render_ledger(Ledger(images=(FrozenImage(PurePosixPath("/\ud800"), "raw"),)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not XML"),
        ("<other/>", "expected <ledger>"),
        ("<ledger/>", "missing or unknown attributes: version"),
        ('<ledger version="2"/>', "unknown version '2'"),
        ('<ledger version="1" more="1"/>', "missing or unknown attributes: more"),
        (ledger("<other/>"), "unknown element 'other'"),
        (ledger("text"), "text where none belongs"),
        (ledger(f"<overlay {OVERLAY}/>text"), "text where none belongs"),
        (ledger(f"<overlay {OVERLAY}>text</overlay>"), "text where none belongs"),
        (ledger(f"<overlay {OVERLAY}><x/></overlay>"), "unknown element 'x'"),
        (ledger(f'<overlay {OVERLAY} more="1"/>'), "missing or unknown attributes: more"),
        (ledger('<overlay target="vda"/>'), "missing or unknown attributes: below, path"),
        (ledger('<image path="a" format="raw"/>'), "is not an absolute path"),
        (ledger('<image path="/a" format=""/>'), "is empty or has control characters"),
        (ledger('<image path="/a%2f" format="raw"/>'), "is not percent-encoded"),
        (ledger('<image path="/a b" format="raw"/>'), "is not percent-encoded"),
        (ledger('<run point="p" store="s" phase="done" frozen="no"/>'), "unknown phase"),
        (ledger('<run point="p" store="s" phase="taken" frozen="1"/>'), "neither yes nor no"),
        (ledger('<run point="p" store="s" phase="taken" frozen="no"/>' * 2), "twice"),
        (
            ledger('<run point="p" store="s" phase="taken" frozen="no" suspended="no"/>'),
            "not 'yes'",
        ),
        ("<!DOCTYPE ledger><ledger version='1'/>", "a DOCTYPE is refused"),
    ],
)
def test_anything_else_is_refused(text: str, reason: str) -> None:
    """A reader that would guess could take a foreign overlay for ours."""
    with pytest.raises(ParseError, match=reason):
        parse_ledger(text)


@pytest.mark.parametrize("size", ["", "x", "1.5", "0x10", "9" * 5000])
def test_a_bad_number_is_named(size: str) -> None:
    """An identity is three numbers; the path of a bad one is in the error."""
    identity = f'<identity inode="1" size="{size}" mtime_ns="3"/>'
    with pytest.raises(ParseError, match="is not a number") as caught:
        parse_ledger(ledger(f'<image path="/a" format="raw">{identity}</image>'))
    assert caught.value.where == "ledger/image[1]/identity[1]/@size"


def test_two_identities_are_refused() -> None:
    """An image was one file when it stopped."""
    identity = '<identity inode="1" size="2" mtime_ns="3"/>' * 2
    with pytest.raises(ParseError, match="stands there twice"):
        parse_ledger(ledger(f'<image path="/a" format="raw">{identity}</image>'))


def test_an_overlay_is_stale_or_says_nothing() -> None:
    """The attribute ``stale`` is ``yes`` or not there."""
    text = (
        "<ledger version='1'><overlay target='vda' path='/d.bimg-A' below='/d' point='A' "
        "store='S' stale='{}'/></ledger>"
    )
    assert parse_ledger(text.format("yes")).overlays[0].stale
    with pytest.raises(ParseError, match="stale"):
        parse_ledger(text.format("no"))
