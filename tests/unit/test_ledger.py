"""Facts about the ledger."""

from pathlib import PurePosixPath

import pytest

from fibackup.errors import ModelError
from fibackup.model.chain import BackingChain, Image
from fibackup.model.ledger import FrozenImage, KnownStore, Ledger, Overlay, Run, RunPhase

TOP, BASE = PurePosixPath("/i/disk.bimg-A"), PurePosixPath("/i/disk.qcow2")
OVERLAY = Overlay("vda", TOP, BASE, "A", "store")
FROZEN = FrozenImage(BASE, "qcow2")
LEDGER = Ledger((OVERLAY,), (FROZEN,), (KnownStore("store", "/backup", "A"),))


def test_entries_are_found_by_path() -> None:
    """A path that the ledger does not know has no entry."""
    assert LEDGER.overlay(TOP) is OVERLAY
    assert LEDGER.overlay(BASE) is None
    assert LEDGER.image(BASE) is FROZEN
    assert LEDGER.image(TOP) is None


def test_what_is_in_no_chain_any_more_is_forgotten() -> None:
    """Stores and the run stay; overlays and images go when no chain has them."""
    chain = BackingChain("vda", (Image(TOP, "qcow2"), Image(BASE, "qcow2")))
    assert LEDGER.without_unused((chain,)) == LEDGER
    assert LEDGER.without_unused(()) == Ledger(stores=LEDGER.stores)


def test_a_run_begins_with_its_intent() -> None:
    """A run that was only begun has taken nothing and frozen nobody."""
    run = Run("A", "store")
    assert (run.phase, run.frozen) == (RunPhase.INTENT, False)


def test_paths_of_the_ledger_are_absolute() -> None:
    """A relative path would mean another file in another process."""
    with pytest.raises(ModelError):
        FrozenImage(PurePosixPath("disk.qcow2"), "qcow2")
    with pytest.raises(ModelError):
        Overlay("vda", PurePosixPath("x"), BASE, "A", "store")
