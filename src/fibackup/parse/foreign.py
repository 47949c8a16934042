"""
What a stored domain XML may bring in: elements that reach out of the guest into its host.

::

    <qemu:commandline>                     any option of QEMU
    <emulator>/home/x/qemu                 any program, run as QEMU's user
    <hostdev>, <filesystem>, <shmem>       devices, directories and memory of the host
    <disk>/dev/sdb                         a disk that the point does not hold
    <os><kernel>, <loader>                 files that are read into the guest
    <serial type="file">, <script path=>   files that are written, programs that are run

The list is one of what is known to stay inside; everything else counts as foreign, also what a
later libvirt invents. A foreign part is an element: it can be kept, or taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TypeAlias
from xml.etree.ElementTree import Element

from attrs import frozen

__all__ = ["ForeignPart", "find_foreign", "resumed_foreign"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PLAIN = _words(
    "name uuid genid title description metadata maxMemory memory currentMemory memoryBacking "
    "memtune numatune blkiotune cputune vcpu vcpus iothreads iothreadids defaultiothread "
    "throttlegroups resource sysinfo os features cpu clock on_poweroff on_reboot on_crash "
    "on_lockfailure pm perf seclabel launchSecurity keywrap devices"
)
_PLAIN_OS = _words("type firmware loader nvram boot bootmenu smbios bios")
_PLAIN_DEVICES = _words(
    "emulator disk controller interface channel console serial parallel input tpm graphics sound "
    "audio video memballoon rng panic watchdog hub iommu memory vsock crypto redirdev "
    "redirfilter smartcard"
)
_INTERFACES = _words("network bridge user direct ethernet null")
_CHARACTER = _words("pty null vc stdio spicevmc spiceport qemu-vdagent dbus unix")
_INPUTS = _words("mouse tablet keyboard")
_AUDIO = _words("none spice pulseaudio pipewire vnc dbus alsa coreaudio sdl jack oss")
_RANDOM = frozenset({"/dev/urandom", "/dev/random", "/dev/hwrng"})
_FIRMWARE = ("/usr/share/", "/usr/lib/", "/usr/local/share/")
_OWN_SOCKETS = "/channel/target/"
_GRAPHICS = _words("vnc spice rdp dbus egl-headless")


@frozen
class ForeignPart:
    """
    One element that reaches out of the guest.

    Attributes:
        words: What it is, such as ``"hostdev (pci)"``.
        parent: The element that it is in.
        node: The element.
    """

    words: str
    parent: Element
    node: Element


_Found: TypeAlias = Iterator[ForeignPart]


def find_foreign(
    root: Element, *, held: Collection[str], emulators: Collection[str]
) -> tuple[ForeignPart, ...]:
    """
    Return what in a domain's XML reaches out of the guest.

    Args:
        root: The ``domain`` element.
        held: Targets of the disks that the point holds.
        emulators: What the host has for emulators.

    Returns:
        The parts, in the order of the XML. A drive for removable media counts as none: its medium
        is taken out, or it is a disk that the point holds.

    Source:
        libvirt, "Domain XML format"; docs/restore.md, "What the XML may bring in".
    """
    return (
        *_top(root),
        *_seconds(root),
        *_firmware(root),
        *_devices(root, held, emulators),
    )


def resumed_foreign(
    root: Element, *, held: Collection[str], emulators: Collection[str], nvrams: PurePosixPath
) -> tuple[str, ...]:
    """
    Return, in words, what reaches out of a guest that goes on from its memory.

    Such a guest knows its devices, so nothing can be taken out; and what a new definition places
    anew stays where it was: media of drives, NVRAM, the state of a TPM.

    Args:
        root: The ``domain`` element.
        held: Targets of the disks that the point holds.
        emulators: What the host has for emulators.
        nvrams: Where the host's libvirt keeps firmware variables.

    Source:
        docs/memory.md, "Bringing the guest back".
    """
    return (
        *(part.words for part in find_foreign(root, held=held, emulators=emulators)),
        *_media(root, held),
        *_variables(root, nvrams),
        *(
            f"tpm (state in {source.get('path')})"
            for source in root.iterfind("devices/tpm/backend/source")
        ),
    )


def _media(root: Element, held: Collection[str]) -> Iterator[str]:
    for disk in root.iterfind("devices/disk"):
        target = disk.find("target")
        name = target.get("dev", "") if target is not None else ""
        for source in disk.findall("source") if name not in held and _is_drive(disk) else ():
            yield f"disk {name}, medium {' '.join(sorted(source.attrib.values()))}"


def _variables(root: Element, nvrams: PurePosixPath) -> Iterator[str]:
    usual = nvrams / f"{root.findtext('name')}_VARS.fd"
    for node in root.iterfind("os/nvram"):
        texts = (node.text or "", *(each.get("file", "") for each in node.findall("source")))
        yield from (
            f"os/nvram ({text.strip()})"
            for text in texts
            if text.strip() and PurePosixPath(text.strip()).with_suffix(".fd") != usual
        )


def _is_drive(disk: Element) -> bool:
    removable = disk.get("device") in {"cdrom", "floppy"}
    return removable and disk.get("type", "file") in {"file", "block"}


def _name(node: Element) -> str:
    """Return an element's name, with libvirt's prefix for those of QEMU's namespace."""
    uri, brace, name = node.tag.rpartition("}")
    return f"qemu:{name}" if "qemu" in uri else f"{uri}{brace}{name}"


