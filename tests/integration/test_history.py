"""
Random histories of a real domain: whatever comes after whatever, every point is right.

::

    write | point | rolling | commit | pull | keep | off | on | recover
    each of the runs may fail at a call, or lose itself, QEMU or the daemon before one
    after each act:  every point restores to what the guest had, the live disks show what it has

The seed is printed. FIBACKUP_HISTORIES sets how many histories there are, FIBACKUP_HISTORY_ACTS
how long each is, and FIBACKUP_HISTORY_SEED which is the first.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from fibackup import RunPhase, Store
from hypervisor import MIB, DiskSpec, MakeBlockDomain, PrivateDaemon
from integration.forks import Forks
from integration.rig import Rig, wait_until

pytestmark = pytest.mark.libvirt

SIZE = 12 * MIB
GRAIN = 65536
COUNT = int(os.environ.get("FIBACKUP_HISTORIES", "8"))
ACTS = int(os.environ.get("FIBACKUP_HISTORY_ACTS", "16"))
SEED = int(os.environ.get("FIBACKUP_HISTORY_SEED", secrets.randbelow(1 << 32)))

RUNS = ("backup", "rolling", "commit", "keep", "pull")
VICTIMS = ("client", "client", "error", "qemu", "daemon")


@pytest.fixture
def rig(
    private_daemon: PrivateDaemon, block_domain: MakeBlockDomain, forks: Forks, tmp_path: Path
) -> Iterator[Rig]:
    """Give a domain with two small disks, one of them raw, and an empty store."""
    raw = DiskSpec(target="vdb", size_bytes=SIZE, format="raw")
    domain = block_domain(DiskSpec(size_bytes=SIZE), raw, on=private_daemon)
    (tmp_path / "store").mkdir()
    with Store.create(tmp_path / "store") as store:
        yield Rig(private_daemon, domain, store, tmp_path, forks)


@dataclass
class History:
    """A domain to which anything happens; the dice decide what."""

    rig: Rig
    dice: Random
    said: list[str] = field(default_factory=list)  # ends in the report of a failure

    def act(self) -> None:
        """Let one thing happen, of those that are possible now."""
        acts: list[tuple[int, Callable[[], None]]] = [(4, self.write), (1, self.recover)]
        if self.rig.domain.is_active:
            acts += [(4, self.run), (3, self.faulty), (1, self.off)]
        else:
            acts += [(2, self.run_off), (1, self.faulty), (3, self.on)]
        weights, choices = zip(*acts, strict=True)
        self.dice.choices(choices, weights)[0]()

    # -- the guest -------------------------------------------------------------------------------

    def write(self) -> None:
        """Write, or write zeros, on one disk or on both."""
        for target in self.dice.choice((["vda"], ["vdb"], ["vda", "vdb"])):
            at = self.dice.randrange(SIZE // GRAIN) * GRAIN
            length = min(self.dice.choice((512, GRAIN, 5 * GRAIN, MIB)), SIZE - at)
            if self.dice.random() < 0.2:
                self.rig.domain.write_zeroes(target, at, length)
            else:
                self.rig.domain.write(target, at, length, self.dice.randrange(1, 256))
            self.note("write", target, at, length)
        self.rig.flush()

    def off(self) -> None:
        """Switch the guest off."""
        self.note("off")
        self.rig.domain.destroy()

    def on(self) -> None:
        """Switch the guest on."""
        self.note("on")
        self.rig.start(paused=False)

    # -- ours ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Let a command do its work; it recovers first what is to be recovered."""
        self.command(self.dice.choice(RUNS))

    def run_off(self) -> None:
        """Let a command do its work on a domain that is off."""
        self.command(self.dice.choice(("backup", "commit")))

    def command(self, name: str) -> None:
        """Run a command, which succeeds, and leaves nothing to recover."""
        if name not in {"backup", "rolling"} and self.store_is_unknown():
            name = "backup"  # as the refusal says
        self.note("command", name)
        if name in {"backup", "rolling"}:
            more = ["--full"] if self.dice.random() < 0.1 else []
            before = len(self.rig.history().points)
            self.rig.backup_command(*more, *(["--consolidate"] if name == "rolling" else []))
            assert len(self.rig.history().points) > before
            assert list(Path(self.rig.store.path).rglob(".*.tmp")) == []
        else:
            words = {"commit": (), "keep": ("--keep-overlay",), "pull": ("--method", "blockpull")}
            disk = ("--disk", "vda") if self.dice.random() < 0.3 else ()
            self.rig.command("consolidate", *words[name], *disk)
        assert self.rig.jobs() == []
        assert self.rig.read().ledger.run is None
        if name == "rolling":
            assert max(map(len, self.rig.chains())) <= 2
        self.rig.recover()

    def store_is_unknown(self) -> bool:
        """Tell whether the ledger has an unfinished point, and not yet the place of its store."""
        ledger = self.rig.read().ledger
        known, run = {store.uuid for store in ledger.stores}, ledger.run
        return run is not None and run.phase is RunPhase.TAKEN and run.store not in known

    def faulty(self) -> None:
        """Let a run fail at a call, or lose a process before one."""
        name = self.dice.choice(RUNS if self.rig.domain.is_active else ("backup", "commit"))
        victims = VICTIMS if self.rig.domain.is_active else VICTIMS[:3]
        victim, at = self.dice.choice(victims), self.dice.randrange(1, 30)
        done, call = self.rig.run_of(name, at, victim)
        self.note(name, "without", victim, "before call", at, call, done.stdout)
        time.sleep(1.0)  # an id is a second: a run that came to nothing must not share its own
        if victim == "qemu" and call:
            wait_until(lambda: not self.rig.domain.is_active)
        if victim == "daemon" and call:
            self.rig.restart_daemon()

    def recover(self) -> None:
        """Recover; then there is nothing to recover."""
        self.note("recover")
        self.rig.recover()

    def check(self) -> None:
        """Assert that every point is what the guest had, and that the disks are what it has."""
        stored = self.rig.history()
        for point in stored.points:
            self.rig.check_point(stored, point)
        self.rig.check_live()

    def note(self, *words: object) -> None:
        """Write down what happens, for the one who reads a failure."""
        self.said.append(" ".join(map(str, words)))


@pytest.mark.parametrize("number", range(COUNT))
def test_whatever_happens_every_point_restores_to_what_the_guest_had(rig: Rig, number: int) -> None:
    """After each act, and the live disks as well; at the end a backup finds all in order."""
    rig.start(paused=False)
    history = History(rig, Random(SEED + number))
    history.note(f"FIBACKUP_HISTORIES=1 FIBACKUP_HISTORY_SEED={SEED + number}")
    try:
        for _ in range(ACTS):
            history.act()
            history.check()
        history.on()
        history.command("rolling")
        history.check()
    finally:
        sys.stdout.write("\n".join(history.said))
