"""
Values to JSON and back, strictly, by the fields of their classes.

Reading never guesses: a missing field, an unknown field or a value of the wrong type is a
`ParseError` that names the path of the bad node::

    decode(Point, {"id": 7}, "point")   ->   ParseError  point.id: expected text, found int
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from pathlib import PurePosixPath
from typing import TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from attrs import fields, has

from fibackup.errors import FibackupError, ParseError

__all__ = ["JsonValue", "decode", "encode"]

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
"""What `json` reads and writes."""

_T = TypeVar("_T")
_TAG = "kind_of"
_NAMES: dict[type, str] = {str: "text", int: "int", float: "number", bool: "true or false"}


@cache
def _hints(cls: type) -> Mapping[str, object]:
    return get_type_hints(cls)


def encode(value: object) -> JsonValue:
    """
    Return *value* as JSON types.

    Args:
        value: A model value, or text, number, bool, None, time, path, enum, or a tuple of them.

    Returns:
        Dicts keyed by field name; a value of a union carries its class name under ``kind_of``.

    Raises:
        TypeError: A type that has no JSON form; a bug of the caller.

    Source:
        RFC 8259; times are RFC 3339 in UTC.
    """
    if isinstance(value, Enum):
        return str(value.value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, PurePosixPath):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in cast("tuple[object, ...]", value)]
    if isinstance(value, frozenset):
        return [*sorted(str(item) for item in cast("frozenset[object]", value))]
    cls: type = type(value)
    if has(cls):
        return _encode_fields(cls, value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _encode_fields(cls: type, value: object) -> dict[str, JsonValue]:
    out: dict[str, JsonValue] = {}
    for attribute in fields(cls):
        item: object = getattr(value, attribute.name)
        out[attribute.name] = _encode_tagged(_hints(cls)[attribute.name], item)
    return out


def _encode_tagged(hint: object, item: object) -> JsonValue:
    """Encode *item*, with the class's name where the hint leaves more than one class open."""
    args = get_args(hint)
    if get_origin(hint) is tuple and args[-1] is Ellipsis:
        return [_encode_tagged(args[0], each) for each in cast("tuple[object, ...]", item)]
    plain = encode(item)
    if isinstance(plain, dict) and len(_classes(hint)) > 1:
        return {_TAG: type(item).__name__, **plain}
    return plain


def _options(hint: object) -> tuple[object, ...]:
    return get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)


def _classes(hint: object) -> tuple[type, ...]:
    return tuple(option for option in _options(hint) if isinstance(option, type) and has(option))


def decode(kind: type[_T], data: object, where: str = "") -> _T:
    """
    Return *data*, as read from JSON, as a value of *kind*.

    Args:
        kind: A model class.
        data: What `json.loads` gave.
        where: Path of *data* in its document, for errors.

    Returns:
        The value; its class's own validators have run.

    Raises:
        ParseError: Missing or unknown field, wrong type, or a value that the class refuses.

    Source:
        docs/store-format.md: a reader is strict within a format version.
    """
    return cast("_T", _decode(kind, data, where))


def _decode(hint: object, data: object, where: str) -> object:
    options = _options(hint)
    if len(options) > 1:
        return _decode_union(options, data, where)
    origin = get_origin(hint)
    if origin is tuple:
        return _decode_tuple(get_args(hint), data, where)
    if origin is frozenset:
        return frozenset(_decode_tuple((str, Ellipsis), data, where))
    if not isinstance(hint, type):  # pragma: no cover - no model has such a field
        raise TypeError(f"{where}: no codec for {hint!r}")
    return _decode_type(hint, data, where)


def _decode_union(options: tuple[object, ...], data: object, where: str) -> object:
    if data is None and type(None) in options:
        return None
    some = tuple(option for option in options if option is not type(None))
    if len(some) == 1:
        return _decode(some[0], data, where)
    named = {cls.__name__: cls for cls in some if isinstance(cls, type)}
    if not isinstance(data, dict):
        raise ParseError(where=where, reason=f"expected an object, found {type(data).__name__}")
    rest = dict(cast("dict[str, object]", data))
    tag = rest.pop(_TAG, None)
    if not isinstance(tag, str) or tag not in named:
        raise ParseError(
            where=f"{where}.{_TAG}", reason=f"{tag!r} is not one of {', '.join(sorted(named))}"
        )
    return _decode_fields(named[tag], rest, where)


def _decode_tuple(args: tuple[object, ...], data: object, where: str) -> tuple[object, ...]:
    if not isinstance(data, list):
        raise ParseError(where=where, reason=f"expected a list, found {type(data).__name__}")
    items = cast("list[object]", data)
    if args[-1] is Ellipsis:
        return tuple(
            _decode(args[0], item, f"{where}[{number}]") for number, item in enumerate(items)
        )
    if len(items) != len(args):
        raise ParseError(where=where, reason=f"expected {len(args)} items, found {len(items)}")
    return tuple(
        _decode(arg, item, f"{where}[{number}]")
        for number, (arg, item) in enumerate(zip(args, items, strict=True))
    )


def _decode_type(kind: type, data: object, where: str) -> object:
    if has(kind):
        return _decode_fields(kind, data, where)
    if kind in _NAMES:
        return _decode_plain(kind, data, where)
    if not isinstance(data, str):
        raise ParseError(where=where, reason=f"expected text, found {type(data).__name__}")
    try:
        if kind is datetime:
            return _decode_time(data)
        return kind(data)  # an enum, or a path
    except ValueError as error:
        raise ParseError(where=where, reason=str(error)) from None


def _decode_plain(kind: type, data: object, where: str) -> object:
    found = type(data)
    if found is kind or (kind is float and found is int):
        return data
    raise ParseError(where=where, reason=f"expected {_NAMES[kind]}, found {found.__name__}")


def _decode_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is not a year that UTC has") from None


def _decode_fields(kind: type, data: object, where: str) -> object:
    if not isinstance(data, dict):
        raise ParseError(where=where, reason=f"expected an object, found {type(data).__name__}")
    found = cast("dict[str, object]", data)
    names = [attribute.name for attribute in fields(kind)]
    for name in found:
        if name not in names:
            raise ParseError(where=f"{where}.{name}" if where else name, reason="unknown field")
    values: dict[str, object] = {}
    for name in names:
        inner = f"{where}.{name}" if where else name
        if name not in found:
            raise ParseError(where=inner, reason="missing field")
        values[name] = _decode(_hints(kind)[name], found[name], inner)
    try:
        return kind(**values)
    except FibackupError as error:
        raise ParseError(where=where, reason=error.reason) from error
