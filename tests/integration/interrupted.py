"""A prune that dies when its journal is written, and nothing of what it says is done yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["killed_after_its_journal"]


@contextmanager
def killed_after_its_journal(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the prune inside die right after it has written its journal."""

    def die(*_: object) -> int:
        raise KeyboardInterrupt

    with patch.context() as killed:
        killed.setattr("fibackup.host.prune._finish", die)
        with pytest.raises(KeyboardInterrupt):
            yield
