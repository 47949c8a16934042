"""Facts about which domains and disks can be backed up."""

from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import ChainError, DomainStateError, PolicyError, UnsupportedDiskError
from fibackup.model.chain import MAX_DEPTH, BackingChain, Image
from fibackup.model.domain import Disk, Domain, DomainState
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.selection import check_disk, check_state, choose_disks

UUID = "0f6b2b2e-5b1f-4a5c-9d5e-000000000001"
ALL = BackupPolicy()


def disk(target: str, *images: Image) -> Disk:
    """Return a plain disk, with one qcow2 image unless told otherwise."""
    own = Image(PurePosixPath(f"/i/{target}.qcow2"), "qcow2")
    return Disk(target, chain=BackingChain(target, images or (own,)))


CDROM = Disk("sda", device="cdrom")
NETWORK = Disk("vdn", source_type="network")
RUNNING = Domain("web1", UUID, DomainState.RUNNING, (disk("vda"), disk("vdb"), CDROM))


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.BLOCKED])
def test_a_running_domain_can_be_backed_up(state: DomainState) -> None:
    """Blocked means running, on a hypervisor that tells them apart."""
    check_state(evolve(RUNNING, state=state), ALL)


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (DomainState.SHUTOFF, "virsh start"),
        (DomainState.PAUSED, "virsh resume"),
        (DomainState.PAUSED_IO_ERROR, "make room"),
        (DomainState.CRASHED, "virsh destroy"),
        (DomainState.PMSUSPENDED, "dompmwakeup"),
        (DomainState.SHUTDOWN, "wait until it is off"),
        (DomainState.UNKNOWN, "virsh domstate"),
    ],
)
def test_any_other_state_is_refused_with_a_remedy(state: DomainState, remedy: str) -> None:
    """The error says in which state the domain is, and what to do about it."""
    with pytest.raises(DomainStateError, match=f"the domain is {state}") as caught:
        check_state(evolve(RUNNING, state=state), BackupPolicy(offline=False))
    assert remedy in caught.value.remedy
    assert caught.value.remedy in str(caught.value)


def test_a_paused_domain_is_allowed_on_request_only() -> None:
    """And a domain that paused because its storage is full never is."""
    allowed = BackupPolicy(allow_paused=True)
    check_state(evolve(RUNNING, state=DomainState.PAUSED), allowed)
    with pytest.raises(DomainStateError):
        check_state(evolve(RUNNING, state=DomainState.PAUSED_IO_ERROR), allowed)


def test_a_managed_save_image_is_in_the_way() -> None:
    """Resuming it would forget the overlays of a snapshot."""
    with pytest.raises(DomainStateError, match="managed-save") as caught:
        check_state(evolve(RUNNING, managed_save=True), ALL)
    assert "managedsave-remove" in caught.value.remedy


def test_a_domain_job_is_in_the_way() -> None:
    """Its kind is named."""
    with pytest.raises(DomainStateError, match="a migration job is running") as caught:
        check_state(evolve(RUNNING, job="migration"), ALL)
    assert "domjobabort" in caught.value.remedy


def test_without_wishes_every_disk_with_content_takes_part() -> None:
    """A cdrom is left out without a warning."""
    choice = choose_disks(RUNNING, ALL)
    assert [each.target for each in choice.disks] == ["vda", "vdb"]
    assert (choice.skipped, choice.warnings) == ((("sda", "cdrom"),), ())


def test_wishes_choose_and_exclude() -> None:
    """Each disk that does not take part says why."""
    choice = choose_disks(RUNNING, BackupPolicy(disks=("vdb",)))
    assert choice.skipped == (("vda", "not asked for"), ("sda", "not asked for"))
    choice = choose_disks(RUNNING, BackupPolicy(exclude=("vda",)))
    assert choice.skipped == (("vda", "excluded"), ("sda", "cdrom"))


def test_snapshot_no_in_the_xml_leaves_a_disk_out_unless_it_is_asked_for() -> None:
    """The owner's word counts as an exclusion; asking by name is the stronger word."""
    domain = evolve(RUNNING, disks=(disk("vda"), evolve(disk("vdb"), snapshot="no")))
    assert choose_disks(domain, ALL).skipped == (("vdb", "snapshot='no' in the domain's XML"),)
    assert len(choose_disks(domain, BackupPolicy(disks=("vdb",))).disks) == 1


@pytest.mark.parametrize(
    "wishes",
    [BackupPolicy(disks=("vdz",)), BackupPolicy(exclude=("vdz",))],
    ids=["disk", "exclude"],
)
def test_a_wish_for_a_disk_that_is_not_there_is_refused(wishes: BackupPolicy) -> None:
    """A typing mistake must not become a backup without that disk."""
    with pytest.raises(PolicyError, match="it has: sda, vda, vdb"):
        choose_disks(RUNNING, wishes)