def _top(root: Element) -> _Found:
    for node in root:
        if node.tag not in _PLAIN:
            yield ForeignPart(_name(node), root, node)
        elif node.tag == "seclabel" and node.get("type", "dynamic") != "dynamic":
            yield ForeignPart(f"seclabel ({node.get('type')})", root, node)
        elif node.tag == "sysinfo" and node.find("entry[@file]") is not None:
            yield ForeignPart("sysinfo (from a file)", root, node)


def _seconds(root: Element) -> _Found:
    """Find what libvirt never writes twice, and would look into nevertheless."""
    for tag in ("os", "devices"):
        for node in root.findall(tag)[1:]:
            yield ForeignPart(f"{tag}, a second time", root, node)


def _firmware(root: Element) -> _Found:
    os = root.find("os")
    if os is None:
        return
    for node in os:
        if node.tag not in _PLAIN_OS:
            yield ForeignPart(f"os/{node.tag}", os, node)
        elif node.tag == "loader" and not _is_firmware(node.text):
            yield ForeignPart(f"os/loader ({(node.text or '').strip()})", os, node)
        elif node.tag == "nvram" and not _is_firmware(node.get("template")):
            yield ForeignPart(f"os/nvram (template {node.get('template')})", os, node)


def _is_firmware(path: str | None) -> bool:
    """Tell whether a file is where distributions install firmware, or none is named."""
    text = (path or "").strip()
    return not text or (text.startswith(_FIRMWARE) and "/../" not in text)


def _devices(root: Element, held: Collection[str], emulators: Collection[str]) -> _Found:
    devices = root.find("devices")
    if devices is None:
        return
    for node in devices:
        kind = node.get("type") or node.get("mode") or node.get("model") or ""
        if node.tag not in _PLAIN_DEVICES:
            yield ForeignPart(f"{_name(node)} ({kind})" if kind else _name(node), devices, node)
        elif node.tag == "emulator":
            if (node.text or "").strip() not in emulators:
                yield ForeignPart(f"emulator ({node.text}), not of this host", devices, node)
        elif node.tag == "disk":
            yield from _disk(devices, node, held)
        else:
            yield from _CHECKS.get(node.tag, _nothing)(devices, node)


def _nothing(_: Element, __: Element) -> _Found:
    return iter(())


def _disk(devices: Element, disk: Element, held: Collection[str]) -> _Found:
    target = disk.find("target")
    name = target.get("dev", "") if target is not None else ""
    if name in held or _is_drive(disk):
        return
    source = disk.find("source")
    values = sorted(source.attrib.values()) if source is not None else []
    place = f", {' '.join(values)}" if values else ""
    yield ForeignPart(f"disk {name}{place}: not in the point", devices, disk)


