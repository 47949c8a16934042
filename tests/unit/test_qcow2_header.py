"""The qcow2 header, built byte by byte as the specification has it."""

from __future__ import annotations

import struct
from pathlib import PurePosixPath

import pytest

from fibackup.errors import ParseError
from fibackup.parse.qcow2_header import (
    NEEDED_BYTES,
    Qcow2Header,
    backing_files,
    is_qcow2,
    needed_bytes,
    parse_qcow2_header,
    resolve_backing,
    rewrite_backing,
    stored_header_fault,
)

CLUSTER = 1 << 16
FORMAT = 0xE2792ACA
FEATURES = 0x6803F857
BITMAPS = 0x23852875
LUKS = 0x0537BE77
DATA_FILE = 0x44415441

COMMON = {
    "magic": b"QFI\xfb",
    "version": 3,
    "backing_offset": 0,
    "backing_size": 0,
    "cluster_bits": 16,
    "size": 1 << 30,
    "crypt_method": 0,
    "l1_size": 2,
    "l1_offset": 3 * CLUSTER,
    "refcount_offset": CLUSTER,
    "refcount_clusters": 1,
    "snapshots": 0,
    "snapshots_offset": 0,
}
VERSION_3 = {"incompatible": 0, "compatible": 0, "autoclear": 0, "order": 4, "length": 112}


def extension(kind: int, data: bytes) -> bytes:
    """Return one header extension with its padding."""
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


def header(
    *extensions: bytes, name: bytes = b"", compression: int = 0, **fields: int | bytes
) -> bytes:
    """Return the first cluster of an image; fields of the header can be changed."""
    values = {**COMMON, **VERSION_3}
    rest = b"".join(extensions) + bytes(8)
    v2 = fields.get("version") == 2
    if name:
        start = 72 if v2 else 112
        values |= {"backing_offset": start + len(rest), "backing_size": len(name)}
    values |= fields
    head = struct.pack(">4sIQIIQIIQQIIQ", *(values[key] for key in COMMON))
    if not v2:
        head += struct.pack(">QQQII", *(values[key] for key in VERSION_3))
        head += bytes([compression]) + bytes(7)
    bits = values["cluster_bits"]
    size = 1 << bits if isinstance(bits, int) and bits < 22 else CLUSTER
    return (head + rest + name).ljust(size, b"\0")


def test_a_plain_header_is_read() -> None:
    """Every field of a header without extensions is where the specification puts it."""
    assert parse_qcow2_header(header()) == Qcow2Header(
        version=3,
        virtual_size_bytes=1 << 30,
        cluster_bytes=CLUSTER,
        backing_name=None,
        backing_format=None,
        data_file=None,
        incompatible=0,
        compatible=0,
        autoclear=0,
        crypt_method=0,
        compression="zlib",
        header_length=112,
        refcount_order=4,
        snapshot_count=0,
        snapshots_offset=0,
        l1_entries=2,
        l1_offset=3 * CLUSTER,
        refcount_offset=CLUSTER,
        refcount_clusters=1,
        extensions=(),
    )


@pytest.mark.parametrize("version", [2, 3])
def test_a_backing_file_is_read(version: int) -> None:
    """Name and format of the backing file are read, with the bytes that are not UTF-8."""
    found = parse_qcow2_header(
        header(extension(FORMAT, b"raw"), name=b"b\xff.raw", version=version)
    )
    assert (found.version, found.backing_name, found.backing_format) == (
        version,
        "b\udcff.raw",
        "raw",
    )
    assert found.extensions == ((FORMAT, b"raw"),)


def test_version_2_has_the_values_of_its_time() -> None:
    """A version 2 header is 72 bytes long, with 16-bit refcounts and no feature bits."""
    found = parse_qcow2_header(header(version=2))
    assert (found.header_length, found.refcount_order, found.incompatible) == (72, 4, 0)


@pytest.mark.parametrize(
    ("bit", "name"),
    [(0, "dirty"), (1, "corrupt"), (2, "has_data_file"), (4, "extended_l2")],
)
def test_a_feature_bit_is_seen(bit: int, name: str) -> None:
    """Each incompatible feature has a name; without its bit it is off."""
    assert getattr(parse_qcow2_header(header(incompatible=1 << bit)), name) is True
    assert getattr(parse_qcow2_header(header()), name) is False


def test_a_data_file_is_named() -> None:
    """The extension names the file that has the guest's data."""
    found = parse_qcow2_header(header(extension(DATA_FILE, b"outside.raw"), incompatible=4))
    assert found.data_file == "outside.raw"


