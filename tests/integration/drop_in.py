"""fi-backup as a user runs it, with an oracle: what each disk held at each point."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import fibackup as fb
from hypervisor import MIB, BlockDomain, PrivateDaemon, differences
from integration.forks import SOURCES, Ended, Forks

PROGRAM = "import sys; from fibackup.cli.fi_backup import main; sys.exit(main())"


@dataclass
class DropIn:
    """A daemon, a store, and what was restored."""

    daemon: PrivateDaemon
    place: Path
    forks: Forks
    seen: dict[tuple[str, str], dict[str, Path]] = field(default_factory=dict)
    count: int = 0
    restored: int = 0

    @property
    def store(self) -> Path:
        """The store of the backups; made when it is first asked for."""
        path = self.place / "backup  dir"
        path.mkdir(exist_ok=True)
        return path

    def run(
        self,
        *words: str | Path,
        code: int | None = 0,
        wrapper: Sequence[str] = (),
        program: str = PROGRAM,
        **variables: str,
    ) -> Ended:
        """Run fi-backup; check its exit code, and that it shows no traceback."""
        arguments = list(map(str, words))
        env = {"LIBVIRT_DEFAULT_URI": self.daemon.uri, **variables}
        done: subprocess.CompletedProcess[str] | Ended
        if wrapper or variables or program != PROGRAM:
            done = subprocess.run(
                [*wrapper, sys.executable, "-c", program, *arguments],
                check=False,
                capture_output=True,
                text=True,
                cwd=self.place,
                env={
                    **os.environ,
                    "PYTHONPATH": str(SOURCES),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    **env,
                },
                timeout=120,
            )
        else:
            done = self.forks.run("fi-backup", *arguments, cwd=self.place, env=env)
        ended = Ended(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in ended.stderr, ended.stderr
        assert "[ERR]" not in ended.stdout
        assert code is None or ended.returncode == code, ended
        return ended

    def write(self, *domains: BlockDomain) -> None:
        """Write as the guests do, every time something else and somewhere else."""
        self.count += 1
        for domain in domains:
            for number, target in enumerate(domain.disks):
                offset = (self.count * 3 + number) % 20 * MIB
                domain.write(target, offset, 2 * MIB, 1 + (self.count * 7 + number) % 250)

    def points(self, domain: BlockDomain) -> tuple[fb.RestorePoint, ...]:
        """Return the points of a domain, oldest first."""
        if not (self.store / "fibackup-store.json").exists():
            return ()
        with fb.Store.open(self.store) as opened:
            return opened.read_history(domain.uuid).points

    def keep(self, *domains: BlockDomain) -> None:
        """Keep what each domain's disks hold, as the content of its newest point."""
        for domain in domains:
            self.seen[domain.uuid, self.points(domain)[-1].id] = {
                target: domain.reference(target, f"p{len(self.seen)}") for target in domain.disks
            }

    def backup(self, *domains: BlockDomain, options: Sequence[str | Path] = ()) -> None:
        """Write, back up, keep what each disk had."""
        self.write(*domains)
        self.run(*options, "-b", self.store, *(domain.name for domain in domains))
        self.keep(*domains)

    def restores(self) -> None:
        """Restore every point; compare each disk with what the guest had."""
        assert self.seen
        for (uuid, point), references in self.seen.items():
            self.restored += 1
            into = self.place / f"restored-{self.restored}"
            with fb.Store.open(self.store) as opened:
                history = opened.read_history(uuid)
                plan = fb.plan_restore(history, point, into=PurePosixPath(into))
                fb.Executor(None, opened).run(plan)
            for target, reference in references.items():
                assert differences(into / f"{target}.qcow2", "qcow2", reference) == "", point

    def chain(self, domain: BlockDomain, target: str = "vda") -> list[Path]:
        """Return the live chain of a disk, active layer first."""
        with fb.LibvirtHost.open(self.daemon.uri) as host:
            chain = host.read_domain(domain.uuid).disk(target).chain
        assert chain is not None
        return [Path(path) for path in chain.paths]
