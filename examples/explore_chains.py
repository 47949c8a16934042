# %% [markdown]
# # Explore backing chains
#
# Everything in fibackup that one can hold is a value, and a notebook draws it.
# This notebook needs no libvirt, no QEMU and no disk: it plays with a hypervisor in memory,
# whose images hold content and lie on each other as qcow2 images do.
#
# Open it in an editor that knows `# %%` cells, or in Jupyter with the jupytext extension;
# `jupytext --to ipynb explore_chains.py` makes a notebook of it.

# %%
from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import fibackup as fb
from fibackup.testing import CLUSTER_BYTES, FakeHost, FakeStore

MIB = 2**20 // CLUSTER_BYTES
FIRST_NIGHT = datetime(2026, 11, 21, 4, 4, 7, tzinfo=UTC)

# %% [markdown]
# ## A domain
#
# `web1` has a disk that was made from a template, and a raw one.
# With libvirt it is `fb.LibvirtHost.open().read_domain("web1")`; the value is of the same kind.

# %%
template = "/var/lib/libvirt/images/debian-13.qcow2"
host = FakeHost()
host.add_image(template, dict.fromkeys(range(300 * MIB), 1), size_clusters=10240 * MIB)
uuid = host.add_domain(
    "web1",
    {"vda": dict.fromkeys(range(120 * MIB), 2)},
    size_clusters=10240 * MIB,
    template=template,
    directory="/var/lib/libvirt/images",
)
host.attach_disk(
    "web1",
    "vdb",
    dict.fromkeys(range(200 * MIB), 3),
    size_clusters=2048 * MIB,
    image_format="raw",
)
host.set_disk("web1", fb.Disk("sda", device="cdrom"))

web1 = host.read_domain("web1")
web1

# %% [markdown]
# One disk's chain, from the active layer down to the base.
# Point at an image to see its whole path.

# %%
web1.disk("vda").chain

# %% [markdown]
# ## What would a backup do?
#
# Planning is a pure function: it touches nothing.
# The picture has the chains now, the chains afterwards, and what the store gets.
# Below it are the decisions, with their reasons, and every step.

# %%
store = FakeStore(host)
plan = fb.plan_backup(web1, store.read_history(uuid), now=FIRST_NIGHT)
plan

# %% [markdown]
# The first point is a full: each image of a chain is copied, and stays what it is.
# Now run it.

# %%
report = fb.Executor(host, store).run(plan)
report

# %% [markdown]
# ## Three nights later
#
# Each day the guest writes, each night there is a point.


# %%
def sleep_and_back_up(night: int, written_mib: int, policy: fb.BackupPolicy | None = None) -> None:
    """Let the guest write, and take a point."""
    for cluster in range(written_mib * MIB):
        host.write("web1", "vda", cluster, 10 + night)
    now = FIRST_NIGHT + timedelta(days=night)
    tonight = fb.plan_backup(
        host.read_domain("web1"), store.read_history(uuid), now=now, policy=policy
    )
    fb.Executor(host, store).run(tonight)


for number, size in enumerate((40, 85, 12), 1):
    sleep_and_back_up(number, size)

# %% [markdown]
# Live chain and stored chain, side by side, on one scale.
# An arrow leads from an image to its copy; the dashed one from the active layer to the point
# on whose content it sits. Whose an overlay is says the ledger in the domain's metadata.

# %%
web1, history = host.read_domain("web1"), store.read_history(uuid)
fb.picture_chains(web1, history)

# %% [markdown]
# What the store holds, alone; and one of its points.

# %%
history

# %%
history.latest

# %% [markdown]
# ## Shorten the live chain
#
# A *rolling* consolidation commits what lies below the active layer into the disk's own image;
# the next increment is still only what the guest writes. The template is never written.

# %%
rolling = fb.plan_consolidation(web1, policy=fb.ConsolidationPolicy(keep_overlay=True))
rolling

# %% [markdown]
# The *full* form leaves no overlay.

# %%
fb.plan_consolidation(web1)

# %%
fb.Executor(host, None).run(rolling)
fb.picture_chains(host.read_domain("web1"), history)

# %% [markdown]
# ## What somebody else did
#
# A snapshot by another tool: its overlay is not in the ledger, so it is not ours, and no plan
# of fibackup will ever delete it or commit it.

# %%
host.foreign_snapshot("web1", "vda")
foreign = host.read_domain("web1")
foreign.disk("vda").chain

# %%
foreign

# %% [markdown]
# ## Bring something back
#
# A restore of the oldest point: which stored images make up each disk.

# %%
fb.plan_restore(history, history.points[0].id, into=PurePosixPath("/srv/restored/web1"))

# %% [markdown]
# ## Take it elsewhere
#
# The same pictures as files, for pages and wikis, and as text.

# %%
svg = fb.picture_chains(web1, history).to_svg()
mermaid = web1.to_mermaid()
text = fb.draw_chains(web1, history, width=100)
print(text)

# %% [markdown]
# A picture is a value too: title, sections, columns, boxes.
# So one can look into it, change it, or make one.

# %%
live, stored = fb.picture_chains(web1, history).sections[0].columns
[(box.name, box.tag, fb.format_bytes(box.size_bytes or 0)) for box in live.boxes if box]

# %%
fb.Picture(
    title="my own picture",
    sections=(
        fb.Section(
            "vda",
            (
                fb.Column("here", (fb.Box("disk.qcow2", 3 * 2**30, fb.Tint.OURS, tag="base"),)),
                fb.Column("there", (fb.Box("copy.qcow2", 2 * 2**30, fb.Tint.FULL, tag="full"),)),
            ),
            links=(fb.Link(0, 0, 0),),
        ),
    ),
)
