"""
A full and two increments of a running Linux guest, restored and compared, in under a minute.

::

    make demo                                   installs what is missing, then runs this
    .venv/bin/python examples/demo.py           the same, once everything is there
    .venv/bin/python examples/demo.py --keep    leaves the store, and says how to look into it

The hypervisor lives inside this process (``qemu:///embed?root=...``): no daemon, and nothing of it
is left behind. Whether a restored disk is right is asked of others than the copier::

    qemu-img compare    restored image == live layer that the snapshot froze, byte for byte
    the guest           every record that it acknowledged before the point is there, with its
                        checksum, and none from after it
    e2fsck              the file system needs no repair

Exit status: 0 every verdict is ok, 1 something is wrong, 3 a tool is missing, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Final, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import fibackup as fb
from hypervisor import (
    MIB,
    DamagedRecordsError,
    DiskSpec,
    Embedded,
    GuestOptions,
    HarnessError,
    LinuxGuest,
    convert,
    fsck_clean,
    make_ext4,
    missing_tools,
    read_records,
)
from hypervisor.host import CACHE, CLONE, run

POINTS: Final = 3
DISK_BYTES: Final = 128 * MIB
FIRST_FILE_BYTES: Final = 24 * MIB
RECORDS_BETWEEN_POINTS: Final = 40
PACE: Final = GuestOptions(record_kib=16, pause_microseconds=20_000)

CANCEL: Final = fb.CancelToken()
ACTS: Final = itertools.count(1)


class InterruptedDemo(BaseException):
    """Ctrl-C, or a polite request to end."""

    def __init__(self, number: int) -> None:
        """Remember the signal."""
        super().__init__(number)
        self.number = number


# --- what was taken, and what the guest had at that moment --------------------------------------


class Watch:
    """A listener: prints progress, and asks the guest right before and after the snapshot."""

    def __init__(self, guest: LinuxGuest) -> None:
        """Watch one run."""
        self.acked_before = self.acked_after = 0
        self._guest = guest
        self._half_way: set[str] = set()

    def __call__(self, event: fb.Event) -> None:
        """Take one event."""
        match event:
            case fb.StepStarted(step=fb.WhileFrozen() | fb.TakeSnapshot()):
                self.acked_before = self._guest.acked()
            case fb.StepFinished(step=fb.WhileFrozen() | fb.TakeSnapshot()):
                self.acked_after = self._guest.acked()
            case fb.CopyProgress():
                self._show_half_way(event)
            case fb.ImageCopied() | fb.Warned():
                say(f"  {event}")
            case _:
                pass

    def _show_half_way(self, event: fb.CopyProgress) -> None:
        if event.target not in self._half_way and 2 * event.done_bytes >= event.total_bytes:
            self._half_way.add(event.target)
            say(f"  {event}")


@dataclass(frozen=True)
class Taken:
    """A point, and the oracle for it: the layers that froze, and what the guest said."""

    report: fb.Report
    layers: Mapping[str, fb.Image]
    acked_before: int
    acked_after: int

    @property
    def point(self) -> fb.RestorePoint:
        """The point."""
        if self.report.point is None:
            raise HarnessError("the run ended without a point")
        return self.report.point


def take_point(
    host: fb.LibvirtHost, store: fb.Store, guest: LinuxGuest, policy: fb.BackupPolicy
) -> Taken:
    """Read, plan, run, report: what an embedding program does."""
    domain = host.read_domain(guest.name)
    history = store.read_history(domain.uuid)
    plan = fb.plan_backup(domain, history, now=datetime.now(UTC), policy=policy)
    say(str(plan), "", "running it:")
    watch = Watch(guest)
    report = fb.Executor(host, store).run(plan, on_event=watch, cancel=CANCEL)
    say("", str(report))
    layers = {disk.target: disk.chain.active for disk in domain.disks if disk.chain is not None}
    return Taken(report, layers, watch.acked_before, watch.acked_after)


# --- comparing ----------------------------------------------------------------------------------


def verdict_on(taken: Taken, image: fb.RestoredImage, scratch: Path) -> str:
    """Return ``"ok"``, or what is wrong with a restored disk."""
    difference = compare(Path(image.path), image.format, taken.layers[image.target])
    if difference:
        return f"{image.target}: {difference}"
    raw = convert(Path(image.path), image.format, scratch / f"{taken.point.id}.{image.target}.raw")
    try:
        return records_verdict(taken, raw, image.target)
    finally:
        raw.unlink()


def compare(image: Path, image_format: str, layer: fb.Image) -> str:
    """Compare with a live layer, which the guest's QEMU has open; return where they differ."""
    options = ["-U", "-f", image_format, "-F", layer.format]
    done = subprocess.run(
        ["qemu-img", "compare", *options, str(image), str(layer.path)],
        check=False,
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


def records_verdict(taken: Taken, raw: Path, target: str) -> str:
    """Ask the file system and the guest's own records."""
    quiesced = taken.point.consistency is fb.Consistency.APPLICATION
    if quiesced and not fsck_clean(raw):
        return f"{target}: the file system is not clean, although it was frozen"
    try:
        found = read_records(raw, target, replay_journal=not quiesced)
    except DamagedRecordsError as error:
        return str(error)
    last = found[-1] if found else 0
    say(
        f"  {taken.point.id} {target}: equal to {taken.layers[target].path.name}; "
        f"records 1-{last}, acknowledged {taken.acked_before}"
    )
    if last < taken.acked_before or found != list(range(1, last + 1)):
        return f"{target}: records are missing: {last} of {taken.acked_before}"
    if last > taken.acked_after + 1:  # the one that was being written
        return f"{target}: record {last} was written after the point"
    return "ok"


def restore_and_compare(store: fb.Store, taken: Taken, work: Path) -> str:
    """Restore a point and return its verdict."""
    history = store.read_history(taken.point.uuid)
    into = PurePosixPath(work) / "restored" / taken.point.id
    plan = fb.plan_restore(history, taken.point.id, into=into)
    report = fb.Executor(None, store).run(plan, cancel=CANCEL)
    wrong = [
        verdict for image in report.restored if (verdict := verdict_on(taken, image, work)) != "ok"
    ]
    shutil.rmtree(into)
    return "; ".join(wrong) or "ok"


# --- the acts -----------------------------------------------------------------------------------


def play(hypervisor: Embedded, work: Path) -> list[tuple[Taken, str]]:
    """Play all acts; return every point with its verdict."""
    act("a Linux guest with two disks, which writes all the time")
    guest = boot(hypervisor)
    host = fb.LibvirtHost(hypervisor.connection)
    (work / "store").mkdir()
    with fb.Store.create(work / "store") as store:
        points = take_points(host, store, guest)
        act("the live chains, and the store")
        domain = host.read_domain(guest.name)
        history = store.read_history(domain.uuid)
        say(fb.draw_chains(domain, history), "", fb.draw_history(history))
        act("restore each point, and compare it with what the guest had")
        verdicts = [(taken, restore_and_compare(store, taken, work)) for taken in points]
    say("", f"the guest has written on, to record {guest.wait_more(3)}")
    return verdicts


def boot(hypervisor: Embedded) -> LinuxGuest:
    """Start the guest: vda is qcow2 with something in it, vdb is raw and empty."""
    disks = (
        DiskSpec(target="vda", size_bytes=DISK_BYTES, path=hypervisor.images / "web1-vda.qcow2"),
        DiskSpec(target="vdb", size_bytes=DISK_BYTES, format="raw"),
    )
    fill_disk(disks[0], hypervisor.images / "web1-vda.qcow2")
    guest = LinuxGuest.start(hypervisor, "web1", disks=disks, options=PACE)
    versions = fb.LibvirtHost(hypervisor.connection).versions()
    say(
        f"libvirt {versions.libvirt}, QEMU {versions.qemu}, {hypervisor.uri}",
        f"web1 has booted, with vda (qcow2) and vdb (raw), {fb.format_bytes(DISK_BYTES)} each",
        "it appends a record to both disks, syncs, acknowledges, and again",
        f"now at record {guest.wait_more(5)}",
    )
    return guest


def fill_disk(disk: DiskSpec, path: Path) -> None:
    """Make an ext4 disk that holds a file, so that a full and an increment differ."""
    raw, content = path.with_suffix(".raw"), path.with_suffix(".content")
    make_ext4(DiskSpec(target=disk.target, format="raw", size_bytes=disk.size_bytes), raw)
    with Path("/dev/urandom").open("rb") as stream:
        content.write_bytes(stream.read(FIRST_FILE_BYTES))
    run("debugfs", "-w", "-R", f"write {content} first", raw)
    convert(raw, "raw", path, "qcow2")
    raw.unlink()
    content.unlink()


def take_points(host: fb.LibvirtHost, store: fb.Store, guest: LinuxGuest) -> list[Taken]:
    """Take a full, then increments, with the guest writing in between."""
    points: list[Taken] = []
    for number in range(POINTS):
        act("a full backup" if number == 0 else f"increment {number}")
        if number:
            record = guest.wait_more(RECORDS_BETWEEN_POINTS)
            say(f"the guest has written on, to record {record}", "")
        points.append(take_point(host, store, guest, fb.BackupPolicy()))
    return points


# --- the screen ---------------------------------------------------------------------------------


def say(*lines: str) -> None:
    """Print lines at once."""
    print("\n".join(lines), flush=True)


def act(title: str) -> None:
    """Print a numbered heading."""
    say("", f"--- {next(ACTS)}. {title} ".ljust(96, "-"), "")


def table(verdicts: Sequence[tuple[Taken, str]]) -> str:
    """Return the table that everything comes down to."""
    rows = [("point", "kind", "bytes copied", "seconds", "verdict")]
    rows += [
        (
            taken.point.id,
            str(taken.point.kind),
            f"{taken.report.copied_bytes:,}",
            f"{taken.report.seconds:.2f}",
            verdict,
        )
        for taken, verdict in verdicts
    ]
    return "\n".join(f"{a:18}{b:11}{c:>14}{d:>9}  {e}" for a, b, c, d, e in rows)


def keep_store(work: Path) -> None:
    """Move the store out of the way of the clean-up, and say how to explore it."""
    if not (work / "store").exists():
        return
    place = CACHE / "demo" / f"store-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(work / "store", place)
    store = place.relative_to(CLONE)
    say(
        "",
        f"the store has moved to {store}, and still works there; in the clone, try:",
        f"  .venv/bin/fibackup list --store {store}",
        f"  .venv/bin/fibackup restore --store {store} web1 --into {store}.restored",
        f"  qemu-img info --backing-chain -f qcow2 $(ls {store}/web1-*/vda/*.qcow2 | tail -n 1)",
        f"  rm -r {store.parent}",
    )


# --- beginning and end --------------------------------------------------------------------------


def on_signal(number: int, _: FrameType | None) -> NoReturn:
    """Stop the run; the clean-up that follows is not disturbed by a second signal."""
    ignore_signals()
    CANCEL.cancel()
    raise InterruptedDemo(number)


def ignore_signals() -> None:
    """Let nothing disturb the clean-up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def theatre(*, keep: bool) -> Iterator[tuple[Embedded, Path]]:
    """Give a hypervisor and a directory for our files; neither is there afterwards."""
    hypervisor = Embedded()
    try:
        work = hypervisor.root / "demo"
        work.mkdir()
        os.environ["FIBACKUP_RUN_DIR"] = str(hypervisor.root / "locks")
        yield hypervisor, work
    finally:
        ignore_signals()
        if keep:
            keep_store(hypervisor.root / "demo")
        hypervisor.close()


def demo(*, keep: bool) -> int:
    """Play, print the table; return the exit status."""
    clock = time.monotonic()
    with theatre(keep=keep) as (hypervisor, work):
        verdicts = play(hypervisor, work)
        act("the result")
        say(table(verdicts))
    bad = sum(verdict != "ok" for _, verdict in verdicts)
    said = (
        f"{bad} of {len(verdicts)} points are WRONG" if bad else f"{len(verdicts)} points, all ok"
    )
    say("", f"demo: {said}, {time.monotonic() - clock:.0f} s, nothing left running")
    return 1 if bad else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave the store in .cache/demo")
    options = parser.parse_args(arguments)
    if missing := missing_tools():
        say(f"demo: FAILED: missing {', '.join(missing)}; run scripts/setup demo")
        return 3
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        return demo(keep=options.keep)
    except InterruptedDemo as interrupted:
        say("", "demo: interrupted; everything that it had started is gone")
        return 128 + interrupted.number
    except Exception as error:  # noqa: BLE001 - the last line says it, after the clean-up
        if not isinstance(error, fb.FibackupError | HarnessError):
            traceback.print_exc()
        say("", f"demo: FAILED: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
