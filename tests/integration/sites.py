"""A store with one point, the images that it is of, and what both must hold: for acts that fail."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import fibackup as fb
from hypervisor.faulty import DONE, UUID, Act, Zygote, later, make_images


@dataclass
class Site:
    """A store with one point, the images of a domain, and what both must hold."""

    directory: Path
    act: Act
    expected: str = ""
    right: set[str] = field(default_factory=set)

    @property
    def store(self) -> Path:
        """The store."""
        return Path(self.act.store)

    def history(self) -> fb.History:
        """Read the store."""
        with fb.Store.open(self.store) as store:
            return store.read_history(UUID)

    def points_are_whole(self) -> int:
        """Check every file of every point by its hash, and the disk by what was copied."""
        history = self.history()
        assert history.unreadable == ()
        (home,) = self.store.glob(f"*{UUID}")
        for point in history.points:
            for file in point.files:
                assert _sha256(home / file.name) == file.sha256
            (disk,) = point.disks
            for image in disk.images:
                assert _sha256(home / "vda" / image.name) == image.sha256
            top = history.top(point.id, "vda")
            if top.sha256 not in self.right:
                assert self.flat(home / "vda" / top.name) == self.expected
                self.right.add(top.sha256)
        return len(history.points)

    def flat(self, image: Path) -> str:
        """Return the hash of what a guest would read."""
        out = self.directory / "flat.raw"
        words = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(out)]
        subprocess.run(words, check=True)
        return _sha256(out)

    def touch(self) -> None:
        """Let the active layer look as if it had been written."""
        now = Path(self.act.image).stat().st_mtime_ns
        os.utime(self.act.image, ns=(now, now + 1_000_000_000))

    def leftovers(self) -> list[str]:
        """Return what a run that has ended may not leave."""
        history = self.history()
        assert history.unclaimed == frozenset()
        named = {file.name for point in history.points for file in point.files}
        found = [*self.store.rglob(".*.tmp"), *self.store.rglob("*.receipt")]
        found += [path for path in self.store.glob("*/*.xml") if path.name not in named]
        return sorted(str(path) for path in found)


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def hashes(directory: Path) -> dict[Path, str]:
    """Return the hash of every file but the locks."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path: _sha256(path) for path in files if not path.name.startswith("lock")}


def make_site(directory: Path, zygote: Zygote, store: Path | None = None) -> Site:
    """Make images, and a store with one point of them."""
    directory.mkdir()
    active, base = make_images(directory)
    store = store or directory / "store"
    store.mkdir(exist_ok=True)
    act = Act("backup", str(store), str(active), str(base), at=later(0))
    site = Site(directory, act)
    site.expected = site.flat(active)
    assert zygote.run(act) == DONE
    assert site.points_are_whole() == 1
    return site
