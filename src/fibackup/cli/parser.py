"""The arguments: common options, then one sub-command for each verb."""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, version

import fibackup as fb

__all__ = ["build_parser"]

_EPILOG = """\
exit codes: 0 ok, 1 failed, 2 usage, 3 requirements not met, 4 warnings (--strict), 5 some domains
failed, 10 not a store, 11 locked, 12 verification failed, 13 domain busy, 128+N ended by signal N.
"""

_BACKUP = """\
examples:
  fibackup backup --store /backup web1
  fibackup backup --store /backup --quiesce require --exclude vdb web1 db1
  fibackup backup --store /backup --memory web1           with what is in its memory
  fibackup backup --store /backup --dry-run web1          print the plan, change nothing
"""

_CONSOLIDATE = """\
examples:
  fibackup consolidate web1                               commit every overlay of ours, pivot
  fibackup consolidate --keep-overlay web1                what `backup --consolidate` does
  fibackup consolidate --timeout 600 --suspend 10 db1     a guest that writes without end
"""

_RECOVER = """\
examples:
  fibackup recover web1                       the ledger knows the store
  fibackup recover --store /backup --all      also a store that was new to the run
"""

_RESTORE = """\
examples:
  fibackup restore --store /backup web1 --into /var/tmp/web1
  fibackup restore --store /backup web1 --point 20261124T040407Z --disk vda --format raw --into .
  fibackup restore --store /backup web1 --into /images/web1 --memory      it goes on where it was
"""


def _version() -> str:
    try:
        return version("fibackup")
    except PackageNotFoundError:  # pragma: no cover - run from a tree that is not installed
        return "unknown"


def build_parser() -> argparse.ArgumentParser:
    """
    Return the parser of ``fibackup``.

    Source:
        docs/design.md, "Command line".
    """
    common = _common()
    parser = argparse.ArgumentParser(
        prog="fibackup",
        description="Forward-incremental backups of libvirt/KVM domains, as plain qcow2 files.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fibackup {_version()}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, words: str, epilog: str = "") -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=words,
            description=f"{words[0].upper()}{words[1:]}.",
            epilog=epilog,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _backup(verb("backup", "take a restore point of running domains", _BACKUP))
    _consolidate(
        verb("consolidate", "shorten the live chains of domains", _CONSOLIDATE),
    )
    _recover(verb("recover", "finish or clear away what a killed run has left", _RECOVER))
    _chain(verb("chain", "draw the live backing chains of a domain"))
    _list(verb("list", "list the restore points of a store"))
    _restore(verb("restore", "write disks of a restore point as flat images", _RESTORE))
    return parser


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "-c",
        "--connect",
        metavar="URI",
        help="libvirt URI (default: $LIBVIRT_DEFAULT_URI, else qemu:///system)",
    )
    common.add_argument("--json", action="store_true", help="print one JSON document to stdout")
    common.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: debug")
    common.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    common.add_argument("--no-progress", action="store_true", help="no progress on stderr")
    return common


def _store(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument(
        "-s", "--store", metavar="DIR", required=required, help="the backup directory"
    )


def _backup(parser: argparse.ArgumentParser) -> None:
    _store(parser)
    parser.add_argument(
        "--disk", metavar="T", action="append", default=[], help="only this disk, such as vda"
    )
    parser.add_argument(
        "--exclude", metavar="T", action="append", default=[], help="all disks but this one"
    )
    parser.add_argument(
        "--quiesce",
        choices=[str(each) for each in fb.Quiesce],
        default=str(fb.Quiesce.TRY),
        help="freeze the guest's file systems by the guest agent (default: try)",
    )
    parser.add_argument(
        "--freeze-timeout",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="time limit of the freeze (default: 60)",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="the guest's memory too, of the same moment; it runs on meanwhile",
    )
    parser.add_argument(
        "--full", action="store_true", help="a full, even where an increment is proven"
    )
    parser.add_argument(
        "--skip-unsupported", action="store_true", help="leave out disks that cannot be backed up"
    )
    parser.add_argument(
        "--consolidate",
        action="store_true",
        help="then commit the older overlays into the disk's own image",
    )
    parser.add_argument(
        "--allow-paused", action="store_true", help="take a paused domain as it stands"
    )
    parser.add_argument("--strict", action="store_true", help="exit 4 when there was a warning")
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="print the plan, change nothing"
    )
    _domains(parser)


def _count(text: str) -> int:
    """Read a number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number of 1 or more: {text!r}")
    return int(text)


def _domains(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="every domain")
    parser.add_argument("--running", action="store_true", help="every running domain")
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_count,
        default=1,
        help="domains that are worked on at the same time (default: 1)",
    )
    parser.add_argument("domains", metavar="DOMAIN", nargs="*", help="name or UUID")


def _consolidate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m",
        "--method",
        choices=[str(each) for each in fb.Method],
        default=str(fb.Method.BLOCKCOMMIT),
        help="down into the disk's own image, or up into the active layer (default: blockcommit)",
    )
    parser.add_argument(
        "--keep-overlay", action="store_true", help="leave the active layer: depth 2, not 1"
    )
    parser.add_argument(
        "--disk", metavar="T", action="append", default=[], help="only this disk, such as vda"
    )
    parser.add_argument(
        "--bandwidth",
        metavar="BYTES",
        type=int,
        default=0,
        help="bytes in a second at most (default: 0, no limit)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=3600.0,
        help="time limit for each disk; then the job is aborted (default: 3600)",
    )
    parser.add_argument(
        "--suspend",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="let the guest stand still for as long at most before that (default: 0, never)",
    )
    parser.add_argument("--allow-paused", action="store_true", help="also a paused domain")
    parser.add_argument("--strict", action="store_true", help="exit 4 when there was a warning")
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="print the plan, change nothing"
    )
    _domains(parser)


def _recover(parser: argparse.ArgumentParser) -> None:
    _store(parser, required=False)
    parser.add_argument("--strict", action="store_true", help="exit 4 when there was a warning")
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="print the plan, change nothing"
    )
    _domains(parser)


def _chain(parser: argparse.ArgumentParser) -> None:
    _store(parser, required=False)
    parser.add_argument("domain", metavar="DOMAIN", help="name or UUID")


def _list(parser: argparse.ArgumentParser) -> None:
    _store(parser)
    parser.add_argument(
        "domain", metavar="DOMAIN", nargs="?", help="name or UUID (default: every domain)"
    )


def _restore(parser: argparse.ArgumentParser) -> None:
    _store(parser)
    parser.add_argument("domain", metavar="DOMAIN", help="name or UUID")
    parser.add_argument(
        "--point", metavar="POINT", default="latest", help="id of the point (default: latest)"
    )
    parser.add_argument("--into", metavar="DIR", required=True, help="directory for the images")
    parser.add_argument(
        "--disk", metavar="T", action="append", default=[], help="only this disk, such as vda"
    )
    parser.add_argument(
        "--as", dest="form", choices=["flat"], default="flat", help="flat: needs no other file"
    )
    parser.add_argument(
        "--format",
        choices=[str(each) for each in fb.ImageFormat],
        default=str(fb.ImageFormat.QCOW2),
        help="format of the images (default: qcow2)",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="let the guest go on where it was, on the restored disks; the domain must be off",
    )
    parser.add_argument("--paused", action="store_true", help="with --memory: leave it paused")
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="print the plan, change nothing"
    )
