"""
Checks of what a caller wishes: a wish that is misunderstood is worse than one that is refused.

A `StrEnum` equals its text but is not it, so ``quiesce="require"`` would pass unseen where
`Quiesce.REQUIRE` is meant; and a text is a sequence of texts, so ``disks="vda"`` names three disks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from attrs import Attribute

from fibackup.errors import PolicyError

__all__ = ["flag", "flag_or_none", "member", "names", "refuse_text", "refuse_unknown"]


def refuse_unknown(name: str, value: object, kind: type[StrEnum]) -> None:
    """Refuse what is not a member of *kind*, also the text of one."""
    if not isinstance(value, kind):
        choices = ", ".join(f"{kind.__name__}.{each}" for each in kind.__members__)
        raise PolicyError(reason=f"{name} is {value!r}, and not one of {choices}")


def refuse_text(name: str, value: Sequence[str]) -> None:
    """Refuse one text where several are expected."""
    if isinstance(value, str):
        raise PolicyError(reason=f"{name} is the text {value!r}, and not a tuple of names")


def member(kind: type[StrEnum]) -> Callable[[object, Attribute[Any], StrEnum], None]:
    """Return a validator that wants a member of *kind*."""

    def check(_: object, attribute: Attribute[Any], value: StrEnum) -> None:
        refuse_unknown(attribute.name, value, kind)

    return check


def names(_: object, attribute: Attribute[Any], value: Sequence[str]) -> None:
    """Want a tuple of names: policies are values, so a list would be no good either."""
    refuse_text(attribute.name, value)
    if not isinstance(value, tuple):
        raise PolicyError(reason=f"{attribute.name} is {value!r}, and not a tuple of names")


def flag_or_none(_: object, attribute: Attribute[Any], value: object) -> None:
    """Want True, False, or None where something else decides."""
    if value is not None:
        flag(_, attribute, value)


def flag(_: object, attribute: Attribute[Any], value: object) -> None:
    """Want True or False: the text "no" is true."""
    if not isinstance(value, bool):
        raise PolicyError(reason=f"{attribute.name} is {value!r}, and neither True nor False")
