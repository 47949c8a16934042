"""Overlays that a block job has freed: how they are told, kept and forgotten."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import ParseError
from fibackup.model.chain import BackingChain, Image
from fibackup.model.ledger import Ledger, Overlay, Run, RunPhase
from fibackup.parse.ledger_xml import parse_ledger, render_ledger

BASE, A, B, C = (PurePosixPath(f"/images/{name}") for name in ("disk", "a", "b", "c"))
STORE = "5702e000-0000-4000-8000-000000000001"
JOB = Run("-", "-", RunPhase.CONSOLIDATING)


def overlay(path: PurePosixPath, below: PurePosixPath, target: str = "vda") -> Overlay:
    """Return the entry of an overlay."""
    return Overlay(target, path, below, path.name, STORE)


def chain(*paths: PurePosixPath) -> tuple[BackingChain, ...]:
    """Return a domain's only chain."""
    return (BackingChain("vda", tuple(Image(path, "qcow2") for path in paths)),)


THREE = Ledger(overlays=(overlay(C, B), overlay(B, A), overlay(A, BASE)), run=JOB)


def test_what_lay_between_two_images_of_the_chain_is_freed() -> None:
    """The active overlay lies on the base now: what was between was committed."""
    assert THREE.after_lost_job(chain(C, BASE)).freed == (B, A)


def test_a_chain_that_is_as_before_frees_nothing() -> None:
    """Every overlay is in use."""
    assert THREE.after_lost_job(chain(C, B, A, BASE)) == THREE


def test_a_part_of_the_chain_is_freed() -> None:
    """The search ends at the first overlay that is in use."""
    assert THREE.after_lost_job(chain(C, A, BASE)).freed == (B,)


def test_without_the_active_overlay_nothing_is_freed() -> None:
    """Nobody knows where its data is."""
    assert THREE.after_lost_job(chain(BASE)).freed == ()


@pytest.mark.parametrize("run", [None, Run("P", STORE), Run("P", STORE, RunPhase.TAKEN)])
def test_only_a_run_that_consolidated_frees(run: Run | None) -> None:
    """What others commit is theirs."""
    assert evolve(THREE, run=run).after_lost_job(chain(C, BASE)).freed == ()


def test_an_overlay_of_another_disk_is_not_freed() -> None:
    """A ledger that contradicts itself proves nothing."""
    ledger = Ledger(overlays=(overlay(C, B), overlay(B, A, "vdb")), run=JOB)
    assert ledger.after_lost_job(chain(C, BASE)).freed == ()


def test_a_ledger_that_goes_round_in_a_circle_ends() -> None:
    """The search is as long as the ledger at most."""
    ledger = Ledger(overlays=(overlay(C, B), overlay(B, A), overlay(A, B)), run=JOB)
    assert set(ledger.after_lost_job(chain(C, BASE)).freed) == {A, B}


def test_a_freed_overlay_stays_until_its_file_is_gone() -> None:
    """It is in no chain and still in the ledger; `without` forgets it, and what lay on it sinks."""
    ledger = THREE.after_lost_job(chain(C, BASE)).without_unused(chain(C, BASE))
    assert ledger.freed == (B, A)
    assert ledger.without((B, A)).overlays == (overlay(C, BASE),)


def test_freed_travels_in_the_xml() -> None:
    """Only a freed overlay says so; anything but yes is refused."""
    ledger = THREE.after_lost_job(chain(C, BASE))
    text = render_ledger(ledger)
    assert text.count('freed="yes"') == 2
    assert parse_ledger(text) == ledger
    with pytest.raises(ParseError, match="@freed"):
        parse_ledger(text.replace('freed="yes"', 'freed="no"'))
