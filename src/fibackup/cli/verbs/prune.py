"""``fibackup prune``: drop the points that no rule keeps."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import fibackup as fb
from fibackup.cli.completion import complete_points, complete_stored_domains, completed_by
from fibackup.cli.exits import OK, SOME_FAILED, WARNINGS
from fibackup.cli.metrics import metrics_option, write_samples
from fibackup.cli.options import count, dry_run_option, store_option, strict_option
from fibackup.cli.output import Failure, complain, print_items
from fibackup.cli.parser import own_version
from fibackup.cli.progress import aside
from fibackup.cli.runs import Done, run_plan, show_plan
from fibackup.cli.say import warn
from fibackup.cli.signals import Signals
from fibackup.cli.stores import find_history, read_histories

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  fibackup prune --store /backup --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  fibackup prune --store /backup --keep-last 30 --protect 20261124T040407Z web1
  fibackup prune --store /backup --keep-within 14d --time-zone Europe/Berlin --keep-yearly 10

A point is kept when any rule keeps it. Kept points read the same as before, whatever happens.
"""

_RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_SPAN = re.compile(r"([0-9]+)([hdw])", re.ASCII)
_HOURS = {"h": 1, "d": 24, "w": 168}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options of ``prune``.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.epilog = _EXAMPLES
    store_option(parser)
    for rule in _RULES:
        what = "the newest N points" if rule == "last" else f"the newest of each of N {_noun(rule)}"
        parser.add_argument(
            f"--keep-{rule}", metavar="N", type=count, default=0, help=f"keep {what}"
        )
    parser.add_argument(
        "--keep-within",
        metavar="SPAN",
        type=_span,
        help="keep all that are younger than the newest by less: 36h, 14d, 8w",
    )
    protect = parser.add_argument(
        "--protect",
        metavar="POINT",
        action="append",
        default=[],
        help="keep this point (for good: touch <id>.protected beside its manifest)",
    )
    completed_by(protect, complete_points)
    parser.add_argument(
        "--time-zone",
        metavar="ZONE",
        default="UTC",
        help="where hours, days and longer periods begin, such as Europe/Berlin (default: UTC)",
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=float,
        default=600.0,
        help="how long to wait for those who read the store (default: 600)",
    )
    metrics_option(parser)
    strict_option(parser)
    dry_run_option(parser)
    domains = parser.add_argument(
        "domains", metavar="DOMAIN", nargs="*", help="name or UUID (default: every domain)"
    )
    completed_by(domains, complete_stored_domains)


def run(arguments: argparse.Namespace, signals: Signals) -> int:
    """
    Prune the points of one domain after the other.

    Args:
        arguments: Parsed.
        signals: Whose token ends a run early.

    Returns:
        The exit code.

    Raises:
        FibackupError: The policy makes no sense, or the store cannot be read.

    Source:
        docs/prune.md.
    """
    policy = fb.RetentionPolicy(
        keep_last=arguments.keep_last,
        keep_hourly=arguments.keep_hourly,
        keep_daily=arguments.keep_daily,
        keep_weekly=arguments.keep_weekly,
        keep_monthly=arguments.keep_monthly,
        keep_yearly=arguments.keep_yearly,
        keep_within=arguments.keep_within,
        time_zone=arguments.time_zone,
        protect=tuple(arguments.protect),
    )
    results: list[dict[str, object]] = []
    codes: list[int] = []
    passed_over: list[str] = []
    warned = False

    def tell(words: str) -> None:
        if words not in passed_over:
            warn(words)
        passed_over.append(words)

    with fb.Store.open(arguments.store) as store:
        uuids = store.domains()
        for name in () if arguments.domains else store.misnamed():
            place = fb.printable(f"{arguments.store}/{name}")
            tell(f"{place}: it holds points that are not pruned; fibackup verify tells more")
        for name in arguments.domains or _to_prune(store, uuids):
            found: dict[str, object] = {"domain": name, "uuid": name if name in uuids else ""}
            try:
                signals.token.check()
                history = _history(store, name, policy, tell)
                found = {"domain": history.points[-1].domain, "uuid": history.uuid}
                done, warns = _prune(arguments, store, history, policy, signals)
                warned = warned or warns
                results.append({**found, "ok": True, **done})
                codes.append(OK)
            except fb.FibackupError as error:
                failure = Failure(error, arguments, str(found["domain"]), str(found["uuid"]))
                with aside(arguments):
                    complain(failure)
                results.append(failure.document())
                codes.append(failure.code)
    print_items(arguments, "results", results)
    warned = warned or bool(passed_over)
    failed = [code for code in codes if code != OK]
    if not failed:
        return WARNINGS if warned and arguments.strict else OK
    return failed[0] if len(failed) == len(codes) else SOME_FAILED


