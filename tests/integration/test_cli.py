"""The command line as users, cron and scripts meet it: a process, its output, its exit code."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import libvirt
import pytest

import fibackup as fb
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    GuestOptions,
    ImageFormat,
    MakeBlockDomain,
    MakeLinuxGuest,
    PrivateDaemon,
    differences,
    read_records,
)

pytestmark = pytest.mark.libvirt

SOURCE = Path(fb.__file__).resolve().parents[1]
ROOT = Path(__file__).parents[2]
NO_WARNING = ("--quiesce", "off")
LEDGER = "urn:fibackup:ledger:1"
SIGNALS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"]
)

# Limits itself as systemd does (Linux 6.3 and later), and then becomes the command line.
NO_WRITABLE_CODE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
os.umask(int(sys.argv[1], 8))
os.execv(sys.executable, [sys.executable, "-m", "fibackup", *sys.argv[2:]])
"""

# Runs the command line in a process that sends itself a signal in a chosen phase.
IN_PHASE = """
import os, sys
import fibackup as fb
import fibackup.host.flatten, fibackup.host.store, fibackup.host.stored_images
from fibackup.cli import main
from fibackup.cli.signals import Signals
from signal import SIGWINCH, pthread_kill, signal
from threading import Event, Lock, main_thread

signal(SIGWINCH, lambda *_: None)
phase, number, *words = sys.argv[1:]
sent, heard, once = [], Event(), Lock()
handle = Signals._handle
Signals._handle = lambda *words: (handle(*words), heard.set())

def send():
    if once.acquire(blocking=False):  # disks come back side by side, and a second one would kill
        sent.append(os.kill(os.getpid(), int(number)))
        for _ in range(300):
            if heard.wait(0.2):
                return
            pthread_kill(main_thread().ident, SIGWINCH)  # it was about to wait, and overheard it
        raise AssertionError("the main thread heard nothing")

def wrap(owner, name, before=False):
    real = getattr(owner, name)
    def wrapped(*args, **options):
        if before:
            send()
        try:
            return real(*args, **options)
        finally:
            send()
    setattr(owner, name, wrapped)

match phase:
    case "read": wrap(fb.LibvirtHost, "read_domain", before=True)
    case "before the snapshot": wrap(fb.LibvirtHost, "write_ledger")
    case "freeze": wrap(fb.LibvirtHost, "freeze")
    case "snapshot": wrap(fb.LibvirtHost, "take_snapshot", before=True)
    case "copy": wrap(fibackup.host.store, "copy_image", before=True)
    case "publish": wrap(fb.Store, "publish", before=True)
    case "verify": wrap(fibackup.host.stored_images, "hash_file", before=True)
    case "restore": wrap(fibackup.host.flatten, "convert", before=True)
code = main(words)
assert sent, "the phase was not reached"
sys.exit(code)
"""


def environment(**more: str) -> dict[str, str]:
    """Return the environment of child processes that import fibackup."""
    return {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
        **more,
    }


@dataclass
class Shell:
    """A user's shell beside a daemon and a directory for a store."""

    daemon: PrivateDaemon
    store: Path
    out: Path
    host: fb.LibvirtHost
    references: dict[str, dict[str, Path]] = field(default_factory=dict)

    def run(
        self,
        *words: str | Path,
        code: int = 0,
        python: tuple[str, ...] = ("-m", "fibackup"),
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line; check its exit code, and that it shows no traceback."""
        done = subprocess.run(
            [sys.executable, *python, *map(str, words)],
            check=False,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=environment(**variables),
            timeout=120,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done
        return done

    def words(self, *more: str | Path, verb: str = "backup") -> tuple[str | Path, ...]:
        """Return the arguments of a backup into the store."""
        return (verb, "-c", self.daemon.uri, "-s", self.store, "--allow-paused", *more)

    def in_phase(
        self, phase: str, number: int, code: int, *words: str | Path
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line, and send it a signal when it has come that far."""
        return self.run(phase, str(number), *words, code=code, python=("-c", IN_PHASE))

    def backup(self, domain: BlockDomain, number: int, *more: str) -> dict[str, Any]:
        """Write as the guest, keep what it has, back up; return the point as JSON has it."""
        for target in domain.disks:
            domain.write(target, number * 256 * 1024, 320 * 1024, number)
        references = {target: domain.reference(target, f"p{number}") for target in domain.disks}
        done = self.run(*self.words("--json", *more, domain.uuid))
        (result,) = json.loads(done.stdout)["results"]
        assert result["ok"] is True
        point: dict[str, Any] = result["report"]["point"]
        self.references[point["id"]] = references
        return point

    def restores(self, domain: BlockDomain, point: str) -> None:
        """Restore a point and compare it with what the guest had."""
        into = self.out / f"{point}-{len(list(self.out.iterdir()))}"
        self.run("restore", "-s", self.store, domain.uuid, "--point", point, "--into", into)
        for image in into.iterdir():
            reference = self.references[point][image.stem]
            assert differences(image, "qcow2", reference) == ""

    def points(self, domain: BlockDomain) -> list[dict[str, Any]]:
        """Return what ``list --json`` says."""
        done = self.run("list", "-s", self.store, "--json", domain.uuid)
        points: list[dict[str, Any]] = json.loads(done.stdout)["points"]
        return points

    def picture(self, domain: BlockDomain) -> tuple[object, ...]:
        """Return all that a command which fails early must leave as it was."""
        try:
            ledger = domain.dom.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, LEDGER, 0)
        except libvirt.libvirtError:
            ledger = ""
        names = sorted(str(path) for path in domain.directory.rglob("*"))
        return ledger, names, domain.dom.XMLDesc(0), domain.dom.state()[0], tree(self.store)


