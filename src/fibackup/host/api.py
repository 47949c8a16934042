"""
The two seams to the outside: the domain (`Host`) and the backup directory (`PointStore`).

::

    Executor --- Host         libvirt: read the domain, ledger, freeze, snapshot
             `-- PointStore   a directory: lock, history, copies, manifests, restores

Each method does one kind of step. `fibackup.testing` has a fake of both, and one contract suite
holds the fakes and the real ones to the same promises.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import PurePosixPath
from typing import Protocol

from fibackup.host.cancel import CancelToken
from fibackup.host.events import OnEvent
from fibackup.model.domain import Domain, ImageUse
from fibackup.model.host_facts import HostFacts
from fibackup.model.ledger import Ledger
from fibackup.model.point import FileRole, History, RestorePoint, StoredFile, StoredImage, Versions
from fibackup.model.snapshot import Snapshot
from fibackup.model.verification import ContentCheck, FileCheck, Survey, VerificationRecord
from fibackup.plan.prune_steps import DropPoints, MergeImages
from fibackup.plan.removal import spare_none
from fibackup.plan.report import RestoredImage
from fibackup.plan.steps import (
    CommitImages,
    CommitOffline,
    CopyImage,
    CopyMemory,
    CopyStored,
    CreateLinked,
    DefineDomain,
    FinishBlockJob,
    FlattenImage,
    MendHeader,
    PullImages,
    RestoreMemory,
    RestoreNvram,
    ResumeDomain,
    SaveState,
)
from fibackup.plan.verify_steps import VerifyContents, VerifyFiles

__all__ = ["Host", "PointStore"]


class Host(Protocol):
    """A hypervisor: what a plan needs of libvirt."""

    def locked(self, uuid: str) -> AbstractContextManager[None]:
        """
        Hold the lock on a domain of this host; two runs on one domain never meet.

        Args:
            uuid: The domain's UUID.

        Returns:
            A context manager; the lock is held inside.

        Raises:
            LockedError: Another run works on the domain, also one with another store.

        Source:
            flock(2).
        """
        ...

    def read_domain(self, name: str) -> Domain:
        """
        Read a domain with its disks, chains, images and ledger.

        Args:
            name: Name or UUID.

        Returns:
            The domain as it is now.

        Raises:
            NoSuchDomainError: No domain has this name or UUID.
            ParseError: The XML or the ledger cannot be understood.
            LibvirtError: libvirt refused.

        Source:
            libvirt ``virDomainGetXMLDesc``, ``virDomainGetState``, ``virDomainGetMetadata``.
        """
        ...

    def versions(self) -> Versions:
        """
        Return the versions of fibackup, libvirt and the hypervisor.

        Source:
            libvirt ``virConnectGetLibVersion``, ``virConnectGetVersion``.
        """
        ...

    def domain_config(self, uuid: str, *, secrets: bool = False) -> str:
        """
        Return the domain's XML as libvirt gives it: the persistent definition.

        Args:
            uuid: The domain's UUID.
            secrets: True: with passwords, which libvirt leaves out otherwise.

        Source:
            libvirt ``virDomainGetXMLDesc`` with ``VIR_DOMAIN_XML_INACTIVE``, and
            ``VIR_DOMAIN_XML_SECURE`` with secrets.
        """
        ...

    def autostart(self, uuid: str) -> bool:
        """
        Tell whether libvirt starts the domain when the host boots.

        Args:
            uuid: The domain's UUID.

        Source:
            libvirt ``virDomainGetAutostart``.
        """
        ...

    def read_state(self, uuid: str, role: FileRole) -> bytes:
        """
        Return what the domain keeps outside of its disks.

        Args:
            uuid: The domain's UUID.
            role: The firmware's variables, or the state of the TPM.

        Returns:
            The variables as their file has them; of a TPM a tar archive of swtpm's files.

        Raises:
            HostError: It is not there, is no file, or cannot be read.
            ParseError: The XML does not say where it is.

        Source:
            libvirt, "Domain XML format": ``os/nvram``, ``tpm``.
        """
        ...

    def write_ledger(self, uuid: str, ledger: Ledger) -> None:
        """
        Replace the domain's ledger, in the running and in the persistent definition.

        Args:
            uuid: The domain's UUID.
            ledger: The new ledger.

        Raises:
            LibvirtError: libvirt refused; the old ledger stands.

        Source:
            libvirt ``virDomainSetMetadata``.
        """
        ...

    def occupied(self, paths: tuple[PurePosixPath, ...]) -> tuple[PurePosixPath, ...]:
        """
        Return those of *paths* that exist, dangling links included.

        Args:
            paths: Absolute paths.

        Raises:
            PermissionDeniedError: A directory in which one would be made cannot be written.

        Source:
            lstat(2), statvfs(3).
        """
        ...

    def take_snapshot(self, uuid: str, snapshot: Snapshot) -> datetime:
        """
        Put the overlays on all disks at once.

        Args:
            uuid: The domain's UUID.
            snapshot: The overlays, and the disks that get none.

        Returns:
            The time right after the snapshot, aware, UTC.

        Raises:
            StalePlanError: The domain has other disks than the snapshot names. Nothing was touched.
            LibvirtError: libvirt refused; no disk got an overlay.

        Source:
            libvirt ``virDomainSnapshotCreateXML``: ``DISK_ONLY | ATOMIC | NO_METADATA``, with
            memory ``LIVE | ATOMIC | NO_METADATA``.
        """
        ...

    def image_uses(self, uuid: str, paths: tuple[PurePosixPath, ...]) -> tuple[ImageUse, ...]:
        """
        Return which of *paths* other domains use, live or in their persistent definitions.

        Those that several disks of the domain itself use are among them, once for each disk. So
        are those of which it cannot be told, see `ImageUse.doubt`.

        Args:
            uuid: The domain whose own use by one disk does not count.
            paths: Its images.

        Raises:
            LibvirtError: libvirt refused.

        Source:
            libvirt ``virConnectListAllDomains``; images are compared by device and inode.
        """
        ...

    def run_block_job(
        self, uuid: str, job: CommitImages | PullImages, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """
        Run a block job to its end; the chain is read again before this returns.

        Args:
            uuid: The domain's UUID.
            job: What to commit or pull.
            on_event: Gets `CopyProgress`.
            cancel: Aborts the job.

        Raises:
            BlockJobError: It failed, or was aborted after its time limit: the chain is as before;
                or what it wrote is lost, see `BlockJobError.unsafe`.
            CancelledError: *cancel* was set; the chain is as before.

        Source:
            libvirt ``virDomainBlockCommit``, ``virDomainBlockRebase``.
        """
        ...

    def commit_offline(
        self, uuid: str, job: CommitOffline, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """
        Commit overlays of a domain that is off into their base, and define the domain with that.

        Args:
            uuid: The domain's UUID.
            job: What to commit.
            on_event: Gets `CopyProgress`.
            cancel: Ends the commit.

        Raises:
            DomainBusyError: The domain runs, or was started in between. Its definition stands.
            HostError: The commit failed. The definition stands, and shows what it showed before.
            CancelledError: *cancel* was set; the same.

        Source:
            qemu-img(1), ``commit``; libvirt ``virDomainDefineXML``.
        """
        ...

    def finish_block_job(
        self, uuid: str, step: FinishBlockJob, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """
        Wait for the end of a job that runs already; pivot when it waits for that.

        Args:
            uuid: The domain's UUID.
            step: The disk, and how long to wait.
            on_event: Gets `CopyProgress`.
            cancel: Aborts the job.

        Raises:
            BlockJobError: It failed, or was aborted after its time limit; or what it wrote is lost,
                see `BlockJobError.unsafe`.
            CancelledError: *cancel* was set; the job was aborted.

        Source:
            libvirt ``virDomainGetBlockJobInfo``, ``virDomainBlockJobAbort``.
        """
        ...

    def delete_image(self, uuid: str, path: PurePosixPath) -> None:
        """
        Delete an overlay of ours that nothing uses any more; one that is gone already is fine.

        Args:
            uuid: The domain that it belonged to.
            path: The overlay.

        Raises:
            DomainBusyError: A chain still has it, or a process has it open. It stays.

        Source:
            docs/design.md: only images in the ledger are ever deleted.
        """
        ...

    def mend_header(self, uuid: str, step: MendHeader) -> None:
        """
        Write another name into the header of an overlay of a domain that is off.

        Args:
            uuid: The domain's UUID.
            step: The overlay, and what it is to lie on.

        Raises:
            DomainBusyError: The domain was started. Nothing was written.
            HostError: The header cannot be written, or somebody has the image open.

        Source:
            qemu-img(1), ``rebase -u``.
        """
        ...

    def resume_guest(self, uuid: str) -> None:
        """
        Let a paused guest go on; one that is not paused stays as it is.

        Args:
            uuid: The domain's UUID.

        Raises:
            LibvirtError: libvirt refused.

        Source:
            libvirt ``virDomainResume``.
        """
        ...

    def delete_memory(self, uuid: str, path: PurePosixPath) -> None:
        """
        Delete a file with the guest's memory that a snapshot of ours wrote; a missing one is fine.

        Args:
            uuid: The domain's UUID.
            path: The file.

        Raises:
            DomainBusyError: It is not what a snapshot of ours writes. It stays.
            HostError: It cannot be deleted.

        Source:
            unlink(2).
        """
        ...

    def resume_domain(self, uuid: str, step: ResumeDomain, config: str) -> None:
        """
        Let a guest go on from its memory, define the domain, and delete the file with the memory.

        Args:
            uuid: The domain's UUID.
            step: The memory, the disks, and whether the guest is left paused.
            config: The domain's stored XML, without its disks' restored images.

        Raises:
            DomainBusyError: The domain runs. Nothing was touched.
            ForeignConfigError: The XML in the file with the memory reaches out of the guest, and
                the step does not allow it. Nothing was touched.
            VerifyError: That XML is another domain's. Nothing was touched.
            LibvirtError: libvirt refused; the old definition stands. ``reason`` says so when the
                guest runs and only its definition could not be set.

        Source:
            libvirt ``virDomainRestoreFlags``, ``virDomainDefineXML``.
        """
        ...

    def foreign_parts(self, config: str, held: tuple[str, ...]) -> tuple[str, ...]:
        """
        Return, in words, what of a stored XML reaches out of a guest that is resumed.

        Args:
            config: The XML.
            held: Targets of the disks that are restored.

        Returns:
            The parts, such as ``"hostdev (pci)"``.

        Source:
            docs/memory.md, "Bringing the guest back".
        """
        ...

    def read_host(self) -> HostFacts:
        """
        Return which domains there are, and which emulators.

        Source:
            libvirt ``virConnectListAllDomains``, ``virConnectGetCapabilities``.
        """
        ...

    def define_domain(self, step: DefineDomain) -> None:
        """
        Define a domain that is not there yet.

        Args:
            step: Its definition.

        Raises:
            DomainExistsError: Its name or its UUID is taken. Nothing was touched.
            LibvirtError: libvirt refused. Nothing is defined.

        Source:
            libvirt ``virDomainDefineXML``, ``virDomainSetAutostart``.
        """
        ...

    def undefine_domain(self, step: DefineDomain) -> None:
        """
        End and forget a domain that a failed restore has defined; one that is not there is fine.

        Its NVRAM and the state of its TPM go too: the restore began only when there were none.

        Args:
            step: What defined it; a domain that has other disks is another's, and stays.

        Raises:
            DomainBusyError: The domain is not the one that was defined. It stays.
            LibvirtError: libvirt refused.

        Source:
            libvirt ``virDomainDestroy``, ``virDomainUndefineFlags``.
        """
        ...

    def smoke_start(self, uuid: str) -> None:
        """
        Start a domain paused, so that all of its images open, and end it.

        Args:
            uuid: The domain's UUID.

        Raises:
            LibvirtError: It does not start, or does not end.

        Source:
            libvirt ``virDomainCreateWithFlags`` with ``VIR_DOMAIN_START_PAUSED``.
        """
        ...

    def start_domain(self, uuid: str) -> None:
        """
        Start a domain.

        Args:
            uuid: The domain's UUID.

        Raises:
            LibvirtError: It does not start.

        Source:
            libvirt ``virDomainCreate``.
        """
        ...

    def find_tpm_state(self, uuid: str) -> PurePosixPath | None:
        """
        Return where libvirt keeps the state of a domain's TPM, None when there is no such place.

        A domain that is gone may have left one: it is then somebody's, and no restore touches it.

        Args:
            uuid: The domain's UUID; the domain need not be defined.

        Source:
            libvirt ``virTPMEmulatorInitPaths``.
        """
        ...

    def write_tpm(self, uuid: str, data: bytes) -> None:
        """
        Put the state of a TPM where libvirt keeps that of a domain.

        Args:
            uuid: The domain, which is defined and off.
            data: What `read_state` returned.

        Raises:
            DestinationExistsError: The domain has a state already. It was not touched.
            HostError: It cannot be written, or is not such an archive. Nothing is left.

        Source:
            libvirt ``virTPMEmulatorInitPaths``.
        """
        ...

    def freeze(self, uuid: str, timeout_seconds: float) -> int:
        """
        Freeze the guest's file systems.

        Args:
            uuid: The domain's UUID.
            timeout_seconds: How long to wait for the agent.

        Returns:
            Number of file systems frozen; 0 means that nothing is quiesced.

        Raises:
            AgentError: No answer, or a refusal; ``maybe_frozen`` says whether a thaw is due.

        Source:
            libvirt ``virDomainFSFreeze``, ``virDomainAgentSetResponseTimeout``.
        """
        ...

    def thaw(self, uuid: str, timeout_seconds: float) -> int:
        """
        Thaw the guest's file systems; tried again until it succeeds or the time is over.

        Whatever fails is tried again, a connection that was lost too. One that the caller keeps is
        not made anew; when it is lost, no further try is made.

        Args:
            uuid: The domain's UUID.
            timeout_seconds: How long to try.

        Returns:
            Number of file systems thawed; 0 means that none was frozen any more.

        Raises:
            AgentError: The guest may be frozen still.
            NoSuchDomainError: The domain is gone, and its guest with it.

        Source:
            libvirt ``virDomainFSThaw``.
        """
        ...


class PointStore(Protocol):
    """A backup directory: what a plan needs of it."""

    @property
    def uuid(self) -> str:
        """The store's UUID."""
        ...

    def locked(
        self,
        uuid: str,
        name: str,
        *,
        exclusive: bool,
        spared: Callable[[History], Container[str]] = spare_none,
    ) -> AbstractContextManager[None]:
        """
        Hold the lock on a domain's part of the store.

        Args:
            uuid: The domain's UUID.
            name: Its name, for the directory when that is new.
            exclusive: True to write (the directory is made when missing), False to read.
            spared: Gives the ids of points that stay, although a prune was interrupted while it
                took them away: a writer finishes that first. Asked under the lock, with what the
                store holds then, and only when there is such a prune; when it raises, that waits.

        Returns:
            A context manager; the lock is held inside.

        Raises:
            LockedError: Another run holds it; a reader waits some time for a prune first.
            PermissionDeniedError: To write, and others can write the store too.

        Source:
            flock(2).
        """
        ...

    def read_history(self, uuid: str) -> History:
        """
        Read every manifest and receipt of a domain, and what verifications have found wrong.

        Args:
            uuid: The domain's UUID.

        Returns:
            The history; empty when the store does not know the domain.

        Raises:
            ManifestError: A manifest is damaged.
            FormatTooNewError: A newer fibackup wrote it.

        Source:
            docs/store-format.md.
        """
        ...

    def read_record(self, uuid: str) -> VerificationRecord:
        """
        Return when what was last verified; nothing, when the record is damaged or is not there.

        Args:
            uuid: The domain's UUID.

        Raises:
            FormatTooNewError: A newer fibackup wrote it.

        Source:
            docs/store-format.md, ``verified.json``.
        """
        ...

    def images_in_use(self, uuid: str, *, wait_seconds: float = 0.0) -> Mapping[str, str]:
        """
        Return the stored images that are needed beside their points, and of each in words by whom.

        A process has them open, such as a domain that runs on a linked disk; or a linked disk lies
        on them that nobody uses now, as the domain is off.

        Args:
            uuid: The domain whose points they are of.
            wait_seconds: How long to wait for those who read the domain's points, as they have
                images open too; 0: they are not told from others. Read the history after this: a
                verification that was waited for may have found something wrong.

        Returns:
            By file, such as ``"vda/20261124T040407Z.qcow2"``. File systems without QEMU's locks
            tell of no process.

        Raises:
            LockedError: Somebody still reads after *wait_seconds*, which are more than 0.
            ManifestError: The store's list of linked disks is damaged.

        Source:
            QEMU block/file-posix.c, image locking; docs/store-format.md, ``linked.json``.
        """
        ...

    def survey(self, uuid: str) -> Survey:
        """
        Look at what lies in a domain's directory: manifests are read, of other files the names.

        Args:
            uuid: The domain's UUID.

        Returns:
            The history, the files, and the record of earlier verifications.

        Raises:
            FormatTooNewError: A newer fibackup wrote a manifest or the record.

        Source:
            docs/verify.md.
        """
        ...

    def verify_files(
        self,
        uuid: str,
        step: VerifyFiles,
        on_event: OnEvent,
        cancel: CancelToken,
        *,
        threads: int = 4,
    ) -> tuple[FileCheck, ...]:
        """
        Compare files with what their manifests say; what was read is recorded as it is done.

        Args:
            uuid: The domain's UUID.
            step: The files.
            on_event: Gets `CopyProgress` and `FileVerified`, from several threads.
            cancel: Asked between two blocks.
            threads: Files that are read at the same time.

        Returns:
            One check for each file, in the order of the step; what is wrong is no error.

        Raises:
            PermissionDeniedError: The files may not be read.
            CancelledError: *cancel* was set; what was finished is recorded.

        Source:
            docs/verify.md.
        """
        ...

    def verify_contents(
        self,
        uuid: str,
        step: VerifyContents,
        on_event: OnEvent,
        cancel: CancelToken,
        *,
        threads: int = 4,
    ) -> tuple[ContentCheck, ...]:
        """
        Check the structure of images, and read disks as a guest does; recorded as it is done.

        Args:
            uuid: The domain's UUID.
            step: The disks.
            on_event: Gets `CopyProgress` and `FileVerified`, from several threads.
            cancel: Asked between two blocks.
            threads: Disks that are read at the same time.

        Returns:
            One check for each disk, in the order of the step; what is wrong is no error.

        Raises:
            RequirementError: qemu-img or qemu-nbd is missing.
            CancelledError: *cancel* was set; what was finished is recorded.

        Source:
            docs/verify.md, "In depth".
        """
        ...

    def occupied(self, paths: tuple[PurePosixPath, ...]) -> tuple[PurePosixPath, ...]:
        """
        Return those of *paths*, destinations of a restore, that exist, dangling links included.

        Args:
            paths: Absolute paths.

        Source:
            lstat(2).
        """
        ...

    def free_bytes(self) -> int:
        """
        Return the free bytes of the store's file system.

        Source:
            statvfs(3).
        """
        ...

    def require_qemu_img(self) -> None:
        """
        Make sure that there is a qemu-img, which writes flat images and overlays.

        Raises:
            RequirementError: There is none.

        Source:
            docs/restore.md, "What it needs".
        """
        ...

    def require_compression(self) -> None:
        """
        Make sure that images can be compressed.

        Raises:
            RequirementError: qemu-img is missing, too old, or was built without zstd.

        Source:
            docs/backup.md, "Compression".
        """
        ...

    def copy_image(
        self, uuid: str, step: CopyImage, on_event: OnEvent, cancel: CancelToken
    ) -> StoredImage:
        """
        Copy a frozen image into the store and leave a receipt; thread-safe.

        Args:
            uuid: The domain's UUID.
            step: What to copy, and what it must be.
            on_event: Gets `CopyProgress` and `ImageCopied`.
            cancel: Asked between two blocks.

        Returns:
            The stored image; complete and durable.

        Raises:
            DomainBusyError: A writer holds the image, or it is not what the step wants.
            NoSpaceError: The store is full.
            HostError: Any other failure. Nothing of the copy is left behind.

        Source:
            docs/store-format.md, "Writing order".
        """
        ...

    def hash_content(
        self,
        uuid: str,
        target: str,
        image: StoredImage,
        on_event: OnEvent,
        cancel: CancelToken,
    ) -> str:
        """
        Return the sha256 of what a guest reads of a stored image and of all those under it.

        Args:
            uuid: The domain's UUID.
            target: The disk.
            image: The top image; it need not be in a point yet.
            on_event: Gets `CopyProgress`.
            cancel: Asked between two blocks.

        Returns:
            64 hexadecimal digits.

        Raises:
            RequirementError: qemu-nbd is missing.
            HostError: The images cannot be read. Nothing was touched.
            CancelledError: *cancel* was set.

        Source:
            docs/verify.md, "In depth".
        """
        ...

    def save_config(self, uuid: str, name: str, text: str) -> StoredFile:
        """
        Store the domain's XML.

        Args:
            uuid: The domain's UUID.
            name: File name.
            text: The XML.

        Returns:
            The stored file; complete and durable, and it gets its name with its point.

        Source:
            docs/store-format.md, "Writing order".
        """
        ...

    def save_state(self, uuid: str, step: SaveState, data: bytes) -> StoredFile:
        """
        Store what a domain keeps outside of its disks.

        Args:
            uuid: The domain's UUID.
            step: What it is, and the file's name.
            data: What `Host.read_state` returned.

        Returns:
            The stored file; complete and durable, and it gets its name with its point.

        Source:
            docs/store-format.md, "Writing order".
        """
        ...

    def copy_memory(
        self, uuid: str, step: CopyMemory, on_event: OnEvent, cancel: CancelToken
    ) -> StoredFile:
        """
        Copy a file with a guest's memory into the store.

        Args:
            uuid: The domain's UUID.
            step: What to copy.
            on_event: Gets `CopyProgress`, with ``"memory"`` as its target.
            cancel: Asked between two blocks.

        Returns:
            The stored file; complete and durable, and it gets its name with its point.

        Raises:
            HostError: It is no complete file of memory, or reading or writing failed. Nothing of
                the copy is left.
            DomainBusyError: It changed while it was copied.

        Source:
            docs/store-format.md, "Memory".
        """
        ...

    def read_config(self, uuid: str, file: StoredFile) -> str:
        """
        Read the stored XML of a domain.

        Args:
            uuid: The domain's UUID.
            file: The file, as its point names it.

        Returns:
            The XML.

        Raises:
            VerifyError: It is not what its point says.

        Source:
            docs/store-format.md, ``files``.
        """
        ...

    def restore_memory(
        self, uuid: str, step: RestoreMemory, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """
        Write the memory of a point to a file.

        Args:
            uuid: The domain's UUID.
            step: The stored file and the destination.
            on_event: Gets `CopyProgress`, with ``"memory"`` as its target.
            cancel: Asked between two blocks.

        Raises:
            VerifyError: The stored file is not what its point says. Nothing is written.
            DestinationExistsError: The destination exists. Nothing is written.

        Source:
            docs/store-format.md, "Memory".
        """
        ...

    def publish(self, point: RestorePoint) -> None:
        """
        Write the manifest: from here on the point exists.

        Args:
            point: The point; everything that it names is durable.

        Raises:
            StoreError: A file that it names is missing, an image lies on one that no point has or
                that is gone, or the manifest exists.

        Source:
            docs/store-format.md, "Writing order".
        """
        ...

    def drop(self, uuid: str, step: DropPoints) -> int:
        """
        Take points away, and delete what nothing needs any more.

        Those who read are waited for. Whatever happens, every published point is whole; what is
        not done after a failure is finished under the next exclusive lock.

        Args:
            uuid: The domain's UUID.
            step: What to drop, and which points take over images.

        Returns:
            Bytes that the file system gets back.

        Raises:
            LockedError: Somebody still reads after the time of the step. Nothing was touched.
            DomainBusyError: A domain runs on an image that would go. Nothing was touched.
            HostError: A file cannot be written or removed.

        Source:
            docs/store-format.md, "Writing order".
        """
        ...

    def merge(
        self, uuid: str, step: MergeImages, on_event: OnEvent, cancel: CancelToken
    ) -> tuple[StoredImage, int]:
        """
        Make one image of several of a point, beside them, then put it in their place.

        Those who read are waited for at the end only. Whatever happens, every published point
        reads the same; what is not done after a failure is finished under the next exclusive lock.

        Args:
            uuid: The domain's UUID.
            step: The images.
            on_event: Gets `CopyProgress` and `ImageCopied`.
            cancel: Asked while the new image is written.

        Returns:
            The new image, and the bytes that the file system gets back; they may be negative.

        Raises:
            LockedError: Somebody still reads after the time of the step. Nothing was touched.
            VerifyError: A stored image is not what its manifest says. Nothing was touched.
            StoreError: The point has other images. Nothing was touched.
            NoSpaceError: The store is full. Nothing was touched.
            HostError: Any other failure.

        Source:
            docs/store-format.md, "Writing order".
        """
        ...

    def flatten(
        self, uuid: str, step: FlattenImage, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """
        Write a disk of a point as one image; thread-safe.

        Args:
            uuid: The domain's UUID.
            step: The stored images and the destination.
            on_event: Gets `CopyProgress`.
            cancel: Asked while it runs.

        Returns:
            The image that was written.

        Raises:
            VerifyError: A stored image is not what its manifest says. Nothing is written.
            DestinationExistsError: The destination exists. Nothing is written.

        Source:
            qemu-img(1), ``convert``.
        """
        ...

    def copy_chain(
        self, uuid: str, step: CopyStored, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """
        Copy the stored images of a disk, with their relative backing names.

        Args:
            uuid: The domain's UUID.
            step: The stored images and the directory of the copies.
            on_event: Gets `CopyProgress`.
            cancel: Asked while it runs.

        Returns:
            The copy that shows the disk.

        Raises:
            VerifyError: A stored image is not what its manifest says. Nothing is left.
            DestinationExistsError: A destination exists. Nothing is left.

        Source:
            docs/restore.md, "Three forms".
        """
        ...

    def create_linked(
        self, uuid: str, step: CreateLinked, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """
        Make an overlay on the store's own image of a disk.

        Args:
            uuid: The domain's UUID.
            step: The stored images and the overlay.
            on_event: Gets `CopyProgress`, while the stored images are read.
            cancel: Asked while it runs.

        Returns:
            The overlay.

        Raises:
            VerifyError: A stored image is not what its manifest says. Nothing is written.
            DestinationExistsError: The destination exists. Nothing is written.

        Source:
            qemu-img(1), ``create``.
        """
        ...

    def make_directory(self, path: PurePosixPath) -> None:
        """
        Make a directory that others may pass through, and not list; an existing one is fine.

        Args:
            path: The directory.

        Source:
            mkdir(2), mode 0711.
        """
        ...

    def read_state(self, uuid: str, file: StoredFile) -> bytes:
        """
        Read what a domain kept outside of its disks.

        Args:
            uuid: The domain's UUID.
            file: The file, as its point names it.

        Returns:
            What `save_state` was given.

        Raises:
            VerifyError: It is not what its point says.

        Source:
            docs/store-format.md, ``files``.
        """
        ...

    def restore_nvram(self, uuid: str, step: RestoreNvram) -> None:
        """
        Write the firmware's NVRAM of a point to a file.

        Args:
            uuid: The domain's UUID.
            step: The stored file and the destination.

        Raises:
            VerifyError: The stored file is not what its point says. Nothing is written.
            DestinationExistsError: The destination exists. Nothing is written.

        Source:
            docs/restore.md, "A domain of it".
        """
        ...

    def inodes(self, paths: tuple[PurePosixPath, ...]) -> tuple[int, ...]:
        """
        Return the inode of each restored file, 0 where there is none.

        Args:
            paths: Absolute paths.

        Source:
            lstat(2).
        """
        ...

    def discard(self, path: PurePosixPath, inode: int) -> None:
        """
        Remove a file that a failed restore made; another one in its place stays.

        Args:
            path: The file; a missing one is fine.
            inode: The inode of the one that was made.

        Raises:
            DomainBusyError: A process has it open as QEMU does. It stays.
            HostError: It cannot be removed.

        Source:
            unlink(2).
        """
        ...

    def remove_directory(self, path: PurePosixPath) -> None:
        """
        Remove a directory that a failed restore made; one that is not empty stays.

        Args:
            path: The directory; a missing one is fine.

        Source:
            rmdir(2).
        """
        ...
