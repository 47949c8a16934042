"""
A device that fails for a while: what was written to the page cache never gets to the disk.

::

    write    |--------------------------------|   succeeds, all of it
    device   |---ok---|--fails--|-----ok------|
    told     ..........X                          the kernel tells it once, to who waits or syncs

So it does on a thin volume that is extended too late, and on a network that is away for a minute.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

import fibackup as fb
from fibackup.cli import main
from fibackup.host.cancel import CancelToken
from fibackup.host.copy import copy_and_hash
from hypervisor import MIB, Embedded, MakeBlockDomain
from hypervisor.host import run
from hypervisor.stores import CLUSTER, StoreMaker
from integration.needed import own_disk
from integration.own_disks import ROLLING, series_on_own_disk

pytestmark = pytest.mark.libvirt  # it needs the machine, as those do

SIZE_BYTES = 128 * MIB
ROOM_BYTES = 24 * MIB
COMMITTED_BYTES = 48 * MIB
COMMIT_ROOM_BYTES = 75 * MIB


def test_what_a_device_lost_while_it_was_copied_is_told(tmp_path: Path) -> None:
    """It works again before the copy ends, so that the last sync has nothing to complain of."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(SIZE_BYTES))
    with own_disk(tmp_path, "ext4", room_bytes=ROOM_BYTES) as volume:
        mended: list[int] = []

        def on_bytes(position: int) -> None:
            if position >= SIZE_BYTES // 2 and not mended:
                volume.mend()
                mended.append(position)

        into = os.open(volume.place / "copy", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with source.open("rb") as stream:
            try:
                with pytest.raises(OSError, match=r"\[Errno") as told:
                    copy_and_hash(
                        stream.fileno(),
                        into,
                        SIZE_BYTES,
                        head=b"",
                        on_bytes=on_bytes,
                        cancel=CancelToken(),
                    )
            finally:
                os.close(into)
    assert told.value.errno in {errno.ENOSPC, errno.EIO}


@pytest.mark.parametrize("image_format", list(fb.ImageFormat))
def test_what_a_device_lost_while_it_was_restored_is_told(
    tmp_path: Path, image_format: fb.ImageFormat
) -> None:
    """Before its image has a name; nothing is left over, and the next restore is right."""
    with StoreMaker(tmp_path, size_bytes=SIZE_BYTES) as maker:
        maker.point({"vda": {number: 1 + number % 255 for number in range(SIZE_BYTES // CLUSTER)}})
        history = maker.history()
        (top,) = maker.home.glob("vda/*.qcow2")
        with own_disk(tmp_path, "ext4", room_bytes=ROOM_BYTES) as volume:

            def mend_late(event: fb.Event) -> None:
                if isinstance(event, fb.CopyProgress) and 2 * event.done_bytes >= SIZE_BYTES:
                    (temporary,) = Path(into).iterdir()
                    with temporary.open("rb") as stream, suppress(OSError):
                        os.fdatasync(stream.fileno())  # what was written fails now
                    volume.mend()

            into = PurePosixPath(volume.place / "out")
            plan = fb.plan_restore(history, "latest", into=into, image_format=image_format)
            with pytest.raises(fb.StepError, match=r"is full|No space left|Input/output|Read-only"):
                fb.Executor(None, maker.store).run(plan, on_event=mend_late)
            assert not Path(into).exists()
            volume.mend()
            (restored,) = fb.Executor(None, maker.store).run(plan).restored
            words = ["-f", "qcow2", "-F", str(image_format), str(top), str(restored.path)]
            run("qemu-img", "compare", *words)


def test_what_a_device_lost_of_a_commit_keeps_the_overlay(
    tmp_path: Path, block_domain: MakeBlockDomain, hypervisor: Embedded
) -> None:
    """QEMU says that the job completed: its last flush failed, and it does not tell."""
    with series_on_own_disk(
        tmp_path,
        "ext4",
        block_domain,
        hypervisor,
        size_bytes=SIZE_BYTES,
        room_bytes=COMMIT_ROOM_BYTES,
    ) as (volume, domain, made):
        made.take(ROLLING)
        overlay = domain.active("vda")
        domain.write("vda", 0, COMMITTED_BYTES, 7)
        run("sync", "-f", overlay)
        with pytest.raises(fb.StepError, match=r"lost .*still has all of it") as caught:
            made.take(ROLLING)
        volume.mend()
        assert isinstance(caught.value.__cause__, fb.BlockJobError)
        assert caught.value.__cause__.path == str(domain.path("vda"))
        found = made.host.read_domain(domain.uuid)
        chain = found.disk("vda").chain
        assert chain is not None
        assert overlay not in map(Path, chain.paths)
        fb.Executor(made.host, made.store).run(
            fb.plan_recovery(found, made.history, now=datetime.now(UTC))
        )
        made.take(ROLLING)
        domain.destroy()
        assert overlay.exists()
        run("qemu-img", "compare", overlay, domain.reference("vda", "live"))


def test_a_verification_reads_the_disk(tmp_path: Path) -> None:
    """What is in the page cache may be right still, where the disk is not any more."""
    with (
        own_disk(tmp_path, "ext4") as volume,
        StoreMaker(volume.place, size_bytes=4 * MIB) as maker,
    ):
        maker.point({"vda": dict.fromkeys(range(8), 0xA7)})
        (stored,) = maker.home.glob("vda/*.qcow2")
        run("sync", "-f", stored)
        assert stored.read_bytes()  # somebody else has read it: it is in the cache
        with volume.image.open("r+b") as device:
            data = device.read()
            found = [at for at in range(0, len(data), 1024) if data[at : at + 8] == b"\xa7" * 8]
            for at in found:  # the image that was stored has the same as its source
                os.pwrite(device.fileno(), b"\xa8", at)
        assert found
        assert main(["verify", "--store", str(maker.root)]) == 12
