"""
A hypervisor and a store in memory: what code that uses fibackup is tested with.

Images hold real content, cluster by cluster, and lie on each other as qcow2 images do; inodes and
times move exactly when a file is written. So a test can ask what matters: does the store give back
what the guest had?

    host = FakeHost()                        store = FakeStore(host)
    host.add_domain("web1", {"vda": {0: 7}})
    plan = plan_backup(host.read_domain("web1"), store.read_history(uuid), now=...)
    Executor(host, store).run(plan)
    host.write("web1", "vda", 0, 8)
    store.restore(uuid, plan.point, "vda")   == {0: 7}

`FakeHost.fail_at` breaks the n-th call that follows, before or after its effect; host and store
count together. A cluster holds one number; 0 reads as zeros and is left out of what is returned.
"""

from __future__ import annotations

from fibackup.testing.guests import AgentState, Moment
from fibackup.testing.host import FakeHost
from fibackup.testing.images import CLUSTER_BYTES, Content
from fibackup.testing.store import FakeStore

__all__ = ["CLUSTER_BYTES", "AgentState", "Content", "FakeHost", "FakeStore", "Moment"]
