"""
Chains of stored images that are deeper than the tables of a large disk leave room for.

::

    0000.qcow2 <- 0001.qcow2 <- ... <- 0249.qcow2      256 GiB each, so 32 MiB of cache for each
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

import fibackup as fb
from fibackup.host import qemu_img
from fibackup.host.copy_image import copy_image, stored_depth
from fibackup.host.events import ignore_events
from hypervisor.host import run

pytestmark = pytest.mark.libvirt

GIB = 1024**3
LARGE = 256 * GIB
DEPTH = 250


def stack_up(directory: Path, depth: int, size_bytes: int) -> Path:
    """Make empty images that lie on each other; return the top."""
    base = directory / "0000.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", base, str(size_bytes))
    run(
        *("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b", base.name),
        *(directory / "0001.qcow2", str(size_bytes)),
    )
    head = (directory / "0001.qcow2").read_bytes()
    for number in range(1, depth):
        path, under = directory / f"{number:04}.qcow2", f"{number - 1:04}.qcow2"
        path.write_bytes(head.replace(base.name.encode(), under.encode()))
    return directory / f"{depth - 1:04}.qcow2"


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """Open a directory."""
    fd = os.open(directory, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("compress", [False, True])
def test_a_deep_chain_of_a_large_disk_is_added_to(tmp_path: Path, *, compress: bool) -> None:
    """A compressed image too, for which the chain is opened twice, lies on all the others."""
    top = stack_up(tmp_path, DEPTH, LARGE)
    source = tmp_path / "source.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", source, str(LARGE))
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 5 1M 1M", source)
    step = fb.CopyImage(
        target="vda",
        source=PurePosixPath(source),
        format="qcow2",
        name="new.qcow2",
        backing=top.name,
        identity=None,
        estimate_bytes=0,
        compress=compress,
    )
    with opened(tmp_path) as fd:
        copy_image(step, fd, PurePosixPath(tmp_path), ignore_events, fb.CancelToken())
        assert stored_depth("new.qcow2", fd) == DEPTH + 1
    result = qemu_img.check(
        PurePosixPath(tmp_path, "new.qcow2"), "qcow2", depth=DEPTH + 1, cancel=fb.CancelToken()
    )
    assert bool(result.compressed_clusters) is compress


def test_a_deep_chain_of_a_large_disk_comes_back(tmp_path: Path) -> None:
    """Flat and linked, and merged images can lie on it."""
    token = fb.CancelToken()
    top = PurePosixPath(stack_up(tmp_path, DEPTH, LARGE))
    flat, linked, merged, scratch = (
        PurePosixPath(tmp_path, f"{name}.qcow2") for name in ("flat", "linked", "merged", "scratch")
    )
    qemu_img.convert(
        top, "qcow2", flat, "qcow2", depth=DEPTH, on_percent=lambda _: None, cancel=token
    )
    qemu_img.create_overlay(top, "qcow2", linked, LARGE, depth=DEPTH + 1, cancel=token)
    for path, backing in ((merged, "0248.qcow2"), (scratch, None)):
        qemu_img.create_empty(
            path, LARGE, cluster_bytes=65536, backing=backing, depth=DEPTH, cancel=token
        )
    qemu_img.gather((top,), merged, scratch, depth=DEPTH, on_percent=lambda _: None, cancel=token)
    assert qemu_img.check(merged, "qcow2", depth=DEPTH, cancel=token).sound
