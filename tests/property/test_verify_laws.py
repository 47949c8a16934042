"""
The laws of what verifications remember, over histories that nobody would write by hand.

::

    points | images rot | merges go wrong | what was found is put right | points go, images merge
       `-- verifications: of files, in depth, of a sample, without what was read before --'
                                     |
       what is right, and was put right where it was found wrong, is called right in the end;
       what was read when all was right is never called whole while it reads otherwise
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from attrs import Factory, define, evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fibackup as fb
from fibackup.model.verification import VerificationRecord
from fibackup.plan.forest import broken_points
from fibackup.plan.verdict import judge
from fibackup.plan.verified import last_verified, settled, trusted, with_found_wrong
from hypervisor import histories

pytestmark = pytest.mark.property

START = datetime(2026, 12, 1, tzinfo=UTC)
CELLS = 3
Content = dict[int, str]


def _hash(thing: object) -> str:
    return sha256(repr(thing).encode()).hexdigest()


@define
class Stored:
    """An image: what it should hold, what its manifest says, and what lies there."""

    good: Content
    backing: str | None
    said: Content
    there: Content

    @property
    def is_wrong(self) -> bool:
        """True when it holds something else than it should."""
        return self.there != self.good

    def put_right(self) -> None:
        """Take image and manifest from another copy of the store."""
        self.said = self.there = dict(self.good)


@define
class Model:
    """A store with one disk, and its record."""

    images: dict[str, Stored] = Factory(dict)
    points: list[tuple[int, list[str], bool]] = Factory(list)  # number, own images, hash recorded
    record: VerificationRecord = Factory(VerificationRecord)
    proven: dict[int, str] = Factory(dict)  # what was read when all was right, by point
    clock: int = 0
    taken: int = 0
    dropped_wrong: bool = False

    def digest(self, name: str, content: Content) -> str:
        """Return the sha256 of a file that holds this."""
        return _hash((name, sorted(content.items()), self.images[name].backing))

    def reads(self, name: str | None, kind: str = "there") -> str:
        """Return the hash of what a guest reads."""
        way: list[Stored] = []
        while name is not None:
            way.append(self.images[name])
            name = way[-1].backing
        found: Content = {}
        for image in reversed(way):
            found |= getattr(image, kind)
        return _hash(sorted(found.items()))

    def history(self) -> fb.History:
        """Return what the manifests say."""
        points: list[fb.RestorePoint] = []
        for number, names, hashed in self.points:
            stored = tuple(
                evolve(
                    histories.image(name, self.images[name].backing),
                    sha256=self.digest(name, self.images[name].said),
                )
                for name in names
            )
            under = self.images[names[-1]].backing
            disk = evolve(
                histories.disk(number),
                images=stored,
                content_sha256=self.reads(names[0], "good") if hashed else None,
                parent=under[:16] if under else None,
                kind=fb.DiskKind.INCREMENT if under else fb.DiskKind.FULL,
            )
            points.append(histories.point(number, disk))
        return histories.history(*points)

    @property
    def found(self) -> frozenset[str]:
        """Names of the images that are known to be wrong."""
        files = with_found_wrong(self.history(), self.record).found_wrong
        return frozenset(file.removeprefix("vda/") for file in files if file.startswith("vda/"))

    @property
    def right(self) -> bool:
        """True when everything is what it should be."""
        return not any(each.is_wrong for each in self.images.values())

    # --- what happens ---------------------------------------------------------------------------

    def take(self, cells: Iterable[int], *, hashed: bool, full: bool) -> None:
        """Publish a point; it lies on nothing that was found wrong."""
        number = self.taken = self.taken + 1
        name = histories.image_name(number)
        under = self.points[-1][1][0] if self.points and not full else None
        content = dict.fromkeys(cells, f"{number}")
        self.images[name] = Stored(content, under, dict(content), dict(content))
        self.points.append((number, [name], hashed))

    def rot(self, name: str) -> None:
        """Change the file, and not its manifest."""
        there = self.images[name].there
        cell = min(there)
        self.images[name].there = there | {cell: f"{there[cell]}!"}

    def spoil(self, name: str) -> None:
        """Change both, as a merge that went wrong; its own disk was read when it was right."""
        number = next(n for n, names, _ in self.points if name in names)
        top = next(names[0] for _, names, _ in self.points if name in names)
        image = self.images[name]
        if number in self.proven and top == name:
            self.rot(name)
            image.said = dict(image.there)

    def merge(self, place: int) -> None:
        """Drop a point under the next one, and merge its images into that one's."""
        (_, names, _), (number, heir, hashed) = self.points[place : place + 2]
        if self.images[heir[-1]].backing != names[0]:
            return
        if sum(each.backing == names[0] for each in self.images.values()) > 1:
            return
        inputs = [*heir, *names]
        if self.found & {*inputs} or not self._read_files([f"vda/{each}" for each in inputs]):
            return
        merged = Stored({}, self.images[names[-1]].backing, {}, {})
        for name in reversed(inputs):
            merged.good |= self.images[name].good
            merged.said |= self.images[name].said
            merged.there |= self.images[name].there
        for name in inputs:
            del self.images[name]
        self.images[heir[0]] = merged
        self.points[place : place + 2] = [(number, [heir[0]], hashed)]

    def drop(self, place: int) -> None:
        """Drop a point, as a prune does: another whole one stays, and gets its images."""
        (number, names, _), *above = self.points[place:]
        told = with_found_wrong(self.history(), self.record)
        others = {histories.point_id(each[0]) for each in self.points if each[0] != number}
        if others <= broken_points(told):
            return
        right = {each[0] for each in self.points} - self._wrong()
        self.dropped_wrong |= not told.found_wrong.isdisjoint(f"vda/{name}" for name in names)
        heirs = [each for each in above[:1] if self.images[each[1][-1]].backing == names[0]]
        for heir, own, hashed in heirs:
            self.points[place + 1] = (heir, [*own, *names], hashed)
        for name in () if heirs else names:
            del self.images[name]
        del self.points[place]
        self.proven.pop(number, None)
        assert right.isdisjoint(self._wrong()), "a drop makes nothing wrong"

    def _wrong(self) -> set[int]:
        """Return the points that count as wrong."""
        ages = last_verified(self.history(), self.record)
        return {each[0] for each in self.points if ages[histories.point_id(each[0])].wrong}

    def _read_files(self, files: list[str]) -> bool:
        """Read images as a prune does; tell whether they are right."""
        plan = fb.plan_verify(
            fb.Survey(self.history(), record=self.record), now=self.now, policy=fb.VerifyPolicy()
        )
        (step,) = plan.steps
        assert isinstance(step, fb.VerifyFiles)
        wanted = [evolve(each, read=True) for each in step.files if each.file in files]
        checks = self._files(evolve(step, files=tuple(wanted)))
        return all(check.kind is None for check in checks)

    # --- verifications --------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time."""
        return START + timedelta(days=self.clock)

    def _keep(
        self, run: int, files: Iterable[fb.FileCheck] = (), contents: Iterable[fb.ContentCheck] = ()
    ) -> None:
        """Write the record as the store does."""
        history = self.history()
        entries = (check.entry(run) for check in files)
        record = trusted(history, self.record, before=run)
        named = {f"vda/{name}" for name in self.images}
        gone = {each for each in record.named if each.startswith("vda/")} - named
        new = record.with_entries(
            [each for each in entries if each is not None],
            [check.entry(run) for check in contents],
            forget=gone,
        )
        self.record = settled(history, new)

    def _files(self, step: fb.VerifyFiles) -> list[fb.FileCheck]:
        checks: list[fb.FileCheck] = []
        for file in step.files:
            name = file.file.removeprefix("vda/")
            rotten = name in self.images and self.images[name].there != self.images[name].said
            kind = fb.FaultKind.SHA256 if rotten and file.read else None
            read = file.size_bytes if file.read and not rotten else None
            reason = "sha256 is another one" if kind else ""
            checks.append(fb.FileCheck(file.file, file.sha256, self.now, kind, reason, read))
        self._keep(step.run, files=checks)
        return checks

    def verify(self, policy: fb.VerifyPolicy) -> fb.Verification:
        """Verify, and look at what is said."""
        if not self.points:
            policy = evolve(policy, point=None)
        self.clock += 1
        known = fb.Survey(self.history(), record=self.record)
        plan = fb.plan_verify(known, now=self.now, policy=policy)
        files: list[fb.FileCheck] = []
        contents: list[fb.ContentCheck] = []
        for step in plan.steps:
            if isinstance(step, fb.VerifyFiles):
                files = self._files(step)
            elif isinstance(step, fb.VerifyContents):
                readable = step.without({check.file for check in files if check.kind})
                contents = [self._content(each) for each in readable.contents]
                self._keep(step.run, contents=contents)
        found = judge(fb.Survey(self.history(), record=self.record), files, contents)
        self._hold(found, {check.file for check in contents})
        if policy == _DEEP and self.right and not found.faults:
            self.proven = {number: self.reads(names[0]) for number, names, _ in self.points}
        return found

    def _content(self, content: fb.ContentToVerify) -> fb.ContentCheck:
        sha256_ = self.reads(content.images[0])
        reason = content.judged(sha256_)
        return fb.ContentCheck(
            content.file,
            content.chain,
            self.now,
            sha256_,
            fb.FaultKind.DISK if reason else None,
            reason,
            earlier=content.earlier,
            since=content.since,
        )

    def _hold(self, found: fb.Verification, read: set[str]) -> None:
        """
        No lie: what was read, and is otherwise than when all was right, is spoiled.

        And one truth: a prune takes those points for broken that a list calls wrong.
        """
        for number, names, hashed in self.points:
            right = self.reads(names[0], "good") if hashed else self.proven.get(number)
            if f"vda/{names[0]}" in read and right not in {None, self.reads(names[0])}:
                assert histories.point_id(number) in found.spoiled
        ages: Mapping[str, fb.Verified] = last_verified(self.history(), self.record)
        wrong = {point for point, age in ages.items() if age.wrong}
        assert wrong <= {*found.spoiled}
        assert broken_points(with_found_wrong(self.history(), self.record)) == wrong


