"""
The parser: one sub-command for each verb.

The table below is all that ``fibackup --help`` needs; the module of a verb is imported, and its
options are added, when the verb is the one that was asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import takewhile
from typing import NoReturn, Protocol, cast

from fibackup.cli.config import (
    Files,
    Setting,
    apply_settings,
    complete_settings,
    configurable,
    negation,
    read_files,
    settings_for,
)
from fibackup.cli.exits import USAGE
from fibackup.cli.options import common_options
from fibackup.cli.say import ERROR, say
from fibackup.cli.signals import Signals

__all__ = ["VERBS", "Verb", "build_parser", "check_settings", "given", "own_version", "verb_module"]

VERBS: Mapping[str, str] = {
    "backup": "take a restore point of domains, running or not",
    "consolidate": "shorten the live chains of domains",
    "recover": "finish or clear away what a killed run has left",
    "chain": "draw the live backing chains of a domain",
    "list": "list the restore points of a store",
    "restore": "write the disks of a restore point into a directory",
    "verify": "compare what a store holds with what was recorded",
    "prune": "drop the restore points that no rule keeps",
    "doctor": "say what is wrong, or will be, and what helps",
}
"""Name and help of each verb; ``fibackup.cli.verbs.<name>`` is its module."""

_ELSEWHERE = frozenset(
    {"all", "connect", "dry_run", "help", "jobs", "running", "store"}
    | {"json", "json_lines", "no_progress", "quiet", "verbose"}
)
"""Options that say of which domains, where, and how it is shown."""

_EPILOG = """\
examples:
  fibackup backup --store /backup --dry-run web1   say what would be done, and why
  fibackup backup --store /backup web1             do it
  fibackup list --store /backup                    what there is
  fibackup restore --store /backup web1 --into /var/tmp/web1

fibackup VERB --help has the options of a verb, and more examples.

exit codes: 0 ok, 1 failed, 2 usage, 3 requirements not met, 4 warnings (--strict), 5 some domains
failed, 10 not a store, 11 locked, 12 verification failed, 13 domain busy, 128+N ended by signal N.
"""


class Verb(Protocol):
    """A module of `fibackup.cli.verbs`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of the verb."""
        ...

    def run(self, arguments: argparse.Namespace, signals: Signals) -> int:
        """Do it, and return the exit code."""
        ...


class _VerbParser(argparse.ArgumentParser):
    """The parser of one verb, filled when it is used."""

    verb = ""
    _filled = False

    def fill(self) -> None:
        """Add the options of the verb, once, and what turns its flags off."""
        if self._filled:
            return
        self._filled = True
        common_options(self)
        verb_module(self.verb).add_arguments(self)
        for key, action in configurable(self._actions).items():
            if action.nargs == 0 and action.const is True:
                self.add_argument(
                    negation(f"--{key}"),
                    dest=action.dest,
                    action="store_false",
                    default=argparse.SUPPRESS,
                    help=argparse.SUPPRESS,
                )

    def settings(self, files: Files) -> dict[str, Setting]:
        """Return what files and environment say for the verb."""
        return settings_for(self.verb, configurable(self._actions), files, os.environ)

    def parse_known_args(  # type: ignore[override]  # the stub has overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, with the options of the verb; what is not given is as it was configured."""
        self.fill()
        words = sys.argv[1:] if args is None else args
        if "_ARGCOMPLETE" not in os.environ:
            self._refuse_unknown(words)
        options, settings = configurable(self._actions), dict[str, Setting]()
        if not {"-h", "--help"} & set(words):  # help is there also when a file is wrong
            settings = self.settings(read_files(os.environ))
        apply_settings(options, settings)
        found, unknown = super().parse_known_args(words, namespace or argparse.Namespace())
        complete_settings(options, settings, found)
        if unknown and "_ARGCOMPLETE" not in os.environ:
            self.error(f"what is {' '.join(unknown)}?")
        found.given = given(words, self._option_string_actions)
        return found, unknown

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Refuse an option that does not exist before something else is found missing."""
        for word in takewhile(lambda each: each != "--", words):
            name = word.partition("=")[0]
            if not name.startswith("--") or name in self._option_string_actions:
                continue
            from difflib import get_close_matches

            shown = [
                each
                for each, action in self._option_string_actions.items()
                if action.help is not argparse.SUPPRESS
            ]
            close = get_close_matches(name, shown, n=1)
            self.error(f"there is no {name}" + (f"; do you mean {close[0]}?" if close else ""))

    def error(self, message: str) -> NoReturn:
        """End with what is wrong, and where the options are: all of them would hide it."""
        if "-s/--store" in message:
            message += " (or FIBACKUP_STORE, or store in a configuration file)"
        say(f"{self.prog}: error: {message}\n{self.prog} --help has the options", ERROR)
        self.exit(USAGE)


def given(words: Sequence[str], options: Mapping[str, argparse.Action]) -> tuple[str, ...]:
    """
    Return what a command line asks for: not of which domains, where, or how it is shown.

    Args:
        words: The command line.
        options: Actions of the verb by their options.

    Source:
        docs/errors.md, `StepError`.
    """
    found: list[str] = []
    rest = takewhile(lambda each: each != "--", words)
    for word in rest:
        for name, glued in _options_in(word):
            action = options.get(name.partition("=")[0])
            if action is None:
                break
            takes = action.nargs != 0
            value = (glued or next(rest, ""),) if takes and "=" not in name else ()
            if action.dest not in _ELSEWHERE:
                found += (name, *value)
            if takes:
                break
    return tuple(found)


def _options_in(word: str) -> Iterator[tuple[str, str]]:
    """Give each option that a word may have, and what is glued to it: -qmx has -q and -m with x."""
    if word.startswith("--"):
        yield word, ""
    elif word.startswith("-"):
        for at in range(1, len(word)):
            yield f"-{word[at]}", word[at + 1 :]


class _Version(argparse.Action):
    """Prints the version; what knows it is slow to import."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"fibackup {own_version()}")
        parser.exit()


