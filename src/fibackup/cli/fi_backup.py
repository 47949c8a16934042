"""
``fi-backup``: the options of fi-backup.sh, on top of the library.

::

    -b DIR        a point of each domain in the store DIR
    -b DIR -C     the same, and the chain is one overlay deep afterwards (rolling consolidation)
    -C            no point; the chain is one overlay deep afterwards
    -c            no point; no overlay is left (full consolidation)

Errors and warnings go to stderr, the rest to stdout. Without -v it says nothing when all is well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath

import fibackup as fb
from fibackup.cli.exits import FAILED, OK, SOME_FAILED, USAGE, exit_code
from fibackup.cli.fi_options import (
    USAGE_TEXT,
    Consolidation,
    Options,
    UsageError,
    parse_options,
    resolve_names,
)
from fibackup.cli.limits import allow_open_files
from fibackup.cli.parser import own_version
from fibackup.cli.recovering import recover_first, store_of_unfinished
from fibackup.cli.signals import Signals
from fibackup.cli.stores import existing_store, open_store

__all__ = ["main"]


class _Log:
    """Lines in the style of the original: a time, a tag, the words."""

    def __init__(self, *, verbose: bool = False, debug: bool = False) -> None:
        self._shown = {"ERR", "WAR"}
        self._shown |= {"INF", "VER"} if verbose else set()
        self._shown |= {"DEB"} if debug else set()

    def say(self, tag: str, text: object) -> None:
        """Print every line of *text* when its tag is wanted."""
        if tag not in self._shown:
            return
        stream = sys.stderr if tag in {"ERR", "WAR"} else sys.stdout
        moment = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        for line in str(text).splitlines():
            words = fb.printable(line).encode(stream.encoding or "ascii", "backslashreplace")
            print(f"{moment} [{tag}] {words.decode(stream.encoding or 'ascii')}", file=stream)
        stream.flush()

    def information(self, text: str) -> None:
        """Tell what is worth knowing and no trouble."""
        self.say("INF", text)

    def event(self, event: fb.Event) -> None:
        """Tell what a run does; steps in short, progress and ends for debugging."""
        if isinstance(event, fb.Warned):
            self.say("WAR", event)
        elif isinstance(event, (fb.StepStarted, fb.ImageCopied)):
            self.say("VER", event)
        else:
            self.say("DEB", event)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run ``fi-backup``.

    Args:
        argv: Arguments without the program's name; None: those of the process.

    Returns:
        The exit code.

    Source:
        docs/fi-backup.md; exit codes: docs/errors.md.
    """
    try:
        options = parse_options(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        _Log().say("ERR", error)
        print("fi-backup --help tells more", file=sys.stderr)
        return USAGE
    if options.help:
        print(USAGE_TEXT, end="")
        return OK
    if options.version:
        print(f"fi-backup {own_version()} (fibackup)")
        return OK
    return _guarded(options)


def _guarded(options: Options) -> int:
    log = _Log(verbose=options.verbose, debug=options.debug)
    signals = Signals()
    signals.install()
    allow_open_files()
    try:
        code = _run(options, log, signals)
    except fb.FibackupError as error:
        log.say("ERR", error)
        code = exit_code(error)
    except OSError as error:  # the reader of stdout has gone, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"fi-backup: {fb.printable(str(error))}", file=sys.stderr)
        return FAILED
    return 128 + signals.number if signals.number and code else code


def _run(options: Options, log: _Log, signals: Signals) -> int:
    failures: list[fb.FibackupError] = []
    if options.state_dir is not None:
        _refuse_missing(options.state_dir)
    with fb.LibvirtHost.open() as host:
        consolidates = options.consolidation is not Consolidation.NO
        for warning in host.check_requirements(consolidates=consolidates):
            log.say("WAR", warning)
        names = _names(options, host)
        if not names:
            log.say("WAR", "there is no domain to work on")
        for name in names:
            try:
                signals.token.check()
                _one(options, host, name, log, signals)
            except fb.FibackupError as error:
                failures.append(error)
                named = f"{name}: {error}" if error.domain is None else str(error)
                log.say("ERR", named)
    log.say("INF", f"{len(names) - len(failures)} of {len(names)} domains done")
    if not failures:
        return OK
    return exit_code(failures[0]) if len(failures) == len(names) else SOME_FAILED


def _names(options: Options, host: fb.LibvirtHost) -> tuple[str, ...]:
    if options.all_running or options.everything:
        return host.list_domains(running=options.all_running)
    return resolve_names(options.domains, host.domain_names())


def _one(options: Options, host: fb.LibvirtHost, name: str, log: _Log, signals: Signals) -> None:
    """Back a domain up, shorten its chains, or both, under one lock."""
    uuid = host.identify(name)[1]
    with host.locked(uuid):
        _locked(options, host, uuid, log, signals)


def _locked(options: Options, host: fb.LibvirtHost, uuid: str, log: _Log, signals: Signals) -> None:
    domain = _recover(options, host, host.read_domain(uuid), log, signals)
    log.say("DEB", f"domain {domain.name} ({domain.uuid}) is {domain.state}")
    if options.backs_up:
        _back_up(options, host, domain, log, signals)
    if options.consolidation is Consolidation.NO or _in_one_run(options):
        return
    if options.consolidation is Consolidation.ROLLING and domain.state is fb.DomainState.SHUTOFF:
        log.say("VER", f"domain {domain.name} is off: its chains stay as they are")
        return
    _consolidate(options, host, domain.uuid, log, signals)


def _recover(
    options: Options, host: fb.LibvirtHost, domain: fb.Domain, log: _Log, signals: Signals
) -> fb.Domain:
    """Settle what a killed run has left, in the store of this run or the one of that run."""
    place = existing_store(options.backup_dir or "") if options.backs_up else None
    with place or store_of_unfinished(domain) as store:
        return recover_first(
            host,
            store,
            domain,
            run=lambda executor, plan: _execute(executor, plan, log, signals),
            warn=lambda text: log.say("WAR", f"{domain.name}: {text}"),
        )[0]


def _in_one_run(options: Options) -> bool:
    """Tell whether the plan of the backup consolidates as well; a pull is a run of its own."""
    return options.backs_up and options.method is fb.Method.BLOCKCOMMIT


def _back_up(
    options: Options, host: fb.LibvirtHost, domain: fb.Domain, log: _Log, signals: Signals
) -> None:
    rolling = options.consolidation is Consolidation.ROLLING and _in_one_run(options)
    policy = fb.BackupPolicy(
        quiesce=fb.Quiesce.REQUIRE if options.quiesce else fb.Quiesce.OFF,
        memory=options.state_dir is not None,
        consolidate=rolling,
        allow_paused=True,
    )
    path = options.backup_dir or ""
    now = datetime.now(UTC)
    with open_store(path, domain, policy, now=now, on_new=log.information) as store:
        plan = fb.plan_backup(domain, store.read_history(domain.uuid), now=now, policy=policy)
        report = _execute(fb.Executor(host, store), plan, log, signals)
        if options.state_dir is not None and report.point is not None:
            _keep_state(store, report.point, options.state_dir, log)


def _consolidate(
    options: Options, host: fb.LibvirtHost, uuid: str, log: _Log, signals: Signals
) -> None:
    policy = fb.ConsolidationPolicy(
        method=options.method,
        keep_overlay=options.consolidation is Consolidation.ROLLING,
        allow_paused=True,
    )
    domain = host.read_domain(uuid)
    paths = tuple(path for disk in domain.disks if disk.chain for path in disk.chain.paths)
    plan = fb.plan_consolidation(domain, uses=host.image_uses(uuid, paths), policy=policy)
    if plan.steps:
        _execute(fb.Executor(host, None), plan, log, signals)
    else:
        log.say("VER", f"domain {domain.name}: every chain is as short as it gets")


def _execute(executor: fb.Executor, plan: fb.Plan, log: _Log, signals: Signals) -> fb.Report:
    log.say("DEB", plan)
    for warning in plan.warnings:
        log.say("WAR", f"{plan.domain}: {warning}")
    report = executor.run(plan, on_event=log.event, cancel=signals.token, holds_lock=True)
    log.say("VER", report)
    return report


def _refuse_missing(directory: str) -> None:
    """Refuse a directory of -s that is none before anything starts."""
    if not os.path.isdir(directory):
        raise fb.HostError(
            reason="there is no such directory for the guest's memory", path=directory
        )


def _keep_state(store: fb.Store, point: fb.RestorePoint, directory: str, log: _Log) -> None:
    """Put a copy of the guest's memory into the directory of -s, unless that is the store."""
    file = next((each for each in point.files if each.role is fb.FileRole.MEMORY), None)
    if file is None or os.path.realpath(directory) == os.path.realpath(store.path):
        return
    name, *_ = store.directories(point.uuid)
    target = PurePosixPath(os.path.abspath(directory), f"{name}-{file.name}")
    step = fb.RestoreMemory(file, target)
    try:
        store.restore_memory(point.uuid, step, log.event, fb.CancelToken())
    except fb.FibackupError as error:
        words = f"point {point.id} is complete, but its memory could not be copied"
        raise fb.HostError(
            domain=point.domain, reason=f"{words}: {error.reason}", path=str(target)
        ) from error
    log.say("VER", f"the memory of point {point.id} is in {target}")
