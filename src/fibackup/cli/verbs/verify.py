"""``fibackup verify``: compare what a store holds with what was recorded."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import fibackup as fb
from fibackup.cli.advice import after_faults, reaching
from fibackup.cli.completion import complete_points, complete_stored_domains, completed_by
from fibackup.cli.exits import FAILED, OK, SOME_FAILED, USAGE, WARNINGS, exit_code
from fibackup.cli.metrics import metrics_option, note_verified
from fibackup.cli.options import byte_count, dry_run_option, store_option, strict_option
from fibackup.cli.output import Failure, complain, print_json, print_line
from fibackup.cli.progress import aside, progress
from fibackup.cli.runs import show_plan, warn_if_strict
from fibackup.cli.say import ERROR, say, warn
from fibackup.cli.signals import Signals
from fibackup.cli.stores import read_histories, the_one

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  fibackup verify --store /backup                           everything, read once
  fibackup verify --store /backup web1 --deep               and as the guest reads it
  fibackup verify --store /backup --sample 10% --rate 50M   each night: about a tenth, whole files
  fibackup verify --store /backup --skip-since 12h          go on where one was interrupted
"""
_AGE = re.compile(r"(\d+)([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options of ``verify``.

    Args:
        parser: Of the verb.

    Source:
        docs/verify.md.
    """
    parser.epilog = _EXAMPLES
    store_option(parser)
    domain = parser.add_argument(
        "domain", metavar="DOMAIN", nargs="?", help="name or UUID (default: every domain)"
    )
    completed_by(domain, complete_stored_domains)
    point = parser.add_argument(
        "--point", metavar="POINT", help="only what this point of the domain needs; or: latest"
    )
    completed_by(point, complete_points)
    parser.add_argument(
        "--deep",
        action="store_true",
        help="check the structure of images too, and read each disk as a guest does",
    )
    parser.add_argument(
        "--sample",
        metavar="P",
        type=_percent,
        default=100.0,
        help="read this share of all bytes, such as 10%%: what was read longest ago",
    )
    parser.add_argument(
        "--skip-since",
        metavar="WHEN",
        type=_moment,
        help="do not read again what was verified since: a time, or an age such as 12h or 7d",
    )
    parser.add_argument(
        "--rate",
        metavar="BYTES",
        type=byte_count,
        default=0,
        help="bytes in a second to read at most, such as 50M (default: 0, no limit)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=_threads,
        default=4,
        help="files that are read at the same time (default: 4)",
    )
    strict_option(parser)
    dry_run_option(parser)
    metrics_option(parser)


def _percent(text: str) -> float:
    """Read a share in percent."""
    try:
        found = float(text.removesuffix("%"))
    except ValueError:
        found = 0.0
    if not 0 < found <= 100:
        raise argparse.ArgumentTypeError(f"not a share of more than 0 and at most 100 %: {text!r}")
    return found


def _threads(text: str) -> int:
    """Read a number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number of 1 or more: {text!r}")
    return int(text)


def _moment(text: str) -> datetime:
    """Read a time, or an age; a time without a zone is that of this machine."""
    match = _AGE.fullmatch(text)
    try:
        if match is not None:
            return datetime.now(UTC) - timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        words = f"neither a time such as 2026-11-24T04:04:07Z nor an age such as 12h: {text!r}"
        raise argparse.ArgumentTypeError(words) from None


def run(arguments: argparse.Namespace, signals: Signals) -> int:
    """
    Verify one domain's points, or all.

    Args:
        arguments: Parsed.
        signals: Whose token ends a run early.

    Returns:
        The exit code: 12 when there is a fault.

    Raises:
        FibackupError: The store cannot be read, or does not know the domain.

    Source:
        docs/verify.md.
    """
    passed_over: list[str] = []

    def tell(words: str) -> None:
        passed_over.append(words)
        warn(words)

    with fb.Store.open(arguments.store) as store:
        strangers = store.strangers() if arguments.domain is None else ()
        misnamed = store.misnamed() if strangers else {}
        uuids = _domains(store, arguments.domain, tell)
        if arguments.point is not None and len(uuids) != 1:
            say("fibackup verify: with --point, name the domain", ERROR)
            return USAGE
        results = [_verify(arguments, store, uuid, signals) for uuid in uuids]
    for name in strangers:
        if name in misnamed:
            results.append(_misnamed(arguments, store, name, misnamed[name]))
        else:
            warn(f"{store.path}/{name}: no fibackup writes such a file")
    if arguments.json and not arguments.json_lines:
        print_json(
            arguments,
            {"results": [document for document, _, _ in results], "strangers": list(strangers)},
        )
    codes = [code for _, code, _ in results if code != OK]
    if 12 in codes:
        return 12
    if codes:
        return codes[0] if len(codes) == len(results) else SOME_FAILED
    warned = bool(strangers or passed_over) or any(warned for _, _, warned in results)
    return WARNINGS if warned and arguments.strict else OK


_Result = tuple[dict[str, object], int, bool]
"""A domain's result, its exit code, and whether there was a warning."""


def _misnamed(arguments: argparse.Namespace, store: fb.Store, name: str, right: str) -> _Result:
    """Tell of points that nothing reads, because nothing knows of which domain they are."""
    place = f"{store.path}/{name}"
    reason = "it holds points, and its name does not say of which domain: nothing reads them"
    failure = Failure(fb.VerifyError(reason=reason, path=place), arguments)
    failure.next_command = (
        f"mv -nT {shlex.quote(place)} {shlex.quote(f'{store.path}/{right}')}"
        if right
        else "move it out of the store: there is another directory of that domain, or its points "
        "are of another store"
    )
    with aside(arguments):
        complain(failure)
    if arguments.json_lines:
        print_line("result", failure.document())
    return failure.document(), failure.code, False


def _verify(arguments: argparse.Namespace, store: fb.Store, uuid: str, signals: Signals) -> _Result:
    """Verify one domain; what fails there does not hide another's result."""
    try:
        signals.token.check()
        with store.locked(uuid, uuid, exclusive=False):  # a prune waits from here on
            result = _verified(arguments, store, uuid, signals)
    except fb.FibackupError as error:
        failure = Failure(error, arguments, uuid=uuid)
        with aside(arguments):
            complain(failure)
        result = failure.document(), failure.code, False
    if arguments.json_lines:
        print_line("result", result[0])
    return result


def _verified(
    arguments: argparse.Namespace, store: fb.Store, uuid: str, signals: Signals
) -> _Result:
    policy = fb.VerifyPolicy(
        point=arguments.point,
        deep=arguments.deep,
        sample_percent=arguments.sample,
        skip_since=arguments.skip_since,
        rate_bytes=arguments.rate,
    )
    plan = fb.plan_verify(store.survey(uuid), now=datetime.now(UTC), policy=policy)
    who: dict[str, object] = {"domain": plan.domain, "uuid": uuid}
    if arguments.dry_run:
        done, warned = show_plan(arguments, plan)
        return {**who, "ok": True, **done}, OK, warned
    if arguments.verbose:
        say(str(plan))
    executor = fb.Executor(None, store, threads=arguments.threads)
    with progress(arguments, plan.domain, uuid) as listener:
        report = executor.run(plan, on_event=listener, cancel=signals.token)
    found = report.verification
    if found is None:  # pragma: no cover - a plan to verify has one
        return {**who, "ok": False}, FAILED, False
    _show(arguments, found)
    problem = note_verified(arguments, found)
    document: dict[str, object] = {
        **who,
        "ok": not found.faults,
        "seconds": report.seconds,
        "verification": fb.encode(found),
        **({"problems": [problem]} if problem else {}),
    }
    if not found.faults:
        return document, OK, bool(found.warnings or problem)
    error = fb.VerifyError(
        domain=found.domain,
        reason=f"{_count(len(found.faults))}; {_whole(found.whole)}",
        path=str(store.path),
    )
    failure = Failure(error, arguments, uuid=uuid)
    advice = after_faults(found.faults, arguments, found.domain)
    failure.next_command = reaching(advice, arguments)
    with aside(arguments):
        complain(failure)
    document["error"] = failure.document()["error"]
    return document, exit_code(error), bool(found.warnings)


def _whole(points: tuple[str, ...]) -> str:
    return f"points that are whole: {', '.join(points)}" if points else "no point is whole"


def _show(arguments: argparse.Namespace, found: fb.Verification) -> None:
    """Print what was found; faults also when all else is not wanted."""
    if arguments.json:
        return
    lines = [str(fault) for fault in found.faults] if arguments.quiet else str(found).splitlines()
    with aside(arguments):
        warn_if_strict(arguments, found.domain, found.warnings)
        if lines and not arguments.quiet:
            print(f"{fb.printable(found.domain)}  {found.uuid}")
        for line in lines:
            print(f"  {line}")


def _domains(
    store: fb.Store, name: str | None, on_unread: Callable[[str], None]
) -> tuple[str, ...]:
    """Return the UUIDs of all domains, or of one: by it, by its name, or by its directory's."""
    uuids = store.domains()
    if name is None:
        return uuids
    if name in uuids:
        return (name,)
    every, unread = read_histories(store, uuids)
    found = [history.uuid for history in every if _is_called(store, history, name)]
    return (the_one(store, name, found, unread, on_unread),)


def _is_called(store: fb.Store, history: fb.History, name: str) -> bool:
    """Tell by the name at the newest point, or by that of the directory: manifests may be gone."""
    if history.latest is not None:
        return history.latest.domain == name
    return f"{name}-{history.uuid}" in store.directories(history.uuid)


def _count(faults: int) -> str:
    return "1 fault" if faults == 1 else f"{faults} faults"
