"""Freeze and thaw of the real host, when libvirt answers with an error: what is known then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import libvirt
import pytest

from fibackup.errors import AgentError, HostError, NoSuchDomainError
from fibackup.host.libvirt_host import LibvirtHost

UUID = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a"
END_OF_FILE = (38, "End of file while reading data: Input/output error")
CLOSED = (1, "internal error: client socket is closed")
REFUSED = (38, "Failed to connect socket to '/run/libvirt/libvirt-sock': Connection refused")
BUSY = (
    68,
    "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatch)",
)
MUTE = (86, "Guest agent is not responding: Guest agent not available for now")
ANSWERED = "internal error: unable to execute QEMU agent command 'guest-fsfreeze-freeze'"
GONE = (42, "Domain not found")


class Refusal(libvirt.libvirtError):
    """What libvirt raises, with chosen words."""

    def __init__(self, code: int, words: str) -> None:
        """Keep both."""
        Exception.__init__(self, words)
        self.code, self.words = code, words

    def get_error_code(self) -> int:
        """Return the code."""
        return self.code

    def get_error_message(self) -> str:
        """Return the words."""
        return self.words


class Connection:
    """A connection whose calls fail as told, in their order, and then succeed."""

    def __init__(self, **failures: Sequence[tuple[int, str] | None]) -> None:
        """Keep what is to fail, by the name of the call."""
        self.failures = {call: iter(errors) for call, errors in failures.items()}
        self.calls: list[str] = []
        self.alive = True
        self.fsFreeze = self._call("fsFreeze", 2)
        self.fsThaw = self._call("fsThaw", 2)
        self.fsInfo = self._call("fsInfo", [])
        self.agentSetResponseTimeout = self._call("agentSetResponseTimeout", 0)
        self.lookupByUUIDString = self._call("lookupByUUIDString", self)

    def _call(self, name: str, answer: object) -> Callable[..., object]:
        def call(*_: object) -> object:
            self.calls.append(name)
            error = next(self.failures.get(name, iter(())), None)
            if error is not None:
                raise Refusal(*error)
            return answer

        return call

    def connect(self) -> Connection:
        """Return itself: it stands for the domain too."""
        return self

    def isAlive(self) -> int:  # noqa: N802 - libvirt's name
        """Tell whether the daemon is there."""
        return int(self.alive)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr("fibackup.host.libvirt_host._THAW_PAUSE_SECONDS", 0.001)


def host_of(connection: Connection) -> LibvirtHost:
    """Return a host on a connection that the caller keeps."""
    return LibvirtHost(connection)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "words", "maybe_frozen"),
    [
        (*END_OF_FILE, True),
        (*CLOSED, True),
        (39, "cannot recv data", True),
        (*MUTE, True),
        (*BUSY, False),
        (86, "Guest agent is not responding: QEMU guest agent is not connected", False),
        (86, "Guest agent is not responding: failed synchronization", False),
        (1, f"{ANSWERED}: failed to open /srv: Permission denied", False),
        (113, f"{ANSWERED}: failed to freeze", False),
        (55, "Requested operation is not valid: domain is not running", False),
    ],
)
def test_a_freeze_that_failed_counts_as_one_unless_it_cannot_have_been(
    code: int, words: str, *, maybe_frozen: bool
) -> None:
    """Only where the command was not sent, or was answered with a no, the guest writes on."""
    with pytest.raises(AgentError) as failure:
        host_of(Connection(fsFreeze=[(code, words)])).freeze(UUID, 60)
    assert failure.value.maybe_frozen is maybe_frozen
    assert words in failure.value.reason


@pytest.mark.parametrize("call", ["lookupByUUIDString", "agentSetResponseTimeout", "fsInfo"])
@pytest.mark.parametrize("error", [END_OF_FILE, CLOSED])
def test_what_fails_before_the_freeze_has_frozen_nothing(call: str, error: tuple[int, str]) -> None:
    """No thaw is due then: it would undo what somebody else has frozen."""
    connection = Connection(**{call: [error]})
    connection.alive = False
    with pytest.raises(AgentError) as failure:
        host_of(connection).freeze(UUID, 60)
    assert not failure.value.maybe_frozen
    assert "fsFreeze" not in connection.calls


def test_a_domain_that_is_gone_has_no_guest_to_freeze() -> None:
    """The error says so, wherever it comes from."""
    for call in ("lookupByUUIDString", "fsFreeze"):
        with pytest.raises(NoSuchDomainError):
            host_of(Connection(**{call: [GONE]})).freeze(UUID, 60)


@pytest.mark.parametrize("error", [BUSY, MUTE, (113, ANSWERED), (88, "access denied")])
@pytest.mark.parametrize("call", ["lookupByUUIDString", "fsThaw"])
def test_a_thaw_is_tried_again(call: str, error: tuple[int, str]) -> None:
    """Whatever has failed, the next try may thaw the guest."""
    connection = Connection(**{call: [error]})
    assert host_of(connection).thaw(UUID, 60) == 2
    assert connection.calls.count("lookupByUUIDString") == 2


@pytest.mark.parametrize("error", [BUSY, MUTE, (88, "access denied")])
def test_a_thaw_ends_with_its_time(error: tuple[int, str]) -> None:
    """The error says that the guest may be frozen, and why."""
    with pytest.raises(AgentError, match="may be frozen still") as failure:
        host_of(Connection(fsThaw=[error] * 999)).thaw(UUID, 0.02)
    assert failure.value.maybe_frozen
    assert error[1] in failure.value.reason


def test_a_domain_that_is_gone_needs_no_thaw() -> None:
    """A guest that is no more is not frozen."""
    connection = Connection(fsThaw=[MUTE, GONE])
    with pytest.raises(NoSuchDomainError):
        host_of(connection).thaw(UUID, 60)


def test_a_thaw_goes_on_with_the_daemon_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection of our own is made again, as soon as there is something to connect to."""
    lost = Connection(lookupByUUIDString=[None, CLOSED, CLOSED], fsThaw=[END_OF_FILE])
    again, failures = Connection(), [REFUSED]

    def connect(_: str) -> Connection:
        if failures:
            raise Refusal(*failures.pop())
        return again

    monkeypatch.setattr(libvirt, "open", connect)
    host = host_of(lost)
    host._uri = "qemu:///system"
    assert host.thaw(UUID, 60) == 2
    assert lost.calls == ["lookupByUUIDString", "fsThaw", *["lookupByUUIDString"] * 2]
    assert again.calls == ["lookupByUUIDString", "fsThaw"]


@pytest.mark.parametrize("call", ["lookupByUUIDString", "fsThaw"])
def test_a_lost_connection_of_the_caller_ends_the_thaw_at_once(call: str) -> None:
    """Only the caller can make it again, and the guest should not wait for that."""
    connection = Connection(**{call: [END_OF_FILE] * 99})
    connection.alive = False
    with pytest.raises(AgentError, match="caller") as failure:
        host_of(connection).thaw(UUID, 600)
    assert failure.value.maybe_frozen
    assert isinstance(failure.value.__cause__, HostError)
