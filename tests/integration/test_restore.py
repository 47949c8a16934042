"""Restores of a real store, in each form: compared with what the guest had, byte for byte."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from fibackup import (
    BackupPolicy,
    CancelledError,
    CancelToken,
    CopyProgress,
    Event,
    Executor,
    ImageFormat,
    LibvirtHost,
    Report,
    RestoreForm,
    StepError,
    Store,
    VerifyError,
    plan_backup,
    plan_restore,
)
from fibackup.host import flatten
from fibackup.host.page_cache import written_as_it_comes
from fibackup.host.qemu_img import convert
from hypervisor import MIB, BlockDomain, DiskSpec, MakeBlockDomain, differences
from hypervisor.host import run
from hypervisor.stores import StoreMaker

pytestmark = pytest.mark.libvirt


class Taken:
    """A domain with two disks, three points of it, and what the guest had at each."""

    def __init__(self, domain: BlockDomain, host: LibvirtHost, store: Store) -> None:
        """Take the points."""
        self.domain, self.host, self.store = domain, host, store
        self.references: dict[str, dict[str, Path]] = {}
        for number in range(1, 4):
            for target in domain.disks:
                domain.write(target, number * 300 * 1024, 640 * 1024, number)
            references = {each: domain.reference(each, f"p{number}") for each in domain.disks}
            self.references[self.take()] = references

    def take(self) -> str:
        """Take a point, and return its id."""
        plan = plan_backup(
            self.host.read_domain(self.domain.uuid),
            self.store.read_history(self.domain.uuid),
            now=datetime.now(UTC),
            policy=BackupPolicy(allow_paused=True),
        )
        Executor(self.host, self.store).run(plan)
        return plan.point

    def restore(self, into: Path, point: str = "latest", **wishes: object) -> Report:
        """Restore a point; no host is needed."""
        history = self.store.read_history(self.domain.uuid)
        plan = plan_restore(history, point, into=PurePosixPath(into), **wishes)  # type: ignore[arg-type]
        return Executor(None, self.store).run(plan)

    def check(self, report: Report) -> None:
        """Compare every restored disk with what the guest had."""
        for image in report.restored:
            reference = self.references[report.plan.point][image.target]
            assert differences(Path(image.path), image.format, reference) == ""
            assert image.virtual_size_bytes == reference.stat().st_size

    def picture(self) -> dict[str, tuple[str, int, int, int]]:
        """Return hash, mode, owner and mtime of every file of the store but its locks."""
        return picture(Path(self.store.path))


def picture(place: Path) -> dict[str, tuple[str, int, int, int]]:
    """Return hash, mode, owner and mtime of every file below a place, but of locks and notes."""
    found = {}
    for path in sorted(place.rglob("*")):
        if path.is_file() and not path.name.startswith(("lock", "linked.json")):
            digest, status = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat()
            found[str(path)] = digest, status.st_mode, status.st_uid, status.st_mtime_ns
    return found


def files(place: Path) -> list[str]:
    """Return every file and directory below a place."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.fixture
def taken(block_domain: MakeBlockDomain, host: LibvirtHost, store: Store) -> Taken:
    """Give a domain with points; its second disk is raw."""
    domain = block_domain(DiskSpec(), DiskSpec(target="vdb", format="raw"))
    return Taken(domain, host, store)


@pytest.mark.parametrize("form", RestoreForm)
def test_each_point_reads_as_the_guest_had_it(
    taken: Taken, tmp_path: Path, form: RestoreForm
) -> None:
    """In each form; nothing else is made, and the store stays as it was, to the owner."""
    before = taken.picture()
    for number, point in enumerate(taken.references, 1):
        into = tmp_path / f"{form}-{number}"
        report = taken.restore(into, point, form=form)
        taken.check(report)
        made = {str(path.relative_to(into)) for path in report.plan.expects.absent}
        assert {name for name in files(into) if (into / name).is_file()} == made
        modes = {stat.S_IMODE((into / name).stat().st_mode) for name in made}
        assert modes == {0o600}
    assert taken.picture() == before


def test_a_chain_stands_on_its_own(taken: Taken, tmp_path: Path) -> None:
    """Its images are the stored ones to the byte, and it may be moved."""
    report = taken.restore(tmp_path / "chain", form=RestoreForm.CHAIN)
    stored = {Path(path).name: found[0] for path, found in taken.picture().items()}
    for path in report.plan.expects.absent:
        data = Path(path).read_bytes()
        assert hashlib.sha256(data).hexdigest() in stored.values()
    (tmp_path / "chain").rename(tmp_path / "moved")
    Path(taken.store.path).rename(tmp_path / "away")
    for image in report.restored:
        moved = tmp_path / "moved" / image.path.relative_to(tmp_path / "chain")
        assert differences(moved, "qcow2", taken.references[report.plan.point][image.target]) == ""


def test_a_linked_disk_can_be_written_and_pulled_local(taken: Taken, tmp_path: Path) -> None:
    """What is written goes into the overlay; after a rebase it needs the store no more."""
    before = taken.picture()
    report = taken.restore(tmp_path / "linked", form=RestoreForm.LINKED, disks=("vda",))
    [image] = report.restored
    assert image.size_bytes < MIB
    overlay, reference = Path(image.path), taken.references[report.plan.point]["vda"]
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 9 {5 * MIB} {MIB}", overlay)
    with reference.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"\x09" * MIB)
    assert taken.picture() == before
    assert differences(overlay, "qcow2", reference) == ""
    run("qemu-img", "rebase", "-f", "qcow2", "-b", "", overlay)
    Path(taken.store.path).rename(tmp_path / "away")
    assert differences(overlay, "qcow2", reference) == ""


