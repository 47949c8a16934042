"""Facts about pictures on the command line: what is replaced, and what never is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import fibackup as fb
from fibackup.cli.drawing import terminal_width, write_svg
from fibackup.cli.exits import USAGE
from fibackup.cli.parser import build_parser
from fibackup.cli.signals import Signals
from fibackup.cli.verbs import chain

SVG = "<svg xmlns='http://www.w3.org/2000/svg'>\u2026</svg>\n"


def names(directory: Path) -> list[str]:
    """Return what is in a directory."""
    return sorted(path.name for path in directory.iterdir())


def test_a_picture_is_written_and_replaced(tmp_path: Path) -> None:
    """A new file, an empty one and an older picture become the picture; nothing else is left."""
    path = tmp_path / "web1.svg"
    for before in (None, "", "<svg >old</svg>"):
        if before is not None:
            path.write_text(before)
        write_svg(str(path), SVG)
        assert path.read_text("utf-8") == SVG
        assert names(tmp_path) == ["web1.svg"]


@pytest.mark.parametrize("content", [b"QFI\xfb" + bytes(100), b"<html>", b"<sv"])
def test_what_is_no_picture_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    """A disk image whose name was given by mistake stays as it is."""
    path = tmp_path / "disk.qcow2"
    path.write_bytes(content)
    with pytest.raises(fb.DestinationExistsError, match="left as it is"):
        write_svg(str(path), SVG)
    assert path.read_bytes() == content
    assert names(tmp_path) == ["disk.qcow2"]


def test_a_device_or_a_directory_is_not_replaced(tmp_path: Path) -> None:
    """What is no plain file is refused: a rename would put a file in its place."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(fb.DestinationExistsError):
            write_svg(str(path), SVG)
    assert names(tmp_path) == ["pipe"]


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """When writing fails, the older picture stays, and no temporary file."""
    path = tmp_path / "web1.svg"
    path.write_text("<svg >old</svg>")
    with pytest.raises(UnicodeEncodeError):
        write_svg(str(path), "<svg >\ud800")
    assert path.read_text() == "<svg >old</svg>"
    assert names(tmp_path) == ["web1.svg"]


def test_a_dash_is_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """The picture goes to stdout, and nothing beside it."""
    write_svg("-", SVG)
    assert capsys.readouterr().out == SVG


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets 100 columns; a terminal as many as it has."""
    assert terminal_width() == 100
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal_width() == 77


def test_one_thing_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON and a picture on stdout contradict each other; nothing is read."""
    for words in (["--mermaid"], ["--svg", "-"]):
        arguments = build_parser().parse_args(["chain", "--json", *words, "web1"])
        assert chain.run(arguments, Signals()) == USAGE
    assert capsys.readouterr().out == ""
