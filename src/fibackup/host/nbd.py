"""
Read a disk as a guest does: ``qemu-nbd`` serves the chain, this reads it and hashes it.

::

    A.qcow2 <- B.qcow2 <- C.qcow2 -- qemu-nbd -- socket -- blocks in order -- sha256
                                     read-only   (ours alone)   holes: zeros that nobody sends

Only QEMU reads qcow2 here, compressed clusters and all; the hash is that of what
``qemu-img convert -O raw`` would write.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from struct import Struct

from fibackup.errors import CancelledError, HostError, QemuImgError
from fibackup.host.cancel import CancelToken
from fibackup.host.child import bound_to_us, limit_files
from fibackup.host.qemu_img import find_program

__all__ = ["NbdClient", "find_qemu_nbd", "hash_content", "served"]

_GREETING = Struct(">8s8sH")
_MAGIC = b"NBDMAGIC"
_HAVE_OPTION = b"IHAVEOPT"
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPTION = Struct(">8sII")
_OPTION_REPLY = Struct(">QIII")
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_OPT_GO, _OPT_STRUCTURED_REPLY = 7, 8
_REP_ACK, _REP_INFO = 1, 3
_INFO_EXPORT = 0
_EXPORT = Struct(">HQH")

_REQUEST = Struct(">IHHQQI")
_REQUEST_MAGIC = 0x25609513
_CMD_READ, _CMD_DISC = 0, 2
_REPLY = Struct(">IHHQI")
_REPLY_MAGIC = 0x668E33EF
_DONE = 1
_NONE, _OFFSET_DATA, _OFFSET_HOLE = 0, 1, 2
_DATA = Struct(">Q")
_HOLE = Struct(">QI")
_ERROR = Struct(">IH")

_BLOCK_BYTES = 2 * 1024 * 1024
_AHEAD = 4
_MAX_TEXT = 4096
_START_SECONDS = 30.0
_START_SECONDS_PER_IMAGE = 0.1  # 1100 images take 12 s to open
_ANSWER_SECONDS = 600.0
_POLL_SECONDS = 0.01
_ZEROS = bytes(_BLOCK_BYTES)


def find_qemu_nbd() -> str:
    """
    Return the absolute path of qemu-nbd.

    Returns:
        ``$FIBACKUP_QEMU_NBD``, else what the PATH has.

    Raises:
        RequirementError: There is none.

    Source:
        docs/verify.md, "In depth".
    """
    return find_program("qemu-nbd", "FIBACKUP_QEMU_NBD")


def hash_content(
    path: PurePosixPath,
    size_bytes: int,
    *,
    depth: int = 1,
    on_bytes: Callable[[int], None],
    pace: Callable[[int], None],
    cancel: CancelToken,
) -> tuple[str, int]:
    """
    Return the sha256 of what a guest reads of an image and of all those under it.

    Args:
        path: The top image, qcow2, absolute.
        size_bytes: What the guest sees.
        depth: Images that it consists of, those under it included.
        on_bytes: Called with the position reached.
        pace: Called with the bytes of each block that was sent; may wait.
        cancel: Asked between two blocks.

    Returns:
        64 hexadecimal digits, and how many bytes were read that are no holes.

    Raises:
        QemuImgError: QEMU cannot open or read it.
        HostError: It has another size, or the conversation broke off.
        CancelledError: *cancel* was set.

    Source:
        The NBD protocol, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
    """
    digest = hashlib.sha256()
    data = 0
    with served(path, "qcow2", cancel, depth=depth) as client:
        if client.size_bytes != size_bytes:
            raise HostError(reason=f"{client.size_bytes} bytes virtual, {size_bytes} recorded")
        for block, count, position in client.blocks():
            cancel.check()
            pace(count)
            digest.update(block)
            data += count
            on_bytes(position)
    return digest.hexdigest(), data


@contextmanager
def served(
    path: PurePosixPath, image_format: str, cancel: CancelToken, *, depth: int = 1
) -> Generator[NbdClient]:
    """
    Let qemu-nbd serve an image, read-only, to this process alone.

    Args:
        path: The image, absolute.
        image_format: Its format.
        cancel: Asked while the server starts.
        depth: Images that it consists of, those under it included.

    Yields:
        A client that is connected.

    Raises:
        QemuImgError: QEMU cannot open the image.

    Source:
        qemu-nbd(8). The socket lies in a directory that nobody else may enter.
    """
    directory = tempfile.mkdtemp(prefix="fibackup-nbd-")
    name = os.path.join(directory, "socket")
    argv = [
        find_qemu_nbd(), "--read-only", f"--format={image_format}", "--shared=1",
        f"--socket={name}", "--", str(path),
    ]  # fmt: skip
    try:
        with tempfile.TemporaryFile() as said:
            child = subprocess.Popen(
                bound_to_us(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                umask=0o077,
                env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"},
            )
            try:
                limit_files(child.pid, depth)
                with _connected(name, child, depth, cancel) as stream:
                    shutil.rmtree(directory, ignore_errors=True)  # nobody else is to come
                    yield NbdClient(stream)
            except CancelledError:
                raise
            except (OSError, HostError) as error:
                explained = _explained(error, argv, child, said.fileno())
                if explained is error:
                    raise
                raise explained from error
            finally:
                child.kill()
                child.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _explained(
    error: OSError | HostError, argv: list[str], child: subprocess.Popen[bytes], said: int
) -> Exception:
    """Return the server's own words, when it has ended; else what happened here."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(_POLL_SECONDS * 20)
    words = os.pread(said, _MAX_TEXT, 0).decode(errors="replace")
    if words.strip():
        return QemuImgError(
            reason="qemu-nbd cannot read the image",
            argv=tuple(argv),
            returncode=child.returncode or 0,
            stderr=words,
        )
    if isinstance(error, OSError):
        return HostError(reason=f"the conversation with qemu-nbd broke off: {error}")
    return error


