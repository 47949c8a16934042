"""
Values to JSON and back, strictly, by the fields of their classes.

Reading never guesses: a missing field, an unknown field or a value of the wrong type is a
`ParseError` that names the path of the bad node::

    decode(Point, {"id": 7}, "point")   ->   ParseError  point.id: expected text, found int
"""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from itertools import repeat
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
    each_hint = _endless(hint)
    if each_hint is not None:
        return [_encode_tagged(each_hint, each) for each in cast("tuple[object, ...]", item)]
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
    try:
        return cast("_T", _reader(cast("Hashable", kind))(data))
    except ParseError as error:
        error.where = _join(where, error.where)
        raise


_Reader: TypeAlias = Callable[[object], object]
"""Reads one value; where a `ParseError` occurred is completed by the readers around it."""


def _join(outer: str, inner: str) -> str:
    return f"{outer}{inner}" if not outer or not inner or inner[0] == "[" else f"{outer}.{inner}"


@cache
def _reader(hint: object) -> _Reader:
    """Return the reader for a type; it is put together once, because a store has many manifests."""
    options = _options(hint)
    if len(options) > 1:
        return _union_reader(options)
    origin = get_origin(hint)
    if origin is tuple:
        return _tuple_reader(get_args(hint))
    if origin is frozenset:
        items = _tuple_reader((str, Ellipsis))
        return lambda data: frozenset(cast("tuple[object, ...]", items(data)))
    if not isinstance(hint, type):  # pragma: no cover - no model has such a field
        raise TypeError(f"no codec for {hint!r}")
    if has(hint):
        return _fields_reader(hint)
    return _plain_reader(hint) if hint in _NAMES else _text_reader(hint)


def _union_reader(options: tuple[object, ...]) -> _Reader:
    some = tuple(option for option in options if option is not type(None))
    rest = _reader(some[0]) if len(some) == 1 else _tagged_reader(some)
    if len(some) == len(options):
        return rest
    return lambda data: None if data is None else rest(data)


def _tagged_reader(options: tuple[object, ...]) -> _Reader:
    named = {cls.__name__: _reader(cls) for cls in options if isinstance(cls, type)}

    def read(data: object) -> object:
        if not isinstance(data, dict):
            raise ParseError(reason=f"expected an object, found {type(data).__name__}")
        rest = dict(cast("dict[str, object]", data))
        tag = rest.pop(_TAG, None)
        if not isinstance(tag, str) or tag not in named:
            raise ParseError(where=_TAG, reason=f"{tag!r} is not one of {', '.join(sorted(named))}")
        return named[tag](rest)

    return read


def _tuple_reader(args: tuple[object, ...]) -> _Reader:
    endless = args[-1] is Ellipsis
    readers = tuple(_reader(arg) for arg in args if arg is not Ellipsis)

    def read(data: object) -> object:
        if not isinstance(data, list):
            raise ParseError(reason=f"expected a list, found {type(data).__name__}")
        if endless and not data:
            return ()
        items = cast("list[object]", data)
        if not endless and len(items) != len(readers):
            raise ParseError(reason=f"expected {len(readers)} items, found {len(items)}")
        found: list[object] = []
        try:
            for item, reader in zip(
                items, repeat(readers[0]) if endless else readers, strict=False
            ):
                found.append(reader(item))
        except ParseError as error:
            error.where = _join(f"[{len(found)}]", error.where)
            raise
        return tuple(found)

    return read


def _fields_reader(kind: type) -> _Reader:
    hints = _hints(kind)
    readers = {each.name: _reader(hints[each.name]) for each in fields(kind)}
    steps = tuple((name, reader, _as_it_is(hints[name])) for name, reader in readers.items())
    known = readers.keys()

    def read(data: object) -> object:
        if not isinstance(data, dict):
            raise ParseError(reason=f"expected an object, found {type(data).__name__}")
        found = cast("dict[str, object]", data)
        if found.keys() != known:
            raise _wrong_fields(found, readers)
        values: dict[str, object] = {}
        for name, reader, plain in steps:
            value = found[name]
            if value.__class__ is plain:  # most are, and a call for each would be half of the time
                values[name] = value
                continue
            try:
                values[name] = reader(value)
            except ParseError as error:
                error.where = _join(name, error.where)
                raise
        try:
            return kind(**values)
        except FibackupError as error:
            raise ParseError(reason=error.reason) from error

    return _written_reader(kind, {name: hints[name] for name in readers}, read)


