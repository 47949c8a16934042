"""
A libvirt to play with: a daemon of its own, with one small Linux guest, until Ctrl-C.

::

    make playground                             installs what is missing, then runs this
    .venv/bin/python examples/playground.py     the same, once everything is there

It prints a URI and commands for another terminal. The machine's own libvirt never sees any of it.
At the end the domains, the daemon, and the directory with all images, stores and locks are gone.

Exit status: 0 ended by Ctrl-C or SIGTERM, 1 something is wrong, 3 a tool is missing.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hypervisor import (
    MIB,
    DiskSpec,
    GuestOptions,
    HarnessError,
    LinuxGuest,
    PrivateDaemon,
    missing_tools,
)

ENDS: Final = (signal.SIGINT, signal.SIGTERM)
DISKS: Final = (
    DiskSpec(target="vda", size_bytes=64 * MIB),
    DiskSpec(target="vdb", size_bytes=64 * MIB, format="raw"),
)
HINTS: Final = """\
web1 runs, with vda (qcow2) and vdb (raw), and writes all the time. In another terminal:

  export LIBVIRT_DEFAULT_URI='{uri}'
  export FIBACKUP_RUN_DIR={place}/locks
  virsh list --all
  {fibackup} backup --store {place}/store --dry-run web1
  {fibackup} backup --store {place}/store web1
  {fibackup} backup --store {place}/store --consolidate web1
  {fibackup} list --store {place}/store
  {fibackup} verify --store {place}/store
  {fibackup} restore --store {place}/store web1 --into {place}/restored
  {fibackup} restore --store {place}/store web1 --define web2 --into {place}/web2 --foreign drop
  {fibackup} doctor --store {place}/store

What libvirt keeps for itself, such as NVRAM and the state of a TPM, only its own mounts show:

  nsenter -t $(cat {root}/libvirtd.pid) -m {fibackup} backup --store {place}/store web1

Ctrl-C ends the guest and the daemon, and removes {root} with all that is in it."""


@contextmanager
def playground() -> Iterator[str]:
    """Give the text that says what can be done, while the guest runs."""
    with PrivateDaemon() as daemon:
        place = daemon.images / "play"
        (place / "store").mkdir(mode=0o700, parents=True)
        try:
            options = GuestOptions(pause_microseconds=200_000)
            LinuxGuest.start(daemon, "web1", disks=DISKS, options=options)
            yield HINTS.format(
                uri=daemon.uri,
                place=place,
                root=daemon.root,
                fibackup=Path(sys.executable).with_name("fibackup"),
            )
        finally:
            for number in ENDS:  # nothing disturbs the clean-up
                signal.signal(number, signal.SIG_IGN)


def main() -> int:
    """Run until Ctrl-C; return the exit status."""
    if missing := missing_tools():
        print(f"playground: missing {', '.join(missing)}; run scripts/setup demo", file=sys.stderr)
        return 3
    for number in ENDS:
        signal.signal(number, signal.default_int_handler)
    print("starting a libvirt daemon and a guest ...", flush=True)
    try:
        with playground() as hints:
            print(hints, flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        print("playground: everything that it had started is gone", flush=True)
        return 0
    except HarnessError as error:
        print(f"playground: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
