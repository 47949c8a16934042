"""Opening the store of a backup: an empty directory becomes one, an unmounted disk does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from threading import Lock
from types import MappingProxyType

import fibackup as fb
from fibackup.cli.output import absolute

__all__ = [
    "existing_store",
    "find_history",
    "no_history",
    "open_store",
    "read_histories",
    "refuse_another",
    "the_one",
]

_opening = Lock()
_NAMED = 10
_NONE: Mapping[str, fb.FibackupError] = MappingProxyType({})
_NO_STORE = "00000000-0000-0000-0000-000000000000"


@contextmanager
def existing_store(path: str) -> Generator[fb.Store | None]:
    """
    Open a directory that is a store already.

    Args:
        path: The directory; it may be missing.

    Yields:
        The store, or None.

    Raises:
        StoreError: It is one that cannot be used.

    Source:
        docs/store-format.md, ``fibackup-store.json``.
    """
    try:
        store = fb.Store.open(path)
    except fb.NotAStoreError:
        yield None
        return
    with store:
        yield store


def open_store(
    path: str,
    domain: fb.Domain,
    policy: fb.BackupPolicy,
    *,
    now: datetime,
    on_new: Callable[[str], None],
    existing: bool = False,
    another: bool = False,
) -> fb.Store:
    """
    Open the store; an empty directory becomes one, unless the domain has points in it.

    A backup that cannot be taken makes no store.

    Args:
        path: The directory.
        domain: Whose ledger knows where its points are.
        policy: Of the backup that is going to be planned.
        now: Its time, aware.
        on_new: Called with a warning when an empty directory has become a store.
        existing: True: an empty directory is refused too.
        another: True: the domain's ledger may know another store at this path.

    Raises:
        PlanError: It is no store, and the domain cannot be backed up.
        NoSpaceError: It is no store, and has no room for the copies.
        NotAStoreError: It is neither empty nor a store, or the ledger knows another at this path.

    Source:
        docs/design.md, "Command line".
    """
    with _opening:  # one of several domains makes it
        found = _the_store_there(path, domain, another=another)
        if found is not None:
            return found
        if existing:
            fb.Store.open(path).close()
        plan = fb.plan_backup(domain, no_history(path, domain), now=now, policy=policy)
        refuse_another(path, domain, None, allowed=another)
        _refuse_full(path, plan)
        try:
            store = fb.Store.create(path)
        except (fb.DestinationExistsError, fb.NotAStoreError):
            found = _the_store_there(path, domain, another=another)
            if found is None:
                raise
            return found  # another run has made it meanwhile
    on_new(f"{path} was empty, and is a new store now")
    return store


def _the_store_there(path: str, domain: fb.Domain, *, another: bool) -> fb.Store | None:
    with existing_store(path) as found:
        if found is None:
            return None
        refuse_another(path, domain, found.uuid, allowed=another)
    return fb.Store.open(path)


def _refuse_full(path: str, plan: fb.Plan) -> None:
    """Refuse what the run would refuse, before a store is made for it."""
    with suppress(OSError):  # a directory that is missing is named by those who open it
        found = os.statvfs(path)
        free = found.f_bavail * found.f_frsize
        if free < plan.expects.space_bytes:
            raise fb.NoSpaceError(
                domain=plan.domain,
                reason=f"the store has {fb.format_bytes(free)} free, "
                f"the copies need about {fb.format_bytes(plan.expects.space_bytes)}",
                path=path,
                needed_bytes=plan.expects.space_bytes,
                free_bytes=free,
            )


def no_history(path: str, domain: fb.Domain) -> fb.History:
    """
    Return what a store that is not there yet has of a domain: nothing.

    Args:
        path: Where the store is going to be.
        domain: The domain.

    Source:
        docs/design.md, "Command line".
    """
    return fb.History(store=_NO_STORE, path=absolute(path), uuid=domain.uuid)


def refuse_another(path: str, domain: fb.Domain, found: str | None, *, allowed: bool) -> None:
    """
    Refuse a directory where another store should be, with the domain's points.

    Args:
        path: The directory.
        domain: Whose ledger knows where its points are.
        found: UUID of the store that is there, None when there is none.
        allowed: True: it is meant so.

    Raises:
        NotAStoreError: The ledger remembers a store at this path, and not this one.

    Source:
        docs/design.md, "Command line".
    """
    if allowed or found in {known.uuid for known in domain.ledger.stores}:
        return
    for known in domain.ledger.stores:
        if os.path.realpath(known.path) == os.path.realpath(path):
            instead = "it is not there" if found is None else "another one is there"
            raise fb.NotAStoreError(
                domain=domain.name,
                reason=f"the domain has point {known.point} in a store at this path, and "
                f"{instead}: is its disk mounted? Where a new store is meant, say so once: "
                "fibackup backup --new-store",
                path=path,
            )


def read_histories(
    store: fb.StoreReader, uuids: Sequence[str]
) -> tuple[tuple[fb.History, ...], dict[str, fb.FibackupError]]:
    """
    Return the histories that can be read; a domain that cannot be read hides no other.

    Args:
        store: Open.
        uuids: The domains.

    Returns:
        The histories, in this order; and of each other domain, by its UUID, what is wrong.

    Source:
        docs/errors.md, "Exit codes".
    """
    found: list[fb.History] = []
    unread: dict[str, fb.FibackupError] = {}
    for uuid in uuids:
        try:
            found.append(store.read_history(uuid))
        except fb.FibackupError as error:
            unread[uuid] = error
    return tuple(found), unread


def find_history(store: fb.StoreReader, name: str, on_unread: Callable[[str], None]) -> fb.History:
    """
    Return the history of the domain with this UUID, or with this name at its newest point.

    Args:
        store: Open.
        name: Name or UUID.
        on_unread: Called with a warning for each other domain that cannot be read.

    Raises:
        NoSuchPointError: There is none, or there are several of this name.
        FibackupError: Its directory cannot be read.

    Source:
        docs/design.md, "Command line".
    """
    uuids = store.domains()
    if name in uuids:
        every: Sequence[fb.History] = (store.read_history(name),)
        unread = _NONE
    else:
        every, unread = read_histories(store, uuids)
    found = {
        each.uuid: each
        for each in every
        if each.points and name in {each.uuid, each.points[-1].domain}
    }
    return found[the_one(store, name, tuple(found), unread, on_unread)]


def the_one(
    store: fb.StoreReader,
    name: str,
    found: Sequence[str],
    unread: Mapping[str, fb.FibackupError],
    on_unread: Callable[[str], None],
) -> str:
    """
    Return the domain that was meant.

    A domain that cannot be read may be the one, when its directory has the name.

    Args:
        store: Open.
        name: What was asked for.
        found: UUIDs of the domains that have this name or UUID.
        unread: Of the domains that cannot be read, by UUID, what is wrong.
        on_unread: Called with a warning for each of these, when it is not the one.

    Raises:
        NoSuchPointError: There is none, or there are several.
        FibackupError: The one cannot be read.

    Source:
        docs/design.md, "Command line".
    """
    perhaps = [uuid for uuid in unread if f"{name}-{uuid}" in store.directories(uuid)]
    if len(perhaps) == 1 and not found:
        raise unread[perhaps[0]]
    for uuid, error in unread.items():
        if uuid not in perhaps:
            on_unread(f"another domain cannot be read, and was passed over: {error}")
    several = (*found, *perhaps)
    if len(several) == 1:
        return several[0]
    if several:
        words = f"several domains have had this name; say which: {', '.join(several)}"
        raise fb.NoSuchPointError(reason=words, domain=name)
    raise _no_such_domain(store, name)


def _no_such_domain(store: fb.StoreReader, name: str) -> fb.NoSuchPointError:
    """Return the error for a domain without a point, which names those that have one."""
    latest = (history.latest for history in read_histories(store, store.domains())[0])
    names = sorted({point.domain for point in latest if point is not None})
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    known = ", ".join(names[:_NAMED]) + more if names else "none at all"
    return fb.NoSuchPointError(
        reason=f"the store has no point of this domain (it has points of: {known})",
        domain=name,
        path=str(store.path),
    )
