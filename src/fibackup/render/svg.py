"""
Draw a scene as SVG: one text, complete in itself; no script, no ids, nothing from elsewhere.

::

    title                                facts
    section
      COLUMN             COLUMN
      +-------------+    +-------------+
      | name   tag  |--->| name   tag  |
      | words       |    | words       |
      | =====       |    | ==          |    the bar: its size, on one scale in the whole picture
      +-------------+    +-------------+
         v                  v                 lies on
      +-------------+    +-------------+

The same scene gives the same text, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from fibackup.render.fit import columns_of, join_fitting, markup, shorten
from fibackup.render.scene import (
    MOST_ROWS,
    Box,
    Change,
    Column,
    Link,
    LinkKind,
    Scene,
    Section,
    Tint,
    fold,
    largest_bytes,
)
from fibackup.render.style import CHANGES, LINKS, PREFIX, TINTS, picture_css
from fibackup.units import format_bytes

__all__ = ["draw_svg", "svg_body"]

_PAD = 20
_COLUMN_WIDTHS = {0: 460, 1: 460, 2: 380}
_NARROW = 320
_GUTTER = 64
_INSET = 14  # from the edge of a box to its text; the stripe is in it
_LANE = 16  # left of a column, for lines that pass by images
_LANES = 3  # of those lines, side by side
_MONO = 0.61  # width of a character, as a part of the font size
_PLAIN = 0.57
_TAG_SIZE = 9.5
_LONGEST_TAG = 18
_DEEP = 12  # more images than that are drawn on one line each

_LEGEND = {
    Tint.OURS: "overlay of ours, by the ledger",
    Tint.OTHER: "not ours",
    Tint.FULL: "stored, full",
    Tint.INCREMENT: "stored, increment",
}
_ARROWS = {
    LinkKind.COPY: "copied to",
    LinkKind.SITS_ON: "what lies under it is that point",
}


@frozen
class _Grid:
    """
    Measures of a section.

    Attributes:
        top: Upper edge of the first boxes.
        width: Of a box.
        height: Of a box.
        step: From one box to the next below it.
        scale_bytes: Size of an image whose bar is as wide as its box.
    """

    top: int
    width: int
    height: int
    step: int
    scale_bytes: int

    @property
    def compact(self) -> bool:
        """True when a box has one line."""
        return self.height < 40

    @property
    def narrow(self) -> bool:
        """True when boxes have no room for long labels."""
        return self.width <= _NARROW

    def left(self, column: int) -> int:
        """Return the left edge of a column's boxes."""
        return _PAD + _LANE + column * (self.width + _GUTTER)

    def y(self, row: int) -> int:
        """Return the upper edge of a box."""
        return self.top + row * self.step


def draw_svg(scene: Scene, *, most_rows: int | None = MOST_ROWS) -> str:
    """
    Draw a scene as an SVG document that stands alone, in a file or in an ``<img>``.

    Args:
        scene: What is to be seen.
        most_rows: Images of a chain that are drawn before its middle is folded; None: all.

    Returns:
        One ``<svg>`` element with its own style, light and dark; the same for the same scene.

    Source:
        SVG 1.1; docs/explore.md.
    """
    return svg_body(scene, style=picture_css(), most_rows=most_rows)


def svg_body(scene: Scene, *, style: str = "", most_rows: int | None = MOST_ROWS) -> str:
    """
    Draw a scene as an ``<svg>`` element.

    Args:
        scene: What is to be seen.
        style: CSS to put into it; empty where the page has it already.
        most_rows: Images of a chain that are drawn before its middle is folded; None: all.

    Returns:
        The element, with a newline at its end.

    Source:
        SVG 1.1.
    """
    sections = tuple(fold(section, most_rows) for section in scene.sections)
    width = _picture_width(sections)
    lines: list[str] = []
    bottom = _header(lines, scene, width)
    scale = largest_bytes(scene)
    for section, whole in zip(sections, scene.sections, strict=True):
        totals = tuple(map(_total, whole.columns))
        ruled = section is not sections[0]
        bottom = _section(lines, section, totals, bottom, width, scale, ruled=ruled)
    bottom = _legend(lines, sections, bottom, width, scale)
    height = bottom + _PAD - 4
    name = markup(", ".join((scene.title, *scene.facts)))
    page = _tag("rect", "page", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=10)
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{PREFIX}svg" role="img" '
        f'aria-label="{name}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    )
    return "\n".join(
        (
            start,
            *((f"<style>\n{style}</style>",) if style else ()),
            page,
            *lines,
            "</svg>\n",
        )
    )


def _picture_width(sections: Sequence[Section]) -> int:
    columns = max((len(section.columns) for section in sections), default=1) or 1
    width = _COLUMN_WIDTHS.get(columns, _NARROW)
    return 2 * _PAD + _LANE + columns * width + (columns - 1) * _GUTTER


