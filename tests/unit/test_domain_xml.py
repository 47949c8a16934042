"""libvirt's domain XML."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from fibackup.errors import ChainError, ParseError
from fibackup.model.chain import BackingChain, Image
from fibackup.model.domain import Disk, DomainState
from fibackup.parse.domain_xml import (
    disk_images,
    disk_targets,
    domain_facts,
    has_passwords,
    named_images,
    parse_domain_xml,
    volume_names,
    with_passwords,
)
from fibackup.parse.volumes import pool_directory
from fibackup.parse.xml_tree import MAX_XML_BYTES

UUID = "0b3b8f3e-7c55-4f0e-9a58-3c9c4fb1e0a1"
END = "<backingStore/>"
TARGET = "<target dev='vda' bus='virtio'/>"
BASE = (
    "<backingStore type='file' index='1'><format type='raw'/><source file='/b'/>"
    f"{END}</backingStore>"
)
SOURCE = "<driver name='qemu' type='qcow2'/><source file='/a' index='2'/>"


def domain(devices: str, name: str = "web1", uuid: str = UUID) -> str:
    """Return the XML of a domain with these devices."""
    head = f"<name>{name}</name><uuid>{uuid}</uuid>"
    return f"<domain type='kvm' id='1'>{head}<devices>{devices}</devices></domain>"


def disk(inside: str, attributes: str = "type='file' device='disk'") -> str:
    """Return the XML of a disk with this inside."""
    return f"<disk {attributes}>{inside}</disk>"


def only_disk(xml: str) -> Disk:
    """Read a domain with one disk, and return that disk."""
    (found,) = parse_domain_xml(domain(xml)).disks
    return found


def chain(*images: tuple[str, str]) -> BackingChain:
    """Return the chain of vda with these paths and formats."""
    return BackingChain("vda", tuple(Image(PurePosixPath(path), kind) for path, kind in images))


def test_a_domain_is_read() -> None:
    """Name, UUID and the disks with their chains come from the live XML."""
    found = parse_domain_xml(domain(disk(SOURCE + BASE + TARGET)))
    assert (found.name, found.uuid, found.state) == ("web1", UUID, DomainState.UNKNOWN)
    expected = chain(("/a", "qcow2"), ("/b", "raw"))
    assert found.disks == (Disk("vda", bus="virtio", chain=expected, chain_ends=True),)


def test_only_an_empty_backing_store_ends_a_chain() -> None:
    """Without one, as in the definition of a domain that is off, QEMU follows the headers."""
    lower = "<backingStore type='file'><format type='raw'/><source file='/b'/>{}</backingStore>"
    for inside, ends in (
        ("", False),
        (END, True),
        (lower.format(""), False),
        (lower.format(END), True),
    ):
        assert only_disk(disk(SOURCE + inside + TARGET)).chain_ends == ends


def test_a_domain_may_have_no_devices() -> None:
    """A domain without disks is one."""
    assert parse_domain_xml(f"<domain><name>a</name><uuid>{UUID}</uuid></domain>").disks == ()


def test_a_disk_without_a_format_is_raw() -> None:
    """What the XML does not declare is raw, because libvirt never probes."""
    bare = only_disk(disk(f"<source file='/a'/>{END}<target dev='vda'/>"))
    named = only_disk(disk(f"<driver name='qemu'/><source file='/a'/>{TARGET}"))
    assert bare.chain == named.chain == chain(("/a", "raw"))
    assert bare.bus is None


@pytest.mark.parametrize("inside", ["", "<source startupPolicy='optional'/>"])
def test_an_empty_drive_has_no_chain(inside: str) -> None:
    """A drive without a medium has nothing to read."""
    found = only_disk(disk(inside + TARGET, "type='file' device='cdrom'"))
    assert (found.device, found.chain, found.skip_reason) == ("cdrom", None, "cdrom")


@pytest.mark.parametrize(
    ("kind", "source"),
    [("block", "dev='/dev/x'"), ("network", "protocol='nbd'"), ("volume", "pool='p' volume='v'")],
)
def test_other_sources_have_no_chain(kind: str, source: str) -> None:
    """A disk that is no file has no chain, also when it lies on files."""
    found = only_disk(disk(f"<source {source}/>{BASE}{TARGET}", f"type='{kind}'"))
    assert (found.source_type, found.chain) == (kind, None)
    assert found.unsupported_reason is not None


@pytest.mark.parametrize(
    ("inside", "source_type"),
    [
        (
            SOURCE + BASE.replace("type='file'", "type='network'").replace("file=", "protocol="),
            "file over network",
        ),
        (f"<source file='/a'><slices/></source>{END}", "slice of a file"),
        (f"<source file='/a'><dataStore type='file'/></source>{END}", "file with a data store"),
        (SOURCE + BASE.replace("'/b'/>", "'/b'><slices/></source>"), "slice of a file"),
    ],
)
def test_a_chain_is_never_cut_short(inside: str, source_type: str) -> None:
    """What lies on something other than whole files is unsupported, not a shorter chain."""
    found = only_disk(disk(inside + TARGET))
    assert (found.source_type, found.chain) == (source_type, None)
    assert (found.unsupported_reason or "").startswith(source_type)


def test_the_flags_are_read() -> None:
    """Read-only, shareable, transient, the snapshot choice and a block job are seen."""
    inside = f"{SOURCE}<mirror job='active-commit'/>{TARGET}<readonly/><shareable/><transient/>"
    found = only_disk(disk(inside, "type='file' device='disk' snapshot='no'"))
    assert (found.readonly, found.shareable, found.transient) == (True, True, True)
    assert (found.snapshot, found.block_job) == ("no", "active-commit")


def test_a_mirror_without_a_job_is_a_copy() -> None:
    """A mirror was always a copy when libvirt did not yet write which job it is."""
    assert only_disk(disk(f"{SOURCE}<mirror file='/c'/>{TARGET}")).block_job == "copy"


@pytest.mark.parametrize(
    "inside",
    [
        f"{SOURCE}<encryption/>",
        "<source file='/a'><encryption format='luks'/></source>",
        SOURCE + BASE.replace("'/b'/>", "'/b'><encryption/></source>"),
        SOURCE + BASE.replace("<format", "<encryption/><format"),
    ],
)
def test_encryption_is_seen_anywhere_in_the_chain(inside: str) -> None:
    """One encrypted image makes the disk an encrypted one."""
    assert only_disk(disk(inside + TARGET)).encrypted


def test_the_persistent_definition_is_kept_beside() -> None:
    """`config_source` is the top image of the same target in the inactive XML."""
    live = disk(SOURCE + TARGET) + disk("<source file='/c'/><target dev='vdb'/>")
    config = disk("<source file='/old'/>" + TARGET) + disk("<target dev='vdb'/>")
    found = parse_domain_xml(domain(live), domain(config))
    assert [each.config_source for each in found.disks] == ["/old", None]


def test_the_definition_of_another_domain_is_refused() -> None:
    """Two XMLs of two domains make no sense together."""
    other = domain("", uuid="1" + UUID[1:])
    with pytest.raises(ParseError, match="another domain's"):
        parse_domain_xml(domain(""), other)


@pytest.mark.parametrize(
    ("name", "state", "connected"),
    [
        ("org.qemu.guest_agent.0", "state='connected'", True),
        ("org.qemu.guest_agent.0", "state='disconnected'", False),
        ("org.qemu.guest_agent.0", "", False),
        ("com.redhat.spice.0", "state='connected'", False),
    ],
)
def test_the_agent_is_the_connected_channel(name: str, state: str, connected: bool) -> None:  # noqa: FBT001
    """Only a connected channel of the agent's name counts."""
    channel = f"<channel type='unix'><target type='virtio' name='{name}' {state}/></channel>"
    assert parse_domain_xml(domain(channel)).agent_connected is connected


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("", "domain", "not XML"),
        ("<a>", "domain", "not XML"),
        ("<network/>", "network", "expected <domain>"),
        ("\ud800", "domain", "not Unicode text"),
        (domain("", name=""), "name", "missing or empty"),
        ("<domain><name>a</name></domain>", "uuid", "missing or empty"),
        (domain("", uuid="7"), "domain", "is not a UUID"),
        (domain(disk(SOURCE + TARGET) * 2), "domain", "two disks share a target"),
        (domain(disk(SOURCE)), "devices/disk[1]/target", "without a target"),
        (domain(disk("<target/>")), "devices/disk[1]/target", "without a target"),
        (domain(disk("<target dev='a&#10;b'/>")), "devices/disk[1]", "control characters"),
        (domain(disk(TARGET, "device='tape'")), "devices/disk[1]", "unknown device 'tape'"),
        (
            domain(disk(TARGET) + disk("<source file='b'/><target dev='vdb'/>")),
            "devices/disk[2]/source",
            "is not an absolute path",
        ),
        (domain(disk(f"<source file=''/>{TARGET}")), "devices/disk[1]/source", "without a path"),
        (
            domain(
                disk(
                    f"{SOURCE}<backingStore type='file'><source file='/b'/></backingStore>{TARGET}"
                )
            ),
            "devices/disk[1]/backingStore/format",
            "without a format",
        ),
        (
            domain(
                disk(
                    f"{SOURCE}<backingStore type='file'><format type='raw'/></backingStore>{TARGET}"
                )
            ),
            "devices/disk[1]/backingStore/source",
            "without a path",
        ),
        (
            domain(disk(f"{SOURCE}<backingStore><format type='raw'/></backingStore>{TARGET}")),
            "devices/disk[1]/backingStore",
            "without a type",
        ),
        (
            domain(disk(SOURCE + BASE * 2 + TARGET)),
            "devices/disk[1]/backingStore",
            "not on several",
        ),
    ],
)
def test_a_bad_node_is_named(text: str, where: str, reason: str) -> None:
    """The error carries the path of the bad element."""
    with pytest.raises(ParseError, match=reason) as caught:
        parse_domain_xml(text)
    assert caught.value.where == where


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE domain><domain/>",
        "<!DOCTYPE d [<!ENTITY a 'x'><!ENTITY b '&a;&a;'>]><domain>&b;</domain>",
        "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/shadow'>]><domain>&x;</domain>",
        "<!DOCTYPE d SYSTEM 'http://127.0.0.1/x.dtd'><domain/>",
        "<!DOCTYPE d PUBLIC 'a' 'b'><domain/>",
    ],
)
def test_document_types_are_refused(text: str) -> None:
    """No entity is expanded and no file is read: a DOCTYPE ends the reading."""
    with pytest.raises(ParseError, match="a DOCTYPE is refused"):
        parse_domain_xml(text)


