"""The driver's configuration: QEMU as our own user, or another; nothing outside the root."""

from __future__ import annotations

import os
import pwd


def qemu_conf(*, user: str = "") -> str:
    """Return the text of a qemu.conf for tests; QEMU is `user`, or who the daemon is."""
    lines = [
        'security_driver = "none"',
        'stdio_handler = "file"',  # no virtlogd
        "clear_emulator_capabilities = 0",
        "namespaces = []",
        "cgroup_controllers = []",
        "remember_owner = 0",  # else a copied root would carry attributes that libvirt warns about
    ]
    if user:
        lines += [f'user = "{user}"', f'group = "{"root" if user == "root" else "kvm"}"']
    return "\n".join([*lines, ""])


def qemu_account() -> str:
    """Return whom QEMU runs as on this distribution, an empty string when that cannot be tried."""
    known = {each.pw_name for each in pwd.getpwall()}
    names = [name for name in ("libvirt-qemu", "qemu") if name in known]
    return names[0] if names and os.geteuid() == 0 else ""
