"""
The shell of docs/restore.md works: every block, in the order of the page, as it stands there.

Paths are put below the test's directory, and the names of the points and of the domain's directory
are those of the store that the test makes. The guest is firmware alone, so a shutdown is a destroy;
the access list is a mode; the editor does what the page says. QEMU runs as the user that the
distribution gives it, and the store is its owner's alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from attrs import evolve

import fibackup as fb
from hypervisor import MIB, BlockDomain, DiskSpec, PrivateDaemon, differences, missing_tools
from hypervisor.qemu_conf import qemu_account

PAGE = Path(__file__).parents[2] / "docs" / "restore.md"
BLOCK = re.compile(r"^```bash\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
BY_HAND = "## By hand, with qemu-img alone"
DIRECTORY = re.compile(r"web1-[0-9a-f-]{36}")
OLDER, NEWER = "20261124T040407Z", "20261125T040407Z"

PREAMBLE = """
fibackup() { "$PYTHON" -c 'import sys; from fibackup.cli import main; sys.exit(main(sys.argv[1:]))' "$@"; }
virsh() { [ "$1" != shutdown ] || set -- destroy "$2"; command virsh "$@"; }
setfacl() { case "$1" in -R) chmod -R o+rX -- "${@: -1}" ;; *) chmod o+x -- "${@: -1}" ;; esac; }
export PYTHON EDITOR
"""  # noqa: E501
EDITOR = """#!{python}
import sys
import xml.etree.ElementTree as ET
tree = ET.parse(sys.argv[1])
disk = tree.find("devices/disk")
disk.find("source").set("file", "{image}")
disk.find("driver").set("type", "qcow2")
for chain in disk.findall("backingStore"):
    disk.remove(chain)
