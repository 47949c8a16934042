"""Real stores without a domain: points of images that qemu-io writes, published as a run would."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import MappingProxyType, TracebackType
from typing import Final, Self

import fibackup as fb
from fibackup.host.cancel import CancelToken
from fibackup.host.events import ignore_events
from hypervisor.host import run
from hypervisor.images import MIB
from hypervisor.qcow2_reader import read_qcow2

START: Final = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)
UUID: Final = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a"
CLUSTER: Final = 65536
XML: Final = "<domain type='kvm'><name>web1</name></domain>"

SUFFIXES: Final = {
    fb.FileRole.MEMORY: "mem",
    fb.FileRole.NVRAM: "nvram",
    fb.FileRole.TPM_STATE: "tpm",
}
NOTHING: Final[Mapping[fb.FileRole, bytes]] = MappingProxyType({})

Writes = Mapping[int, int]
"""Number of a cluster to the byte that fills it."""


class StoreMaker:
    """
    A store in a directory, and points to put into it.

    ::

        with StoreMaker(tmp_path) as maker:
            maker.point({"vda": {0: 1}})      a full
            maker.point({"vda": {3: 7}})      an increment
    """

    def __init__(
        self,
        directory: Path,
        *,
        uuid: str = UUID,
        name: str = "web1",
        size_bytes: int = 4 * MIB,
        start: datetime = START,
        unit_bytes: int = CLUSTER,
    ) -> None:
        """Make the store, or open the one of another maker in the same directory."""
        self.root: Path = directory / "store"
        self._live = directory / f"live-{uuid}"
        self.root.mkdir(mode=0o700, exist_ok=True)
        self._live.mkdir()
        self.store: fb.Store = fb.Store.open_or_create(self.root)
        self.uuid = uuid
        self.name = name
        self.size_bytes = size_bytes
        self.start = start
        self.unit_bytes = unit_bytes
        self.references: dict[str, dict[str, Path]] = {}
        self._tops: dict[str, tuple[str, Path]] = {}
        self._count = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.store.close()

    @property
    def home(self) -> Path:
        """The domain's directory of the store."""
        (found,) = self.root.glob(f"*{self.uuid}")
        return found

    def path(self, file: str) -> Path:
        """Return where a file of the domain lies, such as ``"vda/20261124T040407Z.qcow2"``."""
        return self.home / file

    def history(self) -> fb.History:
        """Read what the store has."""
        return self.store.read_history(self.uuid)

    def lay_next_on(self, target: str, point: str) -> None:
        """Let the next point of a disk lie on an older one, whose live image is still there."""
        self._tops[target] = (point, self._live / f"{target}-{point}.qcow2")

    def point(
        self,
        writes: Mapping[str, Writes],
        *,
        full: bool = False,
        options: tuple[str, ...] = (),
        compress: bool = False,
        packed: bool = False,
        hashed: bool = False,
        killed: bool = False,
        states: Mapping[fb.FileRole, bytes] = NOTHING,
    ) -> fb.RestorePoint:
        """
        Take a point of disks, after writing clusters to each; the first one is a full.

        Its other files have the content that is given. *compress*: when it is stored; *packed*:
        the guest's own image has clusters compressed by zlib, as those of templates are;
        *killed*: the QEMU that wrote it was, after the guest had flushed.
        """
        history = self.history()
        self._count += 1
        moment = self.start + timedelta(days=self._count - 1)
        point_id = fb.format_point_id(moment)
        self.references[point_id] = {}
        latest = history.latest
        with self.store.locked(self.uuid, self.name, exclusive=True):
            disks = tuple(
                self._disk(
                    target, point_id, clusters, full, options, compress, packed, hashed, killed
                )
                for target, clusters in writes.items()
            )
            config = self.store.save_config(self.uuid, f"{point_id}.xml", XML)
            saved = tuple(
                self.store.save_state(
                    self.uuid, fb.SaveState(role, f"{point_id}.{SUFFIXES[role]}"), data
                )
                for role, data in states.items()
            )
            point = fb.RestorePoint(
                id=point_id,
                sequence=history.next_sequence,
                parent=latest.id if latest else None,
                store=self.store.uuid,
                time=moment,
                domain=self.name,
                uuid=self.uuid,
                consistency=fb.Consistency.CRASH,
                consistency_detail="",
                files=(config, *saved),
                disks=disks,
            )
            self.store.publish(point)
        return point

    def _disk(
        self,
        target: str,
        point: str,
        writes: Writes,
        full: bool,  # noqa: FBT001
        options: tuple[str, ...],
        compress: bool,  # noqa: FBT001
        packed: bool,  # noqa: FBT001
        hashed: bool,  # noqa: FBT001
        killed: bool,  # noqa: FBT001
    ) -> fb.PointDisk:
        live = self._live / f"{target}-{point}.qcow2"
        parent, under = (None, None) if full else self._tops.get(target, (None, None))
        _create(live, under, self.size_bytes, options)
        unit = self.unit_bytes
        words = [
            word
            for cluster, byte in writes.items()
            for word in (
                "-c",
                f"write -q {'-c' if packed else ''} -P {byte} {cluster * unit} {unit}",
            )
        ]
        if killed:
            _write_and_be_killed(live, words)
        elif words:
            run("qemu-io", "-f", "qcow2", *words, live)
        step = fb.CopyImage(
            target=target,
            source=PurePosixPath(live),
            format="qcow2",
            name=f"{point}.qcow2",
            backing=f"{parent}.qcow2" if parent else None,
            identity=None,
            estimate_bytes=0,
            compress=compress,
        )
        image = self.store.copy_image(self.uuid, step, ignore_events, CancelToken())
        self._tops[target] = (point, live)
        raw = self._live / f"{target}-{point}.raw"
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", live, raw)
        self.references[point][target] = raw
        return fb.PointDisk(
            target=target,
            kind=fb.DiskKind.INCREMENT if parent else fb.DiskKind.FULL,
            reason="a test",
            parent=parent,
            virtual_size_bytes=image.virtual_size_bytes,
            images=(image,),
            content_sha256=sha256(raw.read_bytes()).hexdigest() if hashed else None,
        )

    def restores(self, point: str, into: Path) -> bool:
        """Restore a point and compare it with what was written; False when that is refused."""
        try:
            plan = fb.plan_restore(
                self.history(),
                point,
                into=PurePosixPath(into),
                image_format=fb.ImageFormat.RAW,
            )
            report = fb.Executor(None, self.store).run(plan)
        except (fb.StoreError, fb.StepError):
            with suppress(FileNotFoundError):
                assert not list(into.iterdir()), "a refused restore leaves nothing"
            return False
        for image in report.restored:
            reference = self.references[point][image.target]
            assert Path(image.path).read_bytes() == reference.read_bytes(), image.target
            Path(image.path).unlink()
        return True