def _written_reader(kind: type, hints: Mapping[str, object], careful: _Reader) -> _Reader:
    """
    Return a reader that is written for one class, as attrs writes its ``__init__``.

    It takes what is as it should be; the *careful* reader finds out what is wrong with the rest::

        def read(data):
            try:
                if len(data) != 4:
                    return careful(data)
                v0 = data["name"]
                if v0.__class__ is not c0:
                    return careful(data)
                v1 = data["role"]
                v1 = r1[v1]
                v2 = data["identity"]
                if v2 is not None:
                    v2 = r2(v2)
                v3 = data["images"]
                if v3.__class__ is not list:
                    return careful(data)
                v3 = tuple([r3(each) for each in v3])
                return kind(v0, v1, v2, v3)
            except errors:
                return careful(data)
    """
    scope: dict[str, object] = {"kind": kind, "careful": careful, "errors": _NOT_AS_EXPECTED}
    lines = [f"if len(data) != {len(hints)}: return careful(data)"]
    for place, (name, hint) in enumerate(hints.items()):
        reader = _reader(hint)
        some = tuple(option for option in _options(hint) if option is not type(None))
        only = some[0] if len(some) == 1 else hint
        guard = f"if v{place} is not None: " if len(some) < len(_options(hint)) else ""
        lines.append(f"v{place} = data[{name!r}]")
        class_, item = _as_it_is(only), None if guard else _endless(only)
        if class_ is not None:
            scope[f"c{place}"] = class_
            test = f"v{place}.__class__ is not c{place}"
            test = f"v{place} is not None and {test}" if guard else test
            lines.append(f"if {test}: return careful(data)")
        elif isinstance(only, type) and issubclass(only, Enum):
            scope[f"r{place}"] = {each.value: each for each in only}
            lines.append(f"{guard}v{place} = r{place}[v{place}]")
        elif item is not None:
            scope[f"r{place}"] = _reader(item)
            lines.append(f"if v{place}.__class__ is not list: return careful(data)")
            lines.append(f"v{place} = tuple([r{place}(each) for each in v{place}])")
        else:
            scope[f"r{place}"] = reader
            lines.append(f"{guard}v{place} = r{place}(v{place})")
    by_name = any(each.kw_only for each in fields(kind))
    words = ", ".join(
        f"{name}=v{place}" if by_name else f"v{place}" for place, name in enumerate(hints)
    )
    lines.append(f"return kind({words})")
    body = "".join(f"        {line}\n" for line in lines)
    source = f"def read(data):\n    try:\n{body}    except errors:\n        return careful(data)\n"
    exec(source, scope)  # noqa: S102 - of the names of fields, nothing from outside
    return cast("_Reader", scope["read"])


_NOT_AS_EXPECTED = (KeyError, TypeError, ValueError, FibackupError)


def _endless(hint: object) -> Hashable | None:
    """Return the type of the items of a tuple of any length, or None."""
    args = get_args(hint)
    endless = get_origin(hint) is tuple and args[-1] is Ellipsis
    return cast("Hashable", args[0]) if endless else None


def _as_it_is(hint: object) -> type | None:
    """Return the type whose values are taken as JSON has them, or None."""
    return hint if isinstance(hint, type) and hint in _NAMES else None


def _wrong_fields(found: Mapping[str, object], known: Mapping[str, object]) -> ParseError:
    for name in found:
        if name not in known:
            return ParseError(where=name, reason="unknown field")
    return ParseError(where=next(n for n in known if n not in found), reason="missing field")


def _plain_reader(kind: type) -> _Reader:
    name = _NAMES[kind]

    def read(data: object) -> object:
        found = type(data)
        if found is kind or (kind is float and found is int):
            return data
        raise ParseError(reason=f"expected {name}, found {found.__name__}")

    return read


def _text_reader(kind: type) -> _Reader:
    """Return the reader of a time, an enum or a path."""
    convert = cast("Callable[[str], object]", _time if kind is datetime else kind)

    def read(data: object) -> object:
        if not isinstance(data, str):
            raise ParseError(reason=f"expected text, found {type(data).__name__}")
        try:
            return convert(data)
        except ValueError as error:
            raise ParseError(reason=str(error)) from None

    return read


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    try:
        return time if time.tzinfo is UTC else time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is not a year that UTC has") from None