# --- pieces -------------------------------------------------------------------------------------


def _number(value: float) -> str:
    return f"{round(value, 1):g}"


def _tag(name: str, classes: str, **attributes: float | str) -> str:
    """Return an empty element; the names of classes get the prefix."""
    parts = [f'class="{" ".join(PREFIX + each for each in classes.split())}"']
    for key, value in attributes.items():
        text = value if isinstance(value, str) else _number(value)
        parts.append(f'{key.replace("_", "-")}="{text}"')
    return f"<{name} {' '.join(parts)}/>"


def _text(
    text: str,
    classes: str,
    x: float,
    y: float,
    size: float,
    *,
    anchor: str = "start",
    weight: int = 400,
) -> str:
    names = " ".join(PREFIX + each for each in classes.split())
    more = f' text-anchor="{anchor}"' if anchor != "start" else ""
    more += f' font-weight="{weight}"' if weight != 400 else ""
    return (
        f'<text class="{names}" x="{_number(x)}" y="{_number(y)}" '
        f'font-size="{_number(size)}"{more}>{markup(text)}</text>'
    )


def _fitting(text: str, room: float, size: float, character: float) -> str:
    return shorten(text, max(3, int(room / (size * character))), "\u2026")


def _pill_width(text: str) -> float:
    return round(columns_of(text) * _TAG_SIZE * 0.6 + 13)


def _pill(text: str, classes: str, ink: str, right: float, middle: float) -> str:
    """Return a small label that ends at *right*."""
    width, height = _pill_width(text), 15
    box = _tag(
        "rect", classes, x=right - width, y=middle - height / 2, width=width, height=height, rx=7.5
    )
    word = _text(text, ink, right - width / 2, middle + 3.4, _TAG_SIZE, anchor="middle", weight=600)
    return box + word


# --- header, section, legend --------------------------------------------------------------------


def _header(lines: list[str], scene: Scene, width: int) -> int:
    room = width - 2 * _PAD
    title = _fitting(scene.title, room, 15, 0.62)
    lines.append(_text(title, "ink", _PAD, _PAD + 14, 15, weight=600))
    bottom = _PAD + 22
    for line in _wrap(scene.facts, int(room / (11 * _PLAIN))):
        bottom += 14
        lines.append(_text(line, "mute", _PAD, bottom - 4, 11))
    for note in scene.notes:
        bottom += 15
        lines.append(_text(_fitting(note, room, 11, _PLAIN), "warn", _PAD, bottom - 4, 11))
    return bottom + 4


