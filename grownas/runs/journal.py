"""The journal of a run: it saves the results of long work, so that resuming a run means running it again.

A run is a deterministic program with a few long steps: fits and selections. Each of these goes through the journal
under a key. The journal loads finished work, continues an interrupted fit from its last snapshot, and lets the program
repeat everything else. So a resumed run takes the same path as an uninterrupted run, and no second code path can
differ. The logs are rewritten from the saved results.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import torch

from grownas.errors import Interrupted, TrainingError
from grownas.evaluation.models import SEARCH
from grownas.protocols import Evaluation, FitRequest, Model, Task
from grownas.runs import checkpoint
from grownas.runs.progress import Progress
from grownas.runs.rundir import RunDir, writing
from grownas.training.loop import Fit, Tree, finish_blend, fit
from grownas.training.recipe import Recipe, make_optimizers

LOGS = ("metrics", "growth", "shares", "trials")  # names of a run's logs, NAME.jsonl in its folder


class Log(Protocol):
    """A log of lines: a file in a run folder (`rundir.JsonLines`), or a list in memory."""

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        ...

    def extend(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines."""
        ...

    @property
    def size(self) -> int:
        """How long the log is, in a unit of its own."""
        ...

    def truncate(self, size: int = 0) -> None:
        """Cut the log to a size that it had."""
        ...


class MemoryLog(list[Mapping[str, Any]]):
    """A log in memory."""

    @property
    def size(self) -> int:
        """Number of lines."""
        return len(self)

    def truncate(self, size: int = 0) -> None:
        """Cut the log to a number of lines."""
        del self[size:]


class Store(Protocol):
    """Stores trees of tensors, arrays and plain values by name."""

    def load(self, name: str) -> Tree | None:
        """Return the tree of this name; None if there is none."""
        ...

    def save(self, name: str, tree: Tree) -> None:
        """Store a tree."""
        ...

    def remove(self, name: str) -> None:
        """Delete the tree of this name, if there is one."""
        ...

    def clear(self, beginning: str) -> None:
        """Delete all trees whose names begin so."""
        ...


class Pool(Protocol):
    """Does fits for a journal, several at once (see `grownas.runs.trials.Pool`)."""

    def fit_all(self, journal: Journal, requests: Iterable[FitRequest]) -> Iterator[Fit | TrainingError]:
        """Do the fits; see `grownas.protocols.Journal.fit_all`."""
        ...


