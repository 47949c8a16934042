"""Opening the store of a backup: an empty directory becomes one, an unmounted disk does not."""

from __future__ import annotations

import os
from threading import Lock

import fibackup as fb

__all__ = ["is_store", "open_store", "refuse_lost_store"]

_opening = Lock()


def is_store(path: str) -> bool:
    """
    Tell whether a directory is a store.

    Args:
        path: The directory; it may be missing.

    Raises:
        StoreError: It is one that cannot be used.

    Source:
        docs/store-format.md, ``fibackup-store.json``.
    """
    try:
        fb.Store.open(path).close()
    except fb.NotAStoreError:
        return False
    return True


def open_store(path: str, domain: fb.Domain) -> fb.Store:
    """
    Open the store; an empty directory becomes one, unless the domain has points in it.

    Args:
        path: The directory.
        domain: Whose ledger knows where its points are.

    Raises:
        NotAStoreError: It is neither empty nor a store, or the domain's points are gone from it.

    Source:
        docs/design.md, "Command line".
    """
    with _opening:  # one of several domains makes it
        try:
            return fb.Store.open(path)
        except fb.NotAStoreError:
            refuse_lost_store(path, domain)
            return fb.Store.create(path)


def refuse_lost_store(path: str, domain: fb.Domain) -> None:
    """
    Refuse a directory where the domain's points should be.

    Args:
        path: The directory, which is no store.
        domain: Whose ledger knows where its points are.

    Raises:
        NotAStoreError: The ledger remembers a store at this path.

    Source:
        docs/design.md, "Command line".
    """
    for known in domain.ledger.stores:
        if os.path.realpath(known.path) == os.path.realpath(path):
            raise fb.NotAStoreError(
                domain=domain.name,
                reason=f"the domain has point {known.point} in a store at this path, "
                "and it is not there: is its disk mounted?",
                path=path,
            )