def test_no_disk_left_is_an_error_that_tells_why() -> None:
    """A point of no disk is no point."""
    with pytest.raises(PolicyError, match="sda: cdrom"):
        choose_disks(evolve(RUNNING, disks=(CDROM,)), ALL)
    with pytest.raises(PolicyError, match="it has no disk"):
        choose_disks(evolve(RUNNING, disks=()), ALL)


def test_an_unsupported_disk_is_refused_unless_it_may_be_skipped() -> None:
    """Left out it is with a warning; asked for by name it is refused always; excluded silently."""
    domain = evolve(RUNNING, disks=(disk("vda"), NETWORK))
    with pytest.raises(UnsupportedDiskError, match=r"network: .*exclude the disk"):
        choose_disks(domain, ALL)
    choice = choose_disks(domain, BackupPolicy(skip_unsupported=True))
    assert choice.warnings[0].startswith("disk vdn is not in the backup: network")
    with pytest.raises(UnsupportedDiskError):
        choose_disks(domain, BackupPolicy(disks=("vdn",), skip_unsupported=True))
    assert choose_disks(domain, BackupPolicy(exclude=("vdn",))).warnings == ()


@pytest.mark.parametrize("kind", ["shareable", "transient"])
def test_a_disk_that_is_shared_or_thrown_away_is_left_out_with_a_warning(kind: str) -> None:
    """Its data is in no point, and the other disks are; asked for by name it is refused."""
    odd = evolve(disk("vdb"), shareable=kind == "shareable", transient=kind == "transient")
    domain = evolve(RUNNING, disks=(disk("vda"), odd))
    choice = choose_disks(domain, ALL)
    assert [each.target for each in choice.disks] == ["vda"]
    ((target, reason),) = choice.skipped
    assert (target, reason.partition(":")[0]) == ("vdb", kind)
    assert choice.warnings == (f"disk vdb is not in the backup: {reason}",)
    with pytest.raises(UnsupportedDiskError, match=f"{kind}: "):
        choose_disks(domain, BackupPolicy(disks=("vdb",)))
    assert choose_disks(domain, BackupPolicy(exclude=("vdb",))).warnings == ()
    with pytest.raises(PolicyError, match=f"no disk is left to back up .vdb: {kind}"):
        choose_disks(evolve(domain, disks=(odd,)), ALL)


def test_a_disk_without_content_that_is_asked_for_by_name_is_refused() -> None:
    """Silence would be a backup without it."""
    with pytest.raises(UnsupportedDiskError, match="cdrom"):
        choose_disks(RUNNING, BackupPolicy(disks=("sda",)))


def test_wishes_that_contradict_each_other_are_refused() -> None:
    """Asked for and excluded, or a freeze without time."""
    with pytest.raises(PolicyError, match="asked for and excluded: vda"):
        BackupPolicy(disks=("vda",), exclude=("vda",))
    with pytest.raises(PolicyError, match="more than 0 seconds"):
        BackupPolicy(freeze_timeout_seconds=0)


def test_a_block_job_on_the_disk_is_in_the_way() -> None:
    """A snapshot would be refused by libvirt."""
    with pytest.raises(DomainStateError, match="a block job runs on the disk: commit"):
        check_disk(RUNNING, evolve(disk("vda"), block_job="commit"))


def test_a_chain_as_deep_as_libvirt_allows_gets_no_further_overlay() -> None:
    """One more image would be refused at the next start."""
    images = tuple(Image(PurePosixPath(f"/i/{n}"), "qcow2") for n in range(MAX_DEPTH))
    with pytest.raises(ChainError, match="consolidate first"):
        check_disk(RUNNING, disk("vda", *images))


TOP, BASE = PurePosixPath("/i/top.qcow2"), PurePosixPath("/i/base.qcow2")


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        ((Image(TOP, "qcow2", problem="it cannot be read"),), ChainError, "cannot be read"),
        ((Image(TOP, "vmdk"),), UnsupportedDiskError, "vmdk format"),
        ((Image(TOP, "raw"), Image(BASE, "qcow2")), ChainError, "a raw image cannot"),
        (
            (Image(TOP, "qcow2", header_backing=""), Image(BASE, "raw")),
            ChainError,
            f"names no backing file, libvirt says {BASE}",
        ),
        (
            (Image(TOP, "qcow2", header_backing=str(BASE)),),
            ChainError,
            f"names {BASE}, libvirt says there is none",
        ),
    ],
)
def test_images_that_cannot_be_trusted_are_refused(
    images: tuple[Image, ...], error: type[Exception], words: str
) -> None:
    """Header and XML must agree, formats must be known, raw lies on nothing."""
    with pytest.raises(error, match=words):
        check_disk(RUNNING, disk("vda", *images))


def test_an_image_whose_header_agrees_or_was_not_read_is_accepted() -> None:
    """None means that nobody looked."""
    agreeing = Image(TOP, "qcow2", header_backing=str(BASE))
    check_disk(RUNNING, disk("vda", agreeing, Image(BASE, "raw")))
    check_disk(RUNNING, disk("vda", Image(TOP, "qcow2"), Image(BASE, "qcow2", header_backing="")))
