"""
Restores where QEMU is not root, as distributions have it: every directory must let it pass.

::

    images/            0755
    images/restored/   0711, made by the restore      vda.qcow2   0600, libvirt gives it to QEMU
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

import fibackup as fb
from hypervisor import BlockDomain, MakeBlockDomain, PrivateDaemon
from hypervisor.qemu_conf import qemu_account

pytestmark = pytest.mark.libvirt


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateDaemon]:
    """Give a daemon whose QEMUs are not root."""
    if not qemu_account():
        pytest.skip("needs root, and the account that libvirt's package makes for QEMU")
    with PrivateDaemon(qemu_user=qemu_account()) as made:
        yield made


@pytest.fixture
def domain(daemon: PrivateDaemon, block_domain: MakeBlockDomain) -> BlockDomain:
    """Give a running domain of that daemon."""
    made = block_domain(on=daemon)
    made.write("vda", 0, 4096, 7)
    return made


@pytest.fixture
def into(daemon: PrivateDaemon, domain: BlockDomain) -> Path:
    """Give a directory to restore into, which is not there; all above it let QEMU pass."""
    return daemon.images / f"{domain.name}.restored"


def backup(host: fb.LibvirtHost, domain: BlockDomain, store: fb.Store, *, memory: bool) -> None:
    """Take a point."""
    policy = fb.BackupPolicy(memory=memory, quiesce=fb.Quiesce.OFF, allow_paused=True)
    found, history = host.read_domain(domain.uuid), store.read_history(domain.uuid)
    plan = fb.plan_backup(found, history, now=datetime.now(UTC), policy=policy)
    fb.Executor(host, store).run(plan)


def mode_of(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_guest_goes_on_from_its_memory(
    daemon: PrivateDaemon, domain: BlockDomain, store: fb.Store, into: Path
) -> None:
    """QEMU passes through the directory that the restore made, and none but it has the image."""
    host = fb.LibvirtHost(daemon.connection)
    backup(host, domain, store, memory=True)
    domain.destroy()
    plan = fb.plan_restore(
        store.read_history(domain.uuid),
        "latest",
        into=PurePosixPath(into),
        memory=True,
        paused=True,
    )
    fb.Executor(host, store).run(plan)
    assert domain.is_active
    assert mode_of(into) == 0o711
    assert mode_of(into / "vda.qcow2") == 0o600
    assert (into / "vda.qcow2").owner() == qemu_account()
