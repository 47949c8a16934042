"""A store that several processes use at once, or in which somebody has planted links."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

import fibackup as fb
from hypervisor.faulty import DONE, REFUSED, UUID, Act, Zygote, fork_server, later
from hypervisor.host import run
from hypervisor.stores import StoreMaker
from integration.sites import Site, hashes, make_site

pytestmark = pytest.mark.libvirt  # it needs qemu-img, as those do


@pytest.fixture
def site(zygote: Zygote, tmp_path: Path) -> Site:
    """Give a store with one point."""
    return make_site(tmp_path / "site", zygote)


@pytest.fixture(scope="module")
def many() -> Iterator[tuple[Zygote, ...]]:
    """Give processes that act at the same time."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(fork_server()) for _ in range(3))


def at_once(zygotes: tuple[Zygote, ...], acts: list[list[Act]]) -> list[list[int]]:
    """Let each process do its acts, all at the same time; return the exit codes of each."""
    codes: list[list[int]] = [[] for _ in acts]
    start = threading.Barrier(len(acts))

    def run(zygote: Zygote, mine: list[Act], said: list[int]) -> None:
        start.wait()
        said.extend(zygote.run(act) for act in mine)

    threads = [
        threading.Thread(target=run, args=each) for each in zip(zygotes, acts, codes, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


# -- at once -------------------------------------------------------------------------------------


def test_backups_at_once_take_turns_or_are_refused(many: tuple[Zygote, ...], site: Site) -> None:
    """Of processes that back a domain up at once, each has a whole point, or is told no."""
    acts = [
        [replace(site.act, at=later(60 * (3 * turn + number + 1))) for turn in range(8)]
        for number in range(3)
    ]
    codes = [code for each in at_once(many, acts) for code in each]
    assert set(codes) <= {DONE, REFUSED}
    assert site.points_are_whole() == 1 + codes.count(DONE)
    assert codes.count(DONE) >= 1
    assert [point.sequence for point in site.history().points] == list(
        range(1, codes.count(DONE) + 2)
    )
    assert many[0].run(replace(site.act, at=later(6000))) == DONE
    assert site.leftovers() == []


def test_restores_and_verifications_go_on_beside_backups(
    many: tuple[Zygote, ...], site: Site
) -> None:
    """A reader sees a point, whole, or none; it is neither refused nor does it refuse a writer."""
    out = site.directory / "out"
    acts = [
        [replace(site.act, at=later(60 * (turn + 1))) for turn in range(8)],
        [replace(site.act, verb="restore", into=str(out / str(turn))) for turn in range(4)],
        [replace(site.act, verb="verify", at=later(turn)) for turn in range(8)],
    ]
    assert at_once(many, acts) == [[DONE] * 8, [DONE] * 4, [DONE] * 8]
    assert site.points_are_whole() == 9
    images = sorted(out.glob("*/vda.qcow2"))
    assert len(images) == 4
    assert {site.flat(image) for image in images} == {site.expected}
    assert site.leftovers() == []


# -- modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_every_file_is_ours_alone_under_any_umask(zygote: Zygote, site: Site, mask: int) -> None:
    """Files 0600 and directories 0700: of a backup, a verification and a restore."""
    shutil.rmtree(site.store)
    site.store.mkdir(mode=0o700)
    out = site.directory / "a" / "out"
    for act in (
        site.act,
        replace(site.act, at=later(60)),
        replace(site.act, verb="verify", at=later(120)),
        replace(site.act, verb="restore", into=str(out)),
    ):
        assert zygote.run(replace(act, umask=mask)) == DONE
    found = [*site.store.rglob("*"), out.parent, *out.parent.rglob("*")]
    for path in found:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == wanted, path
    names = {path.name for path in found}
    assert {
        "fibackup-store.json",
        "lock",
        "lock.readers",
        "points.sha256",
        "verified.json",
    } <= names
    assert "vda.qcow2" in names


@pytest.mark.parametrize("form", list(fb.RestoreForm))
@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_every_form_of_a_restore_is_ours_alone(
    tmp_path: Path, form: fb.RestoreForm, mask: int
) -> None:
    """Flat, as a chain, and linked to the store."""
    with StoreMaker(tmp_path) as maker:
        maker.point({"vda": {0: 1}})
        maker.point({"vda": {1: 2}})
        into = PurePosixPath(tmp_path / "out")
        plan = fb.plan_restore(maker.history(), "latest", into=into, form=form)
        before = os.umask(mask)
        try:
            fb.Executor(None, maker.store).run(plan)
        finally:
            os.umask(before)
    found = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert len(found) > 1
    for path in found:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == wanted, path


# -- links ---------------------------------------------------------------------------------------

MAY_BE_LOST = {"HOME/points.sha256", "HOME/verified.json", "HOME/lock.verified"}
"""A damaged one spoils no point: it is told, made anew, or done without."""

DIRECTORIES = ("HOME", "HOME/vda")
FILES = (
    "fibackup-store.json",
    "HOME/lock",
    "HOME/lock.readers",
    "HOME/lock.verified",
    "HOME/points.sha256",
    "HOME/verified.json",
    "HOME/POINT.json",
    "HOME/POINT.xml",
    "HOME/vda/POINT.qcow2",
)


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        *((place, "symlink") for place in (*DIRECTORIES, *FILES)),
        *((place, "hard link") for place in FILES),
    ],
)
def test_what_a_link_leads_to_is_never_written(
    zygote: Zygote, site: Site, place: str, kind: str
) -> None:
    """Whatever a backup, a verification and a restore make of it, the link's target stays."""
    assert zygote.run(replace(site.act, verb="verify", at=later(1))) == DONE
    assert zygote.run(replace(site.act, verb="restore", into=str(site.directory / "first"))) == DONE
    (home,) = site.store.glob(f"*{UUID}")
    (point,) = site.history().points
    link = site.store / place.replace("HOME", home.name).replace("POINT", point.id)
    outside = site.directory / "outside"
    outside.mkdir(mode=0o700)
    target = outside / "target"
    link.rename(target)
    if kind == "symlink":
        link.symlink_to(target)
    else:
        link.hardlink_to(target)
    before = hashes(outside), _modes(outside)
    out = site.directory / "out"
    codes = [
        zygote.run(replace(site.act, at=later(60))),
        zygote.run(replace(site.act, verb="verify", at=later(61))),
        zygote.run(replace(site.act, verb="restore", into=str(out))),
    ]
    assert set(codes) <= {DONE, REFUSED}
    assert (hashes(outside), _modes(outside)) == before
    if kind == "symlink" and place not in MAY_BE_LOST:
        assert REFUSED in codes, "it was followed"
    if (out / "vda.qcow2").exists():
        assert site.flat(out / "vda.qcow2") == site.expected


