"""``fibackup chain``: draw the live chains of a domain."""

from __future__ import annotations

import argparse

import fibackup as fb
from fibackup.cli.exits import OK
from fibackup.cli.options import store_option
from fibackup.cli.output import print_json
from fibackup.cli.signals import Signals

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options of ``chain``.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    store_option(parser, required=False)
    parser.add_argument("domain", metavar="DOMAIN", help="name or UUID")


def run(arguments: argparse.Namespace, _: Signals) -> int:
    """
    Draw the chains, or print them as JSON.

    Args:
        arguments: Parsed.

    Returns:
        The exit code.

    Raises:
        FibackupError: libvirt or the store cannot be read.

    Source:
        docs/design.md, "Command line".
    """
    with fb.LibvirtHost.open(arguments.connect) as host:
        domain = host.read_domain(arguments.domain)
    history = None
    if arguments.store is not None:
        with fb.Store.open(arguments.store) as store:
            history = store.read_history(domain.uuid)
    if arguments.json:
        print_json(arguments, {"domain": fb.encode(domain)})
    else:
        print(fb.draw_chains(domain, history))
    return OK
