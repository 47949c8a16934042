"""
The commands of the pages work: each block of a page, in its order, as it stands there.

Paths are put below the test's directory, a point's id is that of a point that is there, and the
guests are firmware alone: a line that wants an answer of a guest agent is refused for want of one.
Before a guest goes on from its memory, it is gone. Other programs of the host, such as systemctl,
are stood in for by ones that note how they were called. The pages of restores and of installing
have tests of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from hypervisor import MIB, BlockDomain, DiskSpec, PrivateDaemon, missing_tools

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```bash\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = re.compile(r"^(?:fibackup|fi-backup|qemu-img|mkdir|virsh|eval) ", re.MULTILINE)
OURS = re.compile(r"(?<![\w.])/(?=backup|images|states|var/|etc/)")
POINT = "20261124T040407Z"
PAGES = (
    *("index", "quickstart", "cli", "backup", "consolidate", "recover", "verify", "prune"),
    *("memory", "fi-backup", "operate", "store-format"),
)
WANTS_AN_AGENT = re.compile(r"fi-backup -\w*q")
NEW_STORE = {"quickstart"}
"""The page that makes the directory itself."""

PREAMBLE = """
fibackup() { "$PYTHON" -c 'import sys; from fibackup.cli import main; sys.exit(main(sys.argv[1:]))' "$@"; }
fi-backup() { "$PYTHON" -c 'import sys; from fibackup.cli.fi_backup import main; sys.exit(main(sys.argv[1:]))' "$@"; }
"""  # noqa: E501


class World(NamedTuple):
    """Two domains, web1 and db1, and a directory that stands for ``/``."""

    web1: BlockDomain
    place: Path


@pytest.fixture(scope="module")
def domains() -> Iterator[BlockDomain]:
    """Give web1, with db1 beside it, under a daemon of their own."""
    absent = missing_tools()
    if absent and os.environ.get("FIBACKUP_REQUIRE"):
        pytest.fail(f"missing: {', '.join(absent)}; run scripts/setup")
    if absent:
        pytest.skip(f"missing: {', '.join(absent)}")
    with PrivateDaemon() as daemon, ExitStack() as held:
        made = []
        for name in ("db1", "web1"):
            domain = BlockDomain(daemon, name, {"vda": DiskSpec()}, "")
            held.callback(domain.close)
            domain.start(paused=False)
            domain.write("vda", 0, MIB, 1)
            made.append(domain)
        yield made[1]


@pytest.fixture
def world(domains: BlockDomain, tmp_path: Path) -> World:
    """Give the domains, both running, and empty directories."""
    folders = (
        *("images", "states", "etc/fibackup", "var/log", "var/lib/prometheus/node-exporter"),
        ".config/fish/completions",
    )
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    hook = tmp_path / "etc/fibackup/app-hook"
    hook.write_text("#!/bin/sh\nexec cat > /dev/null\n")
    hook.chmod(0o700)
    if not domains.is_active:
        domains.start(paused=False)
    return World(domains, tmp_path)


def commands(page: str) -> list[str]:
    """Return the lines of a page that are run; comments stay."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    blocks = (match["code"] for match in BLOCK.finditer(text))
    return [line for code in blocks for line in code.splitlines() if RUN.match(line)]


def run(world: World, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell, where its paths lead below the test's directory."""
    points = sorted(path.stem for path in world.place.glob("backup/web1-*/*Z.json"))
    line = line.replace(POINT, points[0] if points else POINT)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", PREAMBLE + OURS.sub(f"{world.place}/", line)],
        check=False,
        capture_output=True,
        text=True,
        cwd=world.place,
        env={
            **os.environ,
            "LIBVIRT_DEFAULT_URI": world.web1.hypervisor.uri,
            "PYTHON": sys.executable,
            "LC_ALL": "C.UTF-8",
            "HOME": str(world.place),
        },
        timeout=180,
    )


def beside(tmp_path: Path, *programs: str) -> tuple[Path, dict[str, str]]:
    """Return a file that notes each call of a program, and the environment that finds them."""
    notes, place = tmp_path / "notes", tmp_path / "programs"
    place.mkdir()
    for name in programs:
        (place / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{notes}"\ncat > /dev/null\n')
        (place / name).chmod(0o700)
    return notes, {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}


def block(page: str, first: str) -> str:
    """Return the block of a page that begins with these words."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    [code] = [each["code"] for each in BLOCK.finditer(text) if each["code"].startswith(first)]
    return code


def test_the_units_are_installed_as_shown(tmp_path: Path) -> None:
    """Each unit that is enabled or started is one that was copied."""
    notes, environment = beside(tmp_path, "systemctl", "journalctl")
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    code = OURS.sub(f"{tmp_path}/", block("operate", "cp contrib"))
    words = ["bash", "-euo", "pipefail", "-c", code]
    subprocess.run(
        words, check=True, cwd=DOCS.parent, env=environment, stdin=subprocess.DEVNULL, timeout=60
    )
    named = set(re.findall(r"fibackup\S*\.(?:service|timer)", notes.read_text()))
    assert len(named) >= 5
    assert {re.sub(r"@\w+", "@", each) for each in named} <= {each.name for each in units.iterdir()}


@pytest.mark.parametrize(
    ("phase", "called"),
    [
        ("before-freeze", ["ssh db1 sudo /usr/local/bin/hold-writes"]),
        ("after-thaw", ["ssh db1 sudo /usr/local/bin/release-writes"]),
        ("published", []),
        ("failed", ["mail -s backup failed ops"]),
    ],
)
def test_the_hook_does_what_the_page_says(tmp_path: Path, phase: str, called: list[str]) -> None:
    """In each phase, with the document on its standard input; a phase it does not know is fine."""
    notes, environment = beside(tmp_path, "ssh", "mail")
    error = {"message": "no", "state": "nothing was changed", "next_command": "virsh list"}
    done = subprocess.run(
        ["sh", "-eu", "-c", block("operate", "#!/bin/sh")],
        check=False,
        input=json.dumps({"domain": "web1", "error": error}),
        capture_output=True,
        text=True,
        env={**environment, "FIBACKUP_PHASE": phase},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (notes.read_text().splitlines() if notes.exists() else []) == called


def test_every_page_with_commands_is_run() -> None:
    """A new page of commands is run too, or has a test of its own."""
    with_commands = {path.stem for path in DOCS.glob("*.md") if commands(path.stem)}
    assert with_commands == {*PAGES, "restore"}


@pytest.mark.libvirt
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(world: World, page: str) -> None:
    """Each line ends with exit status 0, and a line that takes a point leaves one."""
    if page not in NEW_STORE:
        (world.place / "backup").mkdir(0o700)
        first = run(world, "fibackup backup --store /backup web1 db1")
        assert first.returncode == 0, first.stderr
    for line in commands(page):
        if "restore" in line and "--memory" in line:
            world.web1.destroy()
        before = len(list(world.place.glob("backup/*/*Z.json")))
        if world.web1.is_active:
            world.web1.write("vda", MIB, MIB, before % 250 + 1)
        done = run(world, line)
        if WANTS_AN_AGENT.match(line):
            assert (done.returncode != 0, "agent" in done.stderr) == (True, True), done.stderr
            continue
        warned = 4 if line.startswith("fibackup doctor") else 0  # the store is beside the images
        assert done.returncode in {0, warned}, f"{line}\n{done.stdout}{done.stderr}"
        takes = line.startswith(("fibackup backup --store", "fi-backup -")) and "-c all" not in line
        if takes and "--dry-run" not in line:
            assert len(list(world.place.glob("backup/*/*Z.json"))) > before, line
