"""Facts about which points a retention keeps, and why."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from attrs import evolve

from fibackup.errors import ModelError, NoSuchPointError, PolicyError, VerifyError
from fibackup.model.point import (
    DiskKind,
    History,
    PointDisk,
    RestorePoint,
    format_point_id,
)
from fibackup.model.verification import CheckedContent, CheckedFile, VerificationRecord
from fibackup.plan.prune import plan_prune
from fibackup.plan.retention import PointVerdict, RetentionPolicy, choose_points
from fibackup.plan.verified import with_found_wrong
from hypervisor import histories
from hypervisor.histories import image, point_at

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def point(time: datetime, sequence: int, parent: RestorePoint | None = None) -> RestorePoint:
    """Return a point of one disk; a full without a parent."""
    under = parent.disks[0].images[0].name if parent else None
    stored = image(f"{format_point_id(time)}.qcow2", under)
    on = parent.id if parent else None
    kind = DiskKind.INCREMENT if parent else DiskKind.FULL
    disk = PointDisk("vda", kind, "why", on, stored.virtual_size_bytes, (stored,))
    return point_at(time, sequence, disk, parent=on)


def history(*times: datetime) -> History:
    """Return a chain of increments that were taken at these times, in this order."""
    points: list[RestorePoint] = []
    for sequence, time in enumerate(times, 1):
        points.append(point(time, sequence, points[-1] if points else None))
    return histories.history(*points)


def days(count: int, *, hour: int = 4) -> History:
    """Return daily points, the last one today."""
    start = NOW.replace(hour=hour)
    return history(*(start - timedelta(days=back) for back in reversed(range(count))))


def kept(found: tuple[PointVerdict, ...]) -> list[str]:
    """Return the ids that are kept."""
    return [each.point for each in found if each.kept]


def by_time(*times: datetime) -> list[str]:
    """Return the ids of times."""
    return [format_point_id(time) for time in times]


def at(text: str) -> datetime:
    """Return a time in UTC, such as ``2026-11-24T04``."""
    return datetime.fromisoformat(f"{text}:00:00+00:00" if len(text) == 13 else f"{text}+00:00")


def test_the_newest_points_are_kept_and_the_rest_is_dropped() -> None:
    """`keep_last` counts points and nothing else."""
    found = choose_points(days(5), RetentionPolicy(keep_last=2), now=NOW)
    assert [each.kept for each in found] == [False, False, False, True, True]
    assert found[0].reasons == ("no rule keeps it",)
    assert found[4].reasons == ("last",)
    assert str(found[0]) == "20261120T040000Z  drop: no rule keeps it"
    assert str(found[4]) == "20261124T040000Z  keep: last"


def test_the_newest_of_each_period_is_kept() -> None:
    """Two points of one day: the later one stands for the day."""
    times = [at("2026-11-22T04"), at("2026-11-22T22"), at("2026-11-23T04"), at("2026-11-23T22")]
    found = choose_points(history(*times), RetentionPolicy(keep_daily=2), now=NOW)
    assert kept(found) == by_time(times[1], times[3])
    assert found[1].reasons == ("daily 2026-11-22",)


@pytest.mark.parametrize(
    ("policy", "times", "expected"),
    [
        (
            RetentionPolicy(keep_hourly=2),
            ["2026-11-23T04", "2026-11-23T05", "2026-11-24T04"],
            [1, 2],
        ),
        (
            RetentionPolicy(keep_daily=2),
            ["2026-11-22T04", "2026-11-23T05", "2026-11-24T04"],
            [1, 2],
        ),
        # Monday 2026-11-23 begins ISO week 48
        (
            RetentionPolicy(keep_weekly=2),
            ["2026-11-15T04", "2026-11-22T04", "2026-11-23T04"],
            [1, 2],
        ),
        (
            RetentionPolicy(keep_weekly=2),
            ["2020-12-27T04", "2020-12-31T04", "2021-01-03T04", "2021-01-04T04"],
            [2, 3],
        ),
        (
            RetentionPolicy(keep_monthly=2),
            ["2026-09-30T04", "2026-10-31T04", "2026-11-01T04"],
            [1, 2],
        ),
        (
            RetentionPolicy(keep_yearly=2),
            ["2024-12-31T04", "2025-12-31T04", "2026-01-01T04"],
            [1, 2],
        ),
    ],
)
def test_each_calendar_rule_counts_its_own_periods(
    policy: RetentionPolicy, times: list[str], expected: list[int]
) -> None:
    """Two periods are asked for; a week is one of ISO 8601, also over the turn of a year."""
    moments = [at(time) for time in times]
    found = choose_points(history(*moments), policy, now=NOW)
    assert kept(found) == by_time(*(moments[number] for number in expected))


def test_periods_without_a_point_do_not_count() -> None:
    """Three days are three days that have points, whatever lies between."""
    times = [at("2026-01-01T04"), at("2026-05-01T04"), at("2026-11-01T04"), at("2026-11-02T04")]
    found = choose_points(history(*times), RetentionPolicy(keep_daily=3), now=NOW)
    assert kept(found) == by_time(*times[1:])


def test_rules_do_not_limit_each_other() -> None:
    """A point is kept when any rule keeps it, and each rule counts on its own."""
    found = choose_points(
        days(40), RetentionPolicy(keep_last=2, keep_daily=3, keep_monthly=2), now=NOW
    )
    assert kept(found) == [
        "20261031T040000Z",
        "20261122T040000Z",
        "20261123T040000Z",
        "20261124T040000Z",
    ]
    assert found[-1].reasons == ("last", "daily 2026-11-24", "monthly 2026-11")
    assert found[-3].reasons == ("daily 2026-11-22",)


def test_a_day_begins_where_the_zone_says() -> None:
    """23:30 in UTC is another day in Berlin."""
    times = [at("2026-11-22T12"), at("2026-11-22T23:30:00"), at("2026-11-23T12")]
    policy = RetentionPolicy(keep_daily=9)
    assert kept(choose_points(history(*times), policy, now=NOW)) == by_time(times[1], times[2])
    berlin = evolve(policy, time_zone="Europe/Berlin")
    assert kept(choose_points(history(*times), berlin, now=NOW)) == by_time(times[0], times[2])


def test_the_hour_that_a_clock_repeats_is_two_hours() -> None:
    """On 2026-10-25 Berlin has 02:30 twice, an hour apart."""
    times = [at("2026-10-25T00:30:00"), at("2026-10-25T01:30:00")]
    policy = RetentionPolicy(keep_hourly=2, time_zone="Europe/Berlin")
    assert kept(choose_points(history(*times), policy, now=NOW)) == by_time(*times)


def test_a_span_counts_from_the_newest_point() -> None:
    """A domain that is backed up no more keeps its points; the edge belongs to the span."""
    found = choose_points(
        days(9), RetentionPolicy(keep_within=timedelta(days=3)), now=NOW + timedelta(days=900)
    )
    assert kept(found) == by_time(*(NOW.replace(hour=4) - timedelta(days=n) for n in (3, 2, 1, 0)))
    assert found[-1].reasons == ("within 3d of the newest",)


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(days=14), "14d"),
        (timedelta(hours=36), "36h"),
        (timedelta(minutes=90), "1:30:00"),
    ],
)
def test_a_span_is_told_as_it_is_given(span: timedelta, words: str) -> None:
    """As ``--keep-within`` reads it, where it can be said so."""
    (verdict,) = choose_points(days(1), RetentionPolicy(keep_within=span), now=NOW)
    assert verdict.reasons == (f"within {words} of the newest",)


def test_points_from_the_future_are_neither_counted_nor_dropped() -> None:
    """A clock that was wrong once must not push out the good points."""
    future = NOW + timedelta(days=400)
    times = [at("2026-11-22T04"), at("2026-11-23T04"), future, at("2026-11-24T04")]
    found = choose_points(history(*times), RetentionPolicy(keep_last=1, keep_yearly=1), now=NOW)
    assert kept(found) == by_time(future, times[3])
    assert found[2].reasons == ("its time is in the future",)
    only_future = choose_points(
        history(future), RetentionPolicy(keep_within=timedelta(days=1)), now=NOW
    )
    assert kept(only_future) == by_time(future)


def test_the_newest_point_by_sequence_is_always_kept() -> None:
    """A clock that went back gives it an old time; the next backup lies on it all the same."""
    times = [at("2026-11-22T04"), at("2026-11-23T04"), at("2020-01-01T04")]
    found = choose_points(history(*times), RetentionPolicy(keep_daily=1), now=NOW)
    assert kept(found) == by_time(times[1], times[2])
    assert found[2].reasons == ("the newest point: the next one lies on it",)


def test_the_last_points_are_those_that_were_taken_last() -> None:
    """Whatever the clock showed: once its time has come, a point of a fast clock is an old one."""
    fast = [at("2026-11-20T04"), at("2026-11-21T04"), at("2026-11-22T04")]
    since = [at("2026-11-10T04"), at("2026-11-11T04"), at("2026-11-12T04")]
    found = choose_points(history(*fast, *since), RetentionPolicy(keep_last=3), now=NOW)
    assert kept(found) == by_time(*since)
    slow = [at("2020-01-01T04"), at("2020-01-02T04")]
    found = choose_points(history(*fast, *slow), RetentionPolicy(keep_last=3), now=NOW)
    assert kept(found) == by_time(fast[2], *slow)


def test_protected_points_are_kept() -> None:
    """By the caller's word, or by a file in the store; a file without its point means nothing."""
    some = days(5)
    first, second = some.points[0].id, some.points[1].id
    policy = RetentionPolicy(keep_last=1, protect=(first, first))
    found = choose_points(
        evolve(some, protected=frozenset({second, "20200101T000000Z"})), policy, now=NOW
    )
    assert kept(found) == [first, second, some.points[-1].id]
    assert found[0].reasons == found[1].reasons == ("protected",)


