"""
The conditions under which an overlay is deleted, each alone: one that fails is enough to keep it.

::

    in no live chain | in no definition | of no domain | by whatever name | in the ledger | no lock
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from attrs import evolve

import fibackup as fb
from hypervisor import BlockDomain, DiskSpec, MakeBlockDomain, create_image
from hypervisor.host import run
from integration.rig import wait_until

pytestmark = pytest.mark.libvirt


def overlay_of(domain: BlockDomain) -> Path:
    """Make an image with a name of ours beside the domain's, which nothing uses."""
    path = domain.directory / "vda.bimg-20200101T000000Z"
    create_image(DiskSpec(), path)
    return path


def defined_with(domain: BlockDomain, image: Path) -> None:
    """Let the persistent definition name an image, whatever a running guest has."""
    xml = domain.dom.XMLDesc(2)  # VIR_DOMAIN_XML_INACTIVE
    domain.hypervisor.connection.defineXML(xml.replace(str(domain.path("vda")), str(image)))


def in_own_live_chain(domain: BlockDomain, overlay: Path, _: MakeBlockDomain) -> None:
    """Run on it, though it is not in the definition."""
    xml = domain.dom.XMLDesc(2)
    domain.destroy()
    defined_with(domain, overlay)
    domain.start()
    domain.hypervisor.connection.defineXML(xml)


def in_own_definition(domain: BlockDomain, overlay: Path, _: MakeBlockDomain) -> None:
    """Name it in the definition, though the guest runs on another image."""
    defined_with(domain, overlay)


def in_anothers_definition(_: BlockDomain, overlay: Path, make: MakeBlockDomain) -> None:
    """Define another domain on it, off."""
    make(DiskSpec(path=overlay), start=False)


def under_anothers_definition(_: BlockDomain, overlay: Path, make: MakeBlockDomain) -> None:
    """Define another domain on an image that lies on it, off."""
    make(DiskSpec(backing=overlay), start=False)


def in_anothers_live_chain(_: BlockDomain, overlay: Path, make: MakeBlockDomain) -> None:
    """Let another domain run on it, though it is not in that one's definition."""
    in_own_live_chain(make(), overlay, make)


def by_another_name(_: BlockDomain, overlay: Path, make: MakeBlockDomain) -> None:
    """Define another domain on a hard link to it."""
    link = overlay.with_name("link.qcow2")
    os.link(overlay, link)
    make(DiskSpec(path=link), start=False)


@pytest.mark.parametrize(
    "use",
    [
        in_own_live_chain,
        in_own_definition,
        in_anothers_definition,
        under_anothers_definition,
        in_anothers_live_chain,
        by_another_name,
    ],
)
def test_an_overlay_that_any_domain_uses_is_kept(
    block_domain: MakeBlockDomain,
    host: fb.LibvirtHost,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[BlockDomain, Path, MakeBlockDomain], None],
) -> None:
    """Also where QEMU's lock would not tell, as on a file system without locks."""
    domain = block_domain()
    overlay = overlay_of(domain)
    use(domain, overlay, block_domain)
    monkeypatch.setattr("fibackup.host.images.refuse_users", lambda *_: None)
    with pytest.raises(fb.DomainBusyError, match="still uses the overlay"):
        host.delete_image(domain.uuid, PurePosixPath(overlay))
    assert overlay.exists()


def test_an_overlay_that_a_process_has_open_is_kept(
    block_domain: MakeBlockDomain, host: fb.LibvirtHost
) -> None:
    """No domain names it; a qemu-nbd reads it. Afterwards it goes."""
    domain = block_domain()
    overlay = overlay_of(domain)
    socket = domain.directory / "nbd.socket"
    words = ["qemu-nbd", "-r", "-t", "-f", "qcow2", "-k", str(socket), str(overlay)]
    with subprocess.Popen(words) as reader:
        wait_until(socket.exists)
        with pytest.raises(fb.DomainBusyError, match="a process has the image open"):
            host.delete_image(domain.uuid, PurePosixPath(overlay))
        reader.terminate()
    assert overlay.exists()
    host.delete_image(domain.uuid, PurePosixPath(overlay))
    assert not overlay.exists()


def test_an_overlay_that_left_the_ledger_is_kept(
    block_domain: MakeBlockDomain, host: fb.LibvirtHost, tmp_path: Path
) -> None:
    """Under our own name, in our own chain: without the ledger's word it is somebody's."""
    domain = block_domain()
    (tmp_path / "store").mkdir()
    policy = fb.BackupPolicy(quiesce=fb.Quiesce.OFF, allow_paused=True)
    with fb.Store.create(tmp_path / "store") as store:
        history, found = store.read_history(domain.uuid), host.read_domain(domain.uuid)
        now = fb.parse_point_id("20261124T040407Z")
        plan = fb.plan_backup(found, history, now=now, policy=policy)
        fb.Executor(host, store).run(plan)
    overlay = domain.active("vda")
    found = host.read_domain(domain.uuid)
    assert found.ledger.overlay(PurePosixPath(overlay)) is not None
    host.write_ledger(domain.uuid, evolve(found.ledger, overlays=()))
    policy_now = fb.ConsolidationPolicy(allow_paused=True)
    plan = fb.plan_consolidation(host.read_domain(domain.uuid), policy=policy_now)
    assert plan.steps == ()
    assert "backing" in run("qemu-img", "info", "-U", "-f", "qcow2", overlay)
