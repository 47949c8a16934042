"""What a plan must know of the host on which it defines a domain."""

from __future__ import annotations

from attrs import frozen

__all__ = ["HostFacts"]


@frozen
class HostFacts:
    """
    A host as it was observed.

    Attributes:
        domains: Name and UUID of every domain, defined or running.
        emulators: Paths of the programs that libvirt has for emulators.
    """

    domains: tuple[tuple[str, str], ...] = ()
    emulators: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The names of its domains."""
        return frozenset(name for name, _ in self.domains)

    @property
    def uuids(self) -> frozenset[str]:
        """The UUIDs of its domains."""
        return frozenset(uuid for _, uuid in self.domains)
