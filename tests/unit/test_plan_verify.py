"""Which files a verification looks at, and which it reads."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from attrs import evolve

import fibackup as fb
from fibackup.model.tree import ImageTree
from fibackup.plan.steps import Plan
from hypervisor.histories import (
    SIZE,
    XML_SIZE,
    chain,
    digest,
    disk,
    found_files,
    history,
    image_name,
    point,
    point_id,
)

NOW = datetime(2026, 12, 24, tzinfo=UTC)
ALL = fb.VerifyPolicy()


def survey(of: fb.History, *entries: fb.CheckedFile) -> fb.Survey:
    """Return what lies there, with a record."""
    return fb.Survey(of, found_files(of), fb.VerificationRecord(files=entries))


def entry(file: str, run: int = 1, *, fault: str = "", hours_ago: int = 1) -> fb.CheckedFile:
    """Return an entry of the record."""
    time = NOW - timedelta(hours=hours_ago)
    return fb.CheckedFile(file, digest(file.rpartition("/")[2]), time, run, fault)


def files_step(plan: Plan) -> fb.VerifyFiles:
    """Return the step that looks at files."""
    return cast("fb.VerifyFiles", plan.steps[0])


def contents_step(plan: Plan) -> fb.VerifyContents:
    """Return the step that reads disks."""
    return cast("fb.VerifyContents", plan.steps[1])


def read(plan: Plan) -> list[str]:
    """Return the files that are read, in order."""
    return [each.file for each in files_step(plan).files if each.read]


def names(count: int) -> set[str]:
    """Return the files of the first points."""
    images = {f"vda/{image_name(number)}" for number in range(1, count + 1)}
    return images | {f"{point_id(number)}.xml" for number in range(1, count + 1)}


def test_everything_that_a_point_names_is_read() -> None:
    """Images, with what their headers must say, and the other files."""
    plan = fb.plan_verify(survey(chain(2)), now=NOW)
    assert set(read(plan)) == names(2)
    by_name = {each.file: each for each in files_step(plan).files}
    assert by_name[f"vda/{image_name(2)}"].header == fb.ExpectedHeader(image_name(1), 1 << 20)
    assert by_name[f"{point_id(1)}.xml"].header is None
    assert files_step(plan).read_bytes == plan.read_bytes == 2 * (SIZE + XML_SIZE)
    assert (plan.verb, plan.domain, plan.point, plan.store) == (
        "verify",
        "web1",
        "",
        chain(1).store,
    )


def test_a_plan_prints_what_is_read_and_travels_as_json() -> None:
    """It is the dry run."""
    policy = evolve(ALL, deep=True, rate_bytes=1 << 20)
    plan = fb.plan_verify(survey(chain(2)), now=NOW, policy=policy)
    assert str(plan).splitlines() == [
        "verify of web1",
        "steps",
        "  1. look at 4 files, read and hash 4 of them (1.97 KiB, 1 MiB/s at most)",
        "  2. check the structure of 2 images, read 2 disks as a guest does (about 2.93 KiB)",
        "cost: 4.9 KiB to read",
    ]
    assert Plan.from_json(plan.to_json()) == plan


def test_a_store_without_points_is_looked_at_all_the_same() -> None:
    """There may be lost ones."""
    empty = history()
    plan = fb.plan_verify(survey(empty), now=NOW, policy=evolve(ALL, deep=True))
    assert (plan.domain, files_step(plan).files) == (empty.uuid, ())
    assert contents_step(plan).contents == ()


def test_one_point_needs_all_that_its_disks_read_through() -> None:
    """Its own files, and no other point's XML."""
    of = history(point(1, disk(1)), point(2, disk(2, 1)), point(3, disk(3, 2)))
    plan = fb.plan_verify(survey(of), now=NOW, policy=evolve(ALL, point=point_id(2)))
    wanted = {f"vda/{image_name(1)}", f"vda/{image_name(2)}", f"{point_id(2)}.xml"}
    assert set(read(plan)) == wanted
    assert plan.point == point_id(2)
    latest = fb.plan_verify(survey(of), now=NOW, policy=evolve(ALL, point="latest"))
    assert latest.point == point_id(3)


