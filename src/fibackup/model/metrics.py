"""
What a monitoring system is told: samples of metrics, in the words of Prometheus.

::

    fibackup_last_success_timestamp_seconds{domain="web1",store="/backup"} 1795493047
    name                                    labels                         value

A run that fails says nothing of its last success, so that the old sample stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import frozen

__all__ = ["METRICS", "Sample", "merge_samples"]

METRICS: Mapping[str, str] = {
    "fibackup_last_success_timestamp_seconds": "When the last run that succeeded has ended.",
    "fibackup_last_run_timestamp_seconds": "When the last run has ended, well or not.",
    "fibackup_last_run_success": "1 when the last run has succeeded, else 0.",
    "fibackup_duration_seconds": "How long the last run that succeeded took.",
    "fibackup_copied_bytes": "What the last run that succeeded has written to the store.",
    "fibackup_frozen_seconds": "How long the guest was frozen by the last run that succeeded.",
    "fibackup_points": "Restore points of the domain in the store.",
    "fibackup_chain_depth": "Images in the live chain of a disk, active layer included.",
    "fibackup_last_verified_timestamp_seconds": "When all of the domain was last found good.",
    "fibackup_last_pruned_timestamp_seconds": "When the last prune that succeeded has ended.",
    "fibackup_store_free_bytes": "Room that is left in the store.",
    "fibackup_build_info": "1; the version is a label.",
}
"""Name and help of each metric; all are gauges. Names are added, never changed."""


@frozen
class Sample:
    """
    A value of a metric.

    Attributes:
        name: One of `METRICS`.
        value: In the unit that the name ends with; times are seconds since 1970, UTC.
        labels: Names and values, sorted by name.
    """

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()

    def label(self, name: str) -> str:
        """
        Return the value of a label, nothing when there is no such label.

        Args:
            name: Such as ``"domain"``.

        Source:
            docs/operate.md, "Metrics".
        """
        return dict(self.labels).get(name, "")


def merge_samples(old: Iterable[Sample], new: Iterable[Sample]) -> tuple[Sample, ...]:
    """
    Put new samples in the place of old ones: of the same metric, domain and store.

    Args:
        old: As they were.
        new: As they are now; for a metric and a domain, all that there are.

    Returns:
        All samples, sorted by name and labels.

    Source:
        docs/operate.md, "Metrics".
    """
    fresh = tuple(new)
    replaced = {_subject(sample) for sample in fresh}
    kept = tuple(sample for sample in old if _subject(sample) not in replaced)
    return tuple(sorted((*kept, *fresh), key=lambda sample: (sample.name, sample.labels)))


def _subject(sample: Sample) -> tuple[str, str, str]:
    return sample.name, sample.label("domain"), sample.label("store")
