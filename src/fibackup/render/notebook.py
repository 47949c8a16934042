"""
Show a scene in a notebook: HTML with the picture, tables and warnings; no script, no ids.

A notebook that is not trusted drops styles; then the plain text is shown, and the rest is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import evolve

from fibackup.render.fit import markup
from fibackup.render.scene import Scene, Table
from fibackup.render.style import PREFIX, SANS, picture_css, theme_css
from fibackup.render.svg import svg_body

__all__ = ["draw_html"]

_CSS = f"""
.@text{{display:none}}
.@rich{{display:block !important;max-width:1100px;
font-family:{SANS};font-size:12px;line-height:1.45}}
.@rich svg{{display:block;max-width:100%;height:auto}}
.@rich .@table{{border-collapse:collapse;margin:10px 0 0 4px;font-size:12px;border:0;
table-layout:auto}}
.@rich .@table caption{{caption-side:top;text-align:left;font-weight:600;padding:2px 8px;
color:inherit}}
.@rich .@table :is(td,th){{text-align:left;vertical-align:top;padding:2px 14px 2px 8px;border:0;
background:none;white-space:pre-wrap;overflow-wrap:anywhere;max-width:760px}}
.@rich .@table th{{font-weight:600;opacity:.7}}
.@rich .@table tr{{background:none;border-top:1px solid #818b9855}}
.@rich .@note{{margin:8px 4px 0;padding:4px 10px;border-left:3px solid #bf8700;
overflow-wrap:anywhere}}
"""


def draw_html(scene: Scene, *, text: str) -> str:
    """
    Draw a scene for a notebook.

    Args:
        scene: What is to be seen.
        text: The same as plain text, for notebooks that show no styles.

    Returns:
        One ``<div>``; the same for the same scene.

    Source:
        Jupyter's rich display, ``_repr_html_``; docs/explore.md.
    """
    css = _CSS.strip().replace("@", PREFIX) + "\n" + picture_css() + theme_css()
    return "\n".join(
        (
            "<div>",
            f"<style>\n{css}</style>",
            f'<pre class="{PREFIX}text">{_lines(text)}</pre>',
            f'<div class="{PREFIX}rich" style="display:none">',
            svg_body(evolve(scene, notes=())),  # they stand below, where they can be selected
            *(f'<div class="{PREFIX}note">{markup(note)}</div>' for note in scene.notes),
            *(line for table in scene.tables if table.rows for line in _table(table)),
            "</div>",
            "</div>\n",
        )
    )


def _lines(text: str) -> str:
    return "\n".join(markup(line) for line in text.splitlines())


def _table(table: Table) -> Iterator[str]:
    yield f'<table class="{PREFIX}table">'
    yield f"<caption>{markup(table.title)}</caption>"
    if table.head:
        yield f"<tr>{''.join(f'<th>{markup(cell)}</th>' for cell in table.head)}</tr>"
    for row in table.rows:
        yield f"<tr>{''.join(f'<td>{_lines(cell)}</td>' for cell in row)}</tr>"
    yield "</table>"
