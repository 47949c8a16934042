"""What the doctor says of facts: each thing that can be wrong is found, and what is well is not."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest
from attrs import evolve

import fibackup as fb
from fibackup.plan.backup import DEEP_CHAIN
from fibackup.testing import AgentState, FakeHost, FakeStore

NOW = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)
GIB = 1 << 30
HOST = fb.HypervisorFacts(
    uri="qemu:///system",
    versions=fb.Versions("0.1.0", "9.0.0", "7.2.22"),
    qemu_img="7.2.22",
    user_id=0,
)
STORE = fb.StoreFacts(
    path="/backup", user_id=0, owner_id=0, mode=0o700, free_bytes=50 * GIB, total_bytes=99 * GIB
)


def bad(findings: tuple[fb.Finding, ...]) -> list[tuple[str, str]]:
    """Return level and text of what is not well."""
    return [(str(each.level), each.text) for each in findings if each.level is not fb.Level.OK]


def only(findings: tuple[fb.Finding, ...]) -> fb.Finding:
    """Return the one finding that is not well."""
    (found,) = (each for each in findings if each.level is not fb.Level.OK)
    return found


# -- the host ------------------------------------------------------------------------------------


def test_a_sound_host_is_well() -> None:
    """The versions are said, and nothing else."""
    (found,) = fb.diagnose_hypervisor(HOST)
    assert found.level is fb.Level.OK
    for version in ("0.1.0", "9.0.0", "7.2.22", "qemu:///system"):
        assert version in found.text
    session = evolve(
        HOST,
        user_id=1000,
        uri="qemu:///session",
        versions=fb.Versions("0.1.0", "12.1.0", "7.2.22"),
        security_models=("selinux", "apparmor", "dac"),
    )
    assert bad(fb.diagnose_hypervisor(session)) == []
    texts = [each.text.split()[0] for each in fb.diagnose_hypervisor(session)]
    assert texts[1:] == ["SELinux", "AppArmor"]


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (evolve(HOST, qemu_img=None), "problem", "qemu-img is missing"),
        (evolve(HOST, qemu_img="2.11.1"), "problem", "qemu-img 2.11.1 is too old"),
        (
            evolve(HOST, versions=fb.Versions("1", "5.0.0", "7.2")),
            "problem",
            "libvirt 5.0.0 is too old",
        ),
        (
            evolve(HOST, versions=fb.Versions("1", "6.4.0", "7.2")),
            "problem",
            "crashes in a block commit",
        ),
        (evolve(HOST, versions=fb.Versions("1", "7.0.0", "7.2")), "warning", "never return"),
        (evolve(HOST, user_id=1000), "warning", "this is user 1000"),
        (evolve(HOST, security_models=("apparmor",)), "note", "may refuse to consolidate"),
        (evolve(HOST, run_directory_fault="it is no directory"), "problem", "no lock can be held"),
    ],
)
def test_what_is_wrong_with_a_host_is_found_once(
    facts: fb.HypervisorFacts, level: str, words: str
) -> None:
    """Each fault is one finding, and has a remedy where the text has none."""
    found = only(fb.diagnose_hypervisor(facts))
    assert (str(found.level), found.subject) == (level, "host")
    assert words in found.text
    assert found.remedy


# -- a store -------------------------------------------------------------------------------------


def test_a_sound_store_is_well() -> None:
    """Points, domains and room are said."""
    (found,) = fb.diagnose_store(STORE)
    assert found.text == "/backup: 0 points of 0 domains, 50 GiB of 99 GiB free"


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (evolve(STORE, mode=0o755), "warning", "other users can look into it (mode 0755)"),
        (evolve(STORE, mode=0o711), "note", "other users can pass through it (mode 0711)"),
        (evolve(STORE, mode=0o710), "note", "other users can pass through it (mode 0710)"),
        (evolve(STORE, mode=0o701 | 0o040), "warning", "other users can look into it (mode 0741)"),
        (evolve(STORE, owner_id=7), "warning", "it belongs to user 7"),
        (
            evolve(STORE, owner_id=7, fault="others can write the store", remedy="chown 0 /backup"),
            "problem",
            "/backup takes no point: others can write the store",
        ),
        (evolve(STORE, free_bytes=GIB), "warning", "little room is left: 1 GiB"),
        (evolve(STORE, free_files=1, total_files=1000), "warning", "few more files"),
        (evolve(STORE, filesystem="nfs4"), "note", "locks are as good as the server"),
        (evolve(STORE, filesystem="vfat"), "warning", "it is on vfat"),
        (evolve(STORE, temporary=("a/.x.tmp",)), "note", "1 temporary file of runs"),
    ],
)
def test_what_is_wrong_with_a_store_is_found(facts: fb.StoreFacts, level: str, words: str) -> None:
    """Each fault is one finding."""
    found = only(fb.diagnose_store(facts))
    assert (str(found.level), found.subject) == (level, "store")
    assert words in found.text
    assert found.remedy or found.level is fb.Level.NOTE


# -- a domain ------------------------------------------------------------------------------------


class World:
    """A domain with one point."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1", {"vda": {0: 1}, "vdb": {1: 2}})
        self.host.set_agent("web1", AgentState.CONNECTED)
        self.store = FakeStore(self.host)
        self.backup()

    def backup(self) -> None:
        """Take a point."""
        self.run(fb.plan_backup(self.domain(), self.history(), now=self.host.now))

    def run(self, plan: fb.Plan) -> None:
        """Run a plan."""
        fb.Executor(self.host, self.store).run(plan)

    def domain(self) -> fb.Domain:
        """Read the domain."""
        return self.host.read_domain("web1")

    def history(self) -> fb.History:
        """Read the store."""
        return self.store.read_history(self.uuid)

    def facts(self) -> fb.DomainFacts:
        """Return what the doctor looks at."""
        return fb.DomainFacts(self.domain(), self.history(), store_free_bytes=1 << 60)

    def killed(self) -> None:
        """Let a run end right after its snapshot, for good."""

        def listen(event: fb.Event) -> None:
            if isinstance(event, fb.StepStarted) and isinstance(event.step, fb.InParallel):
                self.host.fail_at(1, KeyboardInterrupt(), lasting=True)

        plan = fb.plan_backup(self.domain(), self.history(), now=self.host.now)
        with pytest.raises(KeyboardInterrupt):
            fb.Executor(self.host, self.store).run(plan, on_event=listen)
        self.host.heal()