class FolderStore:
    """Stores trees in a folder, `checkpoint/` of a run; it does not load trees of another config.

    Raises:
        RunError: the folder or a file cannot be written.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        """Create the folder; `identity` is the fingerprint of the config."""
        with writing(folder):
            folder.mkdir(exist_ok=True)
        self.folder, self.identity = folder, identity

    def load(self, name: str) -> Tree | None:
        """Return the tree of this name; None if there is none."""
        return checkpoint.load(self.folder / name, self.identity)

    def save(self, name: str, tree: Tree) -> None:
        """Store a tree."""
        with writing(self.folder / name):
            checkpoint.save(self.folder / name, tree, self.identity)

    def remove(self, name: str) -> None:
        """Delete the tree of this name."""
        checkpoint.remove(self.folder / name)

    def clear(self, beginning: str) -> None:
        """Delete all trees whose names begin so."""
        for path in self.folder.iterdir():
            if path.name.startswith(beginning):
                path.unlink()


class MemoryStore:
    """Stores copies of trees in memory, so that further training of a model does not change its stored tree."""

    def __init__(self) -> None:
        """Create an empty store."""
        self.trees: dict[str, Tree] = {}

    def load(self, name: str) -> Tree | None:
        """Return the tree of this name; None if there is none."""
        return copy.deepcopy(self.trees.get(name))

    def save(self, name: str, tree: Tree) -> None:
        """Store a tree."""
        self.trees[name] = copy.deepcopy(tree)

    def remove(self, name: str) -> None:
        """Delete the tree of this name."""
        self.trees.pop(name, None)

    def clear(self, beginning: str) -> None:
        """Delete all trees whose names begin so."""
        self.trees = {name: tree for name, tree in self.trees.items() if not name.startswith(beginning)}


class BranchStore:
    """A part of another store; its names start with the name of the branch."""

    def __init__(self, store: Store, branch: str) -> None:
        """Create a branch of a store."""
        self.store, self.branch = store, branch

    def load(self, name: str) -> Tree | None:
        """Return a tree; None if there is none of this name."""
        return self.store.load(f"{self.branch}-{name}")

    def save(self, name: str, tree: Tree) -> None:
        """Store a tree."""
        self.store.save(f"{self.branch}-{name}", tree)

    def remove(self, name: str) -> None:
        """Delete a tree."""
        self.store.remove(f"{self.branch}-{name}")

    def clear(self, beginning: str) -> None:
        """Delete all trees whose names begin so."""
        self.store.clear(f"{self.branch}-{beginning}")


class Journal:
    """Runs and saves the long work of one run; see the module and `grownas.protocols.Journal`."""

    def __init__(
        self,
        store: Store,
        *,
        metrics: Log,
        growth: Log,
        shares: Log,
        trials: Log,
        progress: Progress,
        every_s: float = 30.0,
    ) -> None:
        """Open the journal and empty the logs; the run writes them again.

        Args:
            store: stores finished work and snapshots of unfinished fits.
            metrics: log of evaluations.
            growth: log of morphisms.
            shares: log of the mixture weights in each epoch of a supernet's fit, written when the fit is finished.
            trials: log of the genotypes that were trained on their own.
            progress: shows the progress.
            every_s: seconds between snapshots of a fit.
        """
        self.store = store
        self.metrics, self.growth, self.shares, self.trials = metrics, growth, shares, trials
        self.progress, self.every_s = progress, every_s
        self.elapsed = 0.0  # wall time of all fits and remembered work so far, seconds
        self.cpu_seconds = 0.0  # processor time of the same work, seconds
        self.gradients = 0  # forward and backward passes on a window in the same work
        self.interrupted = False
        self.pool: Pool | None = None  # does the fits of `fit_all`; None: this process does
        self.root: Journal | None = None  # for a branch: the journal of the run, which receives interrupts
        self.model_name = SEARCH
        self._counted: set[str] = set()  # keys of remembered work already included in `elapsed`
        for log in (metrics, growth, shares, trials):
            log.truncate()

    @classmethod
    def in_folder(cls, rundir: RunDir, identity: str, *, progress: Progress, every_s: float = 30.0) -> Journal:
        """Open the journal of a run folder; an interrupted run continues from it.

        Args:
            rundir: the run folder.
            identity: fingerprint of the config; saved work of another config is not loaded.
            progress: shows the progress.
            every_s: seconds between snapshots of a fit.
        """
        store = FolderStore(rundir.path / "checkpoint", identity)
        logs = {name: rundir.log(f"{name}.jsonl") for name in LOGS}
        return cls(store, **logs, progress=progress, every_s=every_s)

    @classmethod
    def in_memory(cls, progress: Progress | None = None, **given: Log) -> Journal:
        """Open a journal in memory, which writes nothing to disk.

        Args:
            progress: shows the progress; quiet by default.
            given: logs by name, to be read later; the others are the journal's own.
        """
        progress = Progress(quiet=True) if progress is None else progress
        logs = {name: given.get(name, MemoryLog()) for name in LOGS}
        return cls(MemoryStore(), **logs, progress=progress, every_s=math.inf)

    @contextmanager
    def of_model(self, name: str) -> Iterator[None]:
        """Log the fits in the block with this name of a model, as used in tables."""
        before, self.model_name = self.model_name, name
        try:
            yield
        finally:
            self.model_name = before

    def branch(self, name: str, *, logs: bool) -> Journal:
        """Return a journal with its own keys for a part of the run, such as one of several searches.

        Its `elapsed`, `cpu_seconds` and `gradients` start at 0; the caller adds them to those of this journal.

        Args:
            name: name of the branch; a branch with the same name restores the same finished work.
            logs: write to the logs of this journal; if False, the branch writes no logs.
        """
        made = copy.copy(self)
        made.store, made.root = BranchStore(self.store, name), self.root or self
        if not logs:
            made.metrics, made.growth, made.shares, made.trials = (MemoryLog() for _ in LOGS)
        made.elapsed, made.cpu_seconds, made.gradients, made._counted = 0.0, 0.0, 0, set()
        return made

    def mark(self) -> tuple[int, ...]:
        """Return the present sizes of the logs, for `rewind`."""
        return tuple(log.size for log in self._logs)

    def rewind(self, mark: Sequence[int]) -> None:
        """Take back what was logged since `mark` was called; saved work stays."""
        for log, size in zip(self._logs, mark, strict=True):
            log.truncate(size)

    @property
    def _logs(self) -> tuple[Log, ...]:
        return self.metrics, self.growth, self.shares, self.trials

    def remember(self, key: str, work: Callable[[], Tree]) -> Tree:
        """Run some work, or return its saved result, with the `seconds` and `cpu_seconds` that the work took.

        Each key is counted once. Work that computes gradients returns their number as `gradients`.
        """
        self._stop_if_asked()
        done = self.store.load(f"{key}.done")
        if done is None:
            began, cpu_began = time.perf_counter(), time.process_time()
            tree = work()
            seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
            done = {"seconds": seconds, "cpu_seconds": cpu_seconds, **tree}
            self.store.save(f"{key}.done", done)
        if key not in self._counted:
            self.elapsed += done["seconds"]
            self.cpu_seconds += done["cpu_seconds"]
            self.gradients += done.get("gradients", 0)
            self._counted.add(key)
        return done

    def forget(self) -> None:
        """Delete all saved work of a branch, once what is needed of it is saved elsewhere."""
        assert self.root is not None, "only a branch can forget its work"
        self.store.clear("")

    def fit(
        self,
        key: str,
        model: Model,
        task: Task,
        recipe: Recipe,
        *,
        seed: int,
        optimizers: list[torch.optim.Optimizer] | None = None,
        stage: int = 0,
        after: str | None = None,
        extendable: bool = False,
    ) -> Fit:
        """Train as `training.loop.fit` does, or continue an interrupted fit, or return the finished fit.

        Args:
            key: name of the fit.
            model: see `training.loop.fit`.
            task: see `training.loop.fit`.
            recipe: see `training.loop.fit`.
            seed: see `training.loop.fit`.
            optimizers: see `training.loop.fit`.
            stage: number of the growth stage; 0 if the fit is not a stage.
            after: key of an extendable fit that differs only in having fewer epochs: this fit continues from its end.
                Result and log are those of one long fit; `elapsed` counts the shared epochs once.
            extendable: save the end of this fit, so that a longer fit can continue from it.
        """
        return self._fit(key, model, task, recipe, seed, optimizers, stage, after, extendable, repeats_log=True)

    def fit_all(self, requests: Iterable[FitRequest]) -> Iterator[Fit | TrainingError]:
        """Do fits that do not depend on each other; yield each fit, or the error that ended it, in order.

        The `pool` does several at once; without one they are done one after the other, each when it is asked for.
        """
        if self.pool is not None:
            yield from self.pool.fit_all(self, requests)
            return
        for request in requests:
            try:
                fit = self.fit_request(request)
            except TrainingError as error:
                yield error
            else:
                yield fit

    def fit_request(self, request: FitRequest) -> Fit:
        """Do the fit that a request describes; see `fit`."""
        arguments = {one.name: getattr(request, one.name) for one in fields(request)}
        return self.fit(**arguments)

    def fit_in_pieces(
        self,
        key: str,
        model: Any,
        task: Task,
        recipe: Recipe,
        *,
        seed: int,
        every: int,
        optimizers: list[torch.optim.Optimizer] | None = None,
    ) -> Iterator[Fit]:
        """Train as `fit` does, `every` epochs at a time; yield the fit so far after each piece.

        The last fit equals the result of `fit`. The caller may stop between pieces and continue later with the same
        call.
        """
        before: str | None = None
        for epochs in itertools.chain(range(every, recipe.epochs, every), [recipe.epochs]):
            piece, part = f"{key}-epoch-{epochs}", recipe.first(epochs)
            done = self._fit(piece, model, task, part, seed, optimizers, 0, before, True, repeats_log=False)
            if before is not None:
                self._drop_end(before)
            before = piece
            yield done
            if done.is_over(recipe):
                return

    def _drop_end(self, key: str) -> None:
        """Remove the trainer state that a fit kept for a longer fit, once the longer fit is finished."""
        done = self.store.load(f"{key}.done")
        if done is not None and done["end"] is not None:
            self.store.save(f"{key}.done", {**done, "end": None})

    def _fit(
        self,
        key: str,
        model: Any,
        task: Task,
        recipe: Recipe,
        seed: int,
        optimizers: list[torch.optim.Optimizer] | None,
        stage: int,
        after: str | None,
        extendable: bool,
        *,
        repeats_log: bool,
    ) -> Fit:
        """See `fit`. If `repeats_log`, the log also repeats the lines of the shorter fit, as for a single long fit."""
        self._stop_if_asked()
        shorter = None if after is None else self.store.load(f"{after}.done")
        counted = _costs(shorter)
        done = self.store.load(f"{key}.done")
        if done is None:
            part = self.store.load(f"{key}.part")
            if after is not None and part is None:
                assert shorter is not None, f"{key} continues {after}, which was not trained yet"
                assert shorter["end"] is not None, f"{key} continues {after}, which is not extendable"
                lines = [{**line, "stage": stage, "part": key} for line in shorter["lines"] if repeats_log]
                part = {"trainer": shorter["end"], "lines": lines}
            place = {"stage": stage, "part": key, "model": self.model_name}
            watcher = _Watcher(self, place, part, model=model, epochs=recipe.epochs)
            try:
                finished = fit(
                    model,
                    task,
                    recipe,
                    seed=seed,
                    optimizers=optimizers,
                    monitor=watcher,
                    resume=part["trainer"] if part else None,
                    extendable=extendable,
                )
            except TrainingError as error:
                kept = "" if self.store.load(f"{key}.part") is None else f"; the last good state is saved as {key}.part"
                self._count(error, counted)
                spent = error.seconds, error.steps, error.cpu_seconds, error.gradients
                raise TrainingError(f"{key} (stage {stage}), {error}{kept}", *spent) from error
            done = _to_tree(finished, watcher.lines)
            self.store.save(f"{key}.done", done)
        else:
            self.metrics.extend(done["lines"])
            finished = _from_tree(done, model, recipe, optimizers)
        self.store.remove(f"{key}.part")  # a killed process may leave it beside the finished fit
        logged = shorter["epochs"] + 1 if shorter and not repeats_log else 0
        self.shares.extend({"stage": stage, "part": key, **line} for line in _share_lines(finished, logged))
        self._count(finished, counted)
        return finished

    def count_failed(self, error: TrainingError, *, after: str | None) -> None:
        """Count what was spent elsewhere on a fit that failed; `after`: see `fit`."""
        self._count(error, _costs(None if after is None else self.store.load(f"{after}.done")))

    def _count(self, spent: Fit | TrainingError, counted: Mapping[str, float]) -> None:
        """Add what was spent on a fit, without what is already counted for the shorter fit that it continues."""
        self.elapsed += spent.seconds - counted["seconds"]
        self.cpu_seconds += spent.cpu_seconds - counted["cpu_seconds"]
        self.gradients += spent.gradients - int(counted["gradients"])

    def note(self, words: str) -> None:
        """Show a progress line `title: words`; stop here if the user has interrupted the run."""
        self._stop_if_asked()
        title, _, rest = words.partition(": ")
        self.progress.show(title, rest)

    def log_morphism(self, line: Mapping[str, Any]) -> None:
        """Add a line to the growth log."""
        self.growth.append(line)

    def log_trial(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log of trials."""
        self.trials.append(line)

    def interrupt(self) -> None:
        """Make the run stop after its current step."""
        self.interrupted = True

    @property
    def is_interrupted(self) -> bool:
        """Whether the user has interrupted the run."""
        return (self.root or self).interrupted

    def _stop_if_asked(self) -> None:
        if self.is_interrupted:
            raise Interrupted


