"""The command line starts fast: what is not needed is not imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fibackup.cli.parser import VERBS, build_parser, verb_module

HEAVY = {"attrs", "libvirt", "rich", "xml", "tomllib", "subprocess", "argcomplete", "email"}
SHOW_MODULES = """
import sys
from fibackup.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sorted(sys.modules), file=sys.stderr)
"""


ELSEWHERE = "or FIBACKUP_STORE, or store in a configuration file"


def modules_after(*words: str) -> set[str]:
    """Return the modules that a command has imported."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_MODULES, *words],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout
    return set(done.stderr.splitlines()[-1].split())


def test_help_imports_next_to_nothing() -> None:
    """The list of the verbs needs no verb, no libvirt, no parser of XML, and no rich."""
    found = modules_after("--help")
    assert HEAVY & {name.partition(".")[0] for name in found} == set()
    ours = {name for name in found if name.startswith("fibackup.")}
    assert {name for name in ours if not name.startswith("fibackup.cli")} == set()
    assert {name for name in ours if name.startswith("fibackup.cli.verbs")} == set()


def test_the_help_of_a_verb_imports_that_verb_only() -> None:
    """One verb's options are there without the others, and without libvirt."""
    found = modules_after("backup", "--help")
    assert {name for name in found if name.startswith("fibackup.cli.verbs.")} == {
        "fibackup.cli.verbs.backup"
    }
    assert found & {"libvirt", "rich", "argcomplete"} == set()


LIMIT_THEN_RUN = """
import resource, sys
from fibackup.cli import main
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
main(["list", "--store", "/nowhere"])
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 65536), hard))
"""


def test_it_may_open_as_many_files_as_the_hard_limit_allows() -> None:
    """The default of a login is too few for the images of several deep chains."""
    done = subprocess.run(
        [sys.executable, "-c", LIMIT_THEN_RUN],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "True"


def test_the_version_is_that_of_the_package() -> None:
    """``--version`` says the name and a number."""
    command = [sys.executable, "-m", "fibackup", "--version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("fibackup 0.")


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_of_the_table_is_there(name: str) -> None:
    """Each verb has a module, and its help has examples or needs none."""
    module = verb_module(name)
    assert callable(module.run)
    done = subprocess.run(
        [sys.executable, "-m", "fibackup", name, "--help"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith(f"usage: fibackup {name} ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "--stroe", "/b"], "there is no --stroe; do you mean --store?"),
        (["list", "--stroe=/b"], "there is no --stroe; do you mean --store?"),
        (
            ["backup", "-s", "/b", "--dryrun", "web1"],
            "there is no --dryrun; do you mean --dry-run?",
        ),
        (["verify", "-s", "/b", "--qqqq"], "there is no --qqqq"),
        (
            ["list"],
            f"the following arguments are required: -s/--store ({ELSEWHERE})",
        ),
        (
            ["restore", "-s", "/b", "web1", "--into", "/i", "--as", "flst"],
            "argument --as: invalid choice: 'flst' (choose from 'flat', 'chain', 'linked')",
        ),
    ],
)
def test_what_is_wrong_with_the_words_is_said_alone(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not behind ten lines of options; and a misspelt option before what it left missing."""
    monkeypatch.setenv("FIBACKUP_CONFIG", "")
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(words)
    assert caught.value.code == 2
    verb = f"fibackup {words[0]}"
    assert capsys.readouterr().err == f"{verb}: error: {said}\n{verb} --help has the options\n"


def test_what_follows_two_dashes_is_no_option(tmp_path: Path) -> None:
    """A domain may be called like one."""
    found = build_parser().parse_args(["backup", "-s", str(tmp_path), "--", "--stroe"])
    assert found.domains == ["--stroe"]


def test_a_filled_parser_knows_all_options() -> None:
    """What makes manual pages and completion sees the options of each verb."""
    (verbs,) = (each for each in build_parser(filled=True)._actions if each.dest == "verb")
    assert isinstance(verbs.choices, dict)
    assert list(verbs.choices) == list(VERBS)
    assert all("--json" in verb.format_help() for verb in verbs.choices.values())


@pytest.mark.parametrize("words", [("--print-completion", "fish"), ("--version",)])
def test_a_reader_that_is_gone_is_no_traceback(words: tuple[str, ...]) -> None:
    """As in ``fibackup --print-completion fish | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fibackup", *words],
            check=False,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
