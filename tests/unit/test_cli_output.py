"""What the command line prints while it runs: lines, objects, and marks for the journal."""

from __future__ import annotations

import argparse
import gc
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import pytest

import fibackup as fb
from fibackup.cli.output import print_items, print_json
from fibackup.cli.progress import Display, progress
from fibackup.cli.say import ERROR, log_to_stderr, say, to_journal, warn
from fibackup.cli.verbs import list as list_verb

if TYPE_CHECKING:
    from fibackup.cli.signals import Signals

MIB = 1 << 20
UUID = "11111111-2222-3333-4444-555555555555"


def parsed(**more: object) -> argparse.Namespace:
    """Return what the parser would."""
    words: dict[str, object] = {
        "json": False,
        "json_lines": False,
        "quiet": False,
        "no_progress": False,
        "domains": ["web1"],
        **more,
    }
    return argparse.Namespace(**words)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def copying(done: int, total: int = 100 * MIB) -> fb.CopyProgress:
    """Return the event of an image that is copied."""
    return fb.CopyProgress("vda", "a.qcow2", done, total)


@pytest.fixture
def listen() -> Callable[..., tuple[fb.OnEvent, Clock]]:
    """Give a factory of listeners with a clock."""

    def make(**more: object) -> tuple[fb.OnEvent, Clock]:
        clock = Clock()
        display = Display(parsed(**more), clock)
        return display.listen("web1", UUID).__enter__(), clock

    return make


Listen = Callable[..., tuple[fb.OnEvent, Clock]]


def test_lines_say_rate_and_time_left(listen: Listen, capsys: pytest.CaptureFixture[str]) -> None:
    """Every few seconds a line says how much is copied, how fast, and how long it takes still."""
    tell, clock = listen()
    tell(copying(0))
    clock.now += 1
    tell(copying(10 * MIB))
    clock.now += 9
    tell(copying(50 * MIB))
    tell(copying(51 * MIB))
    err = capsys.readouterr().err
    assert err == "vda: a.qcow2: 50 MiB of 100 MiB, 5 MiB/s, 10 s left\n"


