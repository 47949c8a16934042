"""Metrics: what a run means, as text that Prometheus reads, in a file that is replaced whole."""

from __future__ import annotations

import argparse
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

import fibackup as fb
from fibackup.cli.metrics import write_samples
from fibackup.testing import FakeHost, FakeStore

ROOT = Path(__file__).parents[2]
RULES = ROOT / "contrib" / "prometheus" / "fibackup.rules.yml"
PAGE = ROOT / "docs" / "operate.md"
NOW = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)
LATER = datetime(2026, 11, 25, 4, 4, 7, tzinfo=UTC)


@pytest.fixture(scope="module")
def report() -> fb.Report:
    """Give what a backup did."""
    host = FakeHost()
    store = FakeStore(host)
    uuid = host.add_domain("web1", {"vda": {0: 7}})
    plan = fb.plan_backup(host.read_domain("web1"), store.read_history(uuid), now=NOW)
    return fb.Executor(host, store).run(plan)


def values(samples: tuple[fb.Sample, ...]) -> dict[str, float]:
    """Return the values by name."""
    return {sample.name.removeprefix("fibackup_"): sample.value for sample in samples}


def test_the_rules_alert_on_metrics_that_are_written() -> None:
    """Each has what an alert needs; what it looks at exists, and so do the labels it names."""
    head, *texts = RULES.read_text("utf-8").split("\n      - alert: ")
    assert head.endswith("\ngroups:\n  - name: fibackup\n    rules:")
    field = r"^ {8}(\w+):(.*(?:\n {9,}.*)*)"
    rules = [
        {"alert": text.split()[0], **dict(re.findall(field, text, re.MULTILINE))} for text in texts
    ]
    for rule in rules:
        assert re.fullmatch(r"\n {10}severity: (critical|warning)", rule["labels"])
    alerts = [rule["alert"] for rule in rules]
    assert len(set(alerts)) == len(alerts)
    assert {"FibackupNoSuccess", "FibackupNotVerified"} <= set(alerts)
    used = set[str]()
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.match(r"\n {10}summary: \w", rule["annotations"])
        assert re.fullmatch(r" \d+[mhd]", rule["for"])
        assert rule["expr"].count("(") == rule["expr"].count(")")
        named = set(re.findall(r"fibackup_\w+", rule["expr"]))
        assert named
        used |= named
        labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]))
        assert labels <= {"domain", "store", "instance", "disk"}
        if "disk" in labels:
            assert named == {"fibackup_chain_depth"}
        if "domain" in labels:
            assert "fibackup_store_free_bytes" not in named
    assert used <= set(fb.METRICS)


def test_every_metric_is_written_by_a_command(report: fb.Report) -> None:
    """And explained on the page."""
    written = (
        *fb.run_metrics("web1", "/b", now=NOW, report=report, points=3, depths={"vda": 2}),
        *fb.store_metrics("/b", free_bytes=1, version="1"),
        *fb.verified_metrics("web1", "/b", now=NOW),
        *fb.pruned_metrics("web1", "/b", now=NOW, points=3),
    )
    assert {sample.name for sample in written} == set(fb.METRICS)
    rows = re.findall(r"^\| `(fibackup_\w+)` \| (.*?) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert dict(rows).keys() == set(fb.METRICS)
    for sample in written:
        assert re.findall(r"`(\w+)`", dict(rows)[sample.name]) == [
            name for name, _ in sample.labels
        ]


def test_a_run_that_succeeded_says_all(report: fb.Report) -> None:
    """Times in seconds since 1970, sizes in bytes; a sample for each disk."""
    found = fb.run_metrics("web1", "/b", now=NOW, report=report, points=3, depths={"vda": 2})
    assert values(found) == {
        "last_run_timestamp_seconds": NOW.timestamp(),
        "last_success_timestamp_seconds": NOW.timestamp(),
        "last_run_success": 1,
        "duration_seconds": round(report.seconds, 3),
        "copied_bytes": report.copied_bytes,
        "frozen_seconds": round(report.frozen_seconds, 3),
        "points": 3,
        "chain_depth": 2,
    }
    assert {sample.label("domain") for sample in found} == {"web1"}
    assert found[-1].labels == (("disk", "vda"), ("domain", "web1"), ("store", "/b"))


def test_a_run_that_failed_leaves_the_last_success_alone(report: fb.Report) -> None:
    """The time of the last success moves only with a success."""
    good = fb.run_metrics("web1", "/b", now=NOW, report=report, points=3)
    bad = fb.run_metrics("web1", "/b", now=LATER, report=None)
    found = values(fb.merge_samples(good, bad))
    assert found["last_success_timestamp_seconds"] == NOW.timestamp()
    assert found["last_run_timestamp_seconds"] == LATER.timestamp()
    assert (found["last_run_success"], found["points"]) == (0, 3)


def test_samples_of_others_stay(report: fb.Report) -> None:
    """Another domain, and the same domain in another store, are somebody else's."""
    mine = fb.run_metrics("web1", "/b", now=NOW, report=report, depths={"vda": 2, "vdb": 2})
    others = (
        *fb.run_metrics("db1", "/b", now=NOW, report=report, depths={"vda": 5}),
        *fb.run_metrics("web1", "/c", now=NOW, report=report, depths={"vda": 6}),
        *fb.store_metrics("/b", free_bytes=7, version="1"),
        *fb.verified_metrics("web1", "/b", now=NOW),
    )
    again = fb.run_metrics("web1", "/b", now=LATER, report=report, depths={"vda": 3})
    found = fb.merge_samples(fb.merge_samples((), (*mine, *others)), again)
    assert set(others) <= set(found)
    depths = [s for s in found if s.name == "fibackup_chain_depth" and s.label("store") == "/b"]
    assert {(s.label("domain"), s.label("disk"), s.value) for s in depths} == {
        ("db1", "vda", 5),
        ("web1", "vda", 3),  # vdb is gone
    }
    assert len({(s.name, s.labels) for s in found}) == len(found)


def test_a_prune_says_when_and_how_many_points_are_left(report: fb.Report) -> None:
    """What a backup said of the domain otherwise stays."""
    before = fb.run_metrics("web1", "/b", now=NOW, report=report, points=9)
    found = values(fb.merge_samples(before, fb.pruned_metrics("web1", "/b", now=LATER, points=4)))
    assert (found["points"], found["last_pruned_timestamp_seconds"]) == (4, LATER.timestamp())
    assert found["last_success_timestamp_seconds"] == NOW.timestamp()


def test_text_comes_back_as_the_same_samples() -> None:
    """Whatever is in a label."""
    samples = fb.merge_samples(
        (),
        (
            *fb.run_metrics('a"b\\c\nd', "/b, c=}", now=NOW, report=None),
            fb.Sample("fibackup_copied_bytes", float(2**40 + 1), (("domain", "ä\u2028\r"),)),
            fb.Sample("fibackup_build_info", 1),
        ),
    )
    text = fb.render_metrics(samples)
    assert fb.parse_metrics(text) == samples
    assert "fibackup_build_info 1\n" in text
    assert "1099511627777\n" in text
    assert text.count("# TYPE fibackup_last_run_success gauge\n") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("node_load1 0.5", "not a metric of fibackup"),
        ("fibackup_points{domain=web1} 1", "not a metric"),
        ("fibackup_points one", "not a number"),
        ("fibackup_points 1 1795493047000", "not a metric"),
    ],
)
def test_what_is_not_ours_is_not_read(line: str, words: str) -> None:
    """A line of somebody else has its number in the error."""
    with pytest.raises(fb.ParseError, match=words) as caught:
        fb.parse_metrics(f"# HELP x y\n\n{line}\n")
    assert caught.value.where == "line 3"


