"""What every verb prints alike: JSON on stdout, complaints on stderr."""

from __future__ import annotations

import json
import os
import sys
from pathlib import PurePosixPath

import fibackup as fb
from fibackup.cli.exits import exit_code

__all__ = ["Failure", "absolute", "complain", "print_json", "report_failure"]


class Failure:
    """One domain's error, for people and for JSON."""

    def __init__(self, domain: str, error: fb.FibackupError) -> None:
        self.domain: str = domain
        self.error: fb.FibackupError = error
        self.code: int = exit_code(error)

    def document(self) -> dict[str, object]:
        """Return it as ``--json`` shows it."""
        error = self.error
        found: dict[str, object] = {
            "type": type(error.__cause__).__name__
            if isinstance(error, fb.StepError) and isinstance(error.__cause__, fb.FibackupError)
            else type(error).__name__,
            "message": str(error),
            "disk": error.target,
            "path": error.path,
            "exit_code": self.code,
        }
        if isinstance(error, fb.StepError):
            found |= {
                "state": error.state,
                "next_command": error.next_command,
                "done": list(error.done),
            }
        return {"domain": self.domain, "ok": False, "error": found}


def report_failure(failure: Failure, *, as_json: bool) -> int:
    """
    Tell of an error that ended the run.

    Args:
        failure: The error.
        as_json: True: also as the document on stdout.

    Returns:
        The exit code.

    Source:
        docs/errors.md.
    """
    complain(failure)
    if as_json:
        print_json({"results": [failure.document()]})
    return failure.code


def complain(failure: Failure) -> None:
    """
    Print an error for people, on stderr.

    Args:
        failure: The error.

    Source:
        docs/errors.md.
    """
    for number, line in enumerate(str(failure.error).splitlines()):
        prefix = "fibackup: error: " if number == 0 else "fibackup:   "
        print(prefix + fb.printable(line), file=sys.stderr)


def print_json(document: object) -> None:
    """
    Print one document on stdout.

    Args:
        document: Of what `json` knows.

    Source:
        docs/design.md, "Command line".
    """
    json.dump(document, sys.stdout, indent=2)
    print()


def absolute(path: str) -> PurePosixPath:
    """
    Return a path as the library takes it.

    Args:
        path: As the user gave it.

    Source:
        docs/design.md, "Command line".
    """
    return PurePosixPath(os.path.abspath(path))