tree.write(sys.argv[1])
"""


class Stored(NamedTuple):
    """A domain named web1, two points of it, and what its disk had at each."""

    domain: BlockDomain
    place: Path
    points: tuple[str, str]
    references: tuple[Path, Path]


@pytest.fixture(scope="module")
def stored() -> Iterator[Stored]:
    """Give a running domain and a store, under a daemon of its own."""
    absent = missing_tools()
    if absent and os.environ.get("FIBACKUP_REQUIRE"):
        pytest.fail(f"missing: {', '.join(absent)}; run scripts/setup")
    if absent:
        pytest.skip(f"missing: {', '.join(absent)}")
    with PrivateDaemon(qemu_user=qemu_account() or "root") as daemon:
        place = daemon.images / "page"
        for name in ("images", "var/tmp", "var/lib/libvirt/images"):
            (place / name).mkdir(parents=True)
        (place / "backup").mkdir(mode=0o700)
        domain = BlockDomain(daemon, "web1", {"vda": DiskSpec()}, "")
        domain.start(paused=False)
        references = []
        for number in (1, 2):
            domain.write("vda", number * MIB, 2 * MIB, number)
            references.append(domain.reference("vda", f"p{number}"))
            shell(domain, place, f"fibackup backup --store {place}/backup web1")
        points = sorted(path.stem for path in place.glob("backup/web1-*/*Z.json"))
        domain.write("vda", 0, MIB, 9)
        yield Stored(domain, place, (points[0], points[1]), (references[0], references[1]))
        for each in daemon.connection.listAllDomains(0):
            if each.name().startswith("web1-"):
                each.destroy()
                each.undefine()
        domain.close()


def shell(domain: BlockDomain, place: Path, code: str) -> None:
    """Run shell, as a user would, where the page's paths lead."""
    editor = place / "editor"
    image = place / "var/lib/libvirt/images/restored/vda.qcow2"
    editor.write_text(EDITOR.format(python=sys.executable, image=image))
    editor.chmod(0o700)
    environment = {
        **os.environ,
        "LIBVIRT_DEFAULT_URI": domain.hypervisor.uri,
        "PYTHON": sys.executable,
        "EDITOR": str(editor),
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", PREAMBLE + code],
        check=False,
        capture_output=True,
        text=True,
        cwd=place,
        env=environment,
        timeout=180,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"


def as_here(code: str, stored: Stored) -> str:
    """Put the page's paths and names where those of the test are."""
    [directory] = stored.place.glob("backup/web1-*")
    code = DIRECTORY.sub(directory.name, code)
    code = code.replace(OLDER, stored.points[0]).replace(NEWER, stored.points[1])
    return re.sub(r"(?<![\w.])/(?=backup|images|var/)", f"{stored.place}/", code)


def blocks(text: str) -> list[str]:
    """Return the shell blocks of a text."""
    return [match["code"] for match in BLOCK.finditer(text)]


def test_there_is_shell_to_run() -> None:
    """In both parts of the page."""
    before, _, by_hand = PAGE.read_text("utf-8").partition(BY_HAND)
    assert len(blocks(before)) >= 6
    assert len(blocks(by_hand)) >= 4


@pytest.mark.libvirt
@pytest.mark.timeout(300)
def test_the_recipe_by_hand_brings_back_what_the_guest_had(stored: Stored) -> None:
    """With qemu-img, jq and sha256sum, and without a line of fibackup."""
    _, _, by_hand = PAGE.read_text("utf-8").partition(BY_HAND)
    code = "".join(blocks(by_hand))
    assert "fibackup" not in code
    shell(stored.domain, stored.place, as_here(code, stored))
    made = stored.place / "var/tmp/vda.qcow2"
    assert differences(made, "qcow2", stored.references[1]) == ""


def add_nothing(place: Path) -> str:
    """Publish a point of a domain that was off, and had written nothing since its parent."""
    with fb.Store.open(place) as store:
        [uuid] = store.domains()
        [*_, last] = store.read_history(uuid).points
        disk = evolve(last.disks[0], kind=fb.DiskKind.INCREMENT, parent=last.id, images=())
        point = fb.format_point_id(last.time + timedelta(hours=1))
        with store.locked(uuid, "web1", exclusive=True):
            config = store.save_config(uuid, f"{point}.xml", "<domain/>")
            store.publish(
                evolve(
                    last,
                    id=point,
                    sequence=last.sequence + 1,
                    parent=last.id,
                    files=(config,),
                    disks=(disk,),
                )
            )
    return point


@pytest.mark.libvirt
@pytest.mark.timeout(300)
def test_the_recipe_by_hand_finds_an_image_that_the_point_did_not_add(
    stored: Stored, tmp_path: Path
) -> None:
    """Nothing was written since its parent; and the store was verified, which leaves a record."""
    shutil.copytree(stored.place / "backup", tmp_path / "backup")
    (tmp_path / "var/tmp").mkdir(parents=True)
    here = stored._replace(
        place=tmp_path, points=(stored.points[1], add_nothing(tmp_path / "backup"))
    )
    shell(stored.domain, tmp_path, f"fibackup verify --store {tmp_path}/backup")
    _, _, by_hand = PAGE.read_text("utf-8").partition(BY_HAND)
    shell(stored.domain, tmp_path, as_here("".join(blocks(by_hand)), here))
    made = tmp_path / "var/tmp/vda.qcow2"
    assert differences(made, "qcow2", stored.references[1]) == ""


@pytest.mark.libvirt
@pytest.mark.timeout(300)
def test_the_recipe_by_hand_sees_a_flipped_bit(stored: Stored) -> None:
    """The check of the hashes fails, and what comes after it is not reached."""
    _, _, by_hand = PAGE.read_text("utf-8").partition(BY_HAND)
    [image] = stored.place.glob(f"backup/web1-*/vda/{stored.points[0]}.qcow2")
    data = image.read_bytes()
    image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(AssertionError, match=f"vda/{image.name}: FAILED"):
            shell(stored.domain, stored.place, as_here("".join(blocks(by_hand)), stored))
    finally:
        image.write_bytes(data)


@pytest.mark.libvirt
@pytest.mark.timeout(300)
def test_every_command_of_the_page_runs(stored: Stored) -> None:
    """And leaves what the page says: images, and domains that run on them."""
    before, _, _ = PAGE.read_text("utf-8").partition(BY_HAND)
    for code in blocks(before):
        shell(stored.domain, stored.place, as_here(code, stored))
    older, newer = stored.references
    place = stored.place
    assert differences(place / "var/tmp/web1/vda.qcow2", "qcow2", newer) == ""
    assert differences(place / "var/tmp/web1/vda.raw", "raw", older) == ""
    assert differences(place / "images/web1/vda.qcow2", "qcow2", newer) == ""
    running = {each.name(): each for each in stored.domain.hypervisor.connection.listAllDomains(1)}
    assert sorted(running) == ["web1", "web1-now", "web1-test"]
    images = {
        "web1": "var/lib/libvirt/images/restored",
        "web1-test": "images/web1-test",
        "web1-now": "images/web1-now",
    }
    for name, directory in images.items():
        disk = ET.fromstring(running[name].XMLDesc(0)).find("devices/disk")
        assert disk is not None
        source = disk.find("source")
        assert source is not None
        assert source.get("file") == f"{place}/{directory}/vda.qcow2"
        assert disk.find("backingStore/source") is None, name
