"""
The rules of a durable store, one test each, seen in the system calls of a real backup and prune.

::

    openat .NAME.tmp O_EXCL | O_NOFOLLOW, 0600      R1
    write ... fdatasync                             R2
    linkat .NAME.tmp -> NAME, fsync of the directory
    images before the manifest                      R3
    a sync that fails: the file goes, no second try R4

What follows the tests of R3 and R9 on the live side has no calls of the kernel: those look at the
calls of the host.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from signal import SIGKILL
from typing import Any

import libvirt
import pytest
from attrs import evolve

import fibackup as fb
from fibackup.host import block_jobs
from fibackup.host.cancel import CancelToken
from fibackup.testing import FakeHost, FakeStore
from hypervisor.faulty import (
    DONE,
    MUTATING,
    REFUSED,
    UUID,
    Act,
    Call,
    Zygote,
    follow,
    later,
)
from hypervisor.images import MIB
from hypervisor.stores import START, StoreMaker
from integration.needed import need_strace
from integration.sites import Site, hashes, make_site

pytestmark = pytest.mark.libvirt  # it needs qemu-img, as those do

KINDS = (*MUTATING, "fadvise64", "pread64", "preadv2", "flock")
FIRST_CLUSTER = 65536  # with the header, which is looked at before, and replaced
_FD = re.compile(r"^\d+<([^>]*)>")
_AT = re.compile(r"<([^>]*)>, \"([^\"]*)\"")
_MODE = re.compile(r", 0(\d+)\)")


@dataclass(frozen=True)
class Seen:
    """One call: what it is on; *other* is what a link or a rename takes."""

    kind: str
    path: str
    other: str = ""
    text: str = ""


def seen(call: Call) -> Seen:
    """Resolve the paths of a call."""
    at = [f"{directory}/{name}" for directory, name in _AT.findall(call.text)]
    if call.kind in {"linkat", "renameat", "renameat2"}:
        return Seen(call.kind, at[1], at[0], call.text)
    if call.kind in {"openat", "unlinkat", "mkdirat", "fchmodat"}:
        name = at[0] if at else ""
        absolute = re.search(r'"(/[^"]*)"', call.text)
        return Seen(call.kind, absolute[1] if absolute else name, text=call.text)
    found = _FD.match(call.text)
    return Seen(call.kind, found[1] if found else "", text=call.text)


@pytest.fixture
def site(zygote: Zygote, tmp_path: Path) -> Site:
    """Give a store with one point."""
    need_strace()
    return make_site(tmp_path / "site", zygote)


@dataclass
class Backup:
    """A backup under strace: its exit code, and the calls of its process that succeeded."""

    code: int
    calls: list[Seen]

    def index(self, kind: str, path: str, start: int = 0) -> int:
        """Return where a call is."""
        for number, call in enumerate(self.calls[start:], start):
            if call.kind == kind and call.path == path:
                return number
        raise AssertionError(f"no {kind} of {path} after call {start}")

    def next_name(self, start: int) -> int:
        """Return where the next name is given after a call; their number when there is none."""
        kinds = {"linkat", "renameat", "renameat2", "mkdirat"}
        rest = enumerate(self.calls[start + 1 :], start + 1)
        return next((n for n, call in rest if call.kind in kinds), len(self.calls))

    def of(self, *kinds: str) -> list[Seen]:
        """Return the calls of some kinds."""
        return [call for call in self.calls if call.kind in kinds]


def back_up(zygote: Zygote, site: Site, *words: str, fresh: bool = False) -> Backup:
    """Take a point under strace; into a new store when *fresh*."""
    if fresh:
        shutil.rmtree(site.store)
        site.store.mkdir(mode=0o700)
    site.touch()
    act = replace(site.act, at=later(60))
    code, calls = follow(zygote, act, site.directory / "trace", KINDS, *words)
    good = [call for call in calls if " = -1 " not in call.text]
    return Backup(code, [seen(call) for call in good])


def published(backup: Backup) -> dict[str, str]:
    """Return each name that a file got, and the temporary one that it had."""
    return {call.path: call.other for call in backup.of("linkat", "renameat", "renameat2")}


# -- R1, R2 --------------------------------------------------------------------------------------


def test_r1_files_begin_under_a_temporary_name_of_their_own(zygote: Zygote, site: Site) -> None:
    """In the directory of the result, new, not through a link, 0600, named after the run."""
    backup = back_up(zygote, site, fresh=True)
    made = [
        call
        for call in backup.of("openat")
        if "O_CREAT" in call.text and Path(call.path).is_relative_to(site.store)
    ]
    names = published(backup)
    locks = [call for call in made if Path(call.path).name == "lock"]
    others = [call for call in made if call not in locks]
    assert {call.path for call in others} == set(names.values())
    assert len(locks) == 1
    assert all("O_TRUNC" not in call.text for call in made)
    for call in made:
        assert {"O_NOFOLLOW", "O_CLOEXEC"} <= set(re.findall(r"O_\w+", call.text))
        assert _MODE.findall(call.text) == ["600"]
    for call in others:
        assert "O_EXCL" in call.text
        assert re.fullmatch(r"\..+\.tmp", Path(call.path).name)
    for name, temp in names.items():
        assert Path(temp).parent == Path(name).parent
        assert Path(temp).name == f".{Path(name).name}.tmp"
        own = {"points.sha256", "fibackup-store.json"}
        assert Path(name).name.startswith("20261118T110740Z") or Path(name).name in own
    assert len(names) >= 6


def test_r2_data_is_synced_then_named_then_the_name_is_synced(zygote: Zygote, site: Site) -> None:
    """Every file; a name is never given to a place that is taken; a new directory is synced too."""
    backup = back_up(zygote, site, fresh=True)
    for name, temp in published(backup).items():
        given = next(n for n, call in enumerate(backup.calls) if call.path == name and call.other)
        synced = max(
            n
            for n, call in enumerate(backup.calls[:given])
            if call.kind in {"fdatasync", "fsync"} and call.path == temp
        )
        written = [
            n
            for n, call in enumerate(backup.calls)
            if call.kind in {"write", "pwrite64", "ftruncate"} and call.path == temp
        ]
        assert max(written) < synced < given, name
        assert backup.index("fsync", str(Path(name).parent), given) < backup.next_name(given)
    replaced = {Path(call.path).name for call in backup.of("renameat", "renameat2")}
    assert replaced <= {"points.sha256"}
    for made in backup.of("mkdirat"):
        after = backup.index("mkdirat", made.path)
        assert backup.index("fsync", str(Path(made.path).parent), after) < backup.next_name(after)
    assert len(backup.of("mkdirat")) == 2


def test_r2_what_is_read_once_is_hashed_and_leaves_the_cache(zygote: Zygote, site: Site) -> None:
    """The hash is of the bytes that were written: no byte of the source is read a second time."""
    backup = back_up(zygote, site)
    for image in (site.act.image, site.act.base):
        size = Path(image).stat().st_size
        places = [_read_at(call) for call in backup.of("pread64", "preadv2") if call.path == image]
        data = [(start, count) for start, count in places if start >= FIRST_CLUSTER]
        assert size // 2 < sum(count for _, count in data) <= size - FIRST_CLUSTER  # holes are not
        assert len({start for start, _ in data}) == len(data)
        assert backup.index("fadvise64", image) > 0
    temps = {temp for name, temp in published(backup).items() if name.endswith(".qcow2")}
    for temp in temps:
        assert backup.index("fadvise64", temp) > backup.index("fdatasync", temp)
    assert len(temps) == 2


def _read_at(call: Seen) -> tuple[int, int]:
    """Return where a call reads, and how much; the last word of preadv2 is its flags."""
    words, _, count = call.text.rpartition(") = ")
    start = words.split(", ")[-2 if call.kind == "preadv2" else -1]
    return int(start), int(count)


# -- R3 ------------------------------------------------------------------------------------------


def test_r3_a_manifest_is_named_after_all_that_it_names(zygote: Zygote, site: Site) -> None:
    """Its images, their directory and its other files are durable before it has its name."""
    backup = back_up(zygote, site)
    manifest = next(name for name in published(backup) if name.endswith(".json"))
    at = backup.index("linkat", manifest)
    for name in set(published(backup)) - {manifest}:
        if name.endswith("points.sha256"):
            continue  # it tells of the manifest, and follows it
        given = backup.index("linkat", name)
        assert given < backup.index("fsync", str(Path(name).parent), given) < at, name
    removed = [call.path for call in backup.calls[:at] if call.kind == "unlinkat"]
    assert all(path.endswith(".tmp") for path in removed), "nothing old goes before the point is"


def test_r3_the_name_of_an_adopted_image_is_made_durable(zygote: Zygote, site: Site) -> None:
    """A run that was killed may have named it, and not have come to the sync."""
    killed = back_up(zygote, site, "-e", "inject=linkat:signal=KILL:when=5")
    assert killed.code == -SIGKILL
    (disk,) = site.store.glob("*/vda")
    complete = {path.name for path in disk.iterdir() if path.suffix == ".receipt"}
    assert len(complete) == 2
    act = replace(site.act, at=later(120))
    code, calls = follow(zygote, act, site.directory / "trace", KINDS)
    backup = Backup(code, [seen(call) for call in calls if " = -1 " not in call.text])
    assert code == DONE
    assert site.points_are_whole() == 2
    named = published(backup)
    assert not [name for name in named if name.endswith(".qcow2")], "both are taken over"
    manifest = next(name for name in named if name.endswith("Z.json"))
    assert backup.index("fsync", str(disk)) < backup.index("linkat", manifest)


def test_r3_the_live_chain_is_shortened_after_the_point_is_published() -> None:
    """The manifest is written, then images are committed, then overlays are deleted."""
    host, store = _consolidating()
    host.calls.clear()
    _back_up(host, store)
    assert host.calls.index("publish") < host.calls.index("run_block_job")
    assert host.calls.index("run_block_job") < host.calls.index("delete_image")


PRUNE = """
flock lock.verified
fdatasync .verified.json.tmp   renameat verified.json   fsync .
flock lock.readers
fdatasync .points.sha256.tmp   renameat points.sha256   fsync .
fdatasync .2.json.tmp          renameat 2.json          fsync .
fdatasync .4.json.tmp          renameat 4.json          fsync .
fdatasync .prune.json.tmp      linkat prune.json        fsync .
unlinkat 3.json                unlinkat 1.json          fsync .
unlinkat 1.xml                 unlinkat 3.xml           fsync .
fdatasync .points.sha256.tmp   renameat points.sha256   fsync .
unlinkat prune.json            fsync .
fdatasync vda/.2.qcow2.merged.tmp   linkat vda/2.qcow2.merged   fsync vda
flock lock.readers
fdatasync .merge.json.tmp      linkat merge.json        fsync .
renameat vda/2.qcow2           fsync vda
fdatasync .points.sha256.tmp   renameat points.sha256   fsync .
fdatasync .2.json.tmp          renameat 2.json          fsync .
unlinkat vda/1.qcow2           fsync vda
fdatasync .points.sha256.tmp   renameat points.sha256   fsync .
unlinkat merge.json            fsync .
"""
"""Points 1 and 3 go; 2 takes over the image of 1, and both are merged. Point 4 takes that of 3."""


def test_r3_a_prune_makes_each_act_durable_before_the_next(zygote: Zygote, tmp_path: Path) -> None:
    """
    In the order that docs/store-format.md has.

    Seals go before what they are about, heirs get what they need before a point goes, manifests
    go before files; a merged image is whole, and its journal written, before it has its place.
    """
    need_strace()
    with StoreMaker(tmp_path, size_bytes=MIB, start=START.replace(year=2020)) as maker:
        for number in range(4):
            maker.point({"vda": {number: number + 1, 9: number}})
        points = {point.id: str(point.sequence) for point in maker.history().points}
        act = Act("prune", str(maker.root), "", "", protect=[*points][1])
        code, calls = follow(zygote, act, tmp_path / "trace", KINDS)
        home = maker.home
    assert code == DONE
    found: list[str] = []
    for call in calls:
        at = seen(call)
        kinds = {"flock", "fdatasync", "fsync", "linkat", "renameat", "unlinkat"}
        if call.thread != calls[0].thread or call.kind not in kinds or " = -1 " in call.text:
            continue
        if Path(at.path).is_relative_to(home):
            name = str(Path(at.path).relative_to(home))
            for point, sequence in points.items():
                name = name.replace(point, sequence)
            found.append(f"{call.kind} {name}")
    acts = [each for each in found if not (each.startswith("unlinkat") and each.endswith(".tmp"))]
    wanted = PRUNE.split()
    pairs = [" ".join(pair) for pair in zip(wanted[::2], wanted[1::2], strict=True)]
    assert [each for each in acts if each != "flock lock"] == pairs


def _back_up(host: FakeHost, store: FakeStore) -> fb.Report:
    plan = fb.plan_backup(
        host.read_domain("web1"),
        store.read_history(UUID),
        now=host.now,
        policy=fb.BackupPolicy(consolidate=True),
    )
    return fb.Executor(host, store).run(plan)


def _consolidating() -> tuple[FakeHost, FakeStore]:
    """Return a domain whose next backup commits."""
    host = FakeHost()
    assert host.add_domain("web1", {"vda": {0: 1}}) == UUID
    store = FakeStore(host)
    for number in range(2):
        host.write("web1", "vda", number, 7)
        _back_up(host, store)
    host.write("web1", "vda", 3, 9)
    return host, store


# -- R4, R5 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fdatasync", "fsync"])
def test_r4_a_sync_that_failed_is_not_tried_again(zygote: Zygote, site: Site, kind: str) -> None:
    """The kernel may have dropped the pages, so that a second one lies: the file goes instead."""
    kept = site.directory / "kept"
    shutil.copytree(site.store, kept)
    failures = 0
    for number in range(1, 20):
        shutil.rmtree(site.store)
        shutil.copytree(kept, site.store)
        site.touch()
        act = replace(site.act, at=later(60))
        words = ("-e", f"inject={kind}:error=EIO:when={number}")
        code, calls = follow(zygote, act, site.directory / "trace", MUTATING, *words)
        failed = [n for n, call in enumerate(calls) if "(INJECTED)" in call.text]
        if not failed:
            break
        failures += 1
        path = seen(calls[failed[0]]).path
        later_calls = [seen(call) for call in calls[failed[0] + 1 :]]
        if kind == "fdatasync":
            assert not [c for c in later_calls if c.kind == kind and c.path == path], number
            gone = [c.path for c in later_calls if c.kind == "unlinkat"]
            assert path in gone, number
        named = sum(path.suffix == ".json" for path in site.store.glob("*/*Z.json"))
        assert named == (2 if code == DONE else 1)
    assert failures >= 3


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EROFS", "EACCES"])
def test_r5_what_will_not_pass_is_not_tried_again(zygote: Zygote, site: Site, error: str) -> None:
    """A full, read-only or forbidden store ends the run at once, and leaves nothing."""
    before = hashes(site.store)
    backup = back_up(zygote, site, "-e", f"inject=pwrite64:error={error}:when=2+")
    assert backup.code == REFUSED
    text = (site.directory / "trace").read_text()
    assert text.count("(INJECTED)") == 1
    assert hashes(site.store) == before


def test_r5_a_read_that_fails_is_tried_once_more(zygote: Zygote, site: Site) -> None:
    """EIO once is nothing; twice at a place, the run fails, and nothing of that image is left."""
    once = ("-P", site.act.image, "-e", "inject=preadv2:error=EIO:when=1")
    assert back_up(zygote, site, *once).code == DONE
    assert site.points_are_whole() == 2
    before = hashes(site.store)
    site.touch()
    act = replace(site.act, at=later(120))
    words = ("-P", site.act.image, "-e", "inject=preadv2:error=EIO:when=1+")
    code, calls = follow(zygote, act, site.directory / "trace", ("preadv2",), *words)
    assert code == REFUSED
    assert len(calls) == 2
    after = hashes(site.store)
    assert before.items() <= after.items()
    new = {path.name for path in after.keys() - before.keys()}
    assert {name.partition(".")[2] for name in new} == {"qcow2", "qcow2.receipt"}
    assert len(new) == 2, "the other image is complete, and waits for the next run"
    assert site.points_are_whole() == 2


# -- R6, R7 --------------------------------------------------------------------------------------


def test_r6_a_manifest_tells_of_every_file(site: Site) -> None:
    """Size and sha256 of each; names are base names, and another one is no manifest."""
    (home,) = site.store.glob(f"*{UUID}")
    (manifest,) = home.glob("*Z.json")
    (point,) = site.history().points
    told = {f"{file.name}": (file.size_bytes, file.sha256) for file in point.files}
    told |= {
        f"{disk.target}/{image.name}": (image.size_bytes, image.sha256)
        for disk in point.disks
        for image in disk.images
    }
    rest = {manifest.name, "points.sha256", "lock"}
    found = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert set(told) == found - rest
    for name, (size, digest) in told.items():
        data = (home / name).read_bytes()
        assert (len(data), sha256(data).hexdigest()) == (size, digest)
    for name in ("../a.qcow2", "vda/a.qcow2", "/etc/passwd", "..", ""):
        with pytest.raises(fb.ModelError):
            evolve(point.disks[0].images[0], name=name)
        with pytest.raises(fb.ModelError):
            evolve(point.files[0], name=name)


@pytest.mark.parametrize("state", ["gone", "strange", "empty"])
def test_r7_a_directory_without_its_file_is_no_store(
    zygote: Zygote, site: Site, tmp_path: Path, state: str
) -> None:
    """A mount point whose disk is not there takes no point, and gives none."""
    place = tmp_path / "mnt"
    if state != "gone":
        place.mkdir()
    if state == "strange":
        (place / "README").write_text("mount the disk here")
    act = replace(site.act, store=str(place), into=str(tmp_path / "out"))
    before = sorted(tmp_path.rglob("*"))
    assert zygote.run(replace(act, verb="restore")) == REFUSED
    with pytest.raises(fb.NotAStoreError):
        fb.Store.open(place)
    if state != "empty":  # an empty one is asked of the domain's ledger: see test_store_faults
        assert zygote.run(act) == REFUSED
    assert sorted(tmp_path.rglob("*")) == before


# -- R8 ------------------------------------------------------------------------------------------


def test_r8_a_lock_is_held_by_the_kernel_and_keeps_its_name(zygote: Zygote, site: Site) -> None:
    """It is locked, then signed: who, where, since which boot; and is never unlinked."""
    backup = back_up(zygote, site)
    (home,) = site.store.glob(f"*{UUID}")
    lock = str(home / "lock")
    assert "LOCK_EX|LOCK_NB" in backup.calls[backup.index("flock", lock)].text
    assert backup.index("flock", lock) < backup.index("ftruncate", lock)
    first = min(n for n, call in enumerate(backup.calls) if call.other)
    assert backup.index("flock", lock) < first
    assert lock not in {call.path for call in backup.of("unlinkat")}
    record = json.loads((home / "lock").read_text())
    assert set(record) == {"pid", "host", "boot_id", "command", "since"}
    assert not Path(f"/proc/{record['pid']}").exists()
    assert zygote.run(replace(site.act, at=later(180))) == DONE


# -- R9, R10 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["take_snapshot", "run_block_job", "delete_image"])
def test_r9_an_intent_is_written_before_the_chain_is_changed(call: str) -> None:
    """Whatever stops a run at that call, the domain's own ledger says what it was about to do."""
    host, store = _consolidating()
    host.calls.clear()
    checked: list[str] = []
    real: Callable[..., Any] = getattr(host, call)

    def noted(*words: Any, **named: Any) -> Any:  # noqa: ANN401 - as the real ones
        ledger = host.ledgers("web1")[-1]
        assert ledger == host.read_domain("web1").ledger
        if call == "delete_image":
            assert words[1] in ledger.freed
        else:
            assert ledger.run is not None
        checked.append(call)
        return real(*words, **named)

    setattr(host, call, noted)
    _back_up(host, store)
    assert checked
    assert host.ledgers("web1")[-1].run is None


