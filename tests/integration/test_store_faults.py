"""Stores that are full, read-only, locked, damaged, hostile or slow; the guest never notices."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TypedDict, Unpack

import libvirt
import pytest

import fibackup as fb
from fibackup.host import history as history_module
from fibackup.host.store_files import list_directory as really_list
from fibackup.host.store_files import list_entries as really_scan
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    Embedded,
    HarnessError,
    MakeBlockDomain,
    PrivateDaemon,
    differences,
)
from hypervisor.stores import StoreMaker

pytestmark = pytest.mark.libvirt

SOURCE = Path(fb.__file__).resolve().parents[1]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and other users need root")


def tree(directory: Path) -> dict[str, tuple[int, str]]:
    """Return every file below a directory but the locks: mode, and hash or target of a link."""
    found: dict[str, tuple[int, str]] = {}
    for path in sorted(directory.rglob("*")):
        if path.name in {"lock", "lock.readers"}:
            continue  # a run that is refused may have signed the lock
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            text = str(path.readlink())
        else:
            text = sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
        found[str(path.relative_to(directory))] = (mode, text)
    return found


def temporary_files(directory: Path) -> list[Path]:
    """Return what no run may leave behind."""
    return sorted(directory.rglob(".*.tmp"))


class Wishes(TypedDict, total=False):
    """What a test may want of a backup; a paused domain is always fine."""

    disks: tuple[str, ...]
    exclude: tuple[str, ...]
    full: bool
    skip_unsupported: bool
    allow_paused: bool


@dataclass
class Bench:
    """A host, a store and a domain, and the acts that the tests have in common."""

    host: fb.LibvirtHost
    directory: Path
    out: Path
    references: dict[str, dict[str, Path]] = field(default_factory=dict)

    def plan(self, domain: BlockDomain, *, later: int = 0, **wishes: Unpack[Wishes]) -> fb.Plan:
        """Plan a backup of a domain that may be paused, now or some seconds later."""
        wanted: Wishes = {"allow_paused": True, **wishes}
        policy = fb.BackupPolicy(**wanted)
        read = self.host.read_domain(domain.uuid)
        with fb.Store.open(self.directory) as store:
            history = store.read_history(read.uuid)
        now = datetime.now(UTC) + timedelta(seconds=later)
        return fb.plan_backup(read, history, now=now, policy=policy)

    def run(
        self, plan: fb.Plan, on_event: fb.OnEvent = fb.ignore_events, threads: int = 4
    ) -> fb.Report:
        """Run a plan."""
        with fb.Store.open(self.directory) as store:
            return fb.Executor(self.host, store, threads=threads).run(plan, on_event=on_event)

    def history(self, domain: BlockDomain) -> fb.History:
        """Read what the store has of the domain."""
        with fb.Store.open(self.directory) as store:
            return store.read_history(domain.uuid)

    def point(
        self, domain: BlockDomain, number: int, *, later: int = 0, **wishes: Unpack[Wishes]
    ) -> fb.RestorePoint:
        """Write as the guest, keep what the guest has, take a point."""
        for target in domain.disks:
            domain.write(target, number * 256 * 1024, 320 * 1024, number)
        references = {t: domain.reference(t, f"point{number}") for t in domain.disks}
        point = self.run(self.plan(domain, later=later, **wishes)).point
        assert point is not None
        self.references[point.id] = references
        return point

    def restores(self, domain: BlockDomain, point: str) -> bool:
        """Restore a point and compare each disk with what the guest had."""
        into = self.out / f"{point}-{len(list(self.out.glob('*')))}"
        plan = fb.plan_restore(self.history(domain), point, into=PurePosixPath(into))
        for image in self.run(plan).restored:
            reference = self.references[point][image.target]
            assert differences(Path(image.path), image.format, reference) == ""
        return True

    def goes_on(self, domain: BlockDomain, number: int = 9, *, later: int = 0) -> fb.RestorePoint:
        """Take one more point; every known point of the store restores to what the guest had."""
        point = self.point(domain, number, later=later)
        assert temporary_files(self.directory) == []
        for each in self.history(domain).points:
            if each.id in self.references:
                assert self.restores(domain, each.id)
        return point

    @contextlib.contextmanager
    def unchanged(self, domain: BlockDomain) -> Iterator[None]:
        """Compare chain, images, ledger and store before and after."""
        before = self._state(domain)
        yield
        assert self._state(domain) == before

    def _state(self, domain: BlockDomain) -> tuple[object, ...]:
        read = self.host.read_domain(domain.uuid)
        names = sorted(str(path) for path in domain.directory.rglob("*"))
        chains = [
            [(image.path, image.format, image.identity) for image in disk.chain.images[1:]]
            for disk in read.disks
            if disk.chain
        ]
        return read.ledger, names, chains, read.state, tree(self.directory)


@pytest.fixture
def bench(hypervisor: Embedded, tmp_path: Path) -> Bench:
    """Give a bench with an empty store on the embedded hypervisor."""
    return make_bench(hypervisor.connection, tmp_path)


@pytest.fixture
def remote(private_daemon: PrivateDaemon, tmp_path: Path) -> Bench:
    """Give a bench with an empty store on a daemon, which child processes reach too."""
    return make_bench(private_daemon.connection, tmp_path)


def make_bench(connection: libvirt.virConnect, tmp_path: Path) -> Bench:
    """Make an empty store and a directory for restores."""
    directory, out = tmp_path / "store", tmp_path / "out"
    for path in (directory, out):
        path.mkdir()
    fb.Store.create(directory).close()
    return Bench(fb.LibvirtHost(connection), directory, out)


def run_cli(
    *words: str | Path, wrapper: tuple[str | Path, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; it never shows a traceback."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "fibackup", *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done


def environment() -> dict[str, str]:
    """Return the environment of child processes that import fibackup."""
    return {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}


def backup_words(daemon: PrivateDaemon, bench: Bench, domain: BlockDomain) -> tuple[str, ...]:
    """Return the arguments of a backup."""
    store = str(bench.directory)
    return ("backup", "-c", daemon.uri, "-s", store, "--allow-paused", domain.uuid)


# -- unwritable ----------------------------------------------------------------------------------


@as_root
def test_a_read_only_store(
    remote: Bench, private_daemon: PrivateDaemon, block_domain: MakeBlockDomain
) -> None:
    """A store on a read-only mount takes no point and loses none; its points still restore."""
    domain = block_domain(on=private_daemon)
    first = remote.point(domain, 1)
    store = remote.directory
    bind = f"mount --bind '{store}' '{store}' && mount -o remount,bind,ro '{store}' && exec \"$@\""
    read_only = ("unshare", "-m", "--propagation", "private", "sh", "-c", bind, "sh")
    with remote.unchanged(domain):
        saved = run_cli(*backup_words(private_daemon, remote, domain), wrapper=read_only)
        assert saved.returncode == 1, saved.stderr
        assert "Read-only file system" in saved.stderr
        assert saved.stdout == ""
        into = remote.out / "read-only"
        back = run_cli("restore", "-s", store, domain.uuid, "--into", into, wrapper=read_only)
        assert back.returncode == 0, back.stderr
        listed = run_cli("list", "-s", store, wrapper=read_only)
        assert (listed.returncode, first.id in listed.stdout) == (0, True)
    reference = remote.references[first.id]["vda"]
    assert differences(into / "vda.qcow2", "qcow2", reference) == ""
    assert remote.goes_on(domain).kind is fb.DiskKind.INCREMENT


@as_root
def test_a_store_that_belongs_to_somebody_else(hypervisor: Embedded) -> None:
    """A user who may not write is told the owner, the mode and who he is; nothing is made."""
    place = hypervisor.images / "foreign"
    store, empty = place / "store", place / "empty"
    for path in (place, store, empty):
        path.mkdir()
    fb.Store.create(store).close()
    (store / fb_store_file()).chmod(0o644)
    before = tree(place)
    script = (
        "import os, sys, fibackup as fb\n"
        "fb.Store, fb.PermissionDeniedError  # both imported while this may still read them\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "def lock():\n"
        "    with fb.Store.open(sys.argv[1]) as store:\n"
        "        with store.locked('5ba1a3f7-8a0c-4f1b-9b4b-000000000003', 'x', exclusive=True):\n"
        "            pass\n"
        "for act in (lock, lambda: fb.Store.create(sys.argv[2])):\n"
        "    try:\n"
        "        act()\n"
        "    except fb.PermissionDeniedError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, store, empty],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line, path in zip(lines, (store, empty), strict=True):
        assert re.search(r"owner 0:0, mode 0755, we are 65534:65534", line)
        assert str(path) in line
    assert tree(place) == before


def fb_store_file() -> str:
    """Return the name of the file that makes a store."""
    return "fibackup-store.json"


# -- full ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_file_system(size: str) -> Iterator[Path]:
    """Give the path of a small tmpfs that is mounted in a namespace of its own."""
    script = 'mkdir "$1" && mount -t tmpfs -o "size=$2,mode=0700" none "$1" && echo ready && cat'
    place = f"/tmp/fib-small-{os.getpid()}"  # noqa: S108 - hidden by a mount of the namespace
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", place, size]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield Path(f"/proc/{holder.pid}/root{place}")
    finally:
        holder.communicate()
        Path(place).rmdir()


def fill(directory: Path) -> Path:
    """Take all the room that is left."""
    path = directory / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            if stream.write(bytes(64 * 1024)) < 64 * 1024:
                continue
    return path


def _is_step(kind: type) -> Callable[[fb.Event], bool]:
    return lambda event: isinstance(event, fb.StepStarted) and isinstance(event.step, kind)


MOMENTS: dict[str, Callable[[fb.Event], bool]] = {
    "config": _is_step(fb.SaveDomainConfig),
    "copy begins": _is_step(fb.InParallel),
    "mid-copy": lambda event: isinstance(event, fb.CopyProgress) and event.target == "vdb",
    "receipt": lambda event: isinstance(event, fb.ImageCopied) and event.target == "vdb",
    "publish": _is_step(fb.PublishPoint),
}


@as_root
@pytest.mark.parametrize(
    ("moment", "image_format"),
    [*((moment, "qcow2") for moment in MOMENTS), ("copy begins", "raw"), ("mid-copy", "raw")],
)
def test_a_store_that_fills_up_while_it_is_written(
    bench: Bench,
    block_domain: MakeBlockDomain,
    moment: str,
    image_format: str,
) -> None:
    """The run fails typed, leaves no temporary file, and the next one copies only the rest."""
    second = DiskSpec(target="vdb", format="raw" if image_format == "raw" else "qcow2")
    domain = block_domain(DiskSpec(), second)
    with small_file_system("40m") as directory:
        outer = evolve_bench(bench, directory)
        domain.write("vda", 0, MIB, 1)
        domain.write("vdb", 0, 12 * MIB, 1)
        fillers: list[Path] = []

        def on_event(event: fb.Event) -> None:
            if not fillers and MOMENTS[moment](event):
                fillers.append(fill(directory))

        with pytest.raises(fb.StepError) as caught:
            outer.run(outer.plan(domain), on_event, threads=1)
        assert isinstance(caught.value.__cause__, fb.NoSpaceError)
        assert "delete neither these nor their backing files" in caught.value.state
        assert temporary_files(directory) == []
        assert outer.history(domain).points == ()
        receipts = outer.history(domain).receipts
        images = {(path.parent.name, path.name): path for path in directory.rglob("*.qcow2")}
        assert {(each.target, each.image.name) for each in receipts} == set(images)
        assert domain.reads("vdb", 0, 12 * MIB, 1)
        domain.write("vda", 5 * MIB, MIB, 5)
        kept = {name: path.stat().st_ino for name, path in images.items()}
        fillers[0].unlink()
        plan = outer.plan(domain)
        if moment in {"mid-copy", "receipt", "publish"}:
            assert "vda" in {target for target, _ in images}
            assert sorted(plan.expects.receipts) == sorted(map("/".join, images))
        stored = {(each.target, PurePosixPath(each.image.source.path)) for each in receipts}
        assert not stored & {(step.target, step.source) for step in plan.copies}
        point = outer.goes_on(domain)
        assert {disk.target for disk in point.disks} == {"vda", "vdb"}
        for name, path in images.items():
            assert path.stat().st_ino == kept[name]
            assert name in {(d.target, image.name) for d in point.disks for image in d.images}


def evolve_bench(bench: Bench, directory: Path) -> Bench:
    """Return the bench with another directory, in which a store is made."""
    fb.Store.create(directory).close()
    return Bench(bench.host, directory, bench.out)


@as_root
def test_too_little_room_is_seen_before_the_snapshot(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """When the copies clearly do not fit, the run is refused with both numbers, before any step."""
    domain = block_domain()
    with small_file_system("8m") as directory:
        small = evolve_bench(bench, directory)
        small.point(domain, 1)
        domain.write("vda", 0, 16 * MIB, 1)
        plan = small.plan(domain)
        with small.unchanged(domain), pytest.raises(fb.NoSpaceError) as caught:
            small.run(plan)
        assert caught.value.needed_bytes >= 16 * MIB > 8 * MIB >= caught.value.free_bytes > 0
    assert bench.goes_on(domain).kind is fb.DiskKind.FULL


# -- no store, another's store -------------------------------------------------------------------


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    """A missing directory, a file and a directory with other files are refused and stay so."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    before = tree(tmp_path)
    for path in (tmp_path / "missing", file, full):
        for opened in (fb.Store.open, fb.Store.create, fb.Store.open_or_create):
            with pytest.raises(fb.NotAStoreError):
                opened(path)
    assert tree(tmp_path) == before


