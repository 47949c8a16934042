"""
Kernel and initramfs of the test guest, made from Debian packages that are not installed.

::

    .cache/guest/packages/*.deb          downloaded once
    .cache/guest/kit-KEY/vmlinuz         KEY = hash of guest_init.sh and of the code
    .cache/guest/kit-KEY/initramfs       init, busybox, qemu-ga with its libraries, seven modules

To get a newer kernel, remove `.cache/guest`.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypervisor.cpio import initramfs
from hypervisor.host import CACHE, HarnessError, run
from hypervisor.packages import PackageStore

_HERE: Final = Path(__file__).parent
_GUEST: Final = CACHE / "guest"
_INIT: Final = _HERE / "guest_init.sh"
_SOURCES: Final = (_INIT, _HERE / "cpio.py", _HERE / "guest_kit.py")
_LIBRARIES: Final = "lib/x86_64-linux-gnu"
_DEPTH: Final = 4  # of dependencies of dependencies
_LOADER: Final = "lib64/ld-linux-x86-64.so.2"
_MODULES: Final = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
)


@dataclass(frozen=True)
class GuestKit:
    """What a guest boots from."""

    kernel: Path
    initramfs: Path


def guest_kit() -> GuestKit:
    """Return the kit, made at the first call in a clone."""
    directory = _GUEST / f"kit-{_key()}"
    with _locked():
        if not directory.exists():
            _build(directory)
    return GuestKit(directory / "vmlinuz", directory / "initramfs")


def _key() -> str:
    digest = hashlib.sha256()
    for source in _SOURCES:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _locked() -> Iterator[None]:
    _GUEST.mkdir(parents=True, exist_ok=True)
    with (_GUEST / "lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(directory: Path) -> None:
    store = PackageStore(_GUEST / "packages")
    kernel = store.kernel()
    with tempfile.TemporaryDirectory(dir=_GUEST) as scratch:
        system, made = Path(scratch) / "system", Path(scratch) / "kit"
        store.unpack([kernel, "busybox-static", "qemu-guest-agent"], system)
        made.mkdir()
        shutil.copyfile(next(system.glob("boot/vmlinuz-*")), made / "vmlinuz")
        (made / "initramfs").write_bytes(initramfs(_files(store, system)))
        for old in _GUEST.glob("kit-*"):
            shutil.rmtree(old)
        made.rename(directory)


def _files(store: PackageStore, system: Path) -> dict[str, bytes]:
    agent = next(
        path for path in (system / "usr/sbin/qemu-ga", system / "usr/bin/qemu-ga") if path.exists()
    )
    busybox = next(
        path for path in (system / "usr/bin/busybox", system / "bin/busybox") if path.exists()
    )
    files = {
        "init": _INIT.read_bytes(),
        "bin/busybox": busybox.read_bytes(),
        "bin/qemu-ga": agent.read_bytes(),
    }
    files |= {name: path.read_bytes() for name, path in _libraries(store, system, agent).items()}
    return files | {f"modules/{name}.ko": content for name, content in _modules(system)}


def _modules(system: Path) -> Iterator[tuple[str, bytes]]:
    for name in _MODULES:
        for path in system.glob(f"**/kernel/drivers/**/{name}.ko*"):
            content = path.read_bytes()
            yield name, lzma.decompress(content) if path.suffix == ".xz" else content


def _libraries(store: PackageStore, system: Path, program: Path) -> dict[str, Path]:
    """Return what the dynamic linker would load, from packages where the machine lacks it."""
    layer = ["qemu-guest-agent"]
    found, missing = _ldd(system, program)
    for _ in range(_DEPTH):
        if not missing:
            return found
        layer = sorted({name for package in layer for name in store.depends(package)})
        store.unpack(layer, system)
        found, missing = _ldd(system, program)
    raise HarnessError(f"no package has the libraries {missing} of qemu-ga")


def _ldd(system: Path, program: Path) -> tuple[dict[str, Path], list[str]]:
    places = [str(system / place) for place in (_LIBRARIES, f"usr/{_LIBRARIES}")]
    found, missing = {}, []
    for line in run("ldd", program, env={"LD_LIBRARY_PATH": ":".join(places)}).splitlines():
        name, _, rest = line.strip().partition(" => ")
        if rest.startswith("not found"):
            missing.append(name)
        elif rest:
            found[f"{_LIBRARIES}/{name}"] = Path(rest.split()[0])
        elif "ld-linux" in name:
            found[_LOADER] = Path(name.split()[0])
    return found, missing