class _Completion(argparse.Action):
    """Prints what a shell has to read."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        _option: str | None = None,
    ) -> None:
        from fibackup.cli.completion import print_completion

        parser.exit(print_completion(str(values)))


def check_settings() -> None:
    """
    Read what files and environment say for every verb.

    Raises:
        ConfigError: A key that does not exist, or a value that does not fit.

    Source:
        docs/cli.md, "Configuration".
    """
    files = read_files(os.environ)
    for name in VERBS:
        verb = _VerbParser()
        verb.verb = name
        verb.fill()
        verb.settings(files)


def own_version() -> str:
    """
    Return the version of fibackup.

    Source:
        The metadata of the installed package.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fibackup")
    except PackageNotFoundError:  # pragma: no cover - run from a tree that is not installed
        return "unknown"


def verb_module(name: str) -> Verb:
    """
    Import the module of a verb.

    Args:
        name: One of `VERBS`.

    Source:
        docs/design.md, "Command line".
    """
    return cast("Verb", import_module(f"fibackup.cli.verbs.{name}"))


def build_parser(*, filled: bool = False) -> argparse.ArgumentParser:
    """
    Return the parser of ``fibackup``.

    Args:
        filled: True: with the options of every verb at once.

    Source:
        docs/design.md, "Command line".
    """
    parser = argparse.ArgumentParser(
        prog="fibackup",
        description="Forward-incremental backups of libvirt/KVM domains, as plain qcow2 files.",
        epilog=_EPILOG,
        allow_abbrev=False,  # scripts keep working when there are more options
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="print the version")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=("bash", "zsh", "fish", "tcsh"),
        action=_Completion,
        help="print what bash, zsh, fish or tcsh has to read for completion",
    )
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", required=True, parser_class=_VerbParser
    )
    for name, words in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=words,
            description=f"{words[0].upper()}{words[1:]}.",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.verb = name
        if filled:
            verb.fill()
    return parser