def _wrap(words: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines of words; a word that is wider than a line is shortened."""
    line = ""
    for word in (shorten(each, width, "\u2026") for each in words if each):
        longer = f"{line} \u00b7 {word}" if line else word
        if line and columns_of(longer) > width:
            yield line
            line = word
        else:
            line = longer
    if line:
        yield line


def _total(column: Column) -> str:
    """Return what is to be said of a whole chain; nothing of one that is about to change."""
    boxes = [box for box in column.boxes if box is not None]
    size = sum(box.size_bytes or 0 for box in boxes)
    lone = all(box.on is None for box in boxes)  # no chain: points, or one image
    if lone or any(box.change is not Change.SAME for box in boxes):
        return ""
    known = all(box.size_bytes is not None for box in boxes)
    return f"{len(boxes)} images" + (f", {format_bytes(size)}" if known else "")


def _section(
    lines: list[str],
    section: Section,
    totals: Sequence[str],
    top: int,
    width: int,
    scale: int,
    *,
    ruled: bool,
) -> int:
    """Draw a section below *top*; return where it ends."""
    baseline = top + 20
    if section.title:
        room = width - 2 * _PAD
        lines.append(_tag("path", "rule", d=f"M{_PAD} {top + 0.5}H{width - _PAD}") if ruled else "")
        title = _fitting(section.title, room / 2, 13, 0.62)
        lines.append(_text(title, "ink mono", _PAD, baseline, 13, weight=600))
        at = _PAD + columns_of(title) * 13 * _MONO + 12
        note = _fitting(section.note, width - _PAD - at, 11, _PLAIN) if section.note else ""
        lines.append(_text(note, "mute", at, baseline, 11) if note else "")
        lines[:] = filter(None, lines)
        top = baseline + 10
    if not section.columns:
        return top + 2
    rows = max(len(column.boxes) for column in section.columns)
    compact = rows > _DEEP
    grid = _Grid(
        top=top + 22,
        width=_COLUMN_WIDTHS.get(len(section.columns), _NARROW),
        height=25 if compact else 44,
        step=31 if compact else 58,
        scale_bytes=scale,
    )
    for number, column in enumerate(section.columns):
        left, right = grid.left(number), grid.left(number) + grid.width
        title = shorten(column.title, _LONGEST_TAG, "\u2026").upper()
        lines.append(_text(title, "mute", left, top + 13, 9.5, weight=600))
        if totals[number]:
            lines.append(_text(totals[number], "mute", right, top + 13, 10, anchor="end"))
        _column(lines, column, number, grid)
    lines.extend(_link(link, grid) for link in section.links)
    return grid.y(max(rows, 1)) - (grid.step - grid.height) + 14


def _legend(lines: list[str], sections: Sequence[Section], top: int, width: int, scale: int) -> int:
    boxes = [
        box
        for section in sections
        for column in section.columns
        for box in column.boxes
        if box is not None
    ]
    tints = {box.tint for box in boxes}
    links = {link.kind for section in sections for link in section.links}
    items = [
        *((_swatch(TINTS[tint]), words) for tint, words in _LEGEND.items() if tint in tints),
        *((_arrow(LINKS[kind]), words) for kind, words in _ARROWS.items() if kind in links),
    ]
    if scale and any(box.size_bytes for box in boxes):
        items.append((_gauge(), f"what it takes; full width: {format_bytes(scale)}"))
    if not items:
        return top
    x, y = float(_PAD), top + 10
    for sign, words in items:
        need = 26 + columns_of(words) * 10 * 0.52 + 18
        if x > _PAD and x + need - 18 > width - _PAD:
            x, y = float(_PAD), y + 17
        lines.append(f'<g transform="translate({_number(x)} {_number(y)})">{sign}</g>')
        lines.append(_text(words, "mute", x + 26, y + 3.5, 10))
        x += need
    return y + 8


def _swatch(name: str) -> str:
    return _tag("rect", name, x=5, y=-5, width=10, height=10, rx=2.5)


def _arrow(name: str) -> str:
    return _tag("path", name, d="M0 0H14") + _tag("path", f"{name}tip", d="M13 -4L20 0L13 4Z")


def _gauge() -> str:
    track = _tag("rect", "track", x=0, y=-1.5, width=20, height=3, rx=1.5)
    return track + _tag("rect", "plain", x=0, y=-1.5, width=12, height=3, rx=1.5)


# --- a column -----------------------------------------------------------------------------------


def _column(lines: list[str], column: Column, number: int, grid: _Grid) -> None:
    left = grid.left(number)
    if not any(column.boxes) and column.note:
        note = _fitting(column.note, grid.width, 11, _PLAIN)
        lines.append(_text(note, "mute", left, grid.top + 16, 11))
    ends: list[int] = [0] * _LANES
    for row, box in enumerate(column.boxes):
        if box is not None and box.on is not None:
            lane = min(range(_LANES), key=lambda each: (ends[each] > row, each))
            if box.on != row + 1:
                ends[lane] = max(row, box.on)
            lines.append(_spine(grid, left, row, box.on, lane))
    for row, box in enumerate(column.boxes):
        if box is not None:
            lines.append(_box(box, grid, left, grid.y(row)))


def _spine(grid: _Grid, left: int, row: int, under: int, lane: int) -> str:
    """Return the line from an image to its backing file: straight, or past what is between."""
    if under == row + 1:
        x, start, end = left + 22, grid.y(row) + grid.height, grid.y(under)
        size = min(4, end - start - 2)
        return _tag("path", "spine", d=f"M{x} {start}V{end - size}") + _tag(
            "path", "tip", d=f"M{x - 4} {end - size}H{x + 4}L{x} {end}Z"
        )
    middle = grid.height // 2
    start, end = grid.y(row) + middle + 5, grid.y(under) + middle - 5
    x, bend = left - 7 - 4 * lane, 4 if under > row else -4
    line = (
        f"M{left} {start}H{x + 4}Q{x} {start} {x} {start + bend}"
        f"V{end - bend}Q{x} {end} {x + 4} {end}H{left - 3}"
    )
    return _tag("path", "spine", d=line) + _tag(
        "path", "tip", d=f"M{left - 5} {end - 4}V{end + 4}L{left} {end}Z"
    )


def _edge(box: Box) -> str:
    return "card" if box.change is Change.SAME else f"card {CHANGES[box.change]}edge"


def _box(box: Box, grid: _Grid, left: int, top: int) -> str:
    hint = "\n".join(markup(line) for line in (*box.hint, box.problem) if line)
    faded = f' class="{PREFIX}faded"' if box.change is Change.GONE else ""
    height = grid.height
    parts = [
        f"<g{faded}>",
        f"<title>{hint}</title>" if hint else "",
        _tag("rect", _edge(box), x=left, y=top, width=grid.width, height=height, rx=6),
        _stripe(TINTS[box.tint], left, top, height),
        _bar(box, grid, left, top),
        *(_one_line(box, grid, left, top) if grid.compact else _two_lines(box, grid, left, top)),
        "</g>",
    ]
    return "".join(filter(None, parts))


def _stripe(name: str, left: int, top: int, height: int) -> str:
    """Return the coloured left edge, rounded as the box is."""
    line = f"M{left + 6} {top}A6 6 0 0 0 {left} {top + 6}V{top + height - 6}"
    return _tag("path", name, d=f"{line}A6 6 0 0 0 {left + 6} {top + height}Z")


def _bar(box: Box, grid: _Grid, left: int, top: int) -> str:
    """Return the bar: its length is the size, on the scale of the picture."""
    if box.size_bytes is None:
        return ""
    x, full = left + _INSET, grid.width - 2 * _INSET
    y = top + grid.height - (5 if grid.compact else 8)
    height = 2 if grid.compact else 3
    track = _tag("rect", "track", x=x, y=y, width=full, height=height, rx=height / 2)
    if not box.size_bytes:
        return track
    length = max(2.0, full * box.size_bytes / grid.scale_bytes)
    return track + _tag(
        "rect", TINTS[box.tint], x=x, y=y, width=length, height=height, rx=height / 2
    )


def _pills(box: Box, grid: _Grid) -> list[tuple[str, str, str]]:
    """Return the labels of an image: text, classes of the label and of its text; right first."""
    out: list[tuple[str, str, str]] = []
    if box.active:
        out.append(("active" if grid.narrow else "active layer", "on", "onink"))
    elif box.tag and not (grid.compact and box.tag == "frozen"):
        out.append((shorten(box.tag, _LONGEST_TAG, "\u2026"), "pill", "mute"))
    if box.change is not Change.SAME:
        out.append((str(box.change), CHANGES[box.change], "onink"))
    return out


def _draw_pills(box: Box, grid: _Grid, right: float, middle: float) -> tuple[list[str], float]:
    """Return the labels, and where the room to the left of them ends."""
    out: list[str] = []
    for text, classes, ink in _pills(box, grid):
        out.append(_pill(text, classes, ink, right, middle))
        right -= _pill_width(text) + 5
    return out, right


def _name(box: Box, x: float, y: float, room: float, size: float) -> str:
    ink = "ink" if box.change is not Change.GONE else "mute"
    return _text(_fitting(box.name, room, size, _MONO), f"{ink} mono", x, y, size)


def _two_lines(box: Box, grid: _Grid, left: int, top: int) -> list[str]:
    """Return the name above the facts, and the labels to the right of the name."""
    x, right = left + _INSET, left + grid.width - _INSET + 4
    pills, end = _draw_pills(box, grid, right, top + 13.5)
    size = 11 if grid.narrow else 11.5
    return [
        _name(box, x, top + 17, end - x - 4, size),
        *pills,
        _words(box, x, top + 31, right - x, 10.5),
    ]


def _words(box: Box, x: float, y: float, room: float, size: float) -> str:
    if box.problem:
        return _text(_fitting(box.problem, room, size, _PLAIN), "bad", x, y, size)
    known = "" if box.size_bytes is None else format_bytes(box.size_bytes)
    words = join_fitting((known, *box.words), int(room / (size * _PLAIN)), " \u00b7 ")
    return _text(words, "mute", x, y, size) if words else ""


def _one_line(box: Box, grid: _Grid, left: int, top: int) -> list[str]:
    x, right = left + _INSET, left + grid.width - _INSET + 4
    pills, end = _draw_pills(box, grid, right, top + 11)
    known = "" if box.size_bytes is None else format_bytes(box.size_bytes)
    words = box.problem or known or join_fitting(box.words, 24, " \u00b7 ")
    words = shorten(words, 24, "\u2026")
    label = _text(words, "bad" if box.problem else "mute", end, top + 14.5, 10, anchor="end")
    end -= columns_of(words) * 10 * _PLAIN + 8
    return [_name(box, x, top + 14.5, end - x, 11), *pills, label if words else ""]


# --- arrows -------------------------------------------------------------------------------------


def _link(link: Link, grid: _Grid) -> str:
    """Return an arrow from a box to one of the next column."""
    nudge = (4 if grid.compact else 7) * (1 if link.kind is LinkKind.COPY else -1)
    start_x, end_x = grid.left(link.column) + grid.width, grid.left(link.column + 1)
    start = grid.y(link.start) + grid.height // 2 + nudge
    end = grid.y(link.end) + grid.height // 2 + nudge
    bend = (end_x - start_x) // 2
    name = LINKS[link.kind]
    curve = (
        f"M{start_x + 2} {start}C{start_x + bend} {start} {end_x - bend} {end} {end_x - 8} {end}"
    )
    tip = f"M{end_x - 9} {end - 4}L{end_x - 1} {end}L{end_x - 9} {end + 4}Z"
    return _tag("path", name, d=curve) + _tag("path", f"{name}tip", d=tip)
