"""
Compressed points: what comes back, what they take, and that a copy that differs is never published.

::

    point 1  compressed      fulls of every kind of disk
    point 2  not             a byte copy on compressed images
    point 3  compressed      zeros and discards, then rolling consolidation
    point 4  compressed      the next increment, on what was consolidated
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

import fibackup as fb
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    Embedded,
    MakeBlockDomain,
    create_image,
    differences,
)
from hypervisor.host import run, tool
from hypervisor.stores import CLUSTER, START, StoreMaker, nothing_is_left_over

pytestmark = pytest.mark.libvirt

KIB = 1024
TURNS = ((True, False), (False, False), (True, True), (True, False))
"""Whether a point is compressed, and consolidated after."""
PATTERNS = bytes(range(1, 200))


@dataclass
class Series:
    """The points of a domain, and what the guest had at each."""

    domain: BlockDomain
    host: fb.LibvirtHost
    store: fb.Store
    references: dict[str, dict[str, Path]] = field(default_factory=dict)

    @property
    def history(self) -> fb.History:
        """What the store holds."""
        return self.store.read_history(self.domain.uuid)

    def plan(self, *, compress: bool | None = True, consolidate: bool = False) -> fb.Plan:
        """Plan the next point."""
        policy = fb.BackupPolicy(
            quiesce=fb.Quiesce.OFF, allow_paused=True, compress=compress, consolidate=consolidate
        )
        found = self.host.read_domain(self.domain.uuid)
        return fb.plan_backup(found, self.history, now=datetime.now(UTC), policy=policy)

    def backup(self, *, compress: bool | None = True, consolidate: bool = False) -> fb.RestorePoint:
        """Take it, and keep what the guest has."""
        plan = self.plan(compress=compress, consolidate=consolidate)
        point = fb.Executor(self.host, self.store).run(plan).point
        assert point is not None
        self.references[point.id] = {
            target: self.domain.reference(target, point.id) for target in self.domain.disks
        }
        return point

    def home(self) -> Path:
        """Return the domain's directory in the store."""
        (found,) = Path(self.store.path).glob(f"*{self.domain.uuid}")
        return found

    def info(self, point: fb.RestorePoint, target: str) -> dict[str, dict[str, dict[str, str]]]:
        """Return what qemu-img says of the top image of a disk."""
        path = self.home() / target / point.disk(target).images[0].name
        found: dict[str, dict[str, dict[str, str]]] = json.loads(
            run("qemu-img", "info", "--output=json", "-f", "qcow2", path)
        )
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[fb.Store]:
    """Give a new store."""
    (tmp_path / "store").mkdir()
    with fb.Store.create(tmp_path / "store") as store:
        yield store


def guest_writes(domain: BlockDomain, number: int) -> None:
    """Write something that compresses, zeros over data, and discard, on every disk."""
    for target in domain.disks:
        domain.write(target, number * MIB, MIB, PATTERNS[number])
        domain.write(target, 4 * MIB + number * 512, 512, PATTERNS[100 + number])
        if number:
            domain.write_zeroes(target, (number - 1) * MIB, 100 * KIB)
            domain.write_zeroes(target, (number - 1) * MIB + 256 * KIB, 128 * KIB, unmap=True)
            domain.discard(target, (number - 1) * MIB + 512 * KIB, 128 * KIB)
            domain.write(target, (number - 1) * MIB + 768 * KIB, 64 * KIB, 0)


def shapes(directory: Path) -> tuple[DiskSpec, ...]:
    """Return disks of every kind, with templates in a directory."""
    raw, middle = directory / "t.raw", directory / "middle.qcow2"
    raw.write_bytes(b"\7" * (3 * MIB) + bytes(MIB) + b"\x08" * 777 * 512 + bytes(MIB - 777 * 512))
    create_image(DiskSpec(backing=raw, backing_format="raw"), middle)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 1M 100k", "-c", "write -z 2M 1M", middle)
    return (
        DiskSpec(target="vda"),
        DiskSpec(target="vdb", format="raw"),
        DiskSpec(target="vdc", backing=middle),
        DiskSpec(target="vdd", qcow2_version="v2"),
        DiskSpec(target="vde", options=("cluster_size=512",), size_bytes=8 * MIB),
        DiskSpec(target="vdf", options=("cluster_size=2M",)),
        DiskSpec(target="vdg", options=("extended_l2=on", "cluster_size=128k")),
    )


