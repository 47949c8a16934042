"""
Runs that are killed anywhere, and what a recovery makes of them.

::

    client: backup --consolidate, SIGKILL before or after its n-th call of a seam
    recover                  once; a second time there is nothing to do
    backup --consolidate     a point that is right, two images in each chain
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from attrs import evolve

import fibackup
from fibackup import (
    BackupPolicy,
    DomainStateError,
    Executor,
    ImageFormat,
    LibvirtHost,
    Method,
    Plan,
    Quiesce,
    Report,
    Store,
    plan_backup,
    plan_recovery,
    plan_restore,
)
from fibackup.cli import main
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    MakeBlockDomain,
    PrivateDaemon,
    differences,
)

pytestmark = pytest.mark.libvirt

SOURCES = Path(fibackup.__file__).parents[1]
POLICY = BackupPolicy(quiesce=Quiesce.OFF, allow_paused=True, consolidate=True)
GROUPS = 4


@dataclass
class Rig:
    """A domain of the daemon, a store, and what the guest had whenever a run was begun."""

    daemon: PrivateDaemon
    domain: BlockDomain
    store: Store
    scratch: Path
    rounds: int = 0
    references: dict[str, dict[str, Path]] = field(default_factory=dict)

    def write(self, length: int = MIB) -> None:
        """Write as the guest, something new on each disk."""
        self.rounds += 1
        for target in self.domain.disks:
            self.domain.write(target, self.rounds % 8 * MIB, length, self.rounds % 255 + 1)

    def remember(self, point: str) -> None:
        """Keep what the guest has now: that is what a point with this id must hold."""
        self.references[point] = {
            target: self.domain.reference(target, point) for target in self.domain.disks
        }

    def backup(self, policy: BackupPolicy = POLICY) -> Report:
        """Make a point."""
        with LibvirtHost.open(self.daemon.uri) as host:
            found = host.read_domain(self.domain.uuid)
            history = self.store.read_history(self.domain.uuid)
            plan = plan_backup(found, history, now=datetime.now(UTC), policy=policy)
            self.remember(plan.point)
            return Executor(host, self.store, threads=1).run(plan)

    def plan_recovery(self, host: LibvirtHost) -> Plan:
        """Plan what is left to do."""
        found = host.read_domain(self.domain.uuid)
        history = self.store.read_history(self.domain.uuid)
        return plan_recovery(found, history, now=datetime.now(UTC))

    def recover(self) -> Plan:
        """Recover, and see that nothing is left to do then."""
        with LibvirtHost.open(self.daemon.uri) as host:
            plan = self.plan_recovery(host)
            Executor(host, self.store).run(plan)
            assert self.plan_recovery(host).steps == ()
        return plan

    def check(self) -> None:
        """Assert that every point is what the guest had, and that nothing lies around."""
        history = self.store.read_history(self.domain.uuid)
        assert list(Path(self.store.path).rglob(".*.tmp")) == []
        for point in history.points:
            into = PurePosixPath(self.scratch / f"restored-{point.id}")
            plan = plan_restore(history, point.id, into=into, image_format=ImageFormat.RAW)
            for image in Executor(None, self.store).run(plan).restored:
                reference = self.references[point.id][image.target]
                assert differences(Path(image.path), "raw", reference) == "", point
                Path(image.path).unlink()

    def images(self) -> set[str]:
        """Return the names of the files that lie beside the domain's images."""
        return {path.name for path in self.domain.directory.iterdir()}

    def chain_names(self) -> set[str]:
        """Return the names of the images that the domain uses."""
        with LibvirtHost.open(self.daemon.uri) as host:
            found = host.read_domain(self.domain.uuid)
        return {path.name for disk in found.disks if disk.chain for path in disk.chain.paths}

    def find_domain(self) -> None:
        """Look the domain up again, after the daemon was started again."""
        self.domain.dom = self.daemon.connection.lookupByUUIDString(self.domain.uuid)


@pytest.fixture
def rig(
    private_daemon: PrivateDaemon, block_domain: MakeBlockDomain, tmp_path: Path
) -> Iterator[Rig]:
    """Give a domain with two disks that has been written."""
    disks = (DiskSpec(size_bytes=32 * MIB), DiskSpec(target="vdb", size_bytes=32 * MIB))
    domain = block_domain(*disks, on=private_daemon)
    (tmp_path / "store").mkdir()
    with Store.create(tmp_path / "store") as store:
        yield Rig(private_daemon, domain, store, tmp_path)


# --- killed between any two calls ---------------------------------------------------------------

CLIENT = """
import os, signal, sys
from datetime import UTC, datetime
import fibackup as fb
uri, path, uuid, at, after = sys.argv[1:]
calls = 0
class Mortal:
    def __init__(self, inner):
        self.inner = inner
    def __getattr__(self, name):
        value = getattr(self.inner, name)
        return self.count(name, value) if callable(value) else value
    def count(self, name, method):
        def call(*words, **options):
            global calls
            calls += 1
            here = calls == int(at)
            if here:
                print(name, flush=True)
            if here and after == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            result = method(*words, **options)
            if here:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call
host, store = Mortal(fb.LibvirtHost.open(uri)), Mortal(fb.Store.open(path))
domain = host.inner.read_domain(uuid)
policy = fb.BackupPolicy(quiesce=fb.Quiesce.OFF, allow_paused=True, consolidate=True)
now = datetime.now(UTC)
plan = fb.plan_backup(domain, store.inner.read_history(uuid), now=now, policy=policy)
print(plan.point, flush=True)
fb.Executor(host, store, threads=1).run(plan)
"""