def test_a_sound_domain_is_well() -> None:
    """The doctor says what the next point would be, and why."""
    world = World()
    (found,) = fb.diagnose_domain(world.facts(), now=NOW)
    assert (found.level, found.subject) == (fb.Level.OK, "domain web1")
    assert "vda: increment: " in found.text
    without = evolve(world.facts(), history=None)
    (found,) = fb.diagnose_domain(without, now=NOW)
    assert found.text == "it can be backed up: vda, vdb"


def test_what_a_killed_run_has_left_is_found() -> None:
    """With the command that clears it away; after that command all is well."""
    world = World()
    world.killed()
    found = only(fb.diagnose_domain(world.facts(), now=NOW))
    command = f"fibackup recover --store {world.history().path} {world.uuid}"
    assert (found.level, found.remedy) == (fb.Level.WARNING, command)
    assert found.text == "a run did not finish; 4 steps settle what it left"
    world.run(fb.plan_recovery(world.domain(), world.history(), now=NOW))
    assert bad(fb.diagnose_domain(world.facts(), now=NOW)) == []


def test_the_store_of_an_unfinished_point_is_named_where_it_is_known() -> None:
    """Of another one the doctor looks at, the ledger knows where the point's own store is."""
    world = World()
    world.killed()
    facts = world.facts()
    known = f"fibackup recover {world.uuid}"
    for history in (None, evolve(world.history(), store=world.uuid, points=())):
        found = fb.diagnose_domain(evolve(facts, history=history), now=NOW)
        assert [each.remedy for each in found if "not finished" in each.text] == [known]
    ledger = evolve(facts.domain.ledger, stores=())
    first = evolve(facts, domain=evolve(facts.domain, ledger=ledger), history=None)
    found = fb.diagnose_domain(first, now=NOW)
    (remedy,) = (each.remedy for each in found if "not finished" in each.text)
    assert remedy == f"fibackup recover --store DIR {world.uuid}"


