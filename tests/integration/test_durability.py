"""
Every call of a small backup and of a small restore fails, once each; the power goes at every step.

::

    effect   SIGKILL, EIO, ENOSPC, EINTR          by strace, at the N-th call of each kind
             a short write                        at the N-th write of ours
    power    the file system drops what is not synced   ext4 and xfs, after the N-th change

    after each    every published point is whole, success is never claimed falsely, the outside of
                  the store is as it was; the next run succeeds and leaves nothing over

``make exhaustive`` tries each error at each call; else each call has one, in turn.
"""

from __future__ import annotations

import io
import os
import pwd
import shutil
import subprocess
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from signal import SIGKILL

import pytest

import fibackup as fb
from fibackup.host.machine_state import unpack_tpm
from hypervisor import MIB, BlockDomain, Embedded, MakeBlockDomain
from hypervisor.faulty import (
    CALM,
    CUT,
    DONE,
    REFUSED,
    VERBS,
    Zygote,
    every_fault,
    later,
    read_trace,
)
from hypervisor.host import run, tool
from hypervisor.power import FILE_SYSTEMS, Volume
from integration.needed import need_strace, own_disk
from integration.own_disks import ROLLING, series_on_own_disk
from integration.sites import hashes, make_site

pytestmark = pytest.mark.libvirt  # it needs qemu-img, as those do
NOBODY = pwd.getpwnam("nobody").pw_uid
EVERYTHING = bool(os.environ.get("FIBACKUP_EXHAUSTIVE"))


def restored(kept: Path, store: Path) -> None:
    """Make a store what it was."""
    shutil.rmtree(store)
    shutil.copytree(kept, store)


# -- calls that fail -----------------------------------------------------------------------------


def test_every_call_of_a_backup_fails_once(zygote: Zygote, tmp_path: Path) -> None:
    """Older points stay whole, a success is one, and the next run is right and tidy."""
    need_strace()
    site = make_site(tmp_path / "site", zygote)
    kept = tmp_path / "kept"
    shutil.copytree(site.store, kept)
    act = replace(site.act, at=later(60))
    site.touch()
    calls = read_trace(zygote, act, tmp_path / "trace", site.store)
    assert {"fsync", "fdatasync", "linkat", "renameat", "unlinkat", "pwrite64", "write"} <= {
        call.kind for call in calls
    }
    codes: Counter[int] = Counter()
    for fault in every_fault(calls, site.store, everything=EVERYTHING):
        restored(kept, site.store)
        site.touch()
        code = zygote.run(act, *fault.words)
        codes[code] += 1
        assert code in {DONE, REFUSED, -SIGKILL}, fault
        assert site.points_are_whole() >= (2 if code == DONE else 1), fault
        if code == REFUSED:
            assert not list(site.store.rglob(".*.tmp")), fault
        assert zygote.run(replace(act, at=later(120))) == DONE, fault
        assert site.points_are_whole() >= 2, fault
        assert site.leftovers() == [], fault
    assert min(codes[code] for code in (DONE, REFUSED, -SIGKILL)) > 3, codes


def test_every_call_of_a_restore_fails_once(zygote: Zygote, tmp_path: Path) -> None:
    """There is the whole image or none under its name, and the store is as it was."""
    need_strace()
    site = make_site(tmp_path / "site", zygote)
    before = hashes(site.store)
    out = tmp_path / "out"
    act = replace(site.act, verb="restore", into=str(out))
    calls = read_trace(zygote, act, tmp_path / "trace", out)
    shutil.rmtree(out)
    codes: Counter[int] = Counter()
    for fault in every_fault(calls, out, everything=EVERYTHING):
        code = zygote.run(act, *fault.words)
        codes[code] += 1
        assert code in {DONE, REFUSED, -SIGKILL}, fault
        image = out / "vda.qcow2"
        assert code != DONE or image.exists(), fault
        if image.exists():
            assert site.flat(image) == site.expected, fault
            image.unlink()
        if code == REFUSED:
            assert not out.exists(), fault
        assert hashes(site.store) == before, fault
        assert zygote.run(act) == DONE, fault
        assert site.flat(image) == site.expected, fault
        assert [path.name for path in out.iterdir()] == ["vda.qcow2"], fault
        shutil.rmtree(out)
    # How many faults strike nothing depends on which thread of qemu-img makes which call.
    assert min(codes[code] for code in (REFUSED, -SIGKILL)) > 3, codes


