"""
Defaults from the environment and from files; an option on the command line wins over both.

::

    --store /mnt/b                   the command line
    FIBACKUP_STORE=/mnt/b            the environment
    ~/.config/fibackup.toml          store = "/mnt/b"        the user's file
    /etc/fibackup.toml               store = "/backup"       the machine's file

A key is the long name of an option. Keys of a table such as ``[backup]`` are for one verb.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

__all__ = [
    "GLOBAL_KEYS",
    "TABLES",
    "ConfigError",
    "Files",
    "Setting",
    "apply_settings",
    "complete_settings",
    "configurable",
    "negation",
    "read_files",
    "settings_for",
]

GLOBAL_KEYS = ("connect", "store", "metrics", "no-progress", "quiet", "verbose")
"""Keys outside of every table: for each verb that has the option."""

TABLES = ("backup", "chain", "consolidate", "doctor", "list", "prune", "recover", "verify")
"""Verbs whose options may be set; each restore is asked for in full."""

# What is worked on, and how the answer looks, is said by whoever asks.
_NOT_KEYS = frozenset(
    {
        *("all", "running", "point", "full", "dry-run", "yes"),
        *("help", "json", "json-lines", "svg", "mermaid"),
    }
)
_YES = {"1": True, "yes": True, "true": True, "on": True}
_NO = {"0": False, "no": False, "false": False, "off": False}
_Table = Mapping[str, object]
Files: TypeAlias = Sequence[tuple[str, Mapping[str, object]]]
"""Path and content of each file, weakest first."""


class ConfigError(Exception):
    """A file or a variable cannot be used; the text says where and why."""


class Setting(NamedTuple):
    """A value, and where it is from."""

    value: object
    where: str


def read_files(environment: Mapping[str, str]) -> list[tuple[str, _Table]]:
    """
    Read the files that are there, weakest first.

    Args:
        environment: ``FIBACKUP_CONFIG`` names one file in place of all others; empty: none.

    Returns:
        Path and content of each.

    Raises:
        ConfigError: One cannot be read, is not TOML, or others could have written it.

    Source:
        docs/cli.md, "Configuration"; XDG base directories.
    """
    chosen = environment.get("FIBACKUP_CONFIG")
    if chosen is not None:
        return [(chosen, _read(chosen))] if chosen else []
    home = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    paths = ("/etc/fibackup.toml", os.path.join(home, "fibackup.toml"))
    return [(path, _read(path)) for path in paths if os.path.lexists(path)]


def _read(path: str) -> _Table:
    import tomllib

    try:
        with open(path, "rb") as file:
            _refuse_others(path, os.fstat(file.fileno()))
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _refuse_others(path: str, found: os.stat_result) -> None:
    """Refuse what another user may write: it names commands that are run."""
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path}: not a regular file")
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & stat.S_IWOTH:
        raise ConfigError(f"{path}: other users may write it; chown it, or chmod o-w")


def negation(option: str) -> str:
    """
    Return the option that turns a flag off.

    Args:
        option: Such as ``--consolidate`` or ``--no-progress``.

    Source:
        docs/cli.md, "Configuration".
    """
    return f"--{option[5:]}" if option.startswith("--no-") else f"--no-{option[2:]}"


def configurable(actions: Iterable[argparse.Action]) -> dict[str, argparse.Action]:
    """
    Return the options that may be set, by key.

    Args:
        actions: Of a verb's parser.

    Source:
        docs/cli.md, "Configuration".
    """
    found: dict[str, argparse.Action] = {}
    for action in actions:
        names = [name[2:] for name in action.option_strings if name.startswith("--")]
        if names and names[0] not in _NOT_KEYS and action.help != argparse.SUPPRESS:
            found[names[0]] = action
    return found


def settings_for(
    verb: str,
    options: Mapping[str, argparse.Action],
    files: Files,
    environment: Mapping[str, str],
) -> dict[str, Setting]:
    """
    Collect what files and environment say about the options of a verb.

    Args:
        verb: Its name.
        options: What `configurable` returned.
        files: What `read_files` returned.
        environment: Of the process.

    Returns:
        A setting, of the type that the option has, for each key that is set.

    Raises:
        ConfigError: A key that does not exist, or a value that does not fit.

    Source:
        docs/cli.md, "Configuration".
    """
    found: dict[str, Setting] = {}
    for path, content in files:
        for key, value, where in _of_file(path, content, verb, options):
            found[key] = Setting(_from_toml(options[key], value, where), where)
    for key, action in options.items():
        for name in _variables(verb, key):
            if environment.get(name):
                found[key] = Setting(_from_text(action, environment[name], f"${name}"), f"${name}")
                break
    return found


def _variables(verb: str, key: str) -> Iterator[str]:
    """Yield the names of the variables for a key, the strongest first."""
    word = key.upper().replace("-", "_")
    if verb in TABLES:
        yield f"FIBACKUP_{verb.upper()}_{word}"
    if key in GLOBAL_KEYS:
        yield f"FIBACKUP_{word}"
    if key == "connect":
        yield "LIBVIRT_DEFAULT_URI"


def _of_file(
    path: str, content: _Table, verb: str, options: Mapping[str, argparse.Action]
) -> Iterator[tuple[str, object, str]]:
    """Yield key, value and place of what a file says for a verb: the verb's own table last."""
    own: dict[str, object] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            if key not in TABLES:
                raise ConfigError(f"{path}: no table [{key}]; there are: {_listed(TABLES)}")
            own = cast("dict[str, object]", value) if key == verb else own
        elif key not in GLOBAL_KEYS:
            raise ConfigError(f"{path}: no key {key!r} outside of a table{_hint(key, options)}")
        elif key in options:
            yield key, value, f"{path}: {key}"
    for key, value in own.items():
        if key not in options:
            words = f"[{verb}] has no key {key!r}{_hint(key, options)}"
            raise ConfigError(f"{path}: {words}")
        yield key, value, f"{path}: [{verb}] {key}"