def test_a_guest_that_may_be_frozen_is_found() -> None:
    """Its agent does not answer, so nobody can thaw it now."""
    world = World()
    run = fb.Run("20261124T040407Z", world.history().store, fb.RunPhase.INTENT, frozen=True)
    world.host.write_ledger(world.uuid, evolve(world.domain().ledger, run=run))
    world.host.set_agent("web1", AgentState.ABSENT)
    found = bad(fb.diagnose_domain(world.facts(), now=NOW))
    assert any("may be frozen" in text for _, text in found)
    assert ("note", "its guest agent does not answer: points are crash-consistent") in found


def test_a_job_that_is_in_the_way_is_found() -> None:
    """Of somebody else: the next backup would be refused, and a recovery too."""
    world = World()
    facts = world.facts()
    disks = tuple(evolve(disk, block_job="copy") for disk in facts.domain.disks[:1])
    domain = evolve(facts.domain, disks=(*disks, *facts.domain.disks[1:]))
    found = bad(fb.diagnose_domain(evolve(facts, domain=domain), now=NOW))
    assert ("warning", "a block job runs on disk vda: copy") in found
    assert any(level == "problem" and "cannot be backed up" in text for level, text in found)
    run = fb.Run("20261124T040407Z", world.history().store, fb.RunPhase.CONSOLIDATING)
    busy = evolve(domain, ledger=evolve(domain.ledger, run=run))
    found = bad(fb.diagnose_domain(evolve(facts, domain=busy), now=NOW))
    assert any("cannot be settled now" in text for _, text in found)


def test_a_domain_that_cannot_be_backed_up_is_a_problem() -> None:
    """In the words of the plan that is refused, with what helps."""
    world = World()
    world.host.pause("web1")
    found = bad(fb.diagnose_domain(world.facts(), now=NOW))
    assert found == [("problem", "it cannot be backed up: the domain is paused")]
    assert "virsh resume" in only(fb.diagnose_domain(world.facts(), now=NOW)).remedy


def test_a_disk_that_cannot_be_backed_up_is_a_problem() -> None:
    """With the options that leave it out."""
    world = World()
    facts = world.facts()
    first, *others = facts.domain.disks
    domain = evolve(facts.domain, disks=(evolve(first, encrypted=True), *others))
    found = only(fb.diagnose_domain(evolve(facts, domain=domain), now=NOW))
    assert "encrypted" in found.text
    assert "--exclude" in found.remedy
    without = evolve(facts.domain, disks=(), ledger=fb.Ledger())
    found = only(fb.diagnose_domain(evolve(facts, domain=without), now=NOW))
    assert found.text.startswith("it cannot be backed up: ")
    assert "docs/errors.md" in found.remedy


def test_a_chain_that_gets_deep_has_a_remedy() -> None:
    """Before libvirt refuses to start it."""
    world = World()
    for _ in range(DEEP_CHAIN - 1):
        world.host.foreign_snapshot("web1", "vda")
    (found,) = (
        each
        for each in fb.diagnose_domain(world.facts(), now=NOW)
        if each.text.endswith("consolidate soon")
    )
    assert found.remedy == f"fibackup consolidate {world.uuid}"


def test_what_the_next_point_warns_of_has_a_remedy() -> None:
    """A command, where there is one: a page would be no step."""
    world = World()
    facts = world.facts()
    assert facts.history is not None
    history = evolve(facts.history, unreadable=(("x.json", "cut"),))
    (first, *others), store = facts.domain.disks, shlex.quote(str(history.path))
    disk = evolve(first, config_source="/other")
    for changed, remedy in (
        (evolve(facts, history=history), f"fibackup verify --store {store} {world.uuid}"),
        (
            evolve(facts, history=evolve(facts.history, points=())),
            "see that it is the right store, and whole; the next point is a full",
        ),
        (
            evolve(facts, domain=evolve(facts.domain, disks=(disk, *others), persistent=True)),
            f"virsh dumpxml --inactive {world.uuid}",
        ),
        (
            evolve(
                facts,
                domain=evolve(facts.domain, disks=(first, evolve(others[0], shareable=True))),
            ),
            "--exclude",
        ),
    ):
        found = [
            each.remedy
            for each in fb.diagnose_domain(changed, now=NOW)
            if each.text.startswith("of its next point: ")
        ]
        assert len(found) == 1
        assert remedy in found[0]


