"""Facts about drawings: SVG, HTML, mermaid and text of the same scene."""

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from fibackup.render.drawable import Picture, picture_of
from fibackup.render.fit import columns_of
from fibackup.render.scene import Box, Change, Column, Link, LinkKind, Section, Table, Tint, stack
from fibackup.render.style import PREFIX
from fibackup.render.text import table

SVG = "{http://www.w3.org/2000/svg}"
NASTY = "<script>alert(1)</script> & \"q\" 'a' \n\u202e \x1b[31m ]]> --> #quot; `"


def picture(name: str = "disk.qcow2", *, sizes: tuple[int | None, ...] = (10, 20)) -> Picture:
    """Return a picture that has one of everything, with *name* in every place for text."""
    live = stack(
        Box(name, size, Tint.OURS, words=(name,), tag=name, active=not number, hint=(name,))
        for number, size in enumerate(sizes)
    )
    bad = Box(name, 1, Tint.FULL, tag="full", problem=name, change=Change.NEW)
    gone = Box(name, 5, Tint.OTHER, change=Change.GONE)
    stored = stack((None, bad, gone, Box(name, 0, Tint.INCREMENT, change=Change.WRITTEN)))
    links = (Link(0, 1, 1), Link(0, 0, 3, LinkKind.SITS_ON))
    return Picture(
        title=name,
        facts=(name, name),
        sections=(
            Section(name, (Column(name, live), Column("stored", stored)), links, note=name),
            Section("vdb", (Column("live", note=name),)),
            Section("vdc", note=name),
        ),
        tables=(Table(name, (name, "b"), ((name, f"two\n{name}"),)), Table("empty")),
        notes=(name,),
    )


def svg_texts(text: str) -> list[str]:
    """Return what an SVG document shows as text."""
    return [each.text or "" for each in ET.fromstring(text).iter(f"{SVG}text")]


def bars(text: str, tint: str) -> list[float]:
    """Return the lengths of the bars of a colour, in order; the legend's are left out."""
    found = ET.fromstring(text).iter(f"{SVG}rect")
    return [
        float(each.attrib["width"])
        for each in found
        if each.attrib["class"] == PREFIX + tint and each.attrib["height"] in {"2", "3"}
    ]


def test_a_picture_shows_names_facts_and_places() -> None:
    """What is to be seen is in the picture: title, facts, sections, names, words, tags, notes."""
    shown = svg_texts(picture("web1").to_svg())
    assert {"web1", "web1 \u00b7 web1", "STORED", "vdb", "vdc", "10 B \u00b7 web1", "new"} <= {
        *shown
    }
    assert {"copied to", "overlay of ours, by the ledger", "gone", "written", "full"} <= {*shown}


@pytest.mark.parametrize("form", ["to_svg", "_repr_html_", "_repr_svg_", "to_mermaid", "to_text"])
def test_a_drawing_is_the_same_each_time(form: str) -> None:
    """Equal values have equal drawings, to the byte."""
    assert getattr(picture(), form)() == getattr(picture(), form)()


@pytest.mark.parametrize("form", ["to_svg", "_repr_html_", "_repr_svg_"])
def test_names_cannot_leave_their_place(form: str) -> None:
    """Hostile names are text: the markup is well-formed, without a script or an own element."""
    text = getattr(picture(NASTY), form)()
    root = ET.fromstring(text)
    assert "<script" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    tags = {each.tag.removeprefix(SVG) for each in root.iter()}
    assert tags <= {
        *("svg", "style", "rect", "path", "text", "g", "title"),
        *("div", "pre", "table", "caption", "tr", "th", "td"),
    }


