"""Which call of the fakes fails, with what, before or after its effect."""

from __future__ import annotations

from attrs import frozen

from fibackup.errors import AgentError, LibvirtError

__all__ = ["Faults"]


@frozen
class _Fault:
    """A call that will fail."""

    at: int
    error: BaseException | None
    after: bool
    lasting: bool


class Faults:
    """The one fault that is set, or none."""

    def __init__(self) -> None:
        """Set none."""
        self._fault: _Fault | None = None

    def set(self, at: int, error: BaseException | None, *, after: bool, lasting: bool) -> None:
        """Let call number *at* fail; see `FakeHost.fail_at`."""
        self._fault = _Fault(at, error, after, lasting)

    def heal(self) -> None:
        """Set none."""
        self._fault = None

    def due(self, name: str, number: int) -> tuple[BaseException | None, BaseException | None]:
        """Return what a call raises before its effect, and what after it."""
        fault = self._fault
        if fault is None or number < fault.at or (number > fault.at and not fault.lasting):
            return None, None
        first = number == fault.at
        late = fault.after and first
        error = fault.error or _default_error(name, maybe_frozen=late)
        return (None, error) if late else (error, None)


def _default_error(name: str, *, maybe_frozen: bool) -> BaseException:
    if name in {"freeze", "thaw"}:
        return AgentError(
            reason="the guest agent does not answer", maybe_frozen=maybe_frozen or name == "thaw"
        )
    return LibvirtError(reason="the connection was lost", code=38)
