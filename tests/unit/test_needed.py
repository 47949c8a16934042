"""A tool that is missing is a loud skip, and a failure where it is required."""

from __future__ import annotations

import pytest

from integration.needed import absent


@pytest.mark.parametrize("required", ["strace", "loop,strace", "1", "all"])
def test_what_is_required_and_missing_fails(monkeypatch: pytest.MonkeyPatch, required: str) -> None:
    """By name, or with everything."""
    monkeypatch.setenv("FIBACKUP_REQUIRE", required)
    with pytest.raises(pytest.fail.Exception, match="missing: strace: not there"):
        absent("strace", "not there")


@pytest.mark.parametrize("required", ["", "loop", "stracer"])
def test_what_is_missing_says_what_nobody_has_checked(
    monkeypatch: pytest.MonkeyPatch, required: str
) -> None:
    """In the reason of the skip."""
    monkeypatch.setenv("FIBACKUP_REQUIRE", required)
    with pytest.raises(pytest.skip.Exception, match="NOT CHECKED"):
        absent("strace", "not there")