def test_a_protected_point_that_is_not_there_is_an_error() -> None:
    """A misspelled id would protect nothing."""
    with pytest.raises(NoSuchPointError, match="20200101T000000Z"):
        choose_points(days(3), RetentionPolicy(keep_last=1, protect=("20200101T000000Z",)), now=NOW)


def test_one_whole_point_is_always_kept() -> None:
    """Where all that the rules keep is damaged, the newest sound point stays."""
    times = [NOW - timedelta(hours=hours) for hours in (4, 3, 2, 1)]
    full, last = point(times[2], 3), point(times[3], 4)
    some = history(*times[:2])
    both = evolve(some, points=(*some.points, full, last))
    damaged = frozenset({f"vda/{last.id}.qcow2", f"vda/{full.id}.qcow2"})
    found = choose_points(evolve(both, damaged=damaged), RetentionPolicy(keep_last=1), now=NOW)
    assert kept(found) == by_time(times[1], times[3])
    assert found[1].reasons == ("the newest point that is whole",)


@pytest.mark.parametrize("what", ["an image", "another file", "a disk"])
def test_a_point_that_was_found_wrong_is_not_whole(what: str) -> None:
    """By the last verification; an entry of another file counts for nothing."""
    some = evolve(days(2), points=(days(2).points[0], point(NOW, 3)))
    first, last = some.points
    image, config = last.disks[0].images[0], last.files[0]
    chain = sha256(image.sha256.encode()).hexdigest()
    entries = {
        "an image": VerificationRecord(
            files=(CheckedFile(f"vda/{image.name}", image.sha256, NOW, 1, "a flipped bit"),)
        ),
        "another file": VerificationRecord(
            files=(CheckedFile(config.name, config.sha256, NOW, 1, "a flipped bit"),)
        ),
        "a disk": VerificationRecord(
            contents=(CheckedContent(f"vda/{image.name}", chain, NOW, 1, None, "cut"),)
        ),
    }
    policy, record = RetentionPolicy(keep_last=1), entries[what]
    told = with_found_wrong(some, record)
    found = choose_points(told, policy, now=NOW)
    assert kept(found) == [first.id, last.id]
    assert found[0].reasons == ("the newest point that is whole",)
    plan = plan_prune(told, policy, now=NOW)
    assert (plan.verdicts, plan.steps) == (found, ())
    other = evolve(
        record,
        files=tuple(evolve(each, sha256="0" * 64) for each in record.files),
        contents=tuple(evolve(each, file="vda/other.qcow2") for each in record.contents),
    )
    for harmless in (VerificationRecord(), other):
        told = with_found_wrong(some, harmless)
        assert kept(choose_points(told, policy, now=NOW)) == [last.id]