def tree(directory: Path) -> dict[str, tuple[int, str]]:
    """Return every file below a directory but the locks: mode and hash."""
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_mode,
            sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(path.lstat().st_mode) else "",
        )
        for path in sorted(directory.rglob("*"))
        if path.name not in {"lock", "lock.readers"}
    }


def temporary_files(directory: Path) -> list[Path]:
    """Return what no command may leave behind."""
    return sorted(directory.rglob(".*.tmp"))


def wait_until(holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def shell(private_daemon: PrivateDaemon, tmp_path: Path) -> Shell:
    """Give a shell with an empty directory for a store."""
    store, out = tmp_path / "store", tmp_path / "out"
    for path in (store, out):
        path.mkdir()
    return Shell(private_daemon, store, out, fb.LibvirtHost(private_daemon.connection))


@pytest.fixture
def domain(shell: Shell, block_domain: MakeBlockDomain) -> BlockDomain:
    """Give a paused domain with two disks."""
    return block_domain(DiskSpec(), DiskSpec(target="vdb", format="raw"), on=shell.daemon)


# -- what the verbs print ------------------------------------------------------------------------


def test_a_story_for_people(shell: Shell, domain: BlockDomain) -> None:
    """Each verb tells people what they need: data on stdout, talk on stderr."""
    domain.write("vda", 0, MIB, 1)
    reference = domain.reference("vda", "first")
    saved = shell.run(*shell.words(*NO_WARNING, domain.name))
    assert saved.stdout.startswith(f"backup of {domain.name} done in ")
    assert "copied " in saved.stdout
    assert "take one snapshot of vda, vdb" in saved.stderr
    listed = shell.run("list", "--store", shell.store)
    assert domain.uuid in listed.stdout
    assert "vda,vdb" in listed.stdout
    drawn = shell.run("chain", "-c", shell.daemon.uri, "--store", shell.store, domain.name)
    assert "active layer" in drawn.stdout
    assert "stored" in drawn.stdout
    words = ("chain", "-c", shell.daemon.uri, "--store", shell.store, domain.name)
    shell.run(*words, "--svg", shell.out / "chains.svg")
    assert (shell.out / "chains.svg").read_text("utf-8") == shell.run(*words, "--svg", "-").stdout
    assert "copied to" in (shell.out / "chains.svg").read_text("utf-8")
    assert "flowchart TB" in shell.run(*words, "--mermaid").stdout
    into = shell.out / "story"
    restored = shell.run("restore", "-s", shell.store, domain.name, "--into", into)
    assert str(into / "vda.qcow2") in restored.stdout
    assert differences(into / "vda.qcow2", "qcow2", reference) == ""
    assert (listed.stderr, drawn.stderr) == ("", "")


def test_a_story_for_scripts(shell: Shell, domain: BlockDomain) -> None:
    """With --json each verb prints one document, whose fields are there for good."""
    first, second = shell.backup(domain, 1), shell.backup(domain, 2)
    listed = shell.points(domain)
    assert [point["id"] for point in listed] == [first["id"], second["id"]]
    assert [point["kind"] for point in listed] == ["full", "increment"]
    assert listed[1]["parent"] == first["id"]
    for point in listed:
        assert {"id", "domain", "uuid", "time", "kind", "consistency", "parent"} < set(point)
        assert (point["domain"], point["uuid"]) == (domain.name, domain.uuid)
        assert set(point["disks"]) == {"vda", "vdb"}
        for target, disk in point["disks"].items():
            assert {"image", "bytes", "virtual_size", "sha256"} <= set(disk)
            (image,) = shell.store.glob(f"*/{target}/{disk['image']}")
            assert image.stat().st_size == disk["bytes"]
            assert sha256(image.read_bytes()).hexdigest() == disk["sha256"]
    chain = json.loads(shell.run("chain", "-c", shell.daemon.uri, "--json", domain.uuid).stdout)
    assert chain["domain"]["uuid"] == domain.uuid
    assert len(chain["domain"]["disks"][0]["chain"]["images"]) == 3
    words = ("restore", "-s", shell.store, domain.name, "--json", "--point", first["id"])
    for more in (("--dry-run",), ()):
        done = shell.run(*words, "--into", shell.out / "json", *more)
        (result,) = json.loads(done.stdout)["results"]
        assert (result["domain"], result["ok"]) == (domain.name, True)
        assert ("plan" in result, (shell.out / "json").exists()) == (bool(more), not more)
    for point in (first, second):
        shell.restores(domain, point["id"])


def test_a_story_as_it_happens(shell: Shell, domain: BlockDomain) -> None:
    """With --json-lines each event is an object on a line; the last one has the exit code."""
    domain.write("vda", 0, MIB, 1)
    done = shell.run(*shell.words("--json-lines", domain.name, "nobody"), code=5)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(each["time"].endswith("Z") for each in found)
    ours = [each for each in found if each.get("uuid") == domain.uuid]
    assert {each["domain"] for each in ours} == {domain.name}
    steps = [each for each in ours if each["type"] == "step"]
    assert [each["state"] for each in steps] == ["started", "finished"] * (len(steps) // 2)
    images = {each["disk"]: each for each in ours if each["type"] == "image"}
    assert set(images) == {"vda", "vdb"}
    progress = [each for each in ours if each["type"] == "progress"]
    assert {each["image"] for each in progress} == {each["image"] for each in images.values()}
    good, bad = (each for each in found if each["type"] == "result")
    assert (good["ok"], good["report"]["point"]["domain"]) == (True, domain.name)
    assert (bad["ok"], bad["domain"], bad["uuid"]) == (False, "nobody", "")
    assert (found[-1]["type"], found[-1]["exit_code"]) == ("end", 5)
    listed = shell.run("list", "-s", shell.store, "--json-lines").stdout.splitlines()
    assert [json.loads(line)["type"] for line in listed] == ["point", "end"]
    assert json.loads(listed[0])["id"] == good["report"]["point"]["id"]
    assert "progress" not in done.stderr
    assert shell.run("list", "-s", shell.store, "--json", "--json-lines", code=2).stdout == ""


def test_hooks_and_metrics(shell: Shell, domain: BlockDomain) -> None:
    """A hook sees the domain before and after its snapshot; metrics tell success from failure."""
    log, prom = shell.out / "log", shell.out / "fibackup.prom"
    hook = shell.out / "hook"
    hook.write_text(f"#!/bin/sh\ncat >> {log}\ntest $FIBACKUP_PHASE != ${{NO:-none}}\n")
    hook.chmod(0o755)
    words = shell.words("--hook", hook, "--metrics", prom, "--strict", *NO_WARNING)
    shell.run(*words, domain.name)
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [each["phase"] for each in told] == ["before-freeze", "after-thaw", "published"]
    (point,) = shell.points(domain)
    assert {each["point"] for each in told} == {point["id"]}
    assert {each["disk"]: each["sha256"] for each in told[-1]["images"]} == {
        target: disk["sha256"] for target, disk in point["disks"].items()
    }
    found = {each.name: each for each in fb.parse_metrics(prom.read_text())}
    assert found["fibackup_last_run_success"].labels == (
        ("domain", domain.name),
        ("store", str(shell.store)),
    )
    assert (found["fibackup_points"].value, found["fibackup_chain_depth"].value) == (1, 2)
    before = shell.picture(domain)[1:4]
    log.unlink()
    done = shell.run(*words, "--json", domain.name, code=1, NO="before-freeze")
    (result,) = json.loads(done.stdout)["results"]
    assert "before-freeze: exit code 1" in result["error"]["message"]
    assert "no snapshot was taken" in result["error"]["state"]
    assert shell.picture(domain)[1] == before[0]
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [each["phase"] for each in told] == ["before-freeze", "after-thaw", "failed"]
    later = {each.name: each for each in fb.parse_metrics(prom.read_text())}
    name = "fibackup_last_success_timestamp_seconds"
    assert later[name] == found[name]
    assert later["fibackup_last_run_success"].value == 0
    shell.run(*words, domain.name, code=4, NO="published")
    assert len(shell.points(domain)) == 2
    shell.run(*words, "nobody", code=1)
    shell.run(*words, "-c", "qemu+unix:///system?socket=/nowhere", "db1", code=1)
    samples = fb.parse_metrics(prom.read_text())
    assert {
        each.label("domain"): each.value
        for each in samples
        if each.name == "fibackup_last_run_success"
    } == {domain.name: 1, "nobody": 0, "db1": 0}


def test_the_doctor_looks_and_changes_nothing(shell: Shell, domain: BlockDomain) -> None:
    """0 when all is well but for notes, 4 with warnings, 1 with problems; nothing is changed."""
    doctor = ("doctor", "-c", shell.daemon.uri, "--store", shell.store)
    found = shell.run(*doctor, domain.name, code=1).stdout
    assert "problem  store: there is no fibackup-store.json" in found
    assert "-> mount the disk that the store is on" in found
    assert f"virsh -c '{shell.daemon.uri}' resume " in found
    domain.dom.resume()
    point = shell.backup(domain, 1)
    shell.store.chmod(0o700)
    before = shell.picture(domain)
    done = shell.run(*doctor, domain.name, code=4)  # the store lies beside the images
    assert "domain " + domain.name + ": the next point is vda: increment" in done.stdout
    assert "one loss takes both" in done.stdout
    bad = shell.run(*doctor, "-q", domain.name, code=4).stdout
    assert {line.split()[0] for line in bad.splitlines()} == {"warning", "->"}
    shell.store.chmod(0o755)
    found = json.loads(shell.run(*doctor, "--json", code=4).stdout)["findings"]
    texts = [each["text"] for each in found if each["level"] == "warning"]
    assert any("other users can look into it" in text for text in texts)
    assert {each["subject"] for each in found} >= {"host", "store", f"domain {domain.name}"}
    lines = shell.run(*doctor, "--json-lines", code=4).stdout.splitlines()
    assert [json.loads(each)["type"] for each in (lines[0], lines[-1])] == ["finding", "end"]
    assert shell.picture(domain) == before
    (image,) = shell.store.glob(f"*/vda/{point['id']}*.qcow2")
    moved = image.rename(shell.out / "moved")
    shown = shell.run(*doctor, domain.name, code=1).stdout
    assert f"vda/{point['id']}.qcow2 is missing" in shown
    moved.rename(image)
    store = shell.store.rename(shell.out / "elsewhere")
    shown = shell.run(*doctor[:3], domain.name, code=4).stdout
    assert f"knows point {point['id']} in a store at {shell.store}, which is not there" in shown
    store.rename(shell.store)
    shown = shell.run("doctor", "-c", "qemu+unix:///system?socket=/nowhere", code=1).stdout
    assert "problem  host: cannot connect" in shown
    shown = shell.run(*doctor, "nobody", code=1).stdout
    assert "problem  domain nobody: " in shown
    assert f"-> virsh -c '{shell.daemon.uri}' list --all" in shown
    with shell.host.locked(point["uuid"]):
        shown = shell.run(*doctor, domain.name, code=4).stdout
    assert "a run works on it now" in shown
    assert "the next point is" not in shown
    wrong = shell.out / "fibackup.toml"
    wrong.write_text("[backup]\nfrobnicate = 1\n")
    shown = shell.run(*doctor, domain.name, code=1, FIBACKUP_CONFIG=str(wrong)).stdout
    assert "frobnicate" in shown
    shell.restores(domain, point["id"])


def test_the_service_of_systemd_can_do_its_work(shell: Shell, domain: BlockDomain) -> None:
    """Its command, under its limits: capabilities, no new privileges, no code in data, umask."""
    unit = (ROOT / "contrib" / "systemd" / "fibackup@.service").read_text("utf-8")
    found = dict(line.split("=", 1) for line in unit.splitlines() if re.match(r"[A-Z]\w+=", line))
    config = shell.out / "fibackup.toml"
    config.write_text(
        f"connect = {json.dumps(shell.daemon.uri)}\nstore = {json.dumps(str(shell.store))}\n"
        '[backup]\nallow-paused = true\nquiesce = "off"\nconsolidate = true\n'
    )
    words = found["ExecStart"].removeprefix(":fibackup ").replace("%I", domain.name).split()
    assert (found["NoNewPrivileges"], found["MemoryDenyWriteExecute"]) == ("yes", "yes")
    allowed = [each.removeprefix("CAP_").lower() for each in found["CapabilityBoundingSet"].split()]
    limited = ("setpriv", "--no-new-privs", "--bounding-set", ",+".join(["-all", *allowed]))
    for number in (1, 2):
        domain.write("vda", number * MIB, MIB, number)
        done = subprocess.run(
            [*limited, sys.executable, "-c", NO_WRITABLE_CODE, found["UMask"], *words],
            check=False,
            capture_output=True,
            text=True,
            env=environment(FIBACKUP_CONFIG=str(config)),
            timeout=120,
        )
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done
    assert [point["kind"] for point in shell.points(domain)] == ["full", "increment"]
    for file in shell.store.rglob("*"):
        assert not file.stat().st_mode & 0o077


def test_a_store_that_others_can_write_is_told_beforehand(
    shell: Shell, domain: BlockDomain
) -> None:
    """By the doctor, a dry run and a backup alike, be it a store already or not."""
    domain.dom.resume()
    shell.store.chmod(0o777)
    dry = shell.words("--dry-run", domain.name)
    cure = f"chmod go-w {shell.store}"
    assert f"next: {cure}, then run" in shell.run(*dry, code=1).stderr
    shell.store.chmod(0o700)
    shell.backup(domain, 1)
    shell.store.chmod(0o777)
    for words in (dry, shell.words(domain.name)):
        assert f"next: {cure}, then run" in shell.run(*words, code=1).stderr
    doctor = ("doctor", "-c", shell.daemon.uri, "--store", shell.store, "-q", domain.name)
    assert shell.run(*doctor, code=1).stdout.count(f"-> {cure}\n") == 2


def test_a_dry_run_changes_nothing(shell: Shell, domain: BlockDomain) -> None:
    """--dry-run prints the plan, makes no store, and leaves domain and store as they are."""
    for _ in range(2):
        before = shell.picture(domain)
        said = shell.run(*shell.words("--dry-run", domain.name))
        assert said.stdout.startswith(f"backup of {domain.name}, point ")
        assert "publish point" in said.stdout
        document = json.loads(shell.run(*shell.words("-n", "--json", domain.name)).stdout)
        plan = fb.decode(fb.Plan, document["results"][0]["plan"])
        assert {decision.target for decision in plan.decisions} == {"vda", "vdb"}
        assert shell.picture(domain) == before
        shell.backup(domain, 1)
    (point, _) = shell.points(domain)
    shell.restores(domain, point["id"])


def test_nothing_is_laid_on_what_verify_found_wrong(shell: Shell, domain: BlockDomain) -> None:
    """A flipped bit has spoiled a disk's points: the next begins the disk anew, and is whole."""
    first = shell.backup(domain, 1)
    second = shell.backup(domain, 2)
    (image,) = shell.store.glob(f"*/vda/{first['id']}.qcow2")
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.write_bytes(data)
    shell.run("verify", "-s", shell.store, domain.uuid, code=12)
    said = shell.run(*shell.words("--dry-run", domain.uuid)).stdout
    assert "found wrong by a verification" in said
    third = shell.backup(domain, 3)
    assert {disk["target"]: disk["kind"] for disk in third["disks"]} == {
        "vda": "full",
        "vdb": "increment",
    }
    fourth = shell.backup(domain, 4)
    assert {disk["kind"] for disk in fourth["disks"]} == {"increment"}
    refused = ("--point", second["id"], "--into", shell.out / "refused")
    shell.run("restore", "-s", shell.store, domain.uuid, *refused, code=12)
    shell.restores(domain, third["id"])
    shell.restores(domain, fourth["id"])


def test_quiet_is_quiet(shell: Shell, domain: BlockDomain) -> None:
    """-q says nothing at all when all is well, and only the error when it is not."""
    done = shell.run(*shell.words("-q", domain.name))
    assert (done.stdout, done.stderr) == ("", "")
    done = shell.run("restore", "-s", shell.store, domain.name, "--into", shell.out / "q", "-q")
    assert (done.stdout, done.stderr) == ("", "")
    done = shell.run(*shell.words("-q", "nobody"), code=1)
    assert (done.stdout, done.stderr.splitlines()[1:]) == (
        "",
        [
            "fibackup:   state: nothing was changed",
            f"fibackup:   next: virsh -c '{shell.daemon.uri}' list --all",
        ],
    )
    done = shell.run(*shell.words("--no-progress", domain.name))
    assert (done.stdout != "", done.stderr) == (True, "")


def test_some_disks_only(shell: Shell, domain: BlockDomain) -> None:
    """--disk and --exclude choose disks; a wrong one is refused with the ones that there are."""
    one = shell.backup(domain, 1, "--disk", "vda")
    two = shell.backup(domain, 2, "--exclude", "vda")
    assert [[disk["target"] for disk in point["disks"]] for point in (one, two)] == [
        ["vda"],
        ["vdb"],
    ]
    before = shell.picture(domain)
    done = shell.run(*shell.words("--disk", "vdz", domain.name), code=2)
    assert "it has: vda, vdb" in done.stderr
    done = shell.run(*shell.words("--disk", "vda", "--exclude", "vda", domain.name), code=2)
    assert "asked for and excluded: vda" in done.stderr
    assert shell.picture(domain) == before
    into = shell.out / "raw"
    words = ("--point", one["id"], "--disk", "vda", "--format", "raw", "--into", into)
    shell.run("restore", "-s", shell.store, domain.uuid, *words)
    assert [path.name for path in into.iterdir()] == ["vda.raw"]
    assert differences(into / "vda.raw", "raw", shell.references[one["id"]]["vda"]) == ""
    done = shell.run("restore", "-s", shell.store, domain.uuid, *words[:2], "--disk", "vdb",
                     "--into", into, code=1)  # fmt: skip
    assert "does not have the disk" in done.stderr


# -- exit codes ----------------------------------------------------------------------------------


def test_warnings_count_when_told_so(shell: Shell, domain: BlockDomain) -> None:
    """--strict turns a warning, here of a freeze that was not had, into exit 4."""
    assert "warning" in shell.run(*shell.words("--strict", domain.name), code=4).stdout
    assert "warning" in shell.run(*shell.words("-n", "--strict", domain.name), code=4).stdout
    shell.run(*shell.words(domain.name))
    shell.run(*shell.words("--strict", *NO_WARNING, domain.name))
    assert len(shell.points(domain)) == 3


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("frobnicate",),
        ("backup", "x"),
        ("backup", "--store", "/nowhere"),
        ("backup", "--store", "/nowhere", "--all", "x"),
        ("backup", "--store", "/nowhere", "--quiesce", "perhaps", "x"),
        ("restore", "--store", "/nowhere", "x"),
        ("restore", "--store", "/nowhere", "x", "--into", "/nowhere", "--format", "vmdk"),
        ("backup", "--store", "/nowhere", "-rf"),
    ],
)
def test_wrong_usage(shell: Shell, words: tuple[str, ...]) -> None:
    """What cannot be understood is exit 2, with a word on stderr and nothing on stdout."""
    done = shell.run(*words, code=2)
    assert done.stdout == ""
    assert "fibackup" in done.stderr


