"""
A libvirtd of our own, which the machine's libvirt and its firewall never see.

As root, in a mount and a network namespace of its own::

    ROOT/private/run    mounted over /run/libvirt          the daemon's and the QEMUs' view only
    ROOT/private/lib                 /var/lib/libvirt
    ROOT/private/etc                 /etc/libvirt
    ROOT/private/log                 /var/log/libvirt
    ROOT/private/cache               /var/cache/libvirt
    ROOT/socket/libvirt-sock   <---- qemu+unix:///system?socket=...
    ROOT/images                      the same for client and daemon

As another user it is a session daemon with its own HOME and XDG directories below ROOT; the one
with the agents' sockets has a short name, see `roots`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import libvirt

from hypervisor import capabilities
from hypervisor.block_domain import BlockDomain
from hypervisor.connected import remove_domains
from hypervisor.events import ensure_event_loop
from hypervisor.host import HarnessError, is_root, tool
from hypervisor.images import DiskSpec
from hypervisor.processes import processes_of
from hypervisor.qemu_conf import qemu_conf
from hypervisor.reaper import ensure_reaper
from hypervisor.roots import OwnedRoot

_PRIVATE: Final = {
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "etc": "/etc/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
    "swtpm": "/var/log/swtpm",
}
_PATIENCE_SECONDS: Final = 20.0


class PrivateDaemon:
    """A real daemon with real remote calls: the client may die, the daemon may be restarted."""

    def __init__(self, root: Path | None = None, *, qemu_user: str = "root") -> None:
        """
        Start the daemon below `root`, or below a short temporary directory.

        Distributions have their QEMU run as `qemu_user` libvirt-qemu or qemu; a session daemon has
        no choice.
        """
        self._qemu_user = qemu_user if is_root() else ""
        self._owned = OwnedRoot(root)
        self.root = self._owned.path
        self.images = self.root / "images"
        self._socket = self.root / "socket" / "libvirt-sock"
        self.uri = f"qemu+unix:///{'system' if is_root() else 'session'}?socket={self._socket}"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._prepare()
            self.start()
        except BaseException:
            self._owned.remove()
            raise

    # -- the daemon ------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The pid of the running daemon."""
        if self._process is None:
            raise HarnessError("the private daemon is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the daemon and connect to it."""
        ensure_event_loop()
        ensure_reaper()
        with (self.root / "daemon.err").open("ab") as errors:
            self._process = subprocess.Popen(
                self._command(),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        self.connection = self._connect()

    def stop(self) -> None:
        """End the daemon as its service manager would; domains go on."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the daemon at once, in the middle of whatever it does; domains go on."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop, start, and connect again: older `virDomain` objects are of no use afterwards."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the domains and the daemon, remove all files."""
        if self._process is not None:
            remove_domains(self.connection)
            capabilities.save(self._kind, self._capabilities)
            self.stop()
        self._owned.remove()

    # -- domains ---------------------------------------------------------------------------------

    @property
    def log_directory(self) -> Path:
        """Where the daemon keeps the output of each QEMU."""
        return (
            self._private("log") / "qemu"
            if is_root()
            else self.root / "home/.cache/libvirt/qemu/log"
        )

    def block_domain(
        self, *disks: DiskSpec, prefix: str = "block", devices_xml: str = "", start: bool = True
    ) -> BlockDomain:
        """Create, define and start a paused domain without an operating system."""
        return BlockDomain.create(self, *disks, prefix=prefix, devices_xml=devices_xml, start=start)

    # -- inside ----------------------------------------------------------------------------------

    def _private(self, name: str) -> Path:
        return self.root / "private" / name

    @property
    def _capabilities(self) -> Path:
        base = self._private("cache") if is_root() else self.root / "home/.cache/libvirt"
        return base / "qemu" / "capabilities"

    @property
    def _kind(self) -> str:
        """Whose capabilities of QEMU are cached; another user may have others."""
        return f"daemon-{self._qemu_user}" if self._qemu_user not in ("", "root") else "daemon"

    def _prepare(self) -> None:
        configuration = self._private("etc") if is_root() else self.root / "c/libvirt"
        for directory in (
            *map(self._private, _PRIVATE),
            configuration,
            self.images,
            self._socket.parent,
        ):
            directory.mkdir(parents=True, exist_ok=True)
        runtime = self.root / "home/run"
        runtime.mkdir(parents=True, mode=0o700)
        (configuration / "qemu.conf").write_text(qemu_conf(user=self._qemu_user))
        (self.root / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{self._socket.parent}"\n'
            'auth_unix_ro = "none"\nauth_unix_rw = "none"\n'
            f'log_outputs = "3:file:{self.root}/libvirtd.log"\n'
        )
        capabilities.seed(self._kind, self._capabilities)

    def _command(self) -> list[str]:
        daemon = [
            tool("libvirtd"),
            "-f",
            f"{self.root}/libvirtd.conf",
            "-p",
            f"{self.root}/libvirtd.pid",
        ]
        if not is_root():
            return daemon
        mounts = [
            f"mkdir -p {place} && mount --bind {self._private(name)} {place}"
            for name, place in _PRIVATE.items()
        ]
        if self._qemu_user != "root" and Path("/dev/kvm").exists():
            # A /dev/kvm that only the daemon may open makes it probe QEMU again at each call.
            kvm = self.root / "private/kvm"
            node = f"cp -a /dev/kvm {kvm} && chmod 0666 {kvm} && mount --bind {kvm} /dev/kvm"
            mounts.append(f"{{ {node} || true; }}")
        script = " && ".join([*mounts, 'exec "$@"'])
        return [
            tool("unshare"),
            "-m",
            "-n",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
            *daemon,
        ]

    def _environment(self) -> dict[str, str]:
        home = self.root / "home"
        own = {} if is_root() else {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_CONFIG_HOME": str(self.root / "c"),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "XDG_DATA_HOME": str(home / ".local/share"),
        }  # fmt: skip
        nobody = f"unix:path={self.root}/no-bus"
        return {
            **os.environ,
            **own,
            "DBUS_SYSTEM_BUS_ADDRESS": nobody,
            "DBUS_SESSION_BUS_ADDRESS": nobody,
        }

    def _connect(self) -> libvirt.virConnect:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                connection = libvirt.open(self.uri)
                connection.setKeepAlive(5, 3)
                return connection
            except libvirt.libvirtError as error:
                if (
                    self._process is None
                    or self._process.poll() is not None
                    or time.monotonic() > deadline
                ):
                    self._process = None
                    said = (self.root / "daemon.err").read_text()
                    raise HarnessError(
                        f"the private daemon does not answer: {error}\n{said}"
                    ) from error
                time.sleep(0.05)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(libvirt.libvirtError):
            self.connection.close()
        self._process.send_signal(number)
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def qemus(self) -> list[int]:
        """Return the pids of the QEMUs of this daemon."""
        daemon = self._process.pid if self._process else None
        return [pid for pid in processes_of(self.root) if pid != daemon]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
