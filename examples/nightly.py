"""
A whole night: back up all domains, drop old points, verify a part of the store, tell Prometheus.

::

    python examples/nightly.py qemu:///system /backup /var/lib/node-exporter/fibackup.prom

    for each domain     recover -> back up -> prune       one that fails hides no other
    for the store       verify a tenth: all of it in ten nights

Each domain is pruned only after its backup has succeeded: while backups fail, no point goes.
Exit status: 0 when all went well, 1 when something has not, 2 for a wrong command line.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import fibackup as fb

KEEP = fb.RetentionPolicy(keep_daily=7, keep_weekly=5, keep_monthly=12)
TAKE = fb.BackupPolicy(consolidate=True, skip_unsupported=True)
READ = fb.VerifyPolicy(sample_percent=10.0)
log = logging.getLogger("nightly")


class Night:
    """What one night works on: hypervisor, store, and the file of metrics."""

    def __init__(
        self, host: fb.LibvirtHost, store: fb.Store, metrics: str, cancel: fb.CancelToken
    ) -> None:
        self.host = host
        self.store = store
        self.metrics = metrics
        self.cancel = cancel

    def run(self, plan: fb.Plan) -> fb.Report:
        """Run a plan; a wish to stop ends it at a place where it may end."""
        found = fb.Executor(self.host, self.store).run(plan, cancel=self.cancel)
        log.info("%s", found)
        return found

    def back_up(self, name: str) -> None:
        """Settle what a killed run has left, and take a point."""
        domain = self.host.read_domain(name)
        settle = fb.plan_recovery(domain, self.store.read_history(domain.uuid), now=now())
        if settle.steps:
            self.run(settle)
            domain = self.host.read_domain(name)
        history = self.store.read_history(domain.uuid)
        report = self.run(fb.plan_backup(domain, history, now=now(), policy=TAKE))
        self.tell(domain.name, domain.uuid, report)

    def prune(self, uuid: str) -> None:
        """Drop the points that no rule keeps."""
        used, history = self.store.images_in_use(uuid), self.store.read_history(uuid)
        plan = fb.plan_prune(history, KEEP, now=now(), in_use=used)
        if plan.steps:
            self.run(plan)

    def verify(self, uuid: str) -> bool:
        """Read what was read longest ago; say what is wrong."""
        plan = fb.plan_verify(self.store.survey(uuid), now=now(), policy=READ)
        found = self.run(plan).verification
        if found is None or found.faults:
            for fault in found.faults if found is not None else ():
                log.error("%s", fault)
            return False
        times = [point.verified for point in found.points if point.verified is not None]
        if times and len(times) == len(found.points):  # all of it is read: the oldest time counts
            samples = fb.verified_metrics(found.domain, str(self.store.path), now=min(times))
            fb.update_metrics(self.metrics, samples)
        return True

    def tell(self, name: str, uuid: str, report: fb.Report | None) -> None:
        """Write the metrics of a backup; without a report, it has failed."""
        store = str(self.store.path)
        points = len(self.store.read_history(uuid).points) if report is not None else None
        samples = fb.run_metrics(name, store, now=now(), report=report, points=points)
        version = self.host.versions().fibackup
        room = fb.store_metrics(store, free_bytes=self.store.free_bytes(), version=version)
        fb.update_metrics(self.metrics, (*samples, *room))

    def work(self) -> Iterator[bool]:
        """Do all of it; yield, of each part, whether it went well."""
        for name in self.host.list_domains():
            yield self.domain(name)
        for uuid in self.store.domains():
            try:
                self.cancel.check()
                yield self.verify(uuid)
            except fb.FibackupError as error:
                yield complain(error)

    def domain(self, name: str) -> bool:
        """Back up and prune one domain."""
        uuid = ""
        try:
            self.cancel.check()
            name, uuid = self.host.identify(name)
            self.back_up(name)
        except fb.FibackupError as error:
            self.tell(name, uuid, None)
            return complain(error)
        try:
            self.prune(uuid)
        except fb.FibackupError as error:
            return complain(error)
        return True


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def complain(error: fb.FibackupError) -> bool:
    """Log an error; of a run that stopped in the middle, its text has state and next command."""
    log.error("%s", error)
    return False


def main(arguments: Sequence[str]) -> int:
    """Work through the night; return the exit status."""
    if len(arguments) != 3:
        print("usage: nightly.py URI STORE METRICS", file=sys.stderr)
        return 2
    uri, directory, metrics = arguments
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    cancel = fb.CancelToken()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: cancel.cancel())
    with fb.LibvirtHost.open(uri) as host, fb.Store.open_or_create(directory) as store:
        host.check_requirements(consolidates=TAKE.consolidate)
        done = list(Night(host, store, metrics, cancel).work())
    print(f"{sum(done)} of {len(done)} parts went well")
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
