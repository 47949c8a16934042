"""
Completion of words in a shell, by argcomplete; only what is quick to find out is completed.

::

    eval "$(fibackup --print-completion bash)"      in ~/.bashrc
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable
from threading import Thread

import fibackup as fb
from fibackup.cli.exits import OK, REQUIREMENTS
from fibackup.cli.say import ERROR, say

__all__ = [
    "complete",
    "complete_domains",
    "complete_points",
    "complete_stored_domains",
    "completed_by",
    "print_completion",
]

PATIENCE_SECONDS = 1.0
_DIRECTORY = re.compile(r"(.+)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_LOCAL = re.compile(r"\w+(\+unix)?:///")


def completed_by(action: argparse.Action, completer: Callable[..., Iterable[str]]) -> None:
    """
    Say what completes an argument.

    Args:
        action: Of the argument.
        completer: As argcomplete calls it.

    Source:
        argcomplete, "Specifying completers".
    """
    setattr(action, "completer", completer)  # noqa: B010 - the class does not know it


def complete(parser: argparse.ArgumentParser) -> None:
    """
    Complete the command line that the shell has put into the environment, and end the process.

    Args:
        parser: With the options of every verb.

    Source:
        argcomplete, ``autocomplete``.
    """
    try:
        import argcomplete
    except ModuleNotFoundError:
        sys.exit(1)
    argcomplete.autocomplete(parser, always_complete_options=False)  # it ends the process


def print_completion(shell: str) -> int:
    """
    Print what a shell has to read.

    Args:
        shell: bash, zsh, fish or tcsh.

    Returns:
        The exit code.

    Source:
        argcomplete, ``shellcode``.
    """
    try:
        from argcomplete.shell_integration import shellcode
    except ModuleNotFoundError:
        words = "completion needs argcomplete: pip install 'fibackup[cli]'"
        say(f"fibackup: error: {words}", ERROR)
        return REQUIREMENTS
    print(shellcode(["fibackup"], shell=shell))
    return OK


def complete_domains(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """
    Return the names of the domains, of a hypervisor on this machine that answers at once.

    Args:
        prefix: What they begin with.
        parsed_args: What of the command line is understood so far.

    Source:
        libvirt ``virConnectListAllDomains``.
    """
    uri = getattr(parsed_args, "connect", None) or os.environ.get("LIBVIRT_DEFAULT_URI")
    if uri and not _LOCAL.match(uri):
        return []
    found: list[str] = []

    def ask() -> None:
        with fb.LibvirtHost.open(uri) as host:
            found.extend(host.domain_names())

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return sorted(name for name in found if name.startswith(prefix))


def complete_stored_domains(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """
    Return the names of the domains in a store, as its directories have them.

    Args:
        prefix: What they begin with.
        parsed_args: What of the command line is understood so far.

    Source:
        docs/store-format.md.
    """
    found = {name for name, _ in _directories(parsed_args)}
    return sorted(name for name in found if name.startswith(prefix))


def complete_points(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """
    Return the points of a domain in a store, newest first.

    Args:
        prefix: What they begin with.
        parsed_args: What of the command line is understood so far.

    Source:
        docs/store-format.md.
    """
    wanted = getattr(parsed_args, "domain", None)
    found = {"latest"}
    for name, path in _directories(parsed_args):
        if wanted is None or path.endswith(wanted) or name == wanted:
            found |= {file[:-5] for file in _names(path) if file.endswith("Z.json")}
    return sorted((each for each in found if each.startswith(prefix)), reverse=True)


def _directories(parsed: argparse.Namespace) -> list[tuple[str, str]]:
    """Return name and path of each domain's directory."""
    store = getattr(parsed, "store", None)
    if not store:
        return []
    matches = (_DIRECTORY.fullmatch(each) for each in _names(store))
    return [(match[1], os.path.join(store, match[0])) for match in matches if match]


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