def test_a_point_whose_chain_is_broken_has_its_own_images_read() -> None:
    """The rest of it cannot be found."""
    of = history(point(2, disk(2, 1)))
    policy = evolve(ALL, point=point_id(2), deep=True)
    plan = fb.plan_verify(survey(of), now=NOW, policy=policy)
    assert f"vda/{image_name(2)}" in read(plan)
    assert contents_step(plan).contents == ()


@pytest.mark.parametrize("which", [point_id(7), "latest"])
def test_a_point_that_is_not_there_is_not_verified(which: str) -> None:
    """As with a restore."""
    with pytest.raises(fb.NoSuchPointError):
        fb.plan_verify(survey(history()), now=NOW, policy=evolve(ALL, point=which))


def test_what_was_verified_lately_is_looked_at_only() -> None:
    """Entries count from the time that was asked for, up to now."""
    of = chain(3)
    record = (
        entry(f"vda/{image_name(1)}", hours_ago=1),
        entry(f"vda/{image_name(2)}", hours_ago=30),
        entry(f"vda/{image_name(3)}", hours_ago=-30),
    )
    policy = evolve(ALL, skip_since=NOW - timedelta(hours=24))
    plan = fb.plan_verify(survey(of, *record), now=NOW, policy=policy)
    assert set(read(plan)) == names(3) - {f"vda/{image_name(1)}"}
    assert len(files_step(plan).files) == 6


def test_an_entry_of_another_content_counts_for_nothing() -> None:
    """A file of the same name may have been written anew since."""
    file = f"vda/{image_name(1)}"
    old = evolve(entry(file), sha256="0" * 64)
    policy = evolve(ALL, skip_since=NOW - timedelta(hours=24))
    assert file in read(fb.plan_verify(survey(chain(1), old), now=NOW, policy=policy))


def test_what_was_wrong_is_always_read_again_and_first() -> None:
    """Also when it was read a moment ago, and is not in the sample."""
    of = chain(10)
    bad = f"vda/{image_name(7)}"
    policy = fb.VerifyPolicy(skip_since=NOW - timedelta(hours=24), sample_percent=10)
    plan = fb.plan_verify(survey(of, entry(bad, 9, fault="cut")), now=NOW, policy=policy)
    assert read(plan)[0] == bad
    assert 2 <= len(read(plan)) < 6


def test_a_run_has_the_next_number() -> None:
    """Order comes from it, and not from clocks."""
    of = chain(2)
    record = fb.VerificationRecord(
        files=(entry(f"vda/{image_name(1)}", 4),),
        contents=(fb.CheckedContent(f"vda/{image_name(1)}", "0" * 64, NOW, 6, None),),
    )
    plan = fb.plan_verify(fb.Survey(of, record=record), now=NOW, policy=evolve(ALL, deep=True))
    assert files_step(plan).run == contents_step(plan).run == 7
    assert files_step(fb.plan_verify(survey(of), now=NOW)).run == 1


