"""Decisions: pure functions from what was observed to a `Plan`."""

from fibackup.plan import pictures

__all__ = ["pictures"]  # whoever imports a plan can draw it: that module registers how
