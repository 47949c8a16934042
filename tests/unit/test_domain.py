"""Facts about domains and their disks."""

from pathlib import PurePosixPath

import pytest

from fibackup.errors import ModelError
from fibackup.model.chain import BackingChain, Image
from fibackup.model.domain import Disk, Domain, DomainState

UUID = "0f6b2b2e-5b1f-4a5c-9d5e-000000000001"
CHAIN = BackingChain("vda", (Image(PurePosixPath("/i/disk.qcow2"), "qcow2"),))
PLAIN = Disk("vda", chain=CHAIN)


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        (Disk("sda", device="cdrom"), "cdrom"),
        (Disk("fda", device="floppy"), "floppy"),
        (Disk("vda", readonly=True, chain=CHAIN), "read-only"),
        (Disk("vda"), "empty"),
        (Disk("vda", source_type="network"), None),
        (PLAIN, None),
    ],
)
def test_a_disk_that_holds_nothing_of_its_own_is_skipped(disk: Disk, reason: str | None) -> None:
    """Removable, read-only and empty disks have a reason to be left out; others do not."""
    assert disk.skip_reason == reason


@pytest.mark.parametrize(
    ("disk", "word"),
    [
        (Disk("sda", device="lun", source_type="block"), "lun"),
        (Disk("vda", source_type="network"), "network"),
        (Disk("vda", source_type="block"), "block"),
        (Disk("vda", transient=True, chain=CHAIN), "transient"),
        (Disk("vda", shareable=True, chain=CHAIN), "shareable"),
        (Disk("vda", encrypted=True, chain=CHAIN), "encrypted"),
        (PLAIN, None),
    ],
)
def test_a_disk_that_cannot_be_backed_up_says_why(disk: Disk, word: str | None) -> None:
    """Each obstacle has its own sentence, which begins with libvirt's word for it."""
    reason = disk.unsupported_reason
    assert reason is None if word is None else (reason or "").startswith(word)


def test_a_domain_finds_its_disks_by_target() -> None:
    """A target that is not there is an error that names those that are."""
    domain = Domain("web1", UUID, disks=(PLAIN,))
    assert domain.disk("vda") is PLAIN
    with pytest.raises(ModelError, match="the domain has: vda"):
        domain.disk("vdz")
    with pytest.raises(ModelError, match="the domain has: none"):
        Domain("web1", UUID).disk("vda")


@pytest.mark.parametrize("uuid", ["", "web1", UUID.upper()])
def test_a_domain_has_a_uuid_in_lower_case(uuid: str) -> None:
    """Anything else is refused; directories of the store are named by it."""
    with pytest.raises(ModelError, match="UUID"):
        Domain("web1", uuid)


def test_a_domain_has_a_name() -> None:
    """An empty one is refused."""
    with pytest.raises(ModelError, match="empty"):
        Domain("", UUID)


@pytest.mark.parametrize("name", ["tab\there", "del\x7f", "\x1b[31mred", "..", "-rf"])
def test_a_domain_may_have_any_name_that_libvirt_takes(name: str) -> None:
    """It is drawn on one line, without what a terminal would act on."""
    drawn = str(Domain(name, UUID))
    assert drawn.isprintable()


def test_two_disks_never_share_a_target() -> None:
    """Such a domain cannot be, so its XML was misread."""
    with pytest.raises(ModelError, match="share a target"):
        Domain("web1", UUID, disks=(PLAIN, PLAIN))


def test_a_domain_prints_each_disk_with_its_chain_or_a_reason() -> None:
    """Disks that take part show their images, others why they do not."""
    disks = (
        PLAIN,
        Disk("sda", device="cdrom"),
        Disk("vdb", source_type="network"),
        Disk("vdc", chain=CHAIN, readonly=True),
    )
    text = str(Domain("web1", UUID, DomainState.RUNNING, disks))
    assert text.startswith(f"web1 (running) {UUID}")
    assert "disk.qcow2 (qcow2)  active layer" in text
    assert "sda (cdrom)" in text
    assert "vdb (network: only disks" in text
    assert "vdc (read-only)" in text