def _to_prune(store: fb.Store, uuids: Sequence[str]) -> tuple[str, ...]:
    """Return the domains that have points, or may have: what is wrong with one is told of it."""
    every, unread = read_histories(store, uuids)
    there = {each.uuid for each in every if _may_have_points(each)}
    return tuple(uuid for uuid in uuids if uuid in there or uuid in unread)


def _may_have_points(history: fb.History) -> bool:
    return bool(history.points or history.unreadable or history.lost or history.orphans)


def _history(
    store: fb.Store, name: str, policy: fb.RetentionPolicy, on_unread: Callable[[str], None]
) -> fb.History:
    """Return the history; of a domain without a point the plan says why nothing can be dropped."""
    try:
        return find_history(store, name, on_unread)
    except fb.NoSuchPointError:
        if name in store.domains():
            fb.plan_prune(store.read_history(name), policy, now=datetime.now(UTC))
        raise


def _prune(
    arguments: argparse.Namespace,
    store: fb.Store,
    history: fb.History,
    policy: fb.RetentionPolicy,
    signals: Signals,
) -> Done:
    wait = max(arguments.wait, 0.0)
    if not arguments.dry_run:
        with store.locked(
            history.uuid,
            history.points[-1].domain,
            exclusive=True,
            spared=lambda found: _kept(found, policy),
        ):
            pass  # what a killed run had left is done now
    in_use = store.images_in_use(history.uuid, wait_seconds=0.0 if arguments.dry_run else wait)
    plan = fb.plan_prune(
        store.read_history(history.uuid),  # a verification that was waited for may have found more
        policy,
        now=datetime.now(UTC),
        wait_seconds=wait,
        in_use=in_use,
    )
    if arguments.dry_run:
        return show_plan(arguments, plan)
    done = run_plan(arguments, fb.Executor(None, store), plan, signals)
    write_samples(arguments, lambda: _samples(store, plan))
    return done


def _kept(history: fb.History, policy: fb.RetentionPolicy) -> frozenset[str]:
    """Return what the policy keeps, of what an interrupted prune was taking away and of others."""
    verdicts = fb.choose_points(history, policy, now=datetime.now(UTC))
    return frozenset(verdict.point for verdict in verdicts if verdict.kept)


def _samples(store: fb.Store, plan: fb.Plan) -> tuple[fb.Sample, ...]:
    path, points = str(store.path), len(store.read_history(plan.uuid).points)
    return (
        *fb.pruned_metrics(plan.domain, path, now=datetime.now(UTC), points=points),
        *fb.store_metrics(path, free_bytes=store.free_bytes(), version=own_version()),
    )


def _noun(rule: str) -> str:
    return {"daily": "days"}.get(rule, f"{rule.removesuffix('ly')}s")


def _span(text: str) -> timedelta:
    """Read a span of time."""
    found = _SPAN.fullmatch(text)
    try:
        span = timedelta(hours=int(found[1]) * _HOURS[found[2]]) if found else timedelta(0)
    except (OverflowError, ValueError):
        raise argparse.ArgumentTypeError(f"more than time has: {text!r}") from None
    if span <= timedelta(0):
        raise argparse.ArgumentTypeError(f"not a span such as 36h, 14d or 8w: {text!r}")
    return span