def test_a_sample_takes_what_was_read_longest_ago() -> None:
    """First what never was, in the order of points."""
    of = chain(4)
    record = [entry(f"vda/{image_name(number)}", 9 - number) for number in (1, 2, 3)]
    plan = fb.plan_verify(survey(of, *record), now=NOW, policy=evolve(ALL, sample_percent=50))
    images = [each for each in read(plan) if each.startswith("vda/")]
    assert images == [f"vda/{image_name(4)}", f"vda/{image_name(3)}"]


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (0, 0, 0, 0), (1000, 1, 1, 0), (0, 7, 0, 3)])
@pytest.mark.parametrize("runs", [1, 2, 3, 4, 10, 100])
def test_so_many_runs_of_a_share_read_everything(sizes: tuple[int, ...], runs: int) -> None:
    """N runs of 100/N percent cover all files, empty ones too; the last run ends no earlier."""
    points = [
        point(number, disk(number, number - 1 or None, size_bytes=size))
        for number, size in enumerate(sizes, 1)
    ]
    of = history(*points)
    seen: dict[str, int] = {}
    for run in range(1, runs + 1):
        record = [entry(file, number) for file, number in seen.items()]
        policy = fb.VerifyPolicy(sample_percent=100 / runs)
        step = files_step(fb.plan_verify(survey(of, *record), now=NOW, policy=policy))
        assert step.run == max(seen.values(), default=0) + 1
        seen |= {each.file: run for each in step.files if each.read}
    assert set(seen) == names(len(sizes))


@pytest.mark.parametrize("share", [0, -1, 100.5])
def test_a_share_is_more_than_nothing_and_at_most_all(share: float) -> None:
    """Else nothing is planned."""
    with pytest.raises(fb.PolicyError, match="sample"):
        fb.VerifyPolicy(sample_percent=share)


# --- in depth -----------------------------------------------------------------------------------


def deep(
    of: fb.History, *contents: fb.CheckedContent, files: tuple[fb.CheckedFile, ...] = ()
) -> fb.VerifyContents:
    """Return the step of a deep verification that reads disks."""
    what = fb.Survey(of, record=fb.VerificationRecord(files, contents))
    return contents_step(fb.plan_verify(what, now=NOW, policy=evolve(ALL, deep=True)))


def test_each_top_image_is_read_once() -> None:
    """Points that show the same disk share the reading, and each says what it was."""
    points = (
        point(1, disk(1, content="a" * 64)),
        point(2, disk(2, 1, images=0, content="b" * 64)),
        point(3, disk(3, 1, images=2)),
    )
    first, second = deep(history(*points)).contents
    assert first.images == first.checked == (image_name(1),)
    assert first.recorded == ("a" * 64, "b" * 64)
    assert second.images == (image_name(3), image_name(3, 1), image_name(1))
    assert second.checked == (image_name(3), image_name(3, 1))
    assert (second.recorded, second.earlier) == ((), None)
    assert second.estimate_bytes == 3 * SIZE
    assert second.file == f"vda/{image_name(3)}"


def test_the_work_of_a_deep_plan_grows_with_the_points_and_no_faster() -> None:
    """Four times the points in one chain take four times the calls."""

    def calls(count: int) -> int:
        found = 0

        def tracer(*_: object) -> None:
            nonlocal found
            found += 1

        of = chain(count)
        sys.setprofile(tracer)
        try:
            deep(of)
        finally:
            sys.setprofile(None)
        return found

    assert calls(800) < 4.6 * calls(200)


def test_an_earlier_reading_is_known_also_after_a_merge() -> None:
    """The images may be others by then, but the disk must read the same."""
    file = f"vda/{image_name(1)}"
    earlier = fb.CheckedContent(file, "0" * 64, NOW, 3, "c" * 64)
    merged = evolve(entry(file, 3), sha256="1" * 64)
    (content,) = deep(chain(1), earlier, files=(merged,)).contents
    assert (content.earlier, content.since) == (earlier, 3)
    assert content.chain == ImageTree(chain(1), "vda").fingerprints()[image_name(1)]


def test_what_was_read_first_through_something_wrong_is_not_compared_with() -> None:
    """When that is right again, the disk reads otherwise, and is right too."""
    files = [f"vda/{image_name(number)}" for number in (1, 2)]
    below = fb.CheckedContent(files[0], "0" * 64, NOW, 7, "c" * 64, "otherwise", since=4)
    for fault, since, known in (("", 7, False), ("", None, False), ("", 4, True), ("cut", 7, True)):
        above = fb.CheckedContent(files[1], "0" * 64, NOW, 7, "d" * 64, fault, since)
        step = deep(chain(2), below, above, files=tuple(entry(file, 9) for file in files))
        contents = {each.file: each for each in step.contents}
        assert contents[files[0]].earlier == below
        assert contents[files[1]].earlier == (above if known else None)


