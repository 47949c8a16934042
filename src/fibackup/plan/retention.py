"""
Which points are kept: every rule keeps points of its own accord, and what no rule keeps is dropped.

::

    time        24. 22:00   24. 04:00   23. 04:00   22. 04:00   21. 04:00
    last 2      kept        kept
    daily 3     kept        -           kept        kept                      newest of its day
                kept        kept        kept        kept        dropped

Nothing is dropped here; `plan_prune` plans that. Calendar rules go by the time of a point, in a
stated zone; the last points are the last by sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from attrs import field, frozen

from fibackup.errors import ModelError, PolicyError, VerifyError
from fibackup.model.point import History, RestorePoint
from fibackup.plan.forest import broken_points
from fibackup.plan.wishes import names
from fibackup.units import format_bytes, printable

__all__ = ["PointVerdict", "RetentionPolicy", "choose_points"]

NOTHING_KEEPS_IT = "no rule keeps it"


def _count(_: object, attribute: object, value: int) -> None:
    if isinstance(value, bool) or value < 0:
        name = getattr(attribute, "name", "")
        raise PolicyError(reason=f"{name} is {value!r}, not a number of points")


@frozen
class RetentionPolicy:
    """
    How many points to keep, by rules that do not limit each other; 0 means that a rule is not used.

    A calendar rule keeps the newest point of each of the newest periods that have one. Periods
    without a point do not count.

    Attributes:
        keep_last: The newest points, as they were taken, whatever their time.
        keep_hourly: Hours.
        keep_daily: Days.
        keep_weekly: Weeks, from Monday, as ISO 8601 counts them.
        keep_monthly: Months.
        keep_yearly: Years.
        keep_within: Every point that is younger than this, counted from the newest one.
        time_zone: Zone in which hours, days, weeks, months and years begin; a name of the IANA
            database, such as ``"Europe/Berlin"``.
        protect: Ids of points that are kept in any case.
    """

    keep_last: int = field(default=0, validator=_count)
    keep_hourly: int = field(default=0, validator=_count)
    keep_daily: int = field(default=0, validator=_count)
    keep_weekly: int = field(default=0, validator=_count)
    keep_monthly: int = field(default=0, validator=_count)
    keep_yearly: int = field(default=0, validator=_count)
    keep_within: timedelta | None = None
    time_zone: str = "UTC"
    protect: tuple[str, ...] = field(default=(), validator=names)

    def __attrs_post_init__(self) -> None:
        """Refuse a policy without a rule, an unknown zone, and a time that is not in the past."""
        if not any(self._counts.values()) and self.keep_within is None:
            raise PolicyError(
                reason="no rule says what to keep; a policy that drops everything is refused"
            )
        if self.keep_within is not None and self.keep_within <= timedelta(0):
            raise PolicyError(reason=f"keep_within is {self.keep_within}, not a time span")
        self.zone  # noqa: B018 - an unknown zone is refused here and not later

    @property
    def _counts(self) -> Mapping[str, int]:
        return {
            "last": self.keep_last,
            "hourly": self.keep_hourly,
            "daily": self.keep_daily,
            "weekly": self.keep_weekly,
            "monthly": self.keep_monthly,
            "yearly": self.keep_yearly,
        }

    @property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        try:
            return ZoneInfo(self.time_zone)
        except (KeyError, OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
            raise PolicyError(
                reason=f"{self.time_zone!r} is no time zone, such as Europe/Berlin"
            ) from None


@frozen
class PointVerdict:
    """
    Whether a point is kept, and why.

    Attributes:
        point: Its id.
        kept: False: it is dropped.
        reasons: What keeps it, in words; or why it is dropped. 1 or more.
        freed_bytes: Bytes of the files that go with it at once, 0 when it is kept.
    """

    point: str
    kept: bool
    reasons: tuple[str, ...]
    freed_bytes: int = 0

    def __str__(self) -> str:
        """Return one line."""
        words = ", ".join(printable(reason) for reason in self.reasons)
        freed = f", {format_bytes(self.freed_bytes)} freed at once" if self.freed_bytes else ""
        return f"{self.point}  {'keep' if self.kept else 'drop'}: {words}{freed}"


_Period = Callable[[datetime], tuple[object, ...]]

_PERIODS: Mapping[str, tuple[_Period, Callable[[datetime], str]]] = {
    "hourly": (
        # In the hour that a clock repeats, the offset tells the first from the second.
        lambda t: (t.year, t.month, t.day, t.hour, t.utcoffset()),
        lambda t: f"{t:%Y-%m-%d %H}h",
    ),
    "daily": (lambda t: (t.year, t.month, t.day), lambda t: f"{t:%Y-%m-%d}"),
    "weekly": (
        lambda t: t.isocalendar()[:2],
        lambda t: f"{t.isocalendar().year}-W{t.isocalendar().week:02}",
    ),
    "monthly": (lambda t: (t.year, t.month), lambda t: f"{t:%Y-%m}"),
    "yearly": (lambda t: (t.year,), lambda t: f"{t.year}"),
}


def choose_points(
    history: History,
    policy: RetentionPolicy,
    *,
    now: datetime,
) -> tuple[PointVerdict, ...]:
    """
    Say of each point whether the policy keeps it.

    Besides what the rules keep, these are kept: protected points; points from the future, which
    do not count for any rule; the newest point by sequence, because the next backup lies on it;
    and, when nothing that is kept is whole, the newest point that is. A point is whole when all of
    its images are there, with their sizes, and no verification has found anything wrong with it.

    Args:
        history: What the store holds of the domain.
        policy: The rules.
        now: The time, aware; what is later is from the future.

    Returns:
        One verdict for each point, oldest first by sequence.

    Raises:
        NoSuchPointError: A protected point is not there. Nothing was touched.
        VerifyError: No point is whole, so none is dropped. Nothing was touched.
        ModelError: *now* is naive. Nothing was touched.

    Source:
        docs/prune.md, "What is kept"; restic(1), ``forget``: the rules do not limit each other.
    """
    if now.tzinfo is None:
        raise ModelError(reason="the time of a retention needs a time zone")
    if not history.points:
        return ()
    reasons: dict[str, list[str]] = {point.id: [] for point in history.points}
    for point_id in {
        *(history.point(point_id).id for point_id in policy.protect),
        *(history.protected & reasons.keys()),
    }:
        reasons[point_id].append("protected")
    taken = [point for point in reversed(history.points) if point.time <= now]
    past = sorted(taken, key=lambda point: (point.time, point.sequence), reverse=True)
    for point in taken[: policy.keep_last]:  # as they were taken: a clock may have been wrong
        reasons[point.id].append("last")
    for point, reason in (*_by_period(past, policy), *_by_age(past, policy)):
        reasons[point.id].append(reason)
    for point in history.points:
        if point.time > now:
            reasons[point.id].append("its time is in the future")
    newest = history.points[-1].id
    if not reasons[newest]:
        reasons[newest].append("the newest point: the next one lies on it")
    _keep_a_whole_one(history, taken, reasons)
    return tuple(
        PointVerdict(point.id, bool(found), tuple(found) or (NOTHING_KEEPS_IT,))
        for point in history.points
        for found in (reasons[point.id],)
    )


def _by_period(
    past: list[RestorePoint], policy: RetentionPolicy
) -> Iterator[tuple[RestorePoint, str]]:
    """Yield what the calendar rules keep; *past* is newest first."""
    zone = policy.zone
    local = [(point, point.time.astimezone(zone)) for point in past]
    counts = {
        "hourly": policy.keep_hourly,
        "daily": policy.keep_daily,
        "weekly": policy.keep_weekly,
        "monthly": policy.keep_monthly,
        "yearly": policy.keep_yearly,
    }
    for name, count in counts.items():
        period, words = _PERIODS[name]
        for point, time in _newest_of_each(local, period, count):
            yield point, f"{name} {words(time)}"


def _newest_of_each(
    local: Iterable[tuple[RestorePoint, datetime]], period: _Period, count: int
) -> Iterator[tuple[RestorePoint, datetime]]:
    seen: set[tuple[object, ...]] = set()
    for point, time in local:
        if len(seen) == count:
            return
        key = period(time)
        if key not in seen:
            seen.add(key)
            yield point, time


def _by_age(
    past: list[RestorePoint], policy: RetentionPolicy
) -> Iterator[tuple[RestorePoint, str]]:
    if policy.keep_within is None or not past:
        return
    newest = past[0].time
    for point in past:
        if newest - point.time <= policy.keep_within:
            yield point, f"within {_span(policy.keep_within)} of the newest"


def _span(span: timedelta) -> str:
    """Return a span as ``--keep-within`` reads it: ``14d``, ``36h``."""
    hours, rest = divmod(span, timedelta(hours=1))
    if rest:
        return str(span)
    return f"{hours}h" if hours % 24 else f"{hours // 24}d"


def _keep_a_whole_one(
    history: History,
    taken: list[RestorePoint],
    reasons: dict[str, list[str]],
) -> None:
    """Keep the newest whole point when nothing else that is kept is; *taken* is newest first."""
    broken = broken_points(history)
    whole = [point.id for point in history.points if point.id not in broken]
    if not whole:
        raise VerifyError(
            reason="no point of the domain is whole: each lacks an image, has one of another size, "
            "or was found wrong when it was verified; nothing is dropped",
            domain=history.points[-1].domain,
            path=str(history.path),
        )
    if not any(reasons[point_id] for point_id in whole):
        newest = next((point.id for point in taken if point.id in whole), whole[-1])
        reasons[newest].append("the newest point that is whole")
