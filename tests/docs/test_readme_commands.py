"""
The shell commands of README.md work.

    ```bash              lines that begin with `fibackup ` run against a domain named web1
    <!-- ci -->          above a block: run in the clone as it stands, where FIBACKUP_README is set
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisor import MIB, BlockDomain, DiskSpec, PrivateDaemon, missing_tools

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^(?P<ci><!-- ci -->\n)?```bash\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
FIBACKUP = "import sys; from fibackup.cli import main; sys.exit(main(sys.argv[1:]))"

CI_BLOCKS = [match["code"] for match in BLOCK.finditer(README) if match["ci"]]
COMMANDS = [
    shlex.split(line, comments=True)
    for match in BLOCK.finditer(README)
    for line in match["code"].splitlines()
    if line.startswith("fibackup ")
]


@pytest.fixture
def web1() -> Iterator[BlockDomain]:
    """Give a running domain of this name, under a daemon of its own."""
    absent = missing_tools()
    if absent and os.environ.get("FIBACKUP_REQUIRE"):
        pytest.fail(f"missing: {', '.join(absent)}; run scripts/setup")
    if absent:
        pytest.skip(f"missing: {', '.join(absent)}")
    with PrivateDaemon() as daemon:
        domain = BlockDomain(daemon, "web1", {"vda": DiskSpec(), "vdb": DiskSpec(target="vdb")}, "")
        domain.start(paused=False)
        yield domain
        domain.close()


def test_there_are_commands_to_run() -> None:
    """README.md shows the command line, and what CI runs."""
    assert COMMANDS
    assert CI_BLOCKS


@pytest.mark.libvirt
def test_the_command_line_works_as_shown(web1: BlockDomain, tmp_path: Path) -> None:
    """Every line runs, in this order, and leaves a point and its restored disks."""
    web1.write("vda", 0, MIB, 1)
    (tmp_path / "backup").mkdir()
    for command in COMMANDS:
        words = [place(word, tmp_path) for word in command[1:]]
        done = subprocess.run(
            [sys.executable, "-c", FIBACKUP, *words],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "LIBVIRT_DEFAULT_URI": web1.hypervisor.uri},
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    assert list((tmp_path / "backup").glob("web1-*/*Z.json"))
    assert (tmp_path / "var/tmp/web1/vda.qcow2").exists()


def place(word: str, tmp_path: Path) -> str:
    """Put an absolute path below the test's directory."""
    return f"{tmp_path}{word}" if word.startswith("/") else word


@pytest.mark.slow
@pytest.mark.skipif("FIBACKUP_README" not in os.environ, reason="FIBACKUP_README is not set")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("code", CI_BLOCKS)
def test_what_ci_runs_works_as_shown(code: str) -> None:
    """A marked block ends with exit status 0, in the clone as it stands."""
    unset = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in unset},
    )
    assert done.returncode == 0, f"{code}{done.stdout[-4000:]}{done.stderr[-4000:]}"
