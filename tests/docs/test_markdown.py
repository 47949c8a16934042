"""
What the pages say, holds: Python examples in README.md and docs/ run, links lead somewhere.

    ```python            executed; with `>>>` it is a doctest, and its output must match
    ```bash              not executed, unless the line above is `<!-- run -->`
    <!-- setup           executed before the page's first example, and invisible to its reader
    host = FakeHost(...)
    -->

All blocks of a page share one namespace and one empty working directory, in the order of the page.
"""

import doctest
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
LINKED = sorted(
    {
        *ROOT.glob("*.md"),
        *(
            p
            for top in ("docs", "changelog.d", "examples", "benchmarks", "tests")
            for p in ROOT.glob(f"{top}/**/*.md")
        ),
    }
)

FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?P<ticks>`{3,})(?P<language>[\w-]*)(?P<rest>[^`\n]*)\n"
    r"(?P<code>.*?)^(?P=indent)(?P=ticks)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
SETUP = re.compile(r"^<!-- setup\n(?P<code>.*?)^-->", re.MULTILINE | re.DOTALL)
RUN_MARK = re.compile(r"^[ ]*<!-- run -->[ ]*\n\Z", re.MULTILINE)
LINK = re.compile(
    r"\]\(\s*<?(?P<target>[^)\s>]+)>?(?:\s+[\"'][^)]*)?\)|^\[[^\]^]+\]:\s*(?P<ref>\S+)",
    re.MULTILINE,
)
HEADING = re.compile(
    r"^#{1,6}\s+(?P<text>.+?)(?:\s*\{.*?#(?P<id>[\w-]+).*?\})?\s*#*$", re.MULTILINE
)
HTML_ID = re.compile(r"<\w+[^>]*\s(?:id|name)=\"([^\"]+)\"")


class Block(NamedTuple):
    """One piece of code of a page, and the line on which it starts."""

    language: str
    code: str
    line: int
    marked: bool = False


def setups(text: str) -> Iterator[Block]:
    """Yield the hidden set-up of a page."""
    for match in SETUP.finditer(text):
        yield Block("python", match["code"], _line(text, match.start("code")))


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page, dedented."""
    for match in FENCE.finditer(text):
        marked = RUN_MARK.search(text[: match.start()]) is not None
        code = textwrap.dedent(match["code"])
        yield Block(match["language"], code, _line(text, match.start("code")), marked)


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset)


def examples(text: str) -> list[Block]:
    """List what of a page is executed: all Python, and the marked shell."""
    python = ("python", "pycon", "py")
    return [b for b in blocks(text) if b.language in python or (b.language == "bash" and b.marked)]


def run_page(path: Path) -> int:
    """Run the set-up and the examples of a page in one namespace; count the examples."""
    text = path.read_text("utf-8")
    names: dict[str, Any] = {"__name__": f"page_{path.stem.replace('-', '_').replace('.', '_')}"}
    todo = examples(text)
    for block in [*setups(text), *todo] if todo else []:
        if block.language == "bash":
            _run_bash(block)
        elif re.search(r"^\s*>>> ", block.code, re.MULTILINE):
            _run_doctest(block, path, names)
        else:
            exec(_compile(block, path), names)  # noqa: S102 - our own pages
    return len(todo)


def _compile(block: Block, path: Path) -> CodeType:
    return compile("\n" * block.line + block.code, str(path), "exec", dont_inherit=True)


def _run_doctest(block: Block, path: Path, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.code, {}, path.name, str(path), block.line)
    test.globs = names  # not a copy: later blocks see what this one defines
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    result = runner.run(test, out=report.append, clear_globs=False)
    assert result.failed == 0, "".join(report)


def _run_bash(block: Block) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, f"line {block.line}: {done.stdout}{done.stderr}"


def bad_links(path: Path) -> list[str]:
    """List the relative links of a page that lead nowhere: no such file, or no such heading."""
    text = _prose(path.read_text("utf-8"))
    targets = [match["target"] or match["ref"] for match in LINK.finditer(text)]
    relative = [t for t in targets if not re.match(r"[a-z][a-z0-9+.-]*:|//", t)]
    return [target for target in relative if not _leads_somewhere(path, target)]


def _prose(text: str) -> str:
    """Leave out comments, code blocks and code spans: what looks like a link there is none."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def _leads_somewhere(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    there = page.parent / name if name else page
    if not there.exists():
        return False
    return not anchor or there.suffix != ".md" or anchor in _anchors(there.read_text("utf-8"))


def _anchors(text: str) -> set[str]:
    """Name the headings as GitHub does and as MkDocs does, and ids written by hand."""
    found = set(HTML_ID.findall(text))
    for match in HEADING.finditer(FENCE.sub("", text)):
        plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", match["text"]).strip().lower()
        github = re.sub(r"[^\w\s-]", "", plain)
        found |= {github.replace(" ", "-"), re.sub(r"[-\s]+", "-", github).strip("-")}
        found |= {match["id"]} - {None}
    return found


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_the_examples_of_a_page_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every Python block of a page runs, in an empty directory, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    run_page(path)


def test_the_readme_shows_an_example() -> None:
    """README.md has at least one example that is executed; so the runner does find blocks."""
    assert examples((ROOT / "README.md").read_text("utf-8"))


@pytest.mark.parametrize("path", LINKED, ids=_name)
def test_the_links_of_a_page_lead_somewhere(path: Path) -> None:
    """Every relative link names a file that exists, and a heading that exists in it."""
    assert bad_links(path) == []


def test_set_up_and_blocks_share_one_namespace(tmp_path: Path) -> None:
    """Set-up runs first, a doctest sees what code defined, and code what a doctest defined."""
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nb = a + 1\n```\n\n- item\n\n    ```pycon\n    >>> c = b + 1\n    >>> c\n    3\n"
        "    ```\n\n```python\nassert c == 3\n```\n\n<!-- setup\na = 1\n-->\n"
    )
    assert run_page(page) == 3


@pytest.mark.parametrize(
    "text",
    [
        "```python\nraise AssertionError\n```\n",
        "```python\n>>> 1 + 1\n3\n```\n",
        "<!-- run -->\n```bash\nfalse | true\n```\n",
        "<!-- setup\nraise AssertionError\n-->\n```python\npass\n```\n",
    ],
)
def test_a_wrong_example_is_found(tmp_path: Path, text: str) -> None:
    """A page fails on code that raises, on output that differs, on a marked command that fails."""
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError):
        run_page(page)


def test_unmarked_shell_is_not_run(tmp_path: Path) -> None:
    """A bash block without the mark is only shown."""
    page = tmp_path / "page.md"
    page.write_text("```bash\nexit 1\n```\n")
    assert run_page(page) == 0


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    """Files and headings that do not exist are named; code, and the web, are left alone."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One two\n[a](page.md#one-two) [b](#three) [c](gone.md) [d](https://example.org/x)\n"
        '`[e](code.md)` ![f](gone.svg "title")\n```text\n[g](fence.md)\n```\n[h]: gone.txt\n'
    )
    assert bad_links(page) == ["#three", "gone.md", "gone.svg", "gone.txt"]
