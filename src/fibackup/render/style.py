"""
The colours of pictures, light and dark, as CSS that touches nothing else on its page.

Every class begins with `PREFIX`, which is made from the colours themselves: pictures of two
versions of fibackup can stand in one notebook. There are no variables and no ids, so that
converters which know little CSS show the light colours.
"""

from __future__ import annotations

from hashlib import sha256

from fibackup.render.scene import Change, LinkKind, Tint

__all__ = ["CHANGES", "LINKS", "PREFIX", "SANS", "TINTS", "picture_css", "theme_css"]

SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','Noto Sans',sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"

TINTS = {
    Tint.PLAIN: "plain",
    Tint.OURS: "ours",
    Tint.OTHER: "other",
    Tint.FULL: "full",
    Tint.INCREMENT: "incr",
}
"""Class of what has the colour of an image, without the prefix."""

CHANGES = {
    Change.SAME: "same",
    Change.NEW: "new",
    Change.WRITTEN: "written",
    Change.GONE: "gone",
}
"""Class of what has the colour of a change, without the prefix."""

LINKS = {LinkKind.COPY: "copy", LinkKind.SITS_ON: "sits"}
"""Class of an arrow, without the prefix."""

# Class, property, light, dark. Text has a contrast of 4.5 and more on what it stands on.
_COLOURS = (
    ("page", "fill", "#ffffff", "#0d1117"),
    ("page", "stroke", "#d1d9e0", "#3d444d"),
    ("card", "fill", "#f6f8fa", "#151b23"),
    ("card", "stroke", "#d1d9e0", "#3d444d"),
    ("ink", "fill", "#1f2328", "#f0f6fc"),
    ("mute", "fill", "#59636e", "#9198a1"),
    ("track", "fill", "#e4e8ed", "#262c36"),
    ("rule", "stroke", "#d1d9e0", "#3d444d"),
    ("spine", "stroke", "#818b98", "#7d8590"),
    ("tip", "fill", "#818b98", "#7d8590"),
    ("plain", "fill", "#818b98", "#7d8590"),
    ("ours", "fill", "#0969da", "#4493f8"),
    ("other", "fill", "#9a7b4f", "#b99a6b"),
    ("full", "fill", "#8250df", "#ab7df8"),
    ("incr", "fill", "#0e8a83", "#2fb5ac"),
    ("copy", "stroke", "#0e8a83", "#2fb5ac"),
    ("copytip", "fill", "#0e8a83", "#2fb5ac"),
    ("sits", "stroke", "#8250df", "#ab7df8"),
    ("sitstip", "fill", "#8250df", "#ab7df8"),
    ("pill", "fill", "#e4e8ed", "#262c36"),
    ("on", "fill", "#0969da", "#1f6feb"),
    ("onink", "fill", "#ffffff", "#ffffff"),
    ("new", "fill", "#1a7f37", "#238636"),
    ("written", "fill", "#9a6700", "#9e6a03"),
    ("gone", "fill", "#cf222e", "#da3633"),
    ("newedge", "stroke", "#1a7f37", "#3fb950"),
    ("writtenedge", "stroke", "#9a6700", "#d29922"),
    ("goneedge", "stroke", "#cf222e", "#f85149"),
    ("warn", "fill", "#9a6700", "#d29922"),
    ("bad", "fill", "#cf222e", "#f85149"),
)

_SHAPES = f"""
.@svg{{font-family:{SANS}}}
.@mono{{font-family:{MONO}}}
.@page,.@card{{stroke-width:1}}
.@rule{{stroke-width:1}}
.@spine{{fill:none;stroke-width:1.5}}
.@copy,.@sits{{fill:none;stroke-width:1.5}}
.@sits{{stroke-dasharray:4 3}}
.@newedge,.@writtenedge{{stroke-width:1.5}}
.@goneedge{{stroke-width:1.5;stroke-dasharray:4 3}}
.@faded{{opacity:.62}}
"""

_DARK = (
    '[data-jp-theme-light="false"]',
    "body.vscode-dark",
    'html[theme="dark"]',
    '[data-theme="dark"]',
    '[data-md-color-scheme="slate"]',
)
_LIGHT = (
    '[data-jp-theme-light="true"]',
    "body.vscode-light",
    'html[theme="light"]',
    '[data-theme="light"]',
    '[data-md-color-scheme="default"]',
)

PREFIX = "fb" + sha256(repr((_COLOURS, _SHAPES)).encode()).hexdigest()[:6] + "-"
"""What every class of ours begins with."""


def _rules(column: int, under: str = "") -> str:
    """Return the colours of a theme, one rule for each class."""
    out: dict[str, str] = {}
    for row in _COLOURS:
        out[row[0]] = f"{out.get(row[0], '')}{row[1]}:{row[column]};"
    return "".join(f"{under}.{PREFIX}{name}{{{body[:-1]}}}\n" for name, body in out.items())


def picture_css() -> str:
    """
    Return the rules for a picture: light, and dark where the reader's system is.

    Source:
        Media Queries Level 5, ``prefers-color-scheme``.
    """
    shapes = _SHAPES.strip().replace("@", PREFIX)
    return f"{shapes}\n{_rules(2)}@media (prefers-color-scheme:dark){{\n{_rules(3)}}}\n"


def theme_css() -> str:
    """
    Return the rules for a page that has a theme of its own, which counts more than the system's.

    Source:
        JupyterLab sets ``data-jp-theme-light``; VS Code, Colab, Sphinx themes and Material for
        MkDocs have the others.
    """
    dark, light = f":is({','.join(_DARK)}) ", f":is({','.join(_LIGHT)}) "
    return _rules(2, light) + _rules(3, dark)
