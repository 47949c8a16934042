"""What exists: frozen, validated values, no input or output."""
