"""What is read of a store whose manifests were changed, exchanged or lost: never a false point."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fibackup as fb
from fibackup.cli.main import main
from fibackup.cli.say import warn
from fibackup.cli.stores import find_history
from fibackup.model import records
from fibackup.parse.seals import parse_seals
from hypervisor.host import run
from hypervisor.stores import StoreMaker

pytestmark = pytest.mark.libvirt

OTHER = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc45530"


@pytest.fixture
def maker(tmp_path: Path) -> Iterator[StoreMaker]:
    """Give a store with a full and two increments."""
    with StoreMaker(tmp_path) as made:
        for number in (1, 2, 3):
            made.point({"vda": {number: number}})
        yield made


def ids(maker: StoreMaker) -> list[str]:
    """Return the points that are read."""
    return [point.id for point in maker.history().points]


def forge(text: str, **changes: object) -> str:
    """Change fields of a point in a manifest, and let its checksum be right."""
    document: dict[str, Any] = json.loads(text)
    document["point"] |= changes
    del document["checksum"]
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["checksum"] = f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
    return json.dumps(document)


def test_every_published_point_has_a_seal(maker: StoreMaker) -> None:
    """``sha256sum --check points.sha256`` checks every manifest, and the file is private."""
    seals = maker.path("points.sha256")
    assert list(parse_seals(seals.read_bytes())) == ids(maker)
    assert seals.stat().st_mode & 0o777 == 0o600
    run("sha256sum", "--quiet", "--check", "points.sha256", cwd=maker.home)
    assert not list(maker.home.glob(".*"))


def test_a_forged_manifest_is_no_point(maker: StoreMaker, tmp_path: Path) -> None:
    """Also with a right checksum: it is not the one that was published; others still restore."""
    first, second, third = ids(maker)
    manifest = maker.path(f"{third}.json")
    manifest.write_text(forge(manifest.read_text(), warnings=["nothing"]))
    history = maker.history()
    assert [point.id for point in history.points] == [first, second]
    assert history.unreadable == ((f"{third}.json", "it is not the manifest that was published"),)
    assert not maker.restores(third, tmp_path / "out")
    assert maker.restores(second, tmp_path / "out")


def test_a_lost_manifest_is_known_to_be_lost(
    maker: StoreMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also that of the newest point, to which nothing points."""
    third = ids(maker)[-1]
    maker.path(f"{third}.json").unlink()
    history = maker.history()
    assert history.lost == (third,)
    assert history.next_sequence == 4
    with pytest.raises(fb.ManifestError, match="is gone"):
        history.point(third)
    assert main(["list", "--store", str(maker.root)]) == 0
    told = f"fibackup: warning: {maker.home.name}/{third}.json: it is gone"
    assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize("damage", ["junk", "gone"])
