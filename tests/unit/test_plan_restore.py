"""Facts about the plan of a restore."""

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import (
    FibackupError,
    ManifestError,
    NoSuchPointError,
    PolicyError,
    StoreError,
    VerifyError,
)
from fibackup.host.executor import Executor
from fibackup.model.point import History, WrongDisk
from fibackup.plan.backup import plan_backup
from fibackup.plan.prune import plan_prune
from fibackup.plan.restore import ImageFormat, RestoreForm, plan_restore
from fibackup.plan.retention import RetentionPolicy
from fibackup.plan.steps import CopyStored, CreateLinked, FlattenImage, Plan, RestoreDisks, headline
from fibackup.testing import FakeHost, FakeStore

INTO = PurePosixPath("/into")
TIME = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)


def two_points() -> History:
    """Return the history of a domain with two disks and two points."""
    host = FakeHost()
    uuid = host.add_domain("web1", {"vda": {0: 1}, "vdb": {}})
    store = FakeStore(host)
    for _ in range(2):
        plan = plan_backup(host.read_domain(uuid), store.read_history(uuid), now=host.now)
        Executor(host, store).run(plan)
    return store.read_history(uuid)


def flattens(plan: Plan) -> list[FlattenImage]:
    """Return the steps of the disks, all of one kind, in one step when there are several."""
    steps = [step for step in plan.restores if isinstance(step, FlattenImage)]
    assert plan.steps == ((RestoreDisks(tuple(steps)),) if len(steps) > 1 else tuple(steps))
    return steps


def test_a_restore_writes_each_disk_flat() -> None:
    """From all images down to the base, to a file named by the target."""
    history = two_points()
    plan = plan_restore(history, "latest", into=INTO)
    assert [str(step.destination) for step in flattens(plan)] == [
        "/into/vda.qcow2",
        "/into/vdb.qcow2",
    ]
    assert [len(step.images) for step in flattens(plan)] == [2, 2]
    assert plan.expects.absent == tuple(step.destination for step in flattens(plan))
    assert (plan.verb, plan.point) == ("restore", history.points[-1].id)
    assert Plan.from_json(plan.to_json()) == plan


def test_wishes_choose_disks_point_and_format() -> None:
    """A disk that is named twice is restored once."""
    history = two_points()
    (step,) = flattens(
        plan_restore(
            history,
            history.points[0].id,
            into=INTO,
            disks=("vdb", "vdb"),
            image_format=ImageFormat.RAW,
        )
    )
    assert (step.target, step.format, str(step.destination)) == ("vdb", "raw", "/into/vdb.raw")
    assert len(step.images) == 1


@pytest.mark.parametrize(
    ("point", "into", "disks", "error"),
    [
        ("latest", "relative", (), PolicyError),
        ("20200101T000000Z", "/into", (), NoSuchPointError),
        ("latest", "/into", ("vdz",), NoSuchPointError),
    ],
)
def test_a_restore_that_cannot_be_is_refused(
    point: str, into: str, disks: tuple[str, ...], error: type[FibackupError]
) -> None:
    """A relative directory, no such point, no such disk."""
    with pytest.raises(error):
        plan_restore(two_points(), point, into=PurePosixPath(into), disks=disks)


@pytest.mark.parametrize("into", ["/into", "/into/", Path("/into")])
def test_the_directory_is_whatever_names_one(into: str | Path) -> None:
    """A text or a path of any kind, as for `Store.open`."""
    history = two_points()
    assert plan_restore(history, "latest", into=into) == plan_restore(history, "latest", into=INTO)


@pytest.mark.parametrize("into", [None, 7, b"/into", "", "into"])
def test_what_names_no_directory_is_refused(into: object) -> None:
    """As every other wish of a wrong type, and as a relative one."""
    with pytest.raises(PolicyError, match="directory to restore into"):
        plan_restore(two_points(), "latest", into=into)  # type: ignore[arg-type]


def test_a_restore_of_damaged_images_is_refused() -> None:
    """Before anything is written; the points that do not need them are restored."""
    history = two_points()
    name = history.points[-1].disk("vda").images[0].name
    damaged = evolve(history, damaged=frozenset({f"vda/{name}"}))
    with pytest.raises(VerifyError, match="missing or has another size"):
        plan_restore(damaged, "latest", into=INTO)
    assert plan_restore(damaged, damaged.points[0].id, into=INTO).steps
    assert plan_restore(damaged, "latest", into=INTO, disks=("vdb",)).steps


def test_a_restore_of_images_that_reach_no_base_is_refused() -> None:
    """The manifest of the full is gone."""
    history = two_points()
    with pytest.raises(ManifestError):
        plan_restore(evolve(history, points=history.points[1:]), "latest", into=INTO)