def test_long_text_is_refused() -> None:
    """More than 4 MiB is not parsed at all."""
    with pytest.raises(ParseError, match="longer than"):
        parse_domain_xml(f"<domain>{' ' * MAX_XML_BYTES}</domain>")


def nested(depth: int) -> str:
    """Return a domain whose disk lies on this many images."""
    layers = "".join(
        f"<backingStore type='file'><format type='qcow2'/><source file='/b{number}'/>"
        for number in range(depth)
    )
    return domain(disk(SOURCE + layers + "</backingStore>" * depth + TARGET))


def test_the_longest_chain_is_read() -> None:
    """200 images are the most that libvirt allows."""
    found = parse_domain_xml(nested(199)).disks[0].chain
    assert found is not None
    assert found.depth == 200


@pytest.mark.parametrize(("depth", "error"), [(200, ChainError), (5000, ParseError)])
def test_a_deeper_chain_is_refused(depth: int, error: type[Exception]) -> None:
    """Depth is an error of its own, long before it could exhaust the interpreter's stack."""
    with pytest.raises(error, match="deep"):
        parse_domain_xml(nested(depth))


def test_a_loop_names_domain_disk_and_image() -> None:
    """A path twice in a chain is a loop, and the error says where."""
    with pytest.raises(ChainError, match="loops") as caught:
        parse_domain_xml(domain(disk(SOURCE + BASE.replace("'/b'", "'/a'") + TARGET)))
    assert (caught.value.domain, caught.value.target, caught.value.path) == ("web1", "vda", "/a")