def test_an_empty_directory_where_the_store_was(
    remote: Bench, private_daemon: PrivateDaemon, block_domain: MakeBlockDomain
) -> None:
    """An empty directory, where the domain has had points, is an unmounted disk: exit 10."""
    domain = block_domain(on=private_daemon)
    assert run_cli(*backup_words(private_daemon, remote, domain)).returncode == 0
    mounted = remote.directory.rename(remote.directory.with_name("not-mounted"))
    remote.directory.mkdir()
    ledger = remote.host.read_domain(domain.uuid).ledger
    for more in ((), ("--dry-run",), ("--full",)):
        done = run_cli(*backup_words(private_daemon, remote, domain), *more)
        assert done.returncode == 10, done
        assert "is its disk mounted?" in done.stderr
        assert done.stdout == ""
        assert list(remote.directory.iterdir()) == []
    fb.Store.create(remote.directory).close()  # as the backup of a new domain does
    for more in ((), ("--dry-run",)):
        done = run_cli(*backup_words(private_daemon, remote, domain), *more)
        assert (done.returncode, "another one is there" in done.stderr) == (10, True)
    assert remote.host.read_domain(domain.uuid).ledger == ledger
    for words in (["--new-store", "--dry-run"], ["--new-store"], []):  # it is known from then on
        assert run_cli(*backup_words(private_daemon, remote, domain), *words).returncode == 0
    shutil.rmtree(remote.directory)
    mounted.rename(remote.directory)
    assert remote.point(domain, 2).kind is fb.DiskKind.INCREMENT


