"""The executor's part of a verification: run the steps, look again, judge."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar, assert_never

from attrs import evolve

from fibackup.errors import StalePlanError, VerifyError
from fibackup.host.api import PointStore
from fibackup.host.cancel import CancelToken
from fibackup.host.events import OnEvent
from fibackup.model.records import RECORD_FILE
from fibackup.model.verification import (
    CheckedContent,
    CheckedFile,
    ContentCheck,
    Fault,
    FaultKind,
    FileCheck,
    Survey,
    Verification,
)
from fibackup.plan.steps import Plan
from fibackup.plan.verdict import judge, replaced_since
from fibackup.plan.verify_steps import VerifyContents, VerifyFiles

__all__ = ["Verifier"]

_Entry = TypeVar("_Entry", CheckedFile, CheckedContent)


class Verifier:
    """
    Collects what the steps of a verification find.

    Args:
        store: The backup directory.
        plan: What `plan_verify` returned.
        on_event: Gets the store's events.
        cancel: Asked between two blocks.
        threads: Files that are read at the same time.
    """

    def __init__(
        self, store: PointStore, plan: Plan, on_event: OnEvent, cancel: CancelToken, threads: int
    ) -> None:
        """Begin with nothing."""
        self._store = store
        self._plan = plan
        self._on_event = on_event
        self._cancel = cancel
        self._threads = threads
        self._files: tuple[FileCheck, ...] = ()
        self._contents: tuple[ContentCheck, ...] = ()
        self._odd: list[str] = []
        self._notes: list[str] = []
        self._run = 0

    def apply(self, step: VerifyFiles | VerifyContents) -> None:
        """
        Run a step.

        Args:
            step: What to verify.

        Raises:
            StalePlanError: A merge has replaced a file since the plan was made. Nothing was read.

        Source:
            docs/verify.md.
        """
        if self._plan.verb == "verify" and isinstance(step, VerifyFiles):
            self._refuse_replaced(step)
        self._run = step.run or self._store.read_record(self._plan.uuid).next_run
        step = evolve(step, run=self._run)
        match step:
            case VerifyFiles():
                self._files += self._store.verify_files(
                    self._plan.uuid, step, self._on_event, self._cancel, threads=self._threads
                )
            case VerifyContents():
                self._read_disks(step)
            case _:
                assert_never(step)

    def _refuse_replaced(self, step: VerifyFiles) -> None:
        """Refuse to compare with what was: no prune comes in between from here on."""
        for file in replaced_since(self._store.read_history(self._plan.uuid), step.files):
            raise StalePlanError(
                domain=self._plan.domain, reason=f"{file} is another one by now; plan again"
            )

    def refuse_wrong(self) -> None:
        """
        Refuse to go on when something that was verified is wrong.

        Raises:
            VerifyError: It is; the record says so from now on.
            StalePlanError: The plan is of before another run replaced it.

        Source:
            docs/prune.md.
        """
        wrong = [check for check in self._files if check.kind is not None]
        if not wrong:
            return
        named = self._store.read_history(self._plan.uuid).named_files
        for check in wrong:
            if (check.file, check.sha256) not in named:
                raise StalePlanError(reason=f"{check.file} is another one by now; plan again")
        first = wrong[0]
        reason = f"{first.file}: {first.reason}"
        raise VerifyError(domain=self._plan.domain, reason=reason, path=first.file)

    def _read_disks(self, step: VerifyContents) -> None:
        """Read the disks whose files are right; the others are spoiled already."""
        bad = {check.file for check in self._files if check.kind is not None}
        readable = step.without(bad)
        self._contents += self._store.verify_contents(
            self._plan.uuid, readable, self._on_event, self._cancel, threads=self._threads
        )
        unknown = sum(each.since is None for each in readable.contents)
        if unknown:
            disks = "1 disk has" if unknown == 1 else f"{unknown} disks have"
            self._notes.append(
                f"{disks} no content hash from when their point was taken: "
                "what was read now is kept, to compare with"
            )

    def result(self) -> Verification:
        """
        Judge what was found, by the store as it is now.

        Source:
            docs/verify.md, "What is found".
        """
        survey = self._remembered(self._store.survey(self._plan.uuid))
        return judge(
            evolve(survey, faults=(*self._rewritten(survey), *survey.faults)),
            self._files,
            self._contents,
            point=self._plan.point or None,
            odd=self._odd,
            notes=self._notes,
        )

    def _rewritten(self, survey: Survey) -> tuple[Fault, ...]:
        """Return what was wrong with a record before this verification wrote it anew."""
        reasons = (step.record_fault for step in self._plan.steps if isinstance(step, VerifyFiles))
        before = (Fault(FaultKind.RECORD, RECORD_FILE, reason) for reason in reasons if reason)
        return tuple(each for each in before if each not in survey.faults)

    def _remembered(self, survey: Survey) -> Survey:
        """Return the survey with what was found just now, also when that could not be recorded."""
        record = survey.record
        files = [entry for check in self._files if (entry := check.entry(self._run)) is not None]
        contents = [check.entry(self._run) for check in self._contents]
        named = frozenset(name for name, _ in survey.history.named_files)
        unwritten = record.with_entries(
            _missing(files, record.files, named), _missing(contents, record.contents, named)
        )
        if unwritten == record:
            return survey
        self._odd.append("the store cannot be written: this verification is not remembered")
        return evolve(survey, record=unwritten)


def _missing(
    found: Sequence[_Entry], there: Sequence[_Entry], named: Collection[str]
) -> Iterator[_Entry]:
    """Give what was found of files that points have, and is not there, nor anything newer."""
    times = {entry.file: entry.time for entry in there}
    for entry in found:
        if entry.file in named and (entry.file not in times or times[entry.file] < entry.time):
            yield entry
