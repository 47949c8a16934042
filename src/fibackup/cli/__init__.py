# PYTHON_ARGCOMPLETE_OK
"""The command line: arguments to the public API, results to text or JSON."""

from __future__ import annotations

from fibackup.cli.main import main

__all__ = ["main"]
