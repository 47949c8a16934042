"""
``fibackup``: run a verb, print its result, return its exit code.

Data goes to stdout, everything else to stderr. Ctrl-C and SIGTERM ask the run to stop; it stops
between two steps or inside a copy, never between a freeze and its thaw.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TextIO, TypeVar
from uuid import UUID

import fibackup as fb
from fibackup.cli.exits import FAILED, OK, SOME_FAILED, USAGE, WARNINGS, exit_code
from fibackup.cli.parser import build_parser
from fibackup.cli.progress import progress_for
from fibackup.cli.signals import Signals
from fibackup.cli.stores import is_store, open_store, refuse_lost_store

__all__ = ["main"]

_T = TypeVar("_T")

_NO_STORE = str(UUID(int=0))


class _Failure:
    """One domain's error, for people and for JSON."""

    def __init__(self, domain: str, error: fb.FibackupError) -> None:
        self.domain = domain
        self.error = error
        self.code = exit_code(error)

    def document(self) -> dict[str, object]:
        error = self.error
        found: dict[str, object] = {
            "type": type(error.__cause__).__name__
            if isinstance(error, fb.StepError) and isinstance(error.__cause__, fb.FibackupError)
            else type(error).__name__,
            "message": str(error),
            "disk": error.target,
            "path": error.path,
            "exit_code": self.code,
        }
        if isinstance(error, fb.StepError):
            found |= {
                "state": error.state,
                "next_command": error.next_command,
                "done": list(error.done),
            }
        return {"domain": self.domain, "ok": False, "error": found}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv: Arguments without the program's name; None: those of the process.

    Returns:
        The exit code.

    Source:
        docs/design.md, "Command line"; exit codes: docs/errors.md.
    """
    arguments = build_parser().parse_args(argv)
    _log(arguments.verbose)
    _accept_all_names(sys.stdout)
    signals = Signals()
    signals.install()
    verbs: dict[str, Callable[[argparse.Namespace, Signals], int]] = {
        "backup": _backup,
        "consolidate": _consolidate,
        "recover": _recover,
        "chain": _chain,
        "list": _list,
        "restore": _restore,
    }
    try:
        code = verbs[arguments.verb](arguments, signals)
        sys.stdout.flush()
    except fb.FibackupError as error:
        code = _report_failure(_Failure(error.domain or "", error), as_json=arguments.json)
    except OSError as error:  # the reader of stdout has gone, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"fibackup: error: {fb.printable(str(error))}", file=sys.stderr)
        return FAILED
    return 128 + signals.number if signals.number and code else code


def _accept_all_names(stream: TextIO) -> None:
    """Let names be printed in a locale that lacks their letters."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _log(verbose: int) -> None:
    if verbose:
        logging.basicConfig(
            stream=sys.stderr,
            level=logging.DEBUG if verbose > 1 else logging.INFO,
            format="%(levelname)s %(name)s: %(message)s",
        )


def _report_failure(failure: _Failure, *, as_json: bool) -> int:
    _complain(failure)
    if as_json:
        _print_json({"results": [failure.document()]})
    return failure.code


def _complain(failure: _Failure) -> None:
    for number, line in enumerate(str(failure.error).splitlines()):
        prefix = "fibackup: error: " if number == 0 else "fibackup:   "
        print(prefix + fb.printable(line), file=sys.stderr)


def _print_json(document: object) -> None:
    json.dump(document, sys.stdout, indent=2)
    print()


# --- backup -------------------------------------------------------------------------------------


_One = Callable[[argparse.Namespace, fb.LibvirtHost, str, Signals], tuple[dict[str, object], bool]]
"""What is done with one domain: its part of the result, and whether there was a warning."""


def _backup(arguments: argparse.Namespace, signals: Signals) -> int:
    return _each_domain(arguments, signals, _backup_one)


