"""The two worlds of the contract: everything in memory, and QEMU with files in a directory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Protocol

import pytest

from fibackup.host.api import Host, PointStore
from fibackup.host.executor import Executor
from fibackup.model.point import History
from fibackup.parse.domain_xml import with_disk_sources
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.report import Report
from fibackup.plan.restore import ImageFormat, plan_restore
from fibackup.plan.steps import Plan
from fibackup.testing import FakeHost, FakeStore

CLUSTER = 65536
CLUSTERS = 8
Content = dict[int, int]


class World(Protocol):
    """A running domain with the disks vda and vdb, and a store without points."""

    @property
    def host(self) -> Host:
        """The hypervisor."""
        ...

    @property
    def store(self) -> PointStore:
        """The store."""
        ...

    @property
    def uuid(self) -> str:
        """The domain."""
        ...

    def write(self, target: str, cluster: int, value: int) -> None:
        """Let the guest fill a cluster with one byte."""
        ...

    def guest_content(self, target: str) -> Content:
        """Return the first byte of the first clusters as the guest reads them, zeros left out."""
        ...

    def restore_content(self, point: str, target: str) -> Content:
        """Return the same of a disk of a point, restored."""
        ...

    def restart(self) -> None:
        """Shut the domain off and start it again."""
        ...

    def shut_off(self) -> None:
        """Shut the domain off."""
        ...

    def start(self) -> None:
        """Start the domain."""
        ...

    def pause(self) -> None:
        """Pause the domain."""
        ...

    def clone(self, target: str, path: PurePosixPath) -> None:
        """Give a domain that is off, for a disk that it has, a new image that lies on *path*."""
        ...

    def touch(self, path: PurePosixPath) -> None:
        """Move the time of an image."""
        ...

    def damage(self, target: str, name: str = "") -> None:
        """Flip a bit in a stored image of a disk, the newest by default."""
        ...

    def lose(self, file: str) -> None:
        """Lose a file of the domain in the store, such as ``"vda/20261124T040407Z.qcow2"``."""
        ...

    def open_images(self, *files: str) -> AbstractContextManager[None]:
        """Have stored images open, as a domain on a linked disk has."""
        ...

    def prune_dies(self, *, listed: bool = True) -> AbstractContextManager[None]:
        """Let a prune die after its journal, its points *listed*; or before the first file goes."""
        ...


def _newest(history: History, target: str) -> str:
    return history.top(history.points[-1].id, target).name


class FakeWorld:
    """The world of `fibackup.testing`."""

    def __init__(self) -> None:
        """Add the domain."""
        self.host = FakeHost()
        self.store = FakeStore(self.host)
        self.uuid = self.host.add_domain("contract", {"vda": {}, "vdb": {}})

    def write(self, target: str, cluster: int, value: int) -> None:
        """Let the guest fill a cluster with one byte."""
        self.host.write(self.uuid, target, cluster, value)

    def guest_content(self, target: str) -> Content:
        """Return what the guest reads."""
        return self.host.guest_sees(self.uuid, target)

    def restore_content(self, point: str, target: str) -> Content:
        """Return what a restore writes."""
        into = PurePosixPath(f"/restored/{len(self.store.restored)}")
        history = self.store.read_history(self.uuid)
        plan = plan_restore(history, point, into=into, disks=(target,))
        Executor(None, self.store).run(plan)
        return self.store.restored[into / f"{target}.qcow2"]

    def restart(self) -> None:
        """Shut the domain off and start it again."""
        self.host.restart(self.uuid)

    def shut_off(self) -> None:
        """Shut the domain off."""
        self.host.shut_off(self.uuid)

    def start(self) -> None:
        """Start the domain."""
        self.host.start(self.uuid)

    def pause(self) -> None:
        """Pause the domain."""
        self.host.pause(self.uuid)

    def clone(self, target: str, path: PurePosixPath) -> None:
        """Attach it."""
        image = self.host.add_image(path.with_name("clone.qcow2"), backing=path)
        self.host.attach_disk(self.uuid, target, path=image)

    def touch(self, path: PurePosixPath) -> None:
        """Move the time of an image."""
        self.host.touch(path)

    def damage(self, target: str, name: str = "") -> None:
        """Flip a bit in the newest stored image of a disk."""
        name = name or _newest(self.store.read_history(self.uuid), target)
        self.store.damage(self.uuid, target, name)

    def lose(self, file: str) -> None:
        """Lose an image or a manifest."""
        target, _, name = file.rpartition("/")
        if target:
            self.store.lose(self.uuid, target, name)
        else:
            self.store.lose_manifest(self.uuid, name.removesuffix(".json"))

    @contextmanager
    def open_images(self, *files: str) -> Iterator[None]:
        """Say so."""
        self.store.open_images(self.uuid, *files)
        yield
        self.store.open_images(self.uuid)

    def prune_dies(self, *, listed: bool = True) -> AbstractContextManager[None]:
        """Let it die at a call of its own."""
        return _dies(self.store, "_unpublish" if listed else "_delete")


def _read(path: Path) -> Content:
    with path.open("rb") as file:
        found = {}
        for number in range(CLUSTERS):
            file.seek(number * CLUSTER)
            found[number] = (file.read(1) or b"\0")[0]
    return {number: value for number, value in found.items() if value}


class RealWorld:
    """QEMU, libvirt, and a store in a directory."""

    def __init__(self, daemon: object, directory: Path) -> None:
        """Create and start the domain, and make the store."""
        from fibackup.host.libvirt_host import LibvirtHost
        from fibackup.host.store import Store
        from hypervisor import BlockDomain, DiskSpec, PrivateDaemon

        assert isinstance(daemon, PrivateDaemon)
        self._directory = directory
        self.domain = BlockDomain.create(
            daemon, DiskSpec(target="vda"), DiskSpec(target="vdb"), prefix="contract"
        )
        (directory / "store").mkdir()
        self.host = LibvirtHost(daemon.connection)
        self.store = Store.create(directory / "store")
        self.uuid = self.domain.uuid
        self._count = 0

    def close(self) -> None:
        """Leave nothing behind."""
        self.domain.close()
        self.store.close()

    def _new(self) -> str:
        self._count += 1
        return f"n{self._count}"

    def write(self, target: str, cluster: int, value: int) -> None:
        """Let the guest fill a cluster with one byte."""
        self.domain.write(target, cluster * CLUSTER, CLUSTER, value)

    def guest_content(self, target: str) -> Content:
        """Return what the guest reads."""
        return _read(self.domain.reference(target, self._new()))

    def restore_content(self, point: str, target: str) -> Content:
        """Return what a restore writes."""
        into = self._directory / self._new()
        into.mkdir()
        plan = plan_restore(
            self.store.read_history(self.uuid),
            point,
            into=PurePosixPath(into),
            disks=(target,),
            image_format=ImageFormat.RAW,
        )
        Executor(None, self.store).run(plan)
        return _read(into / f"{target}.raw")

    def restart(self) -> None:
        """Shut the domain off and start it again."""
        self.shut_off()
        self.start()

    def shut_off(self) -> None:
        """Shut the domain off."""
        self.domain.destroy()

    def start(self) -> None:
        """Start the domain; it runs, and does nothing by itself."""
        self.domain.start(paused=False)

    def pause(self) -> None:
        """Pause the domain."""
        self.domain.dom.suspend()

    def clone(self, target: str, path: PurePosixPath) -> None:
        """Define the domain anew; what lies under the image, its header alone says."""
        image = path.with_name("clone.qcow2")
        words = ["-f", "qcow2", "-F", "qcow2", "-b", str(path), str(image)]
        subprocess.run(["qemu-img", "create", "-q", *words], check=True)
        xml = self.host.domain_config(self.uuid, secrets=True)
        define = self.domain.dom.connect().defineXML
        define(with_disk_sources(xml, {target: (image, "qcow2")}))

    def touch(self, path: PurePosixPath) -> None:
        """Move the time of an image."""
        Path(path).touch()

    def damage(self, target: str, name: str = "") -> None:
        """Flip a bit in a stored image of a disk, the newest by default."""
        name = name or _newest(self.store.read_history(self.uuid), target)
        [image] = Path(self.store.path).glob(f"*/{target}/{name}")
        data = bytearray(image.read_bytes())
        data[-1] ^= 1
        image.write_bytes(data)

    def lose(self, file: str) -> None:
        """Remove it."""
        [path] = Path(self.store.path).glob(f"*/{file}")
        path.unlink()

    @contextmanager
    def open_images(self, *files: str) -> Iterator[None]:
        """Hold the locks that QEMU holds."""
        from fibackup.host.lock import hold_image_lock

        with ExitStack() as held:
            for file in files:
                [path] = Path(self.store.path).glob(f"*/{file}")
                hold_image_lock(held.enter_context(path.open("rb")).fileno(), file)
            yield

    def prune_dies(self, *, listed: bool = True) -> AbstractContextManager[None]:
        """Let it die in the midst."""
        from fibackup.host import prune

        return _dies(prune, "_unpublish" if listed else "_delete")


@contextmanager
def _dies(where: object, name: str) -> Iterator[None]:
    """Let what is done inside die when it calls a function."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, die)
        with pytest.raises(KeyboardInterrupt):
            yield


