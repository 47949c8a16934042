"""The build's own step: the manual pages, from the help of the commands."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPages(BuildHookInterface[Any]):
    """Writes the pages into build/man; a wheel installs them below share/man/man1."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the pages and add them to what is built; an editable install has none."""
        if version == "editable":
            return
        root = Path(self.root)
        write_pages = run_path(str(root / "scripts" / "man_pages.py"))["write_pages"]
        for page in write_pages(root / "build" / "man", self.metadata.version):
            if self.target_name == "wheel":
                build_data["shared_data"][str(page)] = f"share/man/man1/{page.name}"
            else:
                build_data["force_include"][str(page)] = f"man/{page.name}"