@pytest.mark.parametrize("form", ["to_svg", "_repr_html_"])
def test_a_drawing_needs_nothing_from_elsewhere(form: str) -> None:
    """No address, no import, no id that could clash, no handler; classes all have the prefix."""
    text = getattr(picture(), form)()
    rest = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|url\(|@import|href|\bid=|\bon\w+=", rest)
    names = {each for group in re.findall(r'class="([^"]*)"', text) for each in group.split()}
    assert names
    assert all(name.startswith(PREFIX) for name in names)
    css = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    used = {name for name in names if f".{name}" not in css}
    assert used <= {f"{PREFIX}plain"}  # every class of the page has a rule


def test_dark_and_light_are_in_the_picture() -> None:
    """A picture follows the system; in a notebook it follows the notebook, whatever the system."""
    svg, html = picture().to_svg(), picture()._repr_html_()
    assert svg.count("prefers-color-scheme:dark") == html.count("prefers-color-scheme:dark") == 1
    assert "data-jp-theme-light" not in svg
    assert '[data-jp-theme-light="false"]' in html
    assert '[data-jp-theme-light="true"]' in html


def test_converters_that_know_little_css_are_not_misled() -> None:
    """A file says its size once, in pixels; CairoSVG, for one, takes `auto` for nothing at all."""
    svg = picture().to_svg()
    assert "auto" not in svg
    assert "var(" not in svg
    assert "max-width:100%;height:auto" in picture()._repr_html_()


def test_a_notebook_without_styles_shows_the_text() -> None:
    """Where styles are dropped, the picture is hidden and the plain text is shown."""
    html = picture()._repr_html_()
    root = ET.fromstring(html)
    rich = root.find(f"./div[@class='{PREFIX}rich']")
    plain = root.find(f"./pre[@class='{PREFIX}text']")
    assert rich is not None
    assert rich.attrib["style"] == "display:none"
    assert plain is not None
    assert plain.text == str(picture())
    assert f".{PREFIX}rich{{display:block !important" in html


def test_tables_keep_their_lines() -> None:
    """A cell of several lines is shown as such; a table without rows is left out."""
    html = picture("web1")._repr_html_()
    assert "<td>two\nweb1</td>" in html
    assert "empty" not in html


def test_bars_are_to_scale() -> None:
    """A larger image never has a shorter bar; what is not tiny has its share of the width."""
    sizes = (0, 1, 2, 1000, 1 << 20, 1 << 30, 1 << 35, 1 << 40)
    found = bars(picture(sizes=sizes).to_svg(), "ours")
    assert len(found) == len(sizes) - 1  # nothing is drawn of nothing
    assert found[0] == found[1] == 2
    assert all(shorter <= longer for shorter, longer in pairwise(found))
    halved = bars(picture(sizes=(500, 1000)).to_svg(), "ours")
    assert halved[0] * 2 == halved[1]


def test_an_unknown_size_has_no_bar() -> None:
    """An image whose size is not known gets neither a bar nor a track."""
    assert (
        bars(Picture("x", sections=(Section("", (Column("", (Box("a"),)),)),)).to_svg(), "track")
        == []
    )


def deep(depth: int) -> Picture:
    """Return a picture of one chain."""
    boxes = stack(Box(f"image-{number}", number, tag="frozen") for number in range(depth))
    return Picture("deep", sections=(Section("vda", (Column("live", boxes),)),))


def test_a_long_chain_is_folded_unless_all_of_it_is_wanted() -> None:
    """Sixty images are drawn; of three hundred the middle is folded, or all on request."""
    assert deep(60).to_svg().count("image-") == 60
    folded, whole = deep(300).to_svg(), deep(300).to_svg(most_rows=None)
    assert "... 241 more" in folded
    assert "image-150<" not in folded
    assert "image-150<" in whole
    assert "... 241 more" in deep(300).to_mermaid()
    assert "image-150" in deep(300).to_mermaid(most_rows=None)
    assert "image-150" in str(deep(300))
    assert "image-150" not in deep(300).to_text(most_rows=60)


def test_drawing_takes_work_in_proportion_to_the_images() -> None:
    """Three hundred images make a text that is no more than three times that of a hundred."""
    hundred, three = (len(deep(depth).to_svg(most_rows=None)) for depth in (100, 300))
    assert three < 3 * hundred


def test_long_names_lose_their_middle() -> None:
    """A name that is too wide for its box is cut; what one points at shows all of it."""
    name = f"{'a' * 200}.qcow2"
    text = picture(name).to_svg()
    assert name not in [shown.strip() for shown in svg_texts(text)]
    assert any("\u2026" in shown for shown in svg_texts(text))
    assert name in [each.text for each in ET.fromstring(text).iter(f"{SVG}title")]


def test_each_count_of_columns_has_its_width() -> None:
    """One, two and three chains side by side all fit into the picture."""
    for count, width in ((1, 516), (2, 880), (3, 1144)):
        columns = tuple(Column(str(each), (Box("a", 1),)) for each in range(count))
        root = ET.fromstring(Picture("x", sections=(Section("vda", columns),)).to_svg())
        assert int(root.attrib["width"]) == width
        for each in root.iter(f"{SVG}rect"):
            assert float(each.attrib["x"]) + float(each.attrib["width"]) <= width


# --- mermaid ------------------------------------------------------------------------------------


def test_mermaid_says_the_same() -> None:
    """Chains are subgraphs, images nodes, and arrows and changes are told."""
    text = picture("web1").to_mermaid()
    assert text.splitlines()[:4] == ["---", 'title: "web1"', "---", "flowchart TB"]
    assert '    s0c0r0["web1<br>10 B, web1, ours"]:::ours' in text.splitlines()
    assert "    s0c0r0 --> s0c0r1" in text.splitlines()
    assert "  s0c0r1 -. copied to .-> s0c1r1" in text.splitlines()
    assert "  s0c0r0 -. sits on .-> s0c1r3" in text.splitlines()
    assert "    class s0c1r2 gone" in text.splitlines()
    assert "  classDef written stroke:#9a6700,stroke-width:2px" in text.splitlines()


def test_names_cannot_leave_a_mermaid_label() -> None:
    """In labels nothing is left that ends one, or that mermaid or HTML would act on."""
    for label in re.findall(r'\["(.*)"\]', picture(NASTY).to_mermaid()):
        rest = re.sub(r"#(\d+|quot);", "", label).replace("<br>", "")
        assert not set(rest) & set('"<>&#;`\\')


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [50, 80, 100, 200])
@pytest.mark.parametrize("name", ["web1", f"{'a' * 60}.qcow2", "日本語" * 12, NASTY])
def test_text_keeps_its_width(name: str, width: int) -> None:
    """No line is wider than the terminal, whatever the names are."""
    lines = picture(name).to_text(width=width).splitlines()
    assert max(map(columns_of, lines)) <= width


