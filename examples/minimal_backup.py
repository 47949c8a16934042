"""
The five words of a backup: open, read, plan, run, report.

::

    python examples/minimal_backup.py qemu:///system /backup web1

The store must be a directory that exists; an empty one becomes a store. What cannot be backed up
raises before anything is touched, and the traceback names the domain, the disk and the reason.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import fibackup as fb


def back_up(uri: str, directory: str, name: str) -> fb.Report:
    """Take the next restore point of one domain."""
    with fb.LibvirtHost.open(uri) as host, fb.Store.open_or_create(directory) as store:
        domain = host.read_domain(name)
        history = store.read_history(domain.uuid)
        plan = fb.plan_backup(domain, history, now=datetime.now(UTC))
        return fb.Executor(host, store).run(plan)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        print("usage: minimal_backup.py URI STORE DOMAIN", file=sys.stderr)
        sys.exit(2)
    print(back_up(*sys.argv[1:]))