def test_a_store_that_shares_its_files_with_a_copy_is_read(tmp_path: Path) -> None:
    """As cp -al makes one: both are verified and restored from, and a prune says what helps."""
    with StoreMaker(tmp_path) as maker:
        point = maker.point({"vda": {0: 1}})
        maker.point({"vda": {1: 2}})
        _read(maker.store, tmp_path / "first")
        run("cp", "-al", maker.root, tmp_path / "copy")
        copy = tmp_path / "copy" / maker.home.name
        before = hashes(copy), _modes(copy)
        _read(maker.store, tmp_path / "second")
        with pytest.raises(fb.StoreError, match="hard link") as caught:
            _prune(maker)
        assert caught.value.path == str(maker.home / "lock")
        command = caught.value.reason.rpartition(": ")[2]
        subprocess.run(["sh", "-c", command], cwd=maker.home, check=True)
        assert [each.id for each in _prune(maker)] != [point.id]
        assert _modes(copy) == before[1]
        del before[0][copy / "verified.json"]
        assert before[0].items() <= hashes(copy).items()
        with fb.Store.open(tmp_path / "copy") as store:
            _read(store, tmp_path / "third")


def test_locks_that_are_one_file_are_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a tool makes them that links equal files: a run would wait for the lock that it holds."""
    with StoreMaker(tmp_path) as maker:
        point = maker.point({"vda": {0: 1}})
        maker.point({"vda": {1: 2}})
        _read(maker.store, tmp_path / "first")
        (maker.home / "lock.verified").unlink()
        (maker.home / "lock.verified").hardlink_to(maker.home / "lock.readers")
        _read(maker.store, tmp_path / "second")
        assert "cp -p lock.verified lock.verified.own" in caplog.text
        assert [each.id for each in _prune(maker)] != [point.id]


def _read(store: fb.Store, into: Path) -> None:
    """Verify all, and restore."""
    found = fb.plan_verify(store.survey(UUID), now=datetime.now(UTC))
    verification = fb.Executor(None, store).run(found).verification
    assert verification is not None
    assert verification.faults == ()
    plan = fb.plan_restore(store.read_history(UUID), "latest", into=PurePosixPath(into))
    fb.Executor(None, store).run(plan)
    assert (into / "vda.qcow2").exists()


def _prune(maker: StoreMaker) -> tuple[fb.RestorePoint, ...]:
    """Keep the newest point; return what is left."""
    policy = fb.RetentionPolicy(keep_last=1)
    used = maker.store.images_in_use(maker.uuid)
    plan = fb.plan_prune(maker.history(), policy, now=datetime.now(UTC), in_use=used)
    fb.Executor(None, maker.store).run(plan)
    return maker.history().points


def _modes(directory: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mode for path in directory.rglob("*")}
