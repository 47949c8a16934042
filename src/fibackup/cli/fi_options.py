"""
The arguments of ``fi-backup``, read as getopt reads them.

::

    -dvC                  short options together
    -b DIR  -bDIR         values apart or attached
    --back=DIR            long ones shortened as far as they stay unique
    web1 -b DIR db1       options and domains in any order, ``--`` ends the options
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from getopt import GetoptError, gnu_getopt

from attrs import evolve, frozen

import fibackup as fb

__all__ = ["USAGE_TEXT", "Consolidation", "Options", "UsageError", "parse_options", "resolve_names"]

USAGE_TEXT = """\
usage: fi-backup [-c | -C] [-q | -s DIR] [-m METHOD] [-b DIR] [-d] [-v] DOMAIN... | all
       fi-backup [-c | -C] [-q | -s DIR] [-m METHOD] [-b DIR] [-d] [-v] -r
       fi-backup -V | -h

Forward-incremental backups of libvirt/KVM domains, with the options of fi-backup.sh.

  -b, --backup_dir DIR            back up into DIR, a store of fibackup or an empty directory
  -c, --consolidate               only shorten the chains of the domains, to no overlay
      --consolidate_only          the same
  -C, --consolidate_and_snapshot  back up, then shorten the chains to one overlay
  -q, --quiesce                   freeze the guest's file systems, or fail
  -s, --dump_state_dir DIR        the guest's memory too; put a copy of it into DIR
  -m, --method METHOD             blockcommit (default) or blockpull
  -r, --all_running               every domain that is running
  -d, --debug                     say everything
  -v, --verbose                   say what is done
  -V, --version                   print the version
  -h, --help                      print this

DOMAIN is a name or UUID, or several of them in one argument; "all" is every domain.
libvirt is reached at $LIBVIRT_DEFAULT_URI, else at qemu:///system.

exit codes: 0 ok, 1 failed, 2 usage, 3 requirements not met, 5 some domains failed, 10 not a store,
11 locked, 12 verification failed, 13 domain busy, 128+N ended by signal N.
Points are listed, restored, verified by `fibackup`.
"""

_SHORT = "b:cCqs:m:rdvVh"
_LONG = (
    "backup_dir=",
    "consolidate",
    "consolidate_only",
    "consolidate_and_snapshot",
    "quiesce",
    "dump_state_dir=",
    "method=",
    "all_running",
    "debug",
    "verbose",
    "version",
    "help",
)
_SNAPSHOT = "--consolidate_and_snapshot"
_MISSPELLED = "--consolidate_and_snaphot"


class UsageError(Exception):
    """The arguments make no sense."""


class Consolidation(Enum):
    """What is done with the chains: nothing, only shortened, shortened after a backup."""

    NO = "no"
    ONLY = "only"
    ROLLING = "rolling"


@frozen
class Options:
    """What was asked for."""

    backup_dir: str | None = None
    consolidation: Consolidation = Consolidation.NO
    quiesce: bool = False
    state_dir: str | None = None
    method: fb.Method = fb.Method.BLOCKCOMMIT
    all_running: bool = False
    debug: bool = False
    verbose: bool = False
    version: bool = False
    help: bool = False
    domains: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether every domain was asked for."""
        return self.domains == ("all",)

    @property
    def backs_up(self) -> bool:
        """Whether a point is taken."""
        return self.backup_dir is not None and self.consolidation is not Consolidation.ONLY


def parse_options(arguments: Sequence[str]) -> Options:
    """
    Read the arguments.

    Args:
        arguments: Without the program's name.

    Returns:
        What was asked for; checked, unless only help or version was.

    Raises:
        UsageError: Unknown options, missing values, or wishes that exclude each other.

    Source:
        getopt(1); docs/fi-backup.md.
    """
    try:
        found, domains = gnu_getopt(_spelled(arguments), _SHORT, _LONG)
    except GetoptError as error:
        raise UsageError(error.msg) from error
    options = Options(domains=tuple(domains))
    for name, value in found:
        options = _with_option(options, name, value)
    if not options.help and not options.version:
        _check(options)
    return options


def _spelled(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the misspelled option, or the start of it, spelled rightly."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    common = len("--consolidate_and_snap")
    return [
        _SNAPSHOT if at < end and len(word) > common and _MISSPELLED.startswith(word) else word
        for at, word in enumerate(words)
    ]


def _with_option(options: Options, name: str, value: str) -> Options:
    match name:
        case "-b" | "--backup_dir":
            return evolve(options, backup_dir=_filled(name, value))
        case "-c" | "--consolidate" | "--consolidate_only":
            return evolve(options, consolidation=_once(options, Consolidation.ONLY))
        case "-C" | "--consolidate_and_snapshot":
            return evolve(options, consolidation=_once(options, Consolidation.ROLLING))
        case "-q" | "--quiesce":
            return evolve(options, quiesce=True)
        case "-s" | "--dump_state_dir":
            return evolve(options, state_dir=_filled(name, value))
        case "-m" | "--method":
            return evolve(options, method=_method(value))
        case "-r" | "--all_running":
            return evolve(options, all_running=True)
        case "-d" | "--debug":
            return evolve(options, debug=True, verbose=True)
        case "-v" | "--verbose":
            return evolve(options, verbose=True)
        case "-V" | "--version":
            return evolve(options, version=True)
        case _:
            return evolve(options, help=True)


def _filled(name: str, value: str) -> str:
    if not value:
        raise UsageError(f"{name} needs a directory")
    return value


def _once(options: Options, wish: Consolidation) -> Consolidation:
    if options.consolidation not in {Consolidation.NO, wish}:
        raise UsageError("-c and -C exclude each other")
    return wish


def _method(value: str) -> fb.Method:
    try:
        return fb.Method(value)
    except ValueError:
        raise UsageError(f"no such method: {value!r}; blockcommit or blockpull") from None


def _check(options: Options) -> None:
    if options.quiesce and options.state_dir is not None:
        raise UsageError("-q and -s exclude each other")
    if options.consolidation is Consolidation.ONLY and (
        options.quiesce or options.state_dir is not None
    ):
        raise UsageError("-c takes no backup, so neither -q nor -s goes with it")
    if options.backup_dir is None and (options.quiesce or options.state_dir is not None):
        raise UsageError("-q and -s belong to a backup: say where with -b")
    if options.consolidation is Consolidation.NO and options.backup_dir is None:
        raise UsageError("nothing to do: say -b DIR, -c or -C")
    if options.all_running and options.domains and not options.everything:
        raise UsageError("-r is every running domain; name none beside it")
    if not options.all_running and not options.domains:
        raise UsageError("name domains, or say 'all' or -r")
    if "all" in options.domains and not options.everything:
        raise UsageError("'all' is every domain; name none beside it")


def resolve_names(arguments: Sequence[str], known: frozenset[str]) -> tuple[str, ...]:
    """
    Return the domains that the arguments name, each once, in their order.

    An argument that is a domain's name is that domain, spaces and all; any other is split at
    spaces.

    Args:
        arguments: Domains, or several in one argument.
        known: Names of the domains that there are.

    Source:
        docs/fi-backup.md, "Domains".
    """
    found: dict[str, None] = {}
    for argument in arguments:
        words = [argument] if argument in known else argument.split()
        found |= dict.fromkeys(words)
    return tuple(found)
