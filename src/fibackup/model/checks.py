"""Validators that the models share; each raises `ModelError` and names the field."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from attrs import Attribute

from fibackup.errors import ModelError

__all__ = [
    "UUID_PATTERN",
    "absolute",
    "base_name",
    "is_target",
    "matches",
    "non_negative",
    "not_empty",
    "one_line",
    "sha256_hex",
    "target_name",
]

UUID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
"""A UUID as libvirt writes it."""

_TARGET = re.compile(r"[a-z]{1,8}[a-z0-9]{0,8}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def _refuse(attribute: Attribute[Any], value: object, what: str) -> ModelError:
    return ModelError(reason=f"{attribute.name} {value!r} {what}")


def absolute(_: object, attribute: Attribute[Any], value: PurePosixPath) -> None:
    """Refuse relative paths and paths with a NUL byte."""
    if not value.is_absolute() or "\0" in str(value):
        raise _refuse(attribute, str(value), "is not an absolute path")


def non_negative(_: object, attribute: Attribute[Any], value: int) -> None:
    """Refuse numbers below 0, and bools."""
    if isinstance(value, bool) or value < 0:
        raise _refuse(attribute, value, "is negative")


def one_line(_: object, attribute: Attribute[Any], value: str) -> None:
    """Refuse empty text and control characters."""
    controls = not value.isprintable() and any(ord(char) < 32 or ord(char) == 127 for char in value)
    if not value or controls:
        raise _refuse(attribute, value, "is empty or has control characters")


def not_empty(_: object, attribute: Attribute[Any], value: str) -> None:
    """Refuse empty text; libvirt lets a domain's name have nearly any character."""
    if not value:
        raise _refuse(attribute, value, "is empty")


def base_name(_: object, attribute: Attribute[Any], value: str) -> None:
    """Refuse names that are not plain file names: a store never points outside itself."""
    if not value or "/" in value or "\0" in value or value in {".", ".."} or value.startswith("-"):
        raise _refuse(attribute, value, "is not a plain file name")


def is_target(text: str) -> bool:
    """Tell whether libvirt would make such a target."""
    return _TARGET.fullmatch(text) is not None


def target_name(_: object, attribute: Attribute[Any], value: str) -> None:
    """Refuse targets that libvirt would not make (``vda``, ``sdb``, ``hdc``, ``fda``, ...)."""
    if not is_target(value):
        raise _refuse(attribute, value, "is not a disk target")


def sha256_hex(_: object, attribute: Attribute[Any], value: str) -> None:
    """Refuse what is not 64 lower-case hexadecimal digits."""
    if not _SHA256.fullmatch(value):
        raise _refuse(attribute, value, "is not a sha256 in lower-case hexadecimal digits")


def matches(pattern: re.Pattern[str], what: str) -> Callable[[object, Attribute[Any], str], None]:
    """Return a validator that wants *pattern* to match the whole value."""

    def check(_: object, attribute: Attribute[Any], value: str) -> None:
        if not pattern.fullmatch(value):
            raise _refuse(attribute, value, what)

    return check
