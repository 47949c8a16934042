"""The built wheel, in environments that hold nothing else: no clone, no editable install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEBIAN_PYTHON = Path("/usr/bin/python3")
WHEELS = ROOT / ".cache" / "wheels"


class Environment:
    """A virtual environment, and commands in it that see nothing of this clone."""

    def __init__(self, directory: Path, python: Path, *options: str) -> None:
        """Make it."""
        self.bin: Path = directory / "bin"
        self.directory: Path = directory
        _checked([str(python), "-m", "venv", *options, str(directory)])

    def run(self, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, without checking how it ends."""
        program, *rest = map(str, words)
        return subprocess.run(
            [str(self.bin / program), *rest],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=clean_environment(self.bin) | more,
            timeout=240,
        )

    def output(self, *words: str | Path, **more: str) -> str:
        """Run a program that must succeed and have no complaint; return what it prints."""
        done = self.run(*words, **more)
        assert (done.returncode, done.stderr) == (0, ""), f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def install(self, wheels: Path, *requirements: str) -> None:
        """Install from a directory of wheels, and from nowhere else."""
        offline = ["--no-index", "--find-links", str(wheels), "--disable-pip-version-check"]
        _checked([str(self.bin / "python"), "-m", "pip", "install", *offline, *requirements])


def clean_environment(first: Path) -> dict[str, str]:
    """Return the variables of a shell that never heard of this clone; *first* leads PATH."""
    inherited = ("HOME", "LANG", "TMPDIR", "FIBACKUP_RUN_DIR")
    found = {name: os.environ[name] for name in inherited if name in os.environ}
    path = f"{first}{os.pathsep}{os.environ['PATH']}"
    return found | {"PATH": path, "FIBACKUP_CONFIG": "", "PYTHONDONTWRITEBYTECODE": "1"}


def _checked(command: list[str]) -> None:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}},
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory of the sdist and of the wheel: those of `make package`, or new ones."""
    if made := os.environ.get("FIBACKUP_DIST"):
        return Path(made)
    directory = tmp_path_factory.mktemp("dist")
    _checked(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    )
    return directory


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """Give the wheel."""
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    """Give the sdist."""
    (found,) = dist.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def wheels(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Give a directory of wheels: ours, and what it needs with all extras.

    What it needs is kept in .cache/wheels, so that a second run needs no network and no compiler.
    """
    directory = tmp_path_factory.mktemp("wheels")
    fetch = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    fetch += ["--wheel-dir", str(directory), f"{wheel}[all]"]
    WHEELS.mkdir(parents=True, exist_ok=True)
    kept = subprocess.run(
        [*fetch, "--no-index", "--find-links", str(WHEELS)], check=False, capture_output=True
    )
    if kept.returncode:
        _checked(fetch)
        for each in directory.glob("*.whl"):
            if each.name != wheel.name:
                shutil.copy(each, WHEELS)
    return directory


@pytest.fixture(scope="session")
def bare(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Give an environment with the wheel and without any extra."""
    made = Environment(tmp_path_factory.mktemp("bare"), Path(sys.executable))
    made.install(wheels, "fibackup")
    return made


@pytest.fixture(scope="session")
def full(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Give an environment with the wheel and all of its extras."""
    made = Environment(tmp_path_factory.mktemp("full"), Path(sys.executable))
    made.install(wheels, "fibackup[all]")
    return made


@pytest.fixture(scope="session")
def debian(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Give an environment over Debian's python3-libvirt, with no libvirt-python to be had."""
    package = "/usr/lib/python3/dist-packages/libvirt.py"
    if not (DEBIAN_PYTHON.exists() and Path(package).exists()):
        absent = "Debian's python3 and python3-libvirt"
        if os.environ.get("FIBACKUP_REQUIRE"):
            pytest.fail(f"missing: {absent}; run scripts/setup")
        pytest.skip(f"missing: {absent}")
    offered = tmp_path_factory.mktemp("without-libvirt")
    for each in wheels.glob("*.whl"):
        if not each.name.startswith("libvirt_python-"):
            shutil.copy(each, offered)
    made = Environment(tmp_path_factory.mktemp("debian"), DEBIAN_PYTHON, "--system-site-packages")
    made.install(offered, "fibackup[cli]")
    return made