def test_a_domain_that_is_worked_on_is_not_judged() -> None:
    """What a run has begun looks like what a killed one has left."""
    world = World()
    world.killed()
    facts = evolve(world.facts(), at_work=True)
    assert bad(fb.diagnose_domain(facts, now=NOW)) == [
        ("note", "a run works on it now, and is not judged")
    ]


def test_a_ledger_that_disagrees_with_the_chain_is_found() -> None:
    """An overlay that is gone from the chain, and one of which the ledger does not know."""
    world = World()
    facts = world.facts()
    chain = facts.domain.disk("vda").chain
    assert chain is not None
    active = chain.active.path
    ledger = facts.domain.ledger
    elsewhere = tuple(
        evolve(each, path=PurePosixPath("/images/gone.bimg-1")) if each.path == active else each
        for each in ledger.overlays
    )
    domain = evolve(facts.domain, ledger=evolve(ledger, overlays=elsewhere))
    found = bad(fb.diagnose_domain(evolve(facts, domain=domain), now=NOW))
    texts = "\n".join(text for level, text in found if level == "note")
    assert "overlay of vda that is in no chain: /images/gone.bimg-1" in texts
    assert f"{active} looks like an overlay of ours" in texts


def test_an_image_that_a_pull_has_made_the_disks_own_is_no_overlay() -> None:
    """It has kept its name, the ledger has forgotten it rightly, and nothing lies under it."""
    world = World()
    policy = fb.ConsolidationPolicy(method=fb.Method.BLOCKPULL)
    world.run(fb.plan_consolidation(world.domain(), policy=policy))
    (chain, _) = (disk.chain for disk in world.domain().disks)
    assert chain is not None
    assert ".bimg-" in chain.active.path.name
    assert bad(fb.diagnose_domain(world.facts(), now=NOW)) == []


def test_a_store_that_is_not_there_is_a_warning_until_a_newer_point_is_elsewhere() -> None:
    """A retired store, or the other one of two that take turns, is worth a note only."""
    world = World()
    facts = world.facts()
    (here,) = facts.domain.ledger.stores

    def lost(path: str, point: str) -> fb.Finding:
        gone = fb.KnownStore(world.uuid, path, point)
        ledger = evolve(facts.domain.ledger, stores=(here, gone))
        domain = evolve(facts.domain, ledger=ledger)
        return only(fb.diagnose_domain(evolve(facts, domain=domain, lost_stores=(gone,)), now=NOW))

    newer = lost("/mnt/usb", "99991231T235959Z")
    assert newer.level is fb.Level.WARNING
    assert newer.text.endswith("in a store at /mnt/usb, which is not there")
    older = lost("/mnt/usb", "20001231T235959Z")
    assert older.level is fb.Level.NOTE
    assert older.text.endswith(f"which is not there; {here.path} has point {here.point}")
    assert "retired" in older.remedy
    replaced = lost(here.path, "20001231T235959Z")
    assert "where another store is now" in replaced.text


def test_room_and_places_are_judged() -> None:
    """Of the store for the next point, of the images for overlays; together they are one loss."""
    world = World()
    world.host.write("web1", "vda", 3, 9)
    facts = evolve(
        world.facts(),
        store_free_bytes=1,
        places=(
            fb.OverlayPlace("/images", 1, 100, beside_store=True, fault="mounted read-only"),
            fb.OverlayPlace("/more", 50, 100),
        ),
        lost_stores=(fb.KnownStore("u", "/mnt/usb", "99991120T040407Z"),),
    )
    found = bad(fb.diagnose_domain(facts, now=NOW))
    assert [level for level, _ in found] == ["problem", "warning", "problem", "warning", "warning"]
    words = ("needs about", "/mnt/usb", "mounted read-only", "1 B left", "one loss takes both")
    for (_, text), each in zip(found, words, strict=True):
        assert each in text


