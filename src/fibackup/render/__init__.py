"""Values as pictures: text for terminals."""

from __future__ import annotations

from fibackup.render.text import draw_chains, draw_history, table

__all__ = ["draw_chains", "draw_history", "table"]
