"""A restore that defines a domain: who it is, what is refused, what a failure leaves: nothing."""

from __future__ import annotations

from hashlib import sha256
from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import (
    DestinationExistsError,
    DomainExistsError,
    FibackupError,
    ForeignConfigError,
    HostError,
    LockedError,
    ModelError,
    PolicyError,
    SharedBaseError,
    StalePlanError,
    StepError,
    VerifyError,
)
from fibackup.host.executor import Executor
from fibackup.model.domain import DomainState
from fibackup.model.host_facts import HostFacts
from fibackup.model.point import FileRole, History, RestorePoint, StoredFile
from fibackup.parse.definition import Foreign
from fibackup.plan.backup import plan_backup
from fibackup.plan.define import NewDomain
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.restore import RestoreForm, plan_restore
from fibackup.plan.steps import DefineDomain, Plan, RestoreTpm, StartDomain, describe
from fibackup.testing import FakeHost, FakeStore

INTO = PurePosixPath("/into")
NEW = "f06b3a2e-0000-4000-8000-000000000001"
HOST_CALLS = {"define_domain", "smoke_start", "start_domain", "write_tpm"}


class World:
    """A domain with NVRAM, a TPM and two disks, a store with two points of it, a fresh host."""

    def __init__(self, *, states: bool = True) -> None:
        """Take the points."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1", {"vda": {0: 1}, "vdb": {1: 2}})
        if states:
            self.host.set_state_file("web1", FileRole.NVRAM, b"variables")
            self.host.set_state_file("web1", FileRole.TPM_STATE, b"archive")
        self.host.set_autostart("web1", autostart=True)
        self.store = FakeStore(self.host)
        for value in (1, 9):
            self.host.write("web1", "vda", 3, value)
            domain, history = self.host.read_domain("web1"), self.history()
            Executor(self.host, self.store).run(plan_backup(domain, history, now=self.host.now))

    def history(self) -> History:
        """Read the history."""
        return self.store.read_history(self.uuid)

    def wish(self, name: str = "web1-test", **more: object) -> NewDomain:
        """Return the wish for a domain of the newest point."""
        point = self.history().points[-1]
        config = self.store.read_config(self.uuid, point.files[0])
        return NewDomain(name, config, self.host.read_host(), NEW, **more)  # type: ignore[arg-type]

    def plan(self, name: str = "web1-test", **more: object) -> Plan:
        """Plan a restore of the newest point that defines a domain."""
        wishes = {key: more.pop(key) for key in ("foreign", "start") if key in more}
        define = self.wish(name, **wishes)
        return plan_restore(self.history(), "latest", into=INTO, define=define, **more)  # type: ignore[arg-type]

    def gone(self) -> None:
        """Let the original be gone, with what it had."""
        self.host.shut_off("web1")
        self.host.undefine("web1")


def define_of(plan: Plan) -> DefineDomain:
    """Return the step that defines."""
    [step] = [step for step in plan.steps if isinstance(step, DefineDomain)]
    return step


def kinds(plan: Plan) -> list[str]:
    """Return the kinds of the steps."""
    return [type(step).__name__ for step in plan.steps]


# --- the plan -----------------------------------------------------------------------------------


def test_a_domain_is_defined_after_its_disks_and_tried_before_it_is_started() -> None:
    """The NVRAM comes before the definition that names it, the TPM after it."""
    plan = World().plan(start=True)
    assert kinds(plan) == [
        "MakeDirectory",
        "RestoreDisks",
        "RestoreNvram",
        "DefineDomain",
        "RestoreTpm",
        "SmokeStart",
        "StartDomain",
    ]
    assert kinds(World().plan())[-1] == "SmokeStart"
    assert INTO / "nvram.fd" in plan.expects.absent
    assert Plan.from_json(plan.to_json()) == plan
    assert len(kinds(World().plan(form=RestoreForm.CHAIN))) == 8  # a directory for each disk


def test_the_dry_run_shows_the_difference() -> None:
    """Line by line, under the step that defines."""
    text = str(World().plan())
    assert "define a new domain: web1-test, f06b3a2e" in text
    assert "-  <name>web1</name>" in text
    assert "+  <name>web1-test</name>" in text
    for step in World().plan(start=True).steps:
        assert describe(step)[0]


@pytest.mark.parametrize(
    ("name", "gone", "clone"),
    [("web1-test", False, True), ("web1-test", True, True), ("web1", True, False)],
)
def test_only_the_name_of_an_original_that_is_gone_gives_its_identity(
    name: str, *, gone: bool, clone: bool
) -> None:
    """Any other name is a clone's, with the UUID that the caller chose."""
    world = World()
    if gone:
        world.gone()
    step = define_of(world.plan(name))
    assert (step.clone, step.uuid) == (clone, NEW if clone else world.uuid)
    assert step.autostart is not clone
    assert f"<uuid>{step.uuid}</uuid>" in step.xml
    assert f"<name>{name}</name>" in step.xml
    assert ("as itself" in describe(step)[0], "with the host" in describe(step)[0]) == (
        not clone,
        not clone,
    )


