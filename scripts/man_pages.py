"""
Write the manual pages ``fibackup(1)`` and ``fi-backup(1)`` from the help of the commands.

::

    .venv/bin/python scripts/man_pages.py DIRECTORY      the Python that has fibackup

The parsers are the source: what an option is called and does, and each verb's examples. What a
page says beside that (files, variables, exit codes) stands below. The build calls `write_pages`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]

_EXITS = (
    ("0", "Done."),
    ("1", "Failed."),
    ("2", "Wrong usage."),
    ("3", "A requirement is not met: libvirt, QEMU or qemu-img is missing or too old."),
    ("4", "Done, but there was a warning; only with --strict."),
    ("5", "Some domains failed, others are done."),
    ("10", "The directory is not a store, or the store's file system is not mounted."),
    ("11", "Another run holds the lock."),
    ("12", "Verification failed: a file of the store is not what was recorded."),
    ("13", "The domain is busy, or its backing chain is not what it should be."),
    ("128+N", "Ended by signal N; 130 is Ctrl-C."),
)
_ENVIRONMENT = (
    ("LIBVIRT_DEFAULT_URI", "The libvirt URI, where --connect is not given."),
    (
        "FIBACKUP_STORE, FIBACKUP_BACKUP_QUIESCE, ...",
        "An option of every verb, or of one: over the files, under the command line.",
    ),
    ("FIBACKUP_CONFIG", "The only configuration file; empty: none is read."),
    ("NO_COLOR", "Not empty: no colours."),
)
_FILES = (
    ("/etc/fibackup.toml", "The machine's configuration."),
    ("~/.config/fibackup.toml", "The user's configuration, which is stronger."),
    (
        "DIR/fibackup-store.json",
        "What makes a directory a store. Beside it, each domain has a directory of its own.",
    ),
)
_COMMON_EXITS = "An unknown code means failure."


def write_pages(directory: Path, version: str) -> list[Path]:
    """Write both pages into *directory*, and return their paths."""
    sys.path.insert(0, str(ROOT / "src"))
    try:
        from fibackup.cli.fi_options import USAGE_TEXT
        from fibackup.cli.parser import build_parser

        pages = {
            "fibackup.1": fibackup_page(build_parser(filled=True), version),
            "fi-backup.1": fi_backup_page(USAGE_TEXT, version),
        }
    finally:
        sys.path.pop(0)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (directory / name).write_text(text, "utf-8")
    return [directory / name for name in pages]


# -- fibackup(1) -------------------------------------------------------------------------------


def fibackup_page(parser: argparse.ArgumentParser, version: str) -> str:
    """Return the page of ``fibackup``: what all verbs share, then each verb."""
    (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    words = {each.dest: each.help or "" for each in verbs._choices_actions}
    shared = _shared_options(verbs.choices.values())
    lines = [
        _title("fibackup", version),
        ".SH NAME",
        r"fibackup \- forward-incremental backups of libvirt/KVM domains",
        ".SH SYNOPSIS",
        *_synopsis(["fibackup VERB [OPTION]... [ARGUMENT]...", "fibackup VERB --help"]),
        ".SH DESCRIPTION",
        *_paragraphs(
            "Each backup of a domain is a restore point in a store, which is a directory: one "
            "image for each disk, which any QEMU opens, and which lies on the image of the "
            "point before. A backup copies what the guest wrote since the last one. Nothing is "
            "deleted, committed into or overwritten unless fibackup made it and can prove that "
            "it is safe.",
            "Data goes to stdout, everything else to stderr. The verbs, in short:",
        ),
        *_tags((name, f"{text[0].upper()}{text[1:]}.") for name, text in words.items()),
        ".SH OPTIONS",
        *_paragraphs("Options are not abbreviated. Without a verb:"),
        *_options(each for each in parser._actions if each.option_strings),
        *_paragraphs("With every verb:"),
        *_options(shared),
        ".SH VERBS",
    ]
    names = {"help", *(each.dest for each in shared)}
    for name, verb in verbs.choices.items():
        lines += _verb_section(name, verb, words[name], names)
    lines += [".SH EXIT STATUS", *_tags(_EXITS), *_paragraphs(_COMMON_EXITS)]
    lines += [".SH ENVIRONMENT", *_tags(_ENVIRONMENT), ".SH FILES", *_tags(_FILES)]
    lines += [".SH SEE ALSO", *_see_also("fi-backup", "qemu-img", "virsh")]
    return _page(lines)


def _verb_section(
    name: str, verb: argparse.ArgumentParser, words: str, shared: set[str]
) -> Iterator[str]:
    own = [each for each in verb._actions if each.dest not in shared]
    yield f".SS {_plain(name)}"
    yield from _paragraphs(f"{words[0].upper()}{words[1:]}.")
    yield from _options(each for each in own if not each.option_strings)
    yield from _options(each for each in own if each.option_strings)
    yield from _epilog(verb.epilog or "")


def _epilog(text: str) -> Iterator[str]:
    """Yield what stands below the options: examples as they stand, and paragraphs."""
    for block in filter(None, text.strip().split("\n\n")):
        prose, _, examples = block.partition("\n  ")
        yield from _paragraphs(f"{prose[0].upper()}{prose[1:]}")
        if examples:
            yield from _verbatim(f"  {examples}")


def _shared_options(verbs: Iterable[argparse.ArgumentParser]) -> list[argparse.Action]:
    """List what every verb has, in the order of the first."""
    first, *others = verbs
    return [
        each
        for each in first._actions
        if each.option_strings
        and each.dest != "help"
        and all(each.dest in {other.dest for other in verb._actions} for verb in others)
        and each.help is not argparse.SUPPRESS
    ]


def _options(actions: Iterable[argparse.Action]) -> Iterator[str]:
    """Yield a paragraph with a tag for each option or argument that help shows."""
    for action in actions:
        if action.help is argparse.SUPPRESS:
            continue
        value = _value(action)
        if action.option_strings:
            names = ", ".join(rf"\fB{_plain(each)}\fR" for each in action.option_strings)
            tag = f"{names}{value}"
        else:
            tag = value.strip()
        yield from (".TP", tag, *_filled(_sentence(action.help or "")))


def _value(action: argparse.Action) -> str:
    """Return what stands behind the name of an option, in italics."""
    if action.nargs == 0:
        return ""
    if action.metavar is None and action.choices:
        text = "|".join(map(str, action.choices))
    else:
        text = str(action.metavar or action.dest.upper())
    more = "..." if action.nargs in {"*", "+"} else ""
    return rf" \fI{_plain(text)}\fR{more}"


# -- fi-backup(1) ------------------------------------------------------------------------------


def fi_backup_page(usage: str, version: str) -> str:
    """Return the page of ``fi-backup``, of which the help is a text."""
    head, description, options, *notes = usage.strip().split("\n\n")
    synopsis = [line.removeprefix("usage:").strip() for line in head.splitlines()]
    tags = (re.split(r" {2,}", line.strip(), maxsplit=1) for line in options.splitlines())
    notes = [note for note in notes if not note.startswith("exit codes:")]
    codes = [each for each in _EXITS if each[0] != "4"]
    return _page(
        [
            _title("fi-backup", version),
            ".SH NAME",
            r"fi-backup \- forward-incremental backups, with the options of fi-backup.sh",
            ".SH SYNOPSIS",
            *_synopsis(synopsis),
            ".SH DESCRIPTION",
            *_paragraphs(description, *(note.replace("\n", " ") for note in notes)),
            *_paragraphs("It reads no configuration file. It says nothing when all is well."),
            ".SH OPTIONS",
            *_tags((tag, _sentence(text)) for tag, text in tags),
            ".SH EXIT STATUS",
            *_tags(codes),
            *_paragraphs(_COMMON_EXITS),
            ".SH ENVIRONMENT",
            *_tags(_ENVIRONMENT[:1]),
            ".SH EXAMPLES",
            *_verbatim(
                "  fi-backup -b /backup web1           a point\n"
                "  fi-backup -b /backup -C -q -r       each that runs; one overlay is left\n"
                "  fi-backup -c -m blockpull web1      no point; no overlay is left\n"
            ),
            ".SH SEE ALSO",
            *_see_also("fibackup", "qemu-img", "virsh"),
        ]
    )


# -- troff -------------------------------------------------------------------------------------


def _title(name: str, version: str) -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    day = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return f'.TH {_plain(name.upper())} 1 {day:%Y-%m-%d} "fibackup {version}" "User Commands"'


def _synopsis(lines: Iterable[str]) -> Iterator[str]:
    yield ".nf"
    for line in lines:
        program, _, rest = line.partition(" ")
        yield rf"\fB{_plain(program)}\fR {_plain(rest)}"
    yield ".fi"


def _tags(pairs: Iterable[Iterable[str]]) -> Iterator[str]:
    for tag, text in pairs:
        yield from (".TP", rf"\fB{_plain(tag)}\fR", *_filled(text))


def _paragraphs(*texts: str) -> Iterator[str]:
    for text in texts:
        yield from (".PP", *_filled(text))


def _verbatim(text: str) -> Iterator[str]:
    yield from (".PP", ".nf")
    yield from (_plain(line) for line in text.rstrip().splitlines())
    yield ".fi"


def _see_also(*names: str) -> Iterator[str]:
    yield ".PP"
    last = len(names) - 1
    yield from (rf"\fB{_plain(n)}\fR(1){',' if i < last else ''}" for i, n in enumerate(names))


def _filled(text: str) -> Iterator[str]:
    """Yield a text as troff wants it: a line for each sentence, and none of them long."""
    for sentence in re.split(r"(?<=[.:;]) +", " ".join(text.split())):
        line = ""
        for word in sentence.split(" "):
            if line and len(line) + 1 + len(word) > 72:
                yield _plain(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        yield _plain(line)


def _sentence(text: str) -> str:
    text = text.replace("%%", "%")
    first, _, _ = text.partition(" ")
    if first.isalpha() and first.islower() and first != "libvirt":
        text = f"{text[0].upper()}{text[1:]}"
    return text if text.endswith(".") else f"{text}."


def _plain(text: str) -> str:
    r"""Let a text be itself: a backslash, a hyphen, and a dot or an apostrophe at the beginning."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    text = text.replace("~", r"\(ti").replace("^", r"\(ha").replace("`", r"\(ga")
    return rf"\&{text}" if text.startswith(".") else text


def _page(lines: Iterable[str]) -> str:
    """Join the lines; a paragraph right below a heading needs no macro of its own."""
    kept: list[str] = []
    for line in lines:
        after_heading = bool(kept) and kept[-1].startswith((".SH", ".SS"))
        if not (line == ".PP" and after_heading):
            kept.append(line)
    return "\n".join(kept) + "\n"


def main(arguments: list[str]) -> int:
    """Write the pages of the installed version; return the exit status."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    if len(arguments) != 1:
        print("usage: man_pages.py DIRECTORY", file=sys.stderr)
        return 2
    try:
        version = installed_version("fibackup")
    except PackageNotFoundError:
        words = "`make setup` installs it for .venv/bin/python"
        print(f"{sys.executable} has no fibackup; {words}", file=sys.stderr)
        return 1
    for path in write_pages(Path(arguments[0]), version):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
