"""
Commands that are told what happens to a domain: JSON on their stdin, a time limit for each.

::

    before-freeze    right before the snapshot, under the locks    not 0: no snapshot, the run fails
    after-thaw       as soon as the snapshot is there, or failed   not 0: a warning
    published        after the run: the point is complete          not 0: a warning
    failed           after the run, or when it could not begin     not 0: a warning

``after-thaw`` comes whenever ``before-freeze`` was called, for every hook, in the opposite order.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import fibackup as fb
from fibackup.cli.output import Failure
from fibackup.cli.progress import aside
from fibackup.cli.say import warn

__all__ = ["Hooks", "hook_options"]

_SCHEMA = 1


def hook_options(parser: argparse.ArgumentParser) -> None:
    """
    Add ``--hook`` and ``--hook-timeout``.

    Args:
        parser: Of the verb.

    Source:
        docs/operate.md, "Hooks".
    """
    parser.add_argument(
        "--hook",
        metavar="CMD",
        action="append",
        default=[],
        type=_command,
        help="run CMD before-freeze, after-thaw, when published or failed; JSON on its stdin",
    )
    parser.add_argument(
        "--hook-timeout",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="time limit of each call of a hook (default: 60)",
    )


def _command(text: str) -> str:
    """Refuse what is no command; the text is kept, for messages."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not a command: {error}") from error
    if not words:
        raise argparse.ArgumentTypeError("not a command: nothing in it")
    return text


class Hooks:
    """
    The hooks of one domain's run.

    Args:
        arguments: Parsed, with those of `hook_options`.
        domain: Name of the domain, as far as it is known.
        uuid: Its UUID, or nothing.
    """

    def __init__(self, arguments: argparse.Namespace, domain: str, uuid: str = "") -> None:
        self._arguments = arguments
        self._commands: Sequence[str] = () if arguments.dry_run else tuple(arguments.hook)
        self._facts: dict[str, object] = {"domain": domain, "uuid": uuid, "store": arguments.store}
        self._images: list[dict[str, object]] = []
        self._called: list[str] = []
        self._published = False
        self.report: fb.Report | None = None
        self.warnings: list[str] = []

    @contextmanager
    def watching(self) -> Generator[None]:
        """
        Tell of what became of the domain: a point, or an error.

        Raises:
            FibackupError: What was raised inside, after the hooks have heard of it.

        Source:
            docs/operate.md, "Hooks".
        """
        try:
            yield
        except fb.FibackupError as error:
            self.thawed()
            self._tell_published()
            failure = Failure(error, self._arguments, str(self._facts["domain"]))
            self._tell("failed", {"error": failure.document()["error"]})
            raise
        finally:
            self.thawed()
        self._tell_published()

    def found(self, domain: str, uuid: str) -> None:
        """
        Keep who the domain is.

        Args:
            domain: Its name.
            uuid: Its UUID.

        Source:
            docs/operate.md, "Hooks".
        """
        self._facts |= {"domain": domain, "uuid": uuid}

    def planned(self, plan: fb.Plan) -> None:
        """
        Keep what the hooks are told of a plan.

        Args:
            plan: The plan that is run next.

        Source:
            docs/operate.md, "Hooks".
        """
        self._facts |= {
            "point": plan.point,
            "disks": [each.target for each in plan.decisions],
        }

    def gate(self, step: fb.Step) -> None:
        """
        Call ``before-freeze`` when a step takes the snapshot.

        Args:
            step: The step that is about to begin.

        Raises:
            HostError: A hook says no, does not end in time, or cannot be run.

        Source:
            docs/operate.md, "Hooks".
        """
        if not isinstance(step, fb.WhileFrozen | fb.TakeSnapshot):
            return
        for command in self._commands:
            self._called.append(command)
            problem = self._run(command, "before-freeze", {})
            if problem is not None:
                raise fb.HostError(reason=problem)

    def event(self, event: fb.Event) -> None:
        """
        Call ``after-thaw`` when the snapshot is there; note what is stored.

        Args:
            event: Of the run.

        Source:
            docs/operate.md, "Hooks".
        """
        match event:
            case fb.StepFinished(step=fb.WhileFrozen() | fb.TakeSnapshot()):
                self.thawed()
            case fb.StepFinished(step=fb.PublishPoint()):
                self._published = True
            case fb.ImageCopied():
                self._images.append(
                    {
                        "disk": event.target,
                        "image": event.name,
                        "size_bytes": event.size_bytes,
                        "sha256": event.sha256,
                    }
                )
            case _:
                pass

    def reported(self, report: fb.Report) -> None:
        """
        Keep what was done.

        Args:
            report: Of the run.

        Source:
            docs/operate.md, "Hooks".
        """
        self.report = report

    def thawed(self) -> None:
        """
        Call ``after-thaw`` of each hook that was called before, once.

        Source:
            docs/operate.md, "Hooks".
        """
        while self._called:
            self._warn(self._run(self._called.pop(), "after-thaw", {}))

    def _tell_published(self) -> None:
        if self._published:
            self._tell("published", {"images": self._images})

    def _tell(self, phase: str, more: Mapping[str, object]) -> None:
        for command in self._commands:
            self._warn(self._run(command, phase, more))

    def _warn(self, problem: str | None) -> None:
        if problem is None:
            return
        self.warnings.append(problem)
        with aside(self._arguments):
            warn(f"{self._facts['domain']}: {problem}")

    def _run(self, command: str, phase: str, more: Mapping[str, object]) -> str | None:
        """Run a hook, and return what is wrong with it, None when all is well."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        document = {"schema": _SCHEMA, "phase": phase, "time": now, **self._facts, **more}
        limit: float = self._arguments.hook_timeout
        name = f"hook {command!r}, {phase}"
        with aside(self._arguments):
            sys.stderr.flush()
            try:
                process = subprocess.Popen(  # noqa: S603 - the administrator's own command
                    shlex.split(command),
                    stdin=subprocess.PIPE,
                    stdout=2,  # data of ours only on stdout
                    text=True,
                    start_new_session=True,  # Ctrl-C is for us, and all of it can be ended
                    env={**os.environ, "FIBACKUP_PHASE": phase},
                )
            except OSError as error:
                return f"{name}: cannot be run: {error.strerror}"
            with process:
                try:
                    process.communicate(json.dumps(document) + "\n", timeout=limit)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    return f"{name}: did not end within {limit:g} s"
        if process.returncode < 0:
            return f"{name}: ended by signal {-process.returncode}"
        return f"{name}: exit code {process.returncode}" if process.returncode else None
