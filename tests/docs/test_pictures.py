"""The pictures of the pages are those that the library draws, and the notebook runs."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "img"
NOTEBOOK = ROOT / "examples" / "explore_chains.py"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.fixture(scope="module")
def drawn() -> Mapping[str, str]:
    """Return the pictures as they are drawn now."""
    found: Mapping[str, str] = runpy.run_path(str(ROOT / "scripts" / "draw_pictures.py"))["draw"]()
    return found


def test_the_pictures_are_those_that_the_library_draws(drawn: Mapping[str, str]) -> None:
    """Each file is what the script draws, to the byte; `python scripts/draw_pictures.py` does."""
    files = {path.name: path.read_text("utf-8") for path in IMAGES.glob("*.svg")}
    stale = {name for name in {*files, *drawn} if files.get(name) != drawn.get(name)}
    assert not stale, "run: python scripts/draw_pictures.py"


def test_every_picture_is_shown_somewhere() -> None:
    """A picture that no page shows is in the way."""
    text = "\n".join(path.read_text("utf-8") for path in PAGES)
    shown = set(re.findall(r"img/([\w-]+\.svg)", text)) | {"readme.svg"}
    assert {path.name for path in IMAGES.glob("*.svg")} <= shown


def cells(text: str) -> Iterator[str]:
    """Yield the code cells of a notebook in the percent format."""
    for cell in re.split(r"^# %%", text, flags=re.MULTILINE):
        heading, _, code = cell.partition("\n")
        if "[markdown]" not in heading and code.strip():
            yield code


def run_cell(code: str, names: dict[str, Any]) -> Any:  # noqa: ANN401 - what a cell shows
    """Run a cell; return the value of its last line, as a notebook does."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)  # noqa: S102 - our own notebook
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)  # noqa: S307


def run_notebook() -> list[Any]:
    """Run all cells in one namespace; return what each one shows."""
    names: dict[str, Any] = {"__name__": "notebook"}
    return [run_cell(code, names) for code in cells(NOTEBOOK.read_text("utf-8"))]


def test_the_notebook_runs_and_shows_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    """Every cell runs without a hypervisor, and the picture of each value is sound."""
    shown = [value for value in run_notebook() if hasattr(value, "_repr_html_")]
    assert {type(value).__name__ for value in shown} == {
        *("BackingChain", "Domain", "History", "Picture", "Plan", "Report", "RestorePoint"),
    }
    for value in shown:
        html: str = value._repr_html_()
        ET.fromstring(html)
        assert "<script" not in html
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_the_notebook_shows_no_surprise() -> None:
    """What its text says is what its values are: who owns what, and what a plan leaves."""
    names: dict[str, Any] = {"__name__": "notebook"}
    for code in cells(NOTEBOOK.read_text("utf-8")):
        run_cell(code, names)
    assert [str(point.kind) for point in names["history"].points] == ["full", *["increment"] * 3]
    assert names["foreign"].disk("vda").chain.depth == 4
    assert names["svg"].startswith("<svg ")
    assert names["mermaid"].startswith("---\ntitle: ")