def test_what_is_not_there(shell: Shell, domain: BlockDomain) -> None:
    """An unknown domain, point or hypervisor is exit 1, and makes no store."""
    assert "nobody" in shell.run(*shell.words("nobody"), code=1).stderr
    done = shell.run(*shell.words("--json", "nobody"), code=1)
    (result,) = json.loads(done.stdout)["results"]
    assert (result["ok"], result["error"]["type"]) == (False, "NoSuchDomainError")
    assert list(shell.store.iterdir()) == []
    words = ("backup", "-c", "qemu+unix:///system?socket=/nowhere", "-s", shell.store, "x")
    assert "cannot connect" in shell.run(*words, code=1).stderr
    done = shell.run("backup", "-c", "qemu+ssh://far/system", "-s", shell.store, "x", code=3)
    assert "on another machine" in done.stderr
    assert "next: run fibackup on far" in done.stderr
    assert list(shell.store.iterdir()) == []
    point = shell.backup(domain, 1)
    restore = ("restore", "-s", shell.store, "--into", shell.out / "x")
    assert point["id"] in shell.run(*restore, domain.name, "--point", "never", code=1).stderr
    assert "no point of this domain" in shell.run(*restore, "nobody", code=1).stderr
    assert not (shell.out / "x").exists()


def test_what_is_no_store(shell: Shell, domain: BlockDomain, tmp_path: Path) -> None:
    """A directory that is missing, or holds something else, is exit 10 and stays as it was."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter").write_text("mine")
    before = tree(full)
    for path in (tmp_path / "missing", full, full / "letter"):
        for more in ((), ("-n",)):
            words = ("backup", "-c", shell.daemon.uri, "--allow-paused", domain.name, "-s", path)
            assert shell.run(*words, *more, code=10).stdout == ""
        for verb in (("list",), ("restore", "x", "--into", tmp_path / "into")):
            assert shell.run(*verb, "-s", path, code=10).stdout == ""
    assert not (tmp_path / "missing").exists()
    assert not (tmp_path / "into").exists()
    assert tree(full) == before
    shell.restores(domain, shell.backup(domain, 1)["id"])


def test_a_new_store_is_told_and_can_be_ruled_out(
    shell: Shell, domain: BlockDomain, tmp_path: Path
) -> None:
    """A mount point without its mount is an empty directory; a timer wants no store in it."""
    for more in ((), ("-n",)):
        done = shell.run(*shell.words("--existing-store", *more, domain.uuid), code=10)
        assert "mount the disk that the store is on, or name another" in done.stderr
    assert list(shell.store.iterdir()) == []
    (shell.store / "compress").touch()
    dry = shell.run(*shell.words("-n", domain.uuid))
    assert "full" in dry.stdout
    assert dry.stdout.splitlines()[0].endswith(", a new store")
    assert f"warning: {shell.store} is empty, and would be a new store then" in dry.stderr
    (shell.store / "compress").unlink()
    new = f"warning: {shell.store} was empty, and is a new store now"
    assert new in shell.run(*shell.words(domain.uuid)).stderr
    assert new not in shell.run(*shell.words("--existing-store", domain.uuid)).stderr
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    words = ("backup", "-c", shell.daemon.uri, "--allow-paused", domain.name, "-s", shared)
    assert "others can write the store" in shell.run(*words, code=1).stderr
    assert list(shared.iterdir()) == []
    asked = ("restore", "-s", shell.store, "--into", shell.out / "x", "wbe1")
    assert f"it has points of: {domain.name}" in shell.run(*asked, code=1).stderr


def test_a_store_in_use_a_damaged_one_and_a_busy_domain(shell: Shell, domain: BlockDomain) -> None:
    """Locked is exit 11, damaged 12, saved or paused 13; each leaves things as they were."""
    first = shell.backup(domain, 1)
    (lock,) = shell.store.glob("*/lock")
    with lock.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = shell.picture(domain)
        assert "another run holds the lock" in shell.run(*shell.words(domain.name), code=11).stderr
        assert shell.picture(domain) == before
        shell.restores(domain, first["id"])  # readers work beside a writer
    (image,) = shell.store.glob("*/vda/*.qcow2")
    good = image.read_bytes()
    image.write_bytes(good[:-512])
    words = ("restore", "-s", shell.store, domain.uuid, "--into", shell.out / "bad")
    assert image.name in shell.run(*words, code=12).stderr
    assert not (shell.out / "bad").exists()
    image.write_bytes(good)
    domain.dom.managedSave(0)
    before = shell.picture(domain)
    said = shell.run(*shell.words(domain.name), code=13).stderr
    assert f"virsh -c '{shell.daemon.uri}' managedsave-remove {domain.uuid}" in said
    assert shell.picture(domain) == before
    domain.dom.managedSaveRemove(0)
    domain.start()
    paused = ("backup", "-c", shell.daemon.uri, "-s", shell.store, domain.name)
    assert f"resume {domain.uuid}" in shell.run(*paused, code=13).stderr
    shell.restores(domain, shell.backup(domain, 2)["id"])


def test_one_bad_domain_does_not_hide_the_others(
    shell: Shell, domain: BlockDomain, block_domain: MakeBlockDomain
) -> None:
    """With --all, a domain that cannot be backed up is exit 5, and all the others have a point."""
    other = block_domain(on=shell.daemon)
    off = block_domain(on=shell.daemon)
    off.dom.managedSave(0)
    done = shell.run(*shell.words("--all", "--json"), code=5)
    results = {each["uuid"]: each for each in json.loads(done.stdout)["results"]}
    assert {each["uuid"]: each["domain"] for each in results.values()} == {
        each.uuid: each.name for each in (off, domain, other)
    }
    assert results[off.uuid]["error"]["exit_code"] == 13
    assert results[off.uuid]["error"]["type"] == "DomainStateError"
    assert off.name in done.stderr
    for good in (domain, other):
        assert results[good.uuid]["ok"] is True
    shell.run(*shell.words("--running"))
    assert [len(shell.points(each)) for each in (domain, other)] == [2, 2]
    shell.run("list", "-s", shell.store, off.uuid, code=1)
    shell.run(*shell.words(domain.name, off.name, "nobody"), code=5)
    shell.run(*shell.words(off.name, "nobody"), code=13)
    shell.restores(other, shell.backup(other, 1)["id"])


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_many_domains_side_by_side(
    shell: Shell, domain: BlockDomain, block_domain: MakeBlockDomain, jobs: str
) -> None:
    """Six domains, one of them bad, N at a time into a new store: exit 5, five right points."""
    others = [domain, *(block_domain(on=shell.daemon) for _ in range(4))]
    bad = block_domain(on=shell.daemon)
    bad.dom.managedSave(0)
    for _ in range(2):
        for number, each in enumerate(others):
            for target in each.disks:
                each.write(target, number * MIB, MIB, number + 1)
        names = [each.name for each in (*others[:2], bad, *others[2:])]
        done = shell.run(*shell.words("--jobs", jobs, "--json", *names), code=5)
        results = json.loads(done.stdout)["results"]
        assert [each["domain"] for each in results] == names
        assert [each["ok"] for each in results] == [name != bad.name for name in names]
        for each in others:
            point = shell.points(each)[-1]["id"]
            references = {target: each.reference(target, point) for target in each.disks}
            shell.references[point] = references
            shell.restores(each, point)
    assert [len(shell.points(each)) for each in others] == [2] * len(others)


@pytest.mark.parametrize("jobs", ["0", "-1", "many", ""])
def test_jobs_is_a_number(shell: Shell, jobs: str) -> None:
    """Of 1 or more."""
    assert "--jobs" in shell.run(*shell.words("--jobs", jobs, "x"), code=2).stderr


def test_requirements_are_met_before_anything_is_touched(
    shell: Shell, domain: BlockDomain, tmp_path: Path
) -> None:
    """A qemu-img that is too old is exit 3, with its version and the one that is needed."""
    old = tmp_path / "qemu-img"
    old.write_text("#!/bin/sh\necho qemu-img version 2.11.1\n")
    old.chmod(0o755)
    before = shell.picture(domain)
    for words in (shell.words(domain.name), ("consolidate", "-c", shell.daemon.uri, domain.name)):
        done = shell.run(*words, code=3, FIBACKUP_QEMU_IMG=str(old))
        assert "qemu-img 2.11.1 is too old; 4.2" in done.stderr
    assert shell.picture(domain) == before


def test_a_qemu_img_that_is_not_there_is_found_before_a_restore_begins(
    shell: Shell, domain: BlockDomain
) -> None:
    """Exit 3, what named it, and how that is put right; a copy of the chain does without."""
    shell.backup(domain, 1)
    words = ("restore", "-s", shell.store, domain.name, "--into", shell.out / "x")
    lines = shell.run(*words, code=3, FIBACKUP_QEMU_IMG="/nope").stderr.splitlines()
    assert "$FIBACKUP_QEMU_IMG says /nope" in lines[0]
    assert lines[1:] == [
        "fibackup:   state: nothing was changed",
        "fibackup:   next: correct or unset FIBACKUP_QEMU_IMG",
    ]
    assert not (shell.out / "x").exists()
    shell.run(*words, "--as", "chain", FIBACKUP_QEMU_IMG="/nope")


def test_an_empty_hypervisor_and_an_empty_store(shell: Shell, domain: BlockDomain) -> None:
    """Nothing to list is no error: an empty list, exit 0."""
    domain.close()
    fb.Store.create(shell.store).close()
    assert json.loads(shell.run("list", "-s", shell.store, "--json").stdout) == {
        "points": [],
        "domains": [],
    }
    assert shell.run("list", "-s", shell.store).stdout == "no points\n"
    assert json.loads(shell.run(*shell.words("--running", "--json")).stdout) == {"results": []}


# -- terminals, pipes and locales ----------------------------------------------------------------


def test_names_never_reach_a_terminal_raw(shell: Shell) -> None:
    """Terminal escapes and bidirectional marks in names are shown as such, in every output."""
    name = "evil\u202eeman\x9b31m"
    domain = BlockDomain(shell.daemon, name, {"vda": DiskSpec()}, "")
    try:
        refused = shell.run(*shell.words(name, "--disk", "vdz"), code=2)
        domain.start()
        shell.backup(domain, 1)
        said = [
            refused,
            shell.run(*shell.words(name, "-v")),
            shell.run(*shell.words("-n", name)),
            shell.run("chain", "-c", shell.daemon.uri, "-s", shell.store, name),
            shell.run("list", "-s", shell.store),
            shell.run("list", "-s", shell.store, "--json"),
            shell.run("restore", "-s", shell.store, name, "--into", shell.out / "x"),
            shell.run("restore", "-s", shell.store, name, "--into", shell.out / "x", code=1),
            shell.run("list", "-s", shell.store, "nobody\x1b[31m\n", code=1),
        ]
        for done in said:
            raw = {"\u202e", "\x9b", "\x1b"} & set(done.stdout + done.stderr)
            assert not raw, (raw, done)
        assert "\\u202e" in said[4].stdout
        assert said[5].stdout.isascii()
        for encoding in ("ascii", "latin-1"):
            shell.run("list", "-s", shell.store, PYTHONIOENCODING=encoding)
    finally:
        domain.close()


def test_letters_that_the_locale_lacks(shell: Shell) -> None:
    """A name with letters that stdout cannot show is shown by their numbers, not a traceback."""
    domain = BlockDomain(shell.daemon, "wéb-\u9b45", {"vda": DiskSpec()}, "")
    try:
        domain.start()
        shell.backup(domain, 1)
        done = shell.run("list", "-s", shell.store, PYTHONIOENCODING="ascii")
        assert "w\\xe9b-\\u9b45" in done.stdout
        shell.run(*shell.words(domain.name), PYTHONIOENCODING="ascii")
        assert len(shell.points(domain)) == 2
    finally:
        domain.close()


def test_a_reader_that_goes_away_and_a_disk_that_is_full(shell: Shell, domain: BlockDomain) -> None:
    """A closed pipe or a full disk behind stdout is exit 1, never a traceback."""
    point = shell.backup(domain, 1)
    listing = [sys.executable, "-m", "fibackup", "list", "-s", str(shell.store), "--json"]
    read, write = os.pipe()
    os.close(read)
    for out in (write, os.open("/dev/full", os.O_WRONLY)):
        done = subprocess.run(
            listing, check=False, stdout=out, stderr=subprocess.PIPE, text=True, env=environment()
        )
        os.close(out)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr
    shell.restores(domain, point["id"])


# -- signals -------------------------------------------------------------------------------------


@SIGNALS
def test_a_signal_in_every_phase_of_a_backup(
    shell: Shell, domain: BlockDomain, number: int, code: int
) -> None:
    """Wherever a signal comes, the run ends cleanly and the next one picks up what was frozen."""
    shell.backup(domain, 1)
    for step, phase in enumerate(("read", "before the snapshot", "snapshot", "copy", "publish"), 2):
        domain.write("vda", 0, MIB, step)
        points = len(shell.points(domain))
        done = shell.in_phase(phase, number, code, *shell.words("--json", domain.uuid))
        (result,) = json.loads(done.stdout)["results"]
        assert result["error"]["type"] == "CancelledError", phase
        assert result["error"]["exit_code"] == 130, phase
        assert temporary_files(shell.store) == [], phase
        assert domain.dom.state()[0] == libvirt.VIR_DOMAIN_PAUSED
        published = phase == "publish"  # and only the ledger's last word is missing
        assert len(shell.points(domain)) == points + published, phase
        if phase == "read":
            assert result["error"]["state"].startswith("nothing was changed")
        elif phase == "before the snapshot":
            assert result["error"]["state"].startswith("no snapshot was taken"), phase
        else:
            assert "delete neither these nor their backing files" in result["error"]["state"]
        point = shell.backup(domain, step)
        assert {disk["kind"] for disk in point["disks"]} == {"increment"}, phase
        shell.restores(domain, point["id"])


@SIGNALS
def test_a_signal_in_every_phase_of_a_restore(
    shell: Shell, domain: BlockDomain, number: int, code: int
) -> None:
    """A restore that is interrupted leaves no file, and can be started again."""
    point = shell.backup(domain, 1)
    before = tree(shell.store)
    for phase in ("verify", "restore"):
        into = shell.out / f"{phase}-{number}"
        words = ("restore", "-s", shell.store, domain.uuid, "--into", into)
        done = shell.in_phase(phase, number, code, *words)
        assert done.stdout == ""
        assert [path for path in shell.out.rglob("*") if path.is_file()] == []
    assert tree(shell.store) == before
    shell.restores(domain, point["id"])


@contextlib.contextmanager
def child(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start the command line in a process group of its own, as a shell does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fibackup", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def members(group: int) -> list[int]:
    """Return the pids of the processes in a group, but its leader."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z" and int(entry.parent.name) != group:
                found.append(int(entry.parent.name))
    return found


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_ctrl_c_while_a_big_image_is_copied(
    shell: Shell, block_domain: MakeBlockDomain, image_format: ImageFormat
) -> None:
    """Ctrl-C reaches the whole group, qemu-img too: exit 130, and nothing is left of the copy."""
    domain = block_domain(DiskSpec(format=image_format, size_bytes=512 * MIB), on=shell.daemon)
    domain.write("vda", 0, 256 * MIB, 7)
    with child(*shell.words(domain.uuid)) as process:
        wait_until(lambda: list(shell.store.rglob(".*.qcow2.tmp")) or process.poll() is not None)
        if image_format == "raw":
            wait_until(lambda: members(process.pid) or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate(timeout=60)
        group = process.pid
    assert (process.returncode, out) == (130, ""), error
    assert "Traceback" not in error
    assert members(group) == []
    assert temporary_files(shell.store) == []
    assert not list(shell.store.glob("*/*.json"))
    point = shell.backup(domain, 1)
    finished, own = shell.points(domain)  # what was interrupted is finished first
    assert (finished["kind"], own["kind"], own["id"]) == ("full", "increment", point["id"])
    into = shell.out / "into"
    words = ("restore", "-s", shell.store, domain.uuid, "--into", into)
    with child(*words) as process:
        wait_until(lambda: list(shell.out.rglob(".*.tmp")) or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, "Traceback" in error) == (130, "", False), error
    assert [path for path in shell.out.rglob("*") if path.is_file()] == []
    shell.restores(domain, point["id"])


def test_two_signals_are_as_good_as_one(shell: Shell, domain: BlockDomain) -> None:
    """An impatient user who presses Ctrl-C again and again does no harm."""
    domain.write("vda", 0, 32 * MIB, 7)
    with child(*shell.words(domain.uuid)) as process:
        wait_until(lambda: list(shell.store.rglob("lock")) or process.poll() is not None)
        while process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.001)
        out, error = process.communicate()
    # the last signal may find a Python that is ending: a shell shows 130 for that as well
    assert process.returncode in {130, -signal.SIGINT}, error
    assert (out, "Traceback" in error) == ("", False), error
    assert temporary_files(shell.store) == []
    shell.restores(domain, shell.backup(domain, 1)["id"])