def test_facts_are_what_the_xml_says_of_the_machine() -> None:
    """Facts of a domain are its architecture, emulator, machine and kind of virtualization."""
    xml = (
        "<domain type='kvm'><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>"
        "<devices><emulator>/usr/bin/qemu</emulator></devices></domain>"
    )
    assert domain_facts(xml) == (
        ("arch", "x86_64"),
        ("emulator", "/usr/bin/qemu"),
        ("machine", "pc-q35-7.2"),
        ("virtualization", "kvm"),
    )


def test_facts_that_are_not_said_are_left_out() -> None:
    """A bare domain has no facts."""
    assert domain_facts("<domain/>") == ()


# --- volumes of storage pools -------------------------------------------------------------------

VOLUMES = {("p", "v"): PurePosixPath("/pool/v"), ("p", "base"): PurePosixPath("/pool/base")}
VOLUME = f"<driver type='qcow2'/><source pool='p' volume='v' index='2'/>{END}{TARGET}"
OVER_VOLUME = (
    f"{SOURCE}<backingStore type='volume' index='1'><format type='raw'/>"
    f"<source pool='p' volume='base'/>{END}</backingStore>{TARGET}"
)


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (disk(VOLUME, "type='volume' device='disk'"), chain(("/pool/v", "qcow2"))),
        (disk(OVER_VOLUME), chain(("/a", "qcow2"), ("/pool/base", "raw"))),
    ],
    ids=["on top", "under an overlay"],
)
def test_a_volume_is_the_file_that_was_found_for_it(xml: str, expected: BackingChain) -> None:
    """The disk is one with a file, in the live XML and in the definition."""
    found = parse_domain_xml(domain(xml), domain(xml), volumes=VOLUMES).disks[0]
    assert (found.source_type, found.chain, found.unsupported_reason) == ("file", expected, None)
    assert found.config_source == str(expected.active.path)


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (disk(VOLUME, "type='volume' device='disk'"), "volume: libvirt finds no file"),
        (disk(OVER_VOLUME), "file over volume: libvirt finds no file"),
    ],
)
def test_a_volume_that_is_no_file_is_unsupported(xml: str, reason: str) -> None:
    """It is not taken for an empty drive, nor for a shorter chain."""
    found = only_disk(xml)
    assert (found.chain, found.skip_reason) == (None, None)
    assert (found.unsupported_reason or "").startswith(reason)


