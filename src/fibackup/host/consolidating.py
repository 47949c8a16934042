"""
The executor's part of a consolidation: what the ledger says before, meanwhile, and afterwards.

::

    ledger      run: consolidating      ours, and what lies on them     overlays freed    forgotten
    libvirt                 commit or pull                  chain read again
    files                                                                          deleted

The ledger never names less than there is: a run that is killed anywhere has left what a recovery
needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath

from attrs import evolve

from fibackup.errors import (
    BlockJobError,
    DomainBusyError,
    FibackupError,
    HostError,
    SharedBaseError,
)
from fibackup.host.api import Host
from fibackup.host.cancel import CancelToken
from fibackup.host.events import OnEvent
from fibackup.model.ledger import Ledger, Run, RunPhase, consolidated
from fibackup.plan.continuity import stale_overlays
from fibackup.plan.steps import (
    CommitOffline,
    ConsolidateDisk,
    EachDisk,
    FinishBlockJob,
    Plan,
    PullImages,
)

__all__ = ["Consolidator"]


class Consolidator:
    """
    Shortens live chains, and keeps the ledger true meanwhile.

    Args:
        host: The hypervisor.
        plan: The plan.
        emit: Gets the events.
        cancel: Asked between disks, and while a job runs.
        warn: Gets what the user should know.
    """

    def __init__(
        self,
        host: Host,
        plan: Plan,
        emit: OnEvent,
        cancel: CancelToken,
        warn: Callable[[str], None],
    ) -> None:
        """Begin without a run that is unsettled."""
        self._host = host
        self._plan = plan
        self._emit = emit
        self._cancel = cancel
        self._warn = warn
        self._unsettled: Run | None = None

    def each_disk(self, step: EachDisk) -> None:
        """
        Consolidate disk by disk; the first failure is raised when all have had their turn.

        A disk whose end is not known leaves the run in the ledger, whatever the others come to:
        a recovery finds out.

        Args:
            step: The disks.

        Raises:
            FibackupError: What the first disk that failed has failed with.
        """
        failures: list[FibackupError] = []
        for disk in step.disks:
            try:
                self._cancel.check()
                self._consolidate(disk)
            except FibackupError as error:
                error.target = error.target or disk.job.target
                if step.spare_shared and isinstance(error, SharedBaseError):
                    self._warn(f"disk {error.target} was not consolidated: {error.reason}")
                else:
                    failures.append(error)
        for failure in failures[1:]:
            self._warn(_first_line(failure))
        if failures:
            raise failures[0]

    def _consolidate(self, disk: ConsolidateDisk) -> None:
        uuid, target = self._plan.uuid, disk.job.target
        domain = self._host.read_domain(uuid)
        ledger, before = domain.ledger, domain.disk(target).chain
        job = domain.disk(target).block_job
        if job is not None:  # of somebody who began it since the plan: never to be taken for ours
            raise DomainBusyError(
                target=target,
                reason=f"a {job} runs on the disk, which is not ours",
                remedy="wait for it, then consolidate",
            )
        if any(ledger.overlay(path) is None for path in disk.overlays):
            raise HostError(target=target, reason="an overlay is no longer ours by the ledger")
        self._refuse_shared(disk)
        stale = stale_overlays(before, ledger) if before is not None else frozenset[PurePosixPath]()
        open_run = ledger.run  # a thaw or a header is owed; or the disk before is not settled
        run = Run(
            self._plan.point or "-",
            self._plan.store or "-",
            RunPhase.CONSOLIDATING,
            frozen=open_run is not None and open_run.frozen,
            suspended=open_run is not None and open_run.suspended,
        )
        self._host.write_ledger(uuid, evolve(ledger, run=run))
        left, self._unsettled = self._unsettled or open_run, run
        written = None if isinstance(disk.job, PullImages) else disk.job.base
        settled = partial(consolidated, ledger, target=target, written=written, stale=stale)
        try:
            if isinstance(disk.job, CommitOffline):
                self._host.commit_offline(uuid, disk.job, self._emit, self._cancel)
            else:
                self._host.run_block_job(uuid, disk.job, self._emit, self._cancel)
        except FibackupError as error:
            # The base may have been written, its overlays still cover that: it is measured anew.
            now = self._host.read_domain(uuid)
            chain = now.disk(target).chain
            if now.ledger.run is not None and now.ledger.run.suspended:
                left = now.ledger.run  # a recovery lets the guest go on
            if now.disk(target).block_job is not None:
                self._unsettled = now.ledger.run
                raise  # the run stays in the ledger: a recovery sees the job to its end
            if chain is not None and set(disk.overlays) <= set(chain.paths):
                result = settled(removed=(), after=chain)
                self._host.write_ledger(uuid, evolve(result, run=left))
                self._unsettled = left
            elif chain is not None and isinstance(error, BlockJobError) and error.unsafe:
                result = settled(removed=disk.overlays, after=chain)
                self._let_go(evolve(result, run=left), disk.overlays)
            raise
        chain = self._host.read_domain(uuid).disk(target).chain
        if chain is None or chain.paths != disk.job.leaves:
            raise HostError(target=target, reason="after the block job the chain is another one")
        result = settled(removed=disk.overlays, after=chain)
        self._free(evolve(result, run=left), disk.overlays)

    def _free(self, ledger: Ledger, paths: tuple[PurePosixPath, ...]) -> None:
        """Write a ledger in which overlays are freed, delete their files, then forget them."""
        self._host.write_ledger(self._plan.uuid, ledger)
        self._unsettled = ledger.run
        self.delete(paths)
        if paths:
            self._host.write_ledger(self._plan.uuid, ledger.without(paths))

    def _let_go(self, ledger: Ledger, paths: tuple[PurePosixPath, ...]) -> None:
        """Forget overlays whose files stay: what is in no ledger, no run of ours ever deletes."""
        self._host.write_ledger(self._plan.uuid, ledger.without(paths))
        self._unsettled = ledger.run

    def delete(self, paths: tuple[PurePosixPath, ...]) -> None:
        """
        Delete overlays of ours.

        Args:
            paths: What nothing needs any more.
        """
        for path in paths:
            self._host.delete_image(self._plan.uuid, path)

    def finish_job(self, step: FinishBlockJob) -> None:
        """
        End a job that is found running; the run stays in the ledger while another one runs.

        Args:
            step: The job.
        """
        uuid, target = self._plan.uuid, step.target
        domain = self._host.read_domain(uuid)
        before = domain.disk(target).chain
        lost: BlockJobError | None = None
        try:
            self._host.finish_block_job(uuid, step, self._emit, self._cancel)
        except BlockJobError as error:
            if not error.unsafe:
                raise
            lost = error
        after = self._host.read_domain(uuid).disk(target).chain
        if before is None or after is None:
            raise HostError(target=target, reason="after the block job the disk has no chain")
        ledger = domain.ledger
        gone = tuple(
            path
            for path in before.paths
            if path not in after.paths and ledger.overlay(path) is not None
        )
        stale = stale_overlays(before, ledger)
        under = (path for path in before.paths[1:] if ledger.overlay(path) is None)
        result = consolidated(
            ledger,
            target=target,
            removed=gone,
            after=after,
            written=next(under, None),
            stale=stale,
        )
        others = any(disk.block_job for disk in domain.disks if disk.target != target)
        result = evolve(result, run=ledger.run if others else _owed(ledger.run))
        if lost is not None:
            self._let_go(result, gone)
            raise lost
        self._free(result, gone)

    def _refuse_shared(self, disk: ConsolidateDisk) -> None:
        """Ask once more, right before the first write: a domain may have come since the plan."""
        target = disk.job.target
        found = self._host.image_uses(self._plan.uuid, disk.touched)
        users = tuple(use for use in found if use.disk != target)
        if users:
            raise SharedBaseError(
                target=target,
                path=str(users[0].path),
                reason=f"{users[0].path} is also used by: "
                + ", ".join(dict.fromkeys(map(str, users))),
                dependents=tuple(dict.fromkeys(use.domain for use in users)),
            )


def _owed(run: Run | None) -> Run | None:
    """Return what is left of a run whose job has ended: nothing, unless a thaw is due."""
    if run is None or not run.frozen:
        return None
    return evolve(run, phase=RunPhase.INTENT, suspended=False)


def _first_line(error: FibackupError) -> str:
    return str(error).partition("\n")[0]
