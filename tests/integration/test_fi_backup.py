"""
The drop-in, through the scenario of the original's own CI, and then what that never did: a restore.

::

    T0  both domains off, backed up                  T3  both: two backups, consolidation; twice
    T1  one disk: two backups, consolidation; twice  T4  both: the same with -C
    T2  two disks: the same                          T5  both: the same with -s

Every point that any of them made is restored, and compared with what the guest had at its time.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import fibackup as fb
from fibackup.cli import fi_backup
from hypervisor import MIB, BlockDomain, DiskSpec, PrivateDaemon, differences
from integration.forks import Ended, Forks

pytestmark = pytest.mark.libvirt

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[(DEB|VER|WAR|ERR|INF)\] .*")


@dataclass
class Site:
    """A daemon with the domains t1d and t2d, directories with spaces, and what was restored."""

    daemon: PrivateDaemon
    forks: Forks
    place: Path
    domains: dict[str, BlockDomain]
    seen: dict[tuple[Path, str, str], dict[str, Path]] = field(default_factory=dict)
    count: int = 0
    restored: int = 0

    def run(self, *words: str | Path, code: int = 0) -> Ended:
        """Run fi-backup; check its exit code, the shape of its lines, that none is a traceback."""
        env = {"LIBVIRT_DEFAULT_URI": self.daemon.uri}
        done = self.forks.run("fi-backup", *map(str, words), env=env)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done
        assert "[ERR]" not in done.stdout
        return done

    def directory(self, name: str) -> Path:
        """Return a directory with spaces in its path."""
        path = self.place / name
        path.mkdir(exist_ok=True)
        return path

    def history(self, store: Path, name: str) -> fb.History:
        """Return what a store holds of a domain."""
        with fb.Store.open(store) as opened:
            return opened.read_history(self.domains[name].uuid)

    def write(self, *names: str) -> None:
        """Write as the guests do, every time something else and somewhere else."""
        self.count += 1
        for name in names:
            domain = self.domains[name]
            for number, target in enumerate(domain.disks):
                offset = (self.count * 3 + number) % 40 * MIB
                domain.write(target, offset, 2 * MIB, 1 + (self.count * 7 + number) % 250)

    def backup(self, *words: str | Path, store: Path, names: tuple[str, ...]) -> None:
        """Write, back up, keep what each disk had; exactly one more point of each domain."""
        self.write(*names)
        before = {name: self._points(store, name) for name in names}
        self.run("-d", *words, "-b", store, "all" if names[1:] else names[0])
        for name in names:
            (new,) = self._points(store, name)[len(before[name]) :]
            self.seen[store, name, new] = {
                target: self.domains[name].reference(target, f"p{len(self.seen)}")
                for target in self.domains[name].disks
            }

    def _points(self, store: Path, name: str) -> list[str]:
        if not (store / "fibackup-store.json").exists():
            return []
        return [point.id for point in self.history(store, name).points]

    def restores(self) -> None:
        """Restore every point; compare each disk with what the guest had."""
        assert self.seen
        for (store, name, point), references in self.seen.items():
            self.restored += 1
            into = self.place / f"restored-{self.restored}"
            with fb.Store.open(store) as opened:
                history = opened.read_history(self.domains[name].uuid)
                plan = fb.plan_restore(history, point, into=PurePosixPath(into))
                fb.Executor(None, opened).run(plan)
            for target, reference in references.items():
                assert differences(into / f"{target}.qcow2", "qcow2", reference) == "", point

    def depths(self, name: str) -> list[int]:
        """Return how many images each live chain has."""
        with fb.LibvirtHost.open(self.daemon.uri) as host:
            disks = host.read_domain(self.domains[name].uuid).disks
        return [disk.chain.depth for disk in disks if disk.chain]


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateDaemon]:
    """Give a libvirtd with no other domains, as "all" means all."""
    from integration.conftest import require_tools

    require_tools()
    with PrivateDaemon() as opened:
        yield opened


@pytest.fixture
def site(daemon: PrivateDaemon, forks: Forks, tmp_path: Path) -> Iterator[Site]:
    """Give t1d with one disk and t2d with two, all paths with spaces."""
    images = daemon.images / "test disks"
    images.mkdir(exist_ok=True)
    disks = {
        "t1d": (DiskSpec(path=images / "test1 1.img"),),
        "t2d": (
            DiskSpec(path=images / "test2 1.img"),
            DiskSpec(target="vdb", path=images / "test2 2.img"),
        ),
    }
    domains: dict[str, BlockDomain] = {}
    try:
        for name, specs in disks.items():
            domains[name] = BlockDomain(daemon, name, {each.target: each for each in specs}, "")
            domains[name].start(paused=False)
        place = tmp_path / "with space"
        place.mkdir()
        yield Site(daemon, forks, place, domains)
    finally:
        for domain in domains.values():
            domain.close()
        for path in images.iterdir():
            path.unlink()


def test_t0_all_domains_off(site: Site) -> None:
    """Backed up off line, nothing is copied the second time, and they start afterwards."""
    store = site.directory("backup_off dir")
    site.write("t1d", "t2d")
    for domain in site.domains.values():
        domain.destroy()
    site.backup(store=store, names=("t1d", "t2d"))
    site.run("-d", "-b", store, "all")
    for name, domain in site.domains.items():
        first, second = site.history(store, name).points
        assert first.consistency is fb.Consistency.OFFLINE
        assert [disk.images for disk in second.disks] == [()] * len(domain.disks)
        domain.start(paused=False)
    site.backup(store=store, names=("t1d", "t2d"))
    site.restores()


@pytest.mark.parametrize("names", [("t1d",), ("t2d",), ("t1d", "t2d")], ids=["t1", "t2", "t3"])
@pytest.mark.parametrize("method", ["blockcommit", "blockpull"])
def test_t1_t2_t3_two_backups_and_a_consolidation_twice(
    site: Site, names: tuple[str, ...], method: str
) -> None:
    """After -c no overlay is left, the next point is a full, and no older point is changed."""
    store = site.directory("backup dir")
    for _ in range(2):
        for _ in range(2):
            site.backup(store=store, names=names)
        site.run("-dc", "-m", method, "all" if names[1:] else names[0])
        assert {depth for name in names for depth in site.depths(name)} == {1}
    for name in names:
        points = site.history(store, name).points
        assert [str(point.kind) for point in points] == ["full", "increment"] * 2
    site.backup(store=store, names=names)
    site.restores()


def test_t4_rolling(site: Site) -> None:
    """With -C chains stay two images deep, and every point after the first is an increment."""
    store = site.directory("backup dir")
    for _ in range(2):
        for _ in range(2):
            site.backup(store=store, names=("t1d", "t2d"))
        site.run("-dC", "all")
        assert site.depths("t1d") + site.depths("t2d") == [2, 2, 2]
    for _ in range(2):
        site.backup("-C", store=store, names=("t1d", "t2d"))
        assert site.depths("t1d") + site.depths("t2d") == [2, 2, 2]
    for name in ("t1d", "t2d"):
        kinds = [str(point.kind) for point in site.history(store, name).points]
        assert kinds == ["full", *["increment"] * 5]
    site.restores()


def test_t4_rolling_by_pull(site: Site) -> None:
    """-C with blockpull, off domains among them: each point brings back its moment."""
    store = site.directory("backup dir")
    for _ in range(3):
        site.backup("-C", "-m", "blockpull", store=store, names=("t1d", "t2d"))
        assert site.depths("t1d") + site.depths("t2d") <= [2, 2, 2]
    site.domains["t1d"].destroy()
    site.backup("-C", store=store, names=("t1d", "t2d"))
    site.run("-C", "all")
    site.restores()


def test_what_is_off_or_paused_is_consolidated_where_that_is_safe(site: Site) -> None:
    """Off: -c commits, -C leaves chains alone, a pull is refused; and so is one while paused."""
    store = site.directory("backup dir")
    off, paused = site.domains["t1d"], site.domains["t2d"]
    for _ in range(2):
        site.backup(store=store, names=("t1d", "t2d"))
    off.destroy()
    paused.dom.suspend()
    for name, word in (("t1d", "off"), ("t2d", "paused")):
        assert word in site.run("-c", "-m", "blockpull", name, code=2).stderr
    site.run("-C", "t1d")
    assert site.depths("t1d") + site.depths("t2d") == [3, 3, 3]
    site.run("-c", "t1d")
    assert site.depths("t1d") + site.depths("t2d") == [1, 3, 3]
    site.run("-c", "t2d")
    assert site.depths("t2d") == [1, 1]
    off.start(paused=False)
    paused.dom.resume()
    site.backup(store=store, names=("t1d", "t2d"))
    site.restores()


def test_a_directory_with_other_files_is_no_store(site: Site) -> None:
    """Such as the copies of the script: exit 10, nothing is added, no overlay is made."""
    place = site.directory("old backups")
    (place / "disk.img").write_text("a copy")
    assert str(place) in site.run("-b", place, "t1d", code=10).stderr
    assert [path.name for path in place.iterdir()] == ["disk.img"]
    assert site.depths("t1d") == [1]


@pytest.mark.parametrize("method", ["blockcommit", "blockpull"])
def test_the_lock_is_held_from_the_first_look_to_the_last_deletion(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Snapshot, copy, consolidation: at every call another run is kept out."""
    store = site.directory("backup dir")
    site.backup(store=store, names=("t1d",))
    uuid, seen = site.domains["t1d"].uuid, list[str]()
    with fb.LibvirtHost.open(site.daemon.uri) as other:
        for name in ("read_domain", "take_snapshot", "run_block_job", "delete_image"):
            real = getattr(fb.LibvirtHost, name)

            def look(host: fb.LibvirtHost, *words: object, real: Any = real) -> object:  # noqa: ANN401
                if host is not other:
                    seen.append(real.__name__)
                    with pytest.raises(fb.LockedError), other.locked(uuid):
                        pass
                return real(host, *words)

            monkeypatch.setattr(fb.LibvirtHost, name, look)
        monkeypatch.setenv("LIBVIRT_DEFAULT_URI", site.daemon.uri)
        assert fi_backup.main(["-C", "-m", method, "-b", str(store), "t1d"]) == 0
    assert {"read_domain", "take_snapshot", "run_block_job", "delete_image"} == set(seen)


