"""Trains the genotypes of one search in several processes at once, to the same bits as in one.

`Pool` does the fits of `Journal.fit_all`. It saves each request in the store of the run and gives its key to a worker;
the worker writes the finished fit into the same store, from which the journal reads it, in the order of the requests.
So the number of workers and the order in which they finish change nothing, and a search that was killed goes on from
its folder. Only keys, errors and numbers travel, as lines of JSON.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self

from grownas.errors import TrainingError
from grownas.protocols import FitRequest
from grownas.runs import requests as saved
from grownas.runs.journal import BranchStore, Journal, Store
from grownas.training.loop import Fit

ATTEMPTS = 3  # of a trial whose worker dies or hangs
AHEAD = 4  # trials per worker that are trained, or in training, before an earlier one has ended
LOOK_EVERY_S = 0.2
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
            return self.journal.fit_request(request)
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