class _Watcher:
    """Logs, shows and saves the progress of one fit for the journal."""

    def __init__(
        self, journal: Journal, place: Mapping[str, Any], part: Tree | None, *, model: Model, epochs: int
    ) -> None:
        self.journal, self.place, self.epochs = journal, place, epochs
        self.key, self.stage = place["part"], place["stage"]
        self.nodes = len(model.core.nodes) if hasattr(model.core, "nodes") else None
        self.lines: list[dict[str, Any]] = list(part["lines"]) if part else []
        self.best, self.speed = float("inf"), ""
        journal.metrics.extend(self.lines)
        for line in self.lines:
            self._note_best(line)
        self.saved = time.monotonic()

    def record(self, line: Mapping[str, Any]) -> None:
        """Log one evaluation and show it."""
        full = {**self.place, **line}
        self.lines.append(full)
        self.journal.metrics.append(full)
        if line["metric"].endswith("_per_s"):
            self.speed = f"{line['value']:,.0f} {line['metric'].removesuffix('_per_s')}/s"
        if self._note_best(line):
            epoch = line["epoch"]
            self.journal.progress.update(
                part=self.key,
                stage=self.stage,
                nodes=self.nodes,
                epoch=epoch,
                epochs=self.epochs,
                best=line["value"] if math.isinf(self.best) else self.best,
                speed=self.speed,
                left_s=line["wall_s"] / epoch * (self.epochs - epoch) if epoch else None,
            )

    def after_step(self, snapshot: Callable[[], Tree]) -> None:
        """Save a snapshot every `every_s` seconds, and when the user has interrupted the run."""
        if time.monotonic() - self.saved > self.journal.every_s or self.journal.is_interrupted:
            self._save(snapshot())
        self.journal._stop_if_asked()

    def failed(self, snapshot: Callable[[], Tree]) -> None:
        """Save the last good state."""
        self._save(snapshot())

    def _save(self, trainer: Tree) -> None:
        self.journal.store.save(f"{self.key}.part", {"trainer": trainer, "lines": self.lines})
        self.saved = time.monotonic()

    def _note_best(self, line: Mapping[str, Any]) -> bool:
        """Return whether a line holds the validation metric; keep the lowest value of epochs without blending."""
        if line["split"] != "val" or line["metric"] == "loss":
            return False
        if "blend" not in line:
            self.best = min(self.best, line["value"])
        return True


