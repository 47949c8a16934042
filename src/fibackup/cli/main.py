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
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from types import FrameType
from typing import TextIO
from uuid import UUID

import fibackup as fb
from fibackup.cli.exits import FAILED, OK, SOME_FAILED, USAGE, WARNINGS, exit_code
from fibackup.cli.parser import build_parser
from fibackup.cli.progress import progress_for

__all__ = ["main"]

_NO_STORE = str(UUID(int=0))


class _Signals:
    """Turns SIGINT and SIGTERM into a cancel token, and remembers which it was."""

    def __init__(self) -> None:
        self.token = fb.CancelToken()
        self.number = 0

    def install(self) -> None:
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number
        self.token.cancel()


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
    signals = _Signals()
    signals.install()
    verbs: dict[str, Callable[[argparse.Namespace, _Signals], int]] = {
        "backup": _backup,
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


def _backup(arguments: argparse.Namespace, signals: _Signals) -> int:
    if bool(arguments.domains) == bool(arguments.all or arguments.running):
        print("fibackup backup: name domains, or say --all or --running", file=sys.stderr)
        return USAGE
    results: list[dict[str, object]] = []
    failures: list[_Failure] = []
    warned = False
    with fb.LibvirtHost.open(arguments.connect) as host:
        names = arguments.domains or host.list_domains(running=arguments.running)
        for name in names:
            try:
                signals.token.check()
                result, warnings = _backup_one(arguments, host, name, signals)
                results.append({"domain": name, "ok": True, **result})
                warned = warned or warnings
            except fb.FibackupError as error:
                failure = _Failure(name, error)
                failures.append(failure)
                results.append(failure.document())
                _complain(failure)
    if arguments.json:
        _print_json({"results": results})
    if failures:
        return failures[0].code if len(failures) == len(results) else SOME_FAILED
    return WARNINGS if warned and arguments.strict else OK


def _backup_one(
    arguments: argparse.Namespace, host: fb.LibvirtHost, name: str, signals: _Signals
) -> tuple[dict[str, object], bool]:
    policy = fb.BackupPolicy(
        disks=tuple(arguments.disk),
        exclude=tuple(arguments.exclude),
        quiesce=fb.Quiesce(arguments.quiesce),
        freeze_timeout_seconds=arguments.freeze_timeout,
        full=arguments.full,
        skip_unsupported=arguments.skip_unsupported,
        allow_paused=arguments.allow_paused,
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
    if not _is_store(arguments.store):
        fb.plan_backup(domain, nothing, now=now, policy=policy)  # a bad domain makes no store
    with _open_store(arguments.store, domain) as store:
        plan = fb.plan_backup(domain, store.read_history(domain.uuid), now=now, policy=policy)
        if arguments.verbose:
            print(plan, file=sys.stderr)
        with progress_for(quiet=arguments.quiet or arguments.no_progress) as listener:
            report = fb.Executor(host, store).run(plan, on_event=listener, cancel=signals.token)
    if not arguments.json and not arguments.quiet:
        print(report)
    return {"report": fb.encode(report)}, bool(report.warnings)


def _absolute(path: str) -> PurePosixPath:
    return PurePosixPath(os.path.abspath(path))


def _is_store(path: str) -> bool:
    try:
        fb.Store.open(path).close()
    except fb.NotAStoreError:
        return False
    return True


def _open_store(path: str, domain: fb.Domain) -> fb.Store:
    """Open the store; an empty directory becomes one, unless the domain has points in it."""
    try:
        return fb.Store.open(path)
    except fb.NotAStoreError:
        _refuse_lost_store(path, domain)
        return fb.Store.create(path)


def _refuse_lost_store(path: str, domain: fb.Domain) -> None:
    """Refuse a directory where the domain's points should be."""
    for known in domain.ledger.stores:
        if os.path.realpath(known.path) == os.path.realpath(path):
            raise fb.NotAStoreError(
                domain=domain.name,
                reason=f"the domain has point {known.point} in a store at this path, "
                "and it is not there: is its disk mounted?",
                path=path,
            )


def _history_for_dry_run(path: str, domain: fb.Domain) -> fb.History:
    if _is_store(path):
        with fb.Store.open(path) as store:
            return store.read_history(domain.uuid)
    _refuse_lost_store(path, domain)
    if not os.path.isdir(path) or set(os.listdir(path)) - {"lost+found"}:
        raise fb.NotAStoreError(
            reason="the directory is missing, or neither empty nor a store", path=path
        )
    return fb.History(store=_NO_STORE, path=_absolute(path), uuid=domain.uuid)


# --- chain, list, restore -----------------------------------------------------------------------


def _chain(arguments: argparse.Namespace, _: _Signals) -> int:
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


def _list(arguments: argparse.Namespace, _: _Signals) -> int:
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


def _restore(arguments: argparse.Namespace, signals: _Signals) -> int:
    with fb.Store.open(arguments.store) as store:
        history = _find_history(store, arguments.domain)
        plan = fb.plan_restore(
            history,
            arguments.point,
            into=_absolute(arguments.into),
            disks=tuple(arguments.disk),
            image_format=fb.ImageFormat(arguments.format),
        )
        if arguments.dry_run:
            if arguments.json:
                _print_json(
                    {"results": [{"domain": plan.domain, "ok": True, "plan": fb.encode(plan)}]}
                )
            else:
                print(plan)
            return OK
        with progress_for(quiet=arguments.quiet or arguments.no_progress) as listener:
            report = fb.Executor(None, store).run(plan, on_event=listener, cancel=signals.token)
    if arguments.json:
        _print_json({"results": [{"domain": plan.domain, "ok": True, "report": fb.encode(report)}]})
    elif not arguments.quiet:
        print(report)
    return OK
