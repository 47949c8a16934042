"""Facts about plans as values: text, JSON, cost."""

import json
from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import ParseError
from fibackup.model.chain import FileIdentity
from fibackup.model.domain import Disk
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.steps import (
    CommitImages,
    ConsolidateDisk,
    CopyImage,
    CreateLinked,
    EachDisk,
    FlattenImage,
    InParallel,
    MendHeader,
    Plan,
    PullImages,
    RestoreDisks,
    ResumeGuest,
    Step,
    ThawGuest,
    describe,
    headline,
)
from fibackup.testing import FakeHost, FakeStore

COPY = CopyImage("vda", PurePosixPath("/i/a\x1b.qcow2"), "qcow2", "N.qcow2", "M.qcow2", None, 2048)


def a_plan(policy: BackupPolicy | None = None) -> Plan:
    """Return the plan of a first point."""
    host = FakeHost()
    uuid = host.add_domain("web1", {"vda": {0: 1}, "vdb": {}})
    host.set_disk("web1", Disk("sda", device="cdrom"))
    history = FakeStore(host).read_history(uuid)
    return plan_backup(host.read_domain(uuid), history, now=host.now, policy=policy)


def test_the_text_of_a_plan_is_the_dry_run() -> None:
    """Decisions with reasons, numbered steps, the cost; warnings last."""
    plan = evolve(a_plan(), warnings=("look\x1b",))
    text = str(plan)
    for words in (
        "backup of web1",
        "the first point of this disk in this store",
        "sda",
        "freeze the guest (or else crash-consistent",
        "take one snapshot of vda, vdb:",
        "/images/web1-vda.qcow2 <- /images/web1-vda.bimg-20261124T040000Z",
        "of 2 disks:",
        "store the domain's XML",
        "publish point 20261124T040000Z (number 1)",
        "cost: 192 KiB to copy",
    ):
        assert words in text, words
    assert "\x1b" not in text
    assert "look" in text.splitlines()[-1]


def test_a_store_that_is_not_there_yet_has_no_number() -> None:
    """It is made by the run; a UUID of zeros is nobody's."""
    plan = a_plan()
    nowhere = evolve(plan, store="00000000-0000-0000-0000-000000000000")
    assert str(plan).splitlines()[0].endswith(f", store {plan.store}")
    assert str(nowhere).splitlines()[0].endswith(", a new store")


def test_a_required_freeze_says_so() -> None:
    """The dry run tells what ends the run."""
    assert "(required," in str(a_plan(BackupPolicy(quiesce=Quiesce.REQUIRE)))


def test_copies_of_nothing_say_so() -> None:
    """As when a killed run has stored every image already."""
    assert describe(InParallel(())) == ("copy no image: each that the point needs is stored",)
    assert headline(InParallel(((COPY,), (COPY, COPY)))) == "copy 3 images of 2 disks"


def test_the_cost_is_the_sum_of_the_copies() -> None:
    """Lane by lane."""
    plan = a_plan()
    assert [copy.target for copy in plan.copies] == ["vda", "vdb"]
    assert plan.cost_bytes == sum(copy.estimate_bytes for copy in plan.copies)


IMAGE = PurePosixPath("/i/base.qcow2")
TOP = PurePosixPath("/i/top.qcow2")


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (COPY, "vda: copy /i/a"),
        (evolve(COPY, backing=None), "to N.qcow2"),
        (FlattenImage("vda", (), PurePosixPath("/o/vda.raw"), "raw"), "flat as raw to /o/vda.raw"),
        (
            RestoreDisks((CreateLinked("vda", (), TOP), CreateLinked("vdb", (), IMAGE))),
            "bring 2 disks back:\n   vda: make an overlay",
        ),
        (ThawGuest(1.0), "thaw the guest"),
        (
            MendHeader("vda", PurePosixPath("/i/C"), PurePosixPath("/i/B"), "qcow2"),
            "vda: let /i/C lie on B again, as the definition says",
        ),
        (ResumeGuest(), "let the guest go on, which an earlier run has suspended"),
        (
            EachDisk(
                (ConsolidateDisk(CommitImages("vda", IMAGE, TOP, pivot=True, leaves=()), (TOP,)),)
            ),
            "then the guest goes on in the base",
        ),
        (
            EachDisk(
                (ConsolidateDisk(CommitImages("vda", IMAGE, TOP, pivot=False, leaves=()), ()),)
            ),
            "commit top.qcow2 and what is under it into base.qcow2",
        ),
        (
            EachDisk((ConsolidateDisk(PullImages("vda", IMAGE, ()), ()),)),
            "base.qcow2 stays under it",
        ),
        (EachDisk((ConsolidateDisk(PullImages("vda", None, ()), ()),)), "pull everything up"),
    ],
)
def test_each_step_has_words(step: Step, words: str) -> None:
    """One headline without control characters, and details."""
    text = "\n".join(describe(step))
    assert words in text
    assert text.isprintable() or "\n" in text
    assert "\n" not in headline(step)


def test_a_plan_comes_back_from_json() -> None:
    """Equal, whatever was planned."""
    for policy in (None, BackupPolicy(quiesce=Quiesce.OFF, disks=("vda",))):
        plan = a_plan(policy)
        assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "plan"),
        ("[]", "plan"),
        ("[" * 100_000, "plan"),
        ('{"schema": 1}', "plan"),
        ('{"schema": 99, "plan": {}}', "schema"),
        ('{"schema": 1, "plan": {}}', "plan.verb"),
        ('{"schema": 1, "plan": []}', "plan"),
    ],
)
def test_json_that_is_no_plan_is_refused(text: str, where: str) -> None:
    """The error names the place."""
    with pytest.raises(ParseError) as caught:
        Plan.from_json(text)
    assert caught.value.where == where


def test_an_unknown_field_of_a_plan_is_refused() -> None:
    """A newer plan is not half understood."""
    document = json.loads(a_plan().to_json())
    document["plan"]["expects"]["more"] = 1
    with pytest.raises(ParseError, match=r"plan\.expects\.more"):
        Plan.from_json(json.dumps(document))


def test_identities_in_a_plan_are_kept_exactly() -> None:
    """Nanoseconds do not pass through a float."""
    plan = a_plan()
    exact = FileIdentity(2**63, 2**62 + 1, 1_795_500_000_123_456_789)
    expected = plan.expects.disks[0]
    images = (evolve(expected.images[0], identity=exact),)
    expects = evolve(plan.expects, disks=(evolve(expected, images=images),))
    changed = evolve(plan, expects=expects)
    assert Plan.from_json(changed.to_json()) == changed
