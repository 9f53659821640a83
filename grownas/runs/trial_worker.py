"""A process that trains trials of one search (see `grownas.runs.trials`).

    python -m grownas.runs.trial_worker FOLDER

It reads the config and the data of the run once. Then it reads orders from its standard input, one line of JSON each,
does the fit of the saved request that an order names, and writes a line of JSON after each epoch and at the end. The
finished fit is in the folder. The process ends when its standard input is closed.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from grownas.config import loading as configs
from grownas.errors import USER_ERROR, DataError, GrownasError, RunError, TrainingError
from grownas.experiments.search import tuned
from grownas.protocols import Problem
from grownas.runs import commands
from grownas.runs import requests as saved
from grownas.runs.journal import LOGS, FolderStore, Journal, Log, MemoryLog
from grownas.runs.progress import Progress
from grownas.runs.trials import REQUEST
from grownas.training.uncompiled import optimizers_uncompiled

Say = Callable[[Mapping[str, Any]], None]  # writes a line of JSON


class Nowhere:
    """A log that nobody reads: the search writes the logs."""

    size = 0

    def append(self, line: Mapping[str, Any]) -> None:
        """Forget a line."""

    def extend(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Forget lines."""

    def truncate(self, size: int = 0) -> None:
        """Do nothing."""


class SignsOfLife(Progress):
    """Writes a line of JSON for each progress that is reported."""

    def __init__(self, say: Say) -> None:
        """Take the function that writes a line."""
        super().__init__(quiet=True)
        self.say_line = say

    def show(self, title: str, words: str = "", *, done: float = 0, total: float | None = None) -> None:
        """Write what is done."""
        self.say_line({"alive": title})


class Trials:
    """The problem of a run's search, and the fits that are done for it."""

    def __init__(self, journal: Journal, metrics: MemoryLog, problem: Problem) -> None:
        """Take a journal on the store of the run, its log of metrics, and the problem."""
        self.journal, self.metrics, self.problem = journal, metrics, problem

    @classmethod
    def of(cls, folder: Path, say: Say) -> Trials:
        """Read the config and the data of a run, and what the run has chosen before its search.

        Raises:
            DataError: the data are not those of the run.
        """
        config = configs.load(folder / "config.yaml")
        torch.set_num_threads(config.threads)
        task = commands.load_task(config)
        if task.checksum != commands.kept_notes(folder)["data_checksum"]:
            raise DataError(f"the worker on {socket.gethostname()} reads other data than the search: {task.source}")
        metrics = MemoryLog()
        logs: dict[str, Log] = {**dict.fromkeys(LOGS, Nowhere()), "metrics": metrics}
        journal = Journal(
            FolderStore(folder / "checkpoint", config.fingerprint()),
            **logs,
            progress=SignsOfLife(say),
            every_s=config.checkpoint_seconds,
        )
        experiment = tuned(config, journal, task)
        return cls(journal, metrics, experiment.problem([experiment.space.ops] * config.start.nodes))

    def train(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        """Do the fit of an order; return `trials.Answer.error`: None if the fit is finished.

        Raises:
            RunError: the folder holds no such request.
        """
        journal, key = self.journal, order["key"]
        self.metrics.truncate()
        for name in order["branches"]:
            journal = journal.branch(name, logs=True)
        tree = journal.store.load(key + REQUEST)
        if tree is None:
            raise RunError(f"the worker on {socket.gethostname()} finds no request {key} in the run folder")
        with journal.of_model(order["model"]):
            (result,) = journal.fit_all([saved.from_tree(tree, self.problem)])
        if not isinstance(result, TrainingError):
            return None
        return {"message": str(result), **vars(result), "lines": list(self.metrics)}


def main(folder: Path) -> None:
    """Train what the orders ask for."""
    out, sys.stdout = sys.stdout, sys.stderr  # nothing else writes between the lines

    def say(line: Mapping[str, Any]) -> None:
        print(json.dumps(line), file=out, flush=True)

    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    try:
        with optimizers_uncompiled():
            trials = Trials.of(folder, say)
            say({"versions": commands.versions(), "host": socket.gethostname()})
            while True:
                order = json.loads(orders.get())
                try:
                    say({"ended": trials.train(order)})
                except Exception as error:
                    error.add_note(f"This error ended the training of {order['key']}.")  # in the traceback in log.txt
                    raise
    except GrownasError as error:
        say({"refused": str(error)})
        raise SystemExit(USER_ERROR) from error


def _listen(orders: queue.SimpleQueue[str]) -> None:
    """Pass on the orders; end the process when the one that gives them has ended."""
    for line in sys.stdin:
        orders.put(line)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
