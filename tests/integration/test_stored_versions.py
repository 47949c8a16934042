"""Stores that versions of fibackup have written are read, verified and restored, for ever."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

import fibackup as fb
from hypervisor.schemas import validator

pytestmark = pytest.mark.libvirt

ROOT = Path(__file__).parents[2]
KEPT = sorted((ROOT / "tests" / "data").glob("format-*"))


@pytest.fixture(params=KEPT, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give a copy, private as a store is, and as if nothing had been verified."""
    copy = tmp_path / "kept"
    shutil.copytree(request.param, copy)
    for path in copy.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return copy


def hashes(kept: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Return what each disk of each point reads like, by the name of the domain."""
    found: dict[str, dict[str, dict[str, str]]] = json.loads((kept / "hashes.json").read_text())
    return found


def domains(store: fb.Store) -> dict[str, fb.History]:
    """Return the history of each domain, by name."""
    found = (store.read_history(uuid) for uuid in store.domains())
    return {history.points[-1].domain: history for history in found}


def test_a_store_is_kept() -> None:
    """Of each format."""
    assert [path.name for path in KEPT] == ["format-1"]


def test_every_kept_point_is_read_and_restored(kept: Path, tmp_path: Path) -> None:
    """Each disk of each point reads as it was written, flat and as a chain."""
    with fb.Store.open(kept / "store") as store:
        histories = domains(store)
        assert set(histories) == set(hashes(kept))
        for name, points in hashes(kept).items():
            history = histories[name]
            assert [point.id for point in history.points] == sorted(points)
            assert (history.unreadable, history.lost, history.damaged) == ((), (), frozenset())
            for point, disks in points.items():
                assert {disk.target for disk in history.point(point).disks} == set(disks)
                into = PurePosixPath(tmp_path / f"{name}-{point}")
                raw = fb.ImageFormat.RAW
                plan = fb.plan_restore(history, point, into=into, image_format=raw)
                for image in fb.Executor(None, store).run(plan).restored:
                    found = hashlib.sha256(Path(image.path).read_bytes()).hexdigest()
                    assert found == disks[image.target], (name, point, image.target)


def test_every_kept_file_is_verified(kept: Path) -> None:
    """In depth, without a fault and without a stranger."""
    for record in (kept / "store").glob("*/verified.json"):
        record.unlink()
    with fb.Store.open(kept / "store") as store:
        assert store.strangers() == ()
        for uuid in store.domains():
            policy = fb.VerifyPolicy(deep=True)
            plan = fb.plan_verify(store.survey(uuid), now=datetime.now(UTC), policy=policy)
            found = fb.Executor(None, store).run(plan).verification
            assert found is not None
            assert (found.faults, found.leftovers, found.strangers) == ((), (), ())
            assert found.read_disks == sum(
                len(point.disks) for point in store.read_history(uuid).points
            )


def test_every_kept_document_fits_its_schema(kept: Path) -> None:
    """And one with a field more, a field less, or a wrong type does not."""
    names = {"fibackup-store": "store", "verified": "record"}
    seen: set[str] = set()
    for path in (kept / "store").rglob("*.json"):
        name = names.get(path.stem, "manifest")
        seen.add(name)
        document = json.loads(path.read_text())
        schema = validator(name)
        schema.validate(document)
        assert not schema.is_valid({**document, "more": 1})
        assert not schema.is_valid({**document, "format": "1"})
        optional = {"checksum"} if name == "store" else set[str]()
        for key in document.keys() - optional:
            assert not schema.is_valid({k: v for k, v in document.items() if k != key}), key
    assert seen == {"store", "record", "manifest"}


def test_a_kept_store_goes_on(kept: Path) -> None:
    """What is kept holds each kind of file and of image that the format has."""
    with fb.Store.open(kept / "store") as store:
        points = [point for history in domains(store).values() for point in history.points]
    assert {file.role for point in points for file in point.files} == set(fb.FileRole)
    assert {disk.kind for point in points for disk in point.disks} == set(fb.DiskKind)
    contents = {disk.content_sha256 is None for point in points for disk in point.disks}
    assert contents == {True, False}
    pruned = [point for point in points if point.parent and point.domain == "db1"]
    assert any(point.sequence > 2 for point in pruned)
    assert sum(path.stat().st_size for path in kept.rglob("*") if path.is_file()) < 700_000
