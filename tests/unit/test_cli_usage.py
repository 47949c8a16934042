"""What cannot be meant is wrong usage, and numbers of bytes are read alike."""

from __future__ import annotations

from pathlib import Path

import pytest

import fibackup as fb
from fibackup.cli.exits import USAGE, exit_code
from fibackup.cli.main import main
from fibackup.cli.parser import build_parser


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read no configuration."""
    monkeypatch.setenv("FIBACKUP_CONFIG", "")


def test_a_prune_without_a_rule_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And leads to the options."""
    assert main(["prune", "--store", str(tmp_path)]) == USAGE
    said = capsys.readouterr().err
    assert "no rule says what to keep" in said
    assert "next: correct the command: fibackup prune --help" in said


def test_a_store_is_not_old_and_new(capsys: pytest.CaptureFixture[str]) -> None:
    """One refuses to make a store, the other wants one."""
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(
            ["backup", "--store", "/s", "--existing-store", "--new-store", "web1"]
        )
    assert caught.value.code == USAGE
    assert "--new-store: not allowed with argument --existing-store" in capsys.readouterr().err


def test_wishes_that_do_not_fit_are_wrong_usage() -> None:
    """Also when the domain or the point shows it."""
    assert exit_code(fb.PolicyError(reason="no such disk", target="vdz")) == USAGE


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("verify", "--store", "/s", "--rate"), "rate"),
        (("consolidate", "web1", "--bandwidth"), "bandwidth"),
    ],
)
@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("100", 100), ("50M", 50 << 20), ("1GiB", 1 << 30)]
)
def test_bytes_have_a_unit(words: tuple[str, ...], name: str, text: str, size: int) -> None:
    """Powers of 1024, with every option that takes bytes."""
    assert getattr(build_parser().parse_args([*words, text]), name) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5M", "M", "much"])
def test_what_is_no_number_of_bytes_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an example of one that is."""
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["consolidate", "web1", f"--bandwidth={text}"])
    assert caught.value.code == USAGE
    assert "such as 50M" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "such as 36h"),
        ("0d", "such as 36h"),
        ("99999999999w", "more than time has"),
        (f"1{'0' * 5000}h", "more than time has"),
    ],
)
def test_what_is_no_span_of_time_is_refused(
    text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that no clock can count."""
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["prune", "--store", "/s", f"--keep-within={text}"])
    assert caught.value.code == USAGE
    assert words in capsys.readouterr().err