def _each_domain(arguments: argparse.Namespace, signals: Signals, one: _One) -> int:
    """Do the same with each domain; one that fails never hides another's result."""
    if bool(arguments.domains) == bool(arguments.all or arguments.running):
        words = "name domains, or say --all or --running"
        print(f"fibackup {arguments.verb}: {words}", file=sys.stderr)
        return USAGE
    with fb.LibvirtHost.open(arguments.connect) as host:
        warned = _check_versions(arguments, host)
        names = arguments.domains or host.list_domains(running=arguments.running)

        def attempt(name: str) -> tuple[dict[str, object], bool] | _Failure:
            try:
                signals.token.check()
                return one(arguments, host, name, signals)
            except fb.FibackupError as error:
                failure = _Failure(name, error)
                _complain(failure)
                return failure

        outcomes = _side_by_side(attempt, names, arguments.jobs)
    failures = [each for each in outcomes if isinstance(each, _Failure)]
    results: list[dict[str, object]] = []
    for name, outcome in zip(names, outcomes, strict=True):
        if isinstance(outcome, _Failure):
            results.append(outcome.document())
        else:
            results.append({"domain": name, "ok": True, **outcome[0]})
            warned = warned or outcome[1]
    if arguments.json:
        _print_json({"results": results})
    if failures:
        return failures[0].code if len(failures) == len(results) else SOME_FAILED
    return WARNINGS if warned and arguments.strict else OK


def _side_by_side(work: Callable[[str], _T], names: Sequence[str], jobs: int) -> list[_T]:
    """Return what *work* makes of each name, in their order; *jobs* of them at a time."""
    if jobs == 1:
        return [work(name) for name in names]
    with ThreadPoolExecutor(jobs, "fibackup-domain") as pool:
        return list(pool.map(work, names))


def _check_versions(arguments: argparse.Namespace, host: fb.LibvirtHost) -> bool:
    """Refuse what is too old; tell of what is odd, and return whether there was such."""
    consolidates = arguments.verb == "consolidate" or getattr(arguments, "consolidate", False)
    warnings = host.check_requirements(consolidates=consolidates)
    for warning in warnings:
        print(f"fibackup: warning: {warning}", file=sys.stderr)
    return bool(warnings)


def _backup_one(
    arguments: argparse.Namespace, host: fb.LibvirtHost, name: str, signals: Signals
) -> tuple[dict[str, object], bool]:
    policy = fb.BackupPolicy(
        disks=tuple(arguments.disk),
        exclude=tuple(arguments.exclude),
        quiesce=fb.Quiesce(arguments.quiesce),
        freeze_timeout_seconds=arguments.freeze_timeout,
        full=arguments.full,
        skip_unsupported=arguments.skip_unsupported,
        memory=arguments.memory,
        allow_paused=arguments.allow_paused,
        consolidate=arguments.consolidate,
    )
    domain = host.read_domain(name)
    now = datetime.now(UTC)
    if arguments.dry_run:
        plan = fb.plan_backup(
            domain, _history_for_dry_run(arguments.store, domain), now=now, policy=policy
        )
        if not arguments.json:
            print(plan)
        return {"plan": fb.encode(plan)}, bool(plan.warnings)
    nothing = fb.History(store=_NO_STORE, path=_absolute(arguments.store), uuid=domain.uuid)
    if not is_store(arguments.store):
        fb.plan_backup(domain, nothing, now=now, policy=policy)  # a bad domain makes no store
    with open_store(arguments.store, domain) as store:
        plan = fb.plan_backup(domain, store.read_history(domain.uuid), now=now, policy=policy)
        if arguments.verbose:
            print(plan, file=sys.stderr)
        with _progress(arguments) as listener:
            report = fb.Executor(host, store).run(plan, on_event=listener, cancel=signals.token)
    if not arguments.json and not arguments.quiet:
        print(report)
    return {"report": fb.encode(report)}, bool(report.warnings)


def _progress(arguments: argparse.Namespace) -> AbstractContextManager[fb.OnEvent]:
    """Return the listener for a run; bars are for one domain at a time."""
    quiet = arguments.quiet or arguments.no_progress
    return progress_for(quiet=quiet, plain=getattr(arguments, "jobs", 1) > 1)


