"""Disks that lie on the images of a store, while nobody has them open."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from attrs import evolve
from jsonschema import Draft202012Validator

from fibackup import (
    BackupPolicy,
    CreateLinked,
    Executor,
    LibvirtHost,
    LockedError,
    ManifestError,
    Report,
    RestoreForm,
    RetentionPolicy,
    Store,
    plan_backup,
    plan_prune,
    plan_restore,
    plan_verify,
)
from fibackup.host.files import open_directory
from fibackup.host.linked import forget_independent, note_linked
from fibackup.host.lock import hold_image_lock
from fibackup.model.linked import LinkedDisks
from fibackup.parse.manifest import parse_linked, render_linked
from hypervisor import MIB, BlockDomain, MakeBlockDomain, differences
from hypervisor.host import run
from integration.interrupted import killed_after_its_journal

pytestmark = pytest.mark.libvirt

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "linked.schema.json"


class Rig:
    """Four points of a disk, and an overlay on the second."""

    def __init__(self, domain: BlockDomain, host: LibvirtHost, store: Store, place: Path) -> None:
        """Take the points, and bring one back."""
        self.uuid, self.store, self.host = domain.uuid, store, host
        self.ids: list[str] = []
        for number in range(4):
            domain.write("vda", number * MIB, MIB, number + 1)
            if number == 1:
                self.reference = domain.reference("vda", "second")
            self.take()
        [self.directory] = Path(store.path).glob(f"*{self.uuid}")
        self.list = self.directory / "linked.json"
        self.report = self.link(place / "linked")
        self.overlay = Path(self.report.restored[0].path)

    def take(self, *, full: bool = False) -> None:
        """Take a point."""
        plan = plan_backup(
            self.host.read_domain(self.uuid),
            self.store.read_history(self.uuid),
            now=datetime.now(UTC),
            policy=BackupPolicy(allow_paused=True, full=full),
        )
        Executor(self.host, self.store).run(plan)
        self.ids.append(plan.point)

    def link(self, into: Path) -> Report:
        """Restore the second point."""
        history = self.store.read_history(self.uuid)
        where = PurePosixPath(into)
        plan = plan_restore(history, self.ids[1], into=where, form=RestoreForm.LINKED)
        return Executor(None, self.store).run(plan)

    def prune(self) -> list[str]:
        """Keep the newest point, and what is in use; return what is left."""
        history, used = self.store.read_history(self.uuid), self.store.images_in_use(self.uuid)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        plan = plan_prune(history, RetentionPolicy(keep_last=1), now=tomorrow, in_use=used)
        Executor(None, self.store).run(plan)
        return [point.id for point in self.store.read_history(self.uuid).points]

    def note(self) -> LinkedDisks:
        """Return what is noted."""
        return parse_linked(self.list.read_bytes())

    def faults(self) -> list[str]:
        """Verify; return the files that are wrong, and those that nobody knows."""
        survey = self.store.survey(self.uuid)
        plan = plan_verify(survey, now=datetime.now(UTC))
        found = Executor(None, self.store).run(plan).verification
        assert found is not None
        return [*(fault.file for fault in found.faults), *(file for file, _ in found.strangers)]


@pytest.fixture
def rig(block_domain: MakeBlockDomain, host: LibvirtHost, store: Store, tmp_path: Path) -> Rig:
    """Give points and an overlay."""
    return Rig(block_domain(), host, store, tmp_path)


def test_its_images_stay_and_it_reads_as_before(rig: Rig) -> None:
    """The list of linked disks is as its schema says, and nothing that a verification minds."""
    assert rig.report.warnings == rig.report.plan.warnings
    validator: Any = Draft202012Validator(json.loads(SCHEMA.read_text()))
    assert list(validator.iter_errors(json.loads(rig.list.read_bytes()))) == []
    assert rig.list.stat().st_mode & 0o777 == 0o600
    assert rig.faults() == []
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[3]]
    assert differences(rig.overlay, "qcow2", rig.reference) == ""
    run("qemu-img", "check", "-q", rig.overlay)


def _rebase(rig: Rig) -> None:
    run("qemu-img", "rebase", "-f", "qcow2", "-b", "", rig.overlay)


def _put_raw(rig: Rig) -> None:
    rig.overlay.write_bytes(bytes(MIB))


def _put_fifo(rig: Rig) -> None:
    rig.overlay.unlink()
    os.mkfifo(rig.overlay)


def _remove_directory(rig: Rig) -> None:
    rig.overlay.unlink()
    rig.overlay.parent.rmdir()


def _touch(rig: Rig) -> None:
    rig.overlay.unlink()
    rig.overlay.touch()


def _lie_on_another_domain(rig: Rig) -> None:
    """As a drill of another domain into the same place makes it."""
    _lie_on(rig, rig.directory.with_name("web2-7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553b"))


def _lie_on(rig: Rig, home: Path) -> None:
    image = home / "vda" / f"{rig.ids[0]}.qcow2"
    if not home.exists():
        image.parent.mkdir(parents=True)
        run("qemu-img", "create", "-q", "-f", "qcow2", image, str(MIB))
    rig.overlay.unlink()
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, rig.overlay)


@pytest.mark.parametrize(
    "act", [_rebase, _put_raw, _put_fifo, _remove_directory, _touch, _lie_on_another_domain]
)
def test_its_images_go_when_it_needs_them_no_more(rig: Rig, act: Callable[[Rig], None]) -> None:
    """Pulled local, replaced or removed; then it is forgotten."""
    act(rig)
    assert rig.store.images_in_use(rig.uuid) == {}
    assert rig.list.exists()
    assert rig.prune() == rig.ids[3:]
    assert not rig.list.exists()


@pytest.mark.parametrize(
    "name",
    ["web1-old", "elsewhere/copy-{uuid}", "elsewhere/web2-7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553b"],
)
def test_its_images_stay_while_it_may_lie_on_them_by_another_name(rig: Rig, name: str) -> None:
    """A directory that is no other domain's, or in no store, may be ours, seen from elsewhere."""
    _lie_on(rig, rig.directory.parent / name.format(uuid=rig.uuid))
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[3]]


