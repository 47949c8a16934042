"""
The store: a directory of restore points, plain files that qemu can open.

::

    STORE/fibackup-store.json                    makes the directory a store
    STORE/compress                               new points are compressed
    STORE/web1-UUID/lock                         flock of the one writer; never removed
    STORE/web1-UUID/lock.readers                 flock shared by readers, beside a writer
    STORE/web1-UUID/20261124T040407Z.json        manifest: the point exists once this does
    STORE/web1-UUID/20261124T040407Z.xml         the domain's XML; .nvram, .tpm: its other state
    STORE/web1-UUID/points.sha256                seals of the manifests
    STORE/web1-UUID/vda/20261124T040407Z.qcow2   the disk at that point
    STORE/web1-UUID/vda/20261124T040407Z.qcow2.receipt    complete, but not in a point yet

Order of writing: images, their directory, the manifest, its directory. Nothing is ever replaced.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Container, Generator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Self
from uuid import uuid4

from fibackup.errors import (
    DestinationExistsError,
    FibackupError,
    LockedError,
    ManifestError,
    NoSuchPointError,
    NotAStoreError,
    StalePlanError,
    StoreError,
    VerifyError,
)
from fibackup.host.cancel import CancelToken
from fibackup.host.compress_image import require_compression
from fibackup.host.copy_image import copy_image, stored_depth
from fibackup.host.destination import destination_directory
from fibackup.host.events import CopyProgress, OnEvent, Warned
from fibackup.host.files import (
    TEMP_SUFFIX,
    forget_temporary,
    fsync_directory,
    make_directory,
    open_directory,
    os_errors,
    refuse_strangers,
    require_writable,
    write_once,
    write_unnamed,
)
from fibackup.host.flatten import flatten
from fibackup.host.linked import forget_independent, linked_files, note_linked
from fibackup.host.lock import hold_store_lock
from fibackup.host.manifests import manifests_naming, read_manifests
from fibackup.host.memory_image import copy_memory, restore_memory
from fibackup.host.merge import prepare, put_in_place, recover_merge, remove_waiting
from fibackup.host.nbd import hash_content
from fibackup.host.prune import drop_points, recover_removal
from fibackup.host.publish import publish_point, sweep
from fibackup.host.qemu_img import find_qemu_img
from fibackup.host.record import Recorder, record_of_faults
from fibackup.host.restored import (
    copy_chain,
    create_linked,
    discard,
    inode_of,
    make_passage,
    read_stored,
    write_restored,
)
from fibackup.host.seals import MANIFEST_SUFFIX
from fibackup.host.store_file import STORE_FILE, directory_name, uuid_of
from fibackup.host.store_files import directories_in, exists, list_directory, read_text
from fibackup.host.store_reader import (
    BESIDE_A_STORE,
    COMPRESS_FILE,
    WRITERS_LOCK,
    StoreReader,
)
from fibackup.host.survey import open_images
from fibackup.host.verify import verify_files
from fibackup.host.verify_contents import verify_contents
from fibackup.model.point import (
    FileRole,
    History,
    RestorePoint,
    StoredFile,
    StoredImage,
    describe_copies,
)
from fibackup.model.records import LINKED_FILE, MERGE_FILE, REMOVAL_FILE
from fibackup.model.verification import ContentCheck, FileCheck
from fibackup.parse.manifest import (
    render_store_file,
)
from fibackup.plan.prune_steps import DropPoints, MergeImages, misfit, shared, spoiled
from fibackup.plan.records import describe_damaged
from fibackup.plan.removal import all_but, spare_none
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
from fibackup.plan.verified import settled, trusted
from fibackup.plan.verify_steps import VerifyContents, VerifyFiles

__all__ = ["Store"]

_READERS_LOCK = "lock.readers"
_MAKING_SECONDS = 5.0
_POLL_SECONDS = 0.02
_UNNAMED = f".{STORE_FILE}{TEMP_SUFFIX}"
_BEFORE_A_STORE = BESIDE_A_STORE | {COMPRESS_FILE, _UNNAMED}

_log = logging.getLogger("fibackup.store")


class Store(StoreReader):
    """
    A backup directory: a `StoreReader` that takes, verifies, restores and drops points.

    Thread-safe: it keeps one descriptor of its directory and no other state. Locks are held per
    domain, see `locked`.

    Attributes:
        reader_wait_seconds: How long a reader waits for a prune that puts images in their new
            places; it does so in moments, or as long as it writes one image in place.

    Open one with `Store.open`, `Store.create` or `Store.open_or_create`; use it as a context
    manager, or call `close`.
    """

    reader_wait_seconds: float = 600.0

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Self:
        """
        Make an existing empty directory a store.

        Args:
            path: The directory; it must exist, so that a missing mount point is not filled.

        Returns:
            The new store.

        Raises:
            NotAStoreError: The directory is missing or not empty. Nothing was touched.
            DestinationExistsError: Another run was faster. Nothing was touched.
            PermissionDeniedError: It cannot be written, or others can write it too. Nothing was
                touched.

        Source:
            docs/store-format.md, ``fibackup-store.json``.
        """
        cls.require_empty(path)
        where = PurePosixPath(os.path.abspath(path))
        with os_errors(str(where)), open_directory(str(where)) as fd:
            refuse_strangers(fd, str(where), "the store")
            _wait_for_another(fd)
            text = render_store_file(str(uuid4()), datetime.now(UTC))
            write_once(STORE_FILE, text.encode(), fd)
        return cls.open(where)

    @staticmethod
    def require_empty(path: str | os.PathLike[str]) -> None:
        """
        Refuse a directory that `create` would not make a store.

        Args:
            path: The directory.

        Raises:
            NotAStoreError: It is missing, or something is in it. Nothing was touched.

        Source:
            docs/store-format.md, ``fibackup-store.json``.
        """
        where = os.path.abspath(path)
        with os_errors(where):
            try:
                names = set(os.listdir(where)) - _BEFORE_A_STORE
            except (FileNotFoundError, NotADirectoryError):
                raise NotAStoreError(reason="there is no such directory", path=where) from None
        if names:
            raise NotAStoreError(
                reason=f"the directory is neither empty nor a store; it has {min(names)!r}",
                path=where,
            )

    @classmethod
    def open_or_create(cls, path: str | os.PathLike[str]) -> Self:
        """
        Open a store; an existing empty directory becomes one.

        When another run makes it one at the same time, that is the store.

        Args:
            path: The directory.

        Returns:
            The store.

        Raises:
            NotAStoreError: The directory is missing, or neither empty nor a store.

        Source:
            docs/store-format.md, ``fibackup-store.json``.
        """
        with suppress(OSError):
            if not set(os.listdir(path)) - _BEFORE_A_STORE:
                with suppress(DestinationExistsError, NotAStoreError):  # another was faster
                    return cls.create(path)
        return cls.open(path)

    @staticmethod
    def require_writable(path: str | os.PathLike[str], uuid: str = "") -> None:
        """
        Refuse a directory that could take no point, as far as that shows without writing.

        Args:
            path: A store, or a directory that is going to be one.
            uuid: Of a domain, whose own directory is looked at too, if there is one.

        Raises:
            PermissionDeniedError: It is mounted read-only, not ours to write, or not ours alone;
                `remedy` says what helps. Nothing was touched.
            HostError: It is missing, or cannot be read.

        Source:
            docs/operate.md, "Permissions".
        """
        where = os.path.abspath(path)
        with os_errors(where), open_directory(os.path.realpath(where)) as fd:
            names = [name for name in list_directory(fd) if uuid and uuid_of(name) == uuid]
            require_writable(fd, where, "the store", new_files=not names)
            for name in names:
                with os_errors(f"{where}/{name}"), open_directory(name, fd) as inside:
                    require_writable(inside, f"{where}/{name}", "the domain's directory")

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
        with self._verification(uuid, step.run) as (fd, _, recorder):
            return verify_files(step, fd, recorder, on_event, cancel, threads=threads)

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
        with self._verification(uuid, step.run) as (fd, path, recorder):
            return verify_contents(step, fd, path, recorder, on_event, cancel, threads=threads)

    @contextmanager
    def _verification(self, uuid: str, run: int) -> Generator[tuple[int, PurePosixPath, Recorder]]:
        """Give a domain's directory; what is found is kept, also when it ends early."""
        with self._domain(uuid) as (fd, path), os_errors(str(path)):
            history = self.read_history(uuid)
            unknown = history.unreadable or history.lost
            recorder = Recorder(
                fd,
                run,
                None if unknown else frozenset(name for name, _ in history.named_files),
                trust=lambda record: trusted(history, record, before=run),
                settle=lambda record: settled(history, record),
            )
            try:
                yield fd, path, recorder
            finally:
                recorder.finish()

    def free_bytes(self) -> int:
        """See `PointStore.free_bytes`."""
        found = os.fstatvfs(self._fd)
        return found.f_bavail * found.f_frsize

    def images_in_use(self, uuid: str, *, wait_seconds: float = 0.0) -> dict[str, str]:
        """See `PointStore.images_in_use`."""
        with os_errors(str(self.path)):
            name = self._find(uuid)
            if name is None:
                return {}
            place = f"{self.path}/{name}"
            with self._directory(name) as fd:
                opened = self._opened(fd, wait_seconds)
                try:
                    return opened | linked_files(fd)
                except ManifestError as error:
                    raise ManifestError(
                        reason=describe_damaged(LINKED_FILE, error.reason),
                        path=f"{place}/{LINKED_FILE}",
                    ) from error

    def _opened(self, fd: int, wait_seconds: float) -> dict[str, str]:
        """Return what processes have open, while nobody reads if that can be had."""
        words = "a process has it open"
        with ExitStack() as held:
            try:
                if exists(_READERS_LOCK, fd):
                    held.enter_context(self._no_readers(fd, wait_seconds))
            except LockedError:
                if wait_seconds:
                    raise
                words = f"a restore or a verification reads it, or {words}"
            except OSError:  # read-only media: nothing is going to be taken away
                pass
            return dict.fromkeys(open_images(fd), words)

    def occupied(self, paths: tuple[PurePosixPath, ...]) -> tuple[PurePosixPath, ...]:
        """See `PointStore.occupied`."""
        return tuple(path for path in paths if os.path.lexists(path))

    # --- writing --------------------------------------------------------------------------------

    @contextmanager
    def locked(
        self,
        uuid: str,
        name: str,
        *,
        exclusive: bool,
        spared: Callable[[History], Container[str]] = spare_none,
    ) -> Generator[None]:
        """See `PointStore.locked`; a writer removes what a killed run left half-written."""
        if not exclusive:
            with self._reading(uuid):
                yield
            return
        with self._writing(uuid, name) as (fd, directory):
            sweep(fd, directory, store=self._uuid, uuid=uuid)
            # It needs the names of the temporary files that were swept.
            self._finish(fd, directory, uuid, spared)
            done = False
            try:
                yield
                done = True
            finally:
                with suppress(OSError, FibackupError):  # tidiness hides no error
                    sweep(fd, directory, store=self._uuid, uuid=uuid, done=done)
                    self._remove_empty(fd, directory)

    @contextmanager
    def _reading(self, uuid: str) -> Generator[None]:
        with os_errors(str(self.path)), ExitStack() as held:
            directory = self._find(uuid)
            if directory is not None:
                held.enter_context(os_errors(f"{self.path}/{directory}"))
                with suppress(FileNotFoundError):  # a run that stored nothing has removed it
                    fd = held.enter_context(open_directory(directory, self._fd))
                    wait = self.reader_wait_seconds
                    held.enter_context(os_errors(f"{self.path}/{directory}/{_READERS_LOCK}"))
                    held.enter_context(
                        hold_store_lock(_READERS_LOCK, fd, exclusive=False, wait_seconds=wait)
                    )
            yield

    @contextmanager
    def _writing(self, uuid: str, name: str) -> Generator[tuple[int, str]]:
        """Lock a domain's directory, which is made when it is missing."""
        with ExitStack() as held:
            found = None
            while found is None:
                with os_errors(str(self.path)):
                    refuse_strangers(self._fd, str(self.path), "the store")
                    directories = self.directories(uuid)
                    if len(directories) > 1:
                        raise StoreError(reason=describe_copies(directories), path=str(self.path))
                    directory = directories[0] if directories else None
                    if directory is None:
                        directory = directory_name(uuid, name)
                        with suppress(FileNotFoundError):  # see `_lock`
                            make_directory(directory, self._fd)
                found = self._lock(directory, held)
            yield found

    def _lock(self, directory: str, held: ExitStack) -> tuple[int, str] | None:
        """Return the locked directory; None when a run that stored nothing has just removed it."""
        where = f"{self.path}/{directory}"
        held.enter_context(os_errors(where))
        try:
            fd = held.enter_context(open_directory(directory, self._fd))
            refuse_strangers(fd, where, "the domain's directory")
            held.enter_context(os_errors(f"{where}/{WRITERS_LOCK}"))
            held.enter_context(hold_store_lock(WRITERS_LOCK, fd, exclusive=True))
        except FileNotFoundError:
            held.close()
            return None
        return fd, directory

    def _remove_empty(self, fd: int, directory: str) -> None:
        """
        Remove a domain's directory in which nothing is stored, with its locks.

        Whoever waits for such a lock sees that it has lost its name: see `hold_store_lock`.
        """
        rest = set(list_directory(fd)) - {WRITERS_LOCK, _READERS_LOCK}
        if not rest <= directories_in(fd):
            return
        for name in rest:
            os.rmdir(name, dir_fd=fd)  # fails, and ends this, when there is something in it
        for lock in (_READERS_LOCK, WRITERS_LOCK):
            with suppress(FileNotFoundError):
                os.unlink(lock, dir_fd=fd)
        os.rmdir(directory, dir_fd=self._fd)

    def _finish(
        self, fd: int, directory: str, uuid: str, spared: Callable[[History], Container[str]]
    ) -> None:
        """
        Finish what a killed prune has left, unless somebody reads: then the next writer does.

        Where it cannot be finished, as when a file cannot be removed, only prunes are in the way.
        """
        if exists(REMOVAL_FILE, fd) or exists(MERGE_FILE, fd):
            try:
                with self._no_readers(fd, 0.0):
                    self._recover(fd, directory, uuid, spared)
            except (FibackupError, OSError) as error:
                _log.warning("what a prune has left is not finished: %s", error)
        if not exists(MERGE_FILE, fd):
            remove_waiting(fd)

    def _recover(
        self, fd: int, directory: str, uuid: str, spared: Callable[[History], Container[str]]
    ) -> None:
        """Finish a merge and a removal, which takes no point that the caller spares."""
        recover_merge(fd)
        if exists(REMOVAL_FILE, fd):
            recover_removal(fd, self._history(fd, directory, uuid)[0], spared)

    def drop(self, uuid: str, step: DropPoints) -> int:
        """See `PointStore.drop`."""
        with (
            self._domain(uuid) as (fd, path),
            os_errors(f"{path}/{REMOVAL_FILE}"),
            self._no_readers(fd, step.wait_seconds),
        ):
            self._recover(fd, path.name, uuid, all_but(step.points))
            forget_independent(fd)
            fault = misfit(step, self._history(fd, path.name, uuid)[0])
            if fault is not None:
                raise StalePlanError(reason=f"{fault}; plan again")
            return drop_points(step, fd)

    def merge(
        self, uuid: str, step: MergeImages, on_event: OnEvent, cancel: CancelToken
    ) -> tuple[StoredImage, int]:
        """See `PointStore.merge`."""
        with (
            self._domain(uuid) as (fd, path),
            os_errors(f"{path}/{step.target}/{step.images[0].name}"),
        ):
            if exists(MERGE_FILE, fd) or exists(REMOVAL_FILE, fd):
                with self._no_readers(fd, step.wait_seconds):
                    self._recover(fd, path.name, uuid, all_but(()))  # it dropped its own before
            point = self._point_to_merge(step, fd, path, uuid)
            self._refuse_found_wrong(step, fd, path, uuid)
            prepared = prepare(step, point, fd, path, on_event, cancel)
            try:
                with self._no_readers(fd, step.wait_seconds):
                    self._refuse_found_wrong(step, fd, path, uuid)
                    put_in_place(prepared.merge, fd)
            except BaseException:
                if not exists(MERGE_FILE, fd):
                    remove_waiting(fd)
                raise
            return prepared.image, prepared.freed_bytes

    def _point_to_merge(
        self, step: MergeImages, fd: int, path: PurePosixPath, uuid: str
    ) -> RestorePoint:
        """Return the point whose images are merged, unless another one names any of them."""
        names = [step.point, *(image.name for image in step.images)]
        files = manifests_naming(fd, list_directory(fd), names)
        found = read_manifests(fd, files, store=self._uuid, uuid=uuid)
        fault = f"{found.unreadable[0][0]} is damaged" if found.unreadable else None
        fault = fault or shared(step, found.points)
        if fault is not None:
            raise StalePlanError(reason=f"{fault}; plan again")
        for point in found.points:
            if point.id == step.point:
                return point
        where = path / f"{step.point}{MANIFEST_SUFFIX}"
        raise NoSuchPointError(reason=f"no point {step.point}", path=str(where))

    def _refuse_found_wrong(
        self, step: MergeImages, fd: int, path: PurePosixPath, uuid: str
    ) -> None:
        """Refuse to make a sound image of what a verification has found wrong since the plan."""
        record, _ = record_of_faults(fd)
        if not (record.files or record.contents):  # as nearly always
            return
        fault = spoiled(step, self._history(fd, path.name, uuid)[0])
        if fault is not None:
            raise StalePlanError(reason=f"{fault}; plan again")

    @contextmanager
    def _no_readers(self, fd: int, wait_seconds: float) -> Generator[None]:
        """
        Keep readers away, whoever reads first of all.

        Nobody signs this lock: readers share it, and another writer waits at `WRITERS_LOCK`. So it
        may be one file with that of a copy of the store.
        """
        with ExitStack() as held:
            try:
                held.enter_context(
                    hold_store_lock(
                        _READERS_LOCK,
                        fd,
                        exclusive=True,
                        wait_seconds=wait_seconds,
                        signed=False,
                    )
                )
            except LockedError as error:
                reason = "a restore or a verification reads the points of the domain"
                raise LockedError(reason=reason, path=error.path) from None
            yield

    def require_qemu_img(self) -> None:
        """See `PointStore.require_qemu_img`."""
        find_qemu_img()

    def require_compression(self) -> None:
        """See `PointStore.require_compression`."""
        require_compression()

    def copy_image(
        self, uuid: str, step: CopyImage, on_event: OnEvent, cancel: CancelToken
    ) -> StoredImage:
        """See `PointStore.copy_image`."""
        with self._domain(uuid) as (fd, path), os_errors(f"{path}/{step.target}/{step.name}"):
            make_directory(step.target, fd)
            with open_directory(step.target, fd) as disk:
                return copy_image(step, disk, path / step.target, on_event, cancel)

    def hash_content(
        self,
        uuid: str,
        target: str,
        image: StoredImage,
        on_event: OnEvent,
        cancel: CancelToken,
    ) -> str:
        """See `PointStore.hash_content`."""
        size = image.virtual_size_bytes

        def progress(position: int) -> None:
            on_event(CopyProgress(target, image.name, position, size))

        with self._domain(uuid) as (fd, path):
            with open_directory(target, fd) as disk:
                depth = stored_depth(image.name, disk)
            found, _ = hash_content(
                path / target / image.name,
                size,
                depth=depth,
                on_bytes=progress,
                pace=lambda _: None,
                cancel=cancel,
            )
        return found

    def save_config(self, uuid: str, name: str, text: str) -> StoredFile:
        """See `PointStore.save_config`."""
        return self._save(uuid, FileRole.DOMAIN_XML, name, text.encode())

    def save_state(self, uuid: str, step: SaveState, data: bytes) -> StoredFile:
        """See `PointStore.save_state`."""
        return self._save(uuid, step.role, step.name, data)

    def _save(self, uuid: str, role: FileRole, name: str, data: bytes) -> StoredFile:
        with self._domain(uuid) as (fd, path), os_errors(f"{path}/{name}"):
            write_unnamed(name, data, fd)
        return StoredFile(role, name, len(data), sha256(data).hexdigest())

    def copy_memory(
        self, uuid: str, step: CopyMemory, on_event: OnEvent, cancel: CancelToken
    ) -> StoredFile:
        """See `PointStore.copy_memory`."""
        with self._domain(uuid) as (fd, path), os_errors(f"{path}/{step.name}"):
            return copy_memory(step, fd, on_event, cancel)

    def read_config(self, uuid: str, file: StoredFile) -> str:
        """See `PointStore.read_config`."""
        with self._domain(uuid) as (fd, path), os_errors(f"{path}/{file.name}"):
            text = read_text(fd, file.name, f"{path}/{file.name}")
            data = text.encode()
            if (len(data), sha256(data).hexdigest()) != (file.size_bytes, file.sha256):
                raise VerifyError(
                    reason=f"{file.name} is not what its point says", path=f"{path}/{file.name}"
                )
            return text

    def restore_memory(
        self, uuid: str, step: RestoreMemory, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `PointStore.restore_memory`."""
        with self._domain(uuid) as (fd, path), os_errors(str(step.destination)):
            restore_memory(step, fd, path, on_event, cancel)

    def publish(self, point: RestorePoint) -> None:
        """See `PointStore.publish`."""
        with (
            self._domain(point.uuid) as (fd, path),
            os_errors(f"{path}/{point.id}{MANIFEST_SUFFIX}"),
        ):
            fsync_directory(self._fd)  # who made the domain's directory may have been killed
            publish_point(point, fd, path)

    def flatten(
        self, uuid: str, step: FlattenImage, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """See `PointStore.flatten`."""
        with self._disk(uuid, step) as (disk, path):
            return flatten(step, disk, path, on_event, cancel)

    def copy_chain(
        self, uuid: str, step: CopyStored, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """See `PointStore.copy_chain`."""
        with self._disk(uuid, step) as (disk, path):
            return copy_chain(step, disk, path, on_event, cancel)

    def create_linked(
        self, uuid: str, step: CreateLinked, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """See `PointStore.create_linked`."""

        def note() -> None:
            try:
                with self._domain(uuid) as (fd, _):
                    note_linked(step, fd)
            except (OSError, FibackupError) as error:
                on_event(Warned(_not_noted(step, error)))

        with self._disk(uuid, step) as (disk, path):
            return create_linked(step, disk, path, on_event, cancel, note)

    def make_directory(self, path: PurePosixPath) -> None:
        """See `PointStore.make_directory`."""
        with os_errors(str(path)):
            make_passage(path)

    def read_state(self, uuid: str, file: StoredFile) -> bytes:
        """See `PointStore.read_state`."""
        with self._domain(uuid) as (fd, path), os_errors(f"{path}/{file.name}"):
            return read_stored(file, fd, path)

    def restore_nvram(self, uuid: str, step: RestoreNvram) -> None:
        """See `PointStore.restore_nvram`."""
        data = self.read_state(uuid, step.file)
        with (
            os_errors(str(step.destination)),
            destination_directory(step.destination) as directory,
        ):
            write_restored(step.destination.name, data, directory)

    def inodes(self, paths: tuple[PurePosixPath, ...]) -> tuple[int, ...]:
        """See `PointStore.inodes`."""
        return tuple(map(inode_of, paths))

    def discard(self, path: PurePosixPath, inode: int) -> None:
        """See `PointStore.discard`."""
        discard(path, inode)

    def remove_directory(self, path: PurePosixPath) -> None:
        """See `PointStore.remove_directory`."""
        with suppress(OSError):
            os.rmdir(path)

    # --- directories ----------------------------------------------------------------------------

    @contextmanager
    def _disk(self, uuid: str, step: DiskRestore) -> Generator[tuple[int, PurePosixPath]]:
        """Give the directory of the disk that a step brings back."""
        with (
            self._domain(uuid) as (fd, path),
            os_errors(str(step.destination)),
            open_directory(step.target, fd) as disk,
        ):
            yield disk, path / step.target


def _wait_for_another(fd: int) -> None:
    """
    Wait for a run that makes the directory a store; remove what one that was killed has left.

    The lock, which lasts until *fd* is closed, tells the one from the other. NFS locks no
    directories, and strangers may lock this one: then it is waited for as long as that may take.
    """
    end = time.monotonic() + _MAKING_SECONDS
    while time.monotonic() < end:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        except OSError:
            if not exists(_UNNAMED, fd):
                return
        else:
            forget_temporary(STORE_FILE, fd)
            return
        time.sleep(_POLL_SECONDS)


def _not_noted(step: CreateLinked, error: OSError | FibackupError) -> str:
    """Say that a prune will know nothing of a linked disk."""
    why = error.strerror if isinstance(error, OSError) else error
    return (
        f"{step.target}: the store cannot note that {step.destination} lies on it ({why}): no "
        "prune spares its images while nobody has them open"
    )
