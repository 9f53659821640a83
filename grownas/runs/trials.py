"""Trains the genotypes of one search in several processes at once, to the same bits as in one.

`Pool` does the fits of `Journal.fit_all`. It saves each request in the store of the run and gives its key to a worker;
the worker writes the finished fit into the same store, from which the journal reads it, in the order of the requests.
So the number of workers and the order in which they finish change nothing, and a search that was killed goes on from
its folder. Only keys, errors and numbers travel, as lines of JSON.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from grownas.errors import RunError, TrainingError
from grownas.protocols import FitRequest
from grownas.runs import requests as saved
from grownas.runs.journal import BranchStore, Journal, Store
from grownas.runs.launchers import LOG, cores, limited
from grownas.training.loop import Fit

ATTEMPTS = 3  # of a trial whose worker dies or hangs
STARTS = 10  # of a worker's process in a row that ended before it was ready
AHEAD = 4  # trials per worker that are trained, or in training, before an earlier one has ended
LOOK_EVERY_S = 0.2
COMMAND = (sys.executable, "-m", "grownas.runs.trial_worker")
REQUEST = ".request"  # end of the name of a saved request; a worker leaves a trial without one


class Answer(NamedTuple):
    """The end of a trial at a worker.

    Attributes:
        name: name of the trial, as submitted.
        error: None if the trial is finished; otherwise the arguments of the TrainingError that ended it and, as
            `lines`, what its training logged.
        lost: why the worker lost it; empty if it did not.
    """

    name: str
    error: dict[str, Any] | None = None
    lost: str = ""


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


class Workers(Protocol):
    """Processes that train trials, each one after the other, in one place. It is a context manager."""

    @property
    def count(self) -> int:
        """Number of trials that can be trained at once."""
        ...

    def __enter__(self) -> Self:
        """Connect to the place."""
        ...

    def __exit__(self, *error: object) -> None:
        """End all processes."""
        ...

    def submit(self, name: str, order: str) -> None:
        """Give a trial to a free worker; `order` is the line for its process."""
        ...

    def wait(self, seconds: float) -> list[Answer]:
        """Wait for the end of a trial, not longer than so many seconds; return what has ended.

        Raises:
            RunError: the workers cannot train the trials of this run, or they are gone.
        """
        ...

    def drop(self, names: Sequence[str]) -> None:
        """End the training of these trials."""
        ...


class Pool:
    """Does the fits of a journal by workers."""

    def __init__(self, workers: Workers) -> None:
        """Take the workers, which are connected."""
        self.workers = workers

    def fit_all(self, journal: Journal, requests: Iterable[FitRequest]) -> Iterator[Fit | TrainingError]:
        """See `grownas.protocols.Journal.fit_all`.

        A trial whose worker dies or hangs is given to another one, `ATTEMPTS` times in all; then its result is a
        TrainingError.
        """
        batch, source = _Batch(journal, self.workers), iter(requests)
        try:
            while True:
                while batch.has_room and (request := next(source, None)) is not None:
                    batch.add(request)
                if not batch.asked:
                    return
                if batch.is_known:
                    yield batch.take()
                else:
                    batch.look()
        finally:
            batch.drop()


class _Batch:
    """The trials of one call of `Pool.fit_all`."""

    def __init__(self, journal: Journal, workers: Workers) -> None:
        self.journal, self.workers, self.branches = journal, workers, _branches(journal.store)
        self.asked = deque[FitRequest]()  # whose results are not taken yet, in order
        self.waiting, self.running = deque[str](), set[str]()  # keys
        self.known: dict[str, dict[str, Any] | None] = {}  # key -> the error that ended it, or None
        self.attempts = Counter[str]()

    @property
    def has_room(self) -> bool:
        """Whether another request should be read: a worker is free."""
        free = len(self.running) + len(self.waiting) < self.workers.count
        return free and len(self.asked) < AHEAD * self.workers.count

    @property
    def is_known(self) -> bool:
        """Whether the first of the requests has its result."""
        return self.asked[0].key in self.known

    def add(self, request: FitRequest) -> None:
        self.asked.append(request)
        if self.journal.store.load(f"{request.key}.done") is not None:
            self.known[request.key] = None
        else:
            self.journal.store.save(request.key + REQUEST, saved.to_tree(request))
            self.waiting.append(request.key)
            self._submit()

    def look(self) -> None:
        """Wait a moment for results."""
        key = self.asked[0].key
        self.journal.note(f"{key}: {len(self.running)} trials in training, {len(self.known)} finished ahead")
        for answer in self.workers.wait(LOOK_EVERY_S):
            self._note(answer)
        self._submit()

    def take(self) -> Fit | TrainingError:
        """Return the result of the first request."""
        request = self.asked.popleft()
        failed = self.known.pop(request.key)
        if failed is None:
            return self.journal.fit(
                request.key,
                request.model,
                request.task,
                request.recipe,
                seed=request.seed,
                after=request.after,
                extendable=request.extendable,
            )
        for line in failed.pop("lines", []):
            self.journal.metrics.append(line)
        error = TrainingError(**failed)
        self.journal.count_failed(error, after=request.after)
        return error

    def drop(self) -> None:
        """End the training of all trials whose results nobody takes."""
        for key in (*self.running, *self.waiting):
            self.journal.store.remove(key + REQUEST)
        self.workers.drop([self._name(key) for key in self.running])
        self.running.clear()

    def _name(self, key: str) -> str:
        return "-".join([*self.branches, key])

    def _submit(self) -> None:
        while self.waiting and len(self.running) < self.workers.count:
            key = self.waiting.popleft()
            self.running.add(key)
            order = {"key": key, "branches": self.branches, "model": self.journal.model_name}
            self.workers.submit(self._name(key), json.dumps(order))

    def _note(self, answer: Answer) -> None:
        key = next((one for one in self.running if self._name(one) == answer.name), None)
        if key is None:  # of a trial that was dropped
            return
        self.running.remove(key)
        if answer.lost:
            self.attempts[key] += 1
            if self.attempts[key] < ATTEMPTS:
                self.waiting.appendleft(key)
                return
            message = f"{key}: its worker failed {ATTEMPTS} times, the last time it {answer.lost}"
            answer = answer._replace(error={"message": message})
        self.known[key] = answer.error
        self.journal.store.remove(key + REQUEST)


def _branches(store: Store) -> list[str]:
    """Return the names of a store's branches, the outermost first."""
    return [*_branches(store.store), store.branch] if isinstance(store, BranchStore) else []


class LocalWorkers:
    """Processes on this machine (see `Workers`)."""

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
        return Answer(name, lost=f"was killed: it ended no epoch for worker_timeout={self.timeout_s:g} s")

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
            return None if name is None else Answer(name, lost=f"ended with status {status}")
        if self.starts == STARTS:
            raise RunError(
                f"a worker ended with status {status} before it was ready, {STARTS} times in a row; "
                f"{self.folder / LOG} says why"
            )
        if name is not None:  # nothing of the trial was begun
            self.submit(name, self.order)
        return None

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
