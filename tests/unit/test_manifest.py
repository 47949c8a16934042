"""The JSON files of a store."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from fibackup.errors import FormatTooNewError, ManifestError, ModelError
from fibackup.model.chain import FileIdentity
from fibackup.model.journal import Merge, Removal
from fibackup.model.point import (
    Consistency,
    DiskKind,
    FileRole,
    PointDisk,
    Receipt,
    RestorePoint,
    SourceImage,
    StoredFile,
    StoredImage,
)
from fibackup.model.verification import CheckedContent, CheckedFile, VerificationRecord
from fibackup.parse.manifest import (
    StoreFile,
    parse_manifest,
    parse_merge,
    parse_receipt,
    parse_record,
    parse_removal,
    parse_store_file,
    render_manifest,
    render_merge,
    render_receipt,
    render_record,
    render_removal,
    render_store_file,
)

STORE = "0b3b8f3e-7c55-4f0e-9a58-3c9c4fb1e0a1"
TIME = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)
IMAGE = StoredImage(
    name="20261124T040407Z.qcow2",
    format="qcow2",
    size_bytes=196616,
    sha256="b" * 64,
    virtual_size_bytes=1 << 30,
    backing=None,
    source=SourceImage("/i/caf\u00e9\udcff.qcow2", "qcow2", FileIdentity(12, 196616, 10**18)),
)
POINT = RestorePoint(
    id="20261124T040407Z",
    sequence=1,
    parent=None,
    store=STORE,
    time=TIME,
    domain="web1",
    uuid="1c3b8f3e-7c55-4f0e-9a58-3c9c4fb1e0a2",
    consistency=Consistency.CRASH,
    consistency_detail="",
    files=(StoredFile(FileRole.DOMAIN_XML, "20261124T040407Z.xml", 4711, "a" * 64),),
    facts=(("machine", "pc-q35-7.2"),),
    disks=(PointDisk("vda", DiskKind.FULL, "first point", None, 1 << 30, (IMAGE,)),),
)


def seal(document: dict[str, Any]) -> str:
    """Return a document with the checksum that its writer would have given it."""
    rest = {key: value for key, value in document.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return json.dumps({**rest, "checksum": "sha256:" + sha256(text.encode()).hexdigest()})


def manifest(**changes: object) -> str:
    """Return a sealed manifest with changed keys."""
    return seal({**json.loads(render_manifest(POINT)), **changes})


def test_a_manifest_is_plain_json() -> None:
    """Keys are sorted, the text is ASCII and ends with a newline: fit for diff and grep."""
    text = render_manifest(POINT)
    document = json.loads(text)
    assert text.isascii()
    assert text.endswith("}\n")
    assert list(document) == ["annotations", "checksum", "format", "point"]
    assert document["point"]["disks"][0]["images"][0]["name"] == IMAGE.name


def test_a_manifest_reads_back_as_text_and_bytes() -> None:
    """The point is the same, with a path that is not UTF-8 and all."""
    assert parse_manifest(render_manifest(POINT)) == POINT
    assert parse_manifest(render_manifest(POINT).encode()) == POINT


def test_the_layout_does_not_matter() -> None:
    """The checksum is of what the document says, not of its white space."""
    assert parse_manifest(json.dumps(json.loads(render_manifest(POINT)))) == POINT


def test_annotations_may_be_anything() -> None:
    """Other programs may annotate a point; the reader passes it over."""
    text = manifest(annotations={"job": {"id": 7, "ok": [True, None, 1.5]}})
    assert parse_manifest(text) == POINT


def test_a_newer_format_is_not_guessed_at() -> None:
    """A manifest of format 2 is refused before anything else is looked at."""
    with pytest.raises(FormatTooNewError, match="format 2 is newer than 1") as caught:
        parse_manifest('{"format": 2, "other": []}', path="/s/m.json")
    assert caught.value.path == "/s/m.json"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        (b"\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"format": NaN}', "NaN is no JSON"),
        ('{"format": 1, "format": 1}', "a key stands there twice"),
        ("[]", "not a JSON object"),
        ("{}", "format None is not a version"),
        ('{"format": true}', "format True is not a version"),
        ('{"format": 0}', "format 0 is not a version"),
        ('{"format": 1}', "not the keys of a point"),
        (manifest(more=1), "not the keys of a point"),
        (manifest(annotations=[]), "annotations: expected an object"),
        (manifest(point=7), "point: expected an object, found int"),
        (manifest(point={}), "point.id: missing field"),
        (render_manifest(POINT).replace("web1", "web2"), "the checksum is not that of the content"),
    ],
)
def test_damage_is_named(text: str | bytes, reason: str) -> None:
    """A damaged manifest says what is wrong with it, and where it lies."""
    with pytest.raises(ManifestError, match=reason) as caught:
        parse_manifest(text, path="/s/m.json")
    assert caught.value.path == "/s/m.json"


def test_a_point_that_cannot_be_is_refused() -> None:
    """A sealed manifest that the model refuses is a damaged manifest."""
    point = json.loads(render_manifest(POINT))["point"]
    with pytest.raises(ManifestError, match="a point of the disks"):
        parse_manifest(manifest(point={**point, "disks": []}))


def test_journals_read_back() -> None:
    """What a prune was about to do, to the last field; a damaged one is refused."""
    removal = Removal((POINT.id,), (f"{POINT.id}.xml", f"vda/{POINT.id}.qcow2"))
    assert parse_removal(render_removal(removal)) == removal
    name = POINT.disks[0].images[0].name
    merge = Merge(POINT.disks[0].target, f"{name}.merged", name, POINT, ())
    assert parse_merge(render_merge(merge)) == merge
    with pytest.raises(ManifestError):
        parse_merge(render_removal(removal))
    with pytest.raises(ManifestError):
        parse_removal(render_merge(merge))


def test_a_receipt_reads_back() -> None:
    """A receipt has the same envelope as a manifest, and is none."""
    receipt = Receipt("vda", IMAGE)
    assert parse_receipt(render_receipt(receipt)) == receipt
    with pytest.raises(ManifestError, match="not the keys of a receipt"):
        parse_receipt(render_manifest(POINT))


def test_a_store_file_reads_back() -> None:
    """The store's own file has a format, a UUID and a time."""
    text = render_store_file(STORE, TIME)
    document = json.loads(text)
    assert document.pop("checksum").startswith("sha256:")
    assert document == {"created": "2026-11-24T04:04:07Z", "format": 1, "uuid": STORE}
    assert parse_store_file(text) == StoreFile(1, STORE, TIME)
    assert parse_store_file(json.dumps(document)) == StoreFile(1, STORE, TIME)