def test_the_only_whole_point_may_be_from_the_future() -> None:
    """It is kept as such, and nothing else has to be."""
    future = NOW + timedelta(days=1)
    some = history(at("2026-11-22T04"))
    whole = point(future, 2)
    last = point(at("2026-11-24T04"), 3, some.points[0])
    both = evolve(some, points=(*some.points, whole, last))
    damaged = frozenset({f"vda/{some.points[0].id}.qcow2"})
    found = choose_points(evolve(both, damaged=damaged), RetentionPolicy(keep_last=1), now=NOW)
    assert kept(found) == [whole.id, last.id]


def test_nothing_is_dropped_when_no_point_is_whole() -> None:
    """The pieces are all that is left; a chain with a gap or a circle is broken too."""
    some = days(2)
    gone = evolve(some, points=some.points[1:])
    image = some.points[0].disks[0].images[0]
    one, two = (evolve(image, name=a, backing=b) for a, b in (("a", "b"), ("b", "a")))
    disk = PointDisk("vda", DiskKind.INCREMENT, "why", some.points[0].id, 1 << 20, (one,))
    circle = evolve(
        some,
        points=(
            evolve(some.points[0], disks=(disk,)),
            evolve(some.points[1], disks=(evolve(disk, images=(two,)),)),
        ),
    )
    orphan = evolve(
        some, points=(evolve(some.points[1], disks=(evolve(disk, images=(), parent="x"),)),)
    )
    damaged = evolve(some, damaged=frozenset({f"vda/{some.points[0].id}.qcow2"}))
    for each in (gone, circle, orphan, damaged):
        with pytest.raises(VerifyError, match="no point of the domain is whole"):
            choose_points(each, RetentionPolicy(keep_last=1), now=NOW)


