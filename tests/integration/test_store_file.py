"""A store whose ``fibackup-store.json`` is lost: the points say what belongs there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fibackup as fb
from fibackup.cli.main import main
from hypervisor.stores import StoreMaker

pytestmark = pytest.mark.libvirt

NAME = "fibackup-store.json"
LINE = "write it anew with this line: "


@pytest.fixture
def maker(tmp_path: Path) -> Iterator[StoreMaker]:
    """Give a store with a full and an increment."""
    (tmp_path / "made").mkdir()
    with StoreMaker(tmp_path / "made") as made:
        for number in (1, 2):
            made.point({"vda": {number: number}})
        yield made


@pytest.mark.parametrize("damage", [None, "", "{", '{"format": 1}'])
def test_the_store_file_can_be_written_anew(
    maker: StoreMaker, damage: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else has to be known; then all is as before, and backups go on."""
    file = maker.root / NAME
    history = maker.history()
    file.unlink()
    if damage is not None:
        file.write_text(damage)
    with pytest.raises(fb.ManifestError) as caught:
        fb.Store.open(maker.root)
    assert caught.value.path == str(file)
    said, _, line = caught.value.reason.partition(LINE)
    assert history.store in said
    assert said.startswith(f"{file}: {'it is gone; ' if damage is None else ''}")
    assert str(caught.value).endswith(line)
    for verb in (["list"], ["verify"], ["prune", "--keep-last", "1"]):
        assert main([*verb, "--store", str(maker.root)]) == 12
        told = capsys.readouterr().err
        assert told.splitlines()[0].endswith(LINE + line)
        assert f"another copy of the store, or write {NAME} anew" in told
    file.write_text(line)
    with fb.Store.open(maker.root) as store:
        assert store.read_history(maker.uuid) == history
    assert main(["verify", "--store", str(maker.root)]) == 0
    new = maker.point({"vda": {3: 3}})
    assert new.disks[0].kind is fb.DiskKind.INCREMENT
    assert maker.restores(new.id, tmp_path / "into")


def test_the_file_of_another_store_is_refused(
    maker: StoreMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No point would be this store's: a list had none, and the next backup was a full."""
    file, store = maker.root / NAME, maker.history().store
    (tmp_path / "other").mkdir()
    with fb.Store.create(tmp_path / "other") as other:
        uuid = other.uuid
    shutil.copy(tmp_path / "other" / NAME, file)
    told = ""
    for verb in (["list"], ["verify"], ["restore", maker.uuid, "--into", str(tmp_path / "into")]):
        assert main([*verb, "--store", str(maker.root)]) == 12
        told = capsys.readouterr().err
        words = f"{file}: it is the file of another store, {uuid}; the points here are of store"
        assert f"{words} {store}: " in told
    _, _, line = told.splitlines()[0].partition(LINE)
    file.write_text(line)
    assert main(["verify", "--store", str(maker.root)]) == 0


@pytest.mark.parametrize("which", [0, 1], ids=["oldest", "newest"])
def test_one_manifest_of_another_store_is_that_points_own_fault(
    maker: StoreMaker, which: int
) -> None:
    """The others tell that the file of the store is the right one."""
    with StoreMaker(maker.root.parent.parent) as other:
        other.point({"vda": {1: 1}})
        (strange,) = other.home.glob("2*.json")
        shutil.copy(strange, sorted(maker.home.glob("2*.json"))[which])
    with fb.Store.open(maker.root) as store:
        assert len(store.read_history(maker.uuid).points) == 1


def test_what_cannot_be_told_is_not_proposed(maker: StoreMaker) -> None:
    """Points of two stores in one directory; and no point that can be read."""
    with StoreMaker(maker.root.parent.parent) as other:
        other.point({"vda": {1: 1}})
        name = other.home.name.replace("web1", "web2")[:-1] + "0"
        shutil.copytree(other.home, maker.root / name)
    (maker.root / NAME).unlink()
    with pytest.raises(fb.ManifestError, match="of several stores") as caught:
        fb.Store.open(maker.root)
    assert LINE not in caught.value.reason
    for manifest in maker.root.glob("*/*.json"):
        manifest.write_text("{")
    with pytest.raises(fb.NotAStoreError, match="is its disk mounted"):
        fb.Store.open(maker.root)


def test_nothing_is_read_out_of_what_may_be_a_copy(
    maker: StoreMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older one would be restored as the newest point, or a point that is there be denied."""
    home, into = maker.home, tmp_path / "into"
    copy = home.with_name(f"before-{home.name}")
    shutil.copytree(home, tmp_path / "aside")
    newest = maker.point({"vda": {3: 3}}).id
    shutil.move(tmp_path / "aside", copy)
    words = f"{copy.name}, {home.name}; only {copy.name} is read: move the copy out"
    store = ["--store", str(maker.root)]
    for more in ([], ["--point", newest], ["--dry-run"]):
        assert main(["restore", *store, maker.uuid, "--into", str(into), *more]) == 1
        told = capsys.readouterr()
        assert words in told.err
        assert not into.exists()
    assert main(["prune", *store, "--keep-last", "1", "--dry-run"]) == 1
    assert words in capsys.readouterr().err
    assert main(["verify", *store]) == 12
    told = capsys.readouterr()
    assert told.out.count(words) == 1
    assert f"fault: {copy.name}: directories of the store have the same UUID" in told.out
    history = maker.history()
    assert (history.directory, history.copies) == (copy.name, (home.name,))
    problems = [
        found.text
        for found in fb.diagnose_store(fb.read_store_facts(str(maker.root)))
        if found.level is fb.Level.PROBLEM
    ]
    assert [words in text for text in problems] == [True]
    shutil.rmtree(copy)
    assert maker.history().copies == ()
    assert maker.restores(newest, into)


def test_nothing_is_written_while_a_domain_has_two_directories(
    maker: StoreMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is a copy, and nobody can tell which: its name may even sort first."""
    points, home = maker.history().points, maker.home
    copy = home.with_name(f"before-upgrade-{home.name}")
    shutil.copytree(home, copy)
    assert maker.store.domains() == (maker.uuid,)
    assert main(["list", "--store", str(maker.root)]) == 0
    told = capsys.readouterr()
    assert told.out.count("before-upgrade") == 0
    assert (
        f"while one may be a copy: {copy.name}, {home.name}; only {copy.name} is read" in told.err
    )
    assert main(["prune", "--store", str(maker.root), "--keep-last", "1"]) == 1
    assert f"while one may be a copy: {copy.name}, web1-" in capsys.readouterr().err
    with pytest.raises(fb.StoreError, match="have the same UUID"):
        maker.point({"vda": {3: 3}})
    shutil.rmtree(copy)
    copy.mkdir()  # nothing is in it
    home.with_name(f"after-{home.name}").symlink_to(home.name)
    assert maker.history().copies == ()
    assert maker.history().points == points
    assert maker.restores(maker.point({"vda": {3: 3}}).id, tmp_path / "into")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_only_looks_like_a_domain_is_told_with_what_helps(
    maker: StoreMaker, kind: str, tmp_path: Path
) -> None:
    """It may be all that is left of one: it is no error that anybody passes over."""
    last = "1" if maker.uuid[-1] != "1" else "2"
    path = maker.root / f"web9-{maker.uuid[:-1]}{last}"
    if kind == "file":
        path.touch()
    else:
        path.symlink_to(tmp_path)
    with pytest.raises(fb.HostError, match="Not a directory, but named as one of a domain: move"):
        maker.store.read_history(path.name[-36:])
    assert maker.store.strangers() == (path.name,)
    assert maker.history().points