def test_lines_name_the_domain_when_there_are_several(
    listen: Listen, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one domain no name is said; of several, each line has it."""
    for more, start in (({}, ""), ({"domains": ["a", "b"]}, "web1: "), ({"all": True}, "web1: ")):
        tell, _ = listen(**more)
        tell(fb.ImageCopied("vda", "a.qcow2", MIB, "ab" * 32))
        assert capsys.readouterr().err.startswith(f"{start}vda: a.qcow2 complete")


@pytest.mark.parametrize("more", [{"quiet": True}, {"no_progress": True}])
def test_who_wants_no_progress_gets_none(
    listen: Listen, capsys: pytest.CaptureFixture[str], more: dict[str, object]
) -> None:
    """-q and --no-progress show nothing while it runs."""
    tell, _ = listen(**more)
    tell(copying(0))
    tell(fb.Warned("odd"))
    assert capsys.readouterr() == ("", "")


def lines(text: str) -> list[dict[str, Any]]:
    """Read JSON lines, without their times, which must be there and in UTC."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(each.pop("time").endswith("Z") for each in found)
    return found


def test_json_lines_have_a_form_that_stays(
    listen: Listen, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each event is one object, with these fields; docs/cli.md promises them."""
    tell, clock = listen(json_lines=True, json=True)
    step = fb.DeleteOverlays((PurePosixPath("/images/a"),))
    tell(fb.StepStarted(4, step))
    tell(copying(0))
    tell(copying(1))
    clock.now += 1
    tell(copying(2))
    tell(copying(100 * MIB))
    tell(fb.ImageCopied("vda", "a.qcow2", MIB, "ab" * 32))
    tell(fb.Warned("odd"))
    tell(fb.StepFinished(4, step, 0.12345))
    out, err = capsys.readouterr()
    who = {"domain": "web1", "uuid": UUID}
    image = {"disk": "vda", "image": "a.qcow2"}
    started = {"state": "started", "index": 4, "step": "DeleteOverlays"}
    assert lines(out) == [
        {"type": "step", **who, **started, "headline": "delete 1 overlay that nothing needs"},
        {"type": "progress", **who, **image, "done_bytes": 0, "total_bytes": 100 * MIB},
        {"type": "progress", **who, **image, "done_bytes": 2, "total_bytes": 100 * MIB},
        {"type": "progress", **who, **image, "done_bytes": 100 * MIB, "total_bytes": 100 * MIB},
        {"type": "image", **who, **image, "size_bytes": MIB, "sha256": "ab" * 32},
        {"type": "warning", **who, "text": "odd"},
        {"type": "step", **who, **started, "state": "finished", "seconds": 0.123},
    ]
    assert err == ""


def test_items_are_a_document_or_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one document, --json-lines an object for each item, and text neither."""
    items = [{"id": "a"}, {"id": "b"}]
    print_items(parsed(), "points", items)
    assert capsys.readouterr().out == ""
    print_items(parsed(json=True), "points", items)
    assert json.loads(capsys.readouterr().out) == {"points": items}
    print_items(parsed(json=True, json_lines=True), "points", items)
    assert lines(capsys.readouterr().out) == [{"type": "point", **each} for each in items]
    print_json(parsed(json=True, json_lines=True), {"domain": {"name": "web1"}})
    assert lines(capsys.readouterr().out) == [{"type": "domain", "domain": {"name": "web1"}}]


class Counted(io.StringIO):
    """Counts how often it is written to."""

    writes = 0

    def write(self, text: str) -> int:
        """Count, and write."""
        self.writes += 1
        return super().write(text)


def test_a_document_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of ten thousand points has a million tokens, each of which was a write."""
    out = Counted()
    monkeypatch.setattr(sys, "stdout", out)
    document = {"points": [{"id": number} for number in range(100)]}
    print_json(argparse.Namespace(json=True, json_lines=False), document)
    assert json.loads(out.getvalue()) == document
    assert out.writes == 2  # the line, and its end


@pytest.mark.parametrize("enabled", [True, False])
def test_a_list_leaves_the_collector_as_it_was(tmp_path: Path, *, enabled: bool) -> None:
    """It rests meanwhile; also after an error."""
    arguments = argparse.Namespace(store=tmp_path / "no-such-store", domain=None)
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(fb.StoreError):
            list_verb.run(arguments, cast("Signals", None))
        assert gc.isenabled() is enabled
    finally:
        gc.enable() if was else gc.disable()


def test_the_journal_gets_priorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is the journal's stream, each line begins with its priority."""
    path = tmp_path / "journal"
    with path.open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        say("plain")
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert to_journal()
        say("one\ntwo\x1b[31m", ERROR)
        warn("odd")
        log_to_stderr(2)
        logger = logging.getLogger("fibackup.test")
        logger.warning("late\nmore")
        logger.debug("tiny")
        monkeypatch.setenv("JOURNAL_STREAM", "1:1")
        assert not to_journal()
        say("plain")
    logging.getLogger("fibackup").handlers.pop()
    logging.getLogger("fibackup").setLevel(logging.NOTSET)
    assert path.read_text().splitlines() == [
        "plain",
        "<3>one",
        "<3>two\\x1b[31m",
        "<4>fibackup: warning: odd",
        "<4>WARNING fibackup.test: late",
        "<4>more",
        "<7>DEBUG fibackup.test: tiny",
        "plain",
    ]


def test_a_stderr_without_a_descriptor_is_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed stderr is not taken for the journal."""
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    with Path(os.devnull).open("w") as stream:
        pass
    monkeypatch.setattr(sys, "stderr", stream)
    assert not to_journal()


def test_bars_come_and_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a terminal images have bars, which make room for what is printed and end with the run."""
    path = tmp_path / "terminal"
    with path.open("w") as stream:
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "120")
        arguments = parsed(domains=["web1", "db1"], display=None)
        arguments.display = Display(arguments)
        with progress(arguments, "web1", UUID) as tell, progress(arguments, "db1", UUID) as other:
            tell(copying(50 * MIB))
            other(copying(25 * MIB))
            with arguments.display.aside():
                stream.write("aside\n")
            tell(fb.ImageCopied("vda", "a.qcow2", MIB, "ab" * 32))
            other(fb.Warned("odd [red]"))
        stream.write("end\n")
    text = path.read_text()
    assert "web1: vda a.qcow2" in text
    assert "db1: vda a.qcow2" in text
    assert "50.0/100.0 MiB" in text
    assert "web1: vda: a.qcow2 complete, 1 MiB" in text
    assert "db1: warning: odd [red]" in text
    assert "\x1b[3" not in text  # no colour
    assert text.endswith("end\n")


def test_a_dumb_terminal_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no cursor can be moved, there are lines."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    with Display(parsed()).listen("web1", UUID) as tell:
        tell(fb.ImageCopied("vda", "a.qcow2", MIB, "ab" * 32))
    assert "\x1b" not in capsys.readouterr().err