def _hint(key: str, options: Mapping[str, argparse.Action]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, {*options, *GLOBAL_KEYS}, 1)
    return f"; is it {near[0]!r}?" if near else f"; there are: {_listed(sorted(options))}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def _is_flag(action: argparse.Action) -> bool:
    return action.nargs == 0 and action.const is True


def _is_count(action: argparse.Action) -> bool:
    return action.nargs == 0 and action.const is None


def _is_list(action: argparse.Action) -> bool:
    return isinstance(action.default, list)


def _from_toml(action: argparse.Action, value: object, where: str) -> object:
    """Return the value of a file as the option would give it."""
    if _is_flag(action):
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: true or false, not {value!r}")
        return value
    if _is_list(action):
        if not isinstance(value, list):
            raise ConfigError(f"{where}: a list, not {value!r}")
        items = cast("list[object]", value)
        return [_converted(action, _text_of(each, where), where) for each in items]
    if _is_count(action):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigError(f"{where}: a number of 0 or more, not {value!r}")
        return value
    return _converted(action, _text_of(value, where), where)


def _text_of(value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{where}: a text or a number, not {value!r}")
    return str(value)


def _from_text(action: argparse.Action, text: str, where: str) -> object:
    """Return the value of a variable as the option would give it."""
    if _is_flag(action):
        try:
            return {**_YES, **_NO}[text.lower()]
        except KeyError:
            raise ConfigError(f"{where}: 1 or 0, not {text!r}") from None
    if _is_list(action):
        return [_converted(action, each, where) for each in text.splitlines()]
    if _is_count(action):
        if not text.isdecimal():
            raise ConfigError(f"{where}: a number of 0 or more, not {text!r}")
        return int(text)
    return _converted(action, text, where)


def _converted(action: argparse.Action, text: str, where: str) -> object:
    """Do with a text what argparse does with an argument."""
    try:
        value: object = action.type(text) if callable(action.type) else text
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"{where}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{where}: not a number: {text!r}") from error
    if action.choices is not None and value not in action.choices:
        raise ConfigError(f"{where}: one of {_listed(map(str, action.choices))}, not {text!r}")
    return value


def apply_settings(options: Mapping[str, argparse.Action], settings: Mapping[str, Setting]) -> None:
    """
    Make settings the defaults of their options, before the command line is parsed.

    Args:
        options: What `configurable` returned.
        settings: What `settings_for` returned.

    Source:
        docs/cli.md, "Configuration".
    """
    for key, setting in settings.items():
        action = options[key]
        action.required = False
        if not _is_list(action) and not _is_count(action):  # those would add to their defaults
            action.default = setting.value


def complete_settings(
    options: Mapping[str, argparse.Action],
    settings: Mapping[str, Setting],
    parsed: argparse.Namespace,
) -> None:
    """
    Set what the command line has left alone: lists and counts.

    Args:
        options: What `configurable` returned.
        settings: What `settings_for` returned.
        parsed: Changed.

    Source:
        docs/cli.md, "Configuration".
    """
    for key, setting in settings.items():
        action = options[key]
        if (_is_list(action) or _is_count(action)) and not getattr(parsed, action.dest):
            setattr(parsed, action.dest, setting.value)
