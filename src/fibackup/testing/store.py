"""
A store in memory: one shelf for each domain.

::

    the test's side    restore, stored, damage, lose, ...           what somebody does to a store
    the protocol       read_history, copy_image, publish, merge     what fibackup asks for

Each call is counted with those of the host, so that `FakeHost.fail_at` breaks it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import PurePosixPath

from attrs import evolve

from fibackup.errors import (
    DestinationExistsError,
    DomainBusyError,
    HostError,
    LockedError,
    RequirementError,
    StalePlanError,
    StoreError,
)
from fibackup.host.cancel import CancelToken
from fibackup.host.events import CopyProgress, FileVerified, ImageCopied, OnEvent
from fibackup.model.chain import Image
from fibackup.model.journal import Merge, Removal
from fibackup.model.point import FileRole, History, Receipt, RestorePoint, StoredFile, StoredImage
from fibackup.model.verification import (
    ContentCheck,
    FaultKind,
    FileCheck,
    Survey,
    VerificationRecord,
)
from fibackup.parse.manifest import parse_manifest
from fibackup.plan.prune_steps import DropPoints, MergeImages, misfit, shared, spoiled
from fibackup.plan.removal import all_but, left_to_remove, spare_none
from fibackup.plan.report import RestoredImage
from fibackup.plan.steps import (
    CopyImage,
    CopyMemory,
    CopyStored,
    CreateLinked,
    DiskRestore,
    FlattenImage,
    RestoreMemory,
    RestoreNvram,
    SaveState,
)
from fibackup.plan.verify_steps import VerifyContents, VerifyFiles
from fibackup.render.drawable import Drawable, Picture
from fibackup.testing.host import FakeHost
from fibackup.testing.images import CLUSTER_BYTES
from fibackup.testing.law import law
from fibackup.testing.shelf import Shelf, content_sha256, copied, sha256

__all__ = ["FakeStore"]


class FakeStore(Drawable):
    """
    A store in memory; satisfies `PointStore`.

    Args:
        host: Whose images it copies, and whose calls it counts with.
        uuid: UUID of the store.
        path: Where it says that it is.
        free_bytes: Free space it says that it has.
    """

    def __init__(
        self,
        host: FakeHost,
        *,
        uuid: str = "5702e000-0000-4000-8000-000000000001",
        path: PurePosixPath | str = "/backup",
        free_bytes: int = 1 << 40,
    ) -> None:
        """Make an empty store."""
        self.path: PurePosixPath = PurePosixPath(path)
        self.space_bytes = free_bytes
        self.can_compress = True
        self.has_qemu_img = True
        self.compress = False
        self.while_copying: Callable[[CopyImage], object] | None = None
        self.restored: dict[PurePosixPath, dict[int, int]] = {}
        self._host = host
        self._uuid = uuid
        self._shelves: dict[str, Shelf] = {}

    def __repr__(self) -> str:
        """Return path and UUID."""
        return f"<FakeStore {str(self.path)!r} {self._uuid}>"

    def picture(self) -> Picture:
        """
        Return what is known without reading, as a `Store` does.

        Source:
            docs/explore.md.
        """
        return Picture(title=f"store {self.path}", facts=("in memory", self._uuid))

    @property
    def uuid(self) -> str:
        """The store's UUID."""
        return self._uuid

    # --- the test's side ------------------------------------------------------------------------

    def restore(self, uuid: str, point: str, target: str) -> dict[int, int]:
        """
        Return what a disk of a point holds, by the backing names in the stored images alone.

        Args:
            uuid: The domain.
            point: Id of a published point.
            target: The disk.

        Returns:
            The clusters that are not zeros.

        Raises:
            AssertionError: A backing file is not in the store.

        Source:
            qcow2: a cluster that an image does not have is read from its backing file.
        """
        shelf = self._shelf(uuid)
        disk = parse_manifest(shelf.manifests[point]).disk(target)
        while not disk.images:  # as at its parent
            disk = parse_manifest(shelf.manifests[disk.parent or ""]).disk(target)
        return shelf.read(target, disk.images[0].name)

    def image_names(self, uuid: str) -> tuple[tuple[str, str], ...]:
        """
        Return target and name of every stored image of a domain.

        Args:
            uuid: The domain.

        Source:
            docs/embed.md, "In your tests".
        """
        return tuple(self._shelf(uuid).images)

    def stored(self, uuid: str, target: str, name: str) -> StoredImage:
        """
        Return the record of a stored image.

        Args:
            uuid: The domain.
            target: The disk.
            name: The image.

        Raises:
            KeyError: There is none.

        Source:
            docs/embed.md, "In your tests".
        """
        return self._shelf(uuid).images[target, name].record

    def damage(self, uuid: str, target: str, name: str) -> None:
        """
        Flip bits in a stored image; its record stays.

        Args:
            uuid: The domain.
            target: The disk.
            name: The image.

        Source:
            docs/embed.md, "In your tests".
        """
        kept = self._shelf(uuid).images[target, name]
        kept.clusters[0] = kept.clusters.get(0, 0) + 1_000_003

    def open_images(self, uuid: str, *files: str) -> None:
        """
        Let a process have stored images open from now on, as a domain on a linked disk has.

        Args:
            uuid: The domain whose points they are of.
            files: All that are open, such as ``"vda/20261124T040407Z.qcow2"``.

        Source:
            docs/embed.md, "In your tests".
        """
        self._shelf(uuid).in_use = frozenset(files)

    def lose(self, uuid: str, target: str, name: str) -> None:
        """
        Lose a stored image; the manifests that name it stay.

        Args:
            uuid: The domain.
            target: The disk.
            name: The image.

        Source:
            docs/embed.md, "In your tests".
        """
        del self._shelf(uuid).images[target, name]
        self._shelf(uuid).receipts.pop((target, name), None)

    def forget(self, uuid: str, point: str) -> None:
        """
        Lose the manifest of a point, as a store that came back from an older copy has.

        Args:
            uuid: The domain.
            point: Id of the point.

        Source:
            docs/embed.md, "In your tests".
        """
        del self._shelf(uuid).manifests[point]
        del self._shelf(uuid).seals[point]

    def lose_manifest(self, uuid: str, point: str) -> None:
        """
        Lose the manifest of a point; the store knows that it was published.

        Args:
            uuid: The domain.
            point: Id of the point.

        Source:
            docs/embed.md, "In your tests".
        """
        del self._shelf(uuid).manifests[point]

    def change_manifest(self, uuid: str, point: str, change: Callable[[str], str]) -> None:
        """
        Change the manifest of a point; its seal stays.

        Args:
            uuid: The domain.
            point: Id of the point.
            change: Makes the new text of the old one.

        Source:
            docs/embed.md, "In your tests".
        """
        manifests = self._shelf(uuid).manifests
        manifests[point] = change(manifests[point])

    def _shelf(self, uuid: str) -> Shelf:
        return self._shelves.setdefault(uuid, Shelf())

    # --- the protocol ---------------------------------------------------------------------------

    @contextmanager
    def _locked(
        self, uuid: str, spared: Callable[[History], Container[str]], *, exclusive: bool
    ) -> Generator[None]:
        shelf = self._shelf(uuid)
        with self._host.call("locked"):
            if exclusive and shelf.written:
                raise LockedError(
                    reason="another run holds the lock", owner="pid 1", path=str(self.path)
                )
        if not exclusive:  # restores share, and do not wait for a backup
            yield
            return
        shelf.written = True
        shelf.unnamed.clear()
        try:
            self._finish_merge(shelf)
            self._finish_removal(uuid, spared)
            yield
            shelf.forget_outlived()
        finally:
            shelf.written = False

    def locked(
        self,
        uuid: str,
        name: str,
        *,
        exclusive: bool,
        spared: Callable[[History], Container[str]] = spare_none,
    ) -> AbstractContextManager[None]:
        """See `PointStore.locked`."""
        law(bool(name), "a domain without a name")
        return self._locked(uuid, spared, exclusive=exclusive)

    def read_history(self, uuid: str) -> History:
        """See `PointStore.read_history`."""
        with self._host.call("read_history"):
            found = self._shelf(uuid).history(self._uuid, self.path, uuid)
            return evolve(found, compress=self.compress)

    def read_record(self, uuid: str) -> VerificationRecord:
        """See `PointStore.read_record`."""
        with self._host.call("read_record"):
            return self._shelf(uuid).record

    def images_in_use(self, uuid: str, *, wait_seconds: float = 0.0) -> dict[str, str]:
        """See `PointStore.images_in_use`; nobody reads for long here."""
        with self._host.call("images_in_use"):
            law(wait_seconds >= 0, "a wait of less than no time")
            return self._shelf(uuid).used(self.restored)

    def survey(self, uuid: str) -> Survey:
        """See `PointStore.survey`."""
        history = self.read_history(uuid)
        with self._host.call("survey"):
            return self._shelf(uuid).survey(history)

    def verify_files(
        self,
        uuid: str,
        step: VerifyFiles,
        on_event: OnEvent,
        cancel: CancelToken,
        *,
        threads: int = 4,
    ) -> tuple[FileCheck, ...]:
        """See `PointStore.verify_files`."""
        with self._host.call("verify_files"):
            law(threads > 0, "a verification without threads")
            shelf = self._shelf(uuid)
            history = shelf.history(self._uuid, self.path, uuid)
            checks: list[FileCheck] = []
            for file in step.files:
                cancel.check()
                check = shelf.check_file(file, self._host.now)
                shelf.remember(check.entry(step.run), history)
                checks.append(check)
                if check.read_bytes is not None or check.kind is not None:
                    on_event(FileVerified(file.file, file.size_bytes, check.reason))
            return tuple(checks)

    def verify_contents(
        self,
        uuid: str,
        step: VerifyContents,
        on_event: OnEvent,
        cancel: CancelToken,
        *,
        threads: int = 4,
    ) -> tuple[ContentCheck, ...]:
        """See `PointStore.verify_contents`."""
        with self._host.call("verify_contents"):
            law(threads > 0, "a verification without threads")
            shelf = self._shelf(uuid)
            history = shelf.history(self._uuid, self.path, uuid)
            checks: list[ContentCheck] = []
            for content in step.contents:
                cancel.check()
                clusters = shelf.read(content.target, content.images[0])
                found = content_sha256(content.virtual_size_bytes, clusters)
                reason = content.judged(found)
                check = ContentCheck(
                    file=content.file,
                    chain=content.chain,
                    time=self._host.now,
                    sha256=found,
                    kind=FaultKind.DISK if reason else None,
                    reason=reason,
                    read_bytes=len(clusters) * CLUSTER_BYTES,
                    earlier=content.earlier,
                    since=content.since,
                )
                shelf.remember(check.entry(step.run), history)
                checks.append(check)
                on_event(FileVerified(content.file, check.read_bytes, reason))
            return tuple(checks)

    def occupied(self, paths: tuple[PurePosixPath, ...]) -> tuple[PurePosixPath, ...]:
        """See `PointStore.occupied`."""
        with self._host.call("store.occupied"):
            there = {*self.restored, *self._host.memory_files, *self._host.state_files}
            return tuple(path for path in paths if path in there)

    def free_bytes(self) -> int:
        """See `PointStore.free_bytes`."""
        with self._host.call("free_bytes"):
            return self.space_bytes

    def require_qemu_img(self) -> None:
        """See `PointStore.require_qemu_img`."""
        with self._host.call("require_qemu_img"):
            if not self.has_qemu_img:
                raise RequirementError(reason="qemu-img is missing")

    def require_compression(self) -> None:
        """See `PointStore.require_compression`."""
        with self._host.call("require_compression"):
            if not self.can_compress:
                raise RequirementError(reason="compression needs a qemu-img with zstd")

    def copy_image(
        self, uuid: str, step: CopyImage, on_event: OnEvent, cancel: CancelToken
    ) -> StoredImage:
        """See `PointStore.copy_image`."""
        with self._host.call("copy_image"):
            shelf = self._shelf(uuid)
            self._check_copy(shelf, step)
            image, _, clusters = self._host.image(step.source)
            self._check_source(step, image)
            on_event(CopyProgress(step.target, step.name, 0, image.allocated_bytes or 0))
            if self.while_copying is not None:
                self.while_copying(step)
            cancel.check()
            self._check_source(
                evolve(step, identity=image.identity), self._host.image(step.source)[0]
            )
            kept = copied(step, image, clusters)
            shelf.images[step.target, step.name] = kept
            shelf.receipts[step.target, step.name] = Receipt(step.target, kept.record)
            record = kept.record
            on_event(CopyProgress(step.target, step.name, record.size_bytes, record.size_bytes))
            on_event(ImageCopied(step.target, step.name, record.size_bytes, record.sha256))
            return record

    def _check_copy(self, shelf: Shelf, step: CopyImage) -> None:
        if (step.target, step.name) in shelf.images:
            raise DestinationExistsError(
                reason="the image exists", target=step.target, path=step.name
            )
        stored = step.backing is None or (step.target, step.backing) in shelf.images
        law(stored, f"{step.name} would lie on {step.backing}, which is not in the store")

    def _check_source(self, step: CopyImage, found: Image) -> None:
        if step.source in self._host.active_layers():
            raise DomainBusyError(
                reason="a domain writes the image", target=step.target, path=str(step.source)
            )
        if step.identity is not None and step.identity != found.identity:
            raise DomainBusyError(
                reason="the image changed", target=step.target, path=str(step.source)
            )

    def hash_content(
        self,
        uuid: str,
        target: str,
        image: StoredImage,
        on_event: OnEvent,
        cancel: CancelToken,
    ) -> str:
        """See `PointStore.hash_content`."""
        with self._host.call("hash_content"):
            cancel.check()
            size = image.virtual_size_bytes
            on_event(CopyProgress(target, image.name, size, size))
            clusters = self._shelf(uuid).read(target, image.name)
            return content_sha256(size, clusters)

    def save_config(self, uuid: str, name: str, text: str) -> StoredFile:
        """See `PointStore.save_config`."""
        with self._host.call("save_config"):
            shelf = self._shelf(uuid)
            if name in shelf.files or name in shelf.unnamed:
                raise DestinationExistsError(reason="the file exists", path=name)
            shelf.unnamed[name] = text
            return StoredFile(FileRole.DOMAIN_XML, name, len(text.encode()), sha256(text))

    def save_state(self, uuid: str, step: SaveState, data: bytes) -> StoredFile:
        """See `PointStore.save_state`."""
        with self._host.call("save_state"):
            shelf = self._shelf(uuid)
            if step.name in shelf.files or step.name in shelf.unnamed:
                raise DestinationExistsError(reason="the file exists", path=step.name)
            shelf.unnamed[step.name] = data.decode("latin-1")
            digest = hashlib.sha256(data).hexdigest()
            return StoredFile(step.role, step.name, len(data), digest)

    def copy_memory(
        self, uuid: str, step: CopyMemory, on_event: OnEvent, cancel: CancelToken
    ) -> StoredFile:
        """See `PointStore.copy_memory`."""
        with self._host.call("copy_memory"):
            cancel.check()
            if step.source not in self._host.memory_files:
                raise HostError(reason="no such file", path=str(step.source))
            text = str(self._host.memory_files[step.source])
            on_event(CopyProgress("memory", step.name, len(text), len(text)))
            self._shelf(uuid).unnamed[step.name] = text
            return StoredFile(FileRole.MEMORY, step.name, len(text), sha256(text))

    def read_config(self, uuid: str, file: StoredFile) -> str:
        """See `PointStore.read_config`."""
        with self._host.call("read_config"):
            return self._shelf(uuid).text(file)

    def restore_memory(
        self, uuid: str, step: RestoreMemory, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `PointStore.restore_memory`."""
        with self._host.call("restore_memory"):
            cancel.check()
            if step.destination in self._host.memory_files:
                raise DestinationExistsError(reason="the file exists", path=str(step.destination))
            text = self._shelf(uuid).text(step.file)
            on_event(CopyProgress("memory", step.destination.name, len(text), len(text)))
            self._host.memory_files[step.destination] = int(text)

    def publish(self, point: RestorePoint) -> None:
        """See `PointStore.publish`."""
        with self._host.call("publish"):
            shelf = self._shelf(point.uuid)
            if point.id in shelf.manifests:
                raise DestinationExistsError(reason="the manifest exists", path=f"{point.id}.json")
            for file in point.files:
                if file.name in shelf.unnamed:
                    shelf.files[file.name] = shelf.unnamed.pop(file.name)
            shelf.check_complete(point)
            shelf.put_manifest(point)
            images = [(disk.target, image.name) for disk in point.disks for image in disk.images]
            shelf.record = shelf.record.with_entries(forget=[f"{t}/{name}" for t, name in images])
            for image in images:
                shelf.receipts.pop(image, None)

    def drop(self, uuid: str, step: DropPoints) -> int:
        """See `PointStore.drop`."""
        shelf = self._shelf(uuid)
        law(shelf.written, "points are dropped under the exclusive lock")
        self._finish_merge(shelf)
        self._finish_removal(uuid, all_but(step.points))
        fault = misfit(step, self.read_history(uuid))
        if fault is not None:
            raise StalePlanError(reason=f"{fault}; plan again")
        waiting = shelf.removal.files if shelf.removal is not None else ()
        shelf.refuse_used((*step.files, *waiting), self.restored)
        for point in step.heirs:
            with self._host.call("drop.heir"):
                shelf.put_manifest(point)
        if not step.points:
            return 0
        with self._host.call("drop.intent"):
            shelf.removal = Removal(step.points, step.files)
        return self._take_away(shelf, shelf.removal)

    def _finish_removal(self, uuid: str, spared: Callable[[History], Container[str]]) -> None:
        shelf = self._shelf(uuid)
        if shelf.removal is None:
            return
        history = shelf.history(self._uuid, self.path, uuid)
        used = shelf.used(self.restored).keys() & {*shelf.removal.files}
        left = left_to_remove(shelf.removal, history, spared(history), used)
        if left is not None:
            self._take_away(shelf, left)

    def _take_away(self, shelf: Shelf, removal: Removal) -> int:
        self._unpublish(shelf, removal.points)
        freed = self._delete(shelf, removal.files)
        with self._host.call("drop.done"):
            shelf.removal = None
        return freed

    def _unpublish(self, shelf: Shelf, points: Sequence[str]) -> None:
        for point in reversed(points):  # what lies on another goes before it
            with self._host.call("drop.unpublish"):
                shelf.manifests.pop(point, None)
                shelf.seals.pop(point, None)

    def _delete(self, shelf: Shelf, files: Sequence[str]) -> int:
        freed = 0
        for file in files:
            with self._host.call("drop.delete"):
                target, _, name = file.rpartition("/")
                kept = shelf.images.pop((target, name), None) if target else None
                freed += kept.record.size_bytes if kept else len(shelf.files.pop(name, ""))
        return freed

    def merge(
        self, uuid: str, step: MergeImages, on_event: OnEvent, cancel: CancelToken
    ) -> tuple[StoredImage, int]:
        """See `PointStore.merge`."""
        shelf = self._shelf(uuid)
        law(shelf.written, "images are merged under the exclusive lock")
        with self._host.call("merge.write"):
            cancel.check()
            point = parse_manifest(shelf.manifests[step.point])
            own = point.disk(step.target).images
            start = own.index(step.images[0]) if step.images[0] in own else 0
            if own[start : start + len(step.images)] != step.images:
                raise StoreError(reason="the point has other images", path=step.images[0].name)
            history = shelf.history(self._uuid, self.path, uuid)
            fault = shared(step, map(parse_manifest, shelf.manifests.values()))
            fault = fault or spoiled(step, history)
            if fault is not None:
                raise StalePlanError(reason=f"{fault}; plan again")
            for image in step.images:
                shelf.verify(step.target, image)
            new = shelf.gather(step)
            on_event(ImageCopied(step.target, new.record.name, new.record.size_bytes, "0" * 64))
        goes = [f"{step.target}/{image.name}" for image in step.images[1:]]
        shelf.refuse_used(goes, self.restored)
        with self._host.call("merge.intent"):
            images = (*own[:start], new.record, *own[start + len(step.images) :])
            merged = evolve(
                point,
                disks=tuple(
                    evolve(disk, images=images) if disk.target == step.target else disk
                    for disk in point.disks
                ),
            )
            name = new.record.name
            gone = tuple(image.name for image in step.images[1:])
            shelf.merge = Merge(step.target, f"{name}.merged", name, merged, gone), new
        self._finish_merge(shelf)
        return new.record, sum(i.size_bytes for i in step.images) - new.record.size_bytes

    def _finish_merge(self, shelf: Shelf) -> None:
        if shelf.merge is None:
            return
        merge, new = shelf.merge
        with self._host.call("merge.place"):
            shelf.images[merge.target, merge.name] = new
        with self._host.call("merge.manifest"):
            shelf.put_manifest(merge.point)
        with self._host.call("merge.delete"):
            for name in merge.gone:
                shelf.images.pop((merge.target, name), None)
            shelf.merge = None

    def flatten(
        self, uuid: str, step: FlattenImage, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """See `PointStore.flatten`."""
        with self._host.call("flatten"):
            self._check_restore(uuid, step)
            cancel.check()
            content = self._shelf(uuid).read(step.target, step.images[0].name)
            self.restored[step.destination] = content
            return self._made(step, on_event, (len(content) + 1) * CLUSTER_BYTES)

    def copy_chain(
        self, uuid: str, step: CopyStored, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """See `PointStore.copy_chain`."""
        with self._host.call("copy_chain"):
            self._check_restore(uuid, step)
            cancel.check()
            shelf = self._shelf(uuid)
            for image, path in zip(step.images, step.destinations, strict=True):
                self.restored[path] = shelf.read(step.target, image.name)
            return self._made(step, on_event, sum(image.size_bytes for image in step.images))

    def create_linked(
        self, uuid: str, step: CreateLinked, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """See `PointStore.create_linked`."""
        with self._host.call("create_linked"):
            self._check_restore(uuid, step)
            cancel.check()
            shelf = self._shelf(uuid)
            self.restored[step.destination] = shelf.read(step.target, step.images[0].name)
            files = tuple(f"{step.target}/{image.name}" for image in step.images)
            shelf.linked[step.destination] = files
            return self._made(step, on_event, CLUSTER_BYTES)

    def _check_restore(self, uuid: str, step: DiskRestore) -> None:
        taken = [path for path in step.destinations if path in self.restored]
        if taken:
            raise DestinationExistsError(reason="the file exists", path=str(taken[0]))
        if isinstance(step, CreateLinked) and not step.verify:
            return
        for image in step.images:
            self._shelf(uuid).verify(step.target, image)

    def _made(self, step: DiskRestore, on_event: OnEvent, size: int) -> RestoredImage:
        clusters = step.images[0].virtual_size_bytes // CLUSTER_BYTES
        self._host.restored[step.destination] = clusters, self.restored[step.destination]
        on_event(CopyProgress(step.target, step.destination.name, size, size))
        return RestoredImage(
            target=step.target,
            path=step.destination,
            format=step.format,
            virtual_size_bytes=step.images[0].virtual_size_bytes,
            size_bytes=size,
        )

    def make_directory(self, path: PurePosixPath) -> None:
        """See `PointStore.make_directory`."""
        with self._host.call("make_directory"):
            law(path.is_absolute(), f"{path} depends on a directory")

    def read_state(self, uuid: str, file: StoredFile) -> bytes:
        """See `PointStore.read_state`."""
        with self._host.call("store.read_state"):
            return self._shelf(uuid).data(file)

    def restore_nvram(self, uuid: str, step: RestoreNvram) -> None:
        """See `PointStore.restore_nvram`."""
        with self._host.call("restore_nvram"):
            if step.destination in self._host.state_files:
                raise DestinationExistsError(reason="the file exists", path=str(step.destination))
            self._host.state_files[step.destination] = self._shelf(uuid).data(step.file)

    def inodes(self, paths: tuple[PurePosixPath, ...]) -> tuple[int, ...]:
        """See `PointStore.inodes`."""
        with self._host.call("inodes"):
            there = {*self.restored, *self._host.memory_files, *self._host.state_files}
            return tuple(int(path in there) for path in paths)

    def discard(self, path: PurePosixPath, inode: int) -> None:
        """See `PointStore.discard`."""
        with self._host.call("discard"):
            law(inode == 1, f"{path} was never made")
            self._host.forget_image(path)
            self.restored.pop(path, None)

    def remove_directory(self, path: PurePosixPath) -> None:
        """See `PointStore.remove_directory`."""
        with self._host.call("remove_directory"):
            law(path.is_absolute(), f"{path} depends on a directory")
