"""The units of contrib/systemd: what systemd says of them, and what our command line does."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fibackup.cli.parser import build_parser

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
TIMERS = sorted(UNITS.glob("*.timer"))
MOST_EXPOSED = 30
"""Of 100: what `systemd-analyze security` says of a service at most."""
PAGE = (UNITS.parents[1] / "docs" / "operate.md").read_text("utf-8")
CONFIG = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0]
DROP_INS = [
    textwrap.dedent(each)
    for each in re.findall(r"^ *```ini\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
]


@pytest.fixture
def analyze() -> str:
    """Give the path of systemd-analyze."""
    found = shutil.which("systemd-analyze")
    if found is None and os.environ.get("FIBACKUP_REQUIRE"):
        pytest.fail("missing: systemd-analyze; run scripts/setup")
    if found is None:
        pytest.skip("missing: systemd-analyze")
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Give a directory with all units, which call a program that is there."""
    program = tmp_path / "fibackup"
    program.symlink_to(sys.executable)
    place = tmp_path / "units"
    place.mkdir()
    for unit in (*SERVICES, *TIMERS):
        text = unit.read_text("utf-8")
        text = re.sub(
            r"^ExecStart=(:?)fibackup", rf"ExecStart=\1{program}", text, flags=re.MULTILINE
        )
        (place / unit.name).write_text(text, "utf-8")
    return place


def verify(analyze: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Let systemd read all units of a directory."""
    return subprocess.run(
        [
            analyze,
            "verify",
            "--man=no",
            *(str(each) for each in sorted(place.iterdir()) if each.is_file()),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{place}:"},
        timeout=60,
    )


def words(unit: Path, domain: str = "web1") -> list[str]:
    """Return the command of a service, as systemd makes it, without the program."""
    (line,) = re.findall(r"^ExecStart=:?(.*)$", unit.read_text("utf-8"), re.MULTILINE)
    program, *found = shlex.split(line)
    assert program == "fibackup"
    return [each.replace("%I", domain).replace("%%", "%") for each in found]


def settings(unit: Path) -> dict[str, str]:
    """Return what stands in a unit; a key that stands there twice is refused."""
    pairs = re.findall(r"^(\w+)=(.*)$", unit.read_text("utf-8"), re.MULTILINE)
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_systemd_understands_the_units(analyze: str, installed: Path) -> None:
    """It says nothing: no unknown key, no wrong value, no program that is missing."""
    done = verify(analyze, installed)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("old", "new"),
    [("ProtectSystem=full", "ProtectSystem=fully"), ("ExecStart=", "ExecStart=/nowhere")],
)
def test_systemd_finds_what_is_wrong(analyze: str, installed: Path, old: str, new: str) -> None:
    """A wrong value, and a program that is not there, do not go unnoticed."""
    unit = installed / "fibackup-verify.service"
    unit.write_text(unit.read_text("utf-8").replace(old, new), "utf-8")
    assert verify(analyze, installed).stderr


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_is_exposed_little(analyze: str, unit: Path) -> None:
    """It can reach what it needs: images, stores, the sockets of libvirt and of hooks."""
    done = subprocess.run(
        [analyze, "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", unit],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-200:]


def test_systemd_understands_the_drop_ins_of_the_page(analyze: str, installed: Path) -> None:
    """What the page says to add, can be added."""
    place = installed / "fibackup@.service.d"
    place.mkdir()
    assert len(DROP_INS) == 2
    for number, text in enumerate(DROP_INS):
        (place / f"{number}.conf").write_text(text, "utf-8")
    (installed / "mail-to-ops@.service").write_text("[Service]\nExecStart=/bin/true\n", "utf-8")
    done = verify(analyze, installed)
    assert (done.returncode, done.stderr) == (0, "")


def test_all_services_are_hardened_alike() -> None:
    """Each of them runs as root, so what one must not do, none must."""
    first, *others = [settings(unit) for unit in SERVICES]
    own = {"Description", "After", "ExecStart", "WantedBy"}
    own |= {"Restart", "RestartSec", "RestartPreventExitStatus"}
    own |= {"StartLimitIntervalSec", "StartLimitBurst"}
    for each in others:
        assert {k: v for k, v in each.items() if k not in own} == {
            k: v for k, v in first.items() if k not in own
        }


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_locks_outlive_a_service(unit: Path) -> None:
    """A RuntimeDirectory is removed when its service ends: with the locks of all other runs."""
    assert "RuntimeDirectory" not in settings(unit)
    assert settings(unit)["KillMode"] == "mixed"  # a signal for all would end qemu-img first


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_our_command_line_takes_the_command(
    unit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a configuration that names the store; whatever the name of the domain is."""
    config = tmp_path / "fibackup.toml"
    config.write_text(CONFIG, "utf-8")
    monkeypatch.setenv("FIBACKUP_CONFIG", str(config))
    for domain in ("web1", "-web 1", "w%I", "$HOME"):
        found = build_parser().parse_args(words(unit, domain))
        assert found.store == "/backup"
        assert f"fibackup-{found.verb}.service" == unit.name or found.domains == [domain]


def test_no_domain_is_taken_for_a_variable() -> None:
    """A colon keeps systemd from replacing ``$`` in what a template is called with."""
    (template,) = (unit for unit in SERVICES if "%I" in unit.read_text("utf-8"))
    assert "\nExecStart=:fibackup " in template.read_text("utf-8")


def test_each_timer_has_its_service() -> None:
    """And says when, and starts what was missed."""
    assert len(TIMERS) == 3
    for timer in TIMERS:
        assert timer.with_suffix(".service") in SERVICES
        found = settings(timer)
        assert found["Persistent"] == "yes"
        assert found["WantedBy"] == "timers.target"
        assert "Unit" not in found


@pytest.mark.parametrize("timer", TIMERS, ids=lambda unit: unit.name)
def test_systemd_knows_when(analyze: str, timer: Path) -> None:
    """The calendar is one."""
    done = subprocess.run(
        [analyze, "calendar", settings(timer)["OnCalendar"]],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
