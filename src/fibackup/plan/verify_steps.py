"""The steps of a verification: which files are looked at, and which are read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

from attrs import evolve, field, frozen

from fibackup.model.checks import sha256_hex
from fibackup.model.verification import READS_OTHERWISE, CheckedContent
from fibackup.units import counted, format_bytes

__all__ = ["ContentToVerify", "ExpectedHeader", "FileToVerify", "VerifyContents", "VerifyFiles"]


@frozen
class ExpectedHeader:
    """
    What the header of a stored image must say.

    Attributes:
        backing: Backing file name, None for a base.
        virtual_size_bytes: What a guest sees.
    """

    backing: str | None
    virtual_size_bytes: int


@frozen
class FileToVerify:
    """
    A file, and what its manifest says of it.

    Attributes:
        file: The file, in the domain's directory, such as ``"vda/20261124T040407Z.qcow2"``.
        size_bytes: Its size.
        sha256: Its sha256.
        header: What its header must say; None for a file that is no image.
        read: True: it is read in full. False: only its size and its header are looked at.
    """

    file: str
    size_bytes: int
    sha256: str = field(validator=sha256_hex)
    header: ExpectedHeader | None
    read: bool


@frozen
class VerifyFiles:
    """
    Compare files with what their manifests say; one that is wrong does not keep others from it.

    Attributes:
        files: The files; they are begun in this order.
        run: Number of the verification, for the record; 0: the next one, where it is no
            verification that is planned.
        rate_bytes: Bytes in a second that are read at most, 0 without a limit.
        record_fault: What is wrong with the record, which is written anew; empty when nothing is.
    """

    files: tuple[FileToVerify, ...]
    run: int
    rate_bytes: int = 0
    record_fault: str = ""

    @property
    def read_bytes(self) -> int:
        """Bytes that are read in full."""
        return sum(each.size_bytes for each in self.files if each.read)

    def __str__(self) -> str:
        """Return how many files are looked at and read."""
        read = sum(each.read for each in self.files)
        size = format_bytes(self.read_bytes)
        rate = f", {format_bytes(self.rate_bytes)}/s at most" if self.rate_bytes else ""
        files = counted(len(self.files), "file")
        return f"look at {files}, read and hash {read} of them ({size}{rate})"


@frozen
class ContentToVerify:
    """
    A disk, to be read as a guest does.

    Attributes:
        target: The disk.
        images: Names of its images, top first.
        checked: Those of them whose structure ``qemu-img check`` looks at.
        chain: Their fingerprint, for the record.
        virtual_size_bytes: What a guest sees.
        estimate_bytes: What its images take.
        recorded: sha256 of the flat content, as points say that were taken with one.
        earlier: What the record has of it, or None.
    """

    target: str
    images: tuple[str, ...]
    checked: tuple[str, ...]
    chain: str
    virtual_size_bytes: int
    estimate_bytes: int
    recorded: tuple[str, ...] = ()
    earlier: CheckedContent | None = None

    @property
    def since(self) -> int | None:
        """Number of the verification that found what it is compared with; see `ContentCheck`."""
        if self.recorded:
            return 0
        if self.earlier is None or self.earlier.reference is None:
            return None
        return self.earlier.last_right if self.earlier.fault else self.earlier.compared_since

    @property
    def file(self) -> str:
        """The top image, in the domain's directory."""
        return f"{self.target}/{self.images[0]}"

    def judged(self, sha256: str) -> str:
        """
        Compare what was read with what it was.

        Args:
            sha256: sha256 of the flat content.

        Returns:
            What is wrong, in words; empty when nothing is.

        Source:
            docs/verify.md, "In depth".
        """
        known = dict.fromkeys(self.recorded, "when the point was taken")
        before = self.earlier.reference if self.earlier is not None else None
        if not known and before is not None:
            known[before] = "when it was read before"
        for each, when in known.items():
            if each != sha256:
                return f"{READS_OTHERWISE} than {when}: sha256 {sha256}, {each} then"
        return ""


@frozen
class VerifyContents:
    """
    Check the structure of images, and read disks as a guest does.

    Attributes:
        contents: The disks; they are begun in this order.
        run: Number of the verification, for the record.
        rate_bytes: Bytes in a second that are read at most, 0 without a limit.
    """

    contents: tuple[ContentToVerify, ...]
    run: int
    rate_bytes: int = 0

    @property
    def read_bytes(self) -> int:
        """Bytes that are read, more or less."""
        return sum(each.estimate_bytes for each in self.contents)

    def __str__(self) -> str:
        """Return how many disks and images there are."""
        size, images = format_bytes(self.read_bytes), sum(len(c.checked) for c in self.contents)
        return (
            f"check the structure of {counted(images, 'image')}, "
            f"read {counted(len(self.contents), 'disk')} as a guest does (about {size})"
        )

    def without(self, bad: Collection[str]) -> Self:
        """
        Return the step without the disks that read through files that are known to be bad.

        Args:
            bad: Files in the domain's directory.

        Source:
            docs/verify.md, "In depth".
        """
        contents = tuple(
            each
            for each in self.contents
            if not any(f"{each.target}/{name}" in bad for name in each.images)
        )
        return evolve(self, contents=contents)