def test_an_empty_history_has_no_verdicts() -> None:
    """There is nothing to keep."""
    assert choose_points(history(), RetentionPolicy(keep_last=1), now=NOW) == ()


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({}, "no rule"),
        ({"protect": ("20261124T040000Z",)}, "no rule"),
        ({"keep_last": -1}, "keep_last is -1"),
        ({"keep_daily": True}, "keep_daily is True"),
        ({"keep_within": timedelta(0)}, "not a time span"),
        ({"keep_last": 1, "time_zone": "Mars/Olympus"}, "no time zone"),
        ({"keep_last": 1, "time_zone": "../../etc/passwd"}, "no time zone"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wishes: dict[str, object], words: str) -> None:
    """Above all one without a rule: it would drop everything."""
    with pytest.raises(PolicyError, match=words):
        RetentionPolicy(**wishes)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_a_naive_time_is_refused() -> None:
    """It could be any of 27 moments."""
    with pytest.raises(ModelError, match="time zone"):
        choose_points(days(1), RetentionPolicy(keep_last=1), now=datetime(2026, 11, 24))  # noqa: DTZ001


def _calls(history_: History, policy: RetentionPolicy) -> int:
    """Count the calls of Python functions that a choice takes."""
    count = 0

    def tracer(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(tracer)
    try:
        choose_points(history_, policy, now=NOW)
    finally:
        sys.setprofile(None)
    return count


def test_the_work_grows_with_the_points_and_no_faster() -> None:
    """Four times the points take four times the calls, one chain or many."""

    def hourly(count: int) -> Iterator[datetime]:
        return (NOW - timedelta(hours=back) for back in reversed(range(count)))

    policy = RetentionPolicy(
        keep_last=9, keep_hourly=24, keep_daily=30, keep_weekly=9, keep_monthly=12, keep_yearly=5
    )
    few, many = (_calls(history(*hourly(count)), policy) for count in (500, 2000))
    assert many < 4.5 * few
