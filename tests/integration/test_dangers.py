"""
Each way in which the original script lost data or told an untruth, tried on the drop-in.

The numbers are those of the list in docs/fi-backup.md.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath

import libvirt
import pytest

import fibackup as fb
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    GuestOptions,
    MakeBlockDomain,
    MakeLinuxGuest,
    PrivateDaemon,
    create_image,
    read_records,
    same_content,
)
from hypervisor.host import run
from integration.conftest import require_tools
from integration.drop_in import DropIn
from integration.forks import Ended, Forks

pytestmark = pytest.mark.libvirt

METHODS = pytest.mark.parametrize("method", ["blockcommit", "blockpull"])

# Sends itself SIGTERM at the beginning of the first copy.
TERM_IN_COPY = """
import os, signal, sys
import fibackup.host.store as store
from fibackup.cli.fi_backup import main
real = store.copy_image
def copy_image(*args, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    return real(*args, **options)
store.copy_image = copy_image
sys.exit(main())
"""


@pytest.fixture
def drop_in(private_daemon: PrivateDaemon, forks: Forks, tmp_path: Path) -> DropIn:
    """Give the program, and a place with two spaces in its name."""
    place = tmp_path / "two  spaces"
    place.mkdir()
    return DropIn(private_daemon, place, forks)


@pytest.fixture
def images(private_daemon: PrivateDaemon, tmp_path: Path) -> Iterator[Path]:
    """Give a directory for images that the daemon may use."""
    place = private_daemon.images / f"more  {tmp_path.name[-24:]}"
    place.mkdir()
    yield place
    shutil.rmtree(place, ignore_errors=True)


def running(
    make: MakeBlockDomain, drop_in: DropIn, *disks: DiskSpec, start: bool = True
) -> BlockDomain:
    """Make a domain that runs, as a pull wants it."""
    domain = make(*disks, on=drop_in.daemon, start=False)
    if start:
        domain.start(paused=False)
    return domain


def digest(path: Path) -> str:
    """Return the hash of a file."""
    return sha256(path.read_bytes()).hexdigest()


def filled(path: Path, pattern: int = 9) -> Path:
    """Make an image with something in it."""
    create_image(DiskSpec(), path)
    words = ["qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} 0 4M", str(path)]
    subprocess.run(words, check=True, capture_output=True)
    return path


@pytest.mark.parametrize("option", ["-c", "-C"])
def test_danger_01_a_pull_deletes_no_shared_base(
    drop_in: DropIn, block_domain: MakeBlockDomain, images: Path, option: str
) -> None:
    """The template of two domains is there, under both, and the other domain starts on it."""
    consolidate_over_a_template(drop_in, block_domain, images, option, "blockpull")


@pytest.mark.parametrize("option", ["-c", "-C"])
def test_danger_02_a_commit_writes_no_shared_base(
    drop_in: DropIn, block_domain: MakeBlockDomain, images: Path, option: str
) -> None:
    """The template of two domains is the same, byte for byte, and so is the other domain."""
    consolidate_over_a_template(drop_in, block_domain, images, option, "blockcommit")


def consolidate_over_a_template(
    drop_in: DropIn, make: MakeBlockDomain, images: Path, option: str, method: str
) -> None:
    """Consolidate one of two domains on a template; nothing of the other one changes."""
    template = filled(images / "template.qcow2")
    before = digest(template)
    one, two = (running(make, drop_in, DiskSpec(backing=template)) for _ in range(2))
    drop_in.backup(one)
    drop_in.backup(one)
    drop_in.run(option, "-m", method, one.name)
    assert digest(template) == before
    assert drop_in.chain(one)[-1] == drop_in.chain(two)[-1] == template
    drop_in.backup(one, two)
    two.destroy()
    assert same_content(two.active("vda"), "qcow2", two.reference("vda", "end"))
    two.start()
    drop_in.restores()


def consolidate_what_another_lies_on(
    drop_in: DropIn, make: MakeBlockDomain, method: str
) -> tuple[str, Ended]:
    """Consolidate a domain on whose own image another one lies; its name, and what was said."""
    one = running(make, drop_in)
    drop_in.backup(one)
    clone = make(DiskSpec(backing=one.path("vda")), on=drop_in.daemon, start=False)
    before = digest(one.path("vda"))
    done = drop_in.run("-c", "-m", method, one.name, code=None)
    assert digest(one.path("vda")) == before
    assert same_content(clone.active("vda"), "qcow2", clone.reference("vda", "end"))
    drop_in.restores()
    return clone.name, done


def test_danger_01_a_pull_leaves_the_disk_below_another_domains_disk(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """An off domain that lies on this one's own image: it is pulled from, and stays."""
    _, done = consolidate_what_another_lies_on(drop_in, block_domain, "blockpull")
    assert done.returncode == 0, done


def test_danger_02_a_commit_into_the_disk_below_another_domains_disk_is_refused(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """An off domain that lies on this one's own image is named."""
    name, done = consolidate_what_another_lies_on(drop_in, block_domain, "blockcommit")
    assert done.returncode != 0
    assert name in done.stderr


def test_danger_03_a_backup_after_a_consolidation_changes_no_older_point(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """Every stored file is the same, to the byte, and every point restores."""
    domain = running(block_domain, drop_in)
    for option in ("-c", "-C"):
        drop_in.backup(domain)
        drop_in.backup(domain)
        stored = {path: digest(path) for path in drop_in.store.rglob("*.qcow2")}
        drop_in.run(option, domain.name)
        drop_in.backup(domain, options=("-C",))
        assert {path: digest(path) for path in stored} == stored
        drop_in.restores()


@METHODS
def test_danger_04_a_guest_cannot_name_a_host_file(
    drop_in: DropIn, block_domain: MakeBlockDomain, images: Path, method: str
) -> None:
    """A qcow2 header on a raw disk is data: nothing of the host is copied, or deleted."""
    secret = images / "secret"
    secret.write_bytes(b"TOP SECRET" * 20000)
    forged = images / "forged"
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret)]
    subprocess.run([*words, str(forged)], check=True)
    raw = images / "disk.raw"
    create_image(DiskSpec(format="raw"), raw)
    with raw.open("r+b") as disk:
        disk.write(forged.read_bytes()[:MIB])
    domain = running(block_domain, drop_in, DiskSpec(format="raw", path=raw))
    drop_in.backup(domain)
    drop_in.backup(domain)
    drop_in.run("-c", "-m", method, domain.name)
    assert secret.read_bytes() == b"TOP SECRET" * 20000
    assert raw.exists()
    for path in drop_in.store.rglob("*"):
        assert path.is_dir() or b"TOP SECRET" not in path.read_bytes()
    drop_in.backup(domain)
    drop_in.restores()


def test_danger_05_a_truncated_copy_is_seen_and_made_good(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """A copy that was cut fails, leaves no point, and the next run has everything."""
    domain = running(block_domain, drop_in)
    drop_in.write(domain)
    cut = ("prlimit", f"--fsize={MIB}", "--")
    done = drop_in.run("-b", drop_in.store, domain.name, code=1, wrapper=cut)
    assert "[ERR]" in done.stderr
    assert drop_in.points(domain) == ()
    drop_in.backup(domain)
    image = min(drop_in.store.glob("*/vda/*.qcow2"))  # of the oldest point
    with image.open("r+b") as stored:  # what a crash could leave behind
        stored.truncate(image.stat().st_size - 4096)
    drop_in.seen.clear()
    drop_in.backup(domain)
    assert drop_in.points(domain)[-1].disk("vda").kind is fb.DiskKind.FULL
    drop_in.restores()


def test_danger_06_a_relative_backing_name_is_followed(
    drop_in: DropIn, block_domain: MakeBlockDomain, images: Path
) -> None:
    """The base is in the point as well."""
    filled(images / "base.qcow2")
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2"]
    subprocess.run([*words, "top.qcow2"], check=True, cwd=images)
    top = images / "top.qcow2"
    for start in (True, False):
        spec = DiskSpec(path=top, backing=images / "base.qcow2")
        domain = running(block_domain, drop_in, spec, start=start)
        drop_in.backup(domain)
        assert len(drop_in.points(domain)[0].disk("vda").images) == 2
        drop_in.restores()
        domain.close()
        drop_in.seen.clear()


def test_danger_07_images_of_one_name_keep_apart(
    drop_in: DropIn, block_domain: MakeBlockDomain, images: Path
) -> None:
    """Two disks, and two domains, whose images have the same file name."""
    domains = []
    for name in ("a", "b"):
        places = [images / f"{name}{number}" for number in (1, 2)]
        for place in places:
            place.mkdir()
        domains.append(
            running(
                block_domain,
                drop_in,
                DiskSpec(path=places[0] / "disk.qcow2"),
                DiskSpec(target="vdb", path=places[1] / "disk.qcow2"),
            )
        )
    drop_in.backup(*domains)
    drop_in.backup(*domains, options=("-C",))
    for domain in domains:
        domain.destroy()
    drop_in.backup(*domains)
    drop_in.restores()


@pytest.mark.parametrize("language", ["C", "de_DE.UTF-8"])
def test_danger_08_what_is_not_running_is_not_taken_for_off(
    drop_in: DropIn, block_domain: MakeBlockDomain, language: str
) -> None:
    """A paused domain gets a snapshot in any language; its active layer is never copied."""
    domain = block_domain(on=drop_in.daemon)
    drop_in.write(domain)
    drop_in.run("-b", drop_in.store, domain.name, LANG=language, LC_ALL=language)
    drop_in.keep(domain)
    (point,) = drop_in.points(domain)
    assert point.consistency is fb.Consistency.CRASH
    assert len(drop_in.chain(domain)) == 2
    domain.dom.managedSave(0)
    drop_in.run("-b", drop_in.store, domain.name, code=13)
    domain.dom.managedSaveRemove(0)
    drop_in.restores()


def test_danger_09_stored_images_know_nothing_of_the_live_directory(
    drop_in: DropIn, block_domain: MakeBlockDomain, images: Path
) -> None:
    """Their backing names are plain names in the store, and the live images may all be gone."""
    template = filled(images / "template.qcow2")
    domain = running(block_domain, drop_in, DiskSpec(backing=template))
    drop_in.backup(domain)
    drop_in.backup(domain)
    names = []
    for image in drop_in.store.glob("*/vda/*.qcow2"):
        words = ["qemu-img", "info", "-f", "qcow2", "--output=json", str(image)]
        info = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        names.append(info.get("backing-filename", ""))
        assert "/" not in names[-1]
    assert len(names) == 3
    assert sum(not name for name in names) == 1
    domain.destroy()
    for path in (template, *drop_in.chain(domain)):
        path.unlink(missing_ok=True)
    drop_in.restores()


def test_danger_10_memory_is_taken_in_a_relative_directory_and_the_guest_goes_on(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """The state ends up there; when it cannot, the guest goes on all the same."""
    domain = running(block_domain, drop_in)
    (drop_in.place / "states").mkdir()
    drop_in.backup(domain, options=("-s", "states"))
    assert len(list((drop_in.place / "states").iterdir())) == 1
    drop_in.write(domain)
    cut = ("prlimit", f"--fsize={MIB}", "--")
    drop_in.run("-s", "states", "-b", drop_in.store, domain.name, code=1, wrapper=cut)
    assert domain.dom.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    drop_in.backup(domain, options=("-s", "states"))
    assert domain.dom.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    drop_in.restores()


def test_danger_11_the_guest_runs_while_its_memory_and_disks_are_copied(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """At every piece of progress of every copy."""
    domain = running(block_domain, drop_in)
    drop_in.write(domain)
    states: list[int] = []

    def look(event: fb.Event) -> None:
        if isinstance(event, fb.CopyProgress):
            states.append(domain.dom.state()[0])

    with fb.LibvirtHost.open(drop_in.daemon.uri) as host, fb.Store.create(drop_in.store) as store:
        history = store.read_history(domain.uuid)
        policy = fb.BackupPolicy(memory=True, quiesce=fb.Quiesce.OFF)
        found = host.read_domain(domain.uuid)
        plan = fb.plan_backup(found, history, now=datetime.now(UTC), policy=policy)
        fb.Executor(host, store).run(plan, on_event=look)
    assert states
    assert set(states) == {libvirt.VIR_DOMAIN_RUNNING}
    drop_in.keep(domain)
    drop_in.restores()


def test_danger_12_a_signal_ends_the_run(drop_in: DropIn, block_domain: MakeBlockDomain) -> None:
    """SIGTERM in a copy: exit 143, no point, the guest runs; the next run has everything."""
    domain = running(block_domain, drop_in)
    drop_in.write(domain)
    drop_in.run(
        "-C", "-b", drop_in.store, domain.name, code=128 + signal.SIGTERM, program=TERM_IN_COPY
    )
    assert drop_in.points(domain) == ()
    assert domain.dom.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    drop_in.backup(domain)
    drop_in.restores()


@METHODS
def test_danger_13_only_what_is_ours_and_unused_is_deleted(
    drop_in: DropIn, block_domain: MakeBlockDomain, method: str
) -> None:
    """An overlay that somebody else made under our names stays, in the chain or beside it."""
    domain = running(block_domain, drop_in)
    flags = (
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    )
    theirs = domain.directory / "vda.bimg-20200101T000000Z"
    domain.dom.snapshotCreateXML(
        "<domainsnapshot><disks><disk name='vda' snapshot='external' type='file'>"
        f"<driver type='qcow2'/><source file='{theirs}'/></disk></disks></domainsnapshot>",
        flags,
    )
    beside = filled(domain.directory / "vda.bimg-20200102T000000Z")
    drop_in.backup(domain)
    drop_in.backup(domain)
    drop_in.run("-c", "-m", method, domain.name)
    assert (theirs.exists(), beside.exists(), domain.path("vda").exists()) == (True, True, True)
    drop_in.backup(domain)
    drop_in.restores()


@METHODS
def test_danger_14_internal_snapshots_of_the_base_survive(
    drop_in: DropIn, block_domain: MakeBlockDomain, method: str
) -> None:
    """After a commit they are in the base still, and after a pull the old base is kept."""
    domain = running(block_domain, drop_in, start=False)
    base = domain.path("vda")
    subprocess.run(["qemu-img", "snapshot", "-c", "precious", str(base)], check=True)
    domain.start(paused=False)
    drop_in.backup(domain)
    drop_in.run("-c", "-m", method, domain.name)
    domain.destroy()
    words = ["qemu-img", "snapshot", "-l", str(base)]
    assert b"precious" in subprocess.run(words, check=True, capture_output=True).stdout
    drop_in.backup(domain)
    drop_in.restores()


def test_danger_15_every_generation_of_a_domain_that_is_off_is_kept(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """Three points of three contents."""
    domain = running(block_domain, drop_in, start=False)
    for _ in range(3):
        drop_in.backup(domain)
    assert len(drop_in.points(domain)) == 3
    drop_in.restores()


def test_danger_16_failed_runs_pile_no_overlays_up(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """Two copies that fail leave one overlay; the run after them stores it, and has its own."""
    domain = running(block_domain, drop_in)
    drop_in.backup(domain)
    for _ in range(2):
        drop_in.write(domain)
        cut = ("prlimit", f"--fsize={MIB}", "--")
        done = drop_in.run("-C", "-b", drop_in.store, domain.name, code=1, wrapper=cut)
        assert str(drop_in.chain(domain)[0]) in done.stderr
        assert len(drop_in.chain(domain)) == 3
    assert len(drop_in.points(domain)) == 1
    drop_in.backup(domain, options=("-C",))
    assert len(drop_in.points(domain)) == 3
    assert len(drop_in.chain(domain)) == 2
    drop_in.restores()


def test_danger_17_a_disk_that_fails_leaves_no_mixed_state(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """One disk's base is shared: said, exit code, both chains whole, both usable afterwards."""
    domain = running(block_domain, drop_in, DiskSpec(), DiskSpec(target="vdb"))
    drop_in.backup(domain)
    clone = block_domain(DiskSpec(backing=domain.path("vdb")), on=drop_in.daemon, start=False)
    done = drop_in.run("-c", domain.name, code=1)
    assert clone.name in done.stderr
    assert [len(drop_in.chain(domain, target)) for target in ("vda", "vdb")] == [2, 2]
    clone.close()
    drop_in.backup(domain)
    drop_in.run("-c", domain.name)
    assert [len(drop_in.chain(domain, target)) for target in ("vda", "vdb")] == [1, 1]
    drop_in.restores()


@pytest.fixture
def small_drop_in(forks: Forks, tmp_path: Path) -> Iterator[tuple[DropIn, Path]]:
    """Give the program with a daemon of its own, and a file system of 16 MiB that it sees."""
    require_tools()
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs", small)
    try:
        with PrivateDaemon() as daemon:
            yield DropIn(daemon, tmp_path, forks), small
    finally:
        run("umount", "-l", small)


@METHODS
def test_danger_17_a_job_that_fails_midway_leaves_no_mixed_state(
    small_drop_in: tuple[DropIn, Path], block_domain: MakeBlockDomain, method: str
) -> None:
    """
    The second disk's job has no room to write: it is over, its overlay stays, the first is done.

    With room the same command does the rest.
    """
    drop_in, small = small_drop_in
    specs = (DiskSpec(), DiskSpec(target="vdb", path=small / "vdb.qcow2"))
    domain = running(block_domain, drop_in, *specs)
    drop_in.backup(domain)
    domain.write("vdb", 20 * MIB, 3 * MIB, 77)
    filler = small / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small).free - MIB))
    done = drop_in.run("-c", "-m", method, domain.name, code=13)
    assert "disk vdb: " in done.stderr
    assert "fibackup consolidate" in done.stderr
    assert [len(drop_in.chain(domain, target)) for target in ("vda", "vdb")] == [1, 2]
    assert domain.dom.blockJobInfo("vdb", 0) == {}
    assert domain.dom.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert domain.reads("vdb", 20 * MIB, 3 * MIB, 77)
    filler.unlink()
    drop_in.run("-c", "-m", method, domain.name)
    assert [len(drop_in.chain(domain, target)) for target in ("vda", "vdb")] == [1, 1]
    assert domain.reads("vdb", 20 * MIB, 3 * MIB, 77)
    drop_in.backup(domain)
    drop_in.restores()


def test_danger_18_the_exit_status_is_that_of_all(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """First fails and last is fine: 5; a lock that is held: 11; an image that is gone: not 0."""
    domain = running(block_domain, drop_in)
    drop_in.run("-b", drop_in.store, "nobody", domain.name, code=5)
    drop_in.keep(domain)
    with fb.LibvirtHost.open(drop_in.daemon.uri) as host, host.locked(domain.uuid):
        for words in (("-b", drop_in.store), ("-c",), ("-C", "-b", drop_in.store)):
            assert "another run" in drop_in.run(*words, domain.name, code=11).stderr
    moved = domain.path("vda").with_name("moved")
    domain.path("vda").rename(moved)
    assert drop_in.run("-c", domain.name, code=None).returncode not in {0, 2}
    moved.rename(domain.path("vda"))
    drop_in.restores()


@pytest.mark.parametrize("options", [(), ("-d",), ("-v",)])
def test_danger_19_success_off_line_is_exit_0(
    drop_in: DropIn, block_domain: MakeBlockDomain, options: tuple[str, ...]
) -> None:
    """With and without -d."""
    domain = running(block_domain, drop_in, start=False)
    drop_in.backup(domain, options=options)
    drop_in.restores()


def test_danger_20_what_is_asked_for_is_done_or_refused(
    drop_in: DropIn, block_domain: MakeBlockDomain
) -> None:
    """Unknown names fail with -d too, both spellings work, every argument counts."""
    assert "nobody" in drop_in.run("-d", "-b", drop_in.store, "nobody", code=1).stderr
    assert list(drop_in.store.iterdir()) == []
    one, two = running(block_domain, drop_in), running(block_domain, drop_in)
    drop_in.backup(one, two)
    for number, option in enumerate(
        ("--consolidate_and_snapshot", "--consolidate_and_snaphot"), start=2
    ):
        drop_in.backup(one, options=(option,))
        assert (len(drop_in.points(one)), len(drop_in.chain(one))) == (number, 2)
    name = f"{one.name} {two.name}"
    odd = BlockDomain(drop_in.daemon, name, {"vda": DiskSpec()}, "")
    try:
        drop_in.backup(odd)
        assert (len(drop_in.points(one)), len(drop_in.points(two))) == (3, 1)
        drop_in.restores()
    finally:
        odd.close()


def test_danger_21_two_runs_never_hold_one_domain(
    drop_in: DropIn, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """Held from the plan's check to the end of the consolidation; a link is not followed."""
    domain = running(block_domain, drop_in)
    drop_in.backup(domain)
    runs, victim = tmp_path / "run", tmp_path / "victim"
    victim.write_text("mine")
    runs.mkdir(mode=0o700)
    (runs / f"{domain.uuid}.lock").symlink_to(victim)
    done = drop_in.run("-b", drop_in.store, domain.name, code=1, FIBACKUP_RUN_DIR=str(runs))
    assert "[ERR]" in done.stderr
    assert victim.read_text() == "mine"
    (runs / f"{domain.uuid}.lock").unlink()
    drop_in.backup(domain)
    seen: list[int] = []

    def look(event: fb.Event) -> None:
        if isinstance(event, (fb.StepStarted, fb.StepFinished)):
            with pytest.raises(fb.LockedError), host.locked(domain.uuid):
                pass
            seen.append(drop_in.run("-c", domain.name, code=None).returncode)

    with fb.LibvirtHost.open(drop_in.daemon.uri) as host, fb.Store.open(drop_in.store) as store:
        history, found = store.read_history(domain.uuid), host.read_domain(domain.uuid)
        policy = fb.BackupPolicy(consolidate=True, quiesce=fb.Quiesce.OFF)
        plan = fb.plan_backup(found, history, now=datetime.now(UTC), policy=policy)
        fb.Executor(host, store).run(plan, on_event=look)
    assert len(seen) == 2 * len(plan.steps)
    assert set(seen) <= {11, 13}  # locked, or the ledger says that a run has not ended
    drop_in.keep(domain)
    drop_in.restores()


def test_danger_22_quiesced_rotation(
    drop_in: DropIn, linux_guest: MakeLinuxGuest, tmp_path: Path
) -> None:
    """-C -q freezes by the agent, twice; a point needs no journal, and chains stay two deep."""
    disk = DiskSpec(size_bytes=128 * MIB)
    guest = linux_guest(disk, options=GuestOptions(record_kib=4), on=drop_in.daemon)
    acked = 0
    for _ in range(2):
        acked = guest.wait_more()
        drop_in.run("-Cqb", drop_in.store, guest.name)
    with fb.LibvirtHost.open(drop_in.daemon.uri) as host, fb.Store.open(drop_in.store) as store:
        (found,) = host.read_domain(guest.uuid).disks
        assert found.chain is not None
        assert found.chain.depth == 2
        history = store.read_history(guest.uuid)
        full, point = history.points
        assert full.consistency is point.consistency is fb.Consistency.APPLICATION
        assert (full.kind, point.kind) == (fb.DiskKind.FULL, fb.DiskKind.INCREMENT)
        plan = fb.plan_restore(
            history,
            point.id,
            into=PurePosixPath(tmp_path / "out"),
            image_format=fb.ImageFormat.RAW,
        )
        fb.Executor(None, store).run(plan)
    records = read_records(tmp_path / "out/vda.raw", "vda", replay_journal=False)
    assert records == list(range(1, len(records) + 1))
    assert len(records) >= acked
    guest.close()


def test_danger_22_no_agent_stderr_uri_and_names(
    drop_in: DropIn, block_domain: MakeBlockDomain, images: Path
) -> None:
    """Without an agent -C -q fails, on stderr; data.qcow2 and data.img keep apart."""
    domain = running(
        block_domain,
        drop_in,
        DiskSpec(path=images / "data.qcow2"),
        DiskSpec(target="vdb", path=images / "data.img"),
    )
    done = drop_in.run("-Cq", "-b", drop_in.store, domain.name, code=13)
    assert (done.stdout, "agent" in done.stderr) == ("", True)
    nowhere = "qemu+unix:///system?socket=/nowhere"
    drop_in.run("-b", drop_in.store, domain.name, code=1, LIBVIRT_DEFAULT_URI=nowhere)
    drop_in.backup(domain)
    drop_in.backup(domain, options=("-C",))
    drop_in.restores()
