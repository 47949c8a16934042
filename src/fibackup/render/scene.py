"""
What is to be seen of a value: boxes in columns, links between them, tables; no domains in here.

::

    Scene       "web1"  running
      Section   "vda"
        Column  "live"                          Column "stored"
          Box   disk.bimg-B   active layer
          Box   disk.bimg-A   frozen   --Link-> Box 20261124T040407Z.qcow2   increment
          Box   disk.qcow2    base     --Link-> Box 20261123T040406Z.qcow2   full
      Table     "steps"

A value says what is to be seen; the other modules of this package say how it looks. So one
description serves terminals, notebooks, web pages and mermaid, and can be tested as a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from attrs import evolve, frozen

from fibackup.units import format_bytes

__all__ = [
    "DEFAULT_WIDTH",
    "MOST_ROWS",
    "Box",
    "Change",
    "Column",
    "Link",
    "LinkKind",
    "Scene",
    "Section",
    "Table",
    "Tint",
    "fold",
    "largest_bytes",
    "stack",
]

DEFAULT_WIDTH = 100
"""Columns of a terminal that a drawing takes at most, unless it is told otherwise."""

MOST_ROWS = 60
"""Images of a chain that are drawn before its middle is folded."""

_TAIL = 3


class Tint(StrEnum):
    """
    Whose an image is, or what it is in a store.

    `PLAIN`: nobody has said. `OURS`: an overlay that the domain's ledger has. `OTHER`: an image
    that it does not have. `FULL`, `INCREMENT`: stored images without and with a backing file.
    """

    PLAIN = "plain"
    OURS = "ours"
    OTHER = "other"
    FULL = "full"
    INCREMENT = "increment"


class Change(StrEnum):
    """What a plan does to an image: nothing, make it, write into it, delete it."""

    SAME = "same"
    NEW = "new"
    WRITTEN = "written"
    GONE = "gone"


class LinkKind(StrEnum):
    """
    What an arrow between two columns says.

    `COPY`: the second image is a copy of the first. `SITS_ON`: what lies under the first image has
    the content of the second.
    """

    COPY = "copy"
    SITS_ON = "sits on"


@frozen
class Box:
    """
    One image.

    Attributes:
        name: Its file name.
        size_bytes: What it takes, None when that is unknown; its bar is drawn to scale.
        tint: Whose it is.
        words: Short facts, the most important one first; what does not fit is left out.
        tag: Its place, such as ``"active layer"``, ``"base"`` or ``"full"``.
        active: True for the image that the guest writes.
        change: What a plan does to it.
        problem: Why it cannot be trusted, or empty.
        hint: Lines that are shown when one points at it: the whole path, sizes, ...
        on: Index of the box of the same column on which it lies, None when it lies on none.
    """

    name: str
    size_bytes: int | None = None
    tint: Tint = Tint.PLAIN
    words: tuple[str, ...] = ()
    tag: str = ""
    active: bool = False
    change: Change = Change.SAME
    problem: str = ""
    hint: tuple[str, ...] = ()
    on: int | None = None


@frozen
class Column:
    """
    A chain, the uppermost image first.

    Attributes:
        title: What stands over it.
        boxes: The images; None leaves a place empty, so that columns can be level.
        note: What is to be said when there is nothing to draw, or empty.
    """

    title: str
    boxes: tuple[Box | None, ...] = ()
    note: str = ""


@frozen
class Link:
    """
    An arrow from a box of one column to a box of the next.

    Attributes:
        column: Index of the first box's column; the arrow ends in the one after it.
        start: Index of the first box.
        end: Index of the second box.
        kind: What it says.
    """

    column: int
    start: int
    end: int
    kind: LinkKind = LinkKind.COPY


@frozen
class Section:
    """
    What belongs to one disk.

    Attributes:
        title: Its target.
        columns: Chains, side by side.
        links: Arrows between them.
        note: What else is to be said of it.
    """

    title: str
    columns: tuple[Column, ...] = ()
    links: tuple[Link, ...] = ()
    note: str = ""


@frozen
class Table:
    """
    Facts in rows, below the chains; notebooks show them.

    Attributes:
        title: Its heading.
        head: Headings of the columns; none: it has no heading row.
        rows: Rows of text; a cell may have several lines.
    """

    title: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@frozen
class Scene:
    """
    Everything that is to be seen of a value.

    Attributes:
        title: Its name.
        facts: What is to be known first: state, sizes, UUID.
        sections: One for each disk.
        tables: Facts in rows.
        notes: Warnings.
    """

    title: str
    facts: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


def stack(boxes: Iterable[Box | None]) -> tuple[Box | None, ...]:
    """
    Lay boxes on each other, in their order; one that goes lies on nothing, nothing lies on it.

    Args:
        boxes: The uppermost first.

    Returns:
        The boxes, each with the index of the one under it.

    Source:
        docs/glossary.md: backing chain.
    """
    out: list[Box | None] = []
    under: int | None = None
    places = list(boxes)
    for index in range(len(places) - 1, -1, -1):
        box = places[index]
        if box is None or box.change is Change.GONE:
            out.append(box)
        else:
            out.append(evolve(box, on=under))
            under = index
    return tuple(reversed(out))


def largest_bytes(scene: Scene) -> int:
    """
    Return the size of the largest image of a scene, 0 when no size is known.

    Args:
        scene: A scene.

    Source:
        Every bar of a picture has one scale.
    """
    return max(
        (
            box.size_bytes or 0
            for section in scene.sections
            for column in section.columns
            for box in column.boxes
            if box is not None
        ),
        default=0,
    )


def fold(section: Section, most: int | None) -> Section:
    """
    Put one box in place of the middle of chains that are too long to draw.

    Args:
        section: A section.
        most: Places to keep at most, 8 or more; None: all.

    Returns:
        The section; links that led to what was folded lead to the box in its place.

    Source:
        docs/explore.md, "Long chains".
    """
    depth = max((len(column.boxes) for column in section.columns), default=0)
    if most is None or depth <= most:
        return section
    first, last = max(most, 8) - _TAIL - 1, depth - _TAIL
    links = (
        evolve(link, start=_moved(link.start, first, last), end=_moved(link.end, first, last))
        for link in section.links
    )
    return evolve(
        section,
        columns=tuple(
            evolve(column, boxes=_fold_boxes(column.boxes, first, last))
            for column in section.columns
        ),
        links=tuple(dict.fromkeys(links)),
    )


def _moved(index: int, first: int, last: int) -> int:
    return index if index < first else max(first, index - (last - first) + 1)


def _fold_boxes(boxes: tuple[Box | None, ...], first: int, last: int) -> tuple[Box | None, ...]:
    middle = [box for box in boxes[first:last] if box is not None]
    folded: Box | None = None
    if middle:
        size = sum(box.size_bytes or 0 for box in middle)
        below = any(box is not None for box in boxes[last:])
        folded = Box(
            name=f"... {len(middle)} more",
            words=(f"{format_bytes(size)} together",) if size else (),
            hint=tuple(box.name for box in middle),
            on=first + 1 if below else None,
        )
    rest = boxes[:first], (folded,) if len(boxes) > first else (), boxes[last:]
    return tuple(
        box
        if box is None or box is folded or box.on is None
        else evolve(box, on=_moved(box.on, first, last))
        for part in rest
        for box in part
    )
