"""``fibackup restore``: bring the disks of a point back."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from uuid import uuid4

import fibackup as fb
from fibackup.cli.completion import (
    complete_points,
    complete_stored_domains,
    completed_by,
)
from fibackup.cli.exits import OK, USAGE
from fibackup.cli.options import disk_option, dry_run_option, store_option
from fibackup.cli.output import absolute, print_items
from fibackup.cli.runs import run_plan, show_plan
from fibackup.cli.say import warn
from fibackup.cli.signals import Signals
from fibackup.cli.stores import find_history

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  fibackup restore --store /backup web1 --into /var/tmp/web1
  fibackup restore --store /backup web1 --point 20261124T040407Z --disk vda --format raw --into .
  fibackup restore --store /backup web1 --as linked --into /images/web1   there at once
  fibackup restore --store /backup web1 --define web1-test --into /images/web1-test --start
  fibackup restore --store /backup web1 --into /images/web1 --memory      it goes on where it was
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options of ``restore``.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.epilog = _EXAMPLES
    store_option(parser)
    domain = parser.add_argument("domain", metavar="DOMAIN", help="name or UUID")
    completed_by(domain, complete_stored_domains)
    point = parser.add_argument(
        "--point", metavar="POINT", default="latest", help="id of the point (default: latest)"
    )
    completed_by(point, complete_points)
    parser.add_argument("--into", metavar="DIR", required=True, help="directory for the images")
    disk_option(parser)
    parser.add_argument(
        "--as",
        dest="form",
        choices=[str(each) for each in fb.RestoreForm],
        default=str(fb.RestoreForm.FLAT),
        help="flat: one image that needs no other (default); chain: copies of the stored images; "
        "linked: an overlay on the store's own image, there at once",
    )
    parser.add_argument(
        "--format",
        choices=[str(each) for each in fb.ImageFormat],
        default=str(fb.ImageFormat.QCOW2),
        help="format of flat images (default: qcow2)",
    )
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="with --as linked: do not read the stored images first",
    )
    parser.add_argument(
        "--found-wrong",
        action="store_true",
        help="restore also disks that a verification in depth has found wrong: "
        "they may not show what the guest had",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="let the guest go on where it was, on the restored disks; the domain must be off",
    )
    parser.add_argument("--paused", action="store_true", help="with --memory: leave it paused")
    parser.add_argument(
        "--define",
        metavar="NAME",
        help="define a domain of this name with the restored disks: another one, "
        "or the original when that is gone",
    )
    parser.add_argument("--start", action="store_true", help="with --define: start it in the end")
    parser.add_argument(
        "--foreign",
        choices=[str(each) for each in fb.Foreign],
        default=str(fb.Foreign.REFUSE),
        help="with --define or --memory: what to do with parts of the stored XML that reach out "
        "of the guest, such as devices and programs of the host (default: refuse)",
    )
    dry_run_option(parser)


def run(arguments: argparse.Namespace, signals: Signals) -> int:
    """
    Write the disks of a point, or bring the guest back.

    Args:
        arguments: Parsed.
        signals: Whose token ends a run early.

    Returns:
        The exit code.

    Raises:
        FibackupError: The point cannot be read or written out.

    Source:
        docs/design.md, "Command line".
    """
    fault = _usage_fault(arguments)
    if fault:
        print(f"fibackup restore: {fault}", file=sys.stderr)
        return USAGE
    with fb.Store.open(arguments.store) as store, ExitStack() as opened:
        uuid = find_history(store, arguments.domain, warn).uuid
        opened.enter_context(store.locked(uuid, arguments.domain, exclusive=False))
        history = store.read_history(uuid)  # a prune waits from here on
        history.refuse_copies()
        host = None
        if arguments.define is not None or (arguments.memory and not arguments.dry_run):
            host = opened.enter_context(fb.LibvirtHost.open(arguments.connect))
        define = _new_domain(arguments, store, history, host) if host is not None else None
        plan = fb.plan_restore(
            history,
            arguments.point,
            into=absolute(arguments.into),
            disks=tuple(arguments.disk),
            form=fb.RestoreForm(arguments.form),
            image_format=fb.ImageFormat(arguments.format),
            verify=not arguments.no_verify,
            found_wrong=arguments.found_wrong,
            memory=arguments.memory,
            paused=arguments.paused,
            keep_foreign=fb.Foreign(arguments.foreign) is fb.Foreign.KEEP,
            define=define,
        )
        _warn_of_wrong(history, plan)
        if arguments.dry_run:
            done, _ = show_plan(arguments, plan)
        else:
            done, _ = run_plan(arguments, fb.Executor(host, store), plan, signals)
    result = {"domain": plan.domain, "uuid": plan.uuid, "ok": True, **done}
    print_items(arguments, "results", [result])
    return OK


def _warn_of_wrong(history: fb.History, plan: fb.Plan) -> None:
    """Say what was found wrong, or is not known to be, also when all else is not wanted."""
    serious = {*map(str, history.wrong_disks), *fb.record_warnings(history)}
    for words in plan.warnings:
        if words in serious:
            warn(f"{plan.domain}: {words}")


def _usage_fault(arguments: argparse.Namespace) -> str:
    """Return what does not go together, empty when all does."""
    if arguments.start and arguments.define is None:
        return "--start goes with --define"
    if arguments.memory and arguments.define is not None:
        return (
            "--memory brings the guest back as itself, also when its domain is gone: "
            "it goes without --define"
        )
    if arguments.memory and arguments.foreign == str(fb.Foreign.DROP):
        return "a guest that goes on from its memory keeps its devices: --foreign refuse or keep"
    return ""


def _new_domain(
    arguments: argparse.Namespace, store: fb.Store, history: fb.History, host: fb.LibvirtHost
) -> fb.NewDomain | None:
    """Return the domain to define, from the XML of the point."""
    if arguments.define is None:
        return None
    point = history.point(arguments.point)
    [config] = [file for file in point.files if file.role is fb.FileRole.DOMAIN_XML]
    return fb.NewDomain(
        name=arguments.define,
        config=store.read_config(history.uuid, config),
        host=host.read_host(),
        uuid=str(uuid4()),
        foreign=fb.Foreign(arguments.foreign),
        start=arguments.start,
    )
