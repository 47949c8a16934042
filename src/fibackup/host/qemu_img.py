"""
qemu-img: one function is one command line, every format is said, nothing is probed.

Children run without a shell, with absolute paths, a clean environment, resource limits, a time
limit, and a umask that keeps others out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import IO

from fibackup.errors import (
    NoSpaceError,
    ParseError,
    PermissionDeniedError,
    QemuImgError,
    RequirementError,
)
from fibackup.host.cancel import CancelToken
from fibackup.host.child import bound_to_us, limit_address_space, limit_files
from fibackup.parse.qemu_img_json import CheckResult, Extent, is_stale_count, parse_check, parse_map

__all__ = [
    "allocation",
    "check",
    "commit",
    "compare",
    "compress",
    "convert",
    "create_empty",
    "create_overlay",
    "create_zstd",
    "find_program",
    "find_qemu_img",
    "gather",
    "qemu_img_version",
    "rebase_header",
    "shows_the_same_on",
]

OnPercent = Callable[[float], None]

_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_POLL_SECONDS = 0.2
_VERSION = re.compile(rb"qemu-img version (\d+(?:\.\d+)*)")
_VERSION_SECONDS = 30.0
_STALL_SECONDS = 3600.0


def find_qemu_img() -> str:
    """
    Return the absolute path of qemu-img.

    Returns:
        ``$FIBACKUP_QEMU_IMG``, else what the PATH has.

    Raises:
        RequirementError: There is none.

    Source:
        docs/restore.md, "What it needs".
    """
    return find_program("qemu-img", "FIBACKUP_QEMU_IMG")


def find_program(name: str, variable: str) -> str:
    """
    Return the absolute path of a program of QEMU.

    Args:
        name: The program, of the package qemu-utils.
        variable: Of the environment; it says another path.

    Raises:
        RequirementError: There is none, or what the variable says is no program.
    """
    said = os.environ.get(variable)
    if said and shutil.which(said) is None:
        raise RequirementError(
            reason=f"{name}: ${variable} says {said}, and no such program can be run",
            path=said,
            remedy=f"correct or unset {variable}",
        )
    found = said or shutil.which(name)
    if not found:
        raise RequirementError(
            reason=f"{name} is missing; on Debian it is in the package qemu-utils"
        )
    return found


def qemu_img_version() -> str | None:
    """
    Return the version of qemu-img, such as ``"7.2.22"``; None where there is none.

    Raises:
        RequirementError: What is called qemu-img is none.

    Source:
        qemu-img(1), ``--version``.
    """
    try:
        program = find_qemu_img()
    except RequirementError as error:
        if error.path is not None:  # the environment says where it is, and it is not there
            raise
        return None
    try:
        done = subprocess.run(
            [program, "--version"],
            check=False,
            capture_output=True,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.DEVNULL,
            timeout=_VERSION_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequirementError(reason=f"it does not start: {error}", path=program) from error
    found = _VERSION.search(done.stdout)
    if found is None:
        raise RequirementError(reason="it does not tell its version", path=program)
    return found[1].decode()


def convert(
    source: PurePosixPath,
    source_format: str,
    destination: PurePosixPath,
    destination_format: str,
    *,
    depth: int = 1,
    on_percent: OnPercent,
    cancel: CancelToken,
) -> None:
    """
    Write what a guest sees of *source* into a new image without a backing file.

    The source is opened without ``-U``: QEMU's lock keeps writers away.

    Args:
        source: Absolute path; its backing files are read through.
        source_format: Its format.
        destination: Absolute path; an existing file of size 0 keeps its mode.
        destination_format: ``"qcow2"`` or ``"raw"``.
        depth: Images that the source consists of, those under it included.
        on_percent: Called with 0 to 100.
        cancel: Ends the child.

    Raises:
        QemuImgError: It failed; the destination is incomplete.
        CancelledError: *cancel* was set; the destination is incomplete.

    Source:
        qemu-img(1), ``convert``.
    """
    argv = [
        find_qemu_img(), "convert", "-p",
        "-f", source_format, "-O", destination_format,
        "-t", "writeback", "-T", "writeback",
        "--", str(source), str(destination),
    ]  # fmt: skip
    _run(argv, on_percent, cancel, images=depth + 1)


def compress(
    source: str,
    destination: PurePosixPath,
    backing: str | None,
    cluster_bytes: int,
    *,
    method: str = "zstd",
    depth: int = 1,
    on_percent: OnPercent,
    cancel: CancelToken,
) -> None:
    """
    Write an image anew as qcow2 with compressed clusters.

    With *backing*, only what the uppermost image of *source* has itself is written.

    Args:
        source: ``json:`` and the options of an image, with the one under it; nothing is probed.
        destination: Absolute path; an existing file of size 0 keeps its mode.
        backing: File name of the qcow2 image under it, in the directory of *destination*, or None.
        cluster_bytes: Size of its clusters.
        method: ``"zstd"`` or ``"zlib"``.
        depth: Images that the new one will consist of, those under it included.
        on_percent: Called with 0 to 100.
        cancel: Ends the child.

    Raises:
        QemuImgError: It failed; the destination is incomplete.
        CancelledError: *cancel* was set; the destination is incomplete.

    Source:
        qemu-img(1), ``convert``: ``-c``, ``-B``; ``-W`` lets it compress in several threads.
    """
    under = ["-B", backing, "-F", "qcow2"] if backing is not None else []
    argv = [
        find_qemu_img(), "convert", "-p", "-c", "-W", "-O", "qcow2",
        "-o", f"compression_type={method},cluster_size={cluster_bytes}", *under,
        "-t", "writeback", "-T", "writeback",
        "--", source, str(destination),
    ]  # fmt: skip
    _run(argv, on_percent, cancel, images=2 * depth)


def compare(
    first: str, second: str, *, depth: int = 1, on_percent: OnPercent, cancel: CancelToken
) -> bool:
    """
    Tell whether two images read the same, to the byte; where one is longer, zeros count as nothing.

    Args:
        first: ``json:`` and the options of an image.
        second: The same of the other.
        depth: Images that both consist of, those under them included.
        on_percent: Called with 0 to 100.
        cancel: Ends the child.

    Raises:
        QemuImgError: One cannot be read.
        CancelledError: *cancel* was set.

    Source:
        qemu-img(1), ``compare``: 0 the same, 1 not.
    """
    argv = [find_qemu_img(), "compare", "-p", "--", first, second]
    return _run(argv, on_percent, cancel, images=depth, accept=(0, 1)) == 0


def allocation(image: str, *, cancel: CancelToken) -> tuple[Extent, ...]:
    """
    Return where an image has something of its own, explicit zeros included.

    Args:
        image: ``json:`` and the options of an image without a backing file.
        cancel: Ends the child.

    Raises:
        QemuImgError: It cannot be read, or qemu-img is older than 6.1 and does not tell.
        CancelledError: *cancel* was set.

    Source:
        qemu-img(1), ``map``: ``present``.
    """
    argv = [find_qemu_img(), "map", "--output=json", "--", image]
    said: list[bytes] = []
    _run(argv, lambda _: None, cancel, said=said)
    try:
        return parse_map(b"".join(said).decode(errors="replace"))
    except ParseError as error:
        raise QemuImgError(reason=f"qemu-img map: {error}", argv=tuple(argv)) from error


def create_overlay(
    backing: PurePosixPath,
    backing_format: str,
    destination: PurePosixPath,
    size_bytes: int,
    *,
    depth: int = 1,
    cancel: CancelToken,
) -> None:
    """
    Write a qcow2 overlay; the image under it is opened for reading only.

    Args:
        backing: Absolute path of the image under it, as the header names it.
        backing_format: Its format.
        destination: Absolute path; an existing file of size 0 keeps its mode.
        size_bytes: Its virtual size.
        depth: Images that it will consist of, those under it included.
        cancel: Ends the child.

    Raises:
        QemuImgError: It failed; the destination is incomplete.
        CancelledError: *cancel* was set; the destination is incomplete.

    Source:
        qemu-img(1), ``create``.
    """
    argv = [
        find_qemu_img(), "create", "-q", "-f", "qcow2", "-F", backing_format, "-b", str(backing),
        "--", str(destination), str(size_bytes),
    ]  # fmt: skip
    _run(argv, lambda _: None, cancel, images=depth)


def create_empty(
    destination: PurePosixPath,
    size_bytes: int,
    *,
    cluster_bytes: int,
    backing: str | None,
    depth: int = 1,
    cancel: CancelToken,
) -> None:
    """
    Write a qcow2 image without data.

    Args:
        destination: Absolute path; an existing file of size 0 keeps its mode.
        size_bytes: Its virtual size.
        cluster_bytes: Size of its clusters.
        backing: Name of a qcow2 image in the same directory, or None.
        depth: Images that it will consist of, those under it included.
        cancel: Ends the child.

    Raises:
        QemuImgError: It failed; the destination is incomplete.
        CancelledError: *cancel* was set; the destination is incomplete.

    Source:
        qemu-img(1), ``create``.
    """
    under = ("-F", "qcow2", "-b", backing) if backing is not None else ()
    argv = [
        find_qemu_img(), "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster_bytes}",
        *under, "--", str(destination), str(size_bytes),
    ]  # fmt: skip
    _run(argv, lambda _: None, cancel, images=depth)


def gather(
    images: Sequence[PurePosixPath],
    into: PurePosixPath,
    scratch: PurePosixPath,
    *,
    depth: int = 1,
    on_percent: OnPercent,
    cancel: CancelToken,
) -> None:
    """
    Write what images have, the upper before the lower, into one that stands for their base.

    The images are opened for reading only, because qcow2 images with bitmaps change when they are
    opened for writing; that is what the scratch image is for. They are opened without QEMU's lock,
    which would keep readers away; the caller sees to it that nobody writes them.

    Args:
        images: Absolute paths of qcow2 images, top first; their own backing names do not count.
        into: Absolute path of the qcow2 image that gets their clusters.
        scratch: Absolute path of an empty qcow2 image of the same virtual size.
        depth: Images that *into* consists of, those under it included.
        on_percent: Called with 0 to 100.
        cancel: Ends the child.

    Raises:
        QemuImgError: It failed; *into* is incomplete.
        CancelledError: *cancel* was set; *into* is incomplete.

    Source:
        qemu-img(1), ``commit``; QEMU ``blockdev`` options ``backing`` and ``locking``.
    """
    node: dict[str, object] = _node(into)
    for path in reversed(images):
        node = _node(path, locking="off") | {"backing": node}
    top = "json:" + json.dumps(_node(scratch) | {"backing": node})
    argv = [
        find_qemu_img(), "commit", "-p", "-d", "-t", "writeback", "-b", str(into), "--", top,
    ]  # fmt: skip
    _run(argv, on_percent, cancel, images=len(images) + depth + 1)


def _node(path: PurePosixPath, **options: str) -> dict[str, object]:
    return {"driver": "qcow2", "file": {"driver": "file", "filename": str(path), **options}}


def create_zstd(destination: PurePosixPath, *, cancel: CancelToken) -> None:
    """
    Write an empty image whose clusters would be compressed by zstd.

    Args:
        destination: Absolute path.
        cancel: Ends the child.

    Raises:
        QemuImgError: It failed, as where qemu-img was built without zstd.
        CancelledError: *cancel* was set.

    Source:
        qemu-img(1), ``create``.
    """
    argv = [
        find_qemu_img(), "create", "-q", "-f", "qcow2", "-o", "compression_type=zstd",
        "--", str(destination), "65536",
    ]  # fmt: skip
    _run(argv, lambda _: None, cancel)


def commit(
    base: PurePosixPath,
    top: PurePosixPath,
    top_format: str,
    *,
    depth: int = 1,
    on_percent: OnPercent,
    cancel: CancelToken,
) -> None:
    """
    Commit *top*, and what lies between, into *base*; the images above the base stay as they are.

    Nothing is opened with ``-U``: QEMU's lock keeps writers away from every image of the chain.

    Args:
        base: An image under *top*, as the headers name it.
        top: Absolute path.
        top_format: Its format; those under it are in the headers.
        depth: Images that *top* consists of, those under it included.
        on_percent: Called with 0 to 100.
        cancel: Ends the child.

    Raises:
        QemuImgError: It failed; *top* shows what it showed before.
        CancelledError: *cancel* was set; *top* shows what it showed before.

    Source:
        qemu-img(1), ``commit``: ``-d`` leaves *top* as it is.
    """
    argv = [
        find_qemu_img(), "commit", "-p", "-d",
        "-f", top_format, "-t", "writeback", "-b", str(base),
        "--", str(top),
    ]  # fmt: skip
    _run(argv, on_percent, cancel, images=depth)


def shows_the_same_on(
    path: PurePosixPath, below: PurePosixPath, below_format: str, *, depth: int
) -> bool:
    """
    Tell whether a qcow2 image would show what it shows if it lay on another one.

    Args:
        path: Absolute path; its header says what it lies on.
        below: What it might lie on instead, whose own header leads on.
        below_format: The format of that.
        depth: Images under both, at most.

    Raises:
        QemuImgError: One cannot be read.

    Source:
        qemu-img(1), ``compare``; QEMU qapi/block-core.json, ``BlockdevOptionsQcow2``.
    """
    now = _node(path)
    then = {**now, "backing": {**_node(below), "driver": below_format}}
    first, second = (f"json:{json.dumps(node)}" for node in (now, then))
    return compare(first, second, depth=depth, on_percent=lambda _: None, cancel=CancelToken())


def rebase_header(path: PurePosixPath, below: PurePosixPath, below_format: str) -> None:
    """
    Write another backing file name into the header of a qcow2 image, and nothing else.

    Args:
        path: Absolute path; QEMU's lock keeps every other user away.
        below: What it is to name.
        below_format: The format of that.

    Raises:
        QemuImgError: It failed.

    Source:
        qemu-img(1), ``rebase -u``.
    """
    argv = [
        find_qemu_img(), "rebase", "-u",
        "-f", "qcow2", "-F", below_format, "-b", str(below),
        "--", str(path),
    ]  # fmt: skip
    _run(argv, lambda _: None, CancelToken(), said=[])


def check(
    path: PurePosixPath, image_format: str, *, depth: int = 1, cancel: CancelToken
) -> CheckResult:
    """
    Return what QEMU thinks of the structure of an image; nothing is repaired.

    Args:
        path: Absolute path.
        image_format: Its format.
        depth: Images that it consists of: qemu-img opens those under it too.
        cancel: Ends the child.

    Raises:
        QemuImgError: It cannot be checked.
        CancelledError: *cancel* was set.

    Source:
        qemu-img(1), ``check``: 0 sound, 2 corruptions, 3 leaked clusters.
    """
    argv = [
        find_qemu_img(), "check", "-f", image_format, "--output=json", "--", str(path),
    ]  # fmt: skip
    said: list[bytes] = []
    stale = 0

    def on_complaint(line: str) -> None:
        nonlocal stale
        stale += is_stale_count(line)

    _run(
        argv,
        lambda _: None,
        cancel,
        images=depth,
        accept=(0, 2, 3),
        said=said,
        on_complaint=on_complaint,
    )
    try:
        return parse_check(b"".join(said).decode(errors="replace"), stale_counts=stale)
    except ParseError as error:
        raise QemuImgError(reason=f"qemu-img check: {error}", argv=tuple(argv)) from error


def _run(
    argv: Sequence[str],
    on_percent: OnPercent,
    cancel: CancelToken,
    *,
    images: int = 1,
    accept: Sequence[int] = (0,),
    said: list[bytes] | None = None,
    on_complaint: Callable[[str], None] = lambda _: None,
) -> int:
    """
    Run a child that opens so many images.

    With *said*, its standard output goes there, and is no progress. *on_complaint* gets each line
    of its standard error.
    """
    cancel.check()
    child = subprocess.Popen(
        bound_to_us(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        umask=0o077,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"},
    )
    limit_files(child.pid, images)
    limit_address_space(child.pid, images)
    complaints: list[bytes] = []
    moved = [time.monotonic()]
    readers = (
        threading.Thread(target=_read_percent, args=(child.stdout, on_percent, moved), daemon=True)
        if said is None
        else threading.Thread(target=_read_all, args=(child.stdout, said), daemon=True),
        threading.Thread(
            target=_read_tail, args=(child.stderr, complaints, on_complaint), daemon=True
        ),
    )
    for reader in readers:
        reader.start()
    try:
        while not _ended(child, readers[0]):
            cancel.check()
            if time.monotonic() - moved[0] > _STALL_SECONDS:
                raise QemuImgError(
                    reason=f"qemu-img made no progress for {_STALL_SECONDS:g} s",
                    argv=tuple(argv),
                )
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        for reader in readers:
            reader.join()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    stderr = b"".join(complaints).decode(errors="replace")
    if child.returncode not in accept or (said is None and _complains(stderr)):
        raise _failure(argv, child.returncode, stderr)
    return child.returncode


def _ended(child: subprocess.Popen[bytes], reader: threading.Thread) -> bool:
    """Wait a while for the end: first that of the output, which is noticed at once."""
    reader.join(_POLL_SECONDS)
    if reader.is_alive():
        return False
    try:
        child.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _complains(stderr: str) -> bool:
    """
    Tell whether a child that ended well said otherwise.

    When tables of a qcow2 image cannot be written while it is closed, qemu-img prints "Failed to
    flush the L2 table cache: Input/output error" and exits with 0 (7.2): the image lacks data.
    """
    return any(line.strip() and "warning" not in line.lower() for line in stderr.splitlines())


def _read_percent(stream: object, on_percent: OnPercent, moved: list[float]) -> None:
    read = getattr(stream, "read1", None)
    if read is None:  # pragma: no cover - a pipe always has it
        return
    last = -1.0
    while chunk := read(4096):
        for match in _PERCENT.finditer(chunk):
            percent = float(match[1])
            if percent != last:
                last, moved[0] = percent, time.monotonic()
                on_percent(percent)


def _read_all(stream: object, said: list[bytes]) -> None:
    read = getattr(stream, "read", None)
    if read is not None:
        said.append(read())


def _read_tail(
    stream: IO[bytes] | None, said: list[bytes], on_complaint: Callable[[str], None]
) -> None:
    """Keep the end of what is said; there may be a line for each cluster of an image."""
    tail = b""
    for line in stream or ():
        on_complaint(line.decode(errors="replace"))
        tail = (tail + line)[-4096:]
    said.append(tail)


def _failure(argv: Sequence[str], returncode: int, stderr: str) -> Exception:
    if "No space left on device" in stderr:
        written = next((word for word in reversed(argv) if word.startswith("/")), None)
        return NoSpaceError(reason="the file system is full", path=written)
    if "Permission denied" in stderr:
        return PermissionDeniedError(reason=stderr.strip().splitlines()[-1], path=argv[-2])
    return QemuImgError(
        reason=f"qemu-img {argv[1]} failed with exit status {returncode}"
        if returncode
        else f"qemu-img {argv[1]} ended as if it were well, and complained",
        argv=tuple(argv),
        returncode=returncode,
        stderr=stderr,
    )
