"""Pictures of values: text, SVG, HTML and mermaid; no domains and no stores in here."""

from __future__ import annotations

from fibackup.render.drawable import Drawable, Picture, picture_of
from fibackup.render.scene import (
    Box,
    Change,
    Column,
    Link,
    LinkKind,
    Scene,
    Section,
    Table,
    Tint,
    stack,
)
from fibackup.render.text import DEFAULT_WIDTH, table

__all__ = [
    "Picture",
    "Section",
    "Column",
    "Box",
    "Link",
    "Table",
    "Tint",
    "Change",
    "LinkKind",
    "Drawable",
    "picture_of",
    "Scene",
    "stack",
    "DEFAULT_WIDTH",
    "table",
]
