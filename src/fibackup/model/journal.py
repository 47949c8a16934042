"""
Journals of the store: what a prune is about to do, so that the next writer can finish it.

::

    prune.json     Removal: these points go, then these files
"""

from __future__ import annotations

from attrs import frozen

from fibackup.errors import ModelError
from fibackup.model.checks import is_target
from fibackup.model.point import is_point_id

__all__ = ["Removal"]


@frozen
class Removal:
    """
    Points that are being taken away, and the files that go with them.

    Attributes:
        points: Ids of the points; their manifests go first.
        files: ``"vda/20261124T040407Z.qcow2"`` or ``"20261124T040407Z.xml"``.
    """

    points: tuple[str, ...]
    files: tuple[str, ...]

    def __attrs_post_init__(self) -> None:
        """Refuse names that are not those of files of points: a journal deletes nothing else."""
        for point in self.points:
            if not is_point_id(point):
                raise ModelError(reason=f"{point!r} is not the id of a restore point")
        for file in self.files:
            target, slash, name = file.rpartition("/")
            if not is_point_id(name[:16]) or (slash and not is_target(target)):
                raise ModelError(reason=f"{file!r} is not a file of a restore point")
