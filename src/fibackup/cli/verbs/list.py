"""``fibackup list``: what a store holds."""

from __future__ import annotations

import argparse
from datetime import UTC

import fibackup as fb
from fibackup.cli.completion import complete_stored_domains, completed_by
from fibackup.cli.drawing import terminal_width
from fibackup.cli.exits import OK
from fibackup.cli.options import store_option
from fibackup.cli.output import print_items
from fibackup.cli.say import warn
from fibackup.cli.signals import Signals
from fibackup.cli.stores import find_history

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  fibackup list --store /backup                    every domain, oldest point first
  fibackup list --store /backup web1
  fibackup list --store /backup --json             for scripts
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options of ``list``.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.epilog = _EXAMPLES
    store_option(parser)
    domain = parser.add_argument(
        "domain", metavar="DOMAIN", nargs="?", help="name or UUID (default: every domain)"
    )
    completed_by(domain, complete_stored_domains)


def run(arguments: argparse.Namespace, _: Signals) -> int:
    """
    List the points, oldest first.

    Args:
        arguments: Parsed.

    Returns:
        The exit code.

    Raises:
        FibackupError: The store cannot be read, or does not know the domain.

    Source:
        docs/design.md, "Command line".
    """
    with fb.Store.open(arguments.store) as store:
        if arguments.domain is None:
            histories = [store.read_history(uuid) for uuid in store.domains()]
        else:
            histories = [find_history(store, arguments.domain)]
    for history in histories:
        for file, reason in history.unreadable:
            warn(f"{file}: {reason}")
    points = sorted(
        (point for each in histories for point in each.points), key=lambda p: (p.time, p.sequence)
    )
    if arguments.json:
        tops = {each.uuid: each for each in histories}
        documents = (_point_document(tops[point.uuid], point) for point in points)
        print_items(arguments, "points", documents)
        return OK
    for history in histories:
        if history.points:
            print(f"{fb.printable(history.points[-1].domain)}  {history.uuid}")
            print(fb.draw_history(history, width=terminal_width()))
            print()
    return OK


def _point_document(history: fb.History, point: fb.RestorePoint) -> dict[str, object]:
    """Return a point as ``list --json`` promises it; fields may be added, never changed."""
    return {
        "id": point.id,
        "domain": point.domain,
        "uuid": point.uuid,
        "time": point.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "sequence": point.sequence,
        "kind": str(point.kind),
        "consistency": str(point.consistency),
        "parent": point.parent,
        "disks": {
            disk.target: {
                "image": history.top(point.id, disk.target).name,
                "kind": str(disk.kind),
                "reason": disk.reason,
                "bytes": disk.size_bytes,
                "virtual_size": disk.virtual_size_bytes,
                "sha256": history.top(point.id, disk.target).sha256,
            }
            for disk in point.disks
        },
    }
