"""The sdist and the wheel hold what they should, and nothing else."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = {".ci", ".editorconfig", ".gitattributes", ".gitignore"}


def test_the_wheel_has_every_module_and_the_marker_of_types(wheel: Path) -> None:
    """All of src/fibackup is in it, py.typed too, and no test."""
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if name.startswith("fibackup/")} == expected
    assert "fibackup/py.typed" in expected
    assert {name.partition("/")[0] for name in names} == {
        "fibackup",
        *(name.partition("/")[0] for name in names if name.startswith("fibackup-")),
    }


def test_the_wheel_has_the_schemas_of_the_store(wheel: Path) -> None:
    """Each JSON schema is installed below share/fibackup/schema, as it stands in docs/schema."""
    with zipfile.ZipFile(wheel) as archive:
        found = {
            Path(name).name: archive.read(name)
            for name in archive.namelist()
            if "/data/share/fibackup/schema/" in name
        }
    assert found == {path.name: path.read_bytes() for path in (ROOT / "docs/schema").iterdir()}
    assert found


def test_the_metadata_say_what_is_needed(wheel: Path) -> None:
    """Three requirements without an extra, and the three extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    always = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert [each.partition(">=")[0] for each in always] == [
        "attrs",
        "libvirt-python",
        "typing-extensions",
    ]
    assert metadata.get_all("Provides-Extra") == ["all", "cli", "zstd"]


def test_the_sdist_has_what_the_repository_has(sdist: Path) -> None:
    """Every file of the repository is in it: sources, tests, docs, examples, scripts."""
    words = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository: this is an sdist already")
    wanted = {
        name
        for name in listed.stdout.splitlines()
        if name.partition("/")[0] not in LEFT_OUT and (ROOT / name).exists()
    }
    with tarfile.open(sdist) as archive:
        found = {each.name.partition("/")[2] for each in archive.getmembers() if each.isfile()}
    assert wanted - found == set()
    assert found - wanted - {".gitignore"} == {"PKG-INFO", "man/fi-backup.1", "man/fibackup.1"}
