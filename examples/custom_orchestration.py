"""
Back up several domains from a program of one's own: events, a deadline, errors by their type.

::

    python examples/custom_orchestration.py qemu:///system /backup 3600 web1 db1 mail1

One domain that fails hides no other. Each error says what the caller does next::

    StalePlanError              somebody was faster: read and plan again
    PlanError                   it cannot be backed up as it stands; nothing was touched
    StepError                   it stopped in the middle: .state and .next_command for the log
    any other FibackupError     nothing was touched

Exit status: 0 when every domain has a new point, 1 when one has not, 2 for a wrong command line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Timer

import fibackup as fb

ATTEMPTS = 3
log = logging.getLogger("nightly")


@contextmanager
def deadline(seconds: float) -> Iterator[fb.CancelToken]:
    """Give a token that is set after *seconds*; a run then stops at a place where it may."""
    token = fb.CancelToken()
    timer = Timer(seconds, token.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield token
    finally:
        timer.cancel()


def listen(event: fb.Event) -> None:
    """Log what a run tells; a product would feed its own progress bars here."""
    match event:
        case fb.StepStarted():
            log.info("%s", event)
        case fb.ImageCopied(target=target, size_bytes=size):
            log.info("%s: %s are safe", target, fb.format_bytes(size))
        case fb.Warned(text=text):
            log.warning("%s", text)
        case fb.CopyProgress() | fb.StepFinished():
            pass


def back_up(
    host: fb.Host, store: fb.PointStore, name: str, cancel: fb.CancelToken
) -> fb.Report | fb.FibackupError:
    """Take a point of one domain; an error is a result like another."""
    try:
        return try_to_back_up(host, store, name, cancel)
    except fb.FibackupError as error:
        return error


def explain(error: fb.FibackupError) -> tuple[str, ...]:
    """Say what a person has to know, by what the caller does next."""
    match error:
        case fb.StepError(__cause__=cause):
            what = f"stopped in step {error.index + 1}: {cause}"
            return (what, f"now: {error.state}", f"next: {error.next_command}")
        case fb.PlanError(target=target, reason=reason):
            return (f"not backed up, disk {target or '-'}: {reason}",)
        case _:
            return (f"nothing was touched: {error}",)


def try_to_back_up(
    host: fb.Host, store: fb.PointStore, name: str, cancel: fb.CancelToken
) -> fb.Report:
    """Read, plan, run; plan again when the domain has changed in between."""
    for attempt in range(1, ATTEMPTS + 1):
        cancel.check()
        domain = host.read_domain(name)
        history = store.read_history(domain.uuid)
        plan = fb.plan_backup(domain, history, now=datetime.now(UTC))
        log.info("%s: %s to copy", name, fb.format_bytes(plan.cost_bytes))
        try:
            return fb.Executor(host, store).run(plan, on_event=listen, cancel=cancel)
        except fb.StalePlanError:
            if attempt == ATTEMPTS:
                raise
            log.info("%s: it has changed since it was read; once more", name)
    raise AssertionError("the loop returns or raises")


def main(arguments: Sequence[str]) -> int:
    """Back up all domains before the deadline; return the exit status."""
    if len(arguments) < 4:
        print("usage: custom_orchestration.py URI STORE SECONDS DOMAIN...", file=sys.stderr)
        return 2
    uri, directory, seconds, *names = arguments
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    with (
        fb.LibvirtHost.open(uri) as host,
        fb.Store.open_or_create(directory) as store,
        deadline(float(seconds)) as cancel,
    ):
        outcomes = {name: back_up(host, store, name, cancel) for name in names}
    done = [outcome for outcome in outcomes.values() if isinstance(outcome, fb.Report)]
    for name, outcome in outcomes.items():
        for line in explain(outcome) if isinstance(outcome, fb.FibackupError) else ():
            log.error("%s: %s", name, line)
    copied = sum(report.copied_bytes for report in done)
    print(f"{len(done)} of {len(names)} domains backed up, {fb.format_bytes(copied)} copied")
    return 0 if len(done) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
