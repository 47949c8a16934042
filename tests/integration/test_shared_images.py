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
    assert tuple(shared_images(ours, (Image(pure(top), "qcow2"),))) == (pure(base),)


def test_a_header_without_a_format_counts(tmp_path: Path) -> None:
    """QEMU would probe that image; so it is shared, and what it names as well."""
    base = create(tmp_path / "base.qcow2")
    middle = create(tmp_path / "middle.qcow2", base, "qcow2")
    top = create(tmp_path / "top.qcow2", middle)
    ours = (pure(base), pure(middle))
    assert tuple(shared_images(ours, (Image(pure(top), "qcow2"),))) == ours


def test_images_in_a_circle_end(tmp_path: Path) -> None:
    """Each is looked at once."""
    one = create(tmp_path / "one.qcow2", tmp_path / "two.qcow2", "qcow2")
    two = create(tmp_path / "two.qcow2", one, "qcow2")
    images = (Image(pure(one), "qcow2"), Image(pure(two), "qcow2"))
    assert tuple(shared_images((pure(one), pure(two)), images)) == (pure(one), pure(two))


def incompatible(path: Path, bit: int) -> None:
    """Set a feature bit that a reader must know."""
    with path.open("r+b") as image:
        image.seek(79)
        image.write(bytes([1 << bit]))


@pytest.mark.parametrize("kind", ["data-file", "corrupt", "luks", "json", "file:"])
def test_an_image_that_no_backup_takes_is_followed_all_the_same(tmp_path: Path, kind: str) -> None:
    """The other domain needs what lies under it, whether we could copy it or not."""
    base = create(tmp_path / "base.qcow2")
    names = {
        "json": f'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{base}"}}}}',
        "file:": f"file:{base}",
    }
    options = {
        "data-file": ("-o", f"data_file={tmp_path / 'data'}"),
        "luks": (
            *("--object", "secret,id=s,data=x"),
            *("-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
        ),
    }
    top = tmp_path / "top.qcow2"
    words = ("-b", names.get(kind, str(base)), "-F", "qcow2", *options.get(kind, ()))
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *words, str(top)]
    subprocess.run(command, check=True, capture_output=True)
    if kind == "corrupt":
        incompatible(top, 1)
    assert shared_images((pure(base),), (Image(pure(top), "qcow2"),)) == {pure(base): ""}


def test_a_chain_that_cannot_be_followed_may_lead_anywhere(tmp_path: Path) -> None:
    """All that exists counts, with the image and the reason; unless the XML says what is below."""
    base = create(tmp_path / "base.qcow2")
    strange = create(tmp_path / "strange.qcow2")
    incompatible(strange, 7)
    older = create(tmp_path / "older.qed")
    ours = (pure(base), pure(tmp_path / "gone"))
    for image in (Image(pure(strange), "qcow2"), Image(pure(older), "qed")):
        [(path, doubt)] = shared_images(ours, (image,)).items()
        assert path == pure(base)
        assert f"it cannot be told what {image.path} lies on: " in doubt
        said = Image(image.path, image.format, header_backing="/elsewhere")
        assert shared_images(ours, (said, image)) == {}


def test_what_is_sound_and_elsewhere_is_in_nobodys_way(tmp_path: Path) -> None:
    """A medium, a missing image, a remote base, and a file that is no image at all."""
    base = create(tmp_path / "base.qcow2")
    text = tmp_path / "text"
    text.write_text("no image")
    remote = tmp_path / "remote.qcow2"
    words = ["-F", "raw", "-b", "nbd://host/x", str(remote), "1M"]
    command = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", *words]
    subprocess.run(command, check=True, capture_output=True)
    images = (
        Image(pure(text), "raw"),
        Image(pure(text), "qcow2"),
        Image(pure(text / "under"), "qcow2"),
        Image(pure(tmp_path / "gone"), "qcow2"),
        Image(pure(remote), "qcow2"),
        Image(PurePosixPath("/dev/null"), "qcow2"),
        Image(PurePosixPath("/dev/null"), "raw"),
    )
    assert shared_images((pure(base),), images) == {}


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
    assert tuple(shared_images((pure(canary), pure(raw)), (image,))) == (pure(raw),)
    assert str(canary) not in opened
    assert str(raw) not in opened
