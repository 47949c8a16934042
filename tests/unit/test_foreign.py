"""What a stored XML may bring in: found, part by part, and taken out or kept."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import PurePosixPath

import pytest

from fibackup.parse.foreign import find_foreign, resumed_foreign

QEMU = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
EMULATOR = "/usr/bin/qemu-system-x86_64"


def words(top: str = "", devices: str = "", os: str = "") -> list[str]:
    """Return what is foreign in a domain whose point holds vda."""
    root = ET.fromstring(
        f"<domain {QEMU}><name>n</name>{top}<os><type>hvm</type>{os}</os>"
        f"<devices><emulator>{EMULATOR}</emulator>{devices}</devices></domain>"
    )
    return [part.words for part in find_foreign(root, held={"vda"}, emulators={EMULATOR})]


@pytest.mark.parametrize(
    ("top", "found"),
    [
        ("<qemu:commandline><qemu:arg value='-x'/></qemu:commandline>", "qemu:commandline"),
        ("<qemu:override/>", "qemu:override"),
        ("<bootloader>/bin/x</bootloader>", "bootloader"),
        ("<x:y xmlns:x='urn:other'/>", "{urn:other}y"),
        ("<invented-by-a-later-libvirt/>", "invented-by-a-later-libvirt"),
        ("<seclabel type='none'/>", "seclabel (none)"),
        ("<seclabel type='static' model='dac'/>", "seclabel (static)"),
        (
            "<sysinfo type='fwcfg'><entry name='a' file='/etc/shadow'/></sysinfo>",
            "sysinfo (from a file)",
        ),
    ],
)
def test_what_stands_beside_the_devices(top: str, found: str) -> None:
    """Options of QEMU, programs, labels that take the guest out of its confinement."""
    assert words(top) == [found]


@pytest.mark.parametrize(
    ("os", "found"),
    [
        ("<kernel>/boot/vmlinuz</kernel>", "os/kernel"),
        ("<initrd>/i</initrd><cmdline>x</cmdline>", "os/initrd os/cmdline"),
        ("<acpi><table type='slic'>/t</table></acpi>", "os/acpi"),
        ("<loader>/etc/shadow</loader>", "os/loader (/etc/shadow)"),
        ("<loader>/usr/share/../../etc/shadow</loader>", "os/loader (/usr/share/../../etc/shadow)"),
        ("<nvram template='/etc/shadow'>/v</nvram>", "os/nvram (template /etc/shadow)"),
    ],
)
def test_what_the_firmware_reads(os: str, found: str) -> None:
    """Files of the host that a guest would see."""
    assert " ".join(words(os=os)) == found


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", "hostdev (pci)"),
        ("<filesystem type='mount'/>", "filesystem (mount)"),
        ("<shmem name='x'/>", "shmem"),
        ("<lease/>", "lease"),
        ("<disk type='block'><source dev='/dev/sdb'/><target dev='vdb'/></disk>",
         "disk vdb, /dev/sdb: not in the point"),
        ("<disk type='file'><source file='/etc/shadow'/><target dev='vdc'/></disk>",
         "disk vdc, /etc/shadow: not in the point"),
        ("<disk type='file'><target dev='vdd'/></disk>", "disk vdd: not in the point"),
        ("<disk type='file'/>", "disk : not in the point"),
        ("<disk type='network' device='cdrom'><source name='x'/><target dev='sda'/></disk>",
         "disk sda, x: not in the point"),
        ("<interface type='vhostuser'/>", "interface (vhostuser)"),
        ("<interface type='ethernet'><script path='/x'/></interface>", "interface/script (/x)"),
        ("<interface type='bridge'><downscript path='/x'/></interface>",
         "interface/downscript (/x)"),
        ("<interface type='user'><backend type='passt' logFile='/x'/></interface>",
         "interface/backend (type logFile)"),
        ("<serial type='file'><source path='/etc/passwd'/></serial>", "serial (file, /etc/passwd)"),
        ("<console type='tcp'/>", "console (tcp)"),
        ("<channel type='unix'><source mode='bind' path='/run/x'/></channel>",
         "channel (unix, /run/x)"),
        ("<parallel type='dev'/>", "parallel (dev)"),
        ("<serial type='pty'><log file='/x'/></serial>", "serial/log (/x)"),
        ("<redirdev bus='usb' type='tcp'/>", "redirdev (tcp)"),
        ("<smartcard mode='host'/>", "smartcard (None)"),
        ("<input type='evdev'/>", "input (evdev)"),
        ("<audio type='file'/>", "audio (file)"),
        ("<tpm><backend type='passthrough'/></tpm>", "tpm (passthrough)"),
        ("<tpm/>", "tpm ()"),
        ("<rng><backend model='egd'/></rng>", "rng (egd)"),
        ("<rng><backend model='random'>/etc/shadow</backend></rng>", "rng (random /etc/shadow)"),
        ("<memory model='nvdimm'><source><path>/n</path></source></memory>", "memory (nvdimm /n)"),
        ("<serial type='unix'><source mode='connect' path='/x/channel/target/y'/></serial>",
         "serial (unix, /x/channel/target/y)"),
        ("<interface type='direct'><source dev='eth0' mode='passthrough'/></interface>",
         "interface (direct, passthrough)"),
        ("<graphics type='sdl' xauth='/var/lib/x/.Xauthority'/>", "graphics (sdl)"),
        ("<graphics type='dbus' address='unix:path=/run/bus'/>",
         "graphics (socket unix:path=/run/bus)"),
        ("<graphics type='spice'><gl rendernode='/dev/dri/renderD128'/></graphics>",
         "graphics (gl /dev/dri/renderD128)"),
        ("<video><model><acceleration rendernode='/dev/dri/card0'/></model></video>",
         "video (acceleration /dev/dri/card0)"),
        ("<graphics type='vnc' socket='/s'/>", "graphics (socket /s)"),
        ("<graphics type='vnc'><listen type='socket' socket='/s'/></graphics>",
         "graphics (socket /s)"),
    ],
)  # fmt: skip
def test_devices_of_the_host(devices: str, found: str) -> None:
    """Devices, directories, files, sockets and programs."""
    assert words(devices=devices) == [found]


def test_what_libvirt_never_writes_twice_hides_nothing() -> None:
    """It looks into a second list of devices, and into a second description of the firmware."""
    root = ET.fromstring(
        "<domain><os/><os><kernel>/etc/shadow</kernel></os>"
        "<devices/><devices><hostdev/></devices></domain>"
    )
    parts = find_foreign(root, held=(), emulators=())
    assert [part.words for part in parts] == ["os, a second time", "devices, a second time"]
    for part in parts:
        part.parent.remove(part.node)
    assert [node.tag for node in root] == ["os", "devices"]
    assert root.find("os/kernel") is None


def test_another_emulator_is_foreign() -> None:
    """Only what the host has for emulators is run."""
    root = ET.fromstring("<domain><devices><emulator>/x/qemu</emulator></devices></domain>")
    [part] = find_foreign(root, held=(), emulators={EMULATOR})
    assert part.words == "emulator (/x/qemu), not of this host"
    assert part.node in list(part.parent)


@pytest.mark.parametrize(
    ("top", "devices", "found"),
    [
        ("", "<hostdev type='pci'/>", "hostdev (pci)"),
        ("", "<disk device='cdrom'><source file='/iso'/><target dev='sda'/></disk>",
         "disk sda, medium /iso"),
        ("", "<disk device='floppy'><source file='/f'/></disk>", "disk , medium /f"),
        ("", "<disk device='cdrom'><target dev='sda'/></disk>", ""),
        ("", "<disk device='cdrom'><source file='/i'/><target dev='vda'/></disk>", ""),
        ("<os><nvram>/n/web1_VARS.fd</nvram></os>", "", ""),
        ("<os><nvram>/n/web1_VARS.qcow2</nvram></os>", "", ""),
        ("<os><nvram/></os>", "", ""),
        ("<os><nvram>/n/web2_VARS.fd</nvram></os>", "", "os/nvram (/n/web2_VARS.fd)"),
        ("<os><nvram><source file='/etc/shadow'/></nvram></os>", "", "os/nvram (/etc/shadow)"),
        ("", "<tpm><backend type='emulator'><source path='/t'/></backend></tpm>",
         "tpm (state in /t)"),
    ],
)  # fmt: skip
def test_a_guest_that_goes_on_has_what_it_had(top: str, devices: str, found: str) -> None:
    """Media, variables and a TPM's state are at the places that the XML names."""
    root = ET.fromstring(f"<domain><name>web1</name>{top}<devices>{devices}</devices></domain>")
    nvrams = PurePosixPath("/n")
    parts = resumed_foreign(root, held={"vda"}, emulators=(), nvrams=nvrams)
    assert " ".join(parts) == found


