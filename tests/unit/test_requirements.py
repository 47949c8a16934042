"""Which versions are refused, which are warned of, and with which words."""

from __future__ import annotations

import pytest

from fibackup.errors import RequirementError
from fibackup.model.point import Versions
from fibackup.plan.requirements import (
    KNOWN_FAULTS,
    Work,
    check_compression,
    check_depth,
    check_versions,
)


def versions(libvirt: str = "9.0.0", qemu: str = "7.2.0") -> Versions:
    """Return versions that are fine unless told otherwise."""
    return Versions(libvirt=libvirt, qemu=qemu)


@pytest.mark.parametrize("work", Work)
@pytest.mark.parametrize(
    ("libvirt", "qemu", "qemu_img"),
    [
        ("6.0.0", "4.2.0", "4.2.0"),
        ("6.6.0", "5.0.0", "5.0.0"),
        ("9.0.0", "7.2.22", "7.2.22 (Debian 1:7.2+dfsg-7)"),
        ("12.5.0", "11.0.0", None),
        ("unknown", "", "nonsense"),
        ("0.0.0", "0.0.0", None),
    ],
)
def test_good_and_unreadable_versions_pass(
    libvirt: str, qemu: str, qemu_img: str | None, work: Work
) -> None:
    """Without a word."""
    assert check_versions(versions(libvirt, qemu), qemu_img, work=work) == ()


@pytest.mark.parametrize(
    ("libvirt", "qemu", "qemu_img", "words"),
    [
        ("5.10.0", "7.2.0", None, "libvirt 5.10.0 is too old; 6.0"),
        ("9.0.0", "4.1.1", None, "qemu 4.1.1 is too old; 4.2"),
        ("9.0.0", "7.2.0", "2.12.0", "qemu-img 2.12.0 is too old"),
    ],
)
def test_what_is_too_old_is_refused(
    libvirt: str, qemu: str, qemu_img: str | None, words: str
) -> None:
    """With the program, its version, and what is needed."""
    with pytest.raises(RequirementError, match=words):
        check_versions(versions(libvirt, qemu), qemu_img)


@pytest.mark.parametrize("number", ["6.4.0", "6.4.3"])
def test_a_commit_that_crashes_the_daemon_is_refused(number: str) -> None:
    """A backup without one is not."""
    with pytest.raises(RequirementError, match="crashes in a block commit"):
        check_versions(versions(number), work=Work.CONSOLIDATE)
    assert check_versions(versions(number), work=Work.BACKUP) == ()


def test_odd_versions_are_warned_of() -> None:
    """Only where the work meets the fault."""
    (warning,) = check_versions(versions("6.5.0"), work=Work.CONSOLIDATE)
    assert warning.startswith("libvirt 6.5.0: a second commit")
    assert check_versions(versions("6.5.0")) == ()
    assert len(check_versions(versions("7.0.0"))) == 1
    assert check_versions(versions("7.1.0")) == ()


def test_every_fault_says_what_to_do_and_where_it_is_written() -> None:
    """And ends after it has begun."""
    for fault in KNOWN_FAULTS:
        assert fault.first < fault.fixed
        assert fault.source
        assert fault.words


@pytest.mark.parametrize("number", ["6.1.0", "7.2.22", "11.0", None, "unknown"])
def test_a_qemu_img_that_tells_what_is_present_compresses(number: str | None) -> None:
    """And one whose version cannot be read is tried."""
    check_compression(number)


@pytest.mark.parametrize("number", ["4.2.0", "5.1.0", "6.0.1"])
def test_an_older_qemu_img_does_not_compress(number: str) -> None:
    """It could not prove what it wrote; the words say what else can be done."""
    with pytest.raises(RequirementError, match=r"6\.1 or later.*without compression"):
        check_compression(number)


@pytest.mark.parametrize("number", ["10.8.0", "11.10.0"])
def test_a_chain_that_libvirt_would_not_start_is_refused(number: str) -> None:
    """With the disk and what to do; the depth that it does start is not."""
    check_depth(versions(number), "vda", 25)
    with pytest.raises(RequirementError, match="fibackup consolidate") as caught:
        check_depth(versions(number), "vda", 26)
    assert caught.value.target == "vda"


@pytest.mark.parametrize("number", ["9.0.0", "10.7.0", "12.0.0", "unknown"])
def test_other_versions_start_deeper_chains(number: str) -> None:
    """Up to libvirt's own limit."""
    check_depth(versions(number), "vda", 199)