def test_an_original_under_another_name_makes_its_old_name_a_clone() -> None:
    """Its UUID is taken."""
    world = World()
    world.host.rename("web1", "web1-old")
    assert define_of(world.plan("web1")).clone


def test_a_name_that_is_taken_is_refused() -> None:
    """Nothing that is defined is overwritten; nor is a UUID, should it ever be drawn twice."""
    world = World()
    with pytest.raises(DomainExistsError):
        world.plan("web1")
    taken = evolve(world.wish(), host=HostFacts((("other", NEW),)))
    with pytest.raises(DomainExistsError):
        plan_restore(world.history(), "latest", into=INTO, define=taken)


def test_an_xml_that_is_not_the_points_is_refused() -> None:
    """The sha256 in the manifest says so."""
    world = World()
    wish = evolve(world.wish(), config="<domain/>")
    with pytest.raises(VerifyError, match="not the one of point"):
        plan_restore(world.history(), "latest", into=INTO, define=wish)


@pytest.mark.parametrize(
    ("name", "uuid"), [("", NEW), (" ", NEW), ("a/b", NEW), ("a\nb", NEW), ("x", "no-uuid")]
)
def test_a_domain_needs_a_name_and_a_uuid(name: str, uuid: str) -> None:
    """Neither may be empty, or such as libvirt would refuse when the disks are restored."""
    with pytest.raises(ModelError):
        NewDomain(name, "<domain/>", HostFacts(), uuid)


def test_memory_and_another_definition_exclude_each_other() -> None:
    """A guest goes on in the domain that it was in."""
    world = World()
    world.host.set_memory("web1", 42)
    with pytest.raises(PolicyError):
        world.plan(memory=True)


def test_a_foreign_part_is_refused_unless_somebody_decides() -> None:
    """The error has the parts and the difference; the plan says what became of them."""
    world = World()
    bare = evolve(world.wish(), host=HostFacts())  # a host without this emulator
    history = world.history()
    with pytest.raises(ForeignConfigError) as caught:
        plan_restore(history, "latest", into=INTO, define=bare)
    [part] = caught.value.parts
    assert part.startswith("emulator (/usr/bin/qemu-system-x86_64)")
    assert "-    <emulator>" in caught.value.difference
    for foreign, word in ((Foreign.DROP, "taken out: "), (Foreign.KEEP, "kept: ")):
        plan = plan_restore(history, "latest", into=INTO, define=evolve(bare, foreign=foreign))
        step = define_of(plan)
        assert step.notes == (word + part,)
        assert ("<emulator>" in step.xml) is (foreign is Foreign.KEEP)
        assert f"{word}{part}" in str(plan)


def test_a_disk_that_is_not_chosen_is_not_in_the_domain() -> None:
    """It would be the original's."""
    step = define_of(World().plan(disks=("vda",)))
    assert "vdb" not in step.xml
    assert step.notes == ("disk vdb is not restored, and not in the definition",)


def test_a_linked_disk_names_every_image_of_the_store() -> None:
    """At the place where the store has them."""
    world = World()
    plan = world.plan(form=RestoreForm.LINKED, disks=("vda",))
    for image in world.history().images(plan.point, "vda"):
        assert f'file="/backup/{world.uuid}/vda/{image.name}"' in define_of(plan).xml
    with pytest.raises(PolicyError, match="where its images are"):
        plan_restore(
            evolve(world.history(), directory=""),
            "latest",
            into=INTO,
            form=RestoreForm.LINKED,
            define=world.wish(),
        )


def test_what_the_point_lacks_is_said() -> None:
    """Empty variables and an empty TPM are a surprise otherwise."""
    world = World()
    world.host.set_state_file("web1", FileRole.NVRAM, None)
    world.host.set_state_file("web1", FileRole.TPM_STATE, None)
    history = world.history()
    Executor(world.host, world.store).run(
        plan_backup(world.host.read_domain("web1"), history, now=world.host.now)
    )
    plan = world.plan()
    assert [words.split(":")[0] for words in plan.warnings] == [
        "the point has no NVRAM",
        "the point has no state of the TPM",
    ]
    assert "RestoreNvram" not in kinds(plan)
    assert not any(isinstance(step, RestoreTpm) for step in plan.steps)
    assert World(states=False).plan().warnings == ()


