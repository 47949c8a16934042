"""What every test has: locks of its own, so that a run of the tests never meets a real backup."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the locks on domains below the directory of the tests, also those of children."""
    before = os.environ.get("FIBACKUP_RUN_DIR")
    os.environ["FIBACKUP_RUN_DIR"] = str(tmp_path_factory.mktemp("run"))
    yield
    if before is None:
        del os.environ["FIBACKUP_RUN_DIR"]
    else:
        os.environ["FIBACKUP_RUN_DIR"] = before