@SIGNALS
def test_a_signal_never_leaves_a_guest_frozen(
    shell: Shell, linux_guest: MakeLinuxGuest, number: int, code: int
) -> None:
    """A signal between freeze and thaw ends the run after the thaw: the guest writes on."""
    guest = linux_guest(
        DiskSpec(size_bytes=128 * MIB), options=GuestOptions(record_kib=4), on=shell.daemon
    )
    words = shell.words("--quiesce", "require", "--json", guest.uuid)
    done = shell.in_phase("freeze", number, code, *words)
    (result,) = json.loads(done.stdout)["results"]
    assert result["error"]["type"] == "CancelledError"
    assert "snapshot" in "".join(result["error"]["done"])
    assert guest.dom.fsInfo(0), "a frozen agent refuses this"
    durable = guest.wait_more()
    assert guest.dom.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert temporary_files(shell.store) == []
    shell.run(*words)
    into = shell.out / f"guest-{number}"
    shell.run("restore", "-s", shell.store, guest.uuid, "--into", into, "--format", "raw")
    assert len(read_records(into / "vda.raw", "vda", replay_journal=True)) >= durable
    guest.close()


def test_a_list_says_what_each_point_takes_and_when_it_was_verified(
    shell: Shell, domain: BlockDomain
) -> None:
    """For people in a table, for scripts by point and by domain; a compressed point takes less."""
    first = shell.backup(domain, 1)["id"]
    second = shell.backup(domain, 2, "--compress")["id"]
    older, newer = shell.points(domain)
    assert (older["id"], newer["id"]) == (first, second)
    assert newer["bytes"] < older["bytes"] * 2 // 3
    assert newer["total_bytes"] > older["bytes"]
    assert newer["freed_bytes"] == newer["bytes"] > older["freed_bytes"]
    assert (older["verified"], older["whole"], older["protected"]) == (None, True, False)
    shell.run("verify", "-s", shell.store, "--point", first, domain.uuid)
    older, newer = shell.points(domain)
    assert older["verified"] is not None
    assert newer["verified"] is None
    document = json.loads(shell.run("list", "-s", shell.store, "--json").stdout)
    (found,) = [each for each in document["domains"] if each["uuid"] == domain.uuid]
    assert (found["points"], found["bytes"]) == (2, older["bytes"] + newer["bytes"])
    table = shell.run("list", "-s", shell.store, domain.uuid).stdout.splitlines()
    (line,) = [line for line in table if line.startswith(first)]
    assert older["verified"][:10] in line
    (line,) = [line for line in table if line.startswith(second)]
    assert line.endswith("never")
    assert "2 points, " in table[-2]
    assert first in shell.run("list", "-s", shell.store, "--tree", domain.uuid).stdout
    shell.restores(domain, second)