def test_an_ordinary_domain_has_nothing_foreign() -> None:
    """What libvirt writes for a guest with the usual devices."""
    devices = """
        <disk type='file'><source file='/i/vda'/><target dev='vda'/></disk>
        <disk type='file' device='cdrom'><source file='/iso'/><target dev='sda'/></disk>
        <disk type='block' device='floppy'><source dev='/dev/fd0'/><target dev='fda'/></disk>
        <controller type='usb'/><interface type='network'><backend type='default'/></interface>
        <interface type='direct'><source dev='eth0' mode='bridge'/></interface>
        <serial type='pty'><source path='/dev/pts/3'/></serial><console type='pty'/><console/>
        <channel type='unix'>
          <source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-3-web1/agent'/>
        </channel>
        <channel type='spicevmc'/><input type='tablet'/><redirdev type='spicevmc'/>
        <smartcard mode='passthrough' type='spicevmc'/><audio type='spice'/><video/>
        <video><model/></video><sound/><watchdog/>
        <graphics type='spice'><listen type='address'/><gl enable='no'/></graphics>
        <tpm><backend type='emulator'/></tpm><memballoon/><memory model='dimm'/>
        <rng><backend model='random'>/dev/urandom</backend></rng><rng/>
        <rng><backend model='random'/></rng><rng><backend model='builtin'/></rng>
    """
    top = "<seclabel type='dynamic'/><seclabel/><sysinfo type='smbios'/>"
    os = "<loader>/usr/share/OVMF/OVMF_CODE.fd</loader><nvram>/v</nvram><boot dev='hd'/>"
    assert words(top, devices, os) == []
    assert find_foreign(ET.fromstring("<domain/>"), held=(), emulators=()) == ()
