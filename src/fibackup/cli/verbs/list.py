"""``fibackup list``: what a store holds."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import fibackup as fb
from fibackup.cli.completion import complete_stored_domains, completed_by
from fibackup.cli.drawing import terminal_width
from fibackup.cli.exits import OK, SOME_FAILED
from fibackup.cli.options import store_option
from fibackup.cli.output import Failure, complain, print_items, print_json
from fibackup.cli.say import warn
from fibackup.cli.signals import Signals
from fibackup.cli.stores import find_history, read_histories

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
    parser.add_argument(
        "--tree", action="store_true", help="draw the points, and what lies on what"
    )


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
    with _uncollected():
        return _list(arguments)


@contextmanager
def _uncollected() -> Generator[None]:
    """
    Let the cyclic collector rest: points make no cycles, and it would look at all again and again.

    Source:
        Python's ``gc`` module; with ten thousand points it is a sixth of the time.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _list(arguments: argparse.Namespace) -> int:
    with fb.StoreReader.open(arguments.store) as store:
        histories, unread = _histories(arguments, store)
        misnamed = store.misnamed() if arguments.domain is None and not arguments.quiet else {}
        listed = [fb.list_points(each, _record(store, each.uuid, unread)) for each in histories]
    failures = [Failure(error, arguments, uuid=uuid) for uuid, error in sorted(unread.items())]
    for name in misnamed:
        place = fb.printable(f"{arguments.store}/{name}")
        warn(f"{place}: it holds points that are not listed; fibackup verify tells more")
    _warn(arguments, histories)
    for failure in failures:
        complain(failure)
    if arguments.json:
        _print_documents(arguments, listed, failures)
    else:
        _print_tables(arguments, histories, listed)
        if not (any(listed) or failures):
            print("no points")
    domains = {history.uuid for history in histories} | unread.keys()
    return _code(failures, len(domains))


def _histories(
    arguments: argparse.Namespace, store: fb.StoreReader
) -> tuple[tuple[fb.History, ...], dict[str, fb.FibackupError]]:
    """Return what is listed, and what is wrong with each domain that cannot be read."""
    if arguments.domain is None:
        return read_histories(store, store.domains())

    def tell(words: str) -> None:
        if not arguments.quiet:
            warn(words)

    return (find_history(store, arguments.domain, tell),), {}


def _record(
    store: fb.StoreReader, uuid: str, unread: dict[str, fb.FibackupError]
) -> fb.VerificationRecord:
    """Return the record; the points are listed also when it cannot be read."""
    try:
        return store.read_record(uuid)
    except fb.FibackupError as error:
        unread[uuid] = error
        return fb.VerificationRecord()


def _code(failures: Sequence[Failure], domains: int) -> int:
    if not failures:
        return OK
    return failures[0].code if len(failures) == domains else SOME_FAILED


def _warn(arguments: argparse.Namespace, histories: Sequence[fb.History]) -> None:
    """Warn of what is wrong with domains that can be listed all the same."""
    for history in histories if not arguments.quiet else ():
        where = fb.printable(history.directory)
        if history.copies:
            warn(f"{where}: {history.doubt}")
        for file, reason in history.unreadable:
            warn(f"{where}/{file}: {reason}")
        for words in fb.record_warnings(history):
            warn(f"{where}: {words}")
        for point in history.lost:
            words = "it is gone, and so is its point; fibackup verify tells more"
            warn(f"{where}/{point}.json: {words}")


# --- for people ---------------------------------------------------------------------------------

_TITLES = (
    *("point", "time (UTC)", "kind", "consistency", "disks"),
    *("own", "with what it needs", "freed without it", "verified (UTC)"),
)


def _print_tables(
    arguments: argparse.Namespace,
    histories: Sequence[fb.History],
    listed: Sequence[Sequence[fb.ListedPoint]],
) -> None:
    """Print the points of each domain, and the sum of all."""
    for history, points in zip(histories, listed, strict=True):
        if points:
            print(f"{fb.printable(points[-1].point.domain)}  {history.uuid}")
            if arguments.tree:
                print(fb.draw_history(history, width=terminal_width()))
            else:
                print(_table(points))
            print()
    every = [point for points in listed for point in points]
    if every and len(histories) > 1:
        print(f"the store: {_total(every)}")


