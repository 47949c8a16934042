"""Values to JSON and back, by the fields of their classes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

import pytest
from attrs import field, frozen

from fibackup.codec import decode, encode
from fibackup.errors import ParseError
from fibackup.model.checks import non_negative


class Color(StrEnum):
    """A closed set."""

    RED = "red"


@frozen
class Dot:
    """One of two shapes."""

    x: int = field(validator=non_negative)


@frozen
class Circle:
    """The other one."""

    radius: float


@frozen
class Drawing:
    """One field of each kind that the codec knows."""

    name: str
    color: Color
    made: datetime
    path: PurePosixPath
    shown: bool
    shape: Dot | Circle
    shapes: tuple[Dot | Circle, ...]
    pair: tuple[str, int]
    tags: frozenset[str]
    parent: Dot | None = None


DRAWING = Drawing(
    name="d",
    color=Color.RED,
    made=datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC),
    path=PurePosixPath("/a"),
    shown=True,
    shape=Circle(1.5),
    shapes=(Dot(1), Circle(2)),
    pair=("a", 1),
    tags=frozenset({"b", "a"}),
)
JSON: dict[str, Any] = {
    "name": "d",
    "color": "red",
    "made": "2026-11-24T04:04:07Z",
    "path": "/a",
    "shown": True,
    "shape": {"kind_of": "Circle", "radius": 1.5},
    "shapes": [{"kind_of": "Dot", "x": 1}, {"kind_of": "Circle", "radius": 2}],
    "pair": ["a", 1],
    "tags": ["a", "b"],
    "parent": None,
}


def test_a_value_becomes_json_by_its_fields() -> None:
    """Fields are keys, times are UTC, sets are sorted, unions carry the name of their class."""
    assert encode(DRAWING) == JSON


def test_json_becomes_a_value() -> None:
    """`decode` undoes `encode`."""
    assert decode(Drawing, JSON) == DRAWING


@frozen(kw_only=True)
class Named:
    """A class whose fields have no order."""

    first: int
    second: tuple[int, ...] = ()


def test_fields_without_an_order_are_given_by_name() -> None:
    """A class that takes its fields by name only is read as any other."""
    value = Named(first=1, second=(2, 3))
    assert decode(Named, encode(value)) == value


def test_times_are_written_in_utc() -> None:
    """A time of another zone becomes the same moment in UTC."""
    there = datetime(2026, 11, 24, 5, tzinfo=timezone(timedelta(hours=1)))
    assert encode(there) == "2026-11-24T04:00:00Z"


def test_only_values_have_a_json_form() -> None:
    """Anything else is a bug of the caller."""
    with pytest.raises(TypeError, match="bytes has no JSON form"):
        encode(b"")


@pytest.mark.parametrize(
    ("change", "where", "reason"),
    [
        ({"name": 7}, "d.name", "expected text, found int"),
        ({"color": "blue"}, "d.color", "'blue' is not a valid Color"),
        ({"color": 7}, "d.color", "expected text, found int"),
        ({"made": "2026-11-24T04:04:07"}, "d.made", "has no time zone"),
        ({"made": "yesterday"}, "d.made", "Invalid isoformat string"),
        ({"made": "0001-01-01T00:00:00+05:00"}, "d.made", "is not a year that UTC has"),
        ({"shown": 1}, "d.shown", "expected true or false, found int"),
        ({"shape": []}, "d.shape", "expected an object, found list"),
        ({"shape": {"x": 1}}, "d.shape.kind_of", "None is not one of Circle, Dot"),
        ({"shape": {"kind_of": "Dot", "x": -1}}, "d.shape", "x -1 is negative"),
        ({"shape": {"kind_of": "Dot", "x": True}}, "d.shape.x", "expected int, found bool"),
        ({"shapes": {}}, "d.shapes", "expected a list, found dict"),
        ({"shapes": [{"kind_of": "No"}]}, "d.shapes[0].kind_of", "'No' is not one of"),
        ({"pair": ["a"]}, "d.pair", "expected 2 items, found 1"),
        ({"pair": ["a", "b"]}, "d.pair[1]", "expected int, found str"),
        ({"tags": [1]}, "d.tags[0]", "expected text, found int"),
        ({"parent": 7}, "d.parent", "expected an object, found int"),
        ({"more": 7}, "d.more", "unknown field"),
    ],
)
def test_a_bad_node_is_named(change: dict[str, object], where: str, reason: str) -> None:
    """The error carries the path of the bad node and what is wrong with it."""
    with pytest.raises(ParseError) as caught:
        decode(Drawing, {**JSON, **change}, "d")
    assert caught.value.where == where
    assert reason in caught.value.reason


@pytest.mark.parametrize(("where", "expected"), [("", "name"), ("d", "d.name")])
def test_a_missing_field_is_named(where: str, expected: str) -> None:
    """A field that is not there is an error, also one with a default."""
    with pytest.raises(ParseError, match="missing field") as caught:
        decode(Drawing, {key: JSON[key] for key in JSON if key != "name"}, where)
    assert caught.value.where == expected


def test_an_unknown_field_at_the_top_is_named() -> None:
    """Without a document's name the path starts with the field."""
    with pytest.raises(ParseError) as caught:
        decode(Dot, {"x": 1, "y": 2})
    assert caught.value.where == "y"
