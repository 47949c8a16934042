"""
What an error has left, and what to run next: for every error, not only for a run that failed.

::

    fibackup: error: domain 'web1': disk vda: step 4 (copy vda) failed: No space left on device
    fibackup:   state: the guest writes vda to /images/vda.bimg-...; delete neither these nor ...
    fibackup:   next: fibackup backup -c qemu:///system --store /backup 3f2c...
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Sequence

import fibackup as fb

__all__ = ["after_faults", "next_command", "reaching", "state_of"]

_CALL = re.compile(
    r"(?:(?<=: )|^)"  # behind words, or alone
    r"(?:virsh|fibackup (?:backup|consolidate|recover|chain|restore|doctor))"  # not of a store
    r"(?= |$)(?! -c | --help)"
)
_LIVE = {"backup", "consolidate", "recover"}
_AGAIN = "run the same command again"
_EXPLAINED = "docs/errors.md explains it"


def state_of(error: fb.FibackupError, arguments: argparse.Namespace) -> str:
    """
    Say where the guest writes now, and what must not be deleted.

    Args:
        error: What was raised.
        arguments: Parsed.

    Source:
        docs/errors.md: only `StepError` can mean that the host was changed.
    """
    if isinstance(error, fb.StepError):
        return error.state
    known = arguments.verb in _LIVE and not isinstance(error, fb.NoSuchDomainError)
    if arguments.verb == "verify" and isinstance(error, fb.VerifyError):
        return "no point was changed"
    guest = "; the guest writes where it wrote before" if known else ""
    return f"nothing was changed{guest}"


def next_command(error: fb.FibackupError, arguments: argparse.Namespace) -> str:
    """
    Say what to run next; words, where no command would do.

    Args:
        error: What was raised.
        arguments: Parsed: what was asked for, and of which hypervisor.

    Source:
        docs/errors.md.
    """
    if isinstance(error, fb.StepError):
        cause = error.__cause__
        if isinstance(cause, _curable(arguments.verb)):
            return next_command(cause, arguments)
        return reaching(_with_wishes(error.next_command, arguments), arguments)
    for kind in type(error).__mro__:
        if kind.__name__ in _NEXT:
            return reaching(_NEXT[kind.__name__](error, arguments), arguments)
    return ""


def _with_wishes(command: str, arguments: argparse.Namespace) -> str:
    """Ask for what this run was asked for, where its verb is run again."""
    wishes = getattr(arguments, "given", ())
    again = arguments.verb in {"backup", "consolidate"}
    if not (wishes and again and command.startswith(f"fibackup {arguments.verb} ")):
        return command
    head, _, domain = command.rpartition(" ")
    return f"{head} {shlex.join(wishes)} {domain}"


def _curable(verb: str) -> tuple[type[fb.FibackupError], ...]:
    """Return the causes after which a restore or a prune runs again as soon as they are cured."""
    if verb not in {"restore", "prune"}:
        return ()
    both = (fb.LockedError, fb.NoSpaceError, fb.PermissionDeniedError, fb.RequirementError)
    return (*both, fb.DomainBusyError) if verb == "prune" else both  # by a linked disk


def reaching(command: str, arguments: argparse.Namespace) -> str:
    """
    Let a command reach the hypervisor that this one was told to.

    Args:
        command: Of ours or of virsh, alone or behind words and a colon; what asks no hypervisor
            stays as it is.
        arguments: Parsed.

    Source:
        docs/errors.md.
    """
    uri = getattr(arguments, "connect", None)
    if not uri:
        return command
    return _CALL.sub(lambda found: f"{found[0]} -c {shlex.quote(uri)}", command)


def _store(arguments: argparse.Namespace) -> str:
    store = getattr(arguments, "store", None)
    return f" --store {shlex.quote(store)}" if store else ""


def _doctor(error: fb.FibackupError, arguments: argparse.Namespace) -> str:
    if arguments.verb == "doctor":
        return "virsh version" if isinstance(error, fb.LibvirtError) else _EXPLAINED
    domain = f" {shlex.quote(error.domain)}" if error.domain else ""
    return f"fibackup doctor{_store(arguments)}{domain}"


def _correct(_: fb.FibackupError, arguments: argparse.Namespace) -> str:
    return f"correct the command: fibackup {arguments.verb} --help"


def _denied(error: fb.FibackupError, _: argparse.Namespace) -> str:
    known = error.remedy if isinstance(error, fb.PermissionDeniedError) else ""
    access = f"give access to {error.path or 'what is named'}"
    return f"{known or access}, then {_AGAIN}"


def _again(_: fb.FibackupError, __: argparse.Namespace) -> str:
    return _AGAIN


def _remedy(error: fb.FibackupError, _: argparse.Namespace) -> str:
    return error.remedy if isinstance(error, fb.DomainStateError) else ""


def _busy(error: fb.FibackupError, _: argparse.Namespace) -> str:
    return (error.remedy if isinstance(error, fb.DomainBusyError) else "") or _AGAIN


def _required(error: fb.FibackupError, _: argparse.Namespace) -> str:
    remedy = error.remedy if isinstance(error, fb.RequirementError) else ""
    return remedy or f"install or upgrade what is named, then {_AGAIN}"


def _foreign(_: fb.FibackupError, arguments: argparse.Namespace) -> str:
    if getattr(arguments, "memory", False):  # a guest that goes on keeps its devices
        return "read docs/restore.md about each part; then run it again with --foreign keep"
    return "run it again with --foreign drop, or --foreign keep"


def _damaged(error: fb.FibackupError, arguments: argparse.Namespace) -> str:
    if os.path.basename(error.path or "") == "fibackup-store.json":  # no verb can read the store
        return "take it from another copy of the store, or write fibackup-store.json anew"
    if arguments.verb != "verify":
        return f"fibackup verify{_store(arguments)}"
    return "take the file that is named from another copy of the store"


def _unverified(error: fb.FibackupError, arguments: argparse.Namespace) -> str:
    if arguments.verb == "restore" and isinstance(error, fb.VerifyError) and error.found:
        again = f"fibackup verify{_store(arguments)} --deep"
        return (
            f"restore another point; {again} reads this one again; "
            "or restore it as it is, with --found-wrong"
        )
    return _damaged(error, arguments)


def after_faults(faults: Sequence[fb.Fault], arguments: argparse.Namespace, domain: str) -> str:
    """
    Say what helps against what a verification has found: a backup only where it does.

    Args:
        faults: At least one.
        arguments: Parsed.
        domain: Its name.

    Source:
        docs/verify.md, "What is found".
    """
    told = "do what each line says"
    if any(fault.kind is fb.FaultKind.COPY for fault in faults):
        return told  # no backup is taken while there is a copy
    spoiling = [fault for fault in faults if fault.points]
    sealing = any(fault.kind is fb.FaultKind.SEALS for fault in faults)
    others = any(not fault.points and fault.kind is not fb.FaultKind.SEALS for fault in faults)
    backup = f"fibackup backup{_store(arguments)} {shlex.quote(domain)}"
    words = [told] if others else []
    if spoiling:
        words.append("take each file from another copy of the store")
    if any(each.kind in {fb.FaultKind.LOST, fb.FaultKind.MANIFEST} for each in spoiling):
        words.append(
            "a manifest that no copy has: move it away, if it is there, and points.sha256 too, "
            "then the point is given up"
        )
    renewed = any(map(_under_others, spoiling))
    if renewed:
        seals = ", and writes the seals anew" if sealing else ""
        words.append(f"without a copy, the next backup lies on what is right{seals}: {backup}")
    elif spoiling:
        words.append("without a copy, the disks can be restored all the same")
    if any(each.kind is fb.FaultKind.DISK for each in spoiling) and not arguments.deep:
        again = f"fibackup verify{_store(arguments)} --deep {shlex.quote(domain)}"
        words.append(f"when the files are right: {again}")
    if sealing and not renewed:
        words.append(f"the next backup writes the seals anew: {backup}")
    return "; ".join(words)


def _under_others(fault: fb.Fault) -> bool:
    """Tell whether a new point could have lain on it: an image or a manifest, no XML or memory."""
    return "/" in fault.file or fault.file.endswith(".json")


def _locked(error: fb.FibackupError, _: argparse.Namespace) -> str:
    owner = error.owner if isinstance(error, fb.LockedError) else ""
    return f"wait for {owner or 'the other run'}, then {_AGAIN}"


def _full(error: fb.FibackupError, _: argparse.Namespace) -> str:
    path = error.path
    if path and not os.path.isdir(path):  # a file that was being written, and is gone by now
        path = os.path.dirname(path)
    return f"make room in {path or 'the file system'}, then {_AGAIN}"


def _no_store(error: fb.FibackupError, _: argparse.Namespace) -> str:
    mount = "mount the disk that the store is on"
    if error.path and os.path.isdir(error.path):
        return f"{mount}, or name another directory"
    return f"{mount}; for a new store: mkdir -m 0700 {shlex.quote(error.path or 'DIR')}"


_NEXT: dict[str, Callable[[fb.FibackupError, argparse.Namespace], str]] = {
    "AgentError": lambda _, __: "start the guest agent, or ask for --quiesce try",
    "BlockJobError": _again,
    "CancelledError": _again,
    "ChainError": _doctor,
    "DestinationExistsError": lambda _, __: "choose another directory, or move away what is there",
    "DomainBusyError": _busy,
    "DomainExistsError": lambda _, __: "choose another name, or undefine the domain first",
    "DomainStateError": _remedy,
    "FibackupError": _doctor,
    "ForeignConfigError": _foreign,
    "FormatTooNewError": lambda _, __: "use the fibackup that wrote it, or a newer one",
    "HostError": _doctor,
    "LibvirtError": _doctor,
    "LockedError": _locked,
    "ManifestError": _damaged,
    "ModelError": _correct,
    "NoSpaceError": _full,
    "NoSuchDomainError": lambda _, __: "virsh list --all",
    "NoSuchPointError": lambda _, arguments: f"fibackup list{_store(arguments)}",
    "NotAStoreError": _no_store,
    "ParseError": _doctor,
    "PermissionDeniedError": _denied,
    "PlanError": _doctor,
    "PolicyError": _correct,
    "QemuImgError": _doctor,
    "RequirementError": _required,
    "SharedBaseError": lambda _, __: (
        "give the other domains images of their own, or leave the disk"
    ),
    "StalePlanError": _again,
    "StoreError": _doctor,
    "UnsupportedDiskError": lambda _, __: "leave the disk out: --exclude, or --skip-unsupported",
    "VerifyError": _unverified,
}