def test_its_images_stay_when_another_domains_name_leads_to_them(rig: Rig) -> None:
    """A link that bears the other's UUID is still the way to these images."""
    other = rig.directory.with_name("web2-7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553b")
    other.symlink_to(rig.directory)
    _lie_on(rig, other)
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[3]]


def test_a_disk_that_cannot_be_seen_is_forgotten_as_the_warning_says(rig: Rig) -> None:
    """Its directory was made anew, so nobody can tell whether it is behind another mount."""
    rig.overlay.unlink()
    rig.overlay.parent.rename(rig.overlay.parent.with_name("old"))
    rig.overlay.parent.mkdir()
    [words] = set(rig.store.images_in_use(rig.uuid).values())
    command = f"mkdir -p {rig.overlay.parent} && touch {rig.overlay}"
    assert words.endswith(f" lies on it, or is gone: to have it forgotten, {command}")
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[3]]
    run("sh", "-c", command)
    assert rig.prune() == rig.ids[3:]
    assert not rig.list.exists()


@pytest.mark.parametrize("change", [{"machine": "web-host 0b2c"}, {"places": ("1:2",)}])
def test_its_images_stay_while_nobody_can_tell(rig: Rig, change: dict[str, Any]) -> None:
    """It was made elsewhere, or its file system may not be mounted."""
    [disk] = rig.note().disks
    rig.list.write_text(render_linked(LinkedDisks((evolve(disk, **change),))))
    rig.overlay.unlink()
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[3]]
    words = set(rig.store.images_in_use(rig.uuid).values())
    where = ", made on web-host," if "machine" in change else ""
    assert len(words) == 1
    assert words.pop().startswith(f"the linked disk {rig.overlay}{where} lies on it")
    assert rig.note().disks


@pytest.mark.parametrize("place", [7, 79])
def test_its_images_stay_while_its_header_cannot_be_read(rig: Rig, place: int) -> None:
    """It is damaged, or of a newer QEMU: that is no reason to take away what it lies on."""
    data = rig.overlay.read_bytes()
    rig.overlay.write_bytes(data[:place] + b"\x63" + data[place + 1 :])
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[3]]
    rig.overlay.write_bytes(data)
    assert differences(rig.overlay, "qcow2", rig.reference) == ""