def _write_and_be_killed(path: Path, words: list[str]) -> None:
    command = ["qemu-io", "-f", "qcow2", *words, "-c", "flush", "-c", "sigraise 9", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done


def _create(path: Path, under: Path | None, size_bytes: int, options: tuple[str, ...]) -> None:
    words = ["create", "-q", "-f", "qcow2"]
    if options:
        words += ["-o", ",".join(options)]
    if under is None:
        run("qemu-img", *words, path, str(size_bytes))
    else:
        run("qemu-img", *words, "-b", under, "-F", "qcow2", path, str(size_bytes))


# --- what a store must hold -----------------------------------------------------------------------


def named(history: fb.History) -> set[str]:
    """Return the files that manifests name, and the manifests."""
    return {
        name
        for point in history.points
        for name in (
            f"{point.id}.json",
            *(file.name for file in point.files),
            *(f"{disk.target}/{image.name}" for disk in point.disks for image in disk.images),
        )
    }


def content(root: Path) -> dict[str, dict[str, bytes]]:
    """Return what every disk of every point of a store reads, after looking at each file's hash."""
    found: dict[str, dict[str, bytes]] = {}
    with fb.Store.open(root) as store:
        (uuid,) = store.domains()
        history = store.read_history(uuid)
    assert (history.damaged, history.unreadable, history.lost) == (frozenset(), (), ())
    (home,) = root.glob(f"*{uuid}")
    for point in history.points:
        found[point.id] = {}
        for disk in point.disks:
            images = history.images(point.id, disk.target)
            for image in images:
                data = (home / disk.target / image.name).read_bytes()
                assert sha256(data).hexdigest() == image.sha256, (point.id, image.name)
            found[point.id][disk.target] = read_qcow2(home / disk.target / images[0].name)
    return found


def nothing_is_left_over(root: Path, uuid: str) -> None:
    """See that every file is named by a manifest."""
    (home,) = root.glob(f"*{uuid}")
    found = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    with fb.Store.open(root) as store:
        history = store.read_history(uuid)
    other = {"lock", "lock.readers", "lock.verified", "points.sha256", "verified.json"}
    assert found - other == named(history)
