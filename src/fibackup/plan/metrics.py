"""What a run means for a monitoring system."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from fibackup.model.metrics import Sample
from fibackup.plan.report import Report

__all__ = ["pruned_metrics", "run_metrics", "store_metrics", "verified_metrics"]


def run_metrics(
    domain: str,
    store: str,
    *,
    now: datetime,
    report: Report | None,
    points: int | None = None,
    depths: Mapping[str, int] | None = None,
) -> tuple[Sample, ...]:
    """
    Return the metrics of a run of one domain.

    Args:
        domain: Its name.
        store: The path of the store, as the user knows it.
        now: When the run ended, aware.
        report: What was done; None: it failed, and says nothing of the last success.
        points: How many points the store has of the domain now, None when not known.
        depths: Images in the live chain of each disk, None when not known.

    Returns:
        Samples for `merge_samples`.

    Source:
        docs/operate.md, "Metrics".
    """
    labels = (("domain", domain), ("store", store))
    end = now.timestamp()
    found = [
        Sample("fibackup_last_run_timestamp_seconds", end, labels),
        Sample("fibackup_last_run_success", 0 if report is None else 1, labels),
    ]
    if report is not None:
        found += [
            Sample("fibackup_last_success_timestamp_seconds", end, labels),
            Sample("fibackup_duration_seconds", round(report.seconds, 3), labels),
            Sample("fibackup_copied_bytes", report.copied_bytes, labels),
            Sample("fibackup_frozen_seconds", round(report.frozen_seconds, 3), labels),
        ]
    if points is not None:
        found.append(Sample("fibackup_points", points, labels))
    for target, depth in sorted((depths or {}).items()):
        disk = tuple(sorted((*labels, ("disk", target))))
        found.append(Sample("fibackup_chain_depth", depth, disk))
    return tuple(found)


def verified_metrics(domain: str, store: str, *, now: datetime) -> tuple[Sample, ...]:
    """
    Return what a verification that found all of a domain good means.

    Args:
        domain: Its name.
        store: The path of the store, as the user knows it.
        now: When it ended, aware.

    Returns:
        Samples for `merge_samples`.

    Source:
        docs/operate.md, "Metrics".
    """
    labels = (("domain", domain), ("store", store))
    return (Sample("fibackup_last_verified_timestamp_seconds", now.timestamp(), labels),)


def pruned_metrics(domain: str, store: str, *, now: datetime, points: int) -> tuple[Sample, ...]:
    """
    Return what a prune of a domain means.

    Args:
        domain: Its name.
        store: The path of the store, as the user knows it.
        now: When it ended, aware.
        points: Restore points that the domain has now.

    Returns:
        Samples for `merge_samples`.

    Source:
        docs/operate.md, "Metrics".
    """
    labels = (("domain", domain), ("store", store))
    return (
        Sample("fibackup_last_pruned_timestamp_seconds", now.timestamp(), labels),
        Sample("fibackup_points", points, labels),
    )


def store_metrics(store: str, *, free_bytes: int, version: str) -> tuple[Sample, ...]:
    """
    Return what does not belong to one domain.

    Args:
        store: The path of the store, as the user knows it.
        free_bytes: Room that is left in it.
        version: Of fibackup.

    Returns:
        Samples for `merge_samples`.

    Source:
        docs/operate.md, "Metrics".
    """
    return (
        Sample("fibackup_store_free_bytes", free_bytes, (("store", store),)),
        Sample("fibackup_build_info", 1, (("version", version),)),
    )