def test_what_was_restored_after_the_kill_of_a_prune_keeps_its_images(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The points were listed still; the next run takes nothing from under the disk."""
    rig.overlay.unlink()
    rig.take(full=True)
    with killed_after_its_journal(monkeypatch):
        rig.prune()
    assert rig.store.read_history(rig.uuid).going == {*rig.ids[:-1]}
    overlay = Path(rig.link(tmp_path / "again").restored[0].path)
    rig.take()
    assert [point.id for point in rig.store.read_history(rig.uuid).points] == rig.ids
    assert differences(overlay, "qcow2", rig.reference) == ""
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[5]]
    assert differences(overlay, "qcow2", rig.reference) == ""


def test_a_prune_that_sees_another_mount_in_its_place_leaves_its_images(rig: Rig) -> None:
    """As a service with a /tmp of its own, whose files have the same number of a file system."""
    away = rig.overlay.parent.rename(rig.overlay.parent.with_name("away"))
    rig.overlay.parent.mkdir()
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[3]]
    rig.overlay.parent.rmdir()
    away.rename(rig.overlay.parent)
    assert differences(rig.overlay, "qcow2", rig.reference) == ""


@pytest.mark.parametrize("moved", ["directory", "overlay"])
def test_its_images_stay_while_a_link_in_its_path_leads_nowhere(rig: Rig, moved: str) -> None:
    """The disk that the link leads to is not mounted: the overlay is there still."""
    place = rig.overlay.parent if moved == "directory" else rig.overlay
    ssd = place.parent.parent / "ssd"
    ssd.mkdir()
    place.rename(ssd / place.name)
    place.symlink_to(ssd / place.name)
    away = ssd.rename(ssd.with_name("ssd-not-mounted"))
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[3]]
    away.rename(ssd)
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[3]]
    assert differences(rig.overlay, "qcow2", rig.reference) == ""


def test_its_images_go_when_it_is_removed_behind_a_link(rig: Rig, tmp_path: Path) -> None:
    """A link in its path that leads to where it was made is as good as a directory."""
    rig.overlay.unlink()
    (tmp_path / "ssd").mkdir()
    (tmp_path / "images").symlink_to(tmp_path / "ssd")
    overlay = Path(rig.link(tmp_path / "images" / "now").restored[0].path)
    assert rig.prune() == [rig.ids[0], rig.ids[1], rig.ids[3]]
    overlay.unlink()
    overlay.parent.rmdir()
    assert rig.prune() == rig.ids[3:]


def test_who_reads_is_waited_for_and_not_taken_for_a_domain(rig: Rig) -> None:
    """A verification has the images open too; a dry run can only say so."""
    rig.overlay.unlink()
    with rig.store.locked(rig.uuid, "web1", exclusive=False), ExitStack() as held:
        for path in rig.directory.glob("vda/*.qcow2"):
            hold_image_lock(held.enter_context(path.open("rb")).fileno(), str(path))
        words = set(rig.store.images_in_use(rig.uuid).values())
        assert words == {"a restore or a verification reads it, or a process has it open"}
        with pytest.raises(LockedError):
            rig.store.images_in_use(rig.uuid, wait_seconds=0.1)
    assert rig.store.images_in_use(rig.uuid, wait_seconds=0.1) == {}


def test_others_are_remembered_when_one_is_forgotten(rig: Rig, tmp_path: Path) -> None:
    """And one that is made again under its old name stands there once."""
    other = Path(rig.link(tmp_path / "other").restored[0].path)
    rig.overlay.unlink()
    assert [disk.overlay.parent.name for disk in rig.note().disks] == ["linked", "other"]
    with open_directory(str(rig.directory)) as fd:
        forget_independent(fd)
    assert [str(disk.overlay) for disk in rig.note().disks] == [str(other)]
    other.unlink()
    rig.link(other.parent)
    assert [str(disk.overlay) for disk in rig.note().disks] == [str(other)]


def test_a_restore_that_finds_its_place_taken_takes_no_protection_away(rig: Rig) -> None:
    """It has noted its own by then; what the overlay lies on is told by its header."""
    history = rig.store.read_history(rig.uuid)
    into = PurePosixPath(rig.overlay.parent.with_name("elsewhere"))
    [step] = [
        evolve(each, destination=PurePosixPath(rig.overlay))
        for each in plan_restore(history, rig.ids[2], into=into, form=RestoreForm.LINKED).steps
        if isinstance(each, CreateLinked)
    ]
    with open_directory(str(rig.directory)) as fd:
        note_linked(step, fd)
    assert len(rig.note().disks) == 2
    assert rig.prune() == [*rig.ids[:2], rig.ids[-1]]
    assert differences(rig.overlay, "qcow2", rig.reference) == ""
    assert len(rig.note().disks) == 1


def test_a_damaged_list_ends_a_prune_and_nothing_else(rig: Rig, tmp_path: Path) -> None:
    """Nobody can tell what lies on the store; a verification names it."""
    rig.list.write_text(rig.list.read_text().replace("linked/vda", "linked/vdb"))
    with pytest.raises(ManifestError, match="checksum") as caught:
        rig.prune()
    assert caught.value.path == str(rig.list)
    assert "remove it" in caught.value.reason
    assert rig.faults() == ["linked.json"]
    rig.take()
    report = rig.link(tmp_path / "another")
    [warning] = set(report.warnings) - set(report.plan.warnings)
    assert "cannot note that" in warning
    assert differences(Path(report.restored[0].path), "qcow2", rig.reference) == ""
    rig.list.unlink()
    assert rig.prune() == rig.ids[4:]
