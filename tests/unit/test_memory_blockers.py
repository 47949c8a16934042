"""What keeps a domain's memory from being saved, read from its XML."""

from __future__ import annotations

import pytest

from fibackup.parse.domain_xml import parse_domain_xml

UUID = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a"


def domain(devices: str = "", rest: str = "") -> str:
    """Return the XML of a domain."""
    return (
        f"<domain><name>n</name><uuid>{UUID}</uuid>{rest}<devices>"
        "<interface type='network'/><video><model type='vga'/></video>"
        f"<disk type='file'><source file='/a'/><target dev='vda'/></disk>{devices}"
        "</devices></domain>"
    )


@pytest.mark.parametrize(
    ("xml", "blockers"),
    [
        (domain(), ()),
        (
            domain("<hostdev mode='subsystem' type='pci'/><hostdev/>"),
            ("hostdev (pci)", "hostdev (unknown)"),
        ),
        (domain("<interface type='hostdev'/>"), ("interface (hostdev)",)),
        (domain("<interface type='vdpa'/>"), ("interface (vdpa)",)),
        (domain("<interface type='vhostuser'/>"), ("interface (vhostuser)",)),
        (domain("<filesystem><driver type='virtiofs'/></filesystem>"), ("filesystem (virtiofs)",)),
        (domain("<filesystem type='mount'/>"), ("filesystem (path)",)),
        (domain("<shmem name='x'/>"), ("shmem (x)",)),
        (
            domain("<video><model><acceleration accel3d='yes'/></model></video>"),
            ("video (accel3d)",),
        ),
        (domain("<video><model><acceleration accel3d='no'/></model></video>"), ()),
        (
            domain("<disk type='file'><target dev='vdb'/><transient/></disk>"),
            ("disk vdb (transient)",),
        ),
        (
            domain("<disk type='vhostuser'><target dev='vdb'/></disk>"),
            ("disk vdb (vhostuser)",),
        ),
        (domain(rest="<cpu><feature name='invtsc'/></cpu>"), ("cpu feature (invtsc)",)),
        (
            domain(rest="<cpu><feature name='invtsc' policy='require'/></cpu>"),
            ("cpu feature (invtsc)",),
        ),
        (domain(rest="<cpu><feature name='invtsc' policy='disable'/></cpu>"), ()),
        (domain(rest="<launchSecurity type='sev'/>"), ("launchSecurity (sev)",)),
    ],
)
def test_a_blocker_is_named(xml: str, blockers: tuple[str, ...]) -> None:
    """With the element that it is, and what kind of it."""
    assert parse_domain_xml(xml).memory_blockers == blockers


@pytest.mark.parametrize(
    ("memory", "size"),
    [
        ("<memory unit='KiB'>2048</memory>", 2048 * 1024),
        ("<memory> 1 </memory>", 1024),
        ("<memory unit='MiB'>1</memory>", 0),
        ("<memory unit='KiB'>-1</memory>", 0),
        ("<memory unit='KiB'>\u0663</memory>", 0),
        (f"<memory unit='KiB'>{'9' * 5000}</memory>", 0),
        ("<memory/>", 0),
        ("", 0),
    ],
)
def test_the_size_of_the_memory_is_read_as_libvirt_prints_it(memory: str, size: int) -> None:
    """Anything else is not known, and counts as nothing."""
    assert parse_domain_xml(domain(rest=memory)).memory_bytes == size
