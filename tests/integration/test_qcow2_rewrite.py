"""Headers that qemu-img wrote: read as qemu-img reads them, and rewritten so that it agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from fibackup.errors import ParseError
from fibackup.parse.qcow2_header import (
    NEEDED_BYTES,
    Qcow2Header,
    needed_bytes,
    parse_qcow2_header,
    resolve_backing,
    rewrite_backing,
)
from fibackup.parse.qemu_img_json import parse_check, parse_image_info

pytestmark = [
    pytest.mark.libvirt,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img: headers unchecked"),
]

OPTIONS = (
    "compat=0.10",
    "compat=0.10,cluster_size=512",
    "compat=1.1",
    "compat=1.1,cluster_size=512",
    "compat=1.1,cluster_size=4096",
    "compat=1.1,cluster_size=2M",
    "compat=1.1,lazy_refcounts=on",
    "compat=1.1,compression_type=zstd",
    "compat=1.1,extended_l2=on",
    "compat=1.1,refcount_bits=1",
    "compat=1.1,preallocation=metadata",
)
NAMES = (
    "base.qcow2",
    "with space, comma=and;semicolon.qcow2",
    "\u00fcml\u00e4ut-\u65e5\u672c.qcow2",
    "./" + "a/../" * 199 + "base",
    "\udcff\udc80-not-utf8.qcow2",
)


def qemu_img(*args: str | Path, cwd: Path | None = None) -> str:
    """Run qemu-img and return its output."""
    command = ["qemu-img", *map(str, args)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=cwd)
    return done.stdout.decode()


def make_encrypted(path: Path) -> None:
    """
    Make an image with LUKS.

    QEMU times its key derivation by the CPU time of a thread, and gives up when the clock is too
    coarse for what it measures. That says nothing about us, and another try may go well.
    """
    secret = ("--object", "secret,id=s,data=secret")
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    for _ in range(40):
        try:
            qemu_img("create", "-q", *secret, "-f", "qcow2", "-o", options, path, "1M")
        except subprocess.CalledProcessError as error:
            if b"Unable to get accurate CPU usage" not in error.stderr:
                raise
        else:
            return
    pytest.fail("qemu-img cannot measure its CPU time on this machine")


def read_header(path: Path) -> tuple[bytes, Qcow2Header]:
    """Read the first cluster of a file and its header."""
    with path.open("rb") as file:
        size = needed_bytes(file.read(NEEDED_BYTES))
        file.seek(0)
        cluster = file.read(size)
    return cluster, parse_qcow2_header(cluster)


def write_header(path: Path, cluster: bytes) -> None:
    """Put a first cluster into a file."""
    with path.open("r+b") as file:
        file.write(cluster)


def info(path: Path) -> Any:  # noqa: ANN401 - JSON of another program
    """Return what `qemu-img info` says of one image."""
    return json.loads(qemu_img("info", "--output=json", "-f", "qcow2", path))


def make(path: Path, options: str, size: str = "4M") -> Path:
    """Create an image with some content."""
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, size)
    command = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 64k 128k", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def assert_sound(path: Path) -> None:
    """Assert that `qemu-img check` finds nothing."""
    check = parse_check(qemu_img("check", "--output=json", "-f", "qcow2", path))
    assert (check.sound, check.leaks) == (True, 0)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_header_says_what_qemu_img_says(tmp_path: Path, options: str) -> None:
    """Version, sizes, compression and backing file are those of `qemu-img info`."""
    make(tmp_path / "base.qcow2", "compat=1.1")
    image = tmp_path / "top.qcow2"
    alone = "preallocation" in options
    backing = () if alone else ("-b", "base.qcow2", "-F", "qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, *backing, image, "4M")
    _, header = read_header(image)
    said = info(image)
    compat = {2: "0.10", 3: "1.1"}[header.version]
    assert compat == said["format-specific"]["data"]["compat"]
    assert header.virtual_size_bytes == said["virtual-size"]
    assert header.cluster_bytes == said["cluster-size"]
    assert header.backing_name == said.get("backing-filename")
    assert header.backing_format == said.get("backing-filename-format")
    specific = said["format-specific"]["data"]
    assert header.compression == specific["compression-type"]
    assert 1 << header.refcount_order == specific["refcount-bits"]
    assert header.extended_l2 == specific.get("extended-l2", False)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("backing_format", ["qcow2", "raw", None])
def test_a_new_backing_file_is_the_one_that_qemu_finds(
    tmp_path: Path, options: str, backing_format: str | None
) -> None:
    """After rewriting, qemu-img names the new backing file and format; the image is sound."""
    image = make(tmp_path / "top.qcow2", options)
    make(tmp_path / "base.qcow2", "compat=1.1")
    cluster, _ = read_header(image)
    write_header(image, rewrite_backing(cluster, name="base.qcow2", format=backing_format))
    said = info(image)
    assert said["backing-filename"] == "base.qcow2"
    assert said.get("backing-filename-format") == backing_format
    assert_sound(image)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_content_stays(tmp_path: Path, options: str) -> None:
    """An image moved onto a base and back has its old header and its old content."""
    image = make(tmp_path / "top.qcow2", options)
    before = shutil.copy(image, tmp_path / "before.qcow2")
    cluster, _ = read_header(image)
    moved = rewrite_backing(cluster, name="base.qcow2", format="qcow2")
    write_header(image, moved)
    back = rewrite_backing(moved, name=None, format=None)
    write_header(image, back)
    assert back == cluster
    qemu_img("compare", "-f", "qcow2", "-F", "qcow2", image, before)


@pytest.mark.parametrize("name", NAMES, ids=["plain", "space", "unicode", "long", "bytes"])
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    """QEMU opens the base through a rewritten name, whatever bytes it has."""
    (tmp_path / "a").mkdir()
    image = make(tmp_path / "top.qcow2", "compat=1.1")
    base = tmp_path / name
    make(tmp_path / "plain", "compat=1.1", size="8M").rename(base)
    cluster, _ = read_header(image)
    write_header(image, rewrite_backing(cluster, name=name, format="qcow2"))
    _, header = read_header(image)
    assert header.backing_name == name
    assert resolve_backing(name, PurePosixPath(tmp_path)) == PurePosixPath(base)
    qemu_img("map", "--output=json", "-f", "qcow2", image)
    assert_sound(image)


def test_what_qemu_img_rebases_is_what_we_write(tmp_path: Path) -> None:
    """`qemu-img rebase -u` and `rewrite_backing` leave the same bytes behind."""
    ours = make(tmp_path / "ours.qcow2", "compat=1.1")
    theirs = Path(shutil.copy(ours, tmp_path / "theirs.qcow2"))
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "base.qcow2", "-F", "raw", theirs)
    cluster, _ = read_header(ours)
    assert rewrite_backing(cluster, name="base.qcow2", format="raw") == read_header(theirs)[0]


def test_bitmaps_survive(tmp_path: Path) -> None:
    """Dirty bitmaps and internal snapshots are there after the rewriting."""
    image = make(tmp_path / "top.qcow2", "compat=1.1")
    make(tmp_path / "base.qcow2", "compat=1.1")
    qemu_img("bitmap", "--add", "-f", "qcow2", image, "bitmap0")
    qemu_img("snapshot", "-c", "inner", image)
    cluster, header = read_header(image)
    assert header.snapshot_count == 1
    write_header(image, rewrite_backing(cluster, name="base.qcow2", format="qcow2"))
    said = info(image)
    assert [bitmap["name"] for bitmap in said["format-specific"]["data"]["bitmaps"]] == ["bitmap0"]
    assert [snapshot["name"] for snapshot in said["snapshots"]] == ["inner"]
    assert_sound(image)


def test_a_name_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A cluster of 512 bytes has no room for a name of 1000."""
    cluster, _ = read_header(make(tmp_path / "top.qcow2", "compat=1.1,cluster_size=512"))
    with pytest.raises(ParseError, match="does not fit"):
        rewrite_backing(cluster, name="a" * 1000, format="qcow2")


def test_encryption_and_data_files_are_seen(tmp_path: Path) -> None:
    """LUKS and an external data file show in the header, and survive the rewriting."""
    luks = tmp_path / "luks.qcow2"
    make_encrypted(luks)
    assert read_header(luks)[1].encrypted
    write_header(luks, rewrite_backing(read_header(luks)[0], name="base", format="raw"))
    assert info(luks)["encrypted"] is True
    data = tmp_path / "data.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=outside.raw", data, "1M", cwd=tmp_path)
    assert read_header(data)[1].has_data_file
    assert read_header(data)[1].data_file == "outside.raw"


def test_a_chain_is_read_as_qemu_img_tells_it(tmp_path: Path) -> None:
    """`parse_image_info` reads the chain that `--backing-chain` prints."""
    base = make(tmp_path / "base.qcow2", "compat=1.1")
    top = tmp_path / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    chain = qemu_img("info", "--output=json", "--backing-chain", "-f", "qcow2", top)
    found = parse_image_info(chain)
    assert [image.filename for image in found] == [str(top), str(base)]
    assert found[0].full_backing_filename == str(base)
    assert found[0].backing_format == "qcow2"
    assert found[1].backing_filename is None