def client(rig: Rig, at: int, *, after: bool) -> tuple[int, str]:
    """Run a client that dies at its n-th call; return its exit code and the name of the call."""
    words = [rig.daemon.uri, str(rig.store.path), rig.domain.uuid, str(at), str(int(after))]
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    point, *calls = done.stdout.split()
    rig.remember(point)
    return done.returncode, "".join(calls)


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_backup_that_is_killed_at_any_call_is_recovered(rig: Rig, group: int) -> None:
    """Killed before or after any call: one recovery, and every point is what the guest had."""
    rig.write()
    rig.backup()
    killed: list[str] = []
    for number in itertools.count(group + 1, GROUPS):
        rig.write()
        code, call = client(rig, number, after=number // GROUPS % 2 == 0)
        if code == 0:
            break
        killed.append(call)
        rig.recover()
        assert rig.images() == rig.chain_names()
        rig.write()
        report = rig.backup()
        assert report.point is not None
        assert {disk.target for disk in report.point.disks} == set(rig.domain.disks)
        assert rig.images() == rig.chain_names()
    assert len(killed) >= 8
    rig.check()


# --- killed while a job runs --------------------------------------------------------------------

JOB_CLIENT = """
import sys, threading
from datetime import UTC, datetime
import fibackup as fb
uri, uuid, method, keep = sys.argv[1:]
def listen(event):
    if isinstance(event, fb.CopyProgress):
        print("running", flush=True)
        threading.Event().wait()
host = fb.LibvirtHost.open(uri)
policy = fb.ConsolidationPolicy(
    method=fb.Method(method), keep_overlay=keep == "1", bandwidth_bytes=4 << 20, allow_paused=True
)
plan = fb.plan_consolidation(host.read_domain(uuid), policy=policy)
fb.Executor(host, None).run(plan, on_event=listen)
"""


@contextmanager
def a_job_whose_client_is_killed(rig: Rig, method: Method, *, keep: bool) -> Iterator[None]:
    """Let a slow block job run on a chain of three images, and kill its client."""
    for _ in range(2):
        rig.write()
        rig.backup(evolve(POLICY, consolidate=False))
        rig.write(12 * MIB)
    rig.domain.dom.resume()
    rig.domain.dom.suspend()  # and QEMU flushes: else its end would cost the guest's writes
    if method is Method.BLOCKPULL:  # which is refused when paused
        rig.domain.dom.resume()
    words = [sys.executable, "-c", JOB_CLIENT, rig.daemon.uri, rig.domain.uuid, method]
    with subprocess.Popen(
        [*words, str(int(keep))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline().strip() == "running", process.stderr.read()
        finally:
            process.kill()
    yield


def jobs(rig: Rig) -> list[str]:
    """Return the kinds of the block jobs that run."""
    with LibvirtHost.open(rig.daemon.uri) as host:
        found = host.read_domain(rig.domain.uuid)
    return [disk.block_job for disk in found.disks if disk.block_job is not None]


def the_rest_is_right(rig: Rig) -> None:
    """Assert that a backup after the recovery, and all before, are what the guest had."""
    rig.write()
    rig.backup()
    rig.check()


METHODS = [
    pytest.param(Method.BLOCKCOMMIT, False, id="active commit"),
    pytest.param(Method.BLOCKCOMMIT, True, id="commit"),
    pytest.param(Method.BLOCKPULL, False, id="pull"),
]


@pytest.mark.parametrize("restart", [False, True], ids=["client", "client and daemon"])
@pytest.mark.parametrize(("method", "keep"), METHODS)
def test_a_job_that_still_runs_is_finished(
    rig: Rig, method: Method, *, keep: bool, restart: bool
) -> None:
    """A backup points at `fibackup recover`, which ends the job and deletes what it freed."""
    with a_job_whose_client_is_killed(rig, method, keep=keep):
        if restart:
            rig.daemon.kill()
            rig.daemon.start()
            rig.find_domain()
        assert len(jobs(rig)) == 1
        with pytest.raises(DomainStateError, match="fibackup recover"):
            rig.backup()
        plan = rig.recover()
        assert "that a killed run left" in str(plan)
    assert jobs(rig) == []
    base = {rig.domain.path(target).name for target in rig.domain.disks}
    assert rig.images() - base <= rig.chain_names()
    the_rest_is_right(rig)


@pytest.mark.parametrize(("method", "keep"), METHODS)
def test_a_hypervisor_that_is_killed_in_a_job_loses_nothing(
    rig: Rig, method: Method, *, keep: bool
) -> None:
    """The overlays are kept, the guest starts with what it had, and the next point is right."""
    with a_job_whose_client_is_killed(rig, method, keep=keep):
        [pid] = rig.daemon.qemus()
        before = rig.images()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not rig.domain.is_active)
        rig.recover()
        assert rig.images() == before
        rig.domain.start()
    the_rest_is_right(rig)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for something that libvirt notices a moment later."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- the command --------------------------------------------------------------------------------


def test_the_command_finds_the_store_by_the_ledger(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fibackup recover` finishes a point without being told the store; then there is nothing."""
    rig.write()
    rig.backup()
    rig.write()
    number = next(n for n in itertools.count(8) if client(rig, n, after=False)[1] == "copy_image")
    assert number > 8
    capsys.readouterr()
    words = ["-c", rig.daemon.uri, rig.domain.name]
    assert main(["recover", "--dry-run", *words]) == 0
    assert "publish point" in capsys.readouterr().out
    assert main(["recover", "-q", *words]) == 0
    capsys.readouterr()
    assert main(["recover", *words]) == 0
    assert "nothing to recover" in capsys.readouterr().out
    rig.check()
