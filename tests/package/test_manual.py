"""The manual pages are installed, clean for mandoc, and say what --help says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Environment

ROOT = Path(__file__).parents[2]
PAGES = ("fibackup.1", "fi-backup.1")


@pytest.fixture
def mandoc() -> str:
    """Give the program that checks and shows manual pages."""
    found = shutil.which("mandoc")
    if found is None and os.environ.get("FIBACKUP_REQUIRE"):
        pytest.fail("missing: mandoc; run scripts/setup")
    if found is None:
        pytest.skip("missing: mandoc")
    return found


def shown(mandoc: str, page: Path) -> str:
    """Return a page as text, on one line."""
    done = subprocess.run(
        [mandoc, "-Tascii", "-O", "width=1000", str(page)],
        check=True,
        capture_output=True,
        text=True,
    )
    return re.sub(r".\x08", "", done.stdout)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_clean(bare: Environment, mandoc: str, name: str) -> None:
    """The installed page has no fault, not even one of style."""
    page = bare.directory / "share/man/man1" / name
    done = subprocess.run(
        [mandoc, "-Tlint", "-Wall", str(page)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", PAGES)
def test_the_check_of_a_page_can_fail(mandoc: str, tmp_path: Path, name: str) -> None:
    """A page with an unknown macro is not clean."""
    (tmp_path / name).write_text(".TH A 1 2026-11-25\n.SH NAME\na \\- b\n.NOSUCH\n")
    done = subprocess.run(
        [mandoc, "-Tlint", "-Wall", str(tmp_path / name)], check=False, capture_output=True
    )
    assert done.returncode


def test_the_page_has_each_verb_and_each_option(bare: Environment, mandoc: str) -> None:
    """What the help of a verb names stands in the page too, and each example."""
    text = shown(mandoc, bare.directory / "share/man/man1/fibackup.1")
    top = bare.output("fibackup", "--help")
    verbs = re.findall(r"^ {4}([a-z]+) {2,}", top, re.MULTILINE)
    assert {"backup", "chain", "verify"} <= set(verbs)
    missing = []
    for verb in verbs:
        words = bare.output("fibackup", verb, "--help", COLUMNS="1000")
        _, heading, section = text.partition(f"\n   {verb}\n")
        assert heading, verb
        section = re.split(r"\n {3}\S|\n[A-Z]", section)[0]
        section += text[: text.index("\nVERBS\n")]
        wanted = re.findall(r"^ {2}(?:-\w(?: \S+)?, )?(--[a-z-]+)", words, re.MULTILINE)
        wanted += re.findall(rf"^ {{2}}(fibackup {verb} .*\S)", words, re.MULTILINE)
        missing += [f"{verb}: {each}" for each in wanted if each not in section]
    assert missing == []


def test_the_page_of_the_drop_in_has_each_option(bare: Environment, mandoc: str) -> None:
    """Each long option of its help stands in the page too."""
    text = shown(mandoc, bare.directory / "share/man/man1/fi-backup.1")
    options = re.findall(r"--\w+", bare.output("fi-backup", "--help"))
    assert len(options) > 10
    assert [each for each in options if each not in text] == []


def test_the_exit_codes_are_those_of_the_docs(bare: Environment, mandoc: str) -> None:
    """The page and docs/errors.md list the same codes."""
    text = shown(mandoc, bare.directory / "share/man/man1/fibackup.1")
    _, _, section = text.partition("\nEXIT STATUS\n")
    section, _, _ = section.partition("\nENVIRONMENT\n")
    listed = re.findall(r"^ +(\d+(?:\+N)?) ", section, re.MULTILINE)
    table = (ROOT / "docs/errors.md").read_text("utf-8")
    codes = re.findall(r"^\| (\d+(?: \+ N)?) \|", table, re.MULTILINE)
    assert listed == [code.replace(" ", "") for code in codes]
    assert len(listed) > 9


def test_the_build_needs_no_libvirt(tmp_path: Path) -> None:
    """The pages are made in an environment where libvirt cannot be imported."""
    code = (
        "import runpy, sys\n"
        "sys.modules['libvirt'] = None\n"
        "sys.argv[1:] = [sys.argv[1]]\n"
        "runpy.run_path('scripts/man_pages.py', run_name='__main__')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PAGES)


def test_a_python_without_fibackup_is_told_which_one_has_it(tmp_path: Path) -> None:
    """And nothing is written."""
    code = (
        "import runpy, sys\n"
        "sys.path[:] = [each for each in sys.path if 'site-packages' not in each]\n"
        "runpy.run_path('scripts/man_pages.py', run_name='__main__')\n"
    )
    words = (sys.executable, "-I", "-S", "-c", code, str(tmp_path))
    done = subprocess.run(words, check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert ".venv/bin/python" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
