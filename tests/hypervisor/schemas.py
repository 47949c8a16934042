"""The published JSON schemas, and a watch over what a real store writes."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from jsonschema import Draft202012Validator

from fibackup.codec import JsonValue
from fibackup.parse import manifest

SCHEMAS: Final = Path(__file__).parents[2] / "docs" / "schema"


def validator(name: str) -> Draft202012Validator:
    """Return the validator of a kind of file, such as ``"manifest"``."""
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8")))


@contextmanager
def every_document_fits() -> Generator[None]:
    """Compare each document that is written in this process with its schema."""
    kinds = {"point": "manifest"}
    names = ("linked", "merge", "point", "receipt", "record", "removal")
    known = {name: validator(kinds.get(name, name)) for name in names}
    render = manifest._render

    def checked(key: str, value: JsonValue) -> str:
        text = render(key, value)
        known[key].validate(json.loads(text))
        return text

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_render", checked)
        yield
