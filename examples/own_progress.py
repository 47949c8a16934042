"""
Embed backups in a program with a progress display of its own: the run is in a thread.

::

    python examples/own_progress.py qemu:///system /backup web1

    worker thread                     your main loop, a GUI, a web server
    Executor.run(on_event=put)  -->   queue  -->  Progress.take(event)  -->  a line for each disk

Events are values and come from the threads of the run, several at a time: a queue is all that is
needed between them and you. Nothing is printed by the library. Ctrl-C here sets the cancel token,
and the run stops at a place where it may.

Exit status: 0 a point was made, 1 it was not, 2 for a wrong command line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty, SimpleQueue

import fibackup as fb

WIDTH = 24


@dataclass
class Bar:
    """What is known of one image that is being copied."""

    name: str
    total_bytes: int
    done_bytes: int = 0
    begun: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        """Draw it, with its rate and the time that is left."""
        part = min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes else 1.0
        filled = round(part * WIDTH)
        seconds = max(time.monotonic() - self.begun, 1e-6)
        rate = self.done_bytes / seconds
        left = (self.total_bytes - self.done_bytes) / rate if rate else 0.0
        bar = "#" * filled + "." * (WIDTH - filled)
        return (
            f"[{bar}] {part:4.0%}  {fb.format_bytes(int(rate))}/s  {left:3.0f} s left  {self.name}"
        )


class Progress:
    """The state of a run, built from its events."""

    def __init__(self) -> None:
        self.bars: dict[str, Bar] = {}

    def take(self, event: fb.Event) -> str | None:
        """Take an event in; return a line to show, if it is worth one."""
        match event:
            case fb.CopyProgress(target=target, name=name, done_bytes=done, total_bytes=total):
                bar = self.bars.setdefault(f"{target}/{name}", Bar(f"{target}/{name}", total))
                bar.done_bytes = done
                return str(bar)
            case fb.StepStarted(step=step):
                return str(step).splitlines()[0]
            case fb.Warned(text=text):
                return f"warning: {text}"
            case fb.ImageCopied() | fb.FileVerified() | fb.StepFinished():
                return None


def events_of(host: fb.Host, store: fb.PointStore, plan: fb.Plan) -> Iterator[fb.Event | fb.Report]:
    """Run a plan in a thread; yield its events as they come, and its report at last."""
    queue: SimpleQueue[fb.Event] = SimpleQueue()
    cancel = fb.CancelToken()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fb.Executor(host, store).run, plan, on_event=queue.put, cancel=cancel)
        try:
            while not (future.done() and queue.empty()):
                try:
                    yield queue.get(timeout=0.2)
                except Empty:
                    continue
        except KeyboardInterrupt:
            cancel.cancel()
        yield future.result()


def main(arguments: Sequence[str]) -> int:
    """Back up one domain; return the exit status."""
    if len(arguments) != 3:
        print("usage: own_progress.py URI STORE DOMAIN", file=sys.stderr)
        return 2
    uri, directory, name = arguments
    try:
        back_up(uri, directory, name)
    except fb.FibackupError as error:
        print(f"no point: {error}", file=sys.stderr)
        return 1
    return 0


def back_up(uri: str, directory: str, name: str) -> None:
    """Take a point, and show how far it is."""
    progress = Progress()
    with fb.LibvirtHost.open(uri) as host, fb.Store.open_or_create(directory) as store:
        domain = host.read_domain(name)
        plan = fb.plan_backup(domain, store.read_history(domain.uuid), now=datetime.now(UTC))
        for seen in events_of(host, store, plan):
            line = str(seen) if isinstance(seen, fb.Report) else progress.take(seen)
            if line is not None:
                print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
