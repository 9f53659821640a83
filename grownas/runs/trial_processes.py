"""Processes that train the trials of one search, on this machine (see `grownas.runs.trials`)."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from grownas.errors import RunError
from grownas.runs.launchers import LOG, cores, limited
from grownas.runs.trials import Answer

STARTS = 10  # of a worker's process in a row that ended before it was ready
COMMAND = (sys.executable, "-m", "grownas.runs.trial_worker")


class WorkerOptions(NamedTuple):
    """The options of a worker's process.

    Attributes:
        versions: of the packages of the run; a process with others is refused.
        threads: threads of the process.
        timeout_s: a trial that ends no epoch for so long is lost, and the process is killed.
    """

    versions: Mapping[str, str]
    threads: int
    timeout_s: float


class LocalWorkers:
    """Processes on this machine (see `grownas.runs.trials.Workers`)."""

    def __init__(self, folder: Path, count: int | None, options: WorkerOptions) -> None:
        """Set the limits; a process starts when it is needed.

        Args:
            folder: the run folder.
            count: number of processes; None: one per core.
            options: of the processes.
        """
        self.events: Events = queue.SimpleQueue()
        self.workers = [Worker(folder, self.events, options) for _ in range(count or cores())]

    @property
    def count(self) -> int:
        """Number of processes."""
        return len(self.workers)

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the processes."""
        for worker in self.workers:
            worker.end()

    def submit(self, name: str, order: str) -> None:
        """Give a trial to a free process, if there is one to a process that runs."""
        free = [worker for worker in self.workers if worker.name is None]
        min(free, key=lambda worker: worker.process is None).submit(name, order)

    def wait(self, seconds: float) -> list[Answer]:
        """Wait for the end of a trial; return what has ended."""
        answers = handle(self.events, seconds)
        return answers + [answer for worker in self.workers if (answer := worker.check()) is not None]

    def drop(self, names: Sequence[str]) -> None:
        """Kill the processes that train these trials; others start when they are needed."""
        for worker in self.workers:
            if worker.name in names:
                worker.end()


class Worker:
    """A process that trains trials of one run, one after the other. It is started again when it has ended.

    Attributes:
        name: name of the trial that it trains; None: it is free.
        process: the process; None: it is not started.
    """

    def __init__(self, folder: Path, events: Events, options: WorkerOptions, *, place: str = ".") -> None:
        """Set the limits.

        Args:
            folder: the run folder.
            events: receives the lines that the process writes.
            options: of the process.
            place: working directory of the process, if there is such a folder.
        """
        self.folder, self.events, self.place = folder, events, place
        self.versions, self.threads, self.timeout_s = options
        self.process: subprocess.Popen[bytes] | None = None
        self.name: str | None = None
        self.order, self.is_ready, self.starts, self.seen = "", False, 0, 0.0

    def submit(self, name: str, order: str) -> None:
        """Train a trial."""
        self.name, self.order, self.seen = name, order, time.monotonic()
        if self.process is None:
            self._start()
        elif self.is_ready:
            self._send()

    def take(self, process: subprocess.Popen[bytes], line: bytes) -> Answer | None:
        """Handle a line of the process, empty when it has ended; return an answer if the trial has ended.

        Raises:
            RunError: the process refuses the run, or it cannot be started.
        """
        if process is not self.process:  # one that was killed
            return None
        self.seen = time.monotonic()
        if not line:
            return self._ended(process.wait())
        message = json.loads(line)
        if "refused" in message:
            raise RunError(message["refused"])
        if "versions" in message:
            self._check(message["versions"], message["host"])
            self.is_ready, self.starts = True, 0
            if self.name is not None:
                self._send()
        elif "ended" in message:
            name, self.name = self.name, None
            return Answer(name or "", message["ended"])
        return None

    def check(self) -> Answer | None:
        """Kill the process if its trial hangs; return the answer."""
        if self.name is None or time.monotonic() - self.seen <= self.timeout_s:
            return None
        name = self.name
        self.end()
        return self._lost(name, f"was killed: it ended no epoch for worker_timeout={self.timeout_s:g} s")

    def end(self) -> None:
        """Kill the process."""
        process, self.process, self.name, self.is_ready = self.process, None, None, False
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _start(self) -> None:
        with (self.folder / LOG).open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, str(self.folder)],
                stdin=subprocess.PIPE,  # closed when this process ends, which ends the worker
                stdout=subprocess.PIPE,
                stderr=log,
                env=limited(self.threads),
                cwd=self.place if os.path.isdir(self.place) else None,
                start_new_session=True,  # Ctrl-C reaches this process only
            )
        self.is_ready, self.starts = False, self.starts + 1
        threading.Thread(target=_read, args=(self, self.process, self.events), daemon=True).start()

    def _send(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just ended, which the next event says
            os.write(self.process.stdin.fileno(), f"{self.order}\n".encode())

    def _ended(self, status: int) -> Answer | None:
        was_ready, name = self.is_ready, self.name
        self.end()
        if was_ready:
            return None if name is None else self._lost(name, f"ended with status {status}")
        if self.starts == STARTS:
            raise RunError(
                f"a worker ended with status {status} before it was ready, {STARTS} times in a row; "
                f"{self.folder / LOG} says why"
            )
        if name is not None:  # nothing of the trial was begun
            self.submit(name, self.order)
        return None

    def _lost(self, name: str, words: str) -> Answer:
        return Answer(name, lost=f"{words}; see {self.folder / LOG}")

    def _check(self, versions: Mapping[str, str], host: str) -> None:
        differ = [f"{name} {versions.get(name)}" for name in self.versions if versions.get(name) != self.versions[name]]
        if differ:
            ours = ", ".join(f"{name.split()[0]} {self.versions[name.split()[0]]}" for name in differ)
            raise RunError(f"the worker on {host} has {', '.join(differ)}, the search {ours}: install the same")


Events = queue.SimpleQueue[tuple[Worker, subprocess.Popen[bytes], bytes]]  # worker, its process, a line


def handle(events: Events, seconds: float) -> list[Answer]:
    """Wait for lines of workers, not longer than so many seconds; return the answers among them."""
    answers = list[Answer]()
    try:
        while True:
            worker, process, line = events.get(timeout=seconds)
            answer = worker.take(process, line)
            answers += [] if answer is None else [answer]
            seconds = 0.0  # take the further lines that are there
    except queue.Empty:
        return answers


def _read(worker: Worker, process: subprocess.Popen[bytes], events: Events) -> None:
    """Pass on all lines of a process, and an empty one at its end."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            events.put((worker, process, line))
    events.put((worker, process, b""))
