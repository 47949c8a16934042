"""
Acts on a store in processes that can be failed, killed or cut off at any call.

::

    Zygote ---fork---> waits for the tracer ---> takes a point, or restores one ---> exit code
                            strace -p -e inject=CALL:error=EIO:when=N
                       or   a write that is short, or the power that goes, after the N-th change

The domain is off and its disk is two real images; there is no hypervisor, but the store, the copier
and qemu-img are real, and an act takes a few hundredths of a second. The executor and the hash run
in the first thread, because strace counts by thread.

Another verb is a function of an `Act` in `VERBS`; the process imports this module, so it has to be
here.

Source: strace(1), "Tampering"; Linux ``EXT4_IOC_SHUTDOWN``, ``XFS_IOC_GOINGDOWN``.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import fibackup as fb
from fibackup.host import copy, flatten, side_by_side, stored_images
from fibackup.host.images import examine_chain
from fibackup.testing import FakeHost
from hypervisor.host import tool
from hypervisor.power import NO_LOG_FLUSH, SHUTDOWN

__all__ = [
    "BROKEN",
    "CALM",
    "CUT",
    "DONE",
    "EFFECTS",
    "MUTATING",
    "REFUSED",
    "UUID",
    "VERBS",
    "Act",
    "Call",
    "Fault",
    "HangError",
    "OffHost",
    "Zygote",
    "every_fault",
    "follow",
    "fork_server",
    "later",
    "make_images",
    "read_trace",
    "serve",
]

UUID: Final = FakeHost().add_domain("web1", {"vda": {0: 1}})
DONE, REFUSED, BROKEN, CALM, CUT = 0, 10, 11, 12, 137
MUTATING: Final = (
    "openat",
    "write",
    "pwrite64",
    "pwritev",
    "copy_file_range",
    "sync_file_range",
    "fallocate",
    "ftruncate",
    "fsync",
    "fdatasync",
    "linkat",
    "renameat",
    "renameat2",
    "unlinkat",
    "mkdirat",
    "fchmod",
    "fchmodat",
)
"""Calls that change a file system, or make a change durable; ``openat`` only where it creates."""

EFFECTS: Final = ("signal=KILL", "error=EIO", "error=ENOSPC", "error=EINTR")
_PATIENCE_SECONDS = 60.0
_CALL = re.compile(r"(?P<tid>\d+) +(?P<kind>\w+)\((?P<rest>.*)")
_PATH = re.compile(r"<(/[^>]*)>|\"(/[^\"]*)\"")


class HangError(AssertionError):
    """An act did not end; it was killed."""


@dataclass(frozen=True)
class Act:
    """
    What a process is to do.

    *cut*: the power goes after this change. *short*: this write of ours writes half of its bytes;
    where there are fewer writes, the exit code is `CALM`.
    """

    verb: str
    store: str
    image: str
    base: str
    at: str = ""
    into: str = ""
    protect: str = ""
    cut: int = 0
    short: int = 0
    umask: int = 0o022
    traced: bool = False


class OffHost(FakeHost):
    """A host with one domain that is off, on two images that exist."""

    def __init__(self, active: Path, base: Path) -> None:
        super().__init__()
        self.add_domain("web1", {"vda": {0: 1}})
        self._images = (
            fb.Image(PurePosixPath(active), "qcow2"),
            fb.Image(PurePosixPath(base), "qcow2"),
        )

    def locked(self, uuid: str) -> AbstractContextManager[None]:
        """Need no lock."""
        assert uuid == UUID
        return nullcontext()

    def read_domain(self, name: str) -> fb.Domain:
        """Read the images."""
        del name
        chain = examine_chain(fb.BackingChain("vda", self._images))
        disk = fb.Disk("vda", chain=chain)
        return fb.Domain(name="web1", uuid=UUID, state=fb.DomainState.SHUTOFF, disks=(disk,))

    def domain_config(self, uuid: str, *, secrets: bool = False) -> str:
        """Return a small definition."""
        assert not secrets
        return f"<domain type='kvm'><name>web1</name><uuid>{uuid}</uuid></domain>"

    def write_ledger(self, uuid: str, ledger: fb.Ledger) -> None:
        """Forget: every point is a full."""

    def occupied(self, paths: tuple[PurePosixPath, ...]) -> tuple[PurePosixPath, ...]:
        """Know of nothing in the way."""
        return tuple(path for path in paths if Path(path).exists())


def back_up(act: Act) -> None:
    """Take a point."""
    host = OffHost(Path(act.image), Path(act.base))
    with fb.Store.open_or_create(act.store) as store:
        now = datetime.fromisoformat(act.at)
        plan = fb.plan_backup(host.read_domain(UUID), store.read_history(UUID), now=now)
        fb.Executor(host, store).run(plan)


def restore(act: Act) -> None:
    """Write the latest point as a flat image."""
    with fb.Store.open(act.store) as store:
        plan = fb.plan_restore(store.read_history(UUID), "latest", into=PurePosixPath(act.into))
        fb.Executor(None, store).run(plan)


def prune(act: Act) -> None:
    """Keep the newest point and one that is protected, as the command does."""
    policy = fb.RetentionPolicy(keep_last=1, protect=tuple(filter(None, [act.protect])))
    with fb.Store.open(act.store) as store:
        (uuid,) = store.domains()
        with store.locked(uuid, "web1", exclusive=True):
            history = store.read_history(uuid)
        plan = fb.plan_prune(history, policy, now=datetime(2030, 1, 1, tzinfo=UTC))
        fb.Executor(None, store).run(plan)


def verify(act: Act) -> None:
    """Read every file and every disk of the points; a fault is an error."""
    with fb.Store.open(act.store) as store:
        now, policy = datetime.fromisoformat(act.at), fb.VerifyPolicy(deep=True)
        plan = fb.plan_verify(store.survey(UUID), now=now, policy=policy)
        found = fb.Executor(None, store).run(plan).verification
    assert found is not None
    if found.faults:
        raise fb.VerifyError(reason=str(found.faults), path=act.store)


VERBS: Final[dict[str, Callable[[Act], None]]] = {
    "backup": back_up,
    "restore": restore,
    "prune": prune,
    "verify": verify,
}
"""What an act may be; each raises an error of ours when it is refused."""


# --- in the process -----------------------------------------------------------------------------


class _Inline:
    """An executor of futures that runs them at once, in this thread."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(
        self, function: Callable[..., Any], *words: object, **options: object
    ) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*words, **options))
        except BaseException as error:  # noqa: BLE001 - as the real one does
            future.set_exception(error)
        return future


