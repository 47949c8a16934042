"""Laws of the readers: what was written is read back, and no bytes make a reader crash."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fibackup.codec import decode, encode
from fibackup.errors import ChainError, FormatTooNewError, ManifestError, ModelError, ParseError
from fibackup.model.chain import FileIdentity, Image
from fibackup.model.domain import Domain
from fibackup.model.ledger import Ledger
from fibackup.model.point import Receipt, RestorePoint
from fibackup.model.verification import VerificationRecord
from fibackup.parse.domain_xml import parse_domain_xml
from fibackup.parse.ledger_xml import LEDGER_URI, parse_ledger, render_ledger
from fibackup.parse.manifest import (
    parse_manifest,
    parse_receipt,
    parse_record,
    parse_store_file,
    render_manifest,
    render_receipt,
    render_record,
    render_store_file,
)
from fibackup.parse.qcow2_header import (
    needed_bytes,
    parse_qcow2_header,
    resolve_backing,
    rewrite_backing,
)
from fibackup.parse.qemu_img_json import parse_check, parse_image_info
from fibackup.parse.seals import parse_seals
from fibackup.parse.xml_tree import parse_xml
from fibackup.units import format_bytes, printable
from property.strategies import (
    domains,
    file_names,
    identities,
    images,
    ledgers,
    lines,
    paths,
    receipts,
    records,
    restore_points,
    texts,
    times,
    uuids,
)

pytestmark = pytest.mark.property

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
HERE = PurePosixPath("/images")

# A version 3 header: 64 KiB clusters, 1 GiB, tables behind the first cluster, no extensions.
HEADER = bytes.fromhex(
    "514649fb00000003000000000000000000000000000000100000000040000000"
    "0000000000000002000000000003000000000000000100000000000100000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "000000040000007000000000000000000000000000000000"
).ljust(1 << 16, b"\0")

backing_names = st.one_of(
    file_names,
    st.binary(min_size=1, max_size=1023).map(lambda b: b.decode("utf-8", "surrogateescape")),
).filter(lambda n: "\0" not in n and ":" not in n.split("/", 1)[0])


def schema(name: str) -> Draft202012Validator:
    """Read one of the published schemas."""
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8")))


@given(name=backing_names, backing_format=st.none() | st.sampled_from(["qcow2", "raw"]))
def test_a_rewritten_header_reads_back(name: str, backing_format: str | None) -> None:
    """The new name and format are read back, nothing else changes, and clearing undoes it."""
    before = parse_qcow2_header(HEADER)
    rewritten = rewrite_backing(HEADER, name=name, format=backing_format)
    after = parse_qcow2_header(rewritten)
    assert len(rewritten) == len(HEADER)
    assert (after.backing_name, after.backing_format) == (name, backing_format)
    assert after.virtual_size_bytes == before.virtual_size_bytes
    assert rewrite_backing(rewritten, name=None, format=None) == HEADER


@given(data=st.binary(max_size=300), position=st.integers(0, 120), prefix=st.integers(0, 120))
def test_no_bytes_crash_the_header_reader(data: bytes, position: int, prefix: int) -> None:
    """Random bytes, alone or inside a sound header, give a header or a `ParseError`."""
    sound = HEADER[:1024]
    for sample in (data, sound[:prefix] + data, sound[:position] + data + sound[position:]):
        try:
            parse_qcow2_header(sample)
            assert 512 <= needed_bytes(sample) <= 2 << 20
            rewrite_backing(sample, name="base.qcow2", format="qcow2")
        except ParseError:
            pass


@given(
    position=st.integers(0, 200),
    value=st.integers(0, 255),
    name=st.none() | st.just("base.qcow2"),
)
def test_a_changed_header_is_read_or_refused(position: int, value: int, name: str | None) -> None:
    """A changed byte gives a `ParseError`, or a header that takes the new name."""
    sample = bytearray(rewrite_backing(HEADER, name="old", format="raw"))
    sample[position] = value
    try:
        rewritten = rewrite_backing(bytes(sample), name=name, format=None)
    except ParseError:
        return
    assert parse_qcow2_header(rewritten).backing_name == name


@given(name=st.text())
def test_a_backing_name_is_a_path_or_refused(name: str) -> None:
    """A name resolves to an absolute path, or it is refused; a protocol never gets through."""
    try:
        path = resolve_backing(name, HERE)
    except ParseError:
        return
    assert path.is_absolute()
    assert ":" not in name.partition("/")[0]


@given(ledger=ledgers)
def test_a_ledger_reads_back(ledger: Ledger) -> None:
    """`parse_ledger` undoes `render_ledger`, with and without the namespace that libvirt adds."""
    text = render_ledger(ledger)
    prefixed = text.replace("<ledger", f"<f:ledger xmlns:f='{LEDGER_URI}'", 1)
    prefixed = prefixed.replace("</ledger", "</f:ledger")
    assert text.isascii()
    assert parse_ledger(text) == ledger
    assert parse_ledger(prefixed) == ledger


@given(ledger=ledgers, data=st.data())
def test_a_changed_ledger_is_read_or_refused(ledger: Ledger, data: st.DataObject) -> None:
    """A changed character gives another ledger or a `ParseError`, never another error."""
    text = render_ledger(ledger)
    position = data.draw(st.integers(0, len(text) - 1))
    changed = text[:position] + data.draw(st.characters()) + text[position + 1 :]
    try:
        found = parse_ledger(changed)
    except ParseError:
        return
    assert parse_ledger(render_ledger(found)) == found


@given(text=st.text() | st.from_regex(r"<(domain|ledger)[^>]*>.*", fullmatch=True))
def test_no_text_crashes_the_xml_readers(text: str) -> None:
    """Any text gives a value or a `ParseError`."""
    for reader in (parse_domain_xml, parse_ledger, lambda text: parse_xml(text, "x")):
        with suppress(ParseError):
            reader(text)


@st.composite
def domain_xml(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """Draw the XML of a domain with one chain, and the paths of the chain."""
    plain = st.text(
        st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")
    )
    names = draw(st.lists(plain.map(lambda n: f"/i/{n.strip('/.')}x"), min_size=1, max_size=4))
    xml = "<backingStore/>"
    for name in reversed(names[1:]):
        inner = f"<format type='raw'/><source file={quoteattr(name)}/>{xml}"
        xml = f"<backingStore type='file'>{inner}</backingStore>"
    disk = f"<disk type='file'><source file={quoteattr(names[0])}/>{xml}<target dev='vda'/></disk>"
    head = f"<name>web1</name><uuid>{draw(uuids)}</uuid>"
    return f"<domain>{head}<devices>{disk}</devices></domain>", tuple(names)


@given(case=domain_xml())
def test_a_chain_is_read_from_the_domain_as_it_is(case: tuple[str, tuple[str, ...]]) -> None:
    """The images of a disk are those of the XML, in its order, or the chain loops."""
    text, names = case
    expected = tuple(map(PurePosixPath, names))
    try:
        chain = parse_domain_xml(text).disks[0].chain
    except ChainError:
        assert len(set(expected)) < len(expected)
        return
    assert chain is not None
    assert chain.paths == expected


@given(case=domain_xml(), data=st.data())
def test_a_changed_domain_is_read_or_refused(
    case: tuple[str, tuple[str, ...]], data: st.DataObject
) -> None:
    """A cut or changed domain XML gives a domain or a `ModelError`, never another error."""
    text, _ = case
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 30)))
    changed = text[:start] + data.draw(st.text(max_size=5)) + text[stop:]
    with suppress(ModelError):
        parse_domain_xml(changed, text)


@given(point=restore_points())
def test_a_manifest_reads_back(point: RestorePoint) -> None:
    """`parse_manifest` undoes `render_manifest`, and the schema describes what is written."""
    text = render_manifest(point)
    assert text.isascii()
    assert parse_manifest(text) == point
    assert parse_manifest(text.encode()) == point
    schema("manifest").validate(json.loads(text))


@given(record=records)
def test_a_record_reads_back(record: VerificationRecord) -> None:
    """`parse_record` undoes `render_record`, and the schema describes what is written."""
    text = render_record(record)
    assert parse_record(text) == record
    schema("record").validate(json.loads(text))


@given(receipt=receipts)
def test_a_receipt_reads_back(receipt: Receipt) -> None:
    """`parse_receipt` undoes `render_receipt`, and the schema describes what is written."""
    text = render_receipt(receipt)
    assert parse_receipt(text) == receipt
    schema("receipt").validate(json.loads(text))


@given(uuid=uuids, created=times)
def test_a_store_file_reads_back(uuid: str, created: datetime) -> None:
    """`parse_store_file` undoes `render_store_file`, and the schema describes what is written."""
    text = render_store_file(uuid, created)
    found = parse_store_file(text)
    assert (found.format, found.uuid, found.created) == (1, uuid, created)
    schema("store").validate(json.loads(text))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(point=restore_points(), data=st.data())
def test_a_changed_byte_of_a_manifest_is_found_or_harmless(
    point: RestorePoint, data: st.DataObject
) -> None:
    """One changed byte gives the same point, or a `ManifestError`, never another point."""
    text = bytearray(render_manifest(point).encode())
    position = data.draw(st.integers(0, len(text) - 1))
    text[position] = data.draw(st.integers(0, 255))
    try:
        found = parse_manifest(bytes(text))
    except (ManifestError, FormatTooNewError):
        return
    assert found == point


def test_every_single_bit_of_a_manifest_is_guarded() -> None:
    """No flipped bit of a manifest leads to another point."""
    point = decode(RestorePoint, json.loads(EXAMPLE_POINT), "point")
    text = render_manifest(point).encode()
    for position in range(len(text)):
        for bit in range(8):
            changed = bytearray(text)
            changed[position] ^= 1 << bit
            try:
                found = parse_manifest(bytes(changed))
            except (ManifestError, FormatTooNewError):
                continue
            assert found == point, (position, bit)


@given(data=st.binary() | st.text())
@example(data="[" * 100_000)
@example(data='{"format":' + "9" * 5000 + "}")
@example(data='{"format": 1, "a": ' + "[" * 900 + "]" * 900 + "}")
def test_no_bytes_crash_the_store_readers(data: str | bytes) -> None:
    """Any bytes give a value or a `ManifestError`."""
    for reader in (parse_manifest, parse_receipt, parse_record, parse_seals, parse_store_file):
        with pytest.raises(ManifestError):
            reader(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
infos = st.dictionaries(
    st.sampled_from(["filename", "format", "virtual-size", "check-errors", "encrypted", "leaks"]),
    json_values | st.just("qcow2") | st.just(7),
)


@given(document=infos | json_values, text=st.text())
def test_no_json_crashes_the_qemu_img_readers(document: object, text: str) -> None:
    """Any JSON, and any text, gives a value or a `ParseError`."""
    for sample in (json.dumps(document), text):
        for reader in (parse_image_info, parse_check):
            with suppress(ParseError):
                reader(sample)


@given(domain=domains())
def test_the_codec_reads_back_what_it_wrote(domain: Domain) -> None:
    """`decode` undoes `encode`, through JSON text."""
    assert decode(Domain, json.loads(json.dumps(encode(domain)))) == domain


@given(image=images, data=st.data())
def test_the_codec_refuses_what_is_left_out(image: Image, data: st.DataObject) -> None:
    """A missing field is named by the error."""
    fields: Any = encode(image)
    name = data.draw(st.sampled_from(sorted(fields)))
    del fields[name]
    with pytest.raises(ParseError) as caught:
        decode(Image, fields, "image")
    assert caught.value.where == f"image.{name}"


@given(value=json_values)
def test_no_json_crashes_the_codec(value: object) -> None:
    """Any JSON gives a value or a `ParseError`."""
    for kind in (Domain, Ledger, RestorePoint, FileIdentity, Receipt):
        with pytest.raises(ParseError):
            decode(kind, value)


@given(identity=identities, other=identities)
def test_identities_differ_as_words_say(identity: FileIdentity, other: FileIdentity) -> None:
    """No difference in words means equal values."""
    assert (identity.differences(other) == ()) == (identity == other)


@given(text=texts | lines | paths.map(str))
def test_printable_text_stays_on_its_line(text: str) -> None:
    """What is printable has no control characters, and a second pass changes nothing."""
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


@given(size=st.integers(-(2**70), 2**70))
def test_a_size_has_at_most_four_digits_and_a_unit(size: int) -> None:
    """Sizes are short, and zero is the only one that reads as zero."""
    number, unit = format_bytes(size).split()
    assert unit in {"B", "KiB", "MiB", "GiB", "TiB"}
    assert "e" not in number
    assume(unit != "TiB")
    assert len(number.lstrip("-")) <= 4


EXAMPLE_POINT = """
{"id": "20261124T040407Z", "sequence": 2, "parent": "20261123T040406Z",
 "store": "0b3b8f3e-7c55-4f0e-9a58-3c9c4fb1e0a1", "time": "2026-11-24T04:04:07.250000Z",
 "domain": "web1", "uuid": "1c3b8f3e-7c55-4f0e-9a58-3c9c4fb1e0a2", "consistency": "crash",
 "consistency_detail": "the agent\\u2019s channel is not connected",
 "files": [{"role": "domain-xml", "name": "20261124T040407Z.xml", "size_bytes": 4711,
  "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}],
 "disks": [{"target": "vda", "kind": "increment", "reason": "unchanged below", "parent":
  "20261123T040406Z", "virtual_size_bytes": 1073741824, "content_sha256": null, "images": [
   {"name": "20261124T040407Z.qcow2", "format": "qcow2", "size_bytes": 196616,
    "sha256": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "virtual_size_bytes": 1073741824, "backing": "20261123T040406Z.qcow2",
    "source": {"path": "/images/disk.bimg-20261123T040406Z", "format": "qcow2",
     "identity": {"inode": 12, "size_bytes": 196616, "mtime_ns": 1795493046000000000}}}]}],
 "skipped": [["sda", "cdrom"]],
 "versions": {"fibackup": "0.1.0", "libvirt": "9.0.0", "qemu": "7.2.22"},
 "facts": [["machine", "pc-q35-7.2"]], "warnings": []}
"""
