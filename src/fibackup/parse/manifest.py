"""
The JSON files of a store: manifests, receipts, journals, records, the store's own file.

All but the last are an envelope with a checksum around one value::

    {
      "annotations": {},                  anything; not read
      "checksum": "sha256:<64 digits>",   of everything else, as canonical JSON
      "format": 1,
      "point": {...}                      or "receipt": {...}, "record": {...}
    }

Canonical JSON has sorted keys, no white space and only ASCII, so that the checksum depends on what
the document says and not on how it is laid out. It detects accidents, not attackers.
The store's own file has such a checksum among its fields, and is read without one too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeVar, cast

from attrs import field, frozen

from fibackup.codec import JsonValue, decode, encode
from fibackup.errors import FormatTooNewError, ManifestError, ParseError
from fibackup.model.checks import UUID_PATTERN, matches
from fibackup.model.journal import Merge, Removal
from fibackup.model.linked import LinkedDisks
from fibackup.model.point import Receipt, RestorePoint
from fibackup.model.verification import VerificationRecord

__all__ = [
    "MANIFEST_FORMAT",
    "StoreFile",
    "parse_linked",
    "parse_manifest",
    "parse_merge",
    "parse_receipt",
    "parse_record",
    "parse_removal",
    "parse_store_file",
    "render_linked",
    "render_manifest",
    "render_merge",
    "render_receipt",
    "render_record",
    "render_removal",
    "render_store_file",
]

MANIFEST_FORMAT = 1
"""Version of the files of a store; a reader refuses what is newer."""

_T = TypeVar("_T")
_KEYS = frozenset({"annotations", "checksum", "format"})


@frozen
class StoreFile:
    """
    What makes a directory a store.

    Attributes:
        format: Version of the store's files.
        uuid: UUID of the store.
        created: When it was made, aware.
    """

    format: int
    uuid: str = field(validator=matches(UUID_PATTERN, "is not a UUID"))
    created: datetime


def render_manifest(point: RestorePoint) -> str:
    """
    Return the manifest of a point.

    Args:
        point: The point.

    Returns:
        JSON in ASCII, indented, with a newline at the end.

    Source:
        docs/schema/manifest.schema.json.
    """
    return _render("point", encode(point))


def parse_manifest(
    text: str | bytes, *, path: str | None = None, proven: bool = False
) -> RestorePoint:
    """
    Return the point that a manifest describes.

    Args:
        text: The manifest, whole.
        path: Where it was read, for errors.
        proven: True: these are the bytes that were written, so the checksum is not computed again,
            and no key stands there twice.

    Returns:
        The point, equal to the one that was rendered.

    Raises:
        FormatTooNewError: Written by a newer fibackup. Nothing was touched.
        ManifestError: Damaged: any changed byte that changes what it says. Nothing was touched.

    Source:
        docs/schema/manifest.schema.json.
    """
    return _parse(RestorePoint, "point", text, path, proven=proven)


def render_receipt(receipt: Receipt) -> str:
    """
    Return the receipt of a stored image that no point names yet.

    Args:
        receipt: The receipt.

    Returns:
        JSON in ASCII, indented, with a newline at the end.

    Source:
        docs/schema/receipt.schema.json.
    """
    return _render("receipt", encode(receipt))


def parse_receipt(text: str | bytes, *, path: str | None = None) -> Receipt:
    """
    Return a receipt.

    Args:
        text: The file, whole.
        path: Where it was read, for errors.

    Returns:
        The receipt, equal to the one that was rendered.

    Raises:
        FormatTooNewError: Written by a newer fibackup. Nothing was touched.
        ManifestError: Damaged. Nothing was touched.

    Source:
        docs/schema/receipt.schema.json.
    """
    return _parse(Receipt, "receipt", text, path)


def render_record(record: VerificationRecord) -> str:
    """
    Return the content of ``verified.json``.

    Args:
        record: What has been verified of a domain's files.

    Returns:
        JSON in ASCII, indented, with a newline at the end.

    Source:
        docs/schema/record.schema.json.
    """
    return _render("record", encode(record))


def parse_record(text: str | bytes, *, path: str | None = None) -> VerificationRecord:
    """
    Return what ``verified.json`` says.

    Args:
        text: The file, whole.
        path: Where it was read, for errors.

    Returns:
        The record, equal to the one that was rendered.

    Raises:
        FormatTooNewError: Written by a newer fibackup. Nothing was touched.
        ManifestError: Damaged. Nothing was touched.

    Source:
        docs/schema/record.schema.json.
    """
    return _parse(VerificationRecord, "record", text, path, older=_older_record)


def render_linked(linked: LinkedDisks) -> str:
    """
    Return the list of the linked disks of a domain's points.

    Args:
        linked: The disks.

    Returns:
        JSON in ASCII, indented, with a newline at the end.

    Source:
        docs/schema/linked.schema.json.
    """
    return _render("linked", encode(linked))


def parse_linked(text: str | bytes, *, path: str | None = None) -> LinkedDisks:
    """
    Return the linked disks of a domain's points.

    Args:
        text: The file, whole.
        path: Where it was read, for errors.

    Returns:
        The disks, equal to those that were rendered.

    Raises:
        FormatTooNewError: Written by a newer fibackup. Nothing was touched.
        ManifestError: Damaged. Nothing was touched.

    Source:
        docs/schema/linked.schema.json.
    """
    return _parse(LinkedDisks, "linked", text, path)


def render_removal(removal: Removal) -> str:
    """
    Return the journal of a removal.

    Args:
        removal: What goes.

    Returns:
        JSON in ASCII, indented, with a newline at the end.

    Source:
        docs/store-format.md, "Journals".
    """
    return _render("removal", encode(removal))


def parse_removal(text: str | bytes, *, path: str | None = None) -> Removal:
    """
    Return what a prune was about to take away.

    Args:
        text: The file, whole.
        path: Where it was read, for errors.

    Returns:
        The removal, equal to the one that was rendered.

    Raises:
        FormatTooNewError: Written by a newer fibackup. Nothing was touched.
        ManifestError: Damaged. Nothing was touched.

    Source:
        docs/store-format.md, "Journals".
    """
    return _parse(Removal, "removal", text, path)


def render_merge(merge: Merge) -> str:
    """
    Return the journal of a merge.

    Args:
        merge: What takes whose place.

    Returns:
        JSON in ASCII, indented, with a newline at the end.

    Source:
        docs/store-format.md, "Journals".
    """
    return _render("merge", encode(merge))


def parse_merge(text: str | bytes, *, path: str | None = None) -> Merge:
    """
    Return what a prune was about to put in place.

    Args:
        text: The file, whole.
        path: Where it was read, for errors.

    Returns:
        The merge, equal to the one that was rendered.

    Raises:
        FormatTooNewError: Written by a newer fibackup. Nothing was touched.
        ManifestError: Damaged. Nothing was touched.

    Source:
        docs/store-format.md, "Journals".
    """
    return _parse(Merge, "merge", text, path)


def render_store_file(uuid: str, created: datetime) -> str:
    """
    Return the content of ``fibackup-store.json``.

    Args:
        uuid: UUID of the new store, lower case.
        created: The time now, aware.

    Returns:
        JSON in ASCII, indented, with a newline at the end.

    Raises:
        ModelError: *uuid* is not a UUID. Nothing was touched.

    Source:
        docs/schema/store.schema.json.
    """
    document = cast("dict[str, JsonValue]", encode(StoreFile(MANIFEST_FORMAT, uuid, created)))
    return _dump({**document, "checksum": _checksum(document)})


def parse_store_file(text: str | bytes, *, path: str | None = None) -> StoreFile:
    """
    Return what ``fibackup-store.json`` says.

    Args:
        text: The file, whole.
        path: Where it was read, for errors.

    Returns:
        Format, UUID and time of making.

    Raises:
        FormatTooNewError: Written by a newer fibackup. Nothing was touched.
        ManifestError: Damaged. Nothing was touched.

    Source:
        docs/schema/store.schema.json.
    """
    document = _load(text, path, _DECODER)
    if document.pop("checksum", None) not in {None, _checksum(document)}:
        raise ManifestError(reason="the checksum is not that of the content", path=path)
    try:
        return decode(StoreFile, document)
    except ParseError as error:
        raise ManifestError(reason=_reason(error), path=path) from error


def _dump(document: JsonValue) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _checksum(document: Mapping[str, object]) -> str:
    rest = {key: value for key, value in document.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def _render(key: str, value: JsonValue) -> str:
    document: dict[str, JsonValue] = {"format": MANIFEST_FORMAT, "annotations": {}, key: value}
    return _dump({**document, "checksum": _checksum(document)})


def _older_record(record: object) -> None:
    """Give the entries of a record the fields that they were written without."""
    with suppress(AttributeError, KeyError, TypeError):  # it is no record: the reader says why
        found = cast("dict[str, Any]", record)
        for entry in (*found["files"], *found["contents"]):
            entry.setdefault("since", None)
        for entry in found["contents"]:
            entry.setdefault("reference_run", None)


def _parse(
    kind: type[_T],
    key: str,
    text: str | bytes,
    path: str | None,
    *,
    proven: bool = False,
    older: Callable[[object], None] | None = None,
) -> _T:
    document = _load(text, path, _PLAIN_DECODER if proven else _DECODER)
    if set(document) != {*_KEYS, key}:
        raise ManifestError(reason=f"not the keys of a {key}: {sorted(document)}", path=path)
    if not proven and document["checksum"] != _checksum(document):
        raise ManifestError(reason="the checksum is not that of the content", path=path)
    if not isinstance(document["annotations"], dict):
        raise ManifestError(reason="annotations: expected an object", path=path)
    if older is not None:
        older(document[key])
    try:
        return decode(kind, document[key], key)
    except ParseError as error:
        raise ManifestError(reason=_reason(error), path=path) from error


def _load(text: str | bytes, path: str | None, decoder: json.JSONDecoder) -> dict[str, object]:
    """Return an object of a format that we know."""
    try:
        words = text.decode() if isinstance(text, bytes) else text
        document: object = decoder.decode(words)
    except (ValueError, RecursionError) as error:
        raise ManifestError(reason=f"not JSON: {error}", path=path) from None
    if not isinstance(document, dict):
        raise ManifestError(reason="not a JSON object", path=path)
    found = cast("dict[str, object]", document)
    _check_format(found.get("format"), path)
    return found


def _check_format(version: object, path: str | None) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ManifestError(reason=f"format {version!r} is not a version", path=path)
    if version > MANIFEST_FORMAT:
        raise FormatTooNewError(
            reason=f"format {version} is newer than {MANIFEST_FORMAT}, which this fibackup reads",
            path=path,
        )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
_PLAIN_DECODER = json.JSONDecoder()


def _reason(error: ParseError) -> str:
    return f"{error.where}: {error.reason}" if error.where else error.reason
