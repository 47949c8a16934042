"""
What the verbs print alike: results on stdout, as text or as JSON, and errors on stderr.

::

    --json          one document, at the end         {"results": [...]}   {"points": [...]}
    --json-lines    one object a line, at once       {"type": "step", ...}
                                                     {"type": "result", ...}
                                                     {"type": "end", "exit_code": 0}
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from threading import Lock

import fibackup as fb
from fibackup.cli.advice import next_command, state_of
from fibackup.cli.exits import exit_code
from fibackup.cli.say import ERROR, say

__all__ = [
    "Failure",
    "absolute",
    "complain",
    "print_items",
    "print_json",
    "print_line",
    "report_failure",
]

_writing = Lock()


class Failure:
    """One domain's error, for people and for JSON."""

    def __init__(
        self,
        error: fb.FibackupError,
        arguments: argparse.Namespace,
        domain: str = "",
        uuid: str = "",
    ) -> None:
        self.domain: str = domain or error.domain or ""
        self.uuid: str = uuid
        self.error: fb.FibackupError = error
        self.code: int = exit_code(error)
        self.state: str = state_of(error, arguments)
        self.next_command: str = next_command(error, arguments)

    def document(self) -> dict[str, object]:
        """Return it as ``--json`` shows it."""
        error = self.error
        found: dict[str, object] = {
            "type": type(error.__cause__).__name__
            if isinstance(error, fb.StepError) and isinstance(error.__cause__, fb.FibackupError)
            else type(error).__name__,
            "message": _message(error),
            "disk": error.target,
            "path": error.path,
            "exit_code": self.code,
            "state": self.state,
            "next_command": self.next_command,
            "done": list(error.done) if isinstance(error, fb.StepError) else [],
        }
        return {"domain": self.domain, "uuid": self.uuid, "ok": False, "error": found}


def report_failure(arguments: argparse.Namespace, error: fb.FibackupError) -> int:
    """
    Tell of an error that ended the run.

    Args:
        arguments: Parsed.
        error: What was raised.

    Returns:
        The exit code.

    Source:
        docs/errors.md.
    """
    failure = Failure(error, arguments)
    complain(failure)
    print_items(arguments, "results", [failure.document()])
    return failure.code


def complain(failure: Failure) -> None:
    """
    Print an error for people, on stderr.

    Args:
        failure: The error.

    Source:
        docs/errors.md.
    """
    first, *more = _message(failure.error).splitlines()
    more.append(f"state: {failure.state}")
    if failure.next_command:
        more.append(f"next: {failure.next_command}")
    say("\n".join([f"fibackup: error: {first}", *(f"fibackup:   {each}" for each in more)]), ERROR)


def _message(error: fb.FibackupError) -> str:
    """Return what happened, without state and next command, which stand on their own."""
    apart = (fb.StepError, fb.DomainStateError, fb.DomainBusyError, fb.RequirementError)
    return fb.FibackupError.__str__(error) if isinstance(error, apart) else str(error)


def print_items(
    arguments: argparse.Namespace, name: str, items: Iterable[Mapping[str, object]]
) -> None:
    """
    Print a list as one document, or as a line for each item; without JSON, nothing.

    Args:
        arguments: Parsed.
        name: Plural of what the items are, such as ``"points"``.
        items: Of what `json` knows.

    Source:
        docs/cli.md, "For scripts".
    """
    if arguments.json_lines:
        for item in items:
            print_line(name.removesuffix("s"), item)
    elif arguments.json:
        print_json(arguments, {name: list(items)})


def print_json(arguments: argparse.Namespace, document: Mapping[str, object]) -> None:
    """
    Print one document on stdout.

    Args:
        arguments: Parsed; with ``--json-lines``, each key is a line of that type.
        document: Of what `json` knows.

    Source:
        docs/cli.md, "For scripts".
    """
    if arguments.json_lines:
        for key, value in document.items():
            print_line(key, {key: value})
        return
    with _writing:
        print(json.dumps(document, indent=2))  # in one piece: dump() writes each token by itself


def print_line(kind: str, item: Mapping[str, object]) -> None:
    """
    Print one object on a line of its own, now.

    Args:
        kind: Its type.
        item: Of what `json` knows.

    Source:
        docs/cli.md, "For scripts".
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = json.dumps({"type": kind, "time": now, **item})
    with _writing:
        print(text, flush=True)


def absolute(path: str) -> PurePosixPath:
    """
    Return a path as the library takes it.

    Args:
        path: As the user gave it.

    Source:
        docs/design.md, "Command line".
    """
    return PurePosixPath(os.path.abspath(path))