def test_passwords_that_the_point_lacks_are_said() -> None:
    """A new domain with graphics has none, so whoever reaches them may connect."""
    world = World(states=False)
    wish, history = world.wish(), world.history()
    config = wish.config.replace("</devices>", "<graphics type='vnc'/></devices>")
    for text, wanted in ((wish.config, 0), (config, 1)):
        data = text.encode()
        file = StoredFile(FileRole.DOMAIN_XML, "c.xml", len(data), sha256(data).hexdigest())
        facts = (("missing-passwords", "the backup was not asked for secrets"),)
        point = evolve(history.points[-1], files=(file,), facts=facts)
        found = evolve(history, points=(*history.points[:-1], point))
        plan = plan_restore(found, "latest", into=INTO, define=evolve(wish, config=text))
        assert len(plan.warnings) == wanted
        assert "the point has no passwords" in "".join(plan.warnings) or not wanted


# --- the run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", RestoreForm)
@pytest.mark.parametrize("start", [False, True])
def test_a_clone_has_what_the_original_had(form: RestoreForm, *, start: bool) -> None:
    """Disks, NVRAM and TPM; the original runs on untouched."""
    world = World()
    world.host.write("web1", "vda", 5, 5)
    before = world.host.read_domain("web1")
    Executor(world.host, world.store).run(world.plan(form=form, start=start))
    assert world.host.guest_sees("web1-test", "vda") == {0: 1, 3: 9}
    assert world.host.guest_sees("web1-test", "vdb") == {1: 2}
    assert world.host.read_state(NEW, FileRole.NVRAM) == b"variables"
    assert world.host.read_state(NEW, FileRole.TPM_STATE) == b"archive"
    found = world.host.read_domain("web1-test")
    assert found.state is (DomainState.RUNNING if start else DomainState.SHUTOFF)
    assert found.ledger.overlays == ()
    assert world.host.smoke_started == [NEW]
    assert world.host.read_domain("web1") == before


def test_the_original_comes_back_as_itself() -> None:
    """UUID, autostart; and the next point is a full of it."""
    world = World()
    world.gone()
    Executor(world.host, world.store).run(world.plan("web1", start=True))
    assert world.host.read_domain(world.uuid).name == "web1"
    assert world.host.autostart(world.uuid)
    plan = plan_backup(world.host.read_domain("web1"), world.history(), now=world.host.now)
    assert [str(each.kind) for each in plan.decisions] == ["full", "full"]
    assert Executor(world.host, world.store).run(plan).point is not None


def test_a_restore_of_the_original_holds_it_and_one_of_a_clone_does_not() -> None:
    """Two that bring back the same domain at once would define it over each other."""
    world = World(states=False)
    with world.host.locked(world.uuid):
        Executor(world.host, world.store).run(world.plan())
    world.host.undefine("web1-test")
    world.gone()
    made = set(world.store.restored)
    plan = world.plan("web1", form=RestoreForm.CHAIN)
    with world.host.locked(world.uuid), pytest.raises(LockedError):
        Executor(world.host, world.store).run(plan)
    assert set(world.store.restored) == made
    assert world.host.read_host().domains == ()
    with world.host.locked(world.uuid):
        Executor(world.host, world.store).run(plan, holds_lock=True)
    assert world.host.read_domain("web1").uuid == world.uuid


def test_a_restore_of_memory_holds_the_domain() -> None:
    """A backup of it, while it is off, would copy disks that are about to go."""
    world = World(states=False)
    policy = BackupPolicy(memory=True)
    domain, history = world.host.read_domain("web1"), world.history()
    plan = plan_backup(domain, history, now=world.host.now, policy=policy)
    Executor(world.host, world.store).run(plan)
    world.host.shut_off("web1")
    plan = plan_restore(world.history(), "latest", into=INTO, memory=True)
    with world.host.locked(world.uuid), pytest.raises(LockedError):
        Executor(world.host, world.store).run(plan)
    assert world.store.restored == {}
    Executor(world.host, world.store).run(plan)


def failure_of(world: World, plan: Plan) -> FibackupError | None:
    """Run a plan, and return its error."""
    try:
        Executor(world.host, world.store).run(plan)
    except FibackupError as error:
        return error
    return None


