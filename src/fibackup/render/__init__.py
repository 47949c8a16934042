"""Pictures of values: text, SVG, HTML and mermaid; no domains and no stores in here."""
