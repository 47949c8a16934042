"""
Debian packages as archives: downloaded with apt, unpacked without being installed.

::

    DIRECTORY/NAME.deb      one archive per package; the network serves only what is not here
    DIRECTORY/lists/        lists of our own, when those of the machine are missing or stale
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hypervisor.host import HarnessError, is_root, run

_KERNEL: Final = "linux-image-cloud-amd64"


class PackageStore:
    """The archives of some packages."""

    def __init__(self, directory: Path) -> None:
        """Keep the archives in `directory`."""
        self._directory = directory
        self._options = ["-o", "APT::Sandbox::User=root"] if is_root() else []
        directory.mkdir(parents=True, exist_ok=True)

    def archive(self, package: str) -> Path:
        """Return the archive of a package."""
        kept = self._directory / f"{package}.deb"
        if not kept.exists():
            try:
                self._download(package, kept)
            except HarnessError:
                self._update_own_lists()
                self._download(package, kept)
        return kept

    def unpack(self, packages: Sequence[str], target: Path) -> None:
        """Unpack packages into a directory."""
        for package in packages:
            run("dpkg-deb", "-x", self.archive(package), target)

    def depends(self, package: str) -> list[str]:
        """Return the packages that a package depends on, the first of each alternative."""
        return _names(run("dpkg-deb", "-f", self.archive(package), "Depends"))

    def kernel(self) -> str:
        """Return the name of a cloud kernel package: one that is here, else the newest one."""
        kept = sorted(self._directory.glob("linux-image-*-cloud-amd64.deb"))
        if kept:
            return kept[-1].name.removesuffix(".deb")
        found = self._kernel_in_lists()
        if not found:
            self._update_own_lists()
            found = self._kernel_in_lists()
        if not found:
            raise HarnessError(f"apt knows no package {_KERNEL}")
        return found[0]

    def _kernel_in_lists(self) -> list[str]:
        shown = run(
            "apt-cache", *self._options, "show", "--no-all-versions", _KERNEL, accept=(0, 100)
        )
        fields = [
            line.removeprefix("Depends:")
            for line in shown.splitlines()
            if line.startswith("Depends:")
        ]
        return [
            name for field in fields for name in _names(field) if name.startswith("linux-image-")
        ]

    def _download(self, package: str, kept: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self._directory) as scratch:
            run("apt-get", *self._options, "-q", "download", package, cwd=Path(scratch))
            next(Path(scratch).glob("*.deb")).replace(kept)

    def _update_own_lists(self) -> None:
        lists, cache = self._directory / "lists", self._directory / "cache"
        for directory in (lists / "partial", cache / "archives" / "partial"):
            directory.mkdir(parents=True, exist_ok=True)
        self._options += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
        run("apt-get", *self._options, "-qq", "update")


def _names(field: str) -> list[str]:
    return [
        part.split("|")[0].split()[0].partition(":")[0] for part in field.split(",") if part.strip()
    ]