def _table(points: Sequence[fb.ListedPoint]) -> str:
    """Return a line for each point under the titles, and the sum."""
    rows = [_TITLES, *map(_row, points)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = "  ".join(f"{{:{width}}}" for width in widths)
    lines = (line.format(*row).rstrip() for row in rows)
    return "\n".join((*lines, _total(points)))


def _row(listed: fb.ListedPoint) -> tuple[str, ...]:
    point = listed.point
    marks = "".join(
        f"; {word}"
        for word, holds in (
            ("damaged", not listed.whole),
            ("protected", listed.protected),
            ("going", listed.going),
        )
        if holds
    )
    return (
        point.id,
        point.time.astimezone(UTC).isoformat(" ", "seconds").removesuffix("+00:00"),
        str(point.kind),
        str(point.consistency),
        fb.printable(",".join(disk.target for disk in point.disks)),
        fb.format_bytes(listed.own_bytes),
        fb.format_bytes(listed.total_bytes),
        fb.format_bytes(listed.freed_bytes),
        _age(listed.verified) + marks,
    )


def _age(verified: fb.Verified) -> str:
    """Return when a point was verified, in few words."""
    if verified.wrong:
        return "found wrong"
    if verified.files is None:
        return "never"
    deep = ", in depth" if verified.contents is not None else ""
    return f"{verified.files.astimezone(UTC):%Y-%m-%d}{deep}"


def _total(points: Sequence[fb.ListedPoint]) -> str:
    count = "1 point" if len(points) == 1 else f"{len(points)} points"
    return f"{count}, {fb.format_bytes(sum(point.own_bytes for point in points))}"


# --- for scripts --------------------------------------------------------------------------------


def _print_documents(
    arguments: argparse.Namespace,
    listed: Sequence[Sequence[fb.ListedPoint]],
    failures: Sequence[Failure],
) -> None:
    failed = [failure.document() for failure in failures]
    points = sorted(
        (each for points in listed for each in points),
        key=lambda each: (each.point.time, each.point.sequence),
    )
    if arguments.json_lines:
        print_items(arguments, "points", map(_point_document, points))
        print_items(arguments, "results", failed)
        return
    domains = [
        {
            "domain": points[-1].point.domain,
            "uuid": points[-1].point.uuid,
            "points": len(points),
            "bytes": sum(point.own_bytes for point in points),
        }
        for points in listed
        if points
    ]
    documents = list(map(_point_document, points))
    results = {"results": failed} if failed else {}
    print_json(arguments, {"points": documents, "domains": domains, **results})


def _point_document(listed: fb.ListedPoint) -> dict[str, object]:
    """Return a point as ``list --json`` promises it; fields may be added, never changed."""
    point, tops = listed.point, dict(listed.tops)
    return {
        "id": point.id,
        "domain": point.domain,
        "uuid": point.uuid,
        "time": _stamp(point.time),
        "sequence": point.sequence,
        "kind": str(point.kind),
        "consistency": str(point.consistency),
        "parent": point.parent,
        "bytes": listed.own_bytes,
        "total_bytes": listed.total_bytes,
        "freed_bytes": listed.freed_bytes,
        "verified": _stamp(listed.verified.files),
        "contents_verified": _stamp(listed.verified.contents),
        "found_wrong": listed.verified.wrong,
        "whole": listed.whole,
        "protected": listed.protected,
        "going": listed.going,
        "disks": {
            disk.target: {
                "image": tops[disk.target].name if disk.target in tops else None,
                "kind": str(disk.kind),
                "reason": disk.reason,
                "bytes": disk.size_bytes,
                "virtual_size": disk.virtual_size_bytes,
                "sha256": tops[disk.target].sha256 if disk.target in tops else None,
            }
            for disk in point.disks
        },
    }


def _stamp(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")
