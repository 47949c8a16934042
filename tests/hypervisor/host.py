"""The small ground that the other modules stand on: paths, tools and child processes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

CLONE: Final = Path(__file__).resolve().parents[2]
CACHE: Final = CLONE / ".cache"
_EXTRA_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin"
_NEEDED: Final = (
    "qemu-system-x86_64",
    "qemu-img",
    "qemu-io",
    "libvirtd",
    "mkfs.ext4",
    "e2fsck",
    "debugfs",
    "dumpe2fs",
    "apt-get",
    "dpkg-deb",
    "ldd",
    "swtpm",
    "swtpm_setup",
)


class HarnessError(RuntimeError):
    """The hypervisor of the tests cannot do what was asked of it."""


def tool(name: str) -> str:
    """Return the path of a command, also of those that live in the sbin directories."""
    path = shutil.which(name, path=_search_path())
    if path is None:
        raise HarnessError(f"the command {name!r} is missing: run scripts/setup")
    return path


def missing_tools() -> list[str]:
    """Return the commands that the hypervisors need and the machine lacks."""
    return [name for name in _NEEDED if shutil.which(name, path=_search_path()) is None]


def run(
    *words: str | Path,
    accept: Sequence[int] = (0,),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_seconds: float = 300,
) -> str:
    """Run a command in the C locale and return its standard output."""
    argv = [tool(str(words[0])), *map(str, words[1:])]
    done = subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        timeout=timeout_seconds,
    )
    if done.returncode not in accept:
        output = (done.stderr + done.stdout).strip()
        raise HarnessError(f"{' '.join(argv)}: exit {done.returncode}: {output}")
    return done.stdout


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), _EXTRA_PATH])


def is_root() -> bool:
    """Tell whether this process may chown, mount and use qemu:///system."""
    return os.geteuid() == 0


def logged_qemu_img(directory: Path) -> tuple[Path, Path]:
    """Make a qemu-img that writes its words down, a line for each call; return it and the log."""
    log, wrapper = directory / "asked", directory / "logged-qemu-img"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >>{log}\nexec {tool("qemu-img")} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper, log