def test_what_helps_against_a_place_without_overlays_is_said_where_it_is_known() -> None:
    """Another user is no help where the file system is mounted read-only."""
    world = World()
    for known, said in (("mount -o remount,rw /images", "mount -o"), ("", "run fibackup as root")):
        place = fb.OverlayPlace("/images", 50, 100, fault="no", remedy=known)
        found = only(fb.diagnose_domain(evolve(world.facts(), places=(place,)), now=NOW))
        assert found.remedy.startswith(said)


def test_points_that_nothing_reads_are_a_problem() -> None:
    """Whatever the name is that they are under."""
    found = only(fb.diagnose_store(evolve(STORE, misnamed=("old\nname",))))
    assert found.level is fb.Level.PROBLEM
    assert found.text.startswith("old\\x0aname holds points")
    assert found.remedy == "fibackup verify --store /backup"


def test_points_that_were_found_wrong_are_a_problem() -> None:
    """As a list says: every point that needs the file, until it is right when it is read again."""
    world = World()
    world.host.write("web1", "vda", 3, 9)
    world.backup()
    history = world.history()
    base, top = (point.disk("vda").images[0] for point in history.points)
    first, second = (point.id for point in history.points)

    def found(image: fb.StoredImage, fault: str) -> list[fb.Finding]:
        entry = fb.CheckedFile(f"vda/{image.name}", image.sha256, NOW, 1, fault)
        records = ((world.uuid, fb.VerificationRecord((entry,))),)
        facts = evolve(STORE, histories=(history,), records=records)
        return [each for each in fb.diagnose_store(facts) if each.level is fb.Level.PROBLEM]

    (wrong,) = found(base, "other content")
    assert wrong.text == f"web1: verify found wrong what points need: {first}, {second}"
    assert wrong.remedy == f"fibackup verify --store /backup {world.uuid}"
    (wrong,) = found(top, "other content")
    assert wrong.text.endswith(f"need: {second}")
    assert found(top, "") == []
    assert bad(fb.diagnose_store(evolve(STORE, histories=(history,)))) == []


def test_a_store_that_takes_no_point_is_a_problem_of_each_domain() -> None:
    """What the next point would be is not said, as there would be none."""
    facts = evolve(
        World().facts(),
        store_fault="Read-only file system",
        store_remedy="mount -o remount,rw /backup",
    )
    (found,) = fb.diagnose_domain(facts, now=NOW)
    assert (found.level, found.remedy) == (fb.Level.PROBLEM, "mount -o remount,rw /backup")
    assert found.text == "the store takes no point of it: Read-only file system"


def test_damage_in_the_store_is_found() -> None:
    """Manifests and images that are damaged or gone are problems, and what nobody names a note."""
    world = World()
    history = evolve(
        world.history(),
        unreadable=(("20261123T040407Z.json", "not JSON"),),
        lost=("20261122T040407Z",),
        damaged=frozenset({"vda/20261121T040407Z.qcow2"}),
        unclaimed=frozenset({"vda/20261120T040407Z.qcow2", "vda/x.json"}),
        damaged_records=(("linked.json", "cut"),),
        copies=("before-web1",),
    )
    empty = fb.History(history.store, history.path, "11111111-2222-3333-4444-555555555555")
    images = frozenset({"vda/20261120T040407Z.qcow2", "vda/20261121T040407Z.qcow2"})
    bare = evolve(empty, unclaimed=images, orphans=images)
    (said,) = (f for f in fb.diagnose_store(evolve(STORE, histories=(bare,))) if f.remedy)
    assert (said.level, said.remedy[:17]) == (fb.Level.PROBLEM, "take the manifest")
    assert "20261120T040407Z.qcow2, and 1 more, is of no point" in said.text
    found = bad(fb.diagnose_store(evolve(STORE, histories=(history, empty))))
    levels = ["problem", "problem", "problem", "warning", "problem", "note"]
    assert [level for level, _ in found] == levels
    words = ("before-web1", "not JSON", "20261122", "linked.json", "20261121", "20261120")
    for (_, text), word in zip(found, words, strict=True):
        assert text.startswith("web1: ")
        assert word in text
    assert bad(fb.diagnose_domain(evolve(world.facts(), history=history), now=NOW)) != []
