"""
Draw the pictures of README.md and docs/, with the library itself.

::

    python scripts/draw_pictures.py            draw docs/img/*.svg anew
    python scripts/draw_pictures.py --check    exit 1 when one of them is not as it would be drawn

Each picture is of a fake domain whose backups were planned and run, so it shows what happens.
`tests/docs/test_pictures.py` checks that the files are those that this draws.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import fibackup as fb
from fibackup.testing import CLUSTER_BYTES, FakeHost, FakeStore

IMAGES = Path(__file__).parents[1] / "docs" / "img"
START = datetime(2026, 11, 21, 4, 4, 7, tzinfo=UTC)
MIB = 2**20 // CLUSTER_BYTES
TEMPLATE = PurePosixPath("/var/lib/libvirt/images/debian-13.qcow2")


class Story:
    """A domain that writes every day, and is backed up every night."""

    def __init__(self, *, template: bool = False, second_disk: bool = False) -> None:
        """Make the domain; it has 1.5 GiB on a disk of 40 GiB."""
        self.host = FakeHost()
        self.store = FakeStore(self.host)
        if template:
            self.host.add_image(
                TEMPLATE, dict.fromkeys(range(900 * MIB), 1), size_clusters=40960 * MIB
            )
        self.uuid = self.host.add_domain(
            "web1",
            {"vda": dict.fromkeys(range(1500 * MIB), 2)},
            size_clusters=40960 * MIB,
            template=TEMPLATE if template else None,
            directory=TEMPLATE.parent,
        )
        if second_disk:
            self.host.attach_disk(
                "web1",
                "vdb",
                dict.fromkeys(range(400 * MIB), 3),
                size_clusters=10240 * MIB,
                image_format="raw",
            )
            self.host.set_disk("web1", fb.Disk("sda", device="cdrom"))
        self.day = 0

    @property
    def domain(self) -> fb.Domain:
        """The domain as it is."""
        return self.host.read_domain("web1")

    @property
    def history(self) -> fb.History:
        """What the store holds."""
        return self.store.read_history(self.uuid)

    def plan(self, policy: fb.BackupPolicy | None = None) -> fb.Plan:
        """Plan the backup of the night."""
        now = START + timedelta(days=self.day)
        return fb.plan_backup(self.domain, self.history, now=now, policy=policy)

    def live(self, *days: tuple[int, int], policy: fb.BackupPolicy | None = None) -> None:
        """Back up, then let the guest write so many MiB to its disks, day by day."""
        for vda, vdb in days:
            self.run(self.plan(policy))
            self.day += 1
            self.write("vda", vda)
            self.write("vdb", vdb)

    def write(self, target: str, mib: int) -> None:
        """Let the guest write."""
        for cluster in range(mib * MIB):
            self.host.write("web1", target, cluster, 10 + self.day)

    def run(self, plan: fb.Plan) -> fb.Report:
        """Run a plan."""
        return fb.Executor(self.host, self.store).run(plan)


def draw() -> Mapping[str, str]:
    """Return the pictures, by the names of their files."""
    nights = ((190, 0), (420, 0), (64, 0), (260, 0))
    plain = Story()
    plain.live(*nights[:3])
    both = Story(template=True, second_disk=True)
    both.live((190, 40), (420, 4), (64, 12))
    rolling = Story()
    rolling.live(*nights, policy=fb.BackupPolicy(consolidate=True))
    weekly = Story()
    weekly.live((190, 0), (420, 0), (64, 0))
    weekly.live((260, 0), policy=fb.BackupPolicy(full=True))
    weekly.live((330, 0), (120, 0))
    restore = fb.plan_restore(plain.history, "latest", into=PurePosixPath("/srv/restored/web1"))
    policy = fb.RetentionPolicy(keep_last=3, protect=(weekly.history.points[0].id,))
    prune = fb.plan_prune(weekly.history, policy, now=START + timedelta(days=365))
    return {
        "readme.svg": fb.picture_chains(plain.domain, plain.history).to_svg(),
        "side-by-side.svg": fb.picture_chains(both.domain, both.history).to_svg(),
        "chain.svg": both.domain.disks[0].chain.to_svg() if both.domain.disks[0].chain else "",
        "rolling.svg": fb.picture_chains(rolling.domain, rolling.history).to_svg(),
        "plan-backup.svg": plain.plan().to_svg(),
        "plan-rolling.svg": plain.plan(fb.BackupPolicy(consolidate=True)).to_svg(),
        "plan-consolidate.svg": fb.plan_consolidation(plain.domain).to_svg(),
        "plan-restore.svg": restore.to_svg(),
        "plan-prune.svg": prune.to_svg(),
        "history.svg": weekly.history.to_svg(),
    }


def main() -> int:
    """Draw the pictures, or check them; return the exit code."""
    stale: list[str] = []
    drawn = draw()
    for name, text in drawn.items():
        path = IMAGES / name
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv[1:]:
                path.write_text(text, "utf-8")
    stale += sorted(path.name for path in IMAGES.glob("*.svg") if path.name not in drawn)
    print("\n".join(stale) or f"all {len(drawn)} pictures are as they should be")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
