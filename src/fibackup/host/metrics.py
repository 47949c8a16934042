"""
The file of metrics: replaced as a whole, so that nobody reads half of it.

::

    lock the directory  ->  read the old one  ->  merge  ->  .fibackup.prom.4711.tmp
                                                             fsync, rename, fsync the directory
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import PurePosixPath

from fibackup.errors import HostError, ParseError
from fibackup.model.metrics import Sample, merge_samples
from fibackup.parse.prometheus import parse_metrics, render_metrics

__all__ = ["update_metrics"]

_LARGEST_BYTES = 16 << 20


def update_metrics(path: str | os.PathLike[str], samples: Iterable[Sample]) -> None:
    """
    Put samples into a file of metrics; those of other domains stay.

    Args:
        path: The file, such as ``/var/lib/prometheus/node-exporter/fibackup.prom``; its directory
            exists.
        samples: As they are now.

    Raises:
        HostError: The file cannot be written, or is not one of ours. It stays as it was.

    Source:
        node_exporter, "Textfile Collector"; rename(2), flock(2).
    """
    file = PurePosixPath(os.path.abspath(path))
    try:
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)  # of two runs, both are in the file
            _replace(directory, file, samples)
        finally:
            os.close(directory)
    except ParseError as error:
        raise HostError(
            path=str(file), reason=f"the file holds something else, {error.where}: {error.reason}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise HostError(path=str(file), reason=f"metrics are not written: {reason}") from error


def _replace(directory: int, file: PurePosixPath, samples: Iterable[Sample]) -> None:
    merged = merge_samples(_read(directory, file.name), samples)
    temporary = f".{file.name}.{os.getpid()}.tmp"
    fd = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644, dir_fd=directory
    )
    try:
        with open(fd, "w", encoding="utf-8") as stream:
            os.fchmod(fd, 0o644)  # the exporter is another user
            stream.write(render_metrics(merged))
            stream.flush()
            os.fsync(fd)
        os.rename(temporary, file.name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def _read(directory: int, name: str) -> tuple[Sample, ...]:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError:
        return ()
    with open(fd, "rb") as stream:
        return parse_metrics(stream.read(_LARGEST_BYTES).decode("utf-8"))