_CHANGES = (
    "fsync",
    "fdatasync",
    "link",
    "unlink",
    "rename",
    "mkdir",
    "rmdir",
    "write",
    "pwrite",
    "ftruncate",
)


def _cut_power_at(number: int, directory: str) -> None:
    """Shut the file system down right after the *number*-th call that changes it or syncs it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    seen = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:  # noqa: ANN401 - as the real ones
            nonlocal seen
            result = real(*words, **named)
            seen += 1
            if seen == number:
                fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
                os._exit(CUT)
            return result

        return call

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))


def _write_half_at(number: int) -> Callable[[], bool]:
    """
    Let the *number*-th write of this process write half of what it is given, as a kernel may.

    Returns:
        What tells whether there was one.
    """
    seen = 0

    def shortened(real: Callable[..., int]) -> Callable[..., int]:
        def call(fd: int, data: memoryview, *place: int) -> int:
            nonlocal seen
            seen += 1
            if seen == number:
                data = data[: max(1, len(data) // 2)]
            return real(fd, data, *place)

        return call

    os.write = shortened(os.write)
    os.pwrite = shortened(os.pwrite)
    return lambda: seen >= number


def _child(act: Act) -> int:
    os.setpgid(0, 0)
    os.umask(act.umask)
    if act.traced:
        sys.stdin.buffer.readline()
    if act.cut:
        _cut_power_at(act.cut, act.store)
    was_short = _write_half_at(act.short) if act.short else lambda: True
    try:
        VERBS[act.verb](act)
    except fb.FibackupError as error:
        if not (act.traced or act.cut or act.short):  # nobody has made it fail
            sys.stderr.write(f"{act.verb}: {error!r}\n")
        return REFUSED
    except BaseException:  # noqa: BLE001 - what must not come out is told by the exit code
        traceback.print_exc()
        return BROKEN
    return DONE if was_short() else CALM


def _warm_up() -> None:
    """Do each act once, so that everything is imported."""
    with TemporaryDirectory(prefix="fib-faulty-") as directory:
        place = Path(directory)
        active, base = make_images(place)
        (place / "store").mkdir(mode=0o700)
        act = Act("backup", str(place / "store"), str(active), str(base), at=later(0))
        act = replace(act, into=str(place / "out"))
        for run in VERBS.values():
            run(act)


def serve() -> None:
    """Fork for each act that comes as a line; say its process id, then its exit code."""
    for module in (copy, flatten, side_by_side, stored_images):
        assert "ThreadPoolExecutor" in vars(module)
        vars(module)["ThreadPoolExecutor"] = _Inline
    side_by_side.NICENESS = 0  # the one thread is the process
    _warm_up()
    for line in iter(sys.stdin.buffer.readline, b""):
        act = Act(**json.loads(line))
        child = os.fork()
        if child == 0:
            os._exit(_child(act))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


# --- outside ------------------------------------------------------------------------------------


class Zygote:
    """The process that forks; it has imported everything already."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._heard = b""

    def run(self, act: Act, *tracer: str) -> int:
        """
        Do *act*; with words of strace, under it.

        Returns:
            The exit code, -N for a signal.

        Raises:
            HangError: It did not end. Its group of processes was killed.
        """
        self._say(json.dumps(asdict(replace(act, traced=bool(tracer)))))
        child = int(self._hear())
        try:
            if not tracer:
                return int(self._hear())
            words = [tool("strace"), "-f", "-qq", "-p", str(child), *tracer]
            with subprocess.Popen(words, stderr=subprocess.DEVNULL) as strace:
                try:
                    _wait_for_tracer(child, strace)
                    self._say("go")
                    code = int(self._hear())
                    strace.wait(_PATIENCE_SECONDS)
                finally:
                    if strace.poll() is None:
                        strace.kill()
                return code
        except TimeoutError:
            os.killpg(child, signal.SIGKILL)
            self._hear()
            raise HangError(f"{act} with {tracer} does not end") from None

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._heard:
            if not select.select([fd], [], [], _PATIENCE_SECONDS)[0]:
                raise TimeoutError
            data = os.read(fd, 4096)
            assert data, "the zygote has ended"
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()


