"""The examples do what they say, as programs of their own, against a real libvirt daemon."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

import fibackup as fb
from hypervisor import MIB, BlockDomain, PrivateDaemon, missing_tools, same_content

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MakeRunning = Callable[[], BlockDomain]


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateDaemon]:
    """Give a libvirtd of this module's own."""
    absent = missing_tools()
    if absent and os.environ.get("FIBACKUP_REQUIRE"):
        pytest.fail(f"missing: {', '.join(absent)}; run scripts/setup")
    if absent:
        pytest.skip(f"missing: {', '.join(absent)}")
    with PrivateDaemon() as opened:
        yield opened


@pytest.fixture
def running(daemon: PrivateDaemon) -> Iterator[MakeRunning]:
    """Give a factory of running domains, which end with the test."""
    made: list[BlockDomain] = []

    def make() -> BlockDomain:
        made.append(daemon.block_domain(start=False))
        made[-1].start(paused=False)
        return made[-1]

    yield make
    for domain in made:
        domain.close()


def run_example(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run an example as its reader would."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )


def points(store: Path, uuid: str) -> tuple[fb.RestorePoint, ...]:
    """Return the points of a domain."""
    with fb.Store.open(store) as opened:
        return opened.read_history(uuid).points


def restored(store: Path, uuid: str, point: str, into: Path) -> Path:
    """Restore vda of a point."""
    with fb.Store.open(store) as opened:
        history = opened.read_history(uuid)
        plan = fb.plan_restore(history, point, into=PurePosixPath(into))
        return Path(fb.Executor(None, opened).run(plan).restored[0].path)


@pytest.mark.libvirt
def test_the_minimal_backup_makes_points_that_restore(
    daemon: PrivateDaemon, running: MakeRunning, tmp_path: Path
) -> None:
    """Two runs make a full and an increment, and both give back what the guest had."""
    domain = running()
    store = tmp_path / "store"
    store.mkdir()
    for number in (1, 2):
        domain.write("vda", number * MIB, MIB, number)
        domain.reference("vda", str(number))
        done = run_example("minimal_backup.py", daemon.uri, store, domain.name)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"backup of {domain.name} done in ")
    found = points(store, domain.uuid)
    assert [str(point.kind) for point in found] == ["full", "increment"]
    for number, point in enumerate(found, 1):
        image = restored(store, domain.uuid, point.id, tmp_path / point.id)
        assert same_content(image, "qcow2", domain.reference_directory / f"{number}.vda.raw")


def test_the_minimal_backup_wants_three_arguments() -> None:
    """A wrong command line gets the right one."""
    done = run_example("minimal_backup.py", "qemu:///system")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


@pytest.mark.libvirt
def test_the_orchestration_reports_a_domain_that_fails_and_backs_up_the_other(
    daemon: PrivateDaemon, running: MakeRunning, tmp_path: Path
) -> None:
    """A paused domain is explained and counted; the running one has its point."""
    good, paused = running(), running()
    paused.dom.suspend()
    done = run_example(
        "custom_orchestration.py", daemon.uri, tmp_path, "60", paused.name, good.name
    )
    assert done.returncode == 1
    assert done.stdout.startswith("1 of 2 domains backed up, ")
    assert f"ERROR {paused.name}: not backed up" in done.stderr
    assert "INFO vda: " in done.stderr
    assert len(points(tmp_path, good.uuid)) == 1
    assert points(tmp_path, paused.uuid) == ()


@pytest.mark.libvirt
def test_the_orchestration_keeps_its_deadline(
    daemon: PrivateDaemon, running: MakeRunning, tmp_path: Path
) -> None:
    """After the deadline nothing is begun, and the log says that nothing was touched."""
    domain = running()
    done = run_example("custom_orchestration.py", daemon.uri, tmp_path, "0", domain.name)
    assert done.returncode == 1
    assert done.stdout.startswith("0 of 1 domains backed up, ")
    assert f"ERROR {domain.name}: nothing was touched: " in done.stderr
    assert points(tmp_path, domain.uuid) == ()


@pytest.mark.libvirt
def test_the_progress_of_ones_own_ends_at_the_end(
    daemon: PrivateDaemon, running: MakeRunning, tmp_path: Path
) -> None:
    """The last line of the disk says 100 %, and the report follows; the point restores."""
    domain = running()
    domain.write("vda", MIB, 4 * MIB, 7)
    domain.reference("vda", "now")
    done = run_example("own_progress.py", daemon.uri, tmp_path, domain.name)
    assert (done.returncode, done.stderr) == (0, "")
    bars = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert bars
    assert bars[-1].startswith("[########################] 100%  ")
    assert f"backup of {domain.name} done in " in done.stdout
    (point,) = points(tmp_path, domain.uuid)
    image = restored(tmp_path, domain.uuid, point.id, tmp_path / "out")
    assert same_content(image, "qcow2", domain.reference_directory / "now.vda.raw")


