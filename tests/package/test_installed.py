"""What is installed from the wheel runs: with no extra, with all, and on Debian's own libvirt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisor import MIB, BlockDomain, DiskSpec, PrivateDaemon, missing_tools, same_content

from .conftest import Environment, clean_environment

USER = '''
"""A program of a user."""

from datetime import UTC, datetime

import fibackup as fb
from fibackup.testing import FakeHost, FakeStore


def back_up(host: fb.Host, store: fb.PointStore, name: str) -> fb.Report:
    domain = host.read_domain(name)
    plan = fb.plan_backup(domain, store.read_history(domain.uuid), now=datetime.now(UTC))
    return fb.Executor(host, store).run(plan)


def sizes(report: fb.Report) -> dict[str, int]:
    assert report.point is not None
    return {disk.target: disk.size_bytes for disk in report.point.disks}


host = FakeHost()
host.add_domain("web1", {"vda": {0: 7}})
print(sorted(sizes(back_up(host, FakeStore(host), "web1"))))
'''
WRONG = "import fibackup as fb\n\nfb.Store.open(7).read_history(None).points.nothing\n"


@pytest.fixture(scope="module")
def web1() -> Iterator[BlockDomain]:
    """Give a running domain of this name, under a daemon of its own."""
    absent = missing_tools()
    if absent and os.environ.get("FIBACKUP_REQUIRE"):
        pytest.fail(f"missing: {', '.join(absent)}; run scripts/setup")
    if absent:
        pytest.skip(f"missing: {', '.join(absent)}")
    with PrivateDaemon() as daemon:
        domain = BlockDomain(daemon, "web1", {"vda": DiskSpec()}, "")
        domain.start(paused=False)
        yield domain
        domain.close()


@pytest.fixture(params=["bare", "full", "debian"])
def installed(request: pytest.FixtureRequest) -> Environment:
    """Give each of the environments in turn."""
    environment: Environment = request.getfixturevalue(request.param)
    return environment


def test_the_package_is_the_installed_one(installed: Environment) -> None:
    """What is imported lies in the environment, not in the clone."""
    code = "import fibackup; print(fibackup.__file__)"
    assert installed.output("python", "-c", code).startswith(str(installed.directory))


def test_the_import_needs_no_extra(bare: Environment) -> None:
    """Every public name is there without rich, argcomplete and backports.zstd."""
    code = (
        "import fibackup as fb, fibackup.testing, sys\n"
        "for name in fb.__all__: getattr(fb, name)\n"
        "found = {'rich', 'argcomplete', 'backports'} & set(sys.modules)\n"
        "print(sorted(found), len(fb.__all__) > 50)"
    )
    assert bare.output("python", "-c", code) == "[] True\n"


def test_nothing_but_the_requirements_is_installed(bare: Environment) -> None:
    """Four distributions and what venv puts there."""
    code = "from importlib.metadata import distributions as d; print(*(e.name for e in d()))"
    names = {name.replace("_", "-") for name in bare.output("python", "-c", code).split()}
    assert names - {"pip", "setuptools"} == {
        "attrs",
        "fibackup",
        "libvirt-python",
        "typing-extensions",
    }


def test_the_extras_bring_what_they_name(full: Environment) -> None:
    """Progress bars, completion and Zstandard can be imported, and the requirements agree."""
    zstd = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    full.output("python", "-c", f"import rich, argcomplete, {zstd}")
    checked = full.run("python", "-m", "pip", "check", "--disable-pip-version-check")
    assert checked.stdout == "No broken requirements found.\n"


def test_the_scripts_run(installed: Environment) -> None:
    """Both commands know their version and explain themselves; so does `python -m fibackup`."""
    version = installed.output("fibackup", "--version")
    assert version.startswith("fibackup 0.")
    assert installed.output("fi-backup", "--version").startswith("fi-backup 0.")
    assert installed.output("python", "-m", "fibackup", "--version") == version
    assert "usage: fibackup" in installed.output("fibackup", "--help")
    assert "fi-backup" in installed.output("fi-backup", "--help")
    for verb in ("backup", "chain", "list", "restore"):
        assert f"usage: fibackup {verb}" in installed.output("fibackup", verb, "--help")


def test_completion_comes_with_the_extra(bare: Environment, full: Environment) -> None:
    """The script for the shell is printed where argcomplete is; elsewhere it says what to do."""
    assert "complete" in full.output("fibackup", "--print-completion", "bash")
    done = bare.run("fibackup", "--print-completion", "bash")
    assert done.returncode != 0
    assert "fibackup[cli]" in done.stderr


@pytest.mark.libvirt
def test_a_domain_is_backed_up_shown_and_restored(
    installed: Environment, web1: BlockDomain, tmp_path: Path
) -> None:
    """From backup to restore with the installed command; the bytes are those of the guest."""
    store, into = tmp_path / "store", tmp_path / "out"
    store.mkdir()
    web1.write("vda", 0, MIB, len(installed.directory.name))
    web1.reference("vda", installed.directory.name)

    def fibackup(*words: str | Path) -> str:
        done = installed.run("fibackup", *words, LIBVIRT_DEFAULT_URI=web1.hypervisor.uri)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    fibackup("backup", "--store", store, "--full", "web1")
    assert "vda" in fibackup("chain", "--store", store, "web1")
    (point,) = json.loads(fibackup("list", "--store", store, "--json"))["points"]
    assert (point["domain"], point["kind"]) == ("web1", "full")
    assert point["id"] in fibackup("list", "--store", store)
    assert "1 of 1 point whole" in fibackup("verify", "--store", store)
    fibackup("restore", "--store", store, "web1", "--into", into)
    reference = web1.reference_directory / f"{installed.directory.name}.vda.raw"
    assert same_content(into / "vda.qcow2", "qcow2", reference)


def test_libvirt_is_that_of_debian(debian: Environment) -> None:
    """Pip takes Debian's python3-libvirt for what fibackup needs, and nothing was compiled."""
    code = "import libvirt; print(libvirt.__file__)"
    assert debian.output("python", "-c", code) == "/usr/lib/python3/dist-packages/libvirt.py\n"
    assert not list(debian.directory.rglob("libvirtmod*"))
    assert not list(debian.directory.rglob("libvirt.py"))


def test_mypy_and_pyright_check_a_users_program(bare: Environment, tmp_path: Path) -> None:
    """Both, at their strictest, accept the program and see the mistakes of the wrong one."""
    python = bare.bin / "python"
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    mypy = ["mypy", "--strict", "--config-file=", f"--python-executable={python}"]
    pyright = ["pyright", f"--pythonpath={python}"]
    for checker in (mypy, pyright):
        good = check(bare, tmp_path, *checker, "user.py")
        assert good.returncode == 0, good.stdout + good.stderr
        bad = check(bare, tmp_path, *checker, "wrong.py")
        assert bad.returncode == 1
        assert bad.stdout.count("error") >= 3, bad.stdout
    assert bare.output("python", tmp_path / "user.py") == "['vda']\n"


def test_the_types_of_the_wheel_are_complete(bare: Environment, tmp_path: Path) -> None:
    """Of the installed package every public name has its type."""
    words = ("pyright", "--verifytypes", "fibackup", "--ignoreexternal")
    done = check(bare, tmp_path, *words)
    assert "completeness score: 100%" in done.stdout, done.stdout
    assert str(bare.directory) in done.stdout


def check(
    bare: Environment, directory: Path, checker: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """Run a checker of ours; it sees the packages of the bare environment and not ours."""
    return subprocess.run(
        [sys.executable, "-m", checker, *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
        env=clean_environment(bare.bin),
        timeout=240,
    )
