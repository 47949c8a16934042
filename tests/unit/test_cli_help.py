"""The help of each verb says what it does, and shows examples that are right."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from fibackup.cli.parser import VERBS, build_parser

EXAMPLE = re.compile(r"^ {2}(fibackup [^\n]*?)(?: {2,}\S[^\n]*)?$", re.MULTILINE)
WIDEST = 100


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each verb, filled."""
    (verbs,) = (
        action
        for action in build_parser(filled=True)._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(verbs.choices)


def examples(text: str | None) -> list[list[str]]:
    """Return the words of each example in a help text."""
    return [shlex.split(match[1])[1:] for match in EXAMPLE.finditer(text or "")]


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read no configuration."""
    monkeypatch.setenv("FIBACKUP_CONFIG", "")


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_examples_that_parse(verb: str) -> None:
    """Each verb shows at least two lines of itself, and they are understood."""
    found = examples(parsers()[verb].epilog)
    assert len(found) >= 2
    for words in found:
        assert build_parser().parse_args(words).verb == verb


def test_the_help_of_the_command_has_examples_that_parse() -> None:
    """`fibackup --help` shows the way from a plan to a restore."""
    verbs = [build_parser().parse_args(words).verb for words in examples(build_parser().epilog)]
    assert verbs == ["backup", "backup", "list", "restore"]


@pytest.mark.parametrize("verb", VERBS)
def test_each_option_is_explained(verb: str) -> None:
    """No option or argument stands there without a word."""
    unexplained = [each.dest for each in parsers()[verb]._actions if not each.help]
    assert unexplained == []


@pytest.mark.parametrize("verb", VERBS)
def test_what_names_a_domain_or_a_point_is_completed(verb: str) -> None:
    """Wherever DOMAIN or POINT is asked for, the shell can offer those that there are."""
    asked = [each for each in parsers()[verb]._actions if each.metavar in {"DOMAIN", "POINT"}]
    assert [each.dest for each in asked if not hasattr(each, "completer")] == []


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_the_help_fits_a_terminal(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is wider than a hundred columns."""
    monkeypatch.setenv("COLUMNS", "80")
    text = parsers()[verb].format_help() if verb else build_parser().format_help()
    assert [line for line in text.splitlines() if len(line) > WIDEST] == []


def test_an_example_that_is_wrong_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """An option that does not exist ends the parser; so the tests above can fail."""
    (words,) = examples("examples:\n  fibackup list --stores /backup   what there is\n")
    assert words == ["list", "--stores", "/backup"]
    with pytest.raises(SystemExit):
        build_parser().parse_args(words)
    assert "--store" in capsys.readouterr().err
