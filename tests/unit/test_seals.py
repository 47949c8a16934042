"""``points.sha256``: what sha256sum(1) prints of the manifests, and a line about itself."""

from __future__ import annotations

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from fibackup.errors import ManifestError
from fibackup.model.records import SEALS_FILE
from fibackup.parse.seals import parse_seals, render_seals

SEALS = {"20261124T040407Z": "a" * 64, "20261123T040406Z": "b" * 64}


@pytest.mark.parametrize("seals", [{}, SEALS])
def test_seals_read_back(seals: dict[str, str]) -> None:
    """From text and from bytes."""
    text = render_seals(seals)
    assert parse_seals(text) == parse_seals(text.encode()) == seals


def test_seals_are_in_the_order_of_ids() -> None:
    """So that two lists can be compared by diff(1)."""
    assert render_seals(SEALS).splitlines()[0] == f"{'b' * 64}  20261123T040406Z.json"


def test_sha256sum_reads_the_seals(tmp_path: Path) -> None:
    """The file is one that ``sha256sum --check`` takes, and it finds a changed manifest."""
    program = shutil.which("sha256sum")
    assert program is not None
    manifest = tmp_path / "20261124T040407Z.json"
    manifest.write_bytes(b"{}")
    digest = sha256(b"{}").hexdigest()
    (tmp_path / SEALS_FILE).write_text(render_seals({"20261124T040407Z": digest}))
    command = [program, "--quiet", "--check", SEALS_FILE]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    manifest.write_bytes(b"{} ")
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 1


def test_every_flipped_bit_is_noticed() -> None:
    """A damaged list of seals is a damaged list, and no verdict on a point."""
    data = render_seals(SEALS).encode()
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            with pytest.raises(ManifestError):
                parse_seals(bytes(changed), path="/s/points.sha256")


def resealed(text: str) -> str:
    """Return lines with the last line that belongs to them."""
    return f"{text}# sha256 of the lines above: {sha256(text.encode()).hexdigest()}\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        render_seals(SEALS)[:-1],
        render_seals(SEALS)[:-20],
        render_seals(SEALS).splitlines(keepends=True)[0],
        resealed("a line\n"),
        resealed(render_seals(SEALS).splitlines(keepends=True)[0] * 2),
    ],
)
def test_what_is_no_list_of_seals_is_refused(text: str) -> None:
    """Cut short, or with lines that its writer never writes; the error says where it lies."""
    with pytest.raises(ManifestError) as caught:
        parse_seals(text, path="/s/points.sha256")
    assert caught.value.path == "/s/points.sha256"