def test_every_write_of_a_backup_is_short_once(zygote: Zygote, tmp_path: Path) -> None:
    """A kernel may write less than it is given; the rest follows, and the point is whole."""
    site = make_site(tmp_path / "site", zygote)
    number = 0
    for number in range(1, 100):
        site.touch()
        act = replace(site.act, at=later(60 * number), short=number)
        code = zygote.run(act)
        assert code in {DONE, CALM}
        assert site.points_are_whole() == number + 1
        assert site.leftovers() == []
        if code == CALM:
            break
    assert 5 < number < 99


@pytest.mark.parametrize(
    ("complaint", "error"),
    [
        ("qemu-img: Failed to flush the L2 table cache: Input/output error", fb.QemuImgError),
        ("qemu-img: Failed to flush the L2 table cache: No space left on device", fb.NoSpaceError),
        ("qemu-img: warning: cache=none is slow here", None),
    ],
)
def test_a_qemu_img_that_complains_has_failed(
    zygote: Zygote,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    complaint: str,
    error: type[fb.FibackupError] | None,
) -> None:
    """Where it cannot write the tables of an image that it closes, it exits with 0 all the same."""
    site = make_site(tmp_path / "site", zygote)
    liar = tmp_path / "qemu-img"
    liar.write_text(f"#!/bin/sh\n{tool('qemu-img')} \"$@\"\necho '{complaint}' >&2\n")
    liar.chmod(0o755)
    monkeypatch.setenv("FIBACKUP_QEMU_IMG", str(liar))
    out = tmp_path / "out"
    act = replace(site.act, verb="restore", into=str(out))
    if error is None:
        VERBS["restore"](act)
        assert site.flat(out / "vda.qcow2") == site.expected
        return
    with pytest.raises(fb.StepError) as caught:
        VERBS["restore"](act)
    assert isinstance(caught.value.__cause__, error)
    assert not out.exists()