def test_a_changed_bit_of_a_store_file_is_found_or_harmless() -> None:
    """A UUID that is another one would make every point of the store a stranger in it."""
    text = render_store_file(STORE, TIME).encode()
    for number in range(len(text) * 8):
        changed = bytearray(text)
        changed[number // 8] ^= 1 << number % 8
        try:
            found = parse_store_file(bytes(changed))
        except (ManifestError, FormatTooNewError):
            continue
        assert found == StoreFile(1, STORE, TIME), number


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format": 1}', "uuid: missing field"),
        (f'{{"format": 1, "uuid": "{STORE}", "created": "now"}}', "created: Invalid isoformat"),
        ('{"format": 1, "uuid": "x", "created": "2026-11-24T04:04:07Z"}', "is not a UUID"),
    ],
)
def test_a_damaged_store_file_is_refused(text: str, reason: str) -> None:
    """A store file that is not whole is no proof that a directory is a store."""
    with pytest.raises(ManifestError, match=reason):
        parse_store_file(text, path="/s/fibackup-store.json")


def test_a_store_needs_a_uuid() -> None:
    """A store file is not written with anything else."""
    with pytest.raises(ModelError, match="is not a UUID"):
        render_store_file("x", TIME)


def test_a_record_of_verifications_reads_back() -> None:
    """It has the envelope of a manifest, and is none."""
    record = VerificationRecord(
        files=(CheckedFile("vda/caf\u00e9", "a" * 64, TIME, 3, "cut"),),
        contents=(CheckedContent("vda/x.qcow2", "b" * 64, TIME, 3, None),),
    )
    text = render_record(record)
    assert parse_record(text) == parse_record(text.encode()) == record
    with pytest.raises(ManifestError, match="not the keys of a record"):
        parse_record(render_manifest(POINT), path="/s/verified.json")
    with pytest.raises(ManifestError, match="checksum"):
        parse_record(text.replace("cut", "CUT"))


def test_a_record_from_before_its_newer_fields_is_read() -> None:
    """What it does not say is not known."""
    record = VerificationRecord(
        files=(CheckedFile("vda/x.qcow2", "a" * 64, TIME, 3, "cut"),),
        contents=(CheckedContent("vda/x.qcow2", "b" * 64, TIME, 3, None, "cut"),),
    )
    document = json.loads(render_record(record))
    for entry in document["record"]["files"] + document["record"]["contents"]:
        assert entry.pop("since") is None
        assert entry.pop("reference_run", None) is None
    del document["checksum"]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["checksum"] = f"sha256:{sha256(text.encode()).hexdigest()}"
    assert parse_record(json.dumps(document)) == record


def test_a_proven_manifest_is_read_without_its_checksum() -> None:
    """Its bytes are known to be right; its fields are read as strictly."""
    text = render_manifest(POINT).replace("web1", "web2")
    assert parse_manifest(text, proven=True).domain == "web2"
    with pytest.raises(ManifestError, match="missing field"):
        parse_manifest(manifest(point={}), proven=True)