def test_every_metric_has_a_help() -> None:
    """The table names all that is ever said, and the page of operations names them too."""
    page = (Path(__file__).parents[2] / "docs" / "operate.md").read_text("utf-8")
    for name, words in fb.METRICS.items():
        assert words.endswith(".")
        assert f"`{name}`" in page


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Readable for all under any umask, merged with what it held, and nothing is left beside it."""
    path = tmp_path / "fibackup.prom"
    before = os.umask(0o077)
    try:
        fb.update_metrics(path, fb.run_metrics("web1", "/b", now=NOW, report=None))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    old = path.stat().st_ino
    with path.open() as held:
        fb.update_metrics(str(path), fb.run_metrics("db1", "/b", now=NOW, report=None))
        assert "db1" not in held.read()  # a reader has the old one, whole
    assert path.stat().st_ino != old
    assert {s.label("domain") for s in fb.parse_metrics(path.read_text())} == {"web1", "db1"}
    assert [each.name for each in tmp_path.iterdir()] == ["fibackup.prom"]


def test_a_file_that_is_not_ours_is_not_written(tmp_path: Path) -> None:
    """Metrics of somebody else, a link, a directory that is missing: refused, and left alone."""
    samples = fb.run_metrics("web1", "/b", now=NOW, report=None)
    path = tmp_path / "node.prom"
    path.write_text("node_load1 0.5\n")
    link = tmp_path / "link.prom"
    link.symlink_to(path)
    bad = tmp_path / "bad.prom"
    bad.write_bytes(b"\xff\n")
    for each in (path, link, bad, tmp_path / "missing" / "x.prom"):
        with pytest.raises(fb.HostError) as caught:
            fb.update_metrics(each, samples)
        assert caught.value.path == str(each)
    assert path.read_text() == "node_load1 0.5\n"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk costs the new values, not the old ones."""
    path = tmp_path / "fibackup.prom"
    fb.update_metrics(path, fb.run_metrics("web1", "/b", now=NOW, report=None))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(fb.HostError, match="No space left"):
        fb.update_metrics(path, fb.run_metrics("web1", "/b", now=LATER, report=None))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_command_line_without_metrics_writes_none(tmp_path: Path) -> None:
    """Without --metrics, or in a dry run, nothing is asked or written; a bad file is a warning."""
    path = tmp_path / "x.prom"

    def never() -> tuple[fb.Sample, ...]:
        raise AssertionError

    for values in ({"metrics": None, "dry_run": False}, {"metrics": str(path), "dry_run": True}):
        assert write_samples(argparse.Namespace(**values), never) is None
    bad = argparse.Namespace(metrics="/no/such/x.prom", dry_run=False, display=None)
    assert "No such file" in (write_samples(bad, tuple) or "")
    assert not path.exists()
