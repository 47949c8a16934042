"""
Draw a scene as mermaid text, for pages and wikis that draw it themselves.

::

    flowchart TB
      subgraph s0c0["vda: live"]
        s0c0r0["disk.bimg-B<br>1.2 GiB, active layer"]:::ours --> s0c0r1
"""

from __future__ import annotations

from collections.abc import Iterator

from fibackup.render.fit import clean
from fibackup.render.scene import (
    MOST_ROWS,
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

__all__ = ["draw_mermaid"]

# Fill and stroke that can be read on light and on dark pages.
_CLASSES = {
    Tint.PLAIN: "fill:#eaeef2,stroke:#818b98,color:#1f2328",
    Tint.OURS: "fill:#ddf4ff,stroke:#0969da,color:#1f2328",
    Tint.OTHER: "fill:#f5ecdd,stroke:#9a7b4f,color:#1f2328",
    Tint.FULL: "fill:#efe6ff,stroke:#8250df,color:#1f2328",
    Tint.INCREMENT: "fill:#d9f5f2,stroke:#0e8a83,color:#1f2328",
}
_CHANGES = {
    Change.NEW: "stroke:#1a7f37,stroke-width:2px",
    Change.WRITTEN: "stroke:#9a6700,stroke-width:2px",
    Change.GONE: "stroke:#cf222e,stroke-dasharray:4 3",
}
# What begins or ends something in a label; entities of mermaid, which are not those of HTML.
_ENTITIES = str.maketrans({char: f"#{ord(char)};" for char in "#&<>`\\;"} | {'"': "#quot;"})
_ARROWS = {LinkKind.COPY: "-. copied to .->", LinkKind.SITS_ON: "-. sits on .->"}


def draw_mermaid(scene: Scene, *, most_rows: int | None = MOST_ROWS) -> str:
    """
    Draw a scene as a mermaid flowchart.

    Args:
        scene: What is to be seen; its tables are left out.
        most_rows: Images of a chain that are drawn before its middle is folded; None: all.

    Returns:
        Text with a newline at its end; the same for the same scene.

    Source:
        Mermaid, "Flowcharts": subgraphs, classes and entity codes.
    """
    lines = ["---", f"title: {_quoted(scene.title)}", "---", "flowchart TB"]
    used: set[Tint] = set()
    changes: set[Change] = set()
    for number, each in enumerate(scene.sections):
        section = fold(each, most_rows)
        lines.extend(f"  {line}" for line in _section(section, f"s{number}"))
        for column in section.columns:
            used.update(box.tint for box in column.boxes if box is not None)
            changes.update(box.change for box in column.boxes if box is not None)
    lines.extend(f"  classDef {tint} {_CLASSES[tint]}" for tint in Tint if tint in used)
    lines.extend(
        f"  classDef {change} {_CHANGES[change]}" for change in _CHANGES if change in changes
    )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return text for the front matter, which is YAML."""
    safe = clean(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{safe}"'


def _label(text: str) -> str:
    return clean(text).translate(_ENTITIES)


def _section(section: Section, name: str) -> Iterator[str]:
    for number, column in enumerate(section.columns):
        yield from _column(section, column, f"{name}c{number}")
    for link in section.links:
        start, end = f"{name}c{link.column}r{link.start}", f"{name}c{link.column + 1}r{link.end}"
        yield f"{start} {_ARROWS[link.kind]} {end}"


def _column(section: Section, column: Column, name: str) -> Iterator[str]:
    boxes = [(row, box) for row, box in enumerate(column.boxes) if box is not None]
    if not boxes:
        return
    title = ": ".join(filter(None, (section.title, column.title)))
    yield f'subgraph {name}["{_label(title)}"]'
    for row, box in boxes:
        yield f'  {name}r{row}["{_node(box)}"]:::{box.tint}'
        if box.change is not Change.SAME:
            yield f"  class {name}r{row} {box.change}"
    for row, box in boxes:
        if box.on is not None:
            yield f"  {name}r{row} --> {name}r{box.on}"
    yield "end"


def _node(box: Box) -> str:
    size = "" if box.size_bytes is None else format_bytes(box.size_bytes)
    change = "" if box.change is Change.SAME else str(box.change)
    ours = "ours" if box.tint is Tint.OURS else ""
    facts = ", ".join(filter(None, (size, box.tag, ours, change, box.problem)))
    return "<br>".join(_label(line) for line in (box.name, facts) if line)
