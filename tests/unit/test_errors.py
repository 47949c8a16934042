"""Errors: facts as fields, text derived from them, and the tree that the docstring draws."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest

from fibackup import errors
from fibackup.errors import (
    DomainStateError,
    FibackupError,
    ForeignConfigError,
    HostError,
    LockedError,
    ModelError,
    NoSpaceError,
    ParseError,
    QemuImgError,
    StepError,
)

KINDS = [getattr(errors, name) for name in errors.__all__]


class KeptPlan:
    """A plan, as far as a `StepError` needs one."""

    def to_json(self) -> str:
        """Return no plan."""
        return "{}"


PLAN = KeptPlan()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_says_why(kind: type[FibackupError]) -> None:
    """Each class shows its reason, domain-free, and is in the tree of the docstring."""
    extra: dict[str, Any] = {"plan": PLAN, "index": 0} if kind is StepError else {}
    error = kind(reason="it broke", **extra)
    assert str(error) == "it broke"
    assert re.search(rf"\b{kind.__name__}\b", errors.__doc__ or "")


def test_text_names_domain_disk_and_path() -> None:
    """What is known is said: domain, disk, reason and path, in this order."""
    error = HostError(reason="gone", domain="web1", target="vda", path="/a")
    assert str(error) == "domain 'web1': disk vda: gone: /a"


def test_a_path_in_the_reason_is_not_repeated() -> None:
    """A reason that names the path is enough."""
    assert str(HostError(reason="/a is gone", path="/a")) == "/a is gone"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ParseError(reason="no"), "no"),
        (ParseError(reason="no", where="disk[2]/source"), "disk[2]/source: no"),
        (ParseError(reason="no", where="size", path="/a"), "/a: size: no"),
        (DomainStateError(reason="off", remedy="virsh start web1"), "off (virsh start web1)"),
        (QemuImgError(reason="failed", stderr="a\nqemu-img: no\n"), "failed: qemu-img: no"),
        (
            ForeignConfigError(reason="no", parts=("hostdev (pci)",), difference="--- a\n+++ b"),
            "no:\n  hostdev (pci)\n--- a\n+++ b",
        ),
        (
            StepError(reason="no", plan=PLAN, index=1, state="on b", next_command="recover"),
            "no\nstate: on b\nnext: recover",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_special_facts_are_in_the_text(error: FibackupError, text: str) -> None:
    """The fields that only some errors have are in their text."""
    assert str(error) == text


@pytest.mark.parametrize(
    "error",
    [
        ParseError(reason="no", where="size", path="/a"),
        NoSpaceError(reason="full", needed_bytes=5, free_bytes=3),
        LockedError(reason="locked", owner="pid 4711 on hv7"),
        QemuImgError(reason="failed", argv=("qemu-img", "info"), returncode=-9, stderr="x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error: FibackupError) -> None:
    """A pickled error comes back with its class, its facts and its text."""
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__reduce__() == error.__reduce__()


def test_bad_input_is_a_value_error() -> None:
    """Whoever catches `ValueError` catches bad input."""
    assert issubclass(ModelError, ValueError)
    assert hash(ModelError(reason="x")) != hash(ModelError(reason="x"))  # by identity