class _Connection:
    """Libvirt's, as far as events go; what was called, in order."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.callback: Callable[..., None] | None = None

    def domainEventRegisterAny(  # noqa: N802 - libvirt's name
        self, _: object, event: int, callback: Callable[..., None], __: object
    ) -> int:
        assert event == libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2
        self._calls.append("register")
        self.callback = callback
        return 1

    def domainEventDeregisterAny(self, _: int) -> None:  # noqa: N802 - libvirt's name
        self._calls.append("deregister")


class _Handle:
    """A domain whose block job ends as told; polled, a failed job looks like a finished one."""

    def __init__(
        self, calls: list[str], connection: _Connection, end: int | None, images: Path
    ) -> None:
        self._calls, self._connection, self._end, self._images = calls, connection, end, images

    def blockCommit(self, *_: object) -> None:  # noqa: N802 - libvirt's name
        self._calls.append("commit")
        assert self._connection.callback is not None
        if self._end is not None:  # an event may come before the call returns
            self._connection.callback(None, None, "vda", 2, self._end, None)

    def blockJobInfo(self, *_: object) -> dict[str, int]:  # noqa: N802 - libvirt's name
        return {} if self._end is not None else {"cur": 1, "end": 2}

    def blockJobAbort(self, *_: object) -> None:  # noqa: N802 - libvirt's name
        self._calls.append("abort")

    def isActive(self) -> bool:  # noqa: N802 - libvirt's name
        return False  # so that nobody waits for the chain to change

    def connect(self) -> None:
        return None

    def XMLDesc(self, _: int) -> str:  # noqa: N802 - libvirt's name
        self._calls.append("read")
        store = f'<format type="qcow2"/><source file="{self._images}/b.qcow2"/><backingStore/>'
        return (
            f"<domain type='kvm'><name>web1</name><uuid>{UUID}</uuid><devices>"
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
            f"<source file='{self._images}/c.qcow2'/><target dev='vda'/>"
            f"<backingStore type='file'>{store}</backingStore></disk></devices></domain>"
        )


@pytest.mark.parametrize(
    ("end", "chain", "reason"),
    [
        (libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED, ("c.qcow2", "b.qcow2"), None),
        (libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED, ("c.qcow2", "a.qcow2"), "not the expected one"),
        (libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED, ("c.qcow2", "b.qcow2"), "the block job failed"),
        (None, ("c.qcow2", "b.qcow2"), "did not end within"),
    ],
)
def test_r10_a_job_is_believed_by_its_event_and_by_the_chain(
    tmp_path: Path, end: int | None, chain: tuple[str, ...], reason: str | None
) -> None:
    """Events are on before the job starts; a failure or another chain is an error, as no end is."""
    calls: list[str] = []
    connection = _Connection(calls)
    handle: Any = _Handle(calls, connection, end, tmp_path)
    for name in ("a.qcow2", "b.qcow2", "c.qcow2"):
        (tmp_path / name).touch()
    base, top = PurePosixPath(tmp_path / "b.qcow2"), PurePosixPath(tmp_path / "m.qcow2")
    leaves = tuple(PurePosixPath(tmp_path / name) for name in chain)
    step = fb.CommitImages("vda", base=base, top=top, pivot=False, leaves=leaves, timeout_seconds=0)

    def run() -> None:
        block_jobs.run_commit(
            connection,  # type: ignore[arg-type]
            handle,
            step,
            lambda _: None,
            CancelToken(),
            nullcontext,
        )

    if reason is None:
        run()
    else:
        with pytest.raises(fb.BlockJobError, match=reason):
            run()
    assert calls[:2] == ["register", "commit"]
    assert calls[-1] == "deregister"
    assert ("abort" in calls) == (end is None)
    assert "read" in calls or end == libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED


class _Gone(_Connection):
    """One whose daemon goes away during the job."""

    def domainEventDeregisterAny(self, _: int) -> None:  # noqa: N802 - libvirt's name
        raise libvirt.libvirtError("no connection")


class _GoneHandle(_Handle):
    """A domain of a daemon that goes away when the job has started."""

    def blockJobInfo(self, *_: object) -> dict[str, int]:  # noqa: N802 - libvirt's name
        raise libvirt.libvirtError("client socket is closed")


def test_a_daemon_that_goes_away_in_a_job_is_an_error_of_ours(tmp_path: Path) -> None:
    """So a run ends in words, and the next domain has its turn."""
    calls: list[str] = []
    connection: Any = _Gone(calls)
    handle: Any = _GoneHandle(calls, connection, None, tmp_path)
    base, top = PurePosixPath(tmp_path / "b.qcow2"), PurePosixPath(tmp_path / "c.qcow2")
    for path in (base, top):
        Path(path).touch()
    step = fb.CommitImages("vda", base=base, top=top, pivot=True, leaves=(base,))
    with pytest.raises(fb.LibvirtError, match="client socket is closed"):
        block_jobs.run_commit(connection, handle, step, lambda _: None, CancelToken(), nullcontext)