@contextlib.contextmanager
def lock_holder(directory: Path, uuid: str, *, exclusive: bool = True) -> Iterator[int]:
    """Hold a domain's lock in another process."""
    script = (
        "import sys, fibackup as fb\n"
        "with fb.Store.open(sys.argv[1]) as store:\n"
        "    with store.locked(sys.argv[2], 'x', exclusive=sys.argv[3] == 'True'):\n"
        "        print('ready', flush=True)\n"
        "        sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, directory, uuid, str(exclusive)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield holder.pid
    finally:
        holder.communicate()


def test_a_store_that_another_process_writes(
    remote: Bench, private_daemon: PrivateDaemon, block_domain: MakeBlockDomain
) -> None:
    """A second run on a domain is refused with the owner's name, exit 11; kill -9 ends the lock."""
    domain = block_domain(on=private_daemon)
    remote.point(domain, 1)
    with lock_holder(remote.directory, domain.uuid) as pid:
        owner = f"pid {pid} on {socket.gethostname()}"
        with remote.unchanged(domain):
            with pytest.raises(fb.LockedError) as caught:
                remote.run(remote.plan(domain))
            assert re.fullmatch(rf"{owner}, python .*, since \d{{4}}-\S+Z", caught.value.owner)
            done = run_cli(*backup_words(private_daemon, remote, domain), "--json")
        assert (done.returncode, owner in done.stderr) == (11, True)
        (result,) = json.loads(done.stdout)["results"]
        assert (result["error"]["type"], result["error"]["exit_code"]) == ("LockedError", 11)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
        assert remote.goes_on(domain).kind is fb.DiskKind.INCREMENT


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_newer_format_is_refused(
    remote: Bench, private_daemon: PrivateDaemon, block_domain: MakeBlockDomain
) -> None:
    """A store or manifest of a newer fibackup stops this one, and nothing is touched."""
    domain = block_domain(on=private_daemon)
    remote.point(domain, 1)
    make_receipt(remote, domain)
    for pattern in (fb_store_file(), f"*-{domain.uuid}/*Z.json", "*/*/*.receipt"):
        (file,) = remote.directory.glob(pattern)
        good = file.read_text()
        file.write_text(json.dumps({**json.loads(good), "format": 2}))
        (seals,) = remote.directory.glob("*/points.sha256")
        sealed = seals.read_bytes()
        if file.parent == seals.parent:
            seals.write_text("")  # a newer fibackup would have sealed what it has written
        before = tree(remote.directory)
        with pytest.raises(fb.FormatTooNewError, match="format 2 is newer"):
            remote.plan(domain)
        words = ("restore", "-s", str(remote.directory), domain.uuid, "--into")
        for command in (
            backup_words(private_daemon, remote, domain),
            ("list", "-s", str(remote.directory)),
            (*words, str(remote.out / "new")),
        ):
            done = run_cli(*command)
            assert (done.returncode, "format 2 is newer" in done.stderr) == (1, True), done
        assert tree(remote.directory) == before
        assert not (remote.out / "new").exists()
        file.write_text(good)
        seals.write_bytes(sealed)
    assert remote.goes_on(domain).kind is fb.DiskKind.INCREMENT


def make_receipt(bench: Bench, domain: BlockDomain) -> Path:
    """Let a run fail after its copy, so that the store has a receipt."""

    def on_event(event: fb.Event) -> None:
        if MOMENTS["publish"](event):
            token.cancel()

    token = fb.CancelToken()
    plan = bench.plan(domain)
    with fb.Store.open(bench.directory) as store, pytest.raises(fb.StepError):
        fb.Executor(bench.host, store).run(plan, on_event=on_event, cancel=token)
    (receipt,) = bench.directory.rglob("*.receipt")
    return receipt


# -- damage --------------------------------------------------------------------------------------


def flip(path: Path, position: int) -> None:
    """Flip one bit."""
    with path.open("r+b") as stream:
        stream.seek(position)
        (byte,) = stream.read(1)
        stream.seek(position)
        stream.write(bytes([byte ^ 1]))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 65536),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 1),
    "flipped": lambda path: flip(path, path.stat().st_size - 1000),
    "flipped header": lambda path: flip(path, 31),
    "a link": lambda path: (
        path.rename(f"{path}.real").with_name(path.name).symlink_to(f"{path}.real")
    ),
    "another's": lambda path: path.write_bytes(b"QFI\xfb" + bytes(path.stat().st_size - 4)),
}


