"""
Make the store of ``tests/data``: what a version of fibackup writes, kept to be read for ever.

::

    python scripts/make_stored_version.py tests/data/format-1

    web1   vda, vdb    full, increment, increment (compressed), full; XML, NVRAM, memory, TPM
    db1    vda         four points, the second and the third pruned since

A store that is kept is never made again, and never changed; a new format gets a directory of its
own. Beside the store lies ``hashes.json``: the sha256 of each disk at each point as a guest reads
it, taken from what was written and not from the store.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import fibackup as fb  # noqa: E402
from hypervisor.stores import StoreMaker  # noqa: E402

UNIT = 4096
SIZE = 64 * UNIT
OPTIONS = (f"cluster_size={UNIT}",)
OTHER = "0f0e0d0c-0b0a-4908-8706-050403020100"
NOW = datetime(2026, 12, 24, tzinfo=UTC)
STATES = {
    fb.FileRole.NVRAM: b"firmware variables",
    fb.FileRole.MEMORY: b"memory of the guest",
    fb.FileRole.TPM_STATE: b"state of the TPM",
}


def write_store(directory: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Write the store; return the hashes by domain, point and disk."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    with StoreMaker(directory, name="web1", size_bytes=SIZE, unit_bytes=UNIT) as web1:
        web1.point(
            {"vda": {0: 1, 5: 2}, "vdb": {0: 11}}, options=OPTIONS, states=STATES, hashed=True
        )
        web1.point({"vda": {5: 3}, "vdb": {1: 12}}, options=OPTIONS)
        web1.point(
            {"vda": {6: 4, 7: 4}, "vdb": {2: 13}}, options=OPTIONS, compress=True, hashed=True
        )
        web1.point({"vda": {0: 5}}, options=OPTIONS, full=True)
        found["web1"] = hashes(web1)
        plan = fb.plan_verify(web1.store.survey(web1.uuid), now=datetime.now(UTC))
        fb.Executor(None, web1.store).run(plan)
    with StoreMaker(directory, uuid=OTHER, name="db1", size_bytes=SIZE, unit_bytes=UNIT) as db1:
        for number in range(1, 5):
            db1.point({"vda": {0: 20 + number, number: number}}, options=OPTIONS)
        first, *_, last = (point.id for point in db1.history().points)
        policy = fb.RetentionPolicy(keep_last=1, protect=(first,))
        fb.Executor(None, db1.store).run(fb.plan_prune(db1.history(), policy, now=NOW))
        found["db1"] = {
            point: disks for point, disks in hashes(db1).items() if point in {first, last}
        }
    return found


def hashes(maker: StoreMaker) -> dict[str, dict[str, str]]:
    """Return the sha256 of what was on each disk at each point."""
    return {
        point: {
            target: hashlib.sha256(raw.read_bytes()).hexdigest() for target, raw in raws.items()
        }
        for point, raws in maker.references.items()
    }


def main() -> None:
    """Parse the arguments and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("directory", type=Path, help="must not exist")
    target: Path = parser.parse_args().directory
    with tempfile.TemporaryDirectory(prefix="fibackup-version-") as place:
        found = write_store(Path(place))
        for lock in Path(place, "store").glob("*/lock*"):
            lock.unlink()  # they name a host and a process
        shutil.copytree(Path(place, "store"), target / "store")
    (target / "hashes.json").write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
