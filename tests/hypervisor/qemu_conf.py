"""The driver's configuration: QEMU as our own user, no confinement, nothing outside the root."""

from __future__ import annotations


def qemu_conf(*, as_root: bool) -> str:
    """Return the text of a qemu.conf for tests."""
    lines = [
        'security_driver = "none"',
        'stdio_handler = "file"',  # no virtlogd
        "clear_emulator_capabilities = 0",
        "namespaces = []",
        "cgroup_controllers = []",
        "remember_owner = 0",  # else a copied root would carry attributes that libvirt warns about
    ]
    if as_root:
        lines += ['user = "root"', 'group = "root"']
    return "\n".join([*lines, ""])