def test_t5_with_memory(site: Site) -> None:
    """With -s the memory is in the point; once more in the directory, unless that is the store."""
    store, other = site.directory("backup dir"), site.directory("state dir")
    for place in (store, other):
        for _ in range(2):
            site.backup("-s", place, store=store, names=("t1d", "t2d"))
        site.backup("-C", "-s", place, store=store, names=("t1d", "t2d"))
        assert site.depths("t1d") + site.depths("t2d") == [2, 2, 2]
        assert all(domain.dom.isActive() for domain in site.domains.values())
        site.run("-dc", "all")
    for name in ("t1d", "t2d"):
        for point in site.history(store, name).points:
            assert point.consistency is fb.Consistency.MEMORY
            assert fb.FileRole.MEMORY in {file.role for file in point.files}
    states = sorted(other.iterdir())
    assert len(states) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in states} == {0o600}
    stored = {f"{path.parent.name}-{path.name}": path for path in store.glob("*/*.mem")}
    for path in states:
        assert path.read_bytes() == stored[path.name].read_bytes()
    site.restores()


def test_a_state_directory_that_is_missing_is_found_before_anything_starts(site: Site) -> None:
    """There is no point, no overlay, and no directory."""
    store, missing = site.directory("backup dir"), site.place / "no state dir"
    done = site.run("-s", missing, "-b", store, "all", code=1)
    assert f"{missing}" in done.stderr
    assert (list(store.iterdir()), missing.exists()) == ([], False)
    assert site.depths("t1d") + site.depths("t2d") == [1, 1, 1]