def test_a_first_reading_counts_when_its_files_were_right_then_or_later() -> None:
    """One of them may have been wrong by then, and put right since."""
    names = [f"vda/{image_name(number)}" for number in (1, 2)]
    first = fb.CheckedContent(names[1], "0" * 64, NOW, 9, "d" * 64, since=5)
    for (base, fault, right), known in (
        ((5, "", None), True),
        ((6, "", None), True),
        ((4, "", None), False),
        ((6, "cut", 5), True),
        ((6, "cut", 4), False),
        ((6, "cut", None), False),
    ):
        under = evolve(entry(names[0], base, fault=fault), since=right)
        step = deep(chain(2), first, files=(under, entry(names[1], 5)))
        (content,) = [each for each in step.contents if each.file == names[1]]
        assert content.earlier == (first if known else None)
    step = deep(chain(2), first, files=(entry(names[1], 5),))
    assert [each.earlier for each in step.contents] == [None, None]
    (recorded,) = deep(
        chain(1), fb.CheckedContent(names[0], "0" * 64, NOW, 9, "d" * 64, since=0)
    ).contents
    assert recorded.earlier is not None


def test_a_disk_that_was_read_lately_is_not_read_again() -> None:
    """Unless its images have changed since."""
    of = chain(1)
    file = f"vda/{image_name(1)}"
    same = ImageTree(of, "vda").fingerprints()[image_name(1)]
    policy = fb.VerifyPolicy(deep=True, skip_since=NOW - timedelta(hours=24))
    for chain_print, contents in ((same, 0), ("0" * 64, 1)):
        known = fb.CheckedContent(file, chain_print, NOW, 3, "c" * 64)
        what = fb.Survey(of, record=fb.VerificationRecord(contents=(known,)))
        step = contents_step(fb.plan_verify(what, now=NOW, policy=policy))
        assert len(step.contents) == contents


def test_a_disk_that_shows_nothing_is_not_read() -> None:
    """It is a fault already."""
    of = history(point(3, disk(3, 2, images=0)))
    assert deep(of).contents == ()


def test_what_was_read_is_compared_with_what_was_recorded() -> None:
    """What a point says wins over what an earlier verification has read."""
    (content,) = deep(chain(1)).contents
    assert content.judged("a" * 64) == ""
    earlier = fb.CheckedContent(content.file, content.chain, NOW, 3, "b" * 64)
    known = evolve(content, earlier=earlier)
    assert "when it was read before" in known.judged("a" * 64)
    assert known.judged("b" * 64) == ""
    recorded = evolve(known, recorded=("a" * 64,))
    assert recorded.judged("a" * 64) == ""
    assert "when the point was taken" in recorded.judged("b" * 64)


def test_what_is_compared_with_is_as_old_as_its_first_reading() -> None:
    """Of a disk that is wrong: as old as when it was last right; of a point's own hash: at once."""
    (content,) = deep(chain(1)).contents
    assert content.since is None
    assert evolve(content, recorded=("a" * 64,)).since == 0
    entry = fb.CheckedContent(content.file, content.chain, NOW, 5, "b" * 64)
    for earlier, since in (
        (entry, 5),
        (evolve(entry, since=2), 2),
        (evolve(entry, since=4, fault="cut"), 4),
        (evolve(entry, fault="cut"), 0),
        (evolve(entry, sha256=None), None),
    ):
        assert evolve(content, earlier=earlier).since == since


def test_disks_that_read_through_bad_files_are_left_out() -> None:
    """They are spoiled without reading them."""
    step = deep(chain(3))
    left = step.without({f"vda/{image_name(2)}"})
    assert [content.file for content in left.contents] == [f"vda/{image_name(1)}"]