def test_bitmaps_are_seen() -> None:
    """They are an extension of their own."""
    assert parse_qcow2_header(header(extension(0x23852875, bytes(24)))).has_bitmaps
    assert not parse_qcow2_header(header(extension(FORMAT, b"raw"), name=b"b")).has_bitmaps


def test_zstd_is_seen() -> None:
    """The compression type stands behind the header of version 3."""
    assert parse_qcow2_header(header(incompatible=8, compression=1)).compression == "zstd"


def test_a_short_version_3_header_has_no_compression_type() -> None:
    """A header of 104 bytes means zlib; the extensions begin where the type would stand."""
    found = parse_qcow2_header(header(length=104))
    assert (found.compression, found.header_length) == ("zlib", 104)


@pytest.mark.parametrize(("method", "encrypted"), [(0, False), (1, True), (2, True)])
def test_encryption_is_seen(method: int, encrypted: bool) -> None:  # noqa: FBT001
    """AES and LUKS both need a secret."""
    assert parse_qcow2_header(header(crypt_method=method)).encrypted is encrypted


def test_extensions_may_fill_the_header_to_the_name() -> None:
    """Old images have no end mark: the backing file name ends the extensions."""
    raw = header(version=2, backing_offset=72, backing_size=4)
    sample = raw[:72] + b"base" + raw[76:]
    assert parse_qcow2_header(sample).backing_name == "base"


def test_an_empty_backing_format_is_none() -> None:
    """An extension without text says nothing."""
    assert parse_qcow2_header(header(extension(FORMAT, b""), name=b"b")).backing_format is None


@pytest.mark.parametrize(
    ("sample", "where"),
    [
        (b"", "magic"),
        (b"KDMV" + bytes(600), "magic"),
        (header()[:71], "header"),
        (header()[:103], "header"),
        (header(version=1), "version"),
        (header(version=4), "version"),
        (header(cluster_bits=8), "cluster_bits"),
        (header(cluster_bits=22), "cluster_bits"),
        (header(cluster_bits=13, incompatible=16, l1_offset=0), "cluster_bits"),
        (header(incompatible=32), "incompatible_features"),
        (header(length=96), "header_length"),
        (header(length=108), "header_length"),
        (header(length=CLUSTER + 8), "header_length"),
        (header(order=7), "refcount_order"),
        (header(size=1 << 63), "size"),
        (header(crypt_method=3), "crypt_method"),
        (header(l1_size=(1 << 22) + 1), "l1_size"),
        (header(snapshots=65537), "nb_snapshots"),
        (header(refcount_clusters=129), "refcount_table_clusters"),
        (header(l1_offset=7), "l1_table_offset"),
        (header(refcount_offset=1 << 63), "refcount_table_offset"),
        (header(snapshots_offset=512), "snapshots_offset"),
        (header(compression=1), "compression_type"),
        (header(compression=2, incompatible=8), "compression_type"),
        (header(incompatible=8), "compression_type"),
        (header(backing_offset=8, backing_size=4), "backing_file_offset"),
        (header(backing_offset=CLUSTER + 8, backing_size=4), "backing_file_offset"),
        (header(backing_offset=512, backing_size=0), "backing_file_size"),
        (header(backing_offset=512, backing_size=1024), "backing_file_size"),
        (header(backing_offset=CLUSTER - 4, backing_size=5), "backing_file_size"),
        (header(name=b"a\0b"), "backing file"),
        (header(extension(DATA_FILE, b""), incompatible=4), "data file"),
        (header(extension(FORMAT, b"../etc"), name=b"b"), "backing format"),
        (header(extension(FORMAT, b"sixteen-letters-"), name=b"b"), "backing format"),
        (header(extension(FORMAT, b"raw"), extension(FORMAT, b"qcow2")), "extensions"),
        (header(struct.pack(">II", FEATURES, 1 << 31)), "extensions"),
        (header(*[extension(7, b"")] * 257), "extensions"),
        (header(extension(7, b""))[:124], "extensions"),
    ],
)
def test_a_header_that_lies_is_refused(sample: bytes, where: str) -> None:
    """Every impossible value is refused, and named as the specification names it."""
    with pytest.raises(ParseError) as caught:
        parse_qcow2_header(sample)
    assert caught.value.where == where


