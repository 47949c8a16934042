"""
A capability cache that outlives the hypervisor roots: probing QEMU takes seconds.

libvirt validates each file by itself (versions and times of QEMU and of libvirt), so a stale one
costs a new probe and nothing else.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hypervisor.host import CACHE


def seed(kind: str, capabilities: Path) -> None:
    """Copy the saved files of this kind of driver to where it looks for them."""
    _copy_all(_saved(kind), capabilities)


def save(kind: str, capabilities: Path) -> None:
    """Keep what the driver has learned, for the next run."""
    _copy_all(capabilities, _saved(kind))


def _saved(kind: str) -> Path:
    return CACHE / "hypervisor" / "capabilities" / f"{kind}-{os.geteuid()}"


def _copy_all(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.xml"):
        if not _same(path, target / path.name):
            fresh = target / f".{path.name}.{os.getpid()}"
            shutil.copyfile(path, fresh)
            fresh.replace(target / path.name)


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()
