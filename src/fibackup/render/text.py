"""
Draw a domain's live chains and its stored points side by side, as plain text.

::

    web1 (running)
    vda   live                                    stored
          disk.bimg-20261124T040407Z   active
          disk.bimg-20261123T040406Z   frozen     20261124T040407Z.qcow2
          disk.qcow2                   base       20261123T040406Z.qcow2
"""

from __future__ import annotations

from collections.abc import Sequence

from fibackup.model.domain import Disk, Domain
from fibackup.model.ledger import Ledger
from fibackup.model.point import History, RestorePoint, StoredImage
from fibackup.units import format_bytes, printable

__all__ = ["draw_chains", "draw_history", "table"]


def table(rows: Sequence[Sequence[str]]) -> str:
    """
    Align rows of text in columns, two spaces apart.

    Args:
        rows: Rows of equal length; the first may be a heading.

    Returns:
        Lines without trailing spaces.

    Source:
        The project's own convention.
    """
    widths = (
        [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    )
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def draw_chains(domain: Domain, history: History | None = None) -> str:
    """
    Draw every disk's live chain, and beside it what the store holds, newest on top.

    Args:
        domain: The domain, as it was read.
        history: What a store holds of it, or None.

    Returns:
        Several lines, escaped for a terminal.

    Source:
        docs/glossary.md: active layer, overlay, base, full, increment.
    """
    lines = [f"{printable(domain.name)} ({domain.state})  {domain.uuid}"]
    for disk in domain.disks:
        lines.append("")
        left = _live(disk, domain.ledger)
        right = _stored(disk.target, history) if history is not None else []
        heading = [f"{disk.target}  live", "stored" if history is not None else ""]
        depth = max(len(left), len(right))
        left += [""] * (depth - len(left))
        right += [""] * (depth - len(right))
        lines.append(table([heading, *([f"  {a}", b] for a, b in zip(left, right, strict=True))]))
    return "\n".join(lines)


def _live(disk: Disk, ledger: Ledger) -> list[str]:
    reason = disk.skip_reason or disk.unsupported_reason
    if disk.chain is None:
        return [f"- {reason or 'no chain'}"]
    out: list[str] = []
    for number, image in enumerate(disk.chain):
        overlay = ledger.overlay(image.path)
        words = [
            printable(image.path.name),
            image.format,
            format_bytes(image.allocated_bytes) if image.allocated_bytes is not None else "",
            "active layer"
            if number == 0
            else "frozen"
            if number < disk.chain.depth - 1
            else "base",
            f"ours, on {overlay.point}" if overlay is not None else "",
        ]
        out.append("  ".join(word for word in words if word))
    return [*out, f"({reason})"] if reason else out


def _stored(target: str, history: History) -> list[str]:
    out: list[str] = []
    for point in reversed(history.points):
        for disk in point.disks:
            if disk.target == target:
                out.extend(
                    _stored_line(image, point, top=number == 0)
                    for number, image in enumerate(disk.images)
                )
    return out or ["- nothing"]


def _stored_line(image: StoredImage, point: RestorePoint, *, top: bool) -> str:
    kind = "full" if image.backing is None else f"on {image.backing}"
    mark = f"point {point.id}" if top else "   under it"
    return f"{image.name}  {format_bytes(image.size_bytes)}  {kind}  {mark}"


def draw_history(history: History) -> str:
    """
    Return a table of the points, oldest first.

    Args:
        history: What a store holds of a domain.

    Returns:
        A heading and a line for each point.

    Source:
        docs/glossary.md: restore point.
    """
    rows = [["point", "#", "kind", "consistency", "disks", "size", "on"]]
    rows.extend(
        [
            point.id,
            str(point.sequence),
            str(point.kind),
            str(point.consistency),
            ",".join(disk.target for disk in point.disks),
            format_bytes(point.size_bytes),
            point.parent or "-",
        ]
        for point in history.points
    )
    return table(rows)
