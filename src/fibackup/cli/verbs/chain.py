"""``fibackup chain``: draw the live chains of a domain, and beside them what a store holds."""

from __future__ import annotations

import argparse
import sys

import fibackup as fb
from fibackup.cli.completion import complete_domains, completed_by
from fibackup.cli.drawing import terminal_width, write_svg
from fibackup.cli.exits import OK, USAGE
from fibackup.cli.options import store_option
from fibackup.cli.output import print_json
from fibackup.cli.say import warn
from fibackup.cli.signals import Signals

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  fibackup chain web1                              draw the chains, sizes to scale
  fibackup chain --store /backup web1              with what the store has, beside them
  fibackup chain --store /backup --svg web1.svg web1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options of ``chain``.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.epilog = _EXAMPLES
    store_option(parser, required=False)
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--svg", metavar="FILE", help="write the picture as SVG instead; -: to stdout"
    )
    form.add_argument(
        "--mermaid", action="store_true", help="print the picture as a mermaid flowchart instead"
    )
    domain = parser.add_argument("domain", metavar="DOMAIN", help="name or UUID")
    completed_by(domain, complete_domains)


def run(arguments: argparse.Namespace, _: Signals) -> int:
    """
    Draw the chains, or print them as JSON.

    Args:
        arguments: Parsed.

    Returns:
        The exit code.

    Raises:
        FibackupError: libvirt or the store cannot be read, or the file for the picture is there
            and is not a picture.

    Source:
        docs/design.md, "Command line".
    """
    if arguments.json and (arguments.mermaid or arguments.svg == "-"):
        print("fibackup chain: --json and a picture cannot both go to stdout", file=sys.stderr)
        return USAGE
    with fb.LibvirtHost.open(arguments.connect) as host:
        domain = host.read_domain(arguments.domain)
    history = None
    if arguments.store is not None:
        with fb.Store.open(arguments.store) as store:
            history = store.read_history(domain.uuid)
        if history.copies:
            warn(f"{fb.printable(history.directory)}: {history.doubt}")
    picture = fb.picture_chains(domain, history)
    if arguments.svg is not None:
        write_svg(arguments.svg, picture.to_svg())
    if arguments.json:
        print_json(arguments, {"domain": fb.encode(domain)})
    elif arguments.mermaid:
        print(picture.to_mermaid(), end="")
    elif arguments.svg is None:
        print(picture.to_text(width=terminal_width()))
    return OK