@pytest.mark.libvirt
def test_the_progress_of_ones_own_says_why_there_is_no_point(
    daemon: PrivateDaemon, running: MakeRunning, tmp_path: Path
) -> None:
    """A paused domain is refused, in one line."""
    paused = running()
    paused.dom.suspend()
    done = run_example("own_progress.py", daemon.uri, tmp_path, paused.name)
    assert done.returncode == 1
    assert done.stderr.startswith("no point: ")
    assert points(tmp_path, paused.uuid) == ()


@pytest.mark.libvirt
def test_a_night_backs_up_prunes_and_verifies_every_domain(
    daemon: PrivateDaemon, running: MakeRunning, tmp_path: Path
) -> None:
    """A paused domain hides no other; old points go only where there is a new one."""
    good, other = running(), running()
    store, metrics = tmp_path / "store", tmp_path / "fibackup.prom"
    store.mkdir()
    words = ("nightly.py", daemon.uri, store, metrics)
    for number in (1, 2):
        good.write("vda", number * MIB, MIB, number)
        good.reference("vda", str(number))
        done = run_example(*words)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "4 of 4 parts went well\n"
    (point,) = points(store, good.uuid)  # one of a day
    image = restored(store, good.uuid, point.id, tmp_path / "out")
    assert same_content(image, "qcow2", good.reference_directory / "2.vda.raw")
    kept = points(store, other.uuid)
    other.dom.suspend()
    done = run_example(*words)
    assert done.returncode == 1
    assert done.stdout == "3 of 4 parts went well\n"
    assert "the domain is paused" in done.stderr
    assert points(store, other.uuid) == kept
    samples = fb.parse_metrics(metrics.read_text())
    success = {
        sample.label("domain"): sample.value
        for sample in samples
        if sample.name == "fibackup_last_run_success"
    }
    assert (success[good.name], success[other.name]) == (1, 0)
    assert run_example("nightly.py").returncode == 2


def test_the_fake_host_needs_nothing() -> None:
    """The tests of the example pass, where there is no libvirt at all."""
    done = run_example("fake_host.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 tests passed\n", "")


def locks() -> set[Path]:
    """Return the lock files of this host's runs."""
    return set(Path("/run/fibackup").glob("*.lock"))


@pytest.mark.libvirt
@pytest.mark.slow
@pytest.mark.usefixtures("daemon")  # for its check of the tools
def test_the_demo_ends_with_three_good_points() -> None:
    """The table has a full and two increments, all of them ok."""
    before = locks()
    done = run_example("demo.py")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-3000:]
    assert locks() == before
    _, _, result = done.stdout.rpartition("verdict\n")
    rows = [line.split() for line in result.splitlines()[:3]]
    assert [(row[1], row[-1]) for row in rows] == [
        ("full", "ok"),
        ("increment", "ok"),
        ("increment", "ok"),
    ]
    assert done.stdout.splitlines()[-1].startswith("demo: 3 points, all ok, ")


@pytest.mark.libvirt
@pytest.mark.usefixtures("daemon")
def test_the_demo_sees_a_difference(tmp_path: Path) -> None:
    """A restored image that is wrong in one byte gets no verdict of ok."""
    layer, image = tmp_path / "layer.raw", tmp_path / "image.raw"
    layer.write_bytes(bytes(MIB))
    image.write_bytes(bytes(MIB - 1) + b"!")
    compare = runpy.run_path(str(EXAMPLES / "demo.py"))["compare"]
    frozen = fb.Image(path=PurePosixPath(layer), format="raw")
    assert "Content mismatch" in compare(image, "raw", frozen)
    assert not compare(layer, "raw", frozen)


@pytest.mark.libvirt
@pytest.mark.slow
@pytest.mark.usefixtures("daemon")  # for its check of the tools
def test_the_playground_takes_a_backup_and_leaves_nothing() -> None:
    """The commands that it prints work, and Ctrl-C ends it clean."""
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "playground.py")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line.strip())
            if line.startswith("Ctrl-C"):
                break
        root = Path(said[-1].partition("removes ")[2].split()[0])
        chosen = [line for line in said[1:-1] if line.startswith(("export", "/", "virsh"))]
        assert " doctor " in chosen.pop()  # its exit code says what it found
        done = subprocess.run(
            ["bash", "-euc", "\n".join(chosen)], check=False, capture_output=True, text=True
        )
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert done.returncode == 0, done.stderr
    assert (process.returncode, rest.startswith("playground: everything")) == (0, True)
    assert not root.exists()
