"""What exists: frozen, validated values, no input or output."""

from fibackup.model import pictures

__all__ = ["pictures"]  # whoever imports a value can draw it: that module registers how
