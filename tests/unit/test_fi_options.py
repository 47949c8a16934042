"""The arguments of fi-backup: every option, short, long, bundled, shortened, in any order."""

from __future__ import annotations

import pytest

from fibackup.cli.fi_options import (
    USAGE_TEXT,
    Consolidation,
    Options,
    UsageError,
    parse_options,
    resolve_names,
)
from fibackup.plan.consolidate import Method

ROLLING, ONLY = Consolidation.ROLLING, Consolidation.ONLY


def parse(text: str) -> Options:
    """Parse words apart by spaces."""
    return parse_options(text.split())


@pytest.mark.parametrize(
    ("short", "long", "expected"),
    [
        ("-b D x", "--backup_dir D x", Options(backup_dir="D", domains=("x",))),
        ("-c x", "--consolidate x", Options(consolidation=ONLY, domains=("x",))),
        ("-c x", "--consolidate_only x", Options(consolidation=ONLY, domains=("x",))),
        ("-C x", "--consolidate_and_snapshot x", Options(consolidation=ROLLING, domains=("x",))),
        ("-C x", "--consolidate_and_snaphot x", Options(consolidation=ROLLING, domains=("x",))),
        ("-b D -q x", "--backup_dir D --quiesce x",
         Options(backup_dir="D", quiesce=True, domains=("x",))),
        ("-b D -s S x", "--backup_dir D --dump_state_dir S x",
         Options(backup_dir="D", state_dir="S", domains=("x",))),
        ("-c -m blockpull x", "--consolidate --method blockpull x",
         Options(consolidation=ONLY, method=Method.BLOCKPULL, domains=("x",))),
        ("-c -m blockcommit x", "--consolidate --method blockcommit x",
         Options(consolidation=ONLY, domains=("x",))),
        ("-c -r", "--consolidate --all_running", Options(consolidation=ONLY, all_running=True)),
        ("-c -d x", "--consolidate --debug x",
         Options(consolidation=ONLY, debug=True, verbose=True, domains=("x",))),
        ("-c -v x", "--consolidate --verbose x",
         Options(consolidation=ONLY, verbose=True, domains=("x",))),
        ("-V", "--version", Options(version=True)),
        ("-h", "--help", Options(help=True)),
    ],
)  # fmt: skip
def test_each_option_has_two_forms(short: str, long: str, expected: Options) -> None:
    """Short and long mean the same."""
    assert parse(short) == parse(long) == expected


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("-dvC x", "-d -v -C x"),
        ("-dvb D x", "-d -v -b D x"),
        ("-bD x", "-b D x"),
        ("-dc all", "-d -c all"),
        ("-Cqb D x", "-C -q -b D x"),
        ("-Csstate -bD x", "-C -s state -b D x"),
        ("--backup_dir=D x", "-b D x"),
        ("--back D x", "-b D x"),
        ("--b=D --q x", "-b D -q x"),
        ("--dump S --b D x", "-s S -b D x"),
        ("--deb -c x", "-d -c x"),
        ("--m blockpull -c x", "-m blockpull -c x"),
        ("--verb -c x", "-v -c x"),
        ("--all -c", "-r -c"),
        ("--consolidate_a x", "-C x"),
        ("--consolidate_and_snap x", "-C x"),
        ("--consolidate_and_snaph x", "-C x"),
        ("--consolidate_and_snapho x", "-C x"),
        ("--consolidate_o x", "-c x"),
        ("x -b D y -v", "-v -b D x y"),
        ("-c -c x", "-c x"),
        ("-r all -c", "-c -r all"),
        ("--vers", "-V"),
        ("--he", "-h"),
    ],
)
def test_they_are_bundled_attached_shortened_and_mixed(text: str, same: str) -> None:
    """As getopt allows."""
    assert parse(text) == parse(same)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nothing to do"),
        ("x", "nothing to do"),
        ("-b", "requires argument"),
        ("-b D", "name domains"),
        ("-c", "name domains"),
        ("-x", "not recognized"),
        ("--frobnicate", "not recognized"),
        ("--cons x", "unique"),
        ("--d x", "unique"),
        ("--ver", "unique"),
        ("--quiesce=yes x", "must not have an argument"),
        ("-c -C x", "exclude each other"),
        ("-C -c x", "exclude each other"),
        ("-b D -q -s S x", "exclude each other"),
        ("-c -q x", "no backup"),
        ("-c -s S x", "no backup"),
        ("-C -q x", "belong to a backup"),
        ("-s S x", "belong to a backup"),
        ("-c -m blockcopy x", "no such method"),
        ("-c -r x", "name none beside it"),
        ("-c all x", "name none beside it"),
        ("-b= x y -c --backup_dir=", "needs a directory"),
    ],
)
def test_what_makes_no_sense_is_said(text: str, words: str) -> None:
    """And nothing is guessed."""
    with pytest.raises(UsageError, match=words):
        parse(text)


def test_a_double_dash_ends_the_options() -> None:
    """A domain may begin with a dash, and be named like an option."""
    options = parse_options(["-c", "--", "-b", "--consolidate_and_snaphot"])
    assert options.domains == ("-b", "--consolidate_and_snaphot")


def test_values_keep_their_spaces() -> None:
    """Two in a row, too."""
    options = parse_options(["-b", "/back  up/a dir", "-s", " s ", "web server"])
    assert (options.backup_dir, options.state_dir) == ("/back  up/a dir", " s ")
    assert options.domains == ("web server",)


def test_a_backup_is_what_b_without_c_asks_for() -> None:
    """-c takes none, also with -b."""
    assert [parse(text).backs_up for text in ("-b D x", "-C -b D x", "-c -b D x", "-C x")] == [
        True,
        True,
        False,
        False,
    ]
    assert parse("-c all").everything


def test_domains_are_names_first_and_lists_second() -> None:
    """A name with a space is that domain; each domain comes once, in order."""
    known = frozenset({"web server", "web", "db"})
    assert resolve_names(["web server"], known) == ("web server",)
    assert resolve_names(["web db", "web"], known) == ("web", "db")
    assert resolve_names(["db  nobody\tweb"], known) == ("db", "nobody", "web")
    assert resolve_names([" "], known) == ()


def test_the_help_names_every_option() -> None:
    """All long ones but the misspelled one."""
    for word in (
        "backup_dir",
        "consolidate",
        "consolidate_only",
        "consolidate_and_snapshot",
        "quiesce",
        "dump_state_dir",
        "method",
        "all_running",
        "debug",
        "verbose",
        "version",
        "help",
    ):
        assert f"--{word}" in USAGE_TEXT