VNC = "<graphics type='vnc' port='-1'/>"
SPICE = "<graphics type='spice' autoport='yes'/>"


def test_the_passwords_of_a_domain_are_those_of_its_graphics() -> None:
    """Libvirt shows them on request only."""
    assert not has_passwords(domain(VNC + SPICE))
    assert has_passwords(domain(VNC + SPICE.replace("/>", " passwd='b'/>")))


def test_passwords_come_from_another_xml_of_the_same_domain() -> None:
    """One that is there stays, and graphics that are others give none."""
    both = domain(
        VNC.replace("/>", " passwd='a' passwdValidTo='2030-01-01T00:00:00'/>")
        + SPICE.replace("/>", " passwd='b'/>")
    )
    found = with_passwords(domain(VNC + SPICE), both)
    assert found.count("passwd=") == 2
    assert 'passwdValidTo="2030-01-01T00:00:00"' in found
    own = with_passwords(domain(VNC.replace("/>", " passwd='own'/>") + SPICE), both)
    assert ('passwd="own"' in own, 'passwd="b"' in own, "passwdValidTo" in own) == (
        True,
        True,
        False,
    )
    assert "passwd" not in with_passwords(domain(SPICE + VNC), both)
    assert "passwd" not in with_passwords(domain(VNC), both)
    assert "passwd" not in with_passwords(domain(VNC), domain(VNC))


