"""What other domains use is found through headers, and a guest cannot lead the search astray."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from fibackup import Image
from fibackup.host.images import shared_images
from fibackup.parse.qcow2_header import rewrite_backing

pytestmark = pytest.mark.libvirt


def create(path: Path, backing: Path | None = None, backing_format: str | None = None) -> Path:
    """Make a qcow2 image, perhaps on one that need not exist."""
    words = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"]
    subprocess.run(words, check=True, capture_output=True)
    if backing is not None:
        with path.open("r+b") as image:
            head = rewrite_backing(image.read(65536), name=str(backing), format=backing_format)
            image.seek(0)
            image.write(head)
    return path


def pure(path: Path) -> PurePosixPath:
    """Return a path as the pure layers have it."""
    return PurePosixPath(path)


def test_headers_are_followed_to_the_base(tmp_path: Path) -> None:
    """Also through a link, and a name that is relative."""
    base = create(tmp_path / "base.qcow2")
    (tmp_path / "link").symlink_to(base)
    middle = create(tmp_path / "middle.qcow2", Path("link"), "qcow2")
    top = create(tmp_path / "top.qcow2", middle, "qcow2")
    other = create(tmp_path / "other.qcow2")
    ours = tuple(pure(path) for path in (base, other, tmp_path / "gone"))
    assert shared_images(ours, (Image(pure(top), "qcow2"),)) == (pure(base),)


def test_a_header_without_a_format_counts(tmp_path: Path) -> None:
    """QEMU would probe that image; so it is shared, and what it names as well."""
    base = create(tmp_path / "base.qcow2")
    middle = create(tmp_path / "middle.qcow2", base, "qcow2")
    top = create(tmp_path / "top.qcow2", middle)
    ours = (pure(base), pure(middle))
    assert shared_images(ours, (Image(pure(top), "qcow2"),)) == ours


def test_images_in_a_circle_end(tmp_path: Path) -> None:
    """Each is looked at once."""
    one = create(tmp_path / "one.qcow2", tmp_path / "two.qcow2", "qcow2")
    two = create(tmp_path / "two.qcow2", one, "qcow2")
    images = (Image(pure(one), "qcow2"), Image(pure(two), "qcow2"))
    assert shared_images((pure(one), pure(two)), images) == (pure(one), pure(two))


@pytest.mark.parametrize("declared", ["in the XML", "in the header"])
def test_a_raw_image_is_never_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: str
) -> None:
    """A guest that wrote a header onto its raw disk names no file of the host."""
    canary = tmp_path / "canary"
    canary.write_text("the host's")
    raw = create(tmp_path / "disk.raw", canary, "raw")
    image = Image(pure(raw), "raw")
    if declared == "in the header":
        image = Image(pure(create(tmp_path / "top.qcow2", raw, "raw")), "qcow2")
    opened: list[str] = []
    real = os.open

    def spy(path: str | PurePosixPath, flags: int, mode: int = 0o777) -> int:
        opened.append(str(path))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", spy)
    assert shared_images((pure(canary), pure(raw)), (image,)) == (pure(raw),)
    assert str(canary) not in opened
    assert str(raw) not in opened