def test_text_is_never_narrower_than_fifty() -> None:
    """A width that cannot be kept is taken as 50."""
    assert picture().to_text(width=3) == picture().to_text(width=50)


def test_text_stands_side_by_side_where_it_fits() -> None:
    """Two chains share a line, with an arrow where one image is the copy of the other."""
    lines = picture("d.qcow2").to_text(width=100).splitlines()
    assert "d.qcow2  (d.qcow2)" in lines
    assert any(
        re.fullmatch(r"\* d.qcow2 .*-> d.qcow2 .*new, full: d.qcow2", each) for each in lines
    )


def test_text_stands_one_below_the_other_where_names_would_be_cut_too_short() -> None:
    """Where names would say nothing any more, the columns follow each other."""
    columns = tuple(Column(each, (Box("n" * 40, 1, tag="t"),)) for each in ("now", "after"))
    scene = Picture("x", sections=(Section("vda", columns),))
    lines = scene.to_text(width=50).splitlines()
    assert [line for line in lines if len(line) < 9] == ["x", "", "vda", "now", "", "after"]
    assert sum("n" * 40 in line for line in lines) == 2


def test_a_table_that_is_too_wide_is_squeezed() -> None:
    """The widest cells lose their middle; a table of nothing is nothing."""
    assert table([]) == ""
    rows = [["a", "b" * 30, "c" * 10], ["1", "2", "3"]]
    assert table(rows, width=30).splitlines() == [
        "a  bbbbbb...bbbbbb  cccccccccc",
        "1  2                3",
    ]
    assert table(rows, width=4).splitlines()[1] == "1  2  3"


# --- the registry -------------------------------------------------------------------------------


def test_what_nobody_has_described_has_no_picture() -> None:
    """A type that no layer registered is an error; a picture is its own picture."""
    with pytest.raises(TypeError, match="int has no picture"):
        picture_of(7)
    assert picture().picture() == picture()


def test_branches_do_not_hide_each_other() -> None:
    """Lines that pass by images stand side by side, and go up too where the backing is above."""
    boxes = tuple(Box(str(n), 1, on=on) for n, on in enumerate((3, 4, 5, None, None, 0)))
    text = Picture("x", sections=(Section("", (Column("", boxes),)),)).to_svg()
    lines = re.findall(r'spine" d="M36 \d+H(\d+)', text)
    assert len(lines) == 4
    assert len({*lines[:3]}) == 3