@pytest.mark.parametrize("bits", [9, 16, 21])
def test_a_reader_needs_one_cluster(bits: int) -> None:
    """The first 512 bytes tell how large a cluster is."""
    assert needed_bytes(header(cluster_bits=bits)[:NEEDED_BYTES]) == 1 << bits


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("base.qcow2", "/i/base.qcow2"),
        ("./base", "/i/base"),
        ("../t/base", "/i/../t/base"),
        ("/t/base", "/t/base"),
        ("/t/a:b", "/t/a:b"),
        ("./a:b", "/i/a:b"),
        ("a b,c", "/i/a b,c"),
    ],
)
def test_a_name_is_relative_to_its_image(name: str, path: str) -> None:
    """Relative names start at the image's directory, and `..` is left to the kernel."""
    assert resolve_backing(name, PurePosixPath("/i")) == PurePosixPath(path)


@pytest.mark.parametrize("name", ["json:{}", "nbd://h/x", "ssh:/h", "file:/etc/shadow", "a:b"])
def test_a_protocol_is_no_file(name: str) -> None:
    """What QEMU takes for a protocol is refused, with the remedy."""
    with pytest.raises(ParseError, match="qemu-img rebase -u"):
        resolve_backing(name, PurePosixPath("/i"))


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("base", ["/i/base"]),
        ("file:/t/base", ["/t/base"]),
        ("file:base", ["/i/base"]),
        ("host_device:/dev/vg/base", ["/dev/vg/base"]),
        ("nbd://h/x", []),
        ("rbd:pool/x", []),
        ('json:{"driver":"qcow2","file":{"driver":"file","filename":"/t/base"}}', ["/t/base"]),
        ('json:{"file.filename":"/t/base","driver":"qcow2"}', ["/t/base"]),
        ('json:{"driver":"file","filename":"t/base"}', ["/t/base"]),
        ('json:{"driver":"quorum","children":[{"filename":"/a"},{"filename":"/b"}]}', ["/a", "/b"]),
        ('json:{"driver":"qcow2","file":{"driver":"nbd","port":1}}', []),
        ('json:{"file.filename":"https://h/x"}', []),
    ],
)
def test_a_name_tells_which_files_it_means(name: str, paths: list[str]) -> None:
    """However it is written; an image on another machine is no file."""
    assert [str(path) for path in backing_files(name, PurePosixPath("/i"))] == paths


@pytest.mark.parametrize(
    "name",
    ["", "odd:x", "json:", "json:{", 'json:{"file":"node"}', "json:" + "[" * 100_000, "json:7"],
)
def test_a_name_that_tells_no_file_is_refused(name: str) -> None:
    """It cannot be told what lies there."""
    with pytest.raises(ParseError):
        backing_files(name, PurePosixPath("/i"))


def test_the_first_bytes_tell_a_qcow2_image() -> None:
    """Sound or not."""
    assert is_qcow2(b"QFI\xfb")
    assert not is_qcow2(b"QFI")


@pytest.mark.parametrize(("name", "directory"), [("", "/i"), ("a\0", "/i"), ("a", "i")])
def test_what_is_no_name_is_refused(name: str, directory: str) -> None:
    """Empty names, NUL bytes and relative directories lead nowhere."""
    with pytest.raises(ParseError, match="is no file name"):
        resolve_backing(name, PurePosixPath(directory))


@pytest.mark.parametrize("version", [2, 3])
def test_the_other_extensions_stay(version: int) -> None:
    """A new name keeps all fields and extensions, bit for bit and in order."""
    others = (extension(FEATURES, b"x" * 48), extension(0x12345678, b"odd"))
    before = header(others[0], extension(FORMAT, b"raw"), others[1], name=b"old", version=version)
    after = header(others[0], extension(FORMAT, b"qcow2"), others[1], name=b"new", version=version)
    assert rewrite_backing(before, name="new", format="qcow2") == after


def test_a_format_goes_in_front() -> None:
    """Where there was no format, it becomes the first extension, as QEMU has it."""
    other = extension(FEATURES, b"x" * 48)
    expected = header(extension(FORMAT, b"raw"), other, name=b"new")
    assert rewrite_backing(header(other), name="new", format="raw") == expected


def test_an_image_can_stand_alone() -> None:
    """Without a name there is no offset, no size and no format left."""
    before = header(extension(FORMAT, b"raw"), name=b"old")
    assert rewrite_backing(before, name=None, format=None) == header()


def test_a_name_may_go_without_a_format() -> None:
    """Without a format the old one goes too: it was another file's."""
    before = header(extension(FORMAT, b"raw"), name=b"old")
    assert rewrite_backing(before, name="new", format=None) == header(name=b"new")


