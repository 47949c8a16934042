"""Options that several verbs share."""

from __future__ import annotations

import argparse
import re

from fibackup.cli.completion import complete_domains, completed_by

__all__ = [
    "byte_count",
    "common_options",
    "count",
    "disk_option",
    "domain_options",
    "dry_run_option",
    "store_option",
    "strict_option",
]

_BYTES = re.compile(r"(\d+)([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)


def common_options(parser: argparse.ArgumentParser) -> None:
    """
    Add what every verb has.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.add_argument(
        "-c",
        "--connect",
        metavar="URI",
        help="libvirt URI (default: $LIBVIRT_DEFAULT_URI, else qemu:///system)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document to stdout")
    form.add_argument(
        "--json-lines",
        action="store_true",
        help="print a JSON object a line to stdout, as things happen",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: debug")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument("--no-progress", action="store_true", help="no progress on stderr")


def store_option(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """
    Add ``--store``.

    Args:
        parser: Of the verb.
        required: False: the verb can do without.

    Source:
        docs/design.md, "Command line".
    """
    parser.add_argument(
        "-s", "--store", metavar="DIR", required=required, help="the backup directory"
    )


def disk_option(parser: argparse.ArgumentParser) -> None:
    """
    Add ``--disk``.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.add_argument(
        "--disk", metavar="T", action="append", default=[], help="only this disk, such as vda"
    )


def strict_option(parser: argparse.ArgumentParser) -> None:
    """
    Add ``--strict``.

    Args:
        parser: Of the verb.

    Source:
        docs/errors.md.
    """
    parser.add_argument("--strict", action="store_true", help="exit 4 when there was a warning")


def dry_run_option(parser: argparse.ArgumentParser) -> None:
    """
    Add ``--dry-run``.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="print the plan, change nothing"
    )


def domain_options(parser: argparse.ArgumentParser) -> None:
    """
    Add the domains: named, all, or the running ones.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.add_argument("--all", action="store_true", help="every domain")
    parser.add_argument("--running", action="store_true", help="every running domain")
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=count,
        default=1,
        help="domains that are worked on at the same time (default: 1)",
    )
    domains = parser.add_argument("domains", metavar="DOMAIN", nargs="*", help="name or UUID")
    completed_by(domains, complete_domains)


def count(text: str) -> int:
    """
    Read a number of 1 or more.

    Args:
        text: What the user wrote.

    Raises:
        ArgumentTypeError: It is none.

    Source:
        docs/design.md, "Command line".
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number of 1 or more: {text!r}")
    return int(text)


def byte_count(text: str) -> int:
    """
    Read a number of bytes; K, M, G, T are powers of 1024.

    Args:
        text: What the user wrote, such as ``50M``.

    Raises:
        ArgumentTypeError: It is none.

    Source:
        docs/verify.md.
    """
    match = _BYTES.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"not a number of bytes, such as 50M: {text!r}")
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")