_POLICIES = st.sampled_from(
    [
        fb.VerifyPolicy(),
        fb.VerifyPolicy(sample_percent=1),
        fb.VerifyPolicy(deep=True),
        fb.VerifyPolicy(deep=True, sample_percent=1),
        fb.VerifyPolicy(deep=True, sample_percent=50),
        fb.VerifyPolicy(deep=True, skip_since=START),
        fb.VerifyPolicy(deep=True, point="latest"),
    ]
)
_CELLS = st.sets(st.integers(0, CELLS - 1), min_size=1)
_events = st.lists(
    st.one_of(
        st.tuples(st.just("take"), _CELLS, st.integers(0, 3)),
        st.tuples(st.sampled_from(["rot", "spoil", "merge", "drop"]), st.integers(0, 5)),
        st.tuples(st.just("put right")),
        st.tuples(st.just("verify"), _POLICIES),
        st.tuples(st.just("verify"), _POLICIES),
    ),
    max_size=24,
)

_FILES = fb.VerifyPolicy()
_DEEP = fb.VerifyPolicy(deep=True)
_ONE_OF_THEM = fb.VerifyPolicy(deep=True, sample_percent=1)
_NEWEST = fb.VerifyPolicy(deep=True, point="latest")
_GO_ON = fb.VerifyPolicy(deep=True, skip_since=START)