def test_a_short_file_is_padded() -> None:
    """A file that is shorter than a cluster gives a whole cluster."""
    assert rewrite_backing(header()[:200], name=None, format=None) == header()


@pytest.mark.parametrize("kind", [BITMAPS, LUKS])
def test_tables_of_extensions_stay_where_they_are(kind: int) -> None:
    """Bitmaps and the LUKS header lie outside the first cluster and are not touched."""
    outside = struct.pack(">QQQ", 5 * CLUSTER, 8, 5 * CLUSTER)
    before = header(extension(kind, outside))
    assert rewrite_backing(before, name=None, format=None) == before


@pytest.mark.parametrize(
    ("sample", "where"),
    [
        (header() + b"\0", "cluster"),
        (header(incompatible=2), "incompatible_features"),
        (header(refcount_offset=0), "refcount_table_offset"),
        (header(l1_offset=0), "l1_table_offset"),
        (header(snapshots=1), "snapshots_offset"),
        (header(extension(BITMAPS, struct.pack(">IIQQ", 1, 0, 8, 512))), "extension 0x23852875"),
        (header(extension(LUKS, struct.pack(">QQ", 512, 8))), "extension 0x0537be77"),
        (header(extension(BITMAPS, b"")), "extension 0x23852875"),
    ],
)
def test_a_cluster_with_something_else_in_it_is_left_alone(sample: bytes, where: str) -> None:
    """Where a table lies in the first cluster, or the image is corrupt, nothing is rewritten."""
    with pytest.raises(ParseError) as caught:
        rewrite_backing(sample, name="new", format="raw")
    assert caught.value.where == where


def test_tables_that_do_not_exist_lie_nowhere() -> None:
    """An image without L1 entries and snapshots may have offsets of 0."""
    empty = header(l1_size=0, l1_offset=0)
    assert rewrite_backing(empty, name=None, format=None) == empty


@pytest.mark.parametrize(
    ("name", "backing_format", "reason"),
    [
        ("", "raw", "is empty"),
        ("a\0", "raw", "has a NUL byte"),
        ("a" * 1024, "raw", "is too long"),
        ("\ud800", "raw", "surrogates not allowed"),
        ("nbd:x", "raw", "but a protocol"),
        ("a", "", "is no name of a format"),
        ("a", "qcow2,x=y", "is no name of a format"),
        (None, "raw", "a format without a backing file"),
    ],
)
def test_a_name_that_qemu_would_not_take_is_refused(
    name: str | None, backing_format: str, reason: str
) -> None:
    """What would be read as something else is not written."""
    with pytest.raises(ParseError, match=reason):
        rewrite_backing(header(), name=name, format=backing_format)


def test_a_name_has_to_fit() -> None:
    """The name must end within the first cluster."""
    small = header(cluster_bits=9)
    room = 512 - 112 - len(extension(FORMAT, b"raw")) - 8
    assert len(rewrite_backing(small, name="a" * room, format="raw")) == 512
    with pytest.raises(ParseError, match="does not fit into 512 bytes"):
        rewrite_backing(small, name="a" * (room + 1), format="raw")


@pytest.mark.parametrize(
    ("sample", "backing", "words"),
    [
        (header(), None, ""),
        (header(extension(FORMAT, b"qcow2"), name=b"a.qcow2"), "a.qcow2", ""),
        (header(), "a.qcow2", "names the backing file None"),
        (header(extension(FORMAT, b"qcow2"), name=b"/etc/a"), "a.qcow2", "names the backing file"),
        (header(extension(FORMAT, b"qcow2"), name=b"a.qcow2"), None, "names the backing file"),
        (header(extension(FORMAT, b"raw"), name=b"a.qcow2"), "a.qcow2", "has the format 'raw'"),
        (header(name=b"a.qcow2"), "a.qcow2", "has the format None"),
        (header(incompatible=4), None, "names a data file"),
        (header(extension(DATA_FILE, b"/etc/shadow")), None, "names a data file"),
        (header(size=1 << 29), None, "536870912 bytes virtual, the manifest 1073741824"),
    ],
)
def test_a_stored_header_says_what_its_manifest_says(
    sample: bytes, backing: str | None, words: str
) -> None:
    """It leads to the file that the manifest names, declared as qcow2, and nowhere else."""
    fault = stored_header_fault(
        parse_qcow2_header(sample), backing=backing, virtual_size_bytes=1 << 30
    )
    assert words in fault
    assert bool(words) == bool(fault)
