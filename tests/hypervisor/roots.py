"""
Short-lived directories with an owner, so that a crashed run leaves nothing for ever.

UNIX socket paths have 108 bytes, and libvirt needs about eighty of them below its root::

    /tmp/fib-hv-x1y2z3/lib/qemu/channel/target/domain-12-a-domain-of-20-chars/org.qemu.guest_agent.0
    |<---- root ---->|<------------------------ 80 ------------------------>|

The owner holds a lock on ROOT/owner for its lifetime. A root whose lock is free belongs to
nobody: the next run ends its processes and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final, TypeGuard

from hypervisor.host import HarnessError
from hypervisor.processes import end_processes_of

LONGEST_ROOT: Final = 28
_PREFIX: Final = "fib-hv-"
_OWNER: Final = "owner"


class OwnedRoot:
    """A directory that this process owns until `remove()`."""

    def __init__(self, wanted: Path | None = None) -> None:
        sweep()
        self.path, self._lock = _own(wanted) if _is_short(wanted) else _own_temporary()
        end_processes_of(self.path)
        _empty(self.path)

    def remove(self) -> None:
        """End what still runs in the directory, then remove it."""
        end_processes_of(self.path)
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep() -> None:
    """Remove the temporary roots whose owner is gone."""
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        held = _lock(root) if _is_ours(root) else None
        if held is not None:
            end_processes_of(root)
            shutil.rmtree(root, ignore_errors=True)
            os.close(held)


def _is_ours(root: Path) -> bool:
    try:
        return root.lstat().st_uid == os.geteuid() and not root.is_symlink()
    except FileNotFoundError:
        return False


def _is_short(wanted: Path | None) -> TypeGuard[Path]:
    return wanted is not None and len(str(wanted.absolute())) <= LONGEST_ROOT


def _own(wanted: Path) -> tuple[Path, int]:
    root = wanted.absolute()
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    held = _lock(root)
    if held is None:
        raise HarnessError(f"another process uses {root}")
    return root, held


def _own_temporary() -> tuple[Path, int]:
    parent = tempfile.gettempdir()
    if len(parent) + len(_PREFIX) + 10 > LONGEST_ROOT:
        parent = "/tmp"  # noqa: S108 - a long TMPDIR leaves no room for sockets
    while True:
        root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        held = _lock(root)
        if held is not None:  # else another process has swept it away, ownerless as it was
            root.chmod(0o755)
            return root, held


def _lock(root: Path) -> int | None:
    try:
        handle = os.open(root / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    if os.fstat(handle).st_nlink == 0:
        os.close(handle)
        return None
    return handle


def _empty(root: Path) -> None:
    for entry in root.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _OWNER:
            entry.unlink()
