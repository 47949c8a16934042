"""Facts about the ledger."""

from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import ModelError
from fibackup.model.chain import BackingChain, FileIdentity, Image
from fibackup.model.ledger import (
    FrozenImage,
    KnownStore,
    Ledger,
    Overlay,
    Run,
    RunPhase,
    consolidated,
)

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


MIDDLE, OTHER = PurePosixPath("/i/disk.bimg-0"), PurePosixPath("/i/template.qcow2")
UPPER = Overlay("vda", TOP, MIDDLE, "A", "store")
LOWER = Overlay("vda", MIDDLE, BASE, "0", "store")


def test_an_overlay_lies_on_what_was_under_it_past_overlays_of_ours() -> None:
    """Down to the disk's own image and no further; a ledger that loops has no end."""
    ledger = Ledger((UPPER, LOWER))
    assert ledger.lies_on(UPPER, MIDDLE)
    assert ledger.lies_on(UPPER, BASE)
    assert not ledger.lies_on(UPPER, OTHER)
    loop = Ledger((UPPER, Overlay("vda", MIDDLE, TOP, "0", "store")))
    assert not loop.lies_on(UPPER, BASE)


def chain_of(*paths: PurePosixPath, target: str = "vda") -> BackingChain:
    """Return a chain of qcow2 images."""
    return BackingChain(target, tuple(Image(path, "qcow2") for path in paths))


def test_after_a_commit_the_overlay_lies_on_the_base() -> None:
    """It keeps its point; what was committed is freed; other disks are as they were."""
    other = Overlay("vdb", OTHER, BASE, "A", "store")
    run = Run("A", "store", RunPhase.CONSOLIDATING)
    ledger = Ledger((UPPER, LOWER, other), (FROZEN,), run=run)
    after = consolidated(ledger, target="vda", removed=(MIDDLE,), after=chain_of(TOP, BASE))
    assert after.overlays == (evolve(UPPER, below=BASE), evolve(LOWER, freed=True), other)
    assert (after.images, after.run) == ((FrozenImage(BASE, "qcow2"),), None)


def test_what_a_job_has_not_written_is_not_written_down_anew() -> None:
    """Another disk may lie on it, and who has changed it was not the job."""
    then, now = FileIdentity(1, 1, 1), FileIdentity(1, 1, 2)
    template = FrozenImage(OTHER, "qcow2", identity=then)
    own = FrozenImage(BASE, "qcow2", backing=OTHER, identity=then)
    chain = BackingChain(
        "vda", tuple(Image(path, "qcow2", identity=now) for path in (TOP, BASE, OTHER))
    )
    ledger = Ledger((UPPER, LOWER), (own, template))
    after = consolidated(ledger, target="vda", removed=(MIDDLE,), after=chain, written=BASE)
    assert after.images == (evolve(own, identity=now), template)
    assert consolidated(ledger, target="vda", removed=(), after=chain).images == ledger.images
    assert consolidated(Ledger((UPPER,)), target="vda", removed=(), after=chain).images == (
        evolve(own, identity=now),
        evolve(template, identity=now),
    )


def test_a_proof_that_was_lost_before_stays_lost() -> None:
    """New identities under an overlay must not stand in for it."""
    after = consolidated(
        Ledger((UPPER, LOWER)),
        target="vda",
        removed=(),
        after=chain_of(TOP, MIDDLE, BASE),
        stale=frozenset({MIDDLE}),
    )
    assert [entry.stale for entry in after.overlays] == [False, True]
    again = consolidated(after, target="vda", removed=(), after=chain_of(TOP, MIDDLE, BASE))
    assert again.overlays == after.overlays


@pytest.mark.parametrize("paths", [(TOP,), (TOP, OTHER)])
def test_an_overlay_without_the_disks_own_image_is_not_ours_any_more(
    paths: tuple[PurePosixPath, ...],
) -> None:
    """It is the disk's own image from now on, whether a template is under it or nothing."""
    ledger = Ledger((UPPER, LOWER))
    after = consolidated(ledger, target="vda", removed=(MIDDLE,), after=chain_of(*paths))
    assert after.overlays == (evolve(LOWER, freed=True),)