def _wait_for_tracer(pid: int, strace: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text("ascii"):
        if strace.poll() is not None or time.monotonic() > end:
            raise HangError("strace did not attach")
        time.sleep(0.001)


@contextmanager
def fork_server() -> Iterator[Zygote]:
    """Run a zygote; it ends with its standard input."""
    words = [sys.executable, "-c", "from hypervisor import faulty; faulty.serve()"]
    ways = f"{Path(fb.__file__).parents[1]}:{Path(__file__).parents[1]}"
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ways, "PYTHONDONTWRITEBYTECODE": "1"},
    ) as process:
        try:
            yield Zygote(process)
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()


# --- what to fail -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call of a trace, by which thread; *text* shows descriptors with their paths."""

    thread: int
    kind: str
    text: str

    @property
    def mutates(self) -> bool:
        """Whether it changes a file system."""
        return self.kind in MUTATING and (
            self.kind != "openat" or "O_CREAT" in self.text or "O_TMPFILE" in self.text
        )

    def paths(self, places: Iterable[Path]) -> frozenset[str]:
        """Return the paths at or below *places* that it speaks of."""
        found = (one or other for one, other in _PATH.findall(self.text))
        return frozenset(
            path for path in found if any(Path(path).is_relative_to(place) for place in places)
        )


def follow(
    zygote: Zygote, act: Act, trace: Path, kinds: Iterable[str], *words: str
) -> tuple[int, list[Call]]:
    """Do *act* under strace; return its exit code, and its calls of some kinds, in order."""
    tracer = ("-y", "-s", "8", "-o", str(trace), "-e", f"trace={','.join(kinds)}", *words)
    code = zygote.run(act, *tracer)
    found = [match for line in trace.read_text().splitlines() if (match := _CALL.match(line))]
    return code, [Call(int(match["tid"]), match["kind"], match["rest"]) for match in found]


def read_trace(zygote: Zygote, act: Act, trace: Path, *places: Path) -> list[Call]:
    """Do *act*; return its calls that change what lies at or below *places*."""
    code, calls = follow(zygote, act, trace, MUTATING)
    assert code == DONE
    return [call for call in calls if call.mutates and call.paths(places)]


@dataclass(frozen=True)
class Fault:
    """The *number*-th call of a kind, of each thread, has an effect, on some paths only."""

    kind: str
    number: int
    effect: str
    paths: frozenset[str]

    @property
    def words(self) -> tuple[str, ...]:
        """What to tell strace."""
        only = [word for path in sorted(self.paths) for word in ("-P", path)]
        inject = f"inject={self.kind}:{self.effect}:when={self.number}"
        return ("-o", "/dev/null", *only, "-e", f"trace={self.kind}", "-e", inject)

    def __str__(self) -> str:
        return f"{self.kind} {self.number} {self.effect}"


def every_fault(calls: Iterable[Call], *places: Path, everything: bool) -> Iterator[Fault]:
    """
    Return each call with effects, on the paths of all *calls*: eventfds and pipes stay whole.

    Every call is killed at; it fails with one error, which goes round from call to call, so that
    each kind of call has each error; with *everything*, each call fails with each error.
    """
    calls = list(calls)
    paths = frozenset(path for call in calls for path in call.paths(places))
    count = Counter((call.thread, call.kind) for call in calls)
    most: dict[str, int] = {}
    for (_, kind), number in count.items():
        most[kind] = max(most.get(kind, 0), number)
    kill, *errors = EFFECTS
    for turn, kind in enumerate(sorted(most)):
        for number in range(1, most[kind] + 1):
            some = errors if everything else [errors[(turn + number) % len(errors)]]
            for effect in (kill, *some):
                yield Fault(kind, number, effect, paths)


def make_images(directory: Path) -> tuple[Path, Path]:
    """Make a base and an overlay, both with something in them."""
    base, active = directory / "base.qcow2", directory / "active.qcow2"
    create = [tool("qemu-img"), "create", "-q", "-f", "qcow2"]
    subprocess.run([*create, str(base), "1M"], check=True)
    subprocess.run([*create, "-b", str(base), "-F", "qcow2", str(active)], check=True)
    for image, pattern, offset in ((base, 1, 0), (active, 2, 65536)):
        command = f"write -P {pattern} {offset} 128k"
        words = [tool("qemu-io"), "-f", "qcow2", "-c", command, str(image)]
        subprocess.run(words, check=True, capture_output=True)
    return active, base


def later(seconds: int) -> str:
    """Return a moment for a point."""
    return datetime.fromtimestamp(1_795_000_000 + seconds, UTC).isoformat()