@pytest.mark.parametrize("form", RestoreForm)
@pytest.mark.parametrize("after", [False, True])
def test_a_restore_that_fails_leaves_neither_files_nor_a_domain(
    form: RestoreForm, *, after: bool
) -> None:
    """Whichever call fails, also when only libvirt's answer is lost; then it succeeds."""
    number, failures = 0, 0
    while True:
        number += 1
        world = World()
        plan = world.plan(form=form, start=True)
        before = world.host.read_domain("web1")
        calls = len(world.host.calls)
        world.host.fail_at(number, after=after)
        error = failure_of(world, plan)
        world.host.heal()
        if error is None:
            break
        failed = world.host.calls[calls:][number - 1]
        if after and failed not in HOST_CALLS:
            continue  # a local call does its work or fails; no answer gets lost on the way
        failures += 1
        if isinstance(error, StepError):
            assert "what the restore had made is removed" in error.state
        assert world.store.restored == {}
        assert world.host.restored == {}
        assert world.host.state_files == {}
        assert world.host.read_host().names == {"web1"}
        assert world.host.read_domain("web1") == before
        assert failure_of(world, plan) is None
    assert failures >= (4 if after else 14)


def test_files_of_a_domain_that_cannot_be_undefined_stay() -> None:
    """Whether it is there is not known, and it would be broken without them."""
    world = World()
    plan = world.plan()
    calls = len(world.host.calls)
    Executor(world.host, world.store).run(plan)
    number = world.host.calls[calls:].index("smoke_start") + 1
    world = World()
    world.host.fail_at(number, lasting=True)
    error = failure_of(world, plan)
    assert isinstance(error, StepError)
    assert "domain web1-test may be defined, its files stand" in error.state
    assert INTO / "vda.qcow2" in world.store.restored


def test_a_domain_of_somebody_else_is_not_undefined() -> None:
    """It came between the check and the step."""
    world = World()
    plan = world.plan()
    define = world.host.define_domain

    def racing(step: DefineDomain) -> None:
        world.host.add_domain("web1-test")
        define(step)

    world.host.define_domain = racing  # type: ignore[method-assign]
    error = failure_of(world, plan)
    assert isinstance(error, StepError)
    assert isinstance(error.__cause__, DomainExistsError)
    assert "web1-test" in world.host.read_host().names
    assert world.store.restored == {}


def test_a_domain_that_came_since_the_plan_is_refused() -> None:
    """Before anything is written."""
    world = World()
    plan = world.plan()
    world.host.add_domain("web1-test")
    assert isinstance(failure_of(world, plan), DomainExistsError)
    assert world.store.restored == {}


def test_a_tpm_that_somebody_left_is_not_touched() -> None:
    """Neither overwritten nor, after a failure, removed with the domain: it is not begun."""
    world = World()
    world.gone()
    plan = world.plan("web1")
    world.host.leave_tpm_state(world.uuid)
    error = failure_of(world, plan)
    assert isinstance(error, DestinationExistsError)
    assert error.path == f"/swtpm/{world.uuid}"
    assert world.store.restored == {}
    assert world.host.read_host().names == frozenset()


def test_a_kept_disk_of_another_domain_is_refused() -> None:
    """Two domains must not write one image."""
    world = World()
    path = world.host.attach_disk("web1", "vdc", {})
    config = world.host.domain_config(world.uuid)
    step = evolve(define_of(world.plan()), kept_files=(path,), xml=config)
    plan = world.plan()
    steps = tuple(step if isinstance(each, DefineDomain) else each for each in plan.steps)
    error = failure_of(world, evolve(plan, steps=steps))
    assert isinstance(error, SharedBaseError)
    assert error.dependents == ("web1",)


def test_a_point_with_another_xml_makes_the_plan_stale() -> None:
    """Somebody wrote the store since."""
    world = World()
    plan = world.plan()
    other = evolve(define_of(plan).config, sha256="0" * 64)
    steps = tuple(
        evolve(step, config=other) if isinstance(step, DefineDomain) else step
        for step in plan.steps
    )
    assert isinstance(failure_of(world, evolve(plan, steps=steps)), StalePlanError)


def test_a_definition_needs_a_host() -> None:
    """A store alone restores disks."""
    world = World()
    with pytest.raises(HostError):
        Executor(None, world.store).run(world.plan())


def test_a_start_is_in_the_plan_only_when_asked_for() -> None:
    """The smoke start always is."""
    plan = World().plan()
    assert not any(isinstance(step, StartDomain) for step in plan.steps)


def test_a_points_facts_may_lack_the_autostart_flag() -> None:
    """A point of an older version does not say."""
    world = World()
    world.gone()
    history = world.history()
    old = tuple(_without_facts(point) for point in history.points)
    plan = plan_restore(evolve(history, points=old), "latest", into=INTO, define=world.wish("web1"))
    assert define_of(plan).autostart is False


def _without_facts(point: RestorePoint) -> RestorePoint:
    return evolve(point, facts=())