def _absolute(path: str) -> PurePosixPath:
    return PurePosixPath(os.path.abspath(path))


def _history_for_dry_run(path: str, domain: fb.Domain) -> fb.History:
    if is_store(path):
        with fb.Store.open(path) as store:
            return store.read_history(domain.uuid)
    refuse_lost_store(path, domain)
    if not os.path.isdir(path) or set(os.listdir(path)) - {"lost+found"}:
        raise fb.NotAStoreError(
            reason="the directory is missing, or neither empty nor a store", path=path
        )
    return fb.History(store=_NO_STORE, path=_absolute(path), uuid=domain.uuid)


# --- consolidate --------------------------------------------------------------------------------


def _consolidate(arguments: argparse.Namespace, signals: Signals) -> int:
    return _each_domain(arguments, signals, _consolidate_one)


def _consolidate_one(
    arguments: argparse.Namespace, host: fb.LibvirtHost, name: str, signals: Signals
) -> tuple[dict[str, object], bool]:
    policy = fb.ConsolidationPolicy(
        method=fb.Method(arguments.method),
        keep_overlay=arguments.keep_overlay,
        disks=tuple(arguments.disk),
        bandwidth_bytes=arguments.bandwidth,
        timeout_seconds=arguments.timeout,
        suspend_seconds=arguments.suspend,
        allow_paused=arguments.allow_paused,
    )
    domain = host.read_domain(name)
    paths = tuple(path for disk in domain.disks if disk.chain for path in disk.chain.paths)
    uses = host.image_uses(domain.uuid, paths)
    plan = fb.plan_consolidation(domain, uses=uses, policy=policy)
    if arguments.dry_run:
        if not arguments.json:
            print(plan)
        return {"plan": fb.encode(plan)}, bool(plan.warnings)
    if arguments.verbose:
        print(plan, file=sys.stderr)
    with _progress(arguments) as listener:
        report = fb.Executor(host, None).run(plan, on_event=listener, cancel=signals.token)
    if not arguments.json and not arguments.quiet:
        print(report)
    return {"report": fb.encode(report)}, bool(report.warnings)


# --- recover ------------------------------------------------------------------------------------


def _recover(arguments: argparse.Namespace, signals: Signals) -> int:
    return _each_domain(arguments, signals, _recover_one)


def _recover_one(
    arguments: argparse.Namespace, host: fb.LibvirtHost, name: str, signals: Signals
) -> tuple[dict[str, object], bool]:
    domain = host.read_domain(name)
    with _store_of_run(arguments.store, domain) as store:
        history = store.read_history(domain.uuid) if store is not None else None
        plan = fb.plan_recovery(domain, history, now=datetime.now(UTC))
        if arguments.dry_run or not plan.steps:
            if not arguments.json and not arguments.quiet:
                print(plan if plan.steps or plan.warnings else f"{domain.name}: nothing to recover")
            return {"plan": fb.encode(plan)}, bool(plan.warnings)
        if arguments.verbose:
            print(plan, file=sys.stderr)
        with _progress(arguments) as listener:
            executor = fb.Executor(host, store)
            report = executor.run(plan, on_event=listener, cancel=signals.token)
    if not arguments.json and not arguments.quiet:
        print(report)
    return {"report": fb.encode(report)}, bool(report.warnings)


@contextmanager
def _store_of_run(path: str | None, domain: fb.Domain) -> Generator[fb.Store | None]:
    """Open the store that was asked for, or the one that the ledger names for the run, if any."""
    run = domain.ledger.run
    places = [each.path for each in domain.ledger.stores if run and each.uuid == run.store]
    where = path or next(iter(places), None)
    if where is None or (path is None and not is_store(where)):
        yield None
        return
    with fb.Store.open(where) as store:
        yield store


# --- chain, list, restore -----------------------------------------------------------------------


