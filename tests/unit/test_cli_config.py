"""Files and the environment give defaults; what is wrong in them is said, with the place."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fibackup.cli import main
from fibackup.cli.config import (
    GLOBAL_KEYS,
    TABLES,
    ConfigError,
    configurable,
    read_files,
    settings_for,
)
from fibackup.cli.parser import VERBS, build_parser

FILE = """
store = "/backup"
verbose = 1

[backup]
quiesce = "require"
freeze-timeout = 90
consolidate = true
exclude = ["vdb", "vdc"]
jobs = 2

[list]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the one file that is read."""
    path = tmp_path / "fibackup.toml"
    path.write_text(FILE)
    monkeypatch.setenv("FIBACKUP_CONFIG", str(path))
    for name in os.environ:
        if name.startswith("FIBACKUP_") and name != "FIBACKUP_CONFIG":
            monkeypatch.delenv(name)
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
    return path


def parse(*words: str) -> argparse.Namespace:
    """Parse a command line."""
    return build_parser().parse_args(words)


def test_a_file_gives_defaults(config: Path) -> None:
    """Each kind of option takes a value of its kind; options of other verbs keep theirs."""
    found = parse("backup", "web1")
    assert config.exists()
    assert (found.store, found.verbose, found.quiesce) == ("/backup", 1, "require")
    assert (found.freeze_timeout, found.consolidate, found.jobs) == (90.0, True, 2)
    assert found.exclude == ["vdb", "vdc"]
    assert found.domains == ["web1"]
    assert parse("list").store == "/backup"
    assert parse("restore", "web1", "--into", "x").store == "/backup"


def test_the_command_line_wins(config: Path) -> None:
    """An option replaces what is configured, also a list, a count and a flag."""
    assert config.exists()
    found = parse(
        "backup", "-s", "/mnt", "--quiesce", "off", "--exclude", "vdz", "--no-consolidate",
        "-v", "-v", "--jobs", "1", "--progress", "web1",
    )  # fmt: skip
    assert (found.store, found.quiesce, found.exclude) == ("/mnt", "off", ["vdz"])
    assert (found.consolidate, found.verbose, found.jobs) == (False, 2, 1)
    assert found.no_progress is False


def test_only_who_says_so_wins_over_the_store(config: Path) -> None:
    """Compression is the store's choice, until a file or an option makes it."""
    words = ("backup", "web1")
    assert parse(*words).compress is None
    assert (parse(*words, "--compress").compress, parse(*words, "--no-compress").compress) == (
        True,
        False,
    )
    config.write_text('store = "/backup"\n[backup]\ncompress = false\n')
    assert (parse(*words).compress, parse(*words, "--compress").compress) == (False, True)


def test_the_environment_wins_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable is named after the option; one for the verb is stronger than one for all."""
    assert config.exists()
    for name, value in {
        "FIBACKUP_STORE": "/env",
        "FIBACKUP_BACKUP_QUIESCE": "off",
        "FIBACKUP_BACKUP_EXCLUDE": "vdx\nvdy",
        "FIBACKUP_BACKUP_CONSOLIDATE": "no",
        "FIBACKUP_VERBOSE": "0",
        "FIBACKUP_NO_PROGRESS": "yes",
        "FIBACKUP_BACKUP_JOBS": "",
    }.items():
        monkeypatch.setenv(name, value)
    found = parse("backup", "web1")
    assert (found.store, found.quiesce, found.exclude) == ("/env", "off", ["vdx", "vdy"])
    assert (found.consolidate, found.verbose, found.no_progress) == (False, 0, True)
    assert found.jobs == 2
    monkeypatch.setenv("FIBACKUP_BACKUP_STORE", "/strong")
    assert parse("backup", "web1").store == "/strong"
    assert parse("backup", "-s", "/flag", "web1").store == "/flag"


def test_libvirts_own_variable_is_environment_too(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LIBVIRT_DEFAULT_URI wins over a file, and FIBACKUP_CONNECT over it."""
    config.write_text('connect = "qemu:///file"\nstore = "/backup"\n')
    assert parse("backup", "x").connect == "qemu:///file"
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu:///env")
    assert parse("backup", "x").connect == "qemu:///env"
    monkeypatch.setenv("FIBACKUP_CONNECT", "qemu:///ours")
    assert parse("backup", "x").connect == "qemu:///ours"
    assert parse("backup", "-c", "qemu:///flag", "x").connect == "qemu:///flag"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("store = ", "not TOML"),
        ("storee = '/x'", "no key 'storee' outside of a table; is it 'store'?"),
        ("quiesce = 'off'", "no key 'quiesce' outside of a table"),
        ("[backups]\n", "no table [backups]; there are: backup, chain"),
        ("[restore]\ninto = '/x'\n", "no table [restore]"),
        ("[backup]\nquiescee = 'off'\n", "[backup] has no key 'quiescee'; is it 'quiesce'?"),
        ("[backup]\nzzz = 1\n", "[backup] has no key 'zzz'; there are: allow-paused"),
        ("[backup]\nall = true\n", "[backup] has no key 'all'"),
        ("[backup]\nquiesce = 'perhaps'\n", "[backup] quiesce: one of require, try, off"),
        ("[backup]\nquiesce = true\n", "[backup] quiesce: a text or a number, not True"),
        ("[backup]\nconsolidate = 'yes'\n", "[backup] consolidate: true or false, not 'yes'"),
        ("[backup]\nexclude = 'vda'\n", "[backup] exclude: a list, not 'vda'"),
        ("[backup]\nfreeze-timeout = 'long'\n", "freeze-timeout: not a number: 'long'"),
        ("[backup]\njobs = 0\n", "[backup] jobs: not a number of 1 or more: '0'"),
        ("verbose = true\n", "verbose: a number of 0 or more, not True"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    config: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    """A file that cannot be used is exit 2, names file, table and key, and nothing is begun."""
    config.write_text(text)
    assert main(["backup", "web1"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"fibackup: error: {config}: ")
    assert words in err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FIBACKUP_BACKUP_QUIESCE", "perhaps", "one of require, try, off, not 'perhaps'"),
        ("FIBACKUP_BACKUP_MEMORY", "maybe", "1 or 0, not 'maybe'"),
        ("FIBACKUP_VERBOSE", "-1", "a number of 0 or more, not '-1'"),
    ],
)
def test_a_wrong_variable_is_named(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    words: str,
) -> None:
    """The complaint begins with the variable."""
    assert config.exists()
    monkeypatch.setenv(name, value)
    assert main(["backup", "web1"]) == 2
    assert capsys.readouterr().err == f"fibackup: error: ${name}: {words}\n"


