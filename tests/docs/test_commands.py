"""The commands that the pages show are right: each is read as the real command reads it."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fibackup.cli.config import configurable, read_files, settings_for
from fibackup.cli.fi_options import parse_options
from fibackup.cli.parser import VERBS, build_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"^ *```(?P<language>bash|toml)\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL)
PROGRAMS = {"fibackup", "fi-backup"}
ENDS = {"|", "||", "&&", ";", ">", ">>", "<", "&", ")"}


def code(path: Path, language: str) -> list[str]:
    """Return the blocks of a page that are in a language."""
    found = BLOCK.finditer(path.read_text("utf-8"))
    return [match["code"] for match in found if match["language"] == language]


def commands(text: str) -> Iterator[list[str]]:
    """Yield our own commands in a piece of shell, without what it does with their output."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.replace("$(", "( "), posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        words = list(lexer)
        for start, word in enumerate(words):
            if word in PROGRAMS and (start == 0 or words[start - 1] in ENDS | {"(", "sudo"}):
                rest = words[start:]
                yield rest[: next((i for i, w in enumerate(rest) if w in ENDS), len(rest))]


def read(words: list[str]) -> None:
    """Read a command as the program does; exit status 0 is that of --help and its like."""
    program, *arguments = words
    if program == "fi-backup":
        parse_options(arguments)
        return
    try:
        build_parser().parse_args(arguments)
    except SystemExit as ended:
        if ended.code:
            raise AssertionError(shlex.join(words)) from ended


def name(path: Path) -> str:
    """Name a page."""
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read no configuration."""
    monkeypatch.setenv("FIBACKUP_CONFIG", "")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_the_commands_of_a_page_are_understood(path: Path) -> None:
    """Every line of shell that begins with `fibackup` or `fi-backup` has a verb and options."""
    for block in code(path, "bash"):
        for words in commands(block):
            read(words)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_the_shell_of_a_page_is_shell(path: Path) -> None:
    """What we do not run is at least read by bash without complaint."""
    for block in code(path, "bash"):
        done = subprocess.run(["bash", "-n", "-c", block], check=False, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b""), block


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_the_configuration_of_a_page_is_accepted(path: Path, tmp_path: Path) -> None:
    """Each verb takes what a block of TOML sets."""
    for number, block in enumerate(code(path, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        file.chmod(0o600)
        files = read_files({"FIBACKUP_CONFIG": str(file)})
        assert files
        for verb in VERBS:
            settings_for(verb, configurable(options(verb)), files, {})


def options(verb: str) -> list[argparse.Action]:
    """Return the options of a verb."""
    (verbs,) = (
        action
        for action in build_parser(filled=True)._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    found: list[argparse.Action] = verbs.choices[verb]._actions
    return found


def test_there_are_commands_of_both_kinds() -> None:
    """The pages do show commands, so the tests above do look at something."""
    found = [w for path in PAGES for block in code(path, "bash") for w in commands(block)]
    assert len(found) > 30
    assert {words[0] for words in found} == PROGRAMS


@pytest.mark.parametrize(
    "line",
    [
        "fibackup list --stores /backup",
        "x=1; fibackup nothing",
        "fi-backup --nothing web1",
        'eval "$(date)" && fibackup list',
    ],
)
def test_a_wrong_command_is_found(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown option or verb, wherever it stands in the line, and a missing option."""
    (words,) = commands(f"{line} > /dev/null | cat  # a comment")
    with pytest.raises(Exception, match=r"nothing|stores|list"):
        read(words)
    capsys.readouterr()