def test_what_it_says(site: Site) -> None:
    """Nothing when all is well; with -v steps, with -d all; errors on stderr, each with its tag."""
    store = site.directory("backup dir")
    done = site.run("-b", store, "t1d")
    assert (done.stdout, done.stderr) == ("", "")
    verbose = site.run("-vb", store, "t1d").stdout
    debug = site.run("-db", store, "t1d").stdout
    assert "[VER]" in verbose
    assert "[DEB]" not in verbose
    assert "[DEB]" in debug
    failed = site.run("-b", store, "nobody", code=1)
    assert failed.stdout == ""
    assert "[ERR]" in failed.stderr
    for text in (verbose, debug, failed.stderr):
        for line in text.splitlines():
            assert LINE.fullmatch(line), line
    assert "fi-backup" in site.run("-V").stdout
    assert "--backup_dir" in site.run("--help").stdout
    assert "[ERR]" in site.run("-c", "-C", "t1d", code=2).stderr


def test_domains_are_named_in_every_way(site: Site) -> None:
    """Apart, in one argument, by UUID, as all, as running ones, and with a space in the name."""
    store = site.directory("backup dir")
    site.run("-b", store, "t1d", "t2d")
    site.run("-b", store, "t1d t2d")
    site.run("-b", store, site.domains["t1d"].uuid, "t2d")
    site.domains["t2d"].destroy()
    site.run("-rb", store)
    assert [len(site.history(store, name).points) for name in ("t1d", "t2d")] == [4, 3]
    odd = BlockDomain(site.daemon, "t1d t2d", {"vda": DiskSpec()}, "")
    try:
        site.run("-b", store, "t1d t2d")
        with fb.Store.open(store) as opened:
            assert len(opened.read_history(odd.uuid).points) == 1
    finally:
        odd.close()
    assert [len(site.history(store, name).points) for name in ("t1d", "t2d")] == [4, 3]


def test_quiesce_is_a_must(site: Site) -> None:
    """Without an agent -q takes no point, with -C either."""
    store = site.directory("backup dir")
    for words in (("-q",), ("-Cq",)):
        assert "quiesced" in site.run(*words, "-b", store, "t1d", code=13).stderr
    assert list(store.iterdir()) == []
    assert site.depths("t1d") == [1]


def test_the_exit_code_is_that_of_all(site: Site) -> None:
    """One bad domain, first, last or alone, never hides the others, nor is it hidden."""
    store = site.directory("backup dir")
    for names in (("nobody", "t1d"), ("t1d", "nobody")):
        site.run("-b", store, *names, code=5)
    site.run("-b", store, "nobody", "no-one", code=1)
    assert len(site.history(store, "t1d").points) == 2
    domain = site.domains["t2d"]
    domain.dom.managedSave(0)
    assert "managed-save" in site.run("-b", store, "all", code=5).stderr
    assert "managed-save" in site.run("-b", store, "t2d", code=13).stderr
    domain.dom.managedSaveRemove(0)
    site.run("-b", site.place / "missing", "t1d", code=10)
