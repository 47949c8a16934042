"""``--metrics FILE``: what a monitoring system reads of each run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import UTC, datetime

import fibackup as fb
from fibackup.cli.parser import own_version
from fibackup.cli.progress import aside
from fibackup.cli.say import warn

__all__ = ["metrics_option", "note_failure", "note_success", "note_verified", "write_samples"]


def metrics_option(parser: argparse.ArgumentParser) -> None:
    """
    Add ``--metrics``.

    Args:
        parser: Of the verb.

    Source:
        docs/operate.md, "Metrics".
    """
    parser.add_argument(
        "--metrics", metavar="FILE", help="keep FILE for the textfile collector of node_exporter"
    )


def note_success(
    arguments: argparse.Namespace, host: fb.LibvirtHost, report: fb.Report
) -> str | None:
    """
    Write what a run did.

    Args:
        arguments: Parsed.
        host: Read for the depth of the chains.
        report: Of the run.

    Returns:
        What went wrong, in words; None: nothing did.

    Source:
        docs/operate.md, "Metrics".
    """

    def samples() -> tuple[fb.Sample, ...]:
        domain = host.read_domain(report.plan.uuid)
        with fb.Store.open(arguments.store) as store:
            points = len(store.read_history(domain.uuid).points)
            free = store.free_bytes()
        path = os.path.abspath(arguments.store)
        return (
            *fb.run_metrics(
                domain.name,
                path,
                now=datetime.now(UTC),
                report=report,
                points=points,
                depths={disk.target: disk.chain.depth for disk in domain.disks if disk.chain},
            ),
            *fb.store_metrics(path, free_bytes=free, version=own_version()),
        )

    return write_samples(arguments, samples)


def note_failure(arguments: argparse.Namespace, domain: str) -> str | None:
    """
    Write that a run failed.

    Args:
        arguments: Parsed.
        domain: Name of the domain.

    Returns:
        What went wrong, in words; None: nothing did.

    Source:
        docs/operate.md, "Metrics".
    """
    path = os.path.abspath(arguments.store)
    return write_samples(
        arguments, lambda: fb.run_metrics(domain, path, now=datetime.now(UTC), report=None)
    )


def note_verified(arguments: argparse.Namespace, found: fb.Verification) -> str | None:
    """
    Write since when all of a domain is known to be good; where something is not, nothing.

    Args:
        arguments: Parsed.
        found: By the verification of a domain.

    Returns:
        What went wrong, in words; None: nothing did.

    Source:
        docs/operate.md, "Metrics".
    """
    times = [point.verified for point in found.points if point.verified is not None]
    if found.faults or not times or len(times) < len(found.points):
        return None
    path, oldest = os.path.abspath(arguments.store), min(times)
    return write_samples(arguments, lambda: fb.verified_metrics(found.domain, path, now=oldest))


def write_samples(
    arguments: argparse.Namespace, samples: Callable[[], tuple[fb.Sample, ...]]
) -> str | None:
    """
    Put samples into the file; a file that cannot be written is a warning.

    Args:
        arguments: Parsed.
        samples: Called when there is a file.

    Returns:
        What went wrong, in words; None: nothing did.

    Source:
        docs/operate.md, "Metrics".
    """
    if not arguments.metrics or arguments.dry_run:
        return None
    try:
        fb.update_metrics(arguments.metrics, samples())
    except fb.FibackupError as error:
        with aside(arguments):
            warn(str(error))
        return str(error)
    return None