def test_a_damaged_image_spoils_its_points_only(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """Points that need a damaged image are refused with exit 12, all others restore."""
    domain = block_domain()
    one, two, three = (bench.point(domain, number) for number in (1, 2, 3))
    four = bench.point(domain, 4, full=True)
    (image,) = bench.directory.glob(f"*/vda/{two.id}.qcow2")
    good = image.read_bytes()
    for number, (name, damage) in enumerate(DAMAGE.items()):
        damage(image)
        before = tree(bench.directory)
        for spoilt in (two, three):
            with pytest.raises(fb.FibackupError) as caught:
                bench.restores(domain, spoilt.id)
            error = caught.value
            cause = error.__cause__ if isinstance(error, fb.StepError) else error
            assert isinstance(cause, fb.VerifyError), name
            assert two.id in str(cause), name
        if name in {"missing", "flipped", "flipped header"}:
            into = bench.out / "spoilt"
            words = ("restore", "-s", bench.directory, domain.uuid, "--point", two.id)
            done = run_cli(*words, "--into", into)
            assert (done.returncode, done.stdout) == (12, ""), name
            assert not into.exists() or not list(into.iterdir()), name
        assert tree(bench.directory) == before, name
        if number == 0:
            assert not [path for path in bench.out.rglob("*") if path.is_file()]
        for whole in (one, four):
            assert bench.restores(domain, whole.id), name
        image.unlink(missing_ok=True)
        image.write_bytes(good)
    DAMAGE["truncated"](image)
    five = bench.point(domain, 5)
    assert (five.kind, five.disks[0].parent) == (fb.DiskKind.INCREMENT, four.id)
    image.write_bytes(good)
    assert bench.goes_on(domain).kind is fb.DiskKind.INCREMENT


@pytest.mark.parametrize("damage", ["missing", "truncated", "no manifest"])
@pytest.mark.parametrize("number", [1, 2])
def test_nothing_is_put_onto_a_damaged_parent(
    bench: Bench, block_domain: MakeBlockDomain, damage: str, number: int
) -> None:
    """A point lies on the newest whole one; when there is none it is a full, and says why."""
    domain = block_domain()
    points = {1: bench.point(domain, 1), 2: bench.point(domain, 2)}
    bad = points[number].id
    (image,) = bench.directory.glob(f"*/vda/{bad}.qcow2")
    (manifest,) = bench.directory.glob(f"*/{bad}.json")
    if damage == "no manifest":
        manifest.unlink()
    else:
        DAMAGE[damage](image)
    disk = bench.point(domain, 3).disks[0]
    if number == 2:  # what point 2 had is copied again, onto point 1
        assert (disk.kind, disk.parent, len(disk.images)) == (
            fb.DiskKind.INCREMENT,
            points[1].id,
            2,
        )
        assert bench.restores(domain, points[1].id)
    else:
        assert (disk.kind, disk.parent) == (fb.DiskKind.FULL, None)
        assert bad in disk.reason
    for whole in bench.history(domain).points[-1:]:
        assert bench.restores(domain, whole.id)
    four = bench.point(domain, 4)
    assert four.kind is fb.DiskKind.INCREMENT
    assert bench.restores(domain, four.id)


BAD_MANIFESTS: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda data: data.replace(b'"sequence": 1', b'"sequence": 3'),
    "truncated": lambda data: data[:-40],
    "empty": lambda _: b"",
    "not UTF-8": lambda data: data.replace(b"vda", b"v\xffa"),
    "another point's": lambda data: data.replace(b"Z", b"Y"),
}


