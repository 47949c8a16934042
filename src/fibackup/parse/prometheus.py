"""Samples as the text that Prometheus reads, and back; nothing else is read."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fibackup.errors import ParseError
from fibackup.model.metrics import METRICS, Sample

__all__ = ["parse_metrics", "render_metrics"]

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_LABEL = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
_LINE = re.compile(
    rf"(?P<name>[a-z_]+)(?:\{{(?P<labels>{_LABEL}(?:,{_LABEL})*)\}})? (?P<value>\S+)"
)
_EACH = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


def parse_metrics(text: str) -> tuple[Sample, ...]:
    """
    Read what `render_metrics` wrote.

    Args:
        text: The content of a file of metrics.

    Returns:
        Its samples.

    Raises:
        ParseError: A line that is not ours. Nothing was touched.

    Source:
        Prometheus, "Exposition formats", text format 0.0.4.
    """
    lines = enumerate(text.split("\n"), 1)
    return tuple(_sample(line, number) for number, line in lines if line and line[0] != "#")


def _sample(line: str, number: int) -> Sample:
    match = _LINE.fullmatch(line)
    if match is None or match["name"] not in METRICS:
        raise ParseError(where=f"line {number}", reason="not a metric of fibackup")
    try:
        value = float(match["value"])
    except ValueError as error:
        raise ParseError(where=f"line {number}", reason="not a number") from error
    labels = tuple(
        (key, _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], text))
        for key, text in _EACH.findall(match["labels"] or "")
    )
    return Sample(match["name"], value, labels)


def render_metrics(samples: Iterable[Sample]) -> str:
    """
    Return samples as text, with the help of each metric.

    Args:
        samples: Those of one metric follow each other.

    Returns:
        Lines, the last one ended; `parse_metrics` reads them.

    Source:
        Prometheus, "Exposition formats", text format 0.0.4.
    """
    lines: list[str] = []
    name = ""
    for sample in samples:
        if sample.name != name:
            name = sample.name
            lines += [f"# HELP {name} {METRICS.get(name, '')}", f"# TYPE {name} gauge"]
        labels = ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in sample.labels)
        braces = f"{{{labels}}}" if labels else ""
        lines.append(f"{name}{braces} {sample.value:.15g}")
    return "".join(f"{line}\n" for line in lines)
