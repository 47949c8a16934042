"""A header that skips overlays of the definition is mended only where both show the same."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from fibackup.errors import HostError
from fibackup.host.libvirt_host import LibvirtHost
from fibackup.plan.steps import MendHeader
from hypervisor.host import run

pytestmark = pytest.mark.libvirt


class Off:
    """A domain that is off."""

    def isActive(self) -> int:  # noqa: N802 - as libvirt calls it
        """Return 0."""
        return 0


def backing(path: Path) -> str:
    """Return what the header names."""
    said = run("qemu-img", "info", str(path))
    return next(line for line in said.splitlines() if line.startswith("backing file:"))


def write(path: Path, pattern: int, at: int) -> None:
    """Let the guest write."""
    run("qemu-io", "-f", "qcow2", "-c", f"write -q -P {pattern} {at}k 64k", str(path))


@pytest.mark.parametrize("written", [False, True])
def test_a_header_is_mended_where_both_chains_show_the_same(
    tmp_path: Path,
    written: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody may have committed along the header: then the longer chain hides what is new."""
    base, under, active = (tmp_path / f"{name}.qcow2" for name in ("base", "under", "active"))
    run("qemu-img", "create", "-q", "-f", "qcow2", str(base), "1M")
    write(base, 1, 0)
    for image, on in ((under, base), (active, under)):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(on), str(image))
    write(under, 2, 0)
    run("qemu-img", "commit", "-q", "-d", "-b", str(base), str(under))  # it keeps what it has
    run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", str(base), str(active))
    write(active, 3, 128)
    if written:
        write(active, 4, 0)
        run("qemu-img", "commit", "-q", str(active))
    monkeypatch.setattr(LibvirtHost, "_lookup", lambda *_: Off())
    host = LibvirtHost.__new__(LibvirtHost)
    step = MendHeader("vda", PurePosixPath(active), PurePosixPath(under), "qcow2")
    if written:
        with pytest.raises(HostError, match="shows another disk"):
            host.mend_header("uuid", step)
    else:
        host.mend_header("uuid", step)
    assert backing(active).endswith(f"/{(base if written else under).name}")
