"""A wish that is misunderstood is worse than one that is refused: a text is no enum, no tuple."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import pytest

import fibackup as fb
from fibackup.testing import FakeHost, FakeStore

UNTYPED: Any = "what a program without a type checker may pass"
LIST: Any = ["vda"]


def plan_restore(**wishes: Any) -> fb.Plan:  # noqa: ANN401 - that is the point
    """Plan the restore of a domain with one point."""
    host = FakeHost()
    uuid = host.add_domain("web1", {"vda": {0: 1}})
    store = FakeStore(host)
    plan = fb.plan_backup(host.read_domain(uuid), store.read_history(uuid), now=host.now)
    fb.Executor(host, store).run(plan)
    return fb.plan_restore(
        store.read_history(uuid), "latest", into=PurePosixPath("/into"), **wishes
    )


@pytest.mark.parametrize("text", ["require", "off", "needed"])
def test_a_text_is_no_quiesce(text: Any) -> None:  # noqa: ANN401 - that is the point
    """Equal to `Quiesce.REQUIRE`, and yet it would have been taken for `Quiesce.TRY`."""
    with pytest.raises(
        fb.PolicyError,
        match=f"quiesce is '{text}', and not one of Quiesce.REQUIRE, ",
    ):
        fb.BackupPolicy(quiesce=text)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda text: fb.BackupPolicy(disks=text), "disks is the text"),
        (lambda text: fb.BackupPolicy(exclude=text), "exclude is the text"),
        (lambda _: fb.BackupPolicy(exclude=LIST), "exclude is .*, and not a tuple"),
        (lambda text: fb.BackupPolicy(full=text), "full is .*, and neither True nor False"),
        (lambda text: fb.BackupPolicy(compress=text), "compress is .*, and neither True nor"),
        (
            lambda text: fb.ConsolidationPolicy(method=text),
            "method .*Method.BLOCKCOMMIT, ",
        ),
        (lambda text: fb.ConsolidationPolicy(disks=text), "disks is the text"),
        (lambda text: fb.RetentionPolicy(keep_last=1, protect=text), "protect is the text"),
        (lambda text: fb.VerifyPolicy(deep=text), "deep is .*, and neither True nor False"),
        (lambda text: plan_restore(form=text), "form .*RestoreForm.FLAT, "),
        (lambda text: plan_restore(image_format=text), "image_format .*ImageFormat.QCOW2, "),
        (lambda text: plan_restore(disks=text), "disks is the text"),
    ],
)
def test_what_is_not_of_its_type(make: Callable[[Any], object], words: str) -> None:
    """Each is named, with what it may be."""
    with pytest.raises(fb.PolicyError, match=words):
        make(UNTYPED)