def test_every_compressed_point_is_what_the_guest_had(
    tmp_path: Path, hypervisor: Embedded, place: fb.Store
) -> None:
    """
    Restored in each form, to the byte, with compressed and other points in one chain.

    An image with subclusters is stored as it is, all others with zstd; each is sound, has the
    sha256 of its manifest, and its disk reads in depth as it did.
    """
    domain = hypervisor.block_domain(*shapes(tmp_path))
    try:
        series = Series(domain, fb.LibvirtHost(hypervisor.connection), place)
        for number, (compress, consolidate) in enumerate(TURNS):
            guest_writes(domain, number)
            point = series.backup(compress=compress, consolidate=consolidate)
            kinds = {str(disk.kind) for disk in point.disks}
            assert kinds == {"increment" if number else "full"}
            wanted = "zstd" if compress else "zlib"
            for target in domain.disks:
                said = series.info(point, target)["format-specific"]["data"]["compression-type"]
                assert said == ("zlib" if target == "vdg" else wanted), (number, target)
        restored_in_each_form(series, tmp_path)
    finally:
        domain.close()


def restored_in_each_form(series: Series, scratch: Path) -> None:
    """Restore each point in each form and compare; verify in depth."""
    raw, qcow2 = fb.ImageFormat.RAW, fb.ImageFormat.QCOW2
    forms = (("flat", raw), ("flat", qcow2), ("chain", qcow2), ("linked", qcow2))
    assert len(series.references) == len(TURNS)
    for point, references in series.references.items():
        for form, image_format in forms:
            into = scratch / f"{point}-{form}-{image_format}"
            plan = fb.plan_restore(
                series.history,
                point,
                into=PurePosixPath(into),
                form=fb.RestoreForm(form),
                image_format=image_format,
            )
            for image in fb.Executor(None, series.store).run(plan).restored:
                reference = references[image.target]
                assert differences(Path(image.path), image.format, reference) == "", (point, form)
            shutil.rmtree(into)
    survey = series.store.survey(series.domain.uuid)
    plan = fb.plan_verify(survey, policy=fb.VerifyPolicy(deep=True), now=datetime.now(UTC))
    verification = fb.Executor(None, series.store).run(plan).verification
    assert verification is not None
    assert verification.faults == ()
    assert not list(Path(series.store.path).rglob(".*.tmp"))


def test_a_compressed_point_takes_less(
    block_domain: MakeBlockDomain, hypervisor: Embedded, place: fb.Store
) -> None:
    """
    A tenth of what was written, and its manifest, `sha256sum` and `du` agree on it.

    A file in the store chooses it for every run that does not choose.
    """
    domain = block_domain(DiskSpec(), DiskSpec(target="vdb", format="raw"))
    series = Series(domain, fb.LibvirtHost(hypervisor.connection), place)
    sizes: list[int] = []
    for number, compress in enumerate((False, True)):
        for target in domain.disks:
            domain.write(target, 0, 8 * MIB, PATTERNS[number])
        point = series.backup(compress=compress)
        sizes.append(point.size_bytes)
        for disk in point.disks:
            path = series.home() / disk.target / disk.images[0].name
            assert path.stat().st_size == disk.size_bytes
            assert run("sha256sum", path).split()[0] == disk.images[0].sha256
    assert sizes[0] > 16 * MIB
    assert sizes[1] < sizes[0] // 10
    wishes: tuple[tuple[bool, bool | None, str], ...] = (
        (False, None, "zlib"),
        (True, None, "zstd"),
        (True, False, "zlib"),
    )
    for marked, wish, method in wishes:
        if marked:
            Path(place.path, "compress").touch()
        domain.write("vda", 0, MIB, 5)
        said = series.info(series.backup(compress=wish), "vda")["format-specific"]["data"]
        assert said["compression-type"] == method, (marked, wish)
    assert place.strangers() == ()


WRAPPER = """\
#!/bin/sh
case "$1" in
--version) echo "qemu-img version {version}"; exit ;;
create) {create} ;;
esac
{program} "$@" || exit
[ "$1" = convert ] || exit 0
for last in "$@"; do :; done
{tamper}
"""


