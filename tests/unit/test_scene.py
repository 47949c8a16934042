"""Facts about scenes: chains that are stacked and folded, and text that is made to fit."""

import pytest

from fibackup.render.fit import clean, columns_of, join_fitting, markup, shorten
from fibackup.render.scene import (
    Box,
    Change,
    Column,
    Link,
    Scene,
    Section,
    fold,
    largest_bytes,
    stack,
)

A, B, C = Box("a", 1), Box("b", 2), Box("c", 3)


def lies_on(boxes: tuple[Box | None, ...]) -> list[int | None]:
    """Return on what each box lies."""
    return [None if box is None else box.on for box in boxes]


def names(section: Section) -> list[list[str]]:
    """Return the names of a section's boxes."""
    return [["" if b is None else b.name for b in column.boxes] for column in section.columns]


def test_boxes_lie_on_each_other() -> None:
    """Each box lies on the next one, the last one on nothing."""
    assert lies_on(stack((A, B, C))) == [1, 2, None]


def test_nothing_lies_on_an_empty_place_or_on_what_goes() -> None:
    """A line passes by places that are empty, and by images that leave the chain."""
    gone = Box("gone", change=Change.GONE)
    assert lies_on(stack((None, A, gone, None, C))) == [None, 4, None, None, None]


def test_the_largest_image_sets_the_scale() -> None:
    """The scale is one for all sections and columns; without a size there is none."""
    first = Section("vda", (Column("live", (A, None)), Column("stored", (C,))))
    assert largest_bytes(Scene("x", sections=(first, Section("vdb", (Column("live", (B,)),))))) == 3
    assert largest_bytes(Scene("x")) == 0


# --- long chains --------------------------------------------------------------------------------


def long_section(depth: int) -> Section:
    """Return a chain of *depth* images, a short one beside it, and an arrow between each pair."""
    deep = Column("stored", stack(Box(str(number), 10) for number in range(depth)))
    flat = Column("live", stack((A, B)))
    links = tuple(Link(0, 1, end) for end in range(depth))
    return Section("vda", (flat, deep), links)


def test_a_short_chain_is_not_folded() -> None:
    """What fits is drawn as it is, and so is everything when there is no limit."""
    section = long_section(20)
    assert fold(section, 20) is section
    assert fold(section, None) is section


def test_a_long_chain_loses_its_middle() -> None:
    """The newest images and the base stay; one box stands for the others, with their size."""
    folded = fold(long_section(30), 10)
    assert names(folded) == [
        ["a", "b"],
        ["0", "1", "2", "3", "4", "5", "... 21 more", "27", "28", "29"],
    ]
    middle = folded.columns[1].boxes[6]
    assert middle is not None
    assert middle.words == ("210 B together",)
    assert middle.hint == tuple(str(number) for number in range(6, 27))
    assert lies_on(folded.columns[1].boxes) == [1, 2, 3, 4, 5, 6, 7, 8, 9, None]


def test_arrows_follow_what_was_folded() -> None:
    """Arrows to images in the middle become one arrow to the box in their place."""
    assert [link.end for link in fold(long_section(30), 10).links] == list(range(10))


def test_a_column_that_ends_in_the_middle_ends_in_the_fold() -> None:
    """A column that is shorter than the other loses its end only, and has no size to tell."""
    section = Section("vda", (Column("a", stack([Box("x")] * 12)), long_section(30).columns[1]))
    boxes = fold(section, 10).columns[0].boxes
    assert [box.name for box in boxes if box] == ["x"] * 6 + ["... 6 more"]
    assert boxes[6] == Box("... 6 more", hint=("x",) * 6)


def test_an_empty_middle_stays_empty() -> None:
    """Where a column has no image in the middle, nothing stands for it."""
    section = Section("vda", (Column("a", (A, *[None] * 29)), long_section(30).columns[1]))
    assert fold(section, 10).columns[0].boxes == (A, *[None] * 9)


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("a\u200db", 2), ("", 0)]
)
def test_wide_and_combining_characters_count_as_terminals_do(text: str, width: int) -> None:
    """East Asian characters take two columns, combining and joining ones none."""
    assert columns_of(text) == width


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("disk.qcow2", 10, "disk.qcow2"),
        ("a-long-name.qcow2", 9, "a-l...ow2"),
        ("a-long-name.qcow2", 4, "a-lo"),
        ("日本語日本語", 9, "日...語"),
        ("日本語日本語", 1, ""),
    ],
)
def test_a_name_loses_its_middle(text: str, width: int, short: str) -> None:
    """Both ends stay, where names differ; where there is no room for both, the beginning."""
    assert shorten(text, width) == short
    assert columns_of(shorten(text, width)) <= width


def test_words_that_do_not_fit_are_left_out() -> None:
    """The first words count most; a short one may still follow one that was too long."""
    assert join_fitting(("1 GiB", "", "far too long for this", "ours"), 12, ", ") == "1 GiB, ours"
    assert join_fitting(("far too long",), 3, ", ") == ""


def test_hidden_characters_are_escaped_for_every_place() -> None:
    """Controls, bidirectional marks, surrogates and what XML has no place for become visible."""
    nasty = "a\n\x1b\u202e\ud800\ufffe\uffff<&\"'"
    assert clean(nasty) == "a\\x0a\\x1b\\u202e\\ud800\\ufffe\\uffff<&\"'"
    assert markup(nasty).endswith("\\uffff&lt;&amp;&quot;&#x27;")
