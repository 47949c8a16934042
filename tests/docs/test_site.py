"""The built pages need nothing from elsewhere, every link of theirs leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import fibackup as fb
import fibackup.testing as fb_testing

ROOT = Path(__file__).parents[2]
SUBJECTS = {
    "index", "quickstart", "backup", "consolidate", "restore", "verify", "prune", "recover",
    "memory", "explore", "embed", "operate", "fi-backup", "design", "store-format", "glossary",
    "errors", "api", "cli", "adr/README",
}  # fmt: skip
FETCHED = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src",
    "audio": "src", "embed": "src", "object": "data", "image": "href", "use": "href",
}  # fmt: skip
LOADING = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch"}
IN_CSS = re.compile(r"url\(\s*[\"']?(?P<url>[^)\"']+)|@import\s+[\"'](?P<sheet>[^\"']+)")


class Page(HTMLParser):
    """What a page loads by itself, where its links lead, and what they can lead to."""

    def __init__(self, text: str) -> None:
        """Read it."""
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self._in_style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag refers to."""
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        self.loads += _in_css(found.get("style", ""))
        if FETCHED.get(tag) in found:
            self.loads.append(found[FETCHED[tag]])
        if tag == "link" and LOADING & set(found.get("rel", "").split()):
            self.loads.append(found["href"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        self._in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        """Note what a style sheet in the page loads."""
        if self._in_style:
            self.loads += _in_css(data)

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        """Leave a style sheet."""
        self._in_style = False


def _in_css(text: str) -> list[str]:
    return [match["url"] or match["sheet"] for match in IN_CSS.finditer(text)]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the built pages: those of `make docs`, or new ones."""
    if built := os.environ.get("FIBACKUP_SITE"):
        return Path(built)
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(directory)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return directory


@cache
def read(path: Path) -> Page:
    """Return a parsed page."""
    return Page(path.read_text("utf-8"))


def pages(site: Path) -> list[Path]:
    """List the pages of a site; 404.html is for a server, which says where it stands."""
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


def elsewhere(url: str) -> bool:
    """Tell whether a URL leads out of the site; data in the page itself does not."""
    parts = urlsplit(url)
    return bool(parts.netloc or (parts.scheme and parts.scheme != "data"))


def target(page: Path, url: str) -> tuple[Path, str]:
    """Return file and fragment that a relative URL means, read from a directory."""
    parts = urlsplit(url)
    path = Path(os.path.normpath(page.parent / unquote(parts.path))) if parts.path else page
    return path, unquote(parts.fragment)


def faults(page: Path) -> list[str]:
    """List what is wrong with the references of a page."""
    found = read(page)
    wrong = [f"loads {url}" for url in found.loads if elsewhere(url)]
    local = [u for u in (*found.loads, *found.links) if not any(urlsplit(u)[:2])]
    for url in local:
        path, fragment = target(page, url)
        if not path.is_file():
            wrong.append(f"no file {url}")
        elif fragment and path.suffix == ".html" and fragment not in read(path).ids:
            wrong.append(f"no anchor {url}")
    return wrong


def test_the_pages_need_nothing_from_elsewhere_and_their_links_lead_somewhere(site: Path) -> None:
    """From a directory, without a server or a network: files and anchors are all there."""
    wrong = {path.relative_to(site).as_posix(): faults(path) for path in pages(site)}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_the_style_sheets_need_nothing_from_elsewhere(site: Path) -> None:
    """No remote font, picture or sheet."""
    sheets = sorted(site.rglob("*.css"))
    assert sheets
    assert [
        (sheet.name, url)
        for sheet in sheets
        for url in _in_css(sheet.read_text("utf-8"))
        if elsewhere(url)
    ] == []


def test_the_pages_are_there(site: Path) -> None:
    """Each subject has a page, and each decision."""
    found = {path.relative_to(site).with_suffix("").as_posix() for path in pages(site)}
    adrs = {f"adr/{path.stem}" for path in ROOT.glob("docs/adr/[0-9]*.md")}
    missing = SUBJECTS - {"adr/README"} | adrs
    assert missing - found == set()


def test_the_reference_has_every_public_name(site: Path) -> None:
    """`fibackup.X` and `fibackup.testing.X` have their place on the page of the API."""
    ids = read(site / "api.html").ids
    names = {f"fibackup.{name}" for name in fb.__all__ if not name.startswith("__")}
    names |= {f"fibackup.testing.{name}" for name in fb_testing.__all__}
    assert sorted(names - ids) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<script src='https://cdn.example/x.js'></script>", "loads https://cdn.example/x.js"),
        ("<link rel='preload stylesheet' href='//a.example/x.css'>", "loads //a.example/x.css"),
        ("<style>@import 'https://a.example/f.css';</style>", "loads https://a.example/f.css"),
        ("<p style='background:url(https://a.example/p.png)'>", "loads https://a.example/p.png"),
        ("<a href='other.html'>", "no file other.html"),
        ("<a href='sub/'>", "no file sub/"),
        ("<a href='#there'>", "no anchor #there"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, text: str, fault: str) -> None:
    """Something from elsewhere, a missing file, a directory and a missing anchor are faults."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(f"<p id='here'>{text}<a href='#here'></a>")
    assert faults(tmp_path / "index.html") == [fault]