def fake_qemu_img(
    directory: Path, *, version: str = "7.2.0", create: str = ":", tamper: str = ""
) -> str:
    """Return a qemu-img that does something else after it has converted."""
    path = directory / "qemu-img"
    path.write_text(
        WRAPPER.format(version=version, create=create, tamper=tamper, program=tool("qemu-img"))
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    "tamper",
    [
        "{io} -c 'write -P 9 512k 64k'",  # other content
        "{io} -c 'write -z 4M 64k'",  # zeros where the image has nothing of its own
        "{create}; {io} -c 'write -P 8 512k 128k'",  # nothing where the image has zeros
    ],
)
def test_a_compressed_copy_that_differs_is_not_published(
    block_domain: MakeBlockDomain,
    hypervisor: Embedded,
    place: fb.Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tamper: str,
) -> None:
    """
    Be it in what it has, or in what it leaves to the image under it; the store stays as it was.

    The next run, with a qemu-img that is right, makes the point.
    """
    domain = block_domain()
    series = Series(domain, fb.LibvirtHost(hypervisor.connection), place)
    domain.write("vda", 0, 8 * MIB, 7)
    series.backup()
    domain.write("vda", 512 * KIB, 128 * KIB, 8)
    domain.write_zeroes("vda", MIB, 64 * KIB)
    images = sorted(series.home().rglob("*.qcow2"))
    size = domain.disks["vda"].size_bytes
    words = tamper.format(
        io=f'{tool("qemu-io")} -f qcow2 "$last" >/dev/null',
        create=f'{tool("qemu-img")} create -q -f qcow2 -F qcow2 -b {images[0].name} "$last" {size}',
    )
    monkeypatch.setenv("FIBACKUP_QEMU_IMG", fake_qemu_img(tmp_path, tamper=words))
    with pytest.raises(fb.StepError, match="does not read like the image"):
        series.backup()
    assert sorted(series.home().rglob("*.qcow2")) == images
    assert not list(series.home().rglob(".*.tmp"))
    monkeypatch.delenv("FIBACKUP_QEMU_IMG")
    point = series.backup()
    into = PurePosixPath(tmp_path / "restored")
    plan = fb.plan_restore(series.history, point.id, into=into, image_format=fb.ImageFormat.RAW)
    (image,) = fb.Executor(None, series.store).run(plan).restored
    assert differences(Path(image.path), "raw", series.references[point.id]["vda"]) == ""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"version": "5.2.0"}, "qemu-img 5.2.0 is too old to compress; 6.1 or later"),
        ({"create": "echo 'Invalid parameter' >&2; exit 1"}, "built with zstd"),
    ],
)
def test_what_cannot_compress_is_refused_first(
    block_domain: MakeBlockDomain,
    hypervisor: Embedded,
    place: fb.Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, str],
    words: str,
) -> None:
    """Before the ledger, the snapshot or the store are touched; without compression it goes on."""
    domain = block_domain()
    series = Series(domain, fb.LibvirtHost(hypervisor.connection), place)
    monkeypatch.setenv("FIBACKUP_QEMU_IMG", fake_qemu_img(tmp_path, **wrong))
    before = series.host.read_domain(domain.uuid)
    with pytest.raises(fb.RequirementError, match=words):
        series.backup()
    assert series.host.read_domain(domain.uuid) == before
    assert series.history.points == ()
    assert series.backup(compress=False).disk("vda").kind is fb.DiskKind.FULL


def test_a_compressed_copy_can_be_ended(
    block_domain: MakeBlockDomain, hypervisor: Embedded, place: fb.Store
) -> None:
    """The child ends, nothing half-written stays, and the next run makes the point."""
    domain = block_domain(DiskSpec(size_bytes=64 * MIB))
    series = Series(domain, fb.LibvirtHost(hypervisor.connection), place)
    domain.write("vda", 0, 32 * MIB, 7)
    token, seen = fb.CancelToken(), list[fb.CopyProgress]()

    def listener(event: fb.Event) -> None:
        if isinstance(event, fb.CopyProgress):
            seen.append(event)
            token.cancel()

    with pytest.raises(fb.StepError) as caught:
        fb.Executor(series.host, series.store).run(series.plan(), on_event=listener, cancel=token)
    assert isinstance(caught.value.__cause__, fb.CancelledError)
    assert seen
    assert not list(Path(place.path).rglob("*.qcow2*"))
    assert series.backup().disk("vda").kind is fb.DiskKind.FULL