def test_a_damaged_manifest_is_named_and_nothing_is_built_upon_it(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """A plan warns and takes a full, `list` warns, a restore of the point ends with exit 12."""
    domain = block_domain()
    one = bench.point(domain, 1)
    bench.point(domain, 2)
    (manifest,) = bench.directory.glob(f"*/{one.id}.json")
    good = manifest.read_bytes()
    for kind, change in BAD_MANIFESTS.items():
        manifest.write_bytes(change(good))
        with bench.unchanged(domain):
            plan = bench.plan(domain)
            assert {decision.kind for decision in plan.decisions} == {fb.DiskKind.FULL}, kind
            assert any(manifest.name in text for text in plan.warnings), kind
            done = run_cli("list", "-s", bench.directory)
            assert done.returncode == 0, kind
            assert not any(line.startswith(one.id) for line in done.stdout.splitlines()), kind
            assert manifest.name in done.stderr, kind
            words = ("restore", "-s", bench.directory, domain.uuid, "--point", one.id)
            done = run_cli(*words, "--into", bench.out / "x")
            assert done.returncode == 12, kind
            assert manifest.name in done.stderr, kind
        assert not (bench.out / "x").exists()
    manifest.write_bytes(good)
    assert bench.goes_on(domain).kind is fb.DiskKind.INCREMENT


def test_a_damaged_manifest_spoils_its_own_point_only(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """Points that do not need the damaged manifest still restore."""
    domain = block_domain()
    one, two = bench.point(domain, 1), bench.point(domain, 2, full=True)
    (manifest,) = bench.directory.glob(f"*/{two.id}.json")
    manifest.write_bytes(b"")
    assert bench.restores(domain, one.id)


def newer(home: Path) -> None:
    """Let a newer fibackup have written the first manifest."""
    manifest = min(home.glob("*Z.json"))
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))


def newer_record(home: Path) -> None:
    """Let a newer fibackup have verified the domain."""
    (home / "verified.json").write_text('{"format": 2}')


def linked(home: Path) -> None:
    """Put a symbolic link in the place of the domain's directory."""
    home.rename(home.parents[1] / "elsewhere")
    home.symlink_to(home.parents[1] / "elsewhere")


def no_directory(home: Path) -> None:
    """Put a file in the place of the domain's directory."""
    home.rename(home.parents[1] / "elsewhere")
    home.write_text("a stray file")


BAD_DOMAINS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a newer manifest": (newer, "20261124T040407Z.json"),
    "a link": (linked, ""),
    "a file": (no_directory, ""),
}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[StoreMaker, StoreMaker]]:
    """Give a store with two points of each of two domains, web1 and web2."""
    uuid = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553b"
    with StoreMaker(tmp_path) as one, StoreMaker(tmp_path, uuid=uuid, name="web2") as other:
        for number in (1, 2):
            one.point({"vda": {number: number}})
            other.point({"vda": {number: number}})
        yield one, other