class Points:
    """Takes points of a world, as a caller would."""

    def __init__(self, world: World) -> None:
        """Take none yet."""
        self._world = world
        self.clock_is_back = timedelta()

    def plan(
        self, *, content_hash: bool = False, full: bool = False, disks: tuple[str, ...] = ()
    ) -> Plan:
        """Plan the next point, of some disks or of all."""
        world = self._world
        history = world.store.read_history(world.uuid)
        domain = world.host.read_domain(world.uuid)
        policy = BackupPolicy(allow_paused=True, content_hash=content_hash, full=full, disks=disks)
        now = datetime.now(UTC) - self.clock_is_back
        return plan_backup(domain, history, now=now, policy=policy)

    def take(self) -> Report:
        """Plan and run."""
        return Executor(self._world.host, self._world.store).run(self.plan())


@pytest.fixture(scope="session")
def contract_daemon() -> Iterator[object]:
    """Give a libvirtd of this suite's own; the embedded driver is one to a process."""
    from hypervisor import PrivateDaemon

    with PrivateDaemon() as daemon:
        yield daemon


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.libvirt)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Give each of the worlds."""
    if request.param == "fake":
        yield FakeWorld()
        return
    real = RealWorld(request.getfixturevalue("contract_daemon"), tmp_path)
    yield real
    real.close()


@pytest.fixture
def points(world: World) -> Points:
    """Give something that takes points."""
    return Points(world)
