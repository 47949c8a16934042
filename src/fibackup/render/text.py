"""
Draw a scene as plain text for terminals: ASCII but for names, and never wider than it may be.

::

    web1  running  7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a

    vda
      live                                               stored
      * web1.bimg-20261124T040407Z  1.2 GiB  active
      * web1.bimg-20261123T040406Z  300 MiB  frozen  ->  20261124T040407Z.qcow2  300 MiB  increment
        web1.qcow2                  12 GiB   base    ->  20261123T040406Z.qcow2  12 GiB   full
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum

from attrs import evolve

from fibackup.render.fit import clean, columns_of, shorten
from fibackup.render.scene import (
    DEFAULT_WIDTH,
    Box,
    Change,
    Column,
    LinkKind,
    Scene,
    Section,
    Tint,
    fold,
)
from fibackup.units import format_bytes

__all__ = ["draw_text", "table"]

_NARROWEST = 50
_SHORTEST_NAME = 20  # names that are cut more tell nothing: the columns go under each other
_CELLS = 3  # of a column: name, size, place
_WIDEST_STATUS = 44
_OURS = "*"


class _Words(Enum):
    """How much is told of an image."""

    ALL = 1
    PLACE = 2
    SHORT = 3


def table(rows: Sequence[Sequence[str]], *, width: int | None = None, gap: int = 2) -> str:
    """
    Align rows of text in columns; where they are too wide, the widest cells lose their middle.

    Args:
        rows: Rows of equal length; the first may be a heading.
        width: Columns of the terminal; None: as wide as it gets.
        gap: Spaces between two cells.

    Returns:
        Lines without trailing spaces.

    Source:
        The project's own convention.
    """
    if not rows:
        return ""
    widths = [max(columns_of(row[column]) for row in rows) for column in range(len(rows[0]))]
    if width is not None:
        widths = _squeezed(widths, width - sum(widths) - gap * (len(widths) - 1))
    return "\n".join(
        (" " * gap)
        .join(_padded(shorten(cell, room), room) for cell, room in zip(row, widths, strict=True))
        .rstrip()
        for row in rows
    )


def _squeezed(widths: list[int], spare: int) -> list[int]:
    """Take from the widest, one by one, until nothing is lacking."""
    out = list(widths)
    for _ in range(-spare):
        widest = out.index(max(out))
        out[widest] = max(1, out[widest] - 1)
    return out


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns_of(text))


def draw_text(scene: Scene, *, width: int = DEFAULT_WIDTH, most_rows: int | None = None) -> str:
    """
    Draw a scene for a terminal.

    Args:
        scene: What is to be seen; its tables are left out.
        width: Columns of the terminal, 50 or more.
        most_rows: Images of a chain that are drawn before its middle is folded; None: all.

    Returns:
        Lines without trailing spaces, escaped for a terminal.

    Source:
        docs/explore.md.
    """
    width = max(width, _NARROWEST)
    lines = list(_head(scene, width))
    for section in scene.sections:
        lines.extend(_section(fold(section, most_rows), width))
    if any(_has_ours(section) for section in scene.sections):
        lines.extend(("", f"{_OURS} an overlay of ours, by the ledger"))
    lines.extend(shorten(f"warning: {clean(note)}", width) for note in scene.notes)
    return "\n".join(lines)


def _has_ours(section: Section) -> bool:
    boxes = (box for column in section.columns for box in column.boxes)
    return any(box is not None and box.tint is Tint.OURS for box in boxes)


def _head(scene: Scene, width: int) -> Iterator[str]:
    line = clean(scene.title)
    for fact in map(clean, scene.facts):
        longer = f"{line}  {fact}"
        if columns_of(longer) > width:
            yield shorten(line, width)
            longer = f"  {fact}"
        line = longer
    yield shorten(line, width)


def _section(section: Section, width: int) -> Iterator[str]:
    note = f"  ({clean(section.note)})" if section.note else ""
    yield ""
    if section.title or note:
        yield shorten(f"{clean(section.title)}{note}".lstrip(), width)
    if section.columns:
        yield from _columns(section, width).splitlines()


def _columns(section: Section, width: int) -> str:
    """Return the columns side by side, with the facts of their images where there is room."""
    for words in (_Words.ALL, _Words.PLACE):
        rows = _rows(section, words)
        if _spare(rows, width) >= 0:
            return table(rows)
    rows = _rows(section, _Words.SHORT)
    names = range(0, len(rows[0]), _CELLS)
    widest = [max(columns_of(row[each]) for row in rows) for each in names]
    fitting = _squeezed(widest, _spare(rows, width))
    if len(names) > 1 and min(fitting) < _SHORTEST_NAME:
        return "\n\n".join(_columns(_alone(each), width) for each in section.columns)
    rooms = dict(zip(names, fitting, strict=True))
    return table(
        [
            [shorten(cell, rooms.get(place, width)) for place, cell in enumerate(row)]
            for row in rows
        ],
        width=width,
    )


def _alone(column: Column) -> Section:
    """Return a column without the empty places that made it level with others."""
    return Section("", (evolve(column, boxes=tuple(filter(None, column.boxes))),))


def _spare(rows: Sequence[Sequence[str]], width: int) -> int:
    """Return how many columns of the terminal are left over; less than 0: how many lack."""
    widths = [max(map(columns_of, cells)) for cells in zip(*rows, strict=True)]
    return width - sum(widths) - 2 * (len(widths) - 1)


def _rows(section: Section, words: _Words) -> list[list[str]]:
    depth = max(1, *(len(column.boxes) for column in section.columns))
    arrows = {
        (link.column, link.start)
        for link in section.links
        if link.kind is LinkKind.COPY and link.start == link.end
    }
    rows: list[list[str]] = []
    for row in range(-1, depth):
        cells: list[str] = []
        for number, column in enumerate(section.columns):
            name, *rest = (column.title, "", "") if row < 0 else _cells(column, row, words)
            arrow = "-> " if (number - 1, row) in arrows else "   " if number else ""
            cells.extend((arrow + name, *rest))
        rows.append(cells)
    return rows


def _cells(column: Column, row: int, words: _Words) -> tuple[str, str, str]:
    """Return an image's name, size and place; empty ones where there is none."""
    if row == 0 and not any(column.boxes):
        return (clean(column.note), "", "")
    box = column.boxes[row] if row < len(column.boxes) else None
    if box is None:
        return ("", "", "")
    mark = ""
    if _has_ours(Section("", (column,))):
        mark = f"{_OURS} " if box.tint is Tint.OURS else "  "
    size = "" if box.size_bytes is None else format_bytes(box.size_bytes)
    return (f"{mark}{clean(box.name)}", size, _status(box, words))


def _status(box: Box, words: _Words) -> str:
    """Return place, change and trouble; the other facts where they are wanted, or all there is."""
    change = "" if box.change is Change.SAME else str(box.change)
    place = "active" if box.active and words is _Words.SHORT else box.tag
    told = words is _Words.ALL or (not box.tag and box.size_bytes is None)
    facts = (word for word in box.words if told and word != Tint.OURS)
    status = ", ".join(clean(word) for word in (change, place, *facts) if word)
    if box.problem:
        status = f"{status}: {clean(box.problem)}" if status else clean(box.problem)
    return status if words is _Words.ALL else shorten(status, _WIDEST_STATUS)