@given(events=_events)
@example(
    events=[
        ("take", {0, 1}, 1),
        ("verify", _DEEP),
        ("spoil", 0),
        ("take", {2}, 1),
        ("take", {2}, 1),
        ("verify", _DEEP),
        ("put right",),
        ("verify", _ONE_OF_THEM),
    ]
)
@example(
    events=[
        ("take", {0, 1}, 1),
        ("verify", _FILES),
        ("rot", 0),
        ("verify", _GO_ON),
        ("verify", _DEEP),
        ("put right",),
    ]
)
@example(
    events=[
        ("take", {0, 1}, 1),
        ("verify", _FILES),
        ("rot", 0),
        ("verify", _GO_ON),
        ("verify", _FILES),
        ("put right",),
        ("verify", _FILES),
    ]
)
@example(
    events=[
        ("take", {0, 1}, 1),
        ("verify", _DEEP),
        ("spoil", 0),
        ("take", {2}, 1),
        ("verify", _NEWEST),
        ("spoil", 0),
        ("verify", _DEEP),
        ("put right",),
    ]
)
@example(events=[("take", {0}, 0), ("verify", _DEEP), ("take", {0}, 0), ("spoil", 0)])
@example(
    events=[
        ("take", {0}, 1),
        ("take", {1}, 1),
        ("take", {1}, 1),
        ("verify", _DEEP),
        ("spoil", 1),
        ("verify", _DEEP),
        ("drop", 1),
        ("take", {2}, 1),
        ("drop", 1),
    ]
)
@settings(print_blob=True)
def test_what_is_remembered_is_neither_a_lie_nor_a_false_alarm(
    events: list[tuple[object, ...]],
) -> None:
    """Whoever puts right what was found wrong is told in the end that all is right."""
    model = Model()
    for event in events:
        play(model, event)
    while not model.right:  # what has been found is put right, until nothing is left to find
        model.verify(_DEEP)
        wrong = [name for name in model.found if model.images[name].is_wrong]
        put_right(model)
        if not wrong:
            return  # wrong when it was read first without a hash, or hidden by what lies on it
    if model.dropped_wrong:  # its own disk is never read again: perhaps nothing shows it right
        model.record = VerificationRecord()
    model.verify(_DEEP)
    last = model.verify(_DEEP)
    assert (last.faults, last.spoiled) == ((), ())
    assert last.whole == tuple(histories.point_id(number) for number, _, _ in model.points)


def play(model: Model, event: tuple[object, ...]) -> None:
    """Let something happen, where it can."""
    match event:
        case "take", set() as cells, int() as how:
            model.take(cells, hashed=how == 0, full=how == 3)
        case "verify", fb.VerifyPolicy() as policy:
            model.verify(policy)
        case ("put right",):
            put_right(model)
        case "drop", int() as place if place < len(model.points):
            model.drop(place)
        case "merge", int() as place if place + 1 < len(model.points):
            model.merge(place)
        case ("rot" | "spoil") as what, int() as place if model.images:
            name = sorted(model.images)[place % len(model.images)]
            (model.rot if what == "rot" else model.spoil)(name)
        case _:
            pass


def put_right(model: Model) -> None:
    """Take what was found wrong from another copy of the store."""
    for name in model.found:
        model.images[name].put_right()
