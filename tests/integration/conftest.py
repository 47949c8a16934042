"""Fixtures with real domains; each one leaves nothing behind, also when a test fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import fibackup as fb
from hypervisor import (
    TWO_DISKS,
    BlockDomain,
    DiskSpec,
    Embedded,
    GuestOptions,
    Hypervisor,
    LinuxGuest,
    MakeBlockDomain,
    MakeLinuxGuest,
    PrivateDaemon,
    missing_tools,
)
from hypervisor.faulty import Zygote, fork_server
from hypervisor.schemas import every_document_fits
from integration.forks import Forks


@pytest.fixture(scope="session", autouse=True)
def documents_fit_their_schemas() -> Iterator[None]:
    """Hold every document of a store against its published schema."""
    with every_document_fits():
        yield


@pytest.fixture(scope="session")
def hypervisor() -> Iterator[Embedded]:
    """Give the embedded QEMU driver of this session."""
    require_tools()
    with Embedded() as opened:
        yield opened


@pytest.fixture
def host(hypervisor: Embedded) -> fb.LibvirtHost:
    """Give the host."""
    return fb.LibvirtHost(hypervisor.connection)


@pytest.fixture(scope="session")
def private_daemon() -> Iterator[PrivateDaemon]:
    """Give a libvirtd of this session's own."""
    require_tools()
    with PrivateDaemon() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Give processes of ours that begin in no time."""
    with Forks() as server:
        yield server


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Give the process that forks acts that fail."""
    with fork_server() as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[fb.Store]:
    """Give an empty store."""
    place = tmp_path / "store"
    place.mkdir()
    with fb.Store.create(place) as made:
        yield made


@pytest.fixture
def block_domain(request: pytest.FixtureRequest) -> Iterator[MakeBlockDomain]:
    """Give a factory of paused domains, which end with the test."""
    made: list[BlockDomain] = []

    def make(
        *disks: DiskSpec, devices_xml: str = "", start: bool = True, on: Hypervisor | None = None
    ) -> BlockDomain:
        home = on or _embedded(request)
        made.append(BlockDomain.create(home, *disks, devices_xml=devices_xml, start=False))
        if start:
            made[-1].start()
        return made[-1]

    yield make
    for domain in made:
        domain.close()


@pytest.fixture(scope="module")
def linux_guest(request: pytest.FixtureRequest) -> Iterator[MakeLinuxGuest]:
    """Give a factory of Linux guests, which end with the module."""
    made: list[LinuxGuest] = []

    def make(
        *disks: DiskSpec,
        options: GuestOptions = GuestOptions(),  # noqa: B008 - a frozen value
        devices_xml: str = "",
        wait: bool = True,
        on: Hypervisor | None = None,
    ) -> LinuxGuest:
        home = on or _embedded(request)
        chosen = disks or TWO_DISKS
        guest = LinuxGuest.start(
            home, disks=chosen, options=options, devices_xml=devices_xml, wait=False
        )
        made.append(guest)
        if wait:
            guest.wait_ready()
        return guest

    yield make
    for guest in made:
        guest.close()


def require_tools() -> None:
    """Skip a test that lacks its tools; fail it, with their names, where they are required."""
    absent = missing_tools()
    if absent and os.environ.get("FIBACKUP_REQUIRE"):
        pytest.fail(f"missing: {', '.join(absent)}; run scripts/setup")
    if absent:
        pytest.skip(f"missing: {', '.join(absent)}")


def _embedded(request: pytest.FixtureRequest) -> Embedded:
    opened: Embedded = request.getfixturevalue("hypervisor")
    return opened
