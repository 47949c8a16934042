"""
``points.sha256``: the sha256 of every published manifest, as ``sha256sum`` prints it.

::

    5d41...  20261123T040406Z.json
    7b52...  20261124T040407Z.json
    # sha256 of the lines above: 9f86...

A seal says that a point exists and what its manifest is, so a manifest that is gone, or that was
replaced by another sound one, is noticed. The last line keeps a damaged list of seals from
spoiling sound points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256

from fibackup.errors import ManifestError

__all__ = ["parse_seals", "render_seals"]

_LINE = re.compile(r"([0-9a-f]{64})  ([0-9]{8}T[0-9]{6}Z)\.json", re.ASCII)
_LAST = "# sha256 of the lines above: "


def render_seals(seals: Mapping[str, str]) -> str:
    """
    Return the content of ``points.sha256``.

    Args:
        seals: Id of each published point, and the sha256 of its manifest's bytes.

    Returns:
        Lines for ``sha256sum --check``, by id, and a last line about them.

    Source:
        docs/store-format.md, ``points.sha256``.
    """
    text = "".join(f"{digest}  {point}.json\n" for point, digest in sorted(seals.items()))
    return f"{text}{_LAST}{sha256(text.encode()).hexdigest()}\n"


def parse_seals(text: str | bytes, *, path: str | None = None) -> Mapping[str, str]:
    """
    Return what ``points.sha256`` says.

    Args:
        text: The file, whole.
        path: Where it was read, for errors.

    Returns:
        Id of each published point, and the sha256 of its manifest's bytes.

    Raises:
        ManifestError: Damaged. Nothing was touched.

    Source:
        docs/store-format.md, ``points.sha256``.
    """
    words = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    *lines, last, end = words.split("\n") if words.count("\n") else ("", "", "cut off")
    above = "".join(f"{line}\n" for line in lines)
    if end or last != _LAST + sha256(above.encode()).hexdigest():
        raise ManifestError(reason="the last line is not that of the lines above", path=path)
    found = [_LINE.fullmatch(line) for line in lines]
    seals = {match[2]: match[1] for match in found if match}
    if len(seals) != len(lines):
        raise ManifestError(reason="a line that is no seal, or a point twice", path=path)
    return seals
