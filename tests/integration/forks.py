"""
Processes of ours that begin in milliseconds, for tests that need hundreds of them.

::

    pytest ---- one line of JSON ----> server            has imported everything, started nothing
                                         |- fork         own directory, environment, stdout, stderr
       <---- "pid N", "code N" ----------'

A child is a process like another: it has its own memory, its own connection, its own locks, and it
can be killed. What it lacks is the start of the interpreter, which the tests of the command line
have in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fibackup as fb

SOURCES = Path(fb.__file__).resolve().parents[1]
TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ended:
    """A child that has ended; its code is -9 when it was killed."""

    returncode: int
    stdout: str
    stderr: str


class Child:
    """A child that runs."""

    def __init__(self, forks: Forks, pid: int, place: Path) -> None:
        """Know its pid, and where it prints; the server waits for it."""
        self._forks, self.pid, self._place = forks, pid, place

    def said(self, stream: str = "stdout") -> str:
        """Return what it has printed by now."""
        try:
            return (self._place / stream).read_text()
        except FileNotFoundError:  # it has just begun
            return ""

    def wait(self) -> Ended:
        """Wait for its end."""
        return Ended(self._forks.answer("code"), self.said(), self.said("stderr"))


class Forks:
    """The server, and one child at a time."""

    def __init__(self) -> None:
        """Start the server."""
        self._count = 0
        self._place = tempfile.TemporaryDirectory(prefix="fibackup-forks-")
        self._server = subprocess.Popen(
            [sys.executable, "-c", "from integration.forks import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": f"{SOURCES}:{TESTS}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )

    def start(
        self,
        child: str,
        words: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Child:
        """Start one of `integration.children`."""
        self._count += 1
        place = Path(self._place.name) / str(self._count)
        place.mkdir()
        order = {
            "child": child,
            "words": list(words),
            "cwd": str(cwd or place),
            "env": dict(env or {}),
            "place": str(place),
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return Child(self, self.answer("pid"), place)

    def run(
        self,
        child: str,
        *words: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ended:
        """Start a child, and wait for its end."""
        return self.start(child, words, cwd=cwd, env=env).wait()

    def answer(self, word: str) -> int:
        """Return the next answer of the server."""
        assert self._server.stdout is not None
        said, _, number = self._server.stdout.readline().partition(" ")
        assert said == word, f"the server of children has ended: {said!r}"
        return int(number)

    def close(self) -> None:
        """End the server; a child is waited for."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()
        self._place.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve() -> None:
    """Fork a child for each line; this process opens no connection and starts no thread."""
    from integration.children import CHILDREN

    for name in fb.__all__:
        getattr(fb, name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_become(order, CHILDREN[order["child"]]))
        print("pid", pid, file=answers, flush=True)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print("code", code, file=answers, flush=True)


def _become(order: Mapping[str, Any], act: Callable[..., int]) -> int:
    """Be the child; nothing of the server is left but what was imported."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{order['place']}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    try:
        code = act(*order["words"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code
