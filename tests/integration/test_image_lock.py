"""Our image lock against QEMU's own, in both directions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fibackup import DomainBusyError
from fibackup.host.lock import hold_image_lock, refuse_users
from hypervisor import DiskSpec
from hypervisor.factories import MakeBlockDomain

pytestmark = pytest.mark.libvirt

FORMATS = pytest.mark.parametrize("image_format", ["qcow2", "raw"])


@contextmanager
def opened(path: Path) -> Generator[int]:
    """Open an image for reading."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def write_with_qemu(path: Path, image_format: str) -> subprocess.CompletedProcess[str]:
    """Write as any QEMU writer would: with its lock."""
    argv = ["qemu-io", "-f", image_format, "-c", "write -P 1 0 64k", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def make(path: Path, image_format: str) -> Path:
    """Make a small image."""
    argv = ["qemu-img", "create", "-q", "-f", image_format, str(path), "4M"]
    subprocess.run(argv, check=True)
    return path


@FORMATS
def test_qemu_cannot_write_what_we_hold(tmp_path: Path, image_format: str) -> None:
    """While we hold the lock a QEMU writer fails, and afterwards it does not."""
    path = make(tmp_path / "image", image_format)
    with opened(path) as fd:
        hold_image_lock(fd, str(path))
        assert 'Failed to get "write" lock' in write_with_qemu(path, image_format).stderr
    assert write_with_qemu(path, image_format).returncode == 0


@FORMATS
def test_qemu_can_read_what_we_hold(tmp_path: Path, image_format: str) -> None:
    """Our lock is a reader's: other readers are let in."""
    path = make(tmp_path / "image", image_format)
    with opened(path) as fd:
        hold_image_lock(fd, str(path))
        argv = ["qemu-img", "convert", "-f", image_format, "-O", "raw", str(path)]
        subprocess.run([*argv, str(tmp_path / "copy")], check=True)


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_what_a_domain_writes_cannot_be_held(
    block_domain: MakeBlockDomain, image_format: str
) -> None:
    """The active layer of a domain is refused, as not frozen and as in use."""
    spec = DiskSpec(format="raw") if image_format == "raw" else DiskSpec()
    path = block_domain(spec).active("vda")
    with opened(path) as fd, pytest.raises(DomainBusyError, match="writes the image"):
        hold_image_lock(fd, str(path))
    with opened(path) as fd, pytest.raises(DomainBusyError, match="has the image open"):
        refuse_users(fd, str(path))


def test_two_of_us_can_hold_one_image(tmp_path: Path) -> None:
    """Two copiers, or a copier and a restore, do not keep each other away."""
    path = make(tmp_path / "image", "qcow2")
    with opened(path) as one, opened(path) as two:
        hold_image_lock(one, str(path))
        hold_image_lock(two, str(path))


def test_the_lock_ends_with_the_descriptor(tmp_path: Path) -> None:
    """Nothing is left of the lock once the file is closed."""
    path = make(tmp_path / "image", "qcow2")
    with opened(path) as fd:
        hold_image_lock(fd, str(path))
    with opened(path) as fd:
        refuse_users(fd, str(path))