@pytest.mark.parametrize("form", RestoreForm)
def test_a_flipped_bit_spoils_the_points_that_need_it(
    taken: Taken, tmp_path: Path, form: RestoreForm
) -> None:
    """Their restore leaves nothing, of no disk; the points under it are restored."""
    first, second, _ = taken.references
    [image] = Path(taken.store.path).glob(f"*/vdb/{second}.qcow2")
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 0x10
    image.write_bytes(data)
    for point in (second, "latest"):
        with pytest.raises(StepError) as caught:
            taken.restore(tmp_path / "no" / "where", point, form=form)
        assert isinstance(caught.value.__cause__, VerifyError)
        assert caught.value.path == str(image)
        assert not (tmp_path / "no").exists()
    taken.check(taken.restore(tmp_path / "first", first, form=form))
    taken.check(taken.restore(tmp_path / "vda", "latest", form=form, disks=("vda",)))


def test_an_overlay_can_be_had_without_reading_the_store(taken: Taken, tmp_path: Path) -> None:
    """No stored image is read in full: only sizes and headers are looked at."""
    seen: list[Event] = []
    history = taken.store.read_history(taken.domain.uuid)
    for verify in (True, False):
        into = PurePosixPath(tmp_path / f"verify-{verify}")
        plan = plan_restore(history, "latest", into=into, form=RestoreForm.LINKED, verify=verify)
        seen.clear()
        taken.check(Executor(None, taken.store).run(plan, on_event=seen.append))
        assert any(isinstance(event, CopyProgress) for event in seen) is verify


@pytest.mark.parametrize("form", RestoreForm)
def test_a_restore_that_is_cancelled_leaves_nothing(
    taken: Taken, tmp_path: Path, form: RestoreForm
) -> None:
    """Also of the disk that was finished before."""
    history = taken.store.read_history(taken.domain.uuid)
    into = tmp_path / "into"
    token, found = CancelToken(), list[str]()

    def listen(event: Event) -> None:
        if isinstance(event, CopyProgress) and event.target == "vdb" and not token.cancelled:
            found.extend(files(into))
            token.cancel()
            time.sleep(0.5)  # longer than one look at the token, so that the copy is not over

    plan = plan_restore(history, "latest", into=PurePosixPath(into), form=form)
    with pytest.raises(StepError) as caught:
        Executor(None, taken.store, threads=1).run(plan, on_event=listen, cancel=token)
    assert isinstance(caught.value.__cause__, CancelledError)
    assert any(name.startswith("vda") for name in found)
    assert not into.exists()


def test_a_directory_that_was_there_stays(taken: Taken, tmp_path: Path) -> None:
    """With all that others have in it."""
    into = tmp_path / "into"
    (into / "vda").mkdir(parents=True)
    (into / "vda" / "mine").write_text("mine")
    history = taken.store.read_history(taken.domain.uuid)
    plan = plan_restore(
        history, "latest", into=PurePosixPath(into), form=RestoreForm.CHAIN, disks=("vda",)
    )
    token = CancelToken()
    with pytest.raises(StepError):
        Executor(None, taken.store).run(plan, on_event=lambda _: token.cancel(), cancel=token)
    assert files(into) == ["vda", "vda/mine"]


def test_a_raw_image_is_the_disk_itself(taken: Taken, tmp_path: Path) -> None:
    """Byte for byte."""
    report = taken.restore(tmp_path / "raw", image_format=ImageFormat.RAW)
    for image in report.restored:
        reference = taken.references[report.plan.point][image.target]
        assert Path(image.path).read_bytes() == reference.read_bytes()


# -- written as it comes -------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ImageFormat)
@pytest.mark.parametrize("size_bytes", [4 * MIB, 4 * MIB + 512])
def test_what_is_restored_goes_to_the_disk_meanwhile(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    image_format: ImageFormat,
    size_bytes: int,
) -> None:
    """While qemu-img writes; then the rest is synced. A disk that is no multiple of blocks too."""
    said: list[str] = []
    really_written, really_convert, really_sync = written_as_it_comes, convert, os.fdatasync

    @contextmanager
    def written(fd: int, cancel: CancelToken) -> Generator[None]:
        said.append(f"begin {os.fstat(fd).st_ino}")
        with really_written(fd, cancel):
            yield
        said.append("end")

    def converted(*words: Any, **options: Any) -> None:  # noqa: ANN401 - as the real one
        said.append(f"convert {Path(words[2]).stat().st_ino}")
        really_convert(*words, **options)

    def synced(fd: int) -> None:
        said.append(f"sync {os.fstat(fd).st_ino}")
        really_sync(fd)

    with StoreMaker(tmp_path, size_bytes=size_bytes) as maker:
        maker.point({"vda": {0: 1, 7: 2}})
        newest = maker.point({"vda": {7: 3}})
        into = PurePosixPath(tmp_path / "into")
        plan = plan_restore(maker.history(), "latest", into=into, image_format=image_format)
        monkeypatch.setattr(flatten, "written_as_it_comes", written)
        monkeypatch.setattr(flatten, "convert", converted)
        monkeypatch.setattr(os, "fdatasync", synced)
        [restored] = Executor(None, maker.store).run(plan).restored
        reference = maker.references[newest.id]["vda"]
    inode = Path(restored.path).stat().st_ino
    assert said == [f"begin {inode}", f"convert {inode}", "end", f"sync {inode}"]
    raw = tmp_path / "restored.raw"
    run("qemu-img", "convert", "-f", image_format, "-O", "raw", str(restored.path), raw)
    assert raw.read_bytes() == reference.read_bytes()
    assert restored.virtual_size_bytes == size_bytes == reference.stat().st_size
    if image_format is ImageFormat.RAW:
        assert Path(restored.path).stat().st_size == size_bytes