def test_the_targets_of_a_domain_are_those_of_all_its_disks() -> None:
    """Also of those that hold nothing."""
    disks = disk("<target dev='sda'/>", "device='cdrom'") + disk(VOLUME, "type='volume'")
    assert disk_targets(domain(disks)) == tuple(
        each.target for each in parse_domain_xml(domain(disks)).disks
    )


def test_the_volumes_of_a_domain_are_named_once() -> None:
    """In the order of the XML, from every layer of every disk."""
    disks = disk(VOLUME, "type='volume'") + disk(OVER_VOLUME) + disk(VOLUME, "type='volume'")
    assert volume_names(domain(disks)) == (("p", "v"), ("p", "base"))
    assert volume_names(domain(disk("<source pool='p'/>" + TARGET))) == ()


def test_every_file_that_a_domain_names_is_found() -> None:
    """Under the network, in slices, beside the chain, in a volume: somebody needs it."""
    network = BASE.replace("type='file'", "type='network'").replace("file='/b'", "protocol='nbd'")
    network = network.replace(
        END, f"<backingStore type='file'><source file='/deep'/>{END}</backingStore>"
    )
    inside = [
        SOURCE + network,
        "<source file='/s'><slices/></source>",
        (
            "<driver type='qcow2'/><source file='/d'><dataStore type='file'>"
            "<format type='raw'/><source file='/data'/></dataStore></source>"
        ),
        f"{SOURCE}<mirror type='file'><format type='qcow2'/><source file='/m'/></mirror>",
        "<source file='relative'/>",
    ]
    disks = "".join(disk(each + TARGET) for each in inside)
    found = named_images(domain(disks + disk(VOLUME, "type='volume'")), volumes=VOLUMES)
    assert [(str(image.path), image.format) for image in found] == [
        ("/a", "qcow2"),
        ("/deep", "raw"),
        ("/s", "raw"),
        ("/d", "qcow2"),
        ("/data", "raw"),
        ("/a", "qcow2"),
        ("/m", "qcow2"),
        ("/pool/v", "qcow2"),
    ]


def test_each_disk_tells_what_it_names_and_what_it_says_lies_under_that() -> None:
    """Devices too; where the XML does not say what lies under an image, nobody does."""
    network = "<backingStore type='network'><format type='raw'/><source protocol='nbd'/>"
    block = "<driver type='qcow2'/><source dev='/dev/v'/>"
    xml = domain(
        disk(SOURCE + BASE + TARGET)
        + disk(f"{SOURCE}{network}</backingStore>{TARGET.replace('vda', 'vdb')}")
        + disk(block + TARGET.replace("vda", "vdc"), "type='block'")
        + disk(TARGET.replace("vda", "sda"), "device='cdrom'")
    )
    found = {
        target: [(str(image.path), image.format, image.header_backing) for image in images]
        for target, images in disk_images(xml)
    }
    assert found == {
        "vda": [("/a", "qcow2", "/b"), ("/b", "raw", "")],
        "vdb": [("/a", "qcow2", "")],
        "vdc": [("/dev/v", "qcow2", None)],
        "sda": [],
    }


@pytest.mark.parametrize(
    ("xml", "path"),
    [
        ("<pool type='dir'><target><path>/a\nb</path></target></pool>", "/a\nb"),
        ("<pool type='netfs'><target><path>/mnt</path></target></pool>", "/mnt"),
        ("<pool type='logical'><target><path>/dev/vg</path></target></pool>", None),
        ("<pool type='dir'/>", None),
        ("<pool type='dir'><target><path>mnt</path></target></pool>", None),
    ],
)
def test_a_pool_of_files_has_a_directory(xml: str, path: str | None) -> None:
    """Other pools have none, or one in which the volumes are no files."""
    assert pool_directory(xml) == (PurePosixPath(path) if path else None)


def test_what_is_no_pool_is_refused() -> None:
    """Its element is named."""
    with pytest.raises(ParseError, match="expected <pool>"):
        pool_directory("<volume/>")