def test_a_lost_manifest_ends_a_prune_also_when_no_seal_tells_of_it(
    maker: StoreMaker, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its image is there, and nothing else explains that; what it lies on must stay."""
    third = ids(maker)[-1]
    manifest, seals = maker.path(f"{third}.json"), maker.path("points.sha256")
    manifest.rename(tmp_path / "manifest")
    seals.write_text("junk")
    if damage == "gone":
        seals.unlink()
    words = ["--store", str(maker.root)]
    assert main(["list", *words]) == 0
    told = capsys.readouterr().err
    what = "damaged (the last line is not that of the lines above)" if damage == "junk" else damage
    assert f"points.sha256 is {what}: it cannot be told whether a point was lost" in told
    assert f"of no point there is: vda/{third}.qcow2" in told
    for more in ([], ["--dry-run"]):
        assert main(["prune", "--keep-last", "1", *words, *more]) == 12
        assert f"vda/{third}.qcow2 is of no point" in capsys.readouterr().err
    assert main(["verify", *words]) == 12
    assert "the manifest of its point may be gone" in capsys.readouterr().out
    (tmp_path / "manifest").rename(manifest)
    assert main(["prune", "--keep-last", "1", *words]) == 0
    assert maker.restores(third, tmp_path / "out")


@pytest.mark.parametrize("file", sorted(getattr(records, name) for name in records.__all__))
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_in_place_of_a_small_one_spoils_no_point(
    maker: StoreMaker, tmp_path: Path, file: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is damaged like any other, told by its name, and not followed."""
    path, target = maker.path(file), tmp_path / "target"
    path.unlink(missing_ok=True)
    if kind == "link":
        target.write_text("theirs")
        path.symlink_to(target)
    else:
        os.mkfifo(path)
    store = ["--store", str(maker.root)]
    assert main(["list", *store]) == 0
    assert file in capsys.readouterr().err
    assert all(maker.restores(point, tmp_path / "out") for point in ids(maker))
    assert main(["verify", *store]) == 12
    told = capsys.readouterr().out
    assert f"{file}: " in told
    assert "3 of 3 points whole" in told
    assert not target.exists() or target.read_text() == "theirs"


@pytest.mark.parametrize("file", ["lock", "lock.readers", "lock.verified"])
def test_a_pipe_in_place_of_a_lock_holds_nobody_up(
    maker: StoreMaker, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command ends, and names it where it is."""
    path = maker.path(file)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    store = ["--store", str(maker.root)]
    for verb in (["list"], ["verify"], ["prune", "--keep-last", "1"]):
        main([*verb, *store])
    told = capsys.readouterr()
    assert str(path) in told.err or f"{file}: no fibackup writes such a file" in told.out


@pytest.mark.parametrize("module", ["merge", "prune"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_prune_that_died_beside_its_journal_leaves_no_point_without_a_seal(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch, module: str, when: str
) -> None:
    """The next prune finishes it, or has nothing to do any more."""
    name = f"fibackup.host.{module}._abandon"
    real = importlib.import_module(f"fibackup.host.{module}")._abandon

    def died(dir_fd: int) -> None:
        monkeypatch.setattr(name, real)
        if when == "after":
            real(dir_fd)
        raise SystemExit(9)

    prune = ["prune", "--keep-last", "1", "--store", str(maker.root)]
    monkeypatch.setattr(name, died)
    with pytest.raises(SystemExit):
        main(prune)
    assert main(prune) == 0
    assert maker.store.survey(maker.uuid).unsealed == ()
    assert main(["verify", "--strict", "--store", str(maker.root)]) == 0


def test_what_leads_out_when_a_manifest_is_lost_for_good(
    maker: StoreMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each error says what to do next, and whoever does it can prune again."""
    lost, above = ids(maker)[1:3]
    manifest, image = maker.path(f"{lost}.json"), maker.path(f"vda/{lost}.qcow2")
    manifest.write_text("junk")
    prune = ["prune", "--keep-last", "2", "--store", str(maker.root)]
    assert main(prune) == 12
    assert "move it away, if it is there, and points.sha256 too" in capsys.readouterr().err
    manifest.unlink()
    maker.path("points.sha256").unlink()
    newer = [maker.point({"vda": {3: 4}}, full=True).id, maker.point({"vda": {4: 4}}).id]
    assert main(prune) == 12
    told = capsys.readouterr().err
    assert f"vda/{lost}.qcow2 is of no point" in told
    assert f"the image moved away; {above} lies on it, and can be restored by hand alone" in told
    flat = tmp_path / "by hand.raw"
    top = maker.path(f"vda/{above}.qcow2")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, flat)
    assert flat.read_bytes() == maker.references[above]["vda"].read_bytes()
    image.rename(tmp_path / image.name)
    assert main(prune) == 0
    assert ids(maker) == newer
    assert all(maker.restores(point, tmp_path / "out") for point in newer)


def test_a_domain_that_has_lost_every_point_is_said_to_have_none(maker: StoreMaker) -> None:
    """Asked for by UUID or by name: it is not one of several of that name."""
    for point in ids(maker):
        maker.path(f"{point}.json").unlink()
    for name in (maker.uuid, maker.name):
        with pytest.raises(fb.NoSuchPointError, match="no point of this domain"):
            find_history(maker.store, name, warn)


def test_a_domain_of_which_only_images_are_left_is_no_empty_one(
    maker: StoreMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """All manifests and the seals are gone: every command says so, and none takes it for well."""
    first = f"vda/{ids(maker)[0]}.qcow2"
    for file in (*maker.home.glob("*.json"), maker.path("points.sha256")):
        file.unlink()
    where = ("--store", str(maker.root))
    for words, code in (
        (("verify", *where), 12),
        (("verify", *where, "--deep"), 12),
        (("list", *where), 0),
        (("prune", *where, "--keep-last", "1"), 12),
        (("prune", *where, "--keep-last", "1", maker.uuid), 12),
    ):
        assert main(list(words)) == code, words
        printed = capsys.readouterr()
        assert first in printed.out + printed.err, words


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [_link, _directory])
def test_what_is_no_plain_file_is_no_manifest(
    maker: StoreMaker, change: Callable[[Path], None]
) -> None:
    """It spoils its own point only."""
    *others, third = ids(maker)
    change(maker.path(f"{third}.json"))
    assert ids(maker) == others
    assert [file for file, _ in maker.history().unreadable] == [f"{third}.json"]


def test_a_manifest_of_another_domain_spoils_its_own_point_only(
    maker: StoreMaker, tmp_path: Path
) -> None:
    """Points of two domains that were taken in the same second have the same id."""
    with StoreMaker(tmp_path, uuid=OTHER, name="web2") as other:
        foreign = other.point({"vda": {}})
        first, *rest = ids(maker)
        assert foreign.id == first
        maker.path("points.sha256").unlink()  # without seals, by what it says alone
        shutil.copy(other.path(f"{first}.json"), maker.path(f"{first}.json"))
    assert ids(maker) == rest
    assert "not of this one" in maker.history().unreadable[0][1]


def test_a_directory_with_the_uuid_of_another_domain_is_to_be_renamed(maker: StoreMaker) -> None:
    """The seals beside the manifests prove that they belong together; nothing is damaged."""
    before = ids(maker)
    home = maker.home
    wrong = home.rename(home.with_name(f"web1-{OTHER}"))
    [*reasons] = dict(maker.store.read_history(OTHER).unreadable).values()
    assert len(reasons) == len(before)
    assert all("should end with that UUID, rename it" in reason for reason in reasons)
    assert all(maker.uuid in reason for reason in reasons)
    wrong.rename(home)
    assert ids(maker) == before


def test_a_point_that_claims_the_place_of_another_is_refused(maker: StoreMaker) -> None:
    """The one with a seal is the one that was published."""
    first, *_ = before = ids(maker)
    intruder = "20200101T000000Z"
    text = maker.path(f"{first}.json").read_text()
    maker.path(f"{intruder}.json").write_text(forge(text, id=intruder))
    history = maker.history()
    assert [point.id for point in history.points] == before
    assert history.unreadable == (
        (f"{intruder}.json", f"it claims to be number 1, which is point {first}"),
    )


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damaged_seals_spoil_no_point_and_are_written_anew(maker: StoreMaker, damage: str) -> None:
    """Seals are a second opinion; the next point brings them back, for all."""
    seals = maker.path("points.sha256")
    data = bytearray(seals.read_bytes())
    data[3] ^= 1
    seals.write_bytes(data if damage == "flipped" else data[:-9])
    if damage == "gone":
        seals.unlink()
    before = ids(maker)
    assert len(before) == 3
    new = maker.point({"vda": {}}).id
    assert list(parse_seals(seals.read_bytes())) == [*before, new]


def test_only_a_first_point_may_lack_the_file_of_seals(
    maker: StoreMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its run was killed before the seal; a lone point with images of no point has lost others."""
    first, *others = ids(maker)
    seals, words = maker.path("points.sha256"), ["verify", "--store", str(maker.root)]
    assert main(words) == 0
    seals.unlink()
    assert main(words) == 12
    assert "points.sha256: it is gone: it cannot be told" in capsys.readouterr().out
    for point in others:
        maker.path(f"{point}.json").rename(tmp_path / f"{point}.json")
    assert dict(maker.history().damaged_records) == {"points.sha256": "it is gone"}
    for point in others:
        maker.path(f"vda/{point}.qcow2").unlink()
    assert maker.history().damaged_records == ()
    assert main(words) == 0
    maker.path(f"{first}.json").write_text("{")
    (tmp_path / f"{others[1]}.json").rename(maker.path(f"{others[1]}.json"))
    assert maker.history().damaged_records != ()


def test_a_damaged_manifest_gets_no_seal(maker: StoreMaker) -> None:
    """A seal that is made anew must not bless what is broken; a good copy is welcome later."""
    first, second, third = ids(maker)
    good = maker.path(f"{second}.json").read_bytes()
    maker.path("points.sha256").unlink()
    maker.path(f"{second}.json").write_bytes(good[:-20])
    new = maker.point({"vda": {}}).id
    assert list(parse_seals(maker.path("points.sha256").read_bytes())) == [first, third, new]
    maker.path(f"{second}.json").write_bytes(good)
    assert second in ids(maker)


def test_a_point_without_a_seal_is_a_point_all_the_same(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A seal that cannot be written costs no point, and the next one brings it along."""
    real = os.rename

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    point = maker.point({"vda": {}}).id
    assert ids(maker)[-1] == point
    assert "has no seal yet" in caplog.text
    assert not list(maker.home.glob(".*"))
    assert point not in parse_seals(maker.path("points.sha256").read_bytes())
    monkeypatch.setattr(os, "rename", real)
    maker.point({"vda": {}})
    assert point in parse_seals(maker.path("points.sha256").read_bytes())


def test_a_history_looks_once_at_each_file_that_it_needs(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens each manifest once, asks each image for its size once, and follows no link."""
    points = ids(maker)
    maker.path("vdz").symlink_to("vda")
    opened: list[str] = []
    asked: list[str] = []
    really_open, really_stat = os.open, os.stat

    def counted_open(name: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        opened.append(name)
        return really_open(name, flags, mode, dir_fd=dir_fd)

    def counted_stat(
        name: str, *, dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> os.stat_result:
        asked.append(name)
        return really_stat(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "open", counted_open)
    monkeypatch.setattr(os, "stat", counted_stat)
    history = maker.history()
    monkeypatch.undo()
    of_points = [name for name in opened if str(name).startswith(tuple(points))]
    assert of_points == [f"{point}.json" for point in points]
    of_points = [name for name in asked if str(name).startswith(tuple(points))]
    assert sorted(of_points) == sorted(path.name for path in maker.path("vda").iterdir())
    assert len(history.points) == 3
    assert not history.unclaimed
