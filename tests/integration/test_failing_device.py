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
from pathlib import Path

import pytest

from fibackup.host.copy import copy_and_hash
from fibackup.host.events import CancelToken
from hypervisor import MIB
from integration.needed import own_disk

pytestmark = pytest.mark.libvirt  # it needs the machine, as those do

SIZE_BYTES = 128 * MIB
ROOM_BYTES = 24 * MIB


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