@contextmanager
def _connected(
    name: str, child: subprocess.Popen[bytes], depth: int, cancel: CancelToken
) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as stream:
        stop = time.monotonic() + _START_SECONDS + depth * _START_SECONDS_PER_IMAGE
        while True:
            cancel.check()
            try:
                stream.connect(name)
                break
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if child.poll() is not None or time.monotonic() > stop:
                    raise HostError(reason="qemu-nbd does not start") from error
                time.sleep(_POLL_SECONDS)
        stream.settimeout(_ANSWER_SECONDS)
        yield stream


class NbdClient:
    """
    Reads an export from its beginning to its end.

    Args:
        stream: Connected to a server; it must know structured replies.
    """

    def __init__(self, stream: socket.socket) -> None:
        """Shake hands."""
        self._stream = stream
        self.size_bytes: int = self._negotiate()

    def _receive(self, count: int) -> bytes:
        data = bytearray(count)
        self._receive_into(memoryview(data))
        return bytes(data)

    def _receive_into(self, view: memoryview) -> None:
        while view:
            count = self._stream.recv_into(view)
            if count == 0:
                raise HostError(reason="qemu-nbd hung up")
            view = view[count:]

    def _negotiate(self) -> int:
        magic, have_option, flags = _GREETING.unpack(self._receive(_GREETING.size))
        if (magic, have_option) != (_MAGIC, _HAVE_OPTION) or not flags & _FIXED_NEWSTYLE:
            raise HostError(reason="what answers is no NBD server of today")
        self._stream.sendall((_FIXED_NEWSTYLE | flags & _NO_ZEROES).to_bytes(4, "big"))
        self._option(_OPT_STRUCTURED_REPLY, b"")
        found = self._option(_OPT_GO, bytes(4) + bytes(2))  # an export without a name, no wishes
        if len(found) != _EXPORT.size or found[:2] != _INFO_EXPORT.to_bytes(2, "big"):
            raise HostError(reason="qemu-nbd does not say how large the disk is")
        _, size, _ = _EXPORT.unpack(found)
        return int(size)

    def _option(self, option: int, data: bytes) -> bytes:
        """Ask for an option; return the export's description, when that is part of the answer."""
        self._stream.sendall(_OPTION.pack(_HAVE_OPTION, option, len(data)) + data)
        export = b""
        while True:
            magic, _, kind, length = _OPTION_REPLY.unpack(self._receive(_OPTION_REPLY.size))
            if magic != _OPTION_REPLY_MAGIC or length > _MAX_TEXT:
                raise HostError(reason="an answer of qemu-nbd makes no sense")
            payload = self._receive(length)
            if kind == _REP_ACK:
                return export
            if kind != _REP_INFO:
                raise HostError(reason=f"qemu-nbd refuses option {option}: {payload!r}")
            if payload[:2] == _INFO_EXPORT.to_bytes(2, "big"):
                export = payload

    def blocks(self) -> Generator[tuple[memoryview, int, int]]:
        """
        Read everything, with some requests ahead.

        Yields:
            A block, valid until the next one; its bytes that are no holes; the position after it.

        Raises:
            HostError: The server cannot read a block.

        Source:
            The NBD protocol, "Structured reply message".
        """
        waiting: deque[_Block] = deque()
        free = [bytearray(_BLOCK_BYTES) for _ in range(_AHEAD)]
        asked = 0
        while asked < self.size_bytes or waiting:
            while free and asked < self.size_bytes:
                length = min(_BLOCK_BYTES, self.size_bytes - asked)
                waiting.append(_Block(asked, length, free.pop()))
                self._request(_CMD_READ, asked, length)
                asked += length
            by_offset = {block.offset: block for block in waiting}
            first = waiting[0]
            while not first.done:
                self._chunk(by_offset)
            yield memoryview(first.buffer)[: first.length], first.data_bytes, first.end
            free.append(waiting.popleft().buffer)
        self._request(_CMD_DISC, 0, 0)

    def _request(self, command: int, offset: int, length: int) -> None:
        """Send a request; its handle is its offset."""
        self._stream.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, command, offset, offset, length))

    def _chunk(self, blocks: dict[int, _Block]) -> None:
        """Take one chunk of an answer."""
        magic, flags, kind, handle, length = _REPLY.unpack(self._receive(_REPLY.size))
        block = blocks.get(handle)
        if magic != _REPLY_MAGIC or block is None:
            raise HostError(reason="an answer of qemu-nbd makes no sense")
        if kind == _OFFSET_DATA and length > _DATA.size:
            (offset,) = _DATA.unpack(self._receive(_DATA.size))
            self._receive_into(block.part(offset, length - _DATA.size))
            block.data_bytes += length - _DATA.size
        elif kind == _OFFSET_HOLE and length == _HOLE.size:
            offset, size = _HOLE.unpack(self._receive(_HOLE.size))
            block.part(offset, size)[:] = memoryview(_ZEROS)[:size]
        elif kind != _NONE or length:
            raise _refusal(self._receive(min(length, _MAX_TEXT)), block.offset)
        block.done = bool(flags & _DONE)
        if block.done and block.left:
            raise HostError(reason=f"qemu-nbd left out a part of the disk at {block.offset}")


class _Block:
    """A block that was asked for, and what of it has come."""

    def __init__(self, offset: int, length: int, buffer: bytearray) -> None:
        self.offset = offset
        self.length = length
        self.buffer = buffer
        self.left = length
        self.data_bytes = 0
        self.done = False

    @property
    def end(self) -> int:
        return self.offset + self.length

    def part(self, offset: int, length: int) -> memoryview:
        """Return where a part of the block goes."""
        start = offset - self.offset
        if start < 0 or start + length > self.length or length > self.left:
            raise HostError(reason="an answer of qemu-nbd is about another part of the disk")
        self.left -= length
        return memoryview(self.buffer)[start : start + length]


def _refusal(payload: bytes, offset: int) -> HostError:
    code = int.from_bytes(payload[:4], "big")
    text = payload[_ERROR.size :].decode(errors="replace")
    words = os.strerror(code) if code else "unknown error"
    return HostError(reason=f"the disk cannot be read at {offset}: {text or words}")