def test_a_chain_is_copied_under_its_stored_names() -> None:
    """One directory for each disk, the disk is the top image, all must be absent."""
    history = two_points()
    plan = plan_restore(history, "latest", into=INTO, form=RestoreForm.CHAIN, disks=("vda",))
    [step] = plan.steps
    assert isinstance(step, CopyStored)
    assert [str(path) for path in step.destinations] == [
        f"/into/vda/{image.name}" for image in step.images
    ]
    assert step.destination == step.destinations[0]
    assert plan.expects.absent == step.destinations
    assert plan.cost_bytes == step.estimate_bytes == sum(image.size_bytes for image in step.images)
    assert headline(step).startswith("vda: copy 2 stored images, the disk is /into/vda/2026")
    assert plan.warnings == ()
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(("verify", "words"), [(True, "checked"), (False, "not checked")])
def test_a_linked_disk_is_an_overlay_on_the_store(*, verify: bool, words: str) -> None:
    """It costs nothing, needs the store, and says so."""
    plan = plan_restore(
        two_points(), "latest", into=INTO, form=RestoreForm.LINKED, verify=verify, disks=("vda",)
    )
    [step] = plan.steps
    assert isinstance(step, CreateLinked)
    assert (str(step.destination), step.format, step.verify) == ("/into/vda.qcow2", "qcow2", verify)
    assert plan.expects.absent == (step.destination,) == step.destinations
    assert plan.cost_bytes == 0
    assert f", {words}, in the store" in headline(step)
    [warning] = plan.warnings
    assert "need the store at /backup" in warning
    assert Plan.from_json(plan.to_json()) == plan


def test_a_linked_disk_on_a_file_that_was_found_wrong_says_so() -> None:
    """Unless it is checked: that shows whether it still is."""
    history = two_points()
    (image, *_) = history.images(history.points[-1].id, "vda")
    told = evolve(history, wrong_files=frozenset({f"vda/{image.name}"}))
    for verify, times in ((True, 0), (False, 1)):
        plan = plan_restore(told, "latest", into=INTO, form=RestoreForm.LINKED, verify=verify)
        words = "was found wrong by a verification, and is not checked now"
        assert sum(words in warning for warning in plan.warnings) == times


@pytest.mark.parametrize("form", RestoreForm)
def test_a_disk_that_was_found_wrong_is_restored_only_when_that_is_wished(
    form: RestoreForm,
) -> None:
    """It may be all that is left; other disks and points are restored as ever."""
    history = two_points()
    point, name = history.points[-1].id, history.points[-1].disk("vda").images[0].name
    wrong = WrongDisk(point, "vda", f"vda/{name}", TIME, "the disk reads otherwise")
    told = evolve(history, wrong_files=frozenset({wrong.file}), wrong_disks=(wrong,))
    with pytest.raises(VerifyError) as caught:
        plan_restore(told, "latest", into=INTO, form=form)
    assert (caught.value.found, caught.value.target) == (TIME, "vda")
    assert str(wrong) == (
        f"disk vda of point {point}: vda/{name} was found wrong on 2026-11-24 by a verification: "
        "the disk reads otherwise"
    )
    assert str(wrong) == f"disk vda of {caught.value.reason}"
    both = evolve(told, wrong_disks=(wrong, evolve(wrong, target="vdb")))
    with pytest.raises(VerifyError, match=f"disk vda of {wrong.words}; disk vdb of point"):
        plan_restore(both, "latest", into=INTO, form=form)
    plan = plan_restore(told, "latest", into=INTO, form=form, found_wrong=True)
    assert plan.warnings[-1] == str(wrong)
    unread = evolve(told, wrong_disks=(evolve(wrong, otherwise=False),))
    assert plan_restore(unread, "latest", into=INTO, form=form).warnings[-1] == str(wrong)
    others = plan_restore(told, "latest", into=INTO, form=form, disks=("vdb",))
    before = plan_restore(told, history.points[0].id, into=INTO, form=form)
    assert str(wrong) not in (*others.warnings, *before.warnings)


@pytest.mark.parametrize(
    ("form", "image_format", "verify"),
    [
        (RestoreForm.CHAIN, ImageFormat.RAW, True),
        (RestoreForm.LINKED, ImageFormat.RAW, True),
        (RestoreForm.CHAIN, ImageFormat.QCOW2, False),
        (RestoreForm.FLAT, ImageFormat.QCOW2, False),
    ],
)
def test_wishes_that_contradict_the_form_are_refused(
    form: RestoreForm, image_format: ImageFormat, *, verify: bool
) -> None:
    """Stored images are qcow2, and what is copied is read anyway."""
    with pytest.raises(PolicyError, match=str(form)):
        plan_restore(
            two_points(), "latest", into=INTO, form=form, image_format=image_format, verify=verify
        )


def test_nothing_is_planned_by_what_may_be_a_copy() -> None:
    """A restore, a prune and a backup would take an older copy's points for the domain's."""
    host = FakeHost()
    uuid = host.add_domain("web1", {"vda": {0: 1}})
    history = evolve(two_points(), directory="a-web1", copies=("web1",))
    with pytest.raises(StoreError, match="only a-web1 is read"):
        plan_restore(history, "latest", into=INTO)
    with pytest.raises(StoreError, match="only a-web1 is read"):
        plan_prune(history, RetentionPolicy(keep_last=1), now=host.now)
    with pytest.raises(StoreError, match="only a-web1 is read"):
        plan_backup(host.read_domain(uuid), history, now=host.now)
