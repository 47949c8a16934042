"""Which images that cannot be looked at may be in the way, and which paused guests go on."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import libvirt
import pytest

from fibackup.host.images import shared_images
from fibackup.host.libvirt_host import LibvirtHost
from fibackup.model.chain import Image


@pytest.mark.parametrize(("kind", "doubted"), [("raw", False), ("qcow2", True), ("qed", True)])
def test_only_what_may_lie_on_another_image_is_in_doubt(
    kind: str,
    doubted: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    """A raw image leads nowhere: an unreadable ISO of a domain that is off blocks nobody."""
    ours = tmp_path / "base.qcow2"
    ours.touch()
    loop = tmp_path / "a.iso"
    loop.symlink_to(loop)
    found = shared_images((PurePosixPath(ours),), (Image(PurePosixPath(loop), kind),))
    assert bool(found) is doubted


class Guest:
    """A domain that is paused."""

    def __init__(self, reason: int) -> None:
        """Keep why."""
        self.reason, self.resumed = reason, False

    def state(self) -> list[int]:
        """Return state and reason."""
        return [libvirt.VIR_DOMAIN_PAUSED, self.reason]

    def resume(self) -> None:
        """Go on."""
        self.resumed = True


@pytest.mark.parametrize(
    ("reason", "resumed"),
    [
        (libvirt.VIR_DOMAIN_PAUSED_USER, True),
        (libvirt.VIR_DOMAIN_PAUSED_UNKNOWN, True),
        (libvirt.VIR_DOMAIN_PAUSED_CRASHED, False),
        (libvirt.VIR_DOMAIN_PAUSED_WATCHDOG, False),
        (libvirt.VIR_DOMAIN_PAUSED_MIGRATION, False),
        (libvirt.VIR_DOMAIN_PAUSED_IOERROR, False),
    ],
)
def test_a_guest_that_stands_still_for_another_reason_is_not_resumed(
    reason: int,
    resumed: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A suspension of ours is one by a call; libvirt may have forgotten why."""
    guest = Guest(reason)
    monkeypatch.setattr(LibvirtHost, "_lookup", lambda *_: guest)
    LibvirtHost.resume_guest(LibvirtHost.__new__(LibvirtHost), "uuid")
    assert guest.resumed is resumed
