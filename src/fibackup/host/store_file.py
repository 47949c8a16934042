"""
Read ``fibackup-store.json``; when it is lost, tell from the points what belongs there.

::

    gone, no points here       no store: an unmounted disk, perhaps
    gone or damaged, points    each manifest names its store: say the line that has to be written
    there, points of another   a file of another store was put here: the same
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath

from fibackup.errors import ManifestError, NotAStoreError, ParseError, StoreError
from fibackup.host.files import open_directory, read_small
from fibackup.host.store_files import directories_in, is_manifest, list_directory, read_text
from fibackup.model.checks import UUID_PATTERN
from fibackup.model.point import RestorePoint
from fibackup.parse.manifest import parse_manifest, parse_store_file, render_store_file

__all__ = ["STORE_FILE", "directory_name", "misnamed", "read_store_file", "uuid_of"]

STORE_FILE = "fibackup-store.json"
"""Name of the file that makes a directory a store."""

_NOT_SLUG = re.compile(r"[^A-Za-z0-9_.-]+")


def read_store_file(fd: int, path: PurePosixPath) -> str:
    """
    Return the UUID of a store.

    Args:
        fd: The directory.
        path: Its path, for errors.

    Raises:
        NotAStoreError: It has neither the file nor points.
        FormatTooNewError: A newer fibackup made it.
        ManifestError: The file is damaged, or gone although there are points, or all points are of
            one other store.

    Source:
        docs/store-format.md, ``fibackup-store.json``.
    """
    where = str(path / STORE_FILE)
    try:
        uuid = parse_store_file(read_text(fd, STORE_FILE, where), path=where).uuid
    except FileNotFoundError:
        found = _points(fd)
        if not found:
            raise NotAStoreError(
                reason=f"there is no {STORE_FILE} in the directory: is its disk mounted?",
                path=str(path),
            ) from None
        reason = "it is gone"
    except (ManifestError, ParseError) as error:
        found, reason = _points(fd), error.reason
    else:
        found = _all_of_another(uuid, fd)
        if not found:
            return uuid
        reason = f"it is the file of another store, {uuid}"
    # the path first: what is to be written stands last, and can be copied to the end of the line
    raise ManifestError(reason=f"{where}: {reason}{_what_belongs_there(found)}", path=where)


def _what_belongs_there(points: tuple[RestorePoint, ...]) -> str:
    """Say what the file must have said, by what points say."""
    stores = sorted({point.store for point in points})
    if not stores:
        return ""
    if len(stores) > 1:
        return f"; there are points of several stores here: {', '.join(stores)}"
    text = render_store_file(stores[0], min(point.time for point in points))
    line = " ".join(text.split())
    return (
        f"; the points here are of store {stores[0]}: without a copy of the file, "
        f"write it anew with this line: {line}"
    )


def _all_of_another(uuid: str, fd: int) -> tuple[RestorePoint, ...]:
    """
    Return points when all are of one other store than this; the first that is not ends the look.

    So one manifest is read of a store that is as it should be. Of each domain the oldest and the
    newest are asked: one of them may have been put there by somebody.
    """
    found: list[RestorePoint] = []
    for name in _directories(fd):
        for newest_first in (False, True):
            point = _end(name, fd, newest_first=newest_first)
            if point is not None and point.store == uuid:
                return ()
            found += [point] if point is not None else []
    return tuple(found) if len({point.store for point in found}) == 1 else ()


def _points(fd: int) -> tuple[RestorePoint, ...]:
    """Return the oldest sound point of each domain: of one store they all say the same."""
    found = (_end(name, fd) for name in _directories(fd))
    return tuple(point for point in found if point is not None)


def _directories(fd: int) -> list[str]:
    return [name for name in sorted(directories_in(fd)) if uuid_of(name) is not None]


def _end(name: str, fd: int, *, newest_first: bool = False) -> RestorePoint | None:
    """Return the oldest sound point in a domain's directory, or the newest."""
    with suppress(OSError), open_directory(name, fd) as domain:
        return next(_sound(domain, newest_first=newest_first), None)
    return None


def _sound(fd: int, *, newest_first: bool) -> Iterator[RestorePoint]:
    for name in sorted(list_directory(fd), reverse=newest_first):
        if is_manifest(name):
            with suppress(OSError, StoreError):
                yield parse_manifest(read_small(name, fd))


def uuid_of(name: str) -> str | None:
    """
    Return the UUID at the end of a domain directory's name, or None.

    Args:
        name: Of the directory.
    """
    uuid = name[-36:]
    return uuid if UUID_PATTERN.fullmatch(uuid) and name[-37:-36] in {"", "-"} else None


def directory_name(uuid: str, name: str) -> str:
    """
    Return how a domain's directory is named.

    Args:
        uuid: The domain.
        name: Its name.

    Source:
        docs/store-format.md, "Directories".
    """
    slug = _NOT_SLUG.sub("_", name).lstrip(".-")[:40]
    return f"{slug}-{uuid}" if slug else uuid


def misnamed(fd: int, store: str) -> dict[str, str]:
    """
    Return directories that hold points, and whose names do not say of which domain.

    Args:
        fd: The directory of a store.
        store: UUID of the store.

    Returns:
        The name that each should have; empty when there is another directory of that domain, or
        its points are of another store.

    Source:
        docs/store-format.md, "Directories".
    """
    names = sorted(directories_in(fd))
    nameless = [name for name in names if uuid_of(name) is None]
    found = {name: point for name in nameless if (point := _end(name, fd)) is not None}
    taken = [uuid_of(name) for name in names] + [point.uuid for point in found.values()]
    return {
        name: directory_name(point.uuid, point.domain)
        if point.store == store and taken.count(point.uuid) == 1
        else ""
        for name, point in found.items()
    }