def _chain(arguments: argparse.Namespace, _: Signals) -> int:
    with fb.LibvirtHost.open(arguments.connect) as host:
        domain = host.read_domain(arguments.domain)
    history = None
    if arguments.store is not None:
        with fb.Store.open(arguments.store) as store:
            history = store.read_history(domain.uuid)
    if arguments.json:
        _print_json({"domain": fb.encode(domain)})
    else:
        print(fb.draw_chains(domain, history))
    return OK


def _list(arguments: argparse.Namespace, _: Signals) -> int:
    with fb.Store.open(arguments.store) as store:
        if arguments.domain is None:
            histories = [store.read_history(uuid) for uuid in store.domains()]
        else:
            histories = [_find_history(store, arguments.domain)]
    for history in histories:
        for file, reason in history.unreadable:
            print(f"fibackup: warning: {fb.printable(f'{file}: {reason}')}", file=sys.stderr)
    points = sorted(
        (point for each in histories for point in each.points), key=lambda p: (p.time, p.sequence)
    )
    if arguments.json:
        tops = {each.uuid: each for each in histories}
        _print_json({"points": [_point_document(tops[point.uuid], point) for point in points]})
        return OK
    for history in histories:
        if history.points:
            print(f"{fb.printable(history.points[-1].domain)}  {history.uuid}")
            print(fb.draw_history(history))
            print()
    return OK


def _point_document(history: fb.History, point: fb.RestorePoint) -> dict[str, object]:
    """Return a point as ``list --json`` promises it; fields may be added, never changed."""
    return {
        "id": point.id,
        "domain": point.domain,
        "uuid": point.uuid,
        "time": point.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "sequence": point.sequence,
        "kind": str(point.kind),
        "consistency": str(point.consistency),
        "parent": point.parent,
        "disks": {
            disk.target: {
                "image": history.top(point.id, disk.target).name,
                "kind": str(disk.kind),
                "reason": disk.reason,
                "bytes": disk.size_bytes,
                "virtual_size": disk.virtual_size_bytes,
                "sha256": history.top(point.id, disk.target).sha256,
            }
            for disk in point.disks
        },
    }


def _find_history(store: fb.Store, name: str) -> fb.History:
    """Return the history of the domain with this UUID, or with this name at its newest point."""
    found = [store.read_history(name)] if name in store.domains() else []
    if not found:
        every = (store.read_history(uuid) for uuid in store.domains())
        found = [each for each in every if each.points and each.points[-1].domain == name]
    if len(found) == 1 and found[0].points:
        return found[0]
    if found:
        uuids = ", ".join(each.uuid for each in found)
        raise fb.NoSuchPointError(
            reason=f"several domains have had this name; say which: {uuids}", domain=name
        )
    raise fb.NoSuchPointError(
        reason="the store has no point of this domain", domain=name, path=str(store.path)
    )


def _restore(arguments: argparse.Namespace, signals: Signals) -> int:
    with fb.Store.open(arguments.store) as store:
        history = _find_history(store, arguments.domain)
        plan = fb.plan_restore(
            history,
            arguments.point,
            into=_absolute(arguments.into),
            disks=tuple(arguments.disk),
            image_format=fb.ImageFormat(arguments.format),
            memory=arguments.memory,
            paused=arguments.paused,
        )
        if arguments.dry_run:
            if arguments.json:
                _print_json(
                    {"results": [{"domain": plan.domain, "ok": True, "plan": fb.encode(plan)}]}
                )
            else:
                print(plan)
            return OK
        quiet = arguments.quiet or arguments.no_progress
        with ExitStack() as opened, progress_for(quiet=quiet) as listener:
            host = None
            if arguments.memory:
                host = opened.enter_context(fb.LibvirtHost.open(arguments.connect))
            report = fb.Executor(host, store).run(plan, on_event=listener, cancel=signals.token)
    if arguments.json:
        _print_json({"results": [{"domain": plan.domain, "ok": True, "report": fb.encode(report)}]})
    elif not arguments.quiet:
        print(report)
    return OK
