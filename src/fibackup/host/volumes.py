"""
The files that volumes of storage pools are.

::

    (pool, volume)  --virStorageVolLookupByName-->  path, when it is a file
                    --directory of an inactive pool-->  path, when there is a file
                    otherwise nothing: the disk is no file

A domain's XML has only the names, also while it runs; libvirt looks them up at each start.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import libvirt

from fibackup.host.libvirt_errors import translate
from fibackup.parse.domain_xml import volume_names
from fibackup.parse.volumes import pool_directory

__all__ = ["find_volumes"]

_UNKNOWN = frozenset(
    {libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL}
)
"""No storage driver (as in the embedded one), no such pool, no such volume."""


def find_volumes(
    connection: libvirt.virConnect, *texts: str | None
) -> dict[tuple[str, str], PurePosixPath]:
    """
    Return the volumes that domains' XML names and that are files.

    Args:
        connection: Where the pools are.
        *texts: XML of domains; None is passed over.

    Returns:
        ``(pool, volume)`` to the absolute path of the file.

    Raises:
        HostError: libvirt refused to tell.

    Source:
        libvirt ``virStorageVolLookupByName``, ``virStorageVolGetPath``.
    """
    names = dict.fromkeys(name for text in texts if text for name in volume_names(text))
    found = {name: _find(connection, *name) for name in names}
    return {name: path for name, path in found.items() if path is not None}


def _find(connection: libvirt.virConnect, pool: str, volume: str) -> PurePosixPath | None:
    try:
        home = connection.storagePoolLookupByName(pool)
        if not home.isActive():
            return _in_directory(home.XMLDesc(0), volume)
        handle = home.storageVolLookupByName(volume)
        is_file = handle.info()[0] == libvirt.VIR_STORAGE_VOL_FILE
        return PurePosixPath(handle.path()) if is_file else None
    except libvirt.libvirtError as error:
        if error.get_error_code() in _UNKNOWN:
            return None
        raise translate(error, doing="virStorageVolLookupByName") from error


def _in_directory(xml: str, volume: str) -> PurePosixPath | None:
    """Return where a volume of an inactive pool is; its name is a file's, and no more."""
    directory = pool_directory(xml)
    return directory / volume if directory is not None and "/" not in volume else None