@pytest.mark.parametrize("name", BAD_DOMAINS)
def test_a_domain_that_cannot_be_read_hides_no_other(
    two: tuple[StoreMaker, StoreMaker], tmp_path: Path, name: str
) -> None:
    """Asked for all, the others are done, exit 5; asked for another, there is a warning."""
    good, bad = two
    damage, file = BAD_DOMAINS[name]
    where = str(bad.home / file).removesuffix("/")
    damage(bad.home)
    store = ("--store", str(good.root))

    def run(code: int, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        done = run_cli(verb, *store, *words)
        assert done.returncode == code, done
        assert where in done.stderr, done
        return done

    listed = json.loads(run(5, "list", "--json").stdout)
    assert [each["domain"] for each in listed["domains"]] == ["web1"]
    (result,) = listed["results"]
    assert (result["uuid"], result["ok"], result["error"]["path"]) == (bad.uuid, False, where)
    lines = [json.loads(line) for line in run(5, "list", "--json-lines").stdout.splitlines()]
    assert [line["type"] for line in lines] == ["point", "point", "result", "end"]
    assert "web1" in run(5, "list").stdout
    assert "another domain cannot be read" in run(0, "list", "web1").stderr
    assert run_cli("list", *store, "web1", "--quiet").stderr == ""
    assert run_cli("list", *store, good.uuid).stderr == ""
    run(0, "restore", "web1", "--into", str(tmp_path / "out"))
    run(0, "verify", "web1")
    run(4, "verify", "web1", "--strict")
    results = json.loads(run(5, "verify", "--json").stdout)["results"]
    assert {each["uuid"]: each["ok"] for each in results} == {good.uuid: True, bad.uuid: False}
    run(0, "prune", "web1", "--keep-last", "2", "--dry-run")
    run(4, "prune", "web1", "--keep-last", "2", "--dry-run", "--strict")
    results = json.loads(run(5, "prune", "--keep-last", "1", "--json").stdout)["results"]
    assert {each["uuid"]: each["ok"] for each in results} == {good.uuid: True, bad.uuid: False}
    assert len(good.history().points) == 1
    for verb in ("list", "verify"):
        run(1, verb, "web2")
    run(1, "prune", "web2", "--keep-last", "1")
    run(1, "restore", "web2", "--into", str(tmp_path / "other"))
    assert "it has points of: web1" in run(1, "list", "nobody").stderr


def test_a_directory_that_cannot_be_read_may_be_the_one_that_is_meant(
    tmp_path: Path,
) -> None:
    """Two domains have had a name: which one is asked for is not guessed."""
    uuid = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553b"
    with StoreMaker(tmp_path) as one, StoreMaker(tmp_path, uuid=uuid) as other:
        for maker in (one, other):
            maker.point({"vda": {1: 1}})
        newer(other.home)
        for verb in ("list", "verify"):
            done = run_cli(verb, "--store", one.root, "web1")
            assert (done.returncode, "several domains" in done.stderr) == (1, True), done
            assert run_cli(verb, "--store", one.root, one.uuid).returncode == 0


def test_a_record_of_a_newer_format_does_not_hide_the_points(
    two: tuple[StoreMaker, StoreMaker],
) -> None:
    """All points are listed, and the file is named."""
    one, other = two
    newer_record(other.home)
    done = run_cli("list", "--store", one.root, "--json")
    assert (done.returncode, str(other.home / "verified.json") in done.stderr) == (5, True), done
    assert [each["points"] for each in json.loads(done.stdout)["domains"]] == [2, 2]
    assert run_cli("list", "--store", one.root, "web2").returncode == 1
    for verb, code in (("verify", 5), ("prune", 0)):
        done = run_cli(verb, "--store", one.root, *(("--keep-last", "1") * (verb == "prune")))
        assert done.returncode == code, done
    assert len(one.history().points) == 1


def test_a_damaged_receipt_does_not_hide_the_points(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """A receipt is a shortcut: one that is cut short costs a copy, and no point."""
    domain = block_domain()
    one = bench.point(domain, 1)
    receipt = make_receipt(bench, domain)
    receipt.write_bytes(receipt.read_bytes()[:-100])
    assert bench.restores(domain, one.id)
    assert bench.goes_on(domain).kind is fb.DiskKind.INCREMENT


# -- planted links -------------------------------------------------------------------------------


def plant(link: Path, target: Path, kind: str) -> None:
    """Put a link of some kind where fibackup is going to write."""
    if kind == "symlink":
        link.symlink_to(target)
    else:
        link.hardlink_to(target)


@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_planted_links_are_never_written_through(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path, kind: str
) -> None:
    """A link that appears where a run is about to write ends the run; its target is untouched."""
    domain = block_domain()
    bench.point(domain, 1)
    (home,) = bench.directory.glob(f"*-{domain.uuid}")
    canary = tmp_path / "canary"
    canary.write_bytes(b"canary" * 1000)
    before = (canary.read_bytes(), canary.stat().st_mode)
    for number, name in enumerate(
        (".{}.json.tmp", ".{}.xml.tmp", "{}.xml", "{}.json",
         "vda/.{}.qcow2.tmp", "vda/{}.qcow2", "vda/.{}.qcow2.receipt.tmp", "vda/{}.qcow2.receipt")
    ):  # fmt: skip
        plan = bench.plan(domain, later=10 * number)
        place = home / name.format(plan.point)

        def on_event(event: fb.Event, place: Path = place) -> None:
            if MOMENTS["config"](event):
                plant(place, canary, kind)

        with pytest.raises(fb.StepError):
            bench.run(plan, on_event)
        assert (canary.read_bytes(), canary.stat().st_mode) == before, name
        swept = place.suffix in {".tmp", ".receipt"} and not os.path.lexists(place)
        assert swept or place.is_symlink() or place.samefile(canary), name
        place.unlink(missing_ok=True)
    assert bench.goes_on(domain, 3, later=100).kind is fb.DiskKind.INCREMENT
    assert (canary.read_bytes(), canary.stat().st_mode) == before


@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_links_among_the_leftovers_are_swept(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path, kind: str
) -> None:
    """A link that bears the name of a temporary file is removed like one; not what it leads to."""
    domain = block_domain()
    bench.point(domain, 1)
    (home,) = bench.directory.glob(f"*-{domain.uuid}")
    canary = tmp_path / "canary"
    canary.write_bytes(b"canary" * 1000)
    point = bench.plan(domain).point
    for name in (f".{point}.json.tmp", ".old.xml.tmp", f"vda/.{point}.qcow2.tmp"):
        plant(home / name, canary, kind)
    assert bench.goes_on(domain, 3).kind is fb.DiskKind.INCREMENT
    assert canary.read_bytes() == b"canary" * 1000


@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_a_lock_that_is_a_link_is_refused(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path, kind: str
) -> None:
    """A lock file that leads elsewhere is refused: signing it would overwrite another file."""
    domain = block_domain()
    bench.point(domain, 1)
    (home,) = bench.directory.glob(f"*-{domain.uuid}")
    canary = tmp_path / "canary"
    canary.write_bytes(b"canary")
    (home / "lock").unlink()
    plant(home / "lock", canary, kind)
    with bench.unchanged(domain), pytest.raises(fb.FibackupError):
        bench.run(bench.plan(domain))
    assert canary.read_bytes() == b"canary"
    (home / "lock").unlink()
    assert bench.goes_on(domain).kind is fb.DiskKind.INCREMENT


@pytest.mark.parametrize("place", ["domain", "disk", "store file"])
def test_directories_and_store_files_that_are_links_are_refused(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path, place: str
) -> None:
    """A domain's or a disk's directory, or a store's file, that is a link is not followed."""
    domain = block_domain()
    outside = tmp_path / "outside"
    outside.mkdir()
    plan = bench.plan(domain)
    if place == "store file":
        link = bench.directory / fb_store_file()
        link.rename(outside / "stolen.json")
        link.symlink_to(outside / "stolen.json")
    elif place == "domain":
        link = bench.directory / domain.uuid
        link.symlink_to(outside)
    else:
        (bench.directory / domain.uuid).mkdir(mode=0o700)
        link = bench.directory / domain.uuid / "vda"
        link.symlink_to(outside)
    before = tree(outside)
    with pytest.raises(fb.FibackupError):
        bench.run(plan)
    assert tree(outside) == before
    link.unlink()
    if place == "store file":
        (outside / "stolen.json").rename(link)
    assert bench.goes_on(domain).kind is fb.DiskKind.FULL
    assert link.is_symlink() is False


# -- restores ------------------------------------------------------------------------------------


PLANTS: dict[str, Callable[[Path, Path], object]] = {
    "file": lambda place, _: place.write_text("mine"),
    "dangling link": lambda place, _: place.symlink_to(place.with_name("nothing")),
    "link": lambda place, canary: place.symlink_to(canary),
    "hard link": lambda place, canary: place.hardlink_to(canary),
    "directory": lambda place, _: place.mkdir(),
}


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_restore_overwrites_nothing(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path, moment: str
) -> None:
    """Whatever lies at a restore's destination stays as it is, and no other file appears."""
    domain = block_domain()
    point = bench.point(domain, 1)
    canary = tmp_path / "canary"
    canary.write_text("canary")
    before = tree(bench.directory)
    for kind, put in PLANTS.items():
        into = bench.out / f"into {kind}"
        into.mkdir()
        place = into / "vda.qcow2"

        def on_event(event: fb.Event, put: object = put, place: Path = place) -> None:
            if isinstance(event, fb.StepStarted) and moment == "during":
                assert callable(put)
                put(place, canary)

        plan = fb.plan_restore(bench.history(domain), point.id, into=PurePosixPath(into))
        if moment == "before":
            put(place, canary)
        with pytest.raises(fb.FibackupError) as caught:
            bench.run(plan, on_event)
        error = caught.value if moment == "before" else caught.value.__cause__
        assert isinstance(error, fb.DestinationExistsError), kind
        assert sorted(path.name for path in into.iterdir()) == ["vda.qcow2"], kind
        assert canary.read_text() == "canary"
        assert kind != "file" or place.read_text() == "mine"
    assert tree(bench.directory) == before
    assert bench.goes_on(domain).kind is fb.DiskKind.INCREMENT


@pytest.mark.parametrize("kind", ["symlink", "hard link", "stale"])
def test_a_restores_temporary_file_is_its_own(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path, kind: str
) -> None:
    """A temporary file that a killed restore left is replaced; a link is not written through."""
    domain = block_domain()
    point = bench.point(domain, 1)
    into = bench.out / "into"
    into.mkdir()
    canary, temp = tmp_path / "canary", into / ".vda.qcow2.tmp"
    canary.write_bytes(b"canary" * 100)
    if kind == "stale":
        temp.write_bytes(b"half an image")
    else:
        plant(temp, canary, kind)
    plan = fb.plan_restore(bench.history(domain), point.id, into=PurePosixPath(into))
    if kind == "symlink":
        with pytest.raises(fb.StepError):
            bench.run(plan)
        temp.unlink()
    bench.run(plan)
    assert [path.name for path in into.iterdir()] == ["vda.qcow2"]
    assert canary.read_bytes() == b"canary" * 100
    reference = bench.references[point.id]["vda"]
    assert differences(into / "vda.qcow2", "qcow2", reference) == ""


def test_a_list_beside_a_running_backup(
    bench: Bench, block_domain: MakeBlockDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What vanishes while a reader looks round, as a writer's files do, is passed over."""
    domain = block_domain()
    point = bench.point(domain, 1)
    seen: list[int] = []
    gone = [f".{point.id}.qcow2.tmp", f"{point.id}-1.qcow2.receipt"]

    def list_directory(fd: int) -> list[str]:
        seen.append(fd)
        return [*really_list(fd), *gone]

    def list_entries(fd: int) -> dict[str, bool]:
        return {**really_scan(fd), "vdz": True}

    monkeypatch.setattr(history_module, "list_directory", list_directory)
    monkeypatch.setattr(history_module, "list_entries", list_entries)
    assert bench.history(domain).points == (point,)
    assert seen


# -- killed, and failing system calls ------------------------------------------------------------


def strace(trace: Path, *words: str) -> tuple[str | Path, ...]:
    """Return a command that runs another one under strace, paths of descriptors shown."""
    return ("strace", "-f", "-y", "-qq", "-s", "512", "-o", trace, *words)


def start_and_stop_in_copy(
    daemon: PrivateDaemon, bench: Bench, domain: BlockDomain
) -> subprocess.Popen[str]:
    """Start a backup and stop the process while it writes a temporary image."""
    child = subprocess.Popen(
        [sys.executable, "-m", "fibackup", *backup_words(daemon, bench, domain)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    wait_until(lambda: any(bench.directory.rglob(".*.qcow2.tmp")) or child.poll() is not None)
    child.send_signal(signal.SIGSTOP)
    return child


def test_leftovers_of_a_killed_run_are_swept(
    remote: Bench, private_daemon: PrivateDaemon, block_domain: MakeBlockDomain
) -> None:
    """After kill -9 in a copy the next run removes the half-written file and goes on."""
    domain = block_domain(DiskSpec(size_bytes=512 * MIB), on=private_daemon)
    remote.point(domain, 1)
    domain.write("vda", 16 * MIB, 256 * MIB, 7)
    child = start_and_stop_in_copy(private_daemon, remote, domain)
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    leftovers = temporary_files(remote.directory)
    assert {path.suffixes[-2] for path in leftovers} >= {".xml", ".qcow2"}
    assert not any(path.stat().st_mode & 0o077 for path in leftovers)
    assert remote.host.read_domain(domain.uuid).ledger.run is not None
    assert remote.goes_on(domain, 2).kind is fb.DiskKind.INCREMENT
    assert not any(path.exists() for path in leftovers)


@pytest.mark.parametrize("call", ["preadv,preadv2", "pread64"])
def test_an_image_that_cannot_be_read(
    remote: Bench,
    private_daemon: PrivateDaemon,
    block_domain: MakeBlockDomain,
    tmp_path: Path,
    call: str,
) -> None:
    """An I/O error of the image is reported with its path; nothing of the copy is left."""
    domain = block_domain(on=private_daemon)
    remote.point(domain, 1)
    domain.write("vda", 8 * MIB, 3 * MIB, 7)
    image, trace = domain.active("vda"), tmp_path / "trace"
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:error=EIO", "-P", str(image))
    before = tree(remote.directory)
    done = run_cli(*backup_words(private_daemon, remote, domain), wrapper=strace(trace, *inject))
    # a header is read while planning already, the data when the snapshot has been taken
    assert done.returncode == (13 if call == "pread64" else 1), done
    assert "INJECTED" in trace.read_text()
    assert "Input/output error" in done.stderr
    assert str(image) in done.stderr
    assert done.stdout == ""
    assert temporary_files(remote.directory) == []
    if call == "pread64":
        assert domain.active("vda") == image
        assert tree(remote.directory) == before
    assert len(remote.history(domain).points) == 1
    assert remote.goes_on(domain, 2).kind is fb.DiskKind.INCREMENT


def synced(trace: Path) -> list[tuple[str, str, bool]]:
    """Return each call of fsync and fdatasync: name, path of its file, whether it failed."""
    pattern = re.compile(r"^\d+ +(f(?:data)?sync)\(\d+<([^>]*)>\) += (-?\d+)", re.MULTILINE)
    return [(call, path, code != "0") for call, path, code in pattern.findall(trace.read_text())]


BACKUP = """
import sys, fibackup as fb
from datetime import datetime
uri, directory, uuid, now = sys.argv[1:]
try:
    with fb.LibvirtHost.open(uri) as host, fb.Store.open(directory) as store:
        plan = fb.plan_backup(
            host.read_domain(uuid), store.read_history(uuid), now=datetime.fromisoformat(now),
            policy=fb.BackupPolicy(allow_paused=True),
        )
        print(fb.Executor(host, store).run(plan).point.id)
except fb.FibackupError as error:
    sys.exit(f"{type(error.__cause__).__name__}: {error}")
"""


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("fdatasync", ".{}.xml.tmp"),
        ("fdatasync", "vda/.{}.qcow2.tmp"),
        ("fdatasync", "vda/.{}.qcow2.receipt.tmp"),
        ("fdatasync", ".{}.json.tmp"),
        ("fsync", "vda"),
        ("fsync", "."),
    ],
)
def test_a_sync_that_fails_is_not_tried_again(
    remote: Bench,
    private_daemon: PrivateDaemon,
    block_domain: MakeBlockDomain,
    tmp_path: Path,
    call: str,
    name: str,
) -> None:
    """A failed sync fails the run, is never repeated on that file, and is no lost increment."""
    domain = block_domain(on=private_daemon)
    remote.point(domain, 1)
    domain.write("vda", 8 * MIB, MIB, 7)
    now = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=60)
    (home,) = remote.directory.glob(f"*-{domain.uuid}")
    place = (home / name.format(fb.format_point_id(now))).resolve()
    trace = tmp_path / "trace"
    inject = ("-e", "trace=fsync,fdatasync", "-e", f"inject={call}:error=EIO:when=1")
    script = (sys.executable, "-c", BACKUP, private_daemon.uri, remote.directory, domain.uuid)
    done = subprocess.run(
        [*strace(trace, *inject, "-P", str(place)), *script, now.isoformat()],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.startswith("HostError: ")
    assert "Input/output error" in done.stderr
    assert [(path, bad) for _, path, bad in synced(trace)] == [(str(place), True)]
    assert temporary_files(remote.directory) == []
    assert len(remote.history(domain).points) == 1
    if call == "fdatasync":
        written = place.name.removeprefix(".").removesuffix(".tmp")
        assert not list(remote.directory.rglob(written))
    if name.endswith("receipt.tmp"):
        assert not list(remote.directory.rglob(f"{fb.format_point_id(now)}.qcow2"))
    assert remote.goes_on(domain, 2, later=120).kind is fb.DiskKind.INCREMENT


def test_the_order_of_writing(
    remote: Bench, private_daemon: PrivateDaemon, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """Data before names, names before the manifest, and the manifest's name last of all."""
    domain = block_domain(DiskSpec(), DiskSpec(target="vdb", format="raw"), on=private_daemon)
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,link,linkat,rename,renameat,renameat2"
    done = run_cli(
        *backup_words(private_daemon, remote, domain), wrapper=strace(trace, "-e", calls)
    )
    assert done.returncode == 0, done.stderr
    (point,) = remote.history(domain).points
    (home,) = remote.directory.glob(f"*-{domain.uuid}")
    lines = [line for line in trace.read_text().splitlines() if str(home) in line]
    seals = "points.sha256"
    assert all(seals in line for line in lines if "rename" in line)

    def at(call: str, words: str, after: int = -1) -> int:
        hits = [
            number
            for number, line in enumerate(lines)
            if number > after and call in line and words in line
        ]
        assert hits, f"no {call} of {words} after {after} in {lines}"
        return hits[0]

    manifest_data = at("fdatasync(", f"{home}/.{point.id}.json.tmp>")
    manifest_name = at("linkat(", f'"{point.id}.json"')
    for target in ("vda", "vdb"):
        name, directory = f"{point.id}.qcow2", home / target
        data = at("fdatasync(", f"{directory}/.{name}.tmp>")
        linked = next(
            number
            for number, line in enumerate(lines)
            if "linkat(" in line and f"<{directory}>" in line and f'"{name}"' in line
        )
        durable = at("fsync(", f"<{directory}>)", after=linked)
        assert data < linked < manifest_data
        assert linked < durable < manifest_name
    published = at("fsync(", f"<{home}>)", after=manifest_name)
    assert manifest_data < manifest_name < published < at("fdatasync(", f"{home}/.{seals}.tmp>")


def test_a_filler_needs_room(tmp_path: Path) -> None:
    """The tests' own small file system is really small, and gone afterwards."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    with small_file_system("1m") as directory:
        filler = fill(directory)
        assert 900_000 < filler.stat().st_size <= MIB
        if not directory.is_dir():
            raise HarnessError("the small file system is not there")
    assert not directory.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_store_may_be_told_to_compress_before_it_is_one(tmp_path: Path) -> None:
    """Its file, or what an empty file system has, is nobody's data."""
    place = tmp_path / "new"
    place.mkdir()
    (place / "compress").touch()
    (place / "lost+found").mkdir()
    with fb.Store.open_or_create(place) as store:
        assert store.read_history("7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a").compress
        assert store.strangers() == ()
    other = tmp_path / "other"
    other.mkdir()
    (other / "compressed").touch()
    with pytest.raises(fb.NotAStoreError, match="neither empty nor a store"):
        fb.Store.create(other)
