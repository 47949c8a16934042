"""
Kill a run, as ``kill -9`` does, before any call that changes a file.

::

    killer = Killer()
    while killer.prune(store, uuid, keep_last=2, kill_at=n):      True: it was killed
        ...look at the store...

One helper process is started; it forks for each run, so a run costs milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["Killer"]

CALLS: Final = (
    "write", "pwrite", "ftruncate", "fsync", "fdatasync", "link", "rename", "unlink", "mkdir",
)  # fmt: skip
_SOURCE: Final = Path(__file__).resolve().parents[2] / "src"


class Killer:
    """Runs prunes in processes that die when they are told to."""

    def __init__(self) -> None:
        """Start the helper."""
        self._helper = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(_SOURCE)},
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End the helper."""
        self._helper.communicate()

    def prune(
        self,
        store: Path,
        uuid: str,
        *,
        keep_last: int,
        protect: Sequence[str] = (),
        kill_at: int = 0,
        fail_at: int = 0,
    ) -> str:
        """
        Prune in a process of its own.

        Args:
            store: The store.
            uuid: The domain.
            keep_last: See `fibackup.RetentionPolicy`.
            protect: The same.
            kill_at: The process is killed before this call; 0: never.
            fail_at: From this call on all fail with ENOSPC; 0: never.

        Returns:
            ``"done"``, ``"killed"``, or the name and text of an error.
        """
        job = {
            "store": str(store), "uuid": uuid, "kill": kill_at, "fail": fail_at,
            "keep_last": keep_last, "protect": list(protect),
        }  # fmt: skip
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._helper.stdin.write(json.dumps(job) + "\n")
        self._helper.stdin.flush()
        return self._helper.stdout.readline().strip()


def _break(kill_at: int, fail_at: int) -> None:
    """Count the calls that change files, and end the process or the calls when it is time."""
    count = 0

    def wrapped(original: Any) -> Any:  # noqa: ANN401 - any function of os
        def call(*arguments: Any, **words: Any) -> Any:  # noqa: ANN401 - same
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if fail_at and count >= fail_at:
                raise OSError(28, "No space left on device")
            return original(*arguments, **words)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name)))


def _run(job: dict[str, Any]) -> str:
    import fibackup as fb

    policy = fb.RetentionPolicy(keep_last=job["keep_last"], protect=tuple(job["protect"]))
    _break(job["kill"], job["fail"])
    with fb.Store.open(job["store"]) as store:
        with store.locked(job["uuid"], "web1", exclusive=True):
            history = store.read_history(job["uuid"])
        plan = fb.plan_prune(history, policy, now=datetime.now(UTC) + timedelta(days=1000))
        fb.Executor(None, store).run(plan)
    return "done"


def _main() -> None:
    import fibackup as fb

    fb.Executor, fb.Store, fb.plan_prune  # noqa: B018 - imported once, before the forks
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                said = _run(json.loads(line))
            except fb.FibackupError as error:
                cause = error.__cause__ or error
                said = f"{type(cause).__name__}: {error}".replace("\n", " ")
            os.writev(writer, [said.encode()])
            os._exit(0)
        os.close(writer)
        said = os.read(reader, 65536).decode()
        os.close(reader)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(("killed" if status else said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