# -- power ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_the_power_goes_at_every_step_of_a_backup(
    zygote: Zygote, tmp_path: Path, kind: str
) -> None:
    """What was published is whole after the power is back, and the next run is right and tidy."""
    with own_disk(tmp_path, kind) as volume:
        site = make_site(tmp_path / "site", zygote, volume.place / "store")
        before, seconds, published, number = 1, 0, 0, 0
        for number in range(1, 200):
            seconds += 60
            site.touch()
            code = zygote.run(replace(site.act, at=later(seconds), cut=number))
            if code == DONE:
                break
            assert code == CUT
            volume.power_on()
            found = site.points_are_whole()
            assert found in {before, before + 1}
            published += found - before
            seconds += 60
            assert zygote.run(replace(site.act, at=later(seconds))) == DONE
            before = site.points_are_whole()
            assert before == found + 1
            assert site.leftovers() == []
        assert 15 < number < 199
        assert published >= 1


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_the_power_goes_at_every_step_of_a_restore(
    zygote: Zygote, tmp_path: Path, kind: str
) -> None:
    """An image under its name is whole; what was reported is there; the next restore is right."""
    with own_disk(tmp_path, kind) as volume:
        site = make_site(tmp_path / "site", zygote, volume.place / "store")
        out = volume.place / "out"
        image = out / "vda.qcow2"
        act = replace(site.act, verb="restore", into=str(out))
        whole, number = 0, 0
        for number in range(1, 100):
            code = zygote.run(replace(act, cut=number))
            if code == DONE:
                break
            assert code == CUT
            volume.power_on()
            if image.exists():
                whole += 1
                assert site.flat(image) == site.expected
                image.unlink()
            assert site.points_are_whole() == 1
            assert zygote.run(act) == DONE
            assert site.flat(image) == site.expected
            assert [path.name for path in out.iterdir()] == ["vda.qcow2"]
            shutil.rmtree(out)
        assert 4 < number < 99
        assert whole >= 1


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_the_power_goes_after_a_tpm_has_its_state(tmp_path: Path, kind: str) -> None:
    """It is there afterwards, and belongs to whom swtpm runs as."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("tpm2/tpm2-00.permall")
        entry.size, entry.uname = 6000, "nobody"
        tar.addfile(entry, io.BytesIO(b"x" * 6000))
    with own_disk(tmp_path, kind) as volume:
        unpack_tpm(archive.getvalue(), PurePosixPath(volume.place / "swtpm/uuid"))
        volume.cut()
        volume.power_on()
        state = volume.place / "swtpm/uuid/tpm2/tpm2-00.permall"
        assert state.read_bytes() == b"x" * 6000
        assert [each.stat().st_uid for each in (state, state.parent)] == [NOBODY, NOBODY]


def test_a_missing_sync_would_be_seen(tmp_path: Path) -> None:
    """The harness drops what was not synced: an empty promise is found out."""
    script = (
        "import fcntl, os, struct, sys\n"
        "for name in ('synced', 'not'):\n"
        "    with open(f'{sys.argv[1]}/{name}', 'wb') as stream:\n"
        "        stream.write(b'x' * 5000)\n"
        "        stream.flush()\n"
        "        if name == 'synced':\n"
        "            os.fsync(stream.fileno())\n"
        "            directory = os.open(sys.argv[1], os.O_RDONLY)\n"
        "            os.fsync(directory)\n"
        "fcntl.ioctl(directory, 0x8004587D, struct.pack('I', 2))\n"
    )
    with own_disk(tmp_path, "ext4") as volume:
        subprocess.run(["python3", "-c", script, str(volume.place)], check=True)
        volume.power_on()
        files = [path for path in volume.place.iterdir() if path.is_file()]
        sizes = {path.name: path.stat().st_size for path in files}
        assert sizes["synced"] == 5000
        assert sizes.get("not", 0) == 0


def reads_as_live_after_a_power_cut(volume: Volume, domain: BlockDomain) -> None:
    """Compare the active overlay, as it is on the disk, with what the guest had."""
    active = domain.active("vda")
    volume.cut()
    domain.destroy()
    volume.power_on()
    run("qemu-img", "compare", active, domain.reference("vda", "live"))


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_the_power_goes_after_a_consolidation(
    tmp_path: Path, block_domain: MakeBlockDomain, hypervisor: Embedded, kind: str
) -> None:
    """The active overlay names an image that is there, and reads as what the guest had."""
    with series_on_own_disk(tmp_path, kind, block_domain, hypervisor) as (volume, domain, made):
        made.take(ROLLING)
        gone = domain.active("vda")
        domain.write("vda", 0, MIB, 7)
        made.take(ROLLING)
        assert not gone.exists()
        os.utime(gone.parent)
        run("sync", gone.parent)  # that the overlay is gone gets to the disk first
        reads_as_live_after_a_power_cut(volume, domain)


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_the_power_goes_after_a_snapshot(
    tmp_path: Path, block_domain: MakeBlockDomain, hypervisor: Embedded, kind: str
) -> None:
    """The overlay that the definition names from then on is there, and an image."""
    with series_on_own_disk(tmp_path, kind, block_domain, hypervisor) as (volume, domain, made):
        domain.write("vda", 0, MIB, 7)
        run("sync", "-f", domain.active("vda"))
        made.take(fb.BackupPolicy(quiesce=fb.Quiesce.OFF, allow_paused=True))
        assert domain.active("vda") != domain.path("vda")
        reads_as_live_after_a_power_cut(volume, domain)
