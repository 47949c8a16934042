"""
What a test cannot do without: where it is required, its absence is a failure, else a loud skip.

::

    FIBACKUP_REQUIRE=1              everything is required: make test, CI
    FIBACKUP_REQUIRE=strace,loop    these are
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from hypervisor.host import HarnessError, tool
from hypervisor.power import Volume, disk_of_its_own


def is_required(word: str) -> bool:
    """Tell whether the absence of something is a failure."""
    words = os.environ.get("FIBACKUP_REQUIRE", "").split(",")
    return word in words or bool({"1", "all"} & set(words))


def absent(word: str, why: str) -> NoReturn:
    """End the test: failed where *word* is required, else skipped, with what nobody has checked."""
    if is_required(word):
        pytest.fail(f"missing: {word}: {why}; run scripts/setup as root")
    pytest.skip(f"missing: {word}: {why}; NOT CHECKED: that the store survives this")


def need_strace() -> None:
    """Need strace(1), and that it may attach."""
    try:
        tool("strace")
    except HarnessError as error:
        absent("strace", str(error))


@contextmanager
def own_disk(directory: Path, kind: str, *, room_bytes: int | None = None) -> Iterator[Volume]:
    """Give a file system that can lose its power, or its device; loop, mkfs, root are needed."""
    if os.geteuid() != 0:
        absent("loop", "only root may mount")
    made = disk_of_its_own(directory, kind, room_bytes=room_bytes)
    try:
        volume = made.__enter__()
    except HarnessError as error:
        absent("loop", str(error))
    try:
        yield volume
    finally:
        made.__exit__(None, None, None)
