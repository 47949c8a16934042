"""Decisions: pure functions from what was observed to a `Plan`."""
