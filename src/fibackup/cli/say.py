"""
Words for people, on stderr.

Where stderr leads to the journal, each line begins with its priority, which journald takes off and
keeps as a field: ``journalctl -p warning`` shows what went wrong, and nothing else.
"""

from __future__ import annotations

import logging
import os
import sys
from threading import Lock

import fibackup as fb

__all__ = ["DEBUG", "ERROR", "INFO", "WARNING", "log_to_stderr", "say", "to_journal", "warn"]

ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7
_LEVELS = {logging.ERROR: ERROR, logging.WARNING: WARNING, logging.INFO: INFO}
_writing = Lock()


def to_journal() -> bool:
    """
    Tell whether stderr is a stream of the journal.

    Source:
        systemd.exec(5), ``$JOURNAL_STREAM``; sd-daemon(3).
    """
    wanted = os.environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return wanted == f"{found.st_dev}:{found.st_ino}"


def say(text: str, priority: int = INFO) -> None:
    """
    Print lines on stderr; characters that move a cursor are escaped.

    Args:
        text: One or more lines.
        priority: As syslog numbers them, for the journal.

    Source:
        sd-daemon(3).
    """
    mark = f"<{priority}>" if to_journal() else ""
    with _writing:
        for line in text.split("\n"):
            print(mark + fb.printable(line), file=sys.stderr)
        sys.stderr.flush()


def warn(text: str) -> None:
    """
    Print a warning of the program.

    Args:
        text: What the user should know.

    Source:
        docs/cli.md.
    """
    say(f"fibackup: warning: {text}", WARNING)


class _Formatter(logging.Formatter):
    """Log lines with the priority of their level."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record, each with its mark."""
        text = super().format(record)
        if not to_journal():
            return text
        priority = _LEVELS.get(record.levelno, DEBUG)
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def log_to_stderr(verbose: int) -> None:
    """
    Show what the library logs.

    Args:
        verbose: 0: nothing, 1: what is done, 2 or more: everything.

    Source:
        docs/cli.md.
    """
    if not verbose:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("fibackup")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