def _costs(done: Tree | None) -> dict[str, float]:
    """Return what a finished fit took; zeros for None."""
    return {name: done[name] if done else 0 for name in ("seconds", "cpu_seconds", "gradients")}


def _to_tree(done: Fit, lines: list[dict[str, Any]]) -> Tree:
    return {
        **{one.name: getattr(done, one.name) for one in fields(Fit)},
        "model": dict(done.model.state_dict()),
        "optimizers": [o.state_dict() for o in done.optimizers],
        "evaluation": done.evaluation._asdict(),
        "lines": lines,
    }


def _from_tree(tree: Tree, model: Model, recipe: Recipe, optimizers: list[torch.optim.Optimizer] | None) -> Fit:
    model, optimizers = copy.deepcopy((model, optimizers or make_optimizers(model, recipe)))
    finish_blend(model).load_state_dict(tree["model"])
    for optimizer, state in zip(optimizers, tree["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    kept = {one.name: tree[one.name] for one in fields(Fit)}
    evaluation = Evaluation(**tree["evaluation"])
    return Fit(**{**kept, "model": model, "optimizers": optimizers, "evaluation": evaluation})


def _share_lines(done: Fit, first: int) -> Iterator[dict[str, Any]]:
    """Yield a log line for each node and each epoch from `first` on."""
    core: Any = done.model.core  # a model with shares is a supernet of any class, with `op_names`
    for epoch, nodes in enumerate(done.shares[first:], first):
        for node, shares in enumerate(nodes):
            ops = [f"{combine}/{activation}" for combine, activation in core.op_names(node)]
            yield {"epoch": epoch, "node": node, "ops": ops, "shares": [round(share, 6) for share in shares]}
