"""Denied: which path, whose fault it may be, and what to look at."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import libvirt
import pytest

from fibackup.errors import HostError, PermissionDeniedError, RequirementError
from fibackup.host.images import refuse_unwritable
from fibackup.host.libvirt_errors import translate
from fibackup.host.qemu_img import qemu_img_version

COMMAND = "internal error: unable to execute QEMU command"


class Refusal(libvirt.libvirtError):
    """What libvirt raises, with chosen words."""

    def __init__(self, code: int, words: str) -> None:
        """Keep both."""
        self.code, self.words = code, words

    def get_error_code(self) -> int:
        """Return the code."""
        return self.code

    def get_error_message(self) -> str:
        """Return the words."""
        return self.words


@pytest.mark.parametrize(
    ("code", "words", "path"),
    [
        (1, f"{COMMAND} 'transaction': Could not create file: Permission denied", None),
        (
            1,
            f"{COMMAND} 'block-commit': Could not reopen file '/i/a b': Permission denied",
            "/i/a b",
        ),
        (1, f"{COMMAND} 'block-commit': Could not open '/i/x': Operation not permitted", "/i/x"),
        (1, f"{COMMAND} 'block-commit': Could not open '/i/x': Read-only file system", "/i/x"),
        (38, "Cannot access storage file '/i/x' (as uid:1, gid:2): Permission denied", "/i/x"),
    ],
)
@pytest.mark.parametrize(
    ("there", "word"),
    [
        ("/sys/fs/selinux/enforce", "restorecon"),
        ("/sys/kernel/security/apparmor/profiles", "journalctl"),
        ("", "audit log"),
    ],
)
def test_a_denial_names_path_and_remedy(
    monkeypatch: pytest.MonkeyPatch, code: int, words: str, path: str | None, there: str, word: str
) -> None:
    """For the security module that the machine has."""
    monkeypatch.setattr(os.path, "exists", lambda where: where == there)
    error = translate(Refusal(code, words), domain="web1", doing="virDomainBlockCommit")
    assert isinstance(error, PermissionDeniedError)
    assert (error.path, error.domain) == (path, "web1")
    assert "owner and mode" in str(error)
    assert word in str(error)


@pytest.mark.parametrize("code", [29, 45, 88, 94])
def test_libvirt_itself_may_refuse(code: int) -> None:
    """Then it is the group."""
    error = translate(Refusal(code, "no"), doing="virConnectOpen")
    assert isinstance(error, PermissionDeniedError)
    assert "group libvirt" in str(error)


def test_a_directory_must_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the daemon: a read-only file system keeps root out too, a mode keeps others out."""
    place = PurePosixPath(tmp_path)
    refuse_unwritable(place, as_us=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    refuse_unwritable(place, as_us=False)
    with pytest.raises(PermissionDeniedError, match="may not write") as caught:
        refuse_unwritable(place, as_us=True)
    assert caught.value.path == str(place)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(PermissionDeniedError, match="read-only"):
        refuse_unwritable(place, as_us=False)
    monkeypatch.undo()
    with pytest.raises(HostError):
        refuse_unwritable(place / "missing", as_us=False)


def test_the_version_of_qemu_img_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None where there is none; what is none is refused."""
    program = tmp_path / "qemu-img"
    monkeypatch.setenv("FIBACKUP_QEMU_IMG", str(program))
    for text, version in (
        ("qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7)", "7.2.22"),
        ("qemu-img version 10.0", "10.0"),
    ):
        program.write_text(f"#!/bin/sh\necho '{text}'\n")
        program.chmod(0o700)
        assert qemu_img_version() == version
    program.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(RequirementError, match="does not tell"):
        qemu_img_version()
    program.unlink()
    with pytest.raises(
        RequirementError, match=r"FIBACKUP_QEMU_IMG says .*no such program"
    ) as caught:
        qemu_img_version()
    assert caught.value.path == str(program)
    assert caught.value.remedy == "correct or unset FIBACKUP_QEMU_IMG"
    monkeypatch.delenv("FIBACKUP_QEMU_IMG")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert qemu_img_version() is None