def _interface(devices: Element, node: Element) -> _Found:
    kind = node.get("type", "")
    if kind not in _INTERFACES:
        yield ForeignPart(f"interface ({kind})", devices, node)
        return
    if node.find("source[@mode='passthrough']") is not None:
        yield ForeignPart(f"interface ({kind}, passthrough)", devices, node)
        return
    for tag in ("script", "downscript"):
        for script in node.findall(tag):
            yield ForeignPart(f"interface/{tag} ({script.get('path')})", node, script)
    for backend in node.findall("backend"):
        if set(backend.attrib) - {"type"}:
            yield ForeignPart(f"interface/backend ({' '.join(backend.attrib)})", node, backend)


def _character(devices: Element, node: Element) -> _Found:
    kind = node.get("type", "pty")
    paths = [path for each in node.findall("source") if (path := each.get("path"))]
    own = _OWN_SOCKETS if node.tag == "channel" else "\0"
    foreign = [path for path in paths if kind != "pty" and own not in path]
    if kind not in _CHARACTER or foreign:
        where = f", {foreign[0]}" if foreign else ""
        yield ForeignPart(f"{node.tag} ({kind}{where})", devices, node)
    for log in node.findall("log"):
        yield ForeignPart(f"{node.tag}/log ({log.get('file')})", node, log)


def _typed(allowed: Collection[str]) -> Callable[[Element, Element], _Found]:
    def check(devices: Element, node: Element) -> _Found:
        if node.get("type", "") not in allowed:
            yield ForeignPart(f"{node.tag} ({node.get('type')})", devices, node)

    return check


def _tpm(devices: Element, node: Element) -> _Found:
    backend = node.find("backend")
    kind = backend.get("type", "") if backend is not None else ""
    if kind != "emulator":
        yield ForeignPart(f"tpm ({kind})", devices, node)


def _rng(devices: Element, node: Element) -> _Found:
    for backend in node.findall("backend"):
        kind, path = backend.get("model", ""), (backend.text or "").strip()
        if kind != "builtin" and not (kind == "random" and (not path or path in _RANDOM)):
            yield ForeignPart(f"rng ({kind} {path})".replace(" )", ")"), devices, node)


def _memory(devices: Element, node: Element) -> _Found:
    path = node.findtext("source/path")
    if path is not None:
        yield ForeignPart(f"memory ({node.get('model')} {path})", devices, node)


def _graphics(devices: Element, node: Element) -> _Found:
    kind = node.get("type", "")
    sockets = [each.get("socket") for each in (node, *node.findall("listen"))]
    address = node.get("address") if kind == "dbus" else None
    paths = [path for path in (*sockets, address) if path]
    if kind not in _GRAPHICS or paths:
        what = f"socket {paths[0]}" if paths else kind
        yield ForeignPart(f"graphics ({what})", devices, node)
        return
    yield from _rendering(devices, node)


def _rendering(devices: Element, node: Element) -> _Found:
    """Find devices of the host that draw for the guest."""
    for each in (*node.findall("gl"), *node.findall("model/acceleration")):
        place = each.get("rendernode")
        if place is not None:
            yield ForeignPart(f"{node.tag} ({each.tag} {place})", devices, node)
            return


_CHECKS: Mapping[str, Callable[[Element, Element], _Found]] = MappingProxyType(
    {
        "interface": _interface,
        "channel": _character,
        "console": _character,
        "serial": _character,
        "parallel": _character,
        "redirdev": _typed({"spicevmc"}),
        "smartcard": _typed({"spicevmc"}),
        "input": _typed(_INPUTS),
        "audio": _typed(_AUDIO),
        "tpm": _tpm,
        "rng": _rng,
        "memory": _memory,
        "graphics": _graphics,
        "video": _rendering,
    }
)