def test_a_prune_merges_compressed_images(tmp_path: Path) -> None:
    """Compressed and other ones; what is kept reads to the byte, and is verified in depth."""
    with StoreMaker(tmp_path) as maker:
        for number in range(1, 7):
            writes = {0: number, number: number, 20 + number // 2: number}
            maker.point({"vda": writes}, compress=number % 3 != 0)
        first, *_, last = (point.id for point in maker.history().points)
        policy = fb.RetentionPolicy(keep_last=2, protect=(first,))
        plan = fb.plan_prune(maker.history(), policy, now=datetime(2029, 1, 1, tzinfo=UTC))
        fb.Executor(None, maker.store).run(plan)
        kept = [point.id for point in maker.history().points]
        assert (len(kept), kept[0], kept[-1]) == (3, first, last)
        for point in kept:
            assert maker.restores(point, tmp_path / point)
        survey = maker.store.survey(maker.uuid)
        plan = fb.plan_verify(survey, policy=fb.VerifyPolicy(deep=True), now=datetime.now(UTC))
        verification = fb.Executor(None, maker.store).run(plan).verification
        assert verification is not None
        assert verification.faults == ()


ODD = 4 * MIB + 24 * KIB


@pytest.mark.parametrize(
    ("sizes", "methods"),
    [
        ((ODD, ODD, ODD), ("zstd", "zlib", "zlib")),
        ((4 * MIB, ODD, 8 * MIB), ("zstd", "zstd", "zlib")),
    ],
)
def test_what_ends_inside_a_cluster_is_stored_as_it_is(
    tmp_path: Path, sizes: tuple[int, ...], methods: tuple[str, ...]
) -> None:
    """
    A disk, or one that has grown, lies on a parent whose last cluster is not whole.

    Every point reads to the byte, before and after a prune has merged what it could.
    """
    with StoreMaker(tmp_path) as maker:
        for number, (size, method) in enumerate(zip(sizes, methods, strict=True)):
            maker.size_bytes = size
            ends = {size // CLUSTER - 1: number + 1} if number == 0 else {}
            top = maker.point({"vda": {0: number + 7, **ends}}, compress=True).disk("vda").images[0]
            path = maker.path(f"vda/{top.name}")
            said = json.loads(run("qemu-img", "info", "-f", "qcow2", "--output=json", path))
            assert said["format-specific"]["data"]["compression-type"] == method
        maker.point({"vda": {}})
        points = [point.id for point in maker.history().points]
        assert all(maker.restores(point, tmp_path / point) for point in points)
        policy = fb.RetentionPolicy(keep_last=2)
        plan = fb.plan_prune(maker.history(), policy, now=datetime(2029, 1, 1, tzinfo=UTC))
        fb.Executor(None, maker.store).run(plan)
        kept = [point.id for point in maker.history().points]
        assert kept == points[-2:]
        assert all(maker.restores(point, tmp_path / point) for point in kept)


def test_a_merge_that_ends_inside_a_cluster_is_not_compressed(tmp_path: Path) -> None:
    """The images had clusters compressed by the guest's own tools; they read to the byte."""
    with StoreMaker(tmp_path, size_bytes=ODD) as maker:
        first = maker.point({"vda": dict.fromkeys(range(64), 1)}).id
        for number in range(3):
            maker.point({"vda": {number: number + 7}}, packed=True)
        maker.point({"vda": {}})
        policy = fb.RetentionPolicy(keep_last=2, protect=(first,))
        plan = fb.plan_prune(maker.history(), policy, now=datetime(2029, 1, 1, tzinfo=UTC))
        (merge,) = (step for step in plan.steps if isinstance(step, fb.MergeImages))
        fb.Executor(None, maker.store).run(plan)
        kept = [point.id for point in maker.history().points]
        assert len(kept) == 3
        assert all(maker.restores(point, tmp_path / point) for point in kept)
        merged = maker.path(f"vda/{merge.images[0].name}")
        found = json.loads(run("qemu-img", "check", "-f", "qcow2", "--output=json", merged))
        assert not found.get("compressed-clusters")
        nothing_is_left_over(maker.root, maker.uuid)


def due(directory: Path, *kinds: str) -> tuple[StoreMaker, fb.Plan]:
    """
    Make points of these kinds, and plan a prune that merges all but the newest image.

    They are plain, or compressed: zstd, as a backup does it, or zlib, as templates are.
    """
    maker = StoreMaker(directory, size_bytes=64 * MIB, start=START.replace(year=2020))
    for number, kind in enumerate(kinds):
        writes = dict.fromkeys(range(100 * number, 100 * number + 200), number + 1)
        maker.point({"vda": writes}, compress=kind == "zstd", packed=kind == "zlib")
    *_, kept, _ = (point.id for point in maker.history().points)
    policy = fb.RetentionPolicy(keep_last=1, protect=(kept,))
    plan = fb.plan_prune(maker.history(), policy, now=datetime(2029, 1, 1, tzinfo=UTC))
    steps = [type(step) for step in plan.steps]
    assert steps == [fb.VerifyFiles, fb.DropPoints, fb.MergeImages]
    return maker, plan


@pytest.mark.parametrize(
    ("kinds", "method"),
    [
        (("zstd", "zstd", "zstd", "zstd"), "zstd"),
        (("zlib", "plain", "zlib", "plain"), "zlib"),
        (("plain", "zlib", "zstd", "plain"), "zstd"),
        (("plain", "plain", "plain", "zstd"), None),
    ],
)
def test_a_merge_of_compressed_images_is_compressed(
    tmp_path: Path, kinds: tuple[str, ...], method: str | None
) -> None:
    """It writes what the plan has said at most, and gives room back; every byte is as it was."""
    maker, plan = due(tmp_path, *kinds)
    with maker:
        report = fb.Executor(None, maker.store).run(plan)
        step = plan.steps[-1]
        assert isinstance(step, fb.MergeImages)
        assert report.copied_bytes <= step.write_bytes
        assert report.freed_bytes > 0
        merged = maker.path(f"vda/{step.images[0].name}")
        found = json.loads(run("qemu-img", "check", "-f", "qcow2", "--output=json", merged))
        assert bool(found.get("compressed-clusters")) is (method is not None)
        said = json.loads(run("qemu-img", "info", "-f", "qcow2", "--output=json", merged))
        assert said["format-specific"]["data"]["compression-type"] == (method or "zlib")
        for point in maker.history().points:
            assert maker.restores(point.id, tmp_path / point.id)
        nothing_is_left_over(maker.root, maker.uuid)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        ("{io} -f qcow2 -c 'write -P 9 0 64k' \"$last\" >/dev/null", "does not read like"),
        ("exit 1", "qemu-img convert"),
    ],
)
def test_a_merged_image_that_cannot_be_compressed_right_has_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tamper: str, words: str
) -> None:
    """The images stay as they are, nothing is left over, and the next prune merges them."""
    maker, plan = due(tmp_path, "zstd", "zstd", "zstd")
    with maker:
        images = {path: path.read_bytes() for path in maker.home.glob("vda/*")}
        liar = fake_qemu_img(tmp_path, tamper=tamper.format(io=tool("qemu-io")))
        monkeypatch.setenv("FIBACKUP_QEMU_IMG", liar)
        with pytest.raises(fb.StepError, match=words):
            fb.Executor(None, maker.store).run(plan)
        monkeypatch.delenv("FIBACKUP_QEMU_IMG")
        assert {path: path.read_bytes() for path in maker.home.glob("vda/*")} == images
        nothing_is_left_over(maker.root, maker.uuid)
        policy = fb.RetentionPolicy(keep_last=9)
        again = fb.plan_prune(maker.history(), policy, now=datetime(2029, 1, 1, tzinfo=UTC))
        fb.Executor(None, maker.store).run(again)
        assert len([*maker.home.glob("vda/*")]) == len(images) - 1
        for point in maker.history().points:
            assert maker.restores(point.id, tmp_path / point.id)
