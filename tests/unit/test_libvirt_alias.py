"""A name of ``libvirt.conf`` that stands for another machine."""

from __future__ import annotations

import libvirt
import pytest

from fibackup.errors import RequirementError
from fibackup.host.libvirt_host import LibvirtHost


class Connection:
    """What is open."""

    def __init__(self, uri: str) -> None:
        """Keep what it says of itself."""
        self.uri, self.closed = uri, False

    def getURI(self) -> str:  # noqa: N802 - as libvirt calls it
        """Return what the name stood for."""
        return self.uri

    def close(self) -> None:
        """Remember it."""
        self.closed = True


@pytest.mark.parametrize(
    ("uri", "here"),
    [
        ("qemu:///system", True),
        ("qemu+unix:///system?socket=/run/x", True),
        ("qemu+ssh://hv7/system", False),
        ("qemu+ext://hv7/system?command=x", False),
        ("qemu+ext:///system?command=x", False),
    ],
)
def test_what_counts_is_where_libvirt_is(
    uri: str,
    here: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Images of another machine would be looked for on this one."""
    opened = Connection(uri)
    monkeypatch.setattr(libvirt, "open", lambda _: opened)
    if here:
        assert LibvirtHost.open("hv").uri == uri
    else:
        with pytest.raises(RequirementError, match="on another machine"):
            LibvirtHost.open("hv")
    assert opened.closed is not here
