"""What the fakes assert: a test, or fibackup itself, did what nobody may do."""

from __future__ import annotations

__all__ = ["law"]


def law(holds: bool, text: str) -> None:  # noqa: FBT001 - it reads like assert
    """
    Assert that something holds, also where Python does not run its own assertions.

    Args:
        holds: What has to hold.
        text: What is wrong when it does not.

    Raises:
        AssertionError: It does not hold.
    """
    if not holds:
        raise AssertionError(text)
