"""
``points.sha256``: which points a domain has, and what their manifests are.

::

    publish      manifest, then its seal       killed in between: the next publish seals it
    unpublish    seal, then manifest           killed in between: the same

So a seal never names what is not there: a missing manifest was lost, and not removed. Only the
holder of the exclusive lock writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from fibackup.errors import ManifestError, StoreError
from fibackup.host.files import read_small, replace_file
from fibackup.host.store_files import is_manifest, list_directory
from fibackup.model.records import SEALS_FILE
from fibackup.parse.manifest import parse_manifest
from fibackup.parse.seals import parse_seals, render_seals

__all__ = ["MANIFEST_SUFFIX", "read_seals", "seal_points", "unseal_points"]

MANIFEST_SUFFIX = ".json"


def read_seals(dir_fd: int) -> Mapping[str, str]:
    """
    Return the seals of a domain's points; none when there is no such file.

    Args:
        dir_fd: The domain's directory.

    Returns:
        Point id to the sha256 of its manifest.

    Raises:
        ManifestError: The file is damaged.

    Source:
        docs/store-format.md, ``points.sha256``.
    """
    try:
        return parse_seals(read_small(SEALS_FILE, dir_fd), path=SEALS_FILE)
    except FileNotFoundError:
        return {}


def seal_points(published: str, dir_fd: int) -> None:
    """
    Seal the manifest of a point, and every other one that has no seal.

    Args:
        published: Id of the point whose manifest was just written.
        dir_fd: The domain's directory, under its exclusive lock.

    Source:
        docs/store-format.md, "Writing order".
    """
    seals = _sound_seals(dir_fd)
    names = filter(is_manifest, list_directory(dir_fd))
    found = [name.removesuffix(MANIFEST_SUFFIX) for name in names]
    new = {
        point: digest
        for point in found
        if (point == published or point not in seals)
        and (digest := _digest(point, dir_fd)) is not None
    }
    if new:
        replace_file(SEALS_FILE, render_seals({**seals, **new}).encode(), dir_fd)


def unseal_points(points: Iterable[str], dir_fd: int) -> None:
    """
    Remove the seals of points whose manifests are about to be removed or replaced.

    Args:
        points: Their ids.
        dir_fd: The domain's directory, under its exclusive lock.

    Source:
        docs/store-format.md, "Writing order".
    """
    gone = set(points)
    seals = _sound_seals(dir_fd)
    if gone & seals.keys():
        kept = {point: digest for point, digest in seals.items() if point not in gone}
        replace_file(SEALS_FILE, render_seals(kept).encode(), dir_fd)


def _sound_seals(dir_fd: int) -> Mapping[str, str]:
    """Return the seals; none when the file is damaged, so that all points are sealed anew."""
    try:
        return read_seals(dir_fd)
    except ManifestError:
        return {}


def _digest(point: str, dir_fd: int) -> str | None:
    """Return the sha256 of a manifest; None for one that is damaged, which gets no seal."""
    try:
        data = read_small(point + MANIFEST_SUFFIX, dir_fd)
        parse_manifest(data)
    except (OSError, StoreError):
        return None
    return sha256(data).hexdigest()
