"""What is done with stored images while they are hashed: what stops what, and what is said."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from threading import enumerate as enumerate_threads

import pytest

from fibackup.errors import CancelledError, HostError, VerifyError
from fibackup.host import stored_images
from fibackup.host.cancel import CancelToken
from fibackup.host.stored_images import while_verified
from fibackup.model.chain import FileIdentity
from fibackup.model.point import SourceImage, StoredImage

RIGHT = "a" * 64
SOURCE = SourceImage("/i/disk.qcow2", "qcow2", FileIdentity(1, 1, 1))
IMAGE = StoredImage("A.qcow2", "qcow2", 1, RIGHT, 1, None, SOURCE)
AT = PurePosixPath("/store/vda")


def until_cancelled(cancel: CancelToken) -> str:
    """Work on until somebody says stop."""
    for _ in range(1000):
        cancel.check()
        time.sleep(0.01)
    pytest.fail("nobody stopped it")


def hashes(monkeypatch: pytest.MonkeyPatch, result: Callable[[CancelToken], str]) -> None:
    """Let each image have this hash."""

    def hash_file(*_: object, cancel: CancelToken, **__: object) -> str:
        return result(cancel)

    monkeypatch.setattr(stored_images, "hash_file", hash_file)


def run(act: Callable[[CancelToken], object], cancel: CancelToken | None = None) -> None:
    """Do something with two images."""
    files = [(IMAGE, 0), (IMAGE, 0)]
    while_verified(files, AT, act, cancel or CancelToken(), threads=2)


def fail(error: Exception) -> Callable[[object], str]:
    """Return what raises."""

    def raise_it(_: object) -> str:
        raise error

    return raise_it


def test_right_images_let_it_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised, and it was done once."""
    done = list[CancelToken]()
    hashes(monkeypatch, lambda _: RIGHT)
    run(done.append)
    assert len(done) == 1


def test_a_wrong_image_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops the act, and it is the cause, whatever the act itself ran into."""

    def qemu_img(cancel: CancelToken) -> None:
        while not cancel.cancelled:
            time.sleep(0.01)
        raise HostError(reason="the image is corrupt")

    hashes(monkeypatch, lambda _: "b" * 64)
    with pytest.raises(VerifyError, match="sha256 is b"):
        run(until_cancelled)
    with pytest.raises(VerifyError, match="sha256 is b"):
        run(qemu_img)


def test_an_image_that_cannot_be_read_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops the act too; that this was stopped is only the consequence."""
    hashes(monkeypatch, fail(HostError(reason="Input/output error")))
    with pytest.raises(HostError, match="Input/output error"):
        run(until_cancelled)


def test_an_act_that_fails_stops_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody needs them any more."""
    hashes(monkeypatch, until_cancelled)
    with pytest.raises(HostError, match="no space"):
        run(fail(HostError(reason="no space")))


def test_a_cancel_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the token of the caller."""
    token = CancelToken()
    hashes(monkeypatch, until_cancelled)
    with pytest.raises(CancelledError):
        run(lambda _: token.cancel(), token)


def test_an_interrupt_stops_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while only they are left: when the call has come back, nobody reads any more."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    hashes(monkeypatch, until_cancelled)
    monkeypatch.setattr(stored_images, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(lambda _: None)
    assert not [thread for thread in enumerate_threads() if "fibackup-verify" in thread.name]


def test_who_hashes_stands_back_and_the_caller_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The act and the first image take longest; a sandbox that forbids it does no harm."""
    seen: list[int] = []

    def result(_: CancelToken) -> str:
        seen.append(os.getpriority(os.PRIO_PROCESS, 0))
        return RIGHT

    hashes(monkeypatch, result)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    files = [(IMAGE, 3), (IMAGE, 4)]
    while_verified(files, AT, lambda _: None, CancelToken(), threads=1)
    assert seen == [before, min(before + 5, 19)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before

    def forbidden(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbidden)
    while_verified(files, AT, lambda _: None, CancelToken(), threads=1)
    assert seen[2:] == [before] * 2
