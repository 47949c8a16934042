"""What `Host` and `PointStore` promise about what a domain keeps outside of its disks."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from fibackup.errors import DestinationExistsError, HostError, ParseError
from fibackup.model.point import FileRole, StoredFile
from fibackup.plan.steps import SaveState

if TYPE_CHECKING:
    from contract.conftest import World


def test_a_domain_starts_by_itself_only_when_told_so(world: World) -> None:
    """A new one does not."""
    assert world.host.autostart(world.uuid) is False


@pytest.mark.parametrize("role", [FileRole.NVRAM, FileRole.TPM_STATE])
def test_state_that_is_not_there_is_an_error(world: World, role: FileRole) -> None:
    """The domain has neither firmware variables nor a TPM."""
    with pytest.raises((HostError, ParseError)):
        world.host.read_state(world.uuid, role)


def test_secrets_are_in_the_xml_only_when_asked_for(world: World) -> None:
    """The XML is the domain's either way."""
    for secrets in (False, True):
        assert world.uuid in world.host.domain_config(world.uuid, secrets=secrets)


def test_state_is_stored_once(world: World) -> None:
    """Byte for byte, with its hash; a second time is an error."""
    data = bytes(range(256)) * 3
    step = SaveState(FileRole.NVRAM, "20261124T040000Z.nvram")
    with world.store.locked(world.uuid, "contract", exclusive=True):
        stored = world.store.save_state(world.uuid, step, data)
        assert stored == StoredFile(FileRole.NVRAM, step.name, len(data), sha256(data).hexdigest())
        with pytest.raises(DestinationExistsError):
            world.store.save_state(world.uuid, step, data)
