"""What a domain keeps outside of its disks: where it is, what a point has of it, what it lacks."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from fibackup.errors import ParseError
from fibackup.host.executor import Executor
from fibackup.host.machine_state import read_state_file
from fibackup.model.point import FileRole, RestorePoint
from fibackup.parse.domain_xml import parse_domain_xml
from fibackup.parse.machine_state import TpmBackend, find_nvram, find_tpm
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.steps import Plan, SaveDomainConfig, SaveState, headline
from fibackup.testing import FakeHost, FakeStore

UUID = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a"


def domain(os: str = "", devices: str = "") -> str:
    """Return the XML of a domain."""
    return f"<domain><name>web1</name><uuid>{UUID}</uuid>{os}<devices>{devices}</devices></domain>"


@pytest.mark.parametrize(
    ("os", "path"),
    [
        ("", None),
        ("<os firmware='efi'/>", None),
        ("<os><nvram/></os>", None),
        ("<os><nvram template='/t'>/p/web1_VARS.fd</nvram></os>", "/p/web1_VARS.fd"),
        ("<os><nvram type='file'><source file='/p/v.fd'/></nvram></os>", "/p/v.fd"),
    ],
)
def test_firmware_variables_are_where_the_xml_says(os: str, path: str | None) -> None:
    """None: libvirt chooses the place."""
    assert find_nvram(domain(os)) == (PurePosixPath(path) if path else None)


@pytest.mark.parametrize("nvram", ["<nvram type='block'/>", "<nvram>relative</nvram>"])
def test_firmware_variables_that_are_no_file_are_an_error(nvram: str) -> None:
    """A block device, or a path that depends on a directory."""
    with pytest.raises(ParseError):
        find_nvram(domain(f"<os>{nvram}</os>"))


@pytest.mark.parametrize(
    ("os", "devices", "has"),
    [
        ("", "", (False, False)),
        ("<os firmware='bios'/>", "", (False, False)),
        ("<os firmware='efi'/>", "", (True, False)),
        ("<os><nvram>/p</nvram></os>", "<tpm/>", (True, True)),
    ],
)
def test_a_domain_knows_what_it_keeps(os: str, devices: str, has: tuple[bool, bool]) -> None:
    """Variables of the firmware, and a TPM."""
    found = parse_domain_xml(domain(os, devices))
    assert (found.has_nvram, found.has_tpm) == has


@pytest.mark.parametrize(
    ("backend", "found"),
    [
        ("<backend type='emulator'/>", TpmBackend("emulator", "2.0", None, in_file=False)),
        (
            "<backend type='emulator' version='1.2'><source type='dir' path='/p'/></backend>",
            TpmBackend("emulator", "1.2", PurePosixPath("/p"), in_file=False),
        ),
        (
            "<backend type='emulator'><source type='file' path='/p/f'/></backend>",
            TpmBackend("emulator", "2.0", PurePosixPath("/p/f"), in_file=True),
        ),
        ("<backend type='passthrough'/>", TpmBackend("passthrough", "2.0", None, in_file=False)),
    ],
)
def test_what_is_behind_a_tpm(backend: str, found: TpmBackend) -> None:
    """An emulator with its state at the usual place or at another, or hardware."""
    assert find_tpm(domain(devices=f"<tpm>{backend}</tpm>")) == found


def test_a_domain_without_a_tpm_has_nothing_behind_it() -> None:
    """An error, not a guess."""
    with pytest.raises(ParseError):
        find_tpm(domain())


# --- in a point ---------------------------------------------------------------------------------


class World:
    """A domain with firmware variables and a TPM."""

    def __init__(self) -> None:
        """Make it, and an empty store."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1")
        self.host.set_state_file("web1", FileRole.NVRAM, b"variables \xff")
        self.host.set_state_file("web1", FileRole.TPM_STATE, b"archive")
        self.store = FakeStore(self.host)

    def plan(self, policy: BackupPolicy | None = None) -> Plan:
        """Plan a point."""
        return plan_backup(
            self.host.read_domain("web1"),
            self.store.read_history(self.uuid),
            now=self.host.now,
            policy=policy,
        )

    def take(self) -> RestorePoint:
        """Take a point."""
        point = Executor(self.host, self.store).run(self.plan()).point
        assert point is not None
        return point


@pytest.mark.parametrize("off", [False, True])
def test_a_point_has_what_the_domain_keeps(*, off: bool) -> None:
    """Firmware variables and TPM state are files of the point, whether the domain runs or not."""
    world = World()
    if off:
        world.host.shut_off("web1")
    world.host.set_autostart("web1", autostart=True)
    point = world.take()
    assert {file.role: file.name for file in point.files} == {
        FileRole.DOMAIN_XML: f"{point.id}.xml",
        FileRole.NVRAM: f"{point.id}.nvram",
        FileRole.TPM_STATE: f"{point.id}.tpm",
    }
    assert dict(point.facts)["autostart"] == "yes"
    assert dict(point.facts)["machine"] == "pc-q35-7.2"
    assert list(point.facts) == sorted(point.facts)
    assert point.warnings == ()


def test_what_cannot_be_read_is_missing_and_said() -> None:
    """A point without it is better than none; facts and warnings have the reason."""
    world = World()
    world.host.set_state_file("web1", FileRole.NVRAM, None)
    point = world.take()
    assert FileRole.NVRAM not in {file.role for file in point.files}
    assert dict(point.facts)["missing-nvram"] == "No such file or directory: /nvram/web1"
    assert dict(point.facts)["autostart"] == "no"
    [warning] = point.warnings
    assert warning.startswith("the firmware's NVRAM is not in the point: No such file")


def test_the_state_is_read_after_the_snapshot() -> None:
    """It comes before the copies, which take long."""
    kinds = [type(step).__name__ for step in World().plan().steps]
    assert kinds.index("WhileFrozen") < kinds.index("SaveState") < kinds.index("InParallel")


def test_secrets_are_stored_when_asked_for() -> None:
    """The step says so, and libvirt is asked for them."""
    world = World()
    for secrets in (False, True):
        plan = world.plan(BackupPolicy(secrets=secrets))
        [step] = [step for step in plan.steps if isinstance(step, SaveDomainConfig)]
        assert step.secrets is secrets
        assert ("with its secrets" in headline(step)) is secrets
        report = Executor(world.host, world.store).run(plan)
        assert report.point is not None
        config = world.store.read_config(world.uuid, report.point.files[0])
        assert ("passwd" in config) is secrets
    assert "NVRAM" in headline(SaveState(FileRole.NVRAM, "x"))


def test_a_state_that_is_written_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where two writes fall into one tick of the kernel's clock, and mtime stays."""
    file = tmp_path / "web1_VARS.fd"
    file.write_bytes(b"old" * 1000)
    pread = os.pread
    writes = [b"new" * 1000]

    def torn(fd: int, count: int, offset: int) -> bytes:
        half = pread(fd, count // 2, offset)
        if writes:
            before = file.stat()
            file.write_bytes(writes.pop())
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        return half + pread(fd, count - count // 2, offset + count // 2)

    monkeypatch.setattr(os, "pread", torn)
    assert read_state_file(PurePosixPath(file)) == b"new" * 1000
