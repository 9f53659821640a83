"""Workers on a dask cluster that train the genotypes of one search (see `grownas.runs.trials.Workers`).

A task of dask gives one trial to a process that its worker keeps, and waits: so the worker always answers its
scheduler, and the process reads config and data once. Requests and finished fits are files of the run folder, which all
machines must share; client and worker exchange strings and numbers only (see `grownas.runs.cluster` about safety).
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from grownas.errors import RunError
from grownas.runs.cluster import LOOK_EVERY_S, connect, sees_folder
from grownas.runs.rundir import LockedError, RunDir
from grownas.runs.trial_processes import Events, Worker, WorkerOptions, handle
from grownas.runs.trials import REQUEST, Answer

IDLE_S = 60.0  # a dask worker ends its process of a run after so long without a trial


class DaskWorkers:
    """The workers of a dask cluster (see `Workers`)."""

    def __init__(
        self,
        folder: Path,
        count: int | None,
        options: WorkerOptions,
        *,
        address: str,
        say: Callable[[str], None],
    ) -> None:
        """Set the limits; `with` connects.

        Args:
            folder: the run folder, which all machines share.
            count: number of trials at a time; None: one per thread of the cluster's workers.
            options: of the processes.
            address: of the scheduler.
            say: shows a line.
        """
        self.folder, self.most, self.address, self.say = folder.absolute(), count, address, say
        self.options = options
        self.config = (folder / "config.yaml").read_text("utf-8")
        self.client: Any = None
        self.running: dict[str, Any] = {}  # name of a trial -> its future
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()  # names

    def __enter__(self) -> Self:
        """Connect to the scheduler.

        Raises:
            ConfigError: dask.distributed is not installed, or no scheduler answers.
        """
        self.client = connect(self.address, self.say)
        return self

    def __exit__(self, *error: object) -> None:
        """Withdraw the trials and disconnect."""
        self.drop(list(self.running))
        self.client.close()

    @property
    def count(self) -> int:
        """Number of trials that can be trained at once."""
        return max(1, self.most or sum(self.client.nthreads().values()))

    def submit(self, name: str, order: str) -> None:
        """Give a trial to the cluster."""
        future = self.client.submit(
            train_there,
            name,
            order,
            str(self.folder),
            self.config,
            os.getcwd(),
            dict(self.options.versions),
            self.options.threads,
            self.options.timeout_s,
            key=f"{name}-{uuid.uuid4().hex}",  # never a result that dask remembers
            pure=False,
        )
        self.running[name] = future
        future.add_done_callback(lambda _: self.ended.put(name))

    def wait(self, seconds: float) -> list[Answer]:
        """Wait for the end of a trial; return what has ended.

        Raises:
            RunError: a worker refuses the run, or the scheduler is gone.
        """
        if self.client.status != "running":
            raise RunError(
                f"cluster={self.address}: the connection to the scheduler is lost; when it is back, `grownas resume "
                f"{self.folder}` goes on"
            )
        answers = list[Answer]()
        try:
            while True:
                future = self.running.get(self.ended.get(timeout=seconds))
                if future is not None and future.done():
                    answers.append(self._answer(future))
                seconds = 0.0  # take the further ones that are there
        except queue.Empty:
            return answers

    def drop(self, names: Sequence[str]) -> None:
        """End the training of these trials: a worker leaves a trial whose request is gone."""
        for name in names:
            (self.folder / "checkpoint" / f"{name}{REQUEST}").unlink(missing_ok=True)
            if (future := self.running.pop(name, None)) is not None:
                future.cancel()

    def _answer(self, future: Any) -> Answer:
        (name,) = [name for name, one in self.running.items() if one is future]
        del self.running[name]
        if future.status != "finished":  # a worker that died too often, or one that cannot import this module
            problem = future.exception() if future.status == "error" else future.status
            return Answer(name, lost=f"was lost by dask: {type(problem).__name__}: {problem}")
        found = json.loads(future.result())
        if "refused" in found:
            raise RunError(found["refused"])
        return Answer(name, found["error"], found["lost"])


_kept: dict[str, list[tuple[Worker, Events]]] = {}  # of this dask worker: run folder -> free processes
_lock = threading.Lock()


def train_there(
    name: str,
    order: str,
    folder: str,
    config: str,
    place: str,
    versions: dict[str, str],
    threads: int,
    timeout_s: float,
) -> str:
    """Train a trial in a process that this dask worker keeps.

    Args:
        name: name of the trial.
        order: the line for the process.
        folder: absolute path of the run folder.
        config: content of the folder's config.yaml, as the client reads it.
        place: the client's working directory, from which relative paths in the config count.
        versions: see `trial_processes.WorkerOptions`.
        threads: see `trial_processes.WorkerOptions`.
        timeout_s: see `trial_processes.WorkerOptions`.

    Returns:
        JSON: `{"error": .., "lost": ..}` as in `trials.Answer`, or `{"refused": why}`.
    """
    if (words := sees_folder(Path(folder), config)) is not None:
        return json.dumps({"refused": words})
    request = Path(folder, "checkpoint", f"{name}{REQUEST}")
    worker, events = _take(folder, place, WorkerOptions(versions, threads, timeout_s))
    lock = f"checkpoint/.{name}.lock"  # a worker that the scheduler has lost may still train the same trial
    try:
        with RunDir(Path(folder)).lock(name=lock, wait_s=timeout_s):
            answer = _attend(worker, events, name, order, request)
            Path(folder, lock).unlink(missing_ok=True)
    except LockedError as error:
        answer = Answer(name, lost=f"waited too long: {error}")
    except RunError as error:
        worker.end()
        return json.dumps({"refused": str(error)})
    except Exception as error:  # such as a process that this machine cannot start: another one may
        worker.end()
        answer = Answer(name, lost=f"raised {type(error).__name__}: {error}")
    with _lock:
        _kept.setdefault(folder, []).append((worker, events))
    timer = threading.Timer(IDLE_S, _end_idle, (folder, worker))
    timer.daemon = True
    timer.start()
    return json.dumps({"error": answer.error, "lost": answer.lost})


def _attend(worker: Worker, events: Events, name: str, order: str, request: Path) -> Answer:
    """Have a process train a trial, unless its request is withdrawn."""
    worker.submit(name, order)
    while True:
        answers = handle(events, LOOK_EVERY_S)
        answers += [answer for answer in [worker.check()] if answer is not None]
        if answers:
            return answers[0]
        if not request.exists():
            worker.end()
            return Answer(name, lost="was withdrawn")


def _take(folder: str, place: str, options: WorkerOptions) -> tuple[Worker, Events]:
    """Return a free process of the run; it starts with its first trial."""
    with _lock:
        if free := _kept.get(folder):
            return free.pop()
    events: Events = queue.SimpleQueue()
    return Worker(Path(folder), events, options, place=place), events


def _end_idle(folder: str, worker: Worker) -> None:
    """End a process if it had no trial for `IDLE_S`."""
    with _lock:
        free = _kept.get(folder, [])
        if any(one is worker for one, _ in free) and time.monotonic() - worker.seen >= IDLE_S:
            _kept[folder] = [pair for pair in free if pair[0] is not worker]
            worker.end()