def test_help_is_there_when_a_file_is_wrong(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who looks for the right key can read the help."""
    config.write_text("wrong =")
    with pytest.raises(SystemExit) as ended:
        main(["backup", "--help"])
    assert ended.value.code == 0
    assert "--quiesce" in capsys.readouterr().out


def test_a_file_that_others_may_write_is_refused(config: Path) -> None:
    """A file names commands that are run, so it must be the user's own or root's."""
    config.chmod(0o666)
    with pytest.raises(ConfigError, match="other users may write it"):
        read_files({"FIBACKUP_CONFIG": str(config)})
    config.chmod(0o664)
    assert read_files({"FIBACKUP_CONFIG": str(config)})
    with pytest.raises(ConfigError, match="not a regular file"):
        read_files({"FIBACKUP_CONFIG": "/dev/null"})
    with pytest.raises(ConfigError, match="Not a directory"):
        read_files({"FIBACKUP_CONFIG": str(config / "gone")})


def test_the_user_file_comes_after_the_machine_s(tmp_path: Path) -> None:
    """The places are /etc and XDG_CONFIG_HOME, weakest first; FIBACKUP_CONFIG replaces both."""
    path = tmp_path / "fibackup.toml"
    path.write_text("store = '/user'\n")
    found = read_files({"XDG_CONFIG_HOME": str(tmp_path)})
    assert found[-1] == (str(path), {"store": "/user"})
    assert read_files({"XDG_CONFIG_HOME": str(tmp_path), "FIBACKUP_CONFIG": ""}) == []
    options = configurable(_actions("list"))
    both: list[tuple[str, Mapping[str, object]]] = [
        ("/etc/fibackup.toml", {"store": "/etc", "quiet": True}),
        found[-1],
    ]
    settings = settings_for("list", options, both, {})
    assert settings["store"] == ("/user", f"{path}: store")
    assert settings["quiet"] == (True, "/etc/fibackup.toml: quiet")


def _actions(verb: str) -> list[argparse.Action]:
    (verbs,) = (
        each for each in build_parser(filled=True)._actions if each.choices and each.dest == "verb"
    )
    assert isinstance(verbs.choices, dict)
    found: list[argparse.Action] = verbs.choices[verb]._actions
    return found


def test_tables_are_verbs() -> None:
    """Each verb but restore has a table, and each global key is an option of some verb."""
    assert set(VERBS) - {"restore"} <= set(TABLES)
    keys = {key for verb in VERBS for key in configurable(_actions(verb))}
    assert set(VERBS) <= {*TABLES, "restore"}
    assert {"connect", "store", "no-progress", "quiet", "verbose"} <= keys & set(GLOBAL_KEYS)


def complete(line: str, tmp_path: Path, **environment: str) -> set[str]:
    """Return what a shell would be told."""
    out = tmp_path / "completions"
    subprocess.run(
        [sys.executable, "-m", "fibackup"],
        check=False,
        env={
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_SHELL": "fish",  # no quoting
            "_ARGCOMPLETE_DFS": "|",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(out),
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "FIBACKUP_CONFIG": "",
            **environment,
        },
        timeout=60,
    )
    return {each.partition("|")[0].strip() for each in out.read_text().split("\n") if each}


UUID = "3f2c0000-0000-4000-8000-000000000001"


def test_words_are_completed(tmp_path: Path) -> None:
    """Verbs, options and choices, domains and points of a store are completed."""
    store = tmp_path / "store"
    (store / f"web-1-{UUID}").mkdir(parents=True)
    (store / f"web-1-{UUID}" / "20261124T040407Z.json").touch()
    (store / "lost+found").mkdir()
    assert set(VERBS) <= complete("fibackup ", tmp_path)
    assert complete("fibackup rest", tmp_path) == {"restore"}
    assert "--quiesce" in complete("fibackup backup --q", tmp_path)
    assert complete("fibackup backup --quiesce r", tmp_path) == {"require"}
    assert "web-1" in complete(f"fibackup list -s {store} ", tmp_path)
    assert complete(f"fibackup restore -s {store} web-1 --point ", tmp_path) == {
        "20261124T040407Z",
        "latest",
    }
    assert "web-1" in complete("fibackup list w", tmp_path, FIBACKUP_STORE=str(store))
    assert complete("fibackup list -s /nowhere x", tmp_path) == set()
    far = complete("fibackup chain -c qemu+ssh://nowhere.invalid/system x", tmp_path)
    assert far == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_shells_are_told_how(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``--print-completion`` prints a script that names the command."""
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    assert "fibackup" in capsys.readouterr().out


def test_without_argcomplete_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Completion without its library is exit 3, with what to install."""
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert ended.value.code == 3
    assert "pip install 'fibackup[cli]'" in capsys.readouterr().err
