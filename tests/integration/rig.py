"""
A domain of a private daemon, a store, and an oracle: what the guest had at each point.

::

    write, flush    as the guest
    backup          in this process         run_of      in a child that may die anywhere
    recover         once; then nothing is left to do
    check           restores every point, and compares it and the live disks with the guest's own
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import libvirt
from attrs import evolve

import fibackup as fb
from hypervisor import MIB, BlockDomain, PrivateDaemon, differences
from hypervisor.host import run
from hypervisor.monitor import device_path, monitor_command
from integration.forks import Ended, Forks

POLICY = fb.BackupPolicy(quiesce=fb.Quiesce.OFF, allow_paused=True, consolidate=True)
PLAIN = evolve(POLICY, consolidate=False)


@dataclass
class Rig:
    """A domain of the daemon, a store, and what the guest had whenever a run was begun."""

    daemon: PrivateDaemon
    domain: BlockDomain
    store: fb.Store
    scratch: Path
    forks: Forks
    rounds: int = 0
    references: dict[str, dict[str, Path]] = field(default_factory=dict)

    # -- the guest -------------------------------------------------------------------------------

    def write(self, length: int = MIB) -> None:
        """Write as the guest, something new on each disk, and flush it."""
        self.rounds += 1
        for target in self.domain.disks:
            self.domain.write(target, self.rounds % 8 * MIB, length, self.rounds % 255 + 1)
        self.flush()

    def flush(self) -> None:
        """Flush as the guest: what it wrote then outlives QEMU."""
        for target in self.domain.disks if self.domain.is_active else ():
            path = device_path(self.domain.dom, target)
            monitor_command(self.domain.dom, f'qemu-io -d {path} "flush"')

    def start(self, *, paused: bool = True) -> None:
        """Start the domain unless it runs, and let it run, or stand still."""
        if not self.domain.is_active:
            self.domain.start(paused=paused)
        still = self.domain.dom.state()[0] == libvirt.VIR_DOMAIN_PAUSED
        if still and not paused:
            self.domain.dom.resume()
        elif not still and paused:
            self.domain.dom.suspend()

    def remember(self, point: str) -> None:
        """Keep what the guest has now: that is what a point with this id must hold."""
        self.references[point] = {
            target: self.domain.reference(target, point) for target in self.domain.disks
        }

    # -- ours ------------------------------------------------------------------------------------

    def history(self) -> fb.History:
        """Return what the store has."""
        return self.store.read_history(self.domain.uuid)

    def read(self) -> fb.Domain:
        """Read the domain, through a connection of its own."""
        with fb.LibvirtHost.open(self.daemon.uri) as host:
            return host.read_domain(self.domain.uuid)

    def backup(self, policy: fb.BackupPolicy = POLICY) -> fb.Report:
        """Make a point."""
        with fb.LibvirtHost.open(self.daemon.uri) as host:
            found = host.read_domain(self.domain.uuid)
            plan = fb.plan_backup(found, self.history(), now=datetime.now(UTC), policy=policy)
            self.remember(plan.point)
            return fb.Executor(host, self.store, threads=1).run(plan)

    def command(self, *words: str) -> Ended:
        """Run `fibackup` in a process of its own; a point that it makes is remembered."""
        before = {point.id for point in self.history().points}
        done = self.forks.run("fibackup", *words, self.domain.uuid, env=self._environment())
        assert done.returncode == 0, done
        for point in self.history().points:
            if point.id not in before and point.id not in self.references:
                self.remember(point.id)
        return done

    def backup_command(self, *words: str) -> Ended:
        """Take a point by the command."""
        place = str(self.store.path)
        common = ("--no-progress", "--allow-paused", "--quiesce", "off", "--store", place)
        return self.command("backup", *common, *words)

    def _environment(self) -> dict[str, str]:
        return {"LIBVIRT_DEFAULT_URI": self.daemon.uri}

    def run_of(self, act: str, at: int, victim: str = "client") -> tuple[Ended, str]:
        """Run an act in a child; before its n-th call somebody dies. Return the call too."""
        pids = {
            "client": 0,
            "error": 0,
            "daemon": self.daemon.pid,
            "qemu": next(iter(self._qemu()), 0),
        }
        words = [self.daemon.uri, str(self.store.path), self.domain.uuid, act, str(at)]
        done = self.forks.run("run", *words, str(pids[victim]), victim)
        assert "Traceback" not in done.stderr, done.stderr
        said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
        if said["point"] != "-":
            self.remember(said["point"])
        return done, said.get("call", "")

    def _qemu(self) -> list[int]:
        return self.daemon.qemus() if self.domain.is_active else []

    def plan_recovery(self, host: fb.LibvirtHost) -> fb.Plan:
        """Plan what is left to do."""
        found = host.read_domain(self.domain.uuid)
        return fb.plan_recovery(found, self.history(), now=datetime.now(UTC))

    def recover(self) -> fb.Plan:
        """Recover, and see that nothing is left to do then."""
        with fb.LibvirtHost.open(self.daemon.uri) as host:
            plan = self.plan_recovery(host)
            fb.Executor(host, self.store).run(plan)
            assert self.plan_recovery(host).steps == ()
        return plan

    # -- what is seen ----------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that every point is what the guest had, and that nothing lies around."""
        assert list(Path(self.store.path).rglob(".*.tmp")) == []
        history = self.history()
        for point in history.points:
            self.check_point(history, point)

    def check_point(self, history: fb.History, point: fb.RestorePoint) -> None:
        """Assert that a point is what the guest had."""
        into = self.scratch / f"restored-{point.id}"
        plan = fb.plan_restore(
            history, point.id, into=PurePosixPath(into), image_format=fb.ImageFormat.RAW
        )
        for image in fb.Executor(None, self.store).run(plan).restored:
            reference = self.references[point.id][image.target]
            assert differences(Path(image.path), "raw", reference) == "", point
        shutil.rmtree(into)

    def check_live(self) -> None:
        """Assert that the disks show what the guest wrote."""
        self.flush()
        for target in self.domain.disks:
            words = ["qemu-img", "compare", "-U", "-f", self.domain.active_format(target)]
            mirror = self.domain.reference(target, "live")
            assert "identical" in run(*words, "-F", "raw", self.domain.active(target), mirror)

    def images(self) -> set[str]:
        """Return the names of the files that lie beside the domain's images."""
        return {path.name for path in self.domain.directory.iterdir()}

    def chains(self) -> list[tuple[str, ...]]:
        """Return the names of the images of each disk, active layer first."""
        disks = self.read().disks
        return [tuple(path.name for path in disk.chain.paths) for disk in disks if disk.chain]

    def chain_names(self) -> set[str]:
        """Return the names of the images that the domain uses."""
        return {name for chain in self.chains() for name in chain}

    def jobs(self) -> list[str]:
        """Return the kinds of the block jobs that run."""
        return [disk.block_job for disk in self.read().disks if disk.block_job is not None]

    # -- the daemon ------------------------------------------------------------------------------

    def restart_daemon(self) -> None:
        """End the daemon at once, if it has not ended yet, and start it again."""
        self.daemon.kill()
        self.daemon.start()
        self.find_domain()

    def find_domain(self) -> None:
        """Look the domain up again, after the daemon was started again."""
        self.domain.dom = self.daemon.connection.lookupByUUIDString(self.domain.uuid)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for something that libvirt notices a moment later."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
