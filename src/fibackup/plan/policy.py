"""What a caller wants of a backup: values, checked for contradictions when they are made."""

from __future__ import annotations

from enum import StrEnum

from attrs import field, frozen

from fibackup.errors import PolicyError
from fibackup.model.point import History
from fibackup.plan.wishes import flag, flag_or_none, member, names

__all__ = ["BackupPolicy", "Quiesce"]


class Quiesce(StrEnum):
    """Whether the guest's file systems are frozen for the snapshot: must be, may be, are not."""

    REQUIRE = "require"
    TRY = "try"
    OFF = "off"


@frozen
class BackupPolicy:
    """
    What the caller wants.

    Attributes:
        disks: Targets to back up; empty means all.
        exclude: Targets to leave out.
        quiesce: Whether to freeze the guest.
        freeze_timeout_seconds: Time limit for the guest agent, and again for the thaw.
        full: True: a full of every disk, even where an increment is proven.
        skip_unsupported: True: leave out, with a warning, what cannot be backed up; False: refuse.
        allow_paused: True: a domain that its owner paused is backed up as it stands.
        memory: True: the guest's memory is in the point too, of the same moment as the disks.
        offline: True: a domain that is off is backed up as it lies; False: refuse it.
        consolidate: True: once the point is published, what lies between the active layer and the
            disk's own image is committed into that (rolling consolidation).
        secrets: True: the stored XML has the passwords that libvirt otherwise leaves out.
        compress: True: the images that the point adds are stored with compressed clusters (zstd);
            False: they are not; None: as the store says, `History.compress`.
        content_hash: True: each disk of the point is read once, as a guest reads it, and the
            sha256 of that is in the manifest; costs a reading of the whole disk.
    """

    disks: tuple[str, ...] = field(default=(), validator=names)
    exclude: tuple[str, ...] = field(default=(), validator=names)
    quiesce: Quiesce = field(default=Quiesce.TRY, validator=member(Quiesce))
    freeze_timeout_seconds: float = 60.0
    full: bool = field(default=False, validator=flag)
    skip_unsupported: bool = field(default=False, validator=flag)
    allow_paused: bool = field(default=False, validator=flag)
    consolidate: bool = field(default=False, validator=flag)
    offline: bool = field(default=True, validator=flag)
    memory: bool = field(default=False, validator=flag)
    secrets: bool = field(default=False, validator=flag)
    compress: bool | None = field(default=None, validator=flag_or_none)
    content_hash: bool = field(default=False, validator=flag)

    def __attrs_post_init__(self) -> None:
        """Refuse wishes that contradict each other."""
        both = sorted(set(self.disks) & set(self.exclude))
        if both:
            raise PolicyError(reason=f"asked for and excluded: {', '.join(both)}")
        if self.memory and self.quiesce is Quiesce.REQUIRE:
            raise PolicyError(
                reason="with memory there is no freeze to require: what the guest has not written "
                "yet is in its memory"
            )
        if self.freeze_timeout_seconds <= 0:
            raise PolicyError(reason="the time limit of a freeze must be more than 0 seconds")

    def compresses(self, history: History) -> bool:
        """
        Tell whether the images of a point are compressed.

        Args:
            history: What the store holds; it decides where the caller does not.

        Source:
            docs/backup.md, "Compression".
        """
        return history.compress if self.compress is None else self.compress
