"""The journal of a run: it remembers finished work, so that resuming a run is running it again.

A run is a plain program of deterministic steps, a few of which are long: fits and selections. Each of those goes
through the journal under a key. Work that was finished before is read back; a fit that was cut off goes on from its
last snapshot; everything between is done anew. Hence a resumed run takes the same path as an unbroken one, and there
is no second code path that could differ. The logs are written anew from what is remembered.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from grownas.errors import TrainingError
from grownas.evaluation.models import SEARCH
from grownas.protocols import Evaluation, Model, Task
from grownas.runs import checkpoint
from grownas.runs.progress import Progress
from grownas.runs.rundir import RunDir
from grownas.training.loop import Fit, Tree, finish_blend, fit
from grownas.training.recipe import Recipe, make_optimizers


class Interrupted(KeyboardInterrupt):
    """The user asked to stop; everything needed to go on has been saved."""


class Log(Protocol):
    """Takes lines: a file in a run folder (`rundir.JsonLines`), or memory."""

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        ...

    def truncate(self) -> None:
        """Empty the log."""
        ...


class MemoryLog(list[Mapping[str, Any]]):
    """A log in memory."""

    def truncate(self) -> None:
        """Empty the log."""
        self.clear()


class Store(Protocol):
    """Keeps trees of tensors, arrays and plain values by name."""

    def load(self, name: str) -> Tree | None:
        """Return a tree; None if there is none of this name."""
        ...

    def save(self, name: str, tree: Tree) -> None:
        """Keep a tree."""
        ...

    def remove(self, name: str) -> None:
        """Forget a tree, if there is one."""
        ...


class FolderStore:
    """Keeps trees in a folder, `checkpoint/` of a run; those of another config are refused."""

    def __init__(self, folder: Path, identity: str) -> None:
        """Make the folder; `identity` says which config the work belongs to."""
        folder.mkdir(exist_ok=True)
        self.folder, self.identity = folder, identity

    def load(self, name: str) -> Tree | None:
        """Return a tree; None if there is none of this name."""
        return checkpoint.load(self.folder / name, self.identity)

    def save(self, name: str, tree: Tree) -> None:
        """Keep a tree."""
        checkpoint.save(self.folder / name, tree, self.identity)

    def remove(self, name: str) -> None:
        """Forget a tree."""
        checkpoint.remove(self.folder / name)


class MemoryStore:
    """Keeps copies of trees in memory, so that what becomes of a model does not change what was kept of it."""

    def __init__(self) -> None:
        """Begin empty."""
        self.trees: dict[str, Tree] = {}

    def load(self, name: str) -> Tree | None:
        """Return a tree; None if there is none of this name."""
        return copy.deepcopy(self.trees.get(name))

    def save(self, name: str, tree: Tree) -> None:
        """Keep a tree."""
        self.trees[name] = copy.deepcopy(tree)

    def remove(self, name: str) -> None:
        """Forget a tree."""
        self.trees.pop(name, None)


class BranchStore:
    """A part of another store: its names begin with that of the branch."""

    def __init__(self, store: Store, branch: str) -> None:
        """Take the other store."""
        self.store, self.branch = store, branch

    def load(self, name: str) -> Tree | None:
        """Return a tree; None if there is none of this name."""
        return self.store.load(f"{self.branch}-{name}")

    def save(self, name: str, tree: Tree) -> None:
        """Keep a tree."""
        self.store.save(f"{self.branch}-{name}", tree)

    def remove(self, name: str) -> None:
        """Forget a tree."""
        self.store.remove(f"{self.branch}-{name}")


class Journal:
    """See the module, and `grownas.protocols.Journal`. One journal serves one run."""

    def __init__(
        self,
        store: Store,
        *,
        metrics: Log,
        growth: Log,
        shares: Log,
        progress: Progress,
        every_s: float = 30.0,
    ) -> None:
        """Open the journal and empty the logs, which replay fills again.

        Args:
            store: where finished and unfinished work is kept.
            metrics: log of evaluations.
            growth: log of morphisms.
            shares: log of the mixture weights in each epoch of a supernet's fit, written when the fit is finished.
            progress: shows what is going on.
            every_s: seconds between snapshots of a fit.
        """
        self.store = store
        self.metrics, self.growth, self.shares = metrics, growth, shares
        self.progress, self.every_s = progress, every_s
        self.elapsed = 0.0  # seconds of all fits and remembered work so far
        self.cpu_seconds = 0.0  # processor time of all fits so far
        self.interrupted = False
        self.root: Journal | None = None  # of a branch: the journal that is told of an interrupt
        self._model = SEARCH
        self._counted: set[str] = set()  # keys of remembered work whose seconds are in `elapsed`
        for log in (metrics, growth, shares):
            log.truncate()

    @classmethod
    def in_folder(cls, rundir: RunDir, identity: str, *, progress: Progress, every_s: float = 30.0) -> Journal:
        """Open the journal of a run folder, from which an interrupted run goes on.

        Args:
            rundir: the run folder.
            identity: says which config the work belongs to; work of another is refused.
            progress: shows what is going on.
            every_s: seconds between snapshots of a fit.
        """
        store = FolderStore(rundir.path / "checkpoint", identity)
        logs = {name: rundir.log(f"{name}.jsonl") for name in ("metrics", "growth", "shares")}
        return cls(store, **logs, progress=progress, every_s=every_s)

    @classmethod
    def in_memory(cls, progress: Progress | None = None, *, growth: Log | None = None) -> Journal:
        """Open a journal that writes nothing; what was done is gone with it."""
        progress = Progress(quiet=True) if progress is None else progress
        return cls(
            MemoryStore(),
            metrics=MemoryLog(),
            growth=MemoryLog() if growth is None else growth,
            shares=MemoryLog(),
            progress=progress,
            every_s=math.inf,
        )

    @contextmanager
    def of_model(self, name: str) -> Iterator[None]:
        """Log the fits within as those of a model, by its name in tables."""
        before, self._model = self._model, name
        try:
            yield
        finally:
            self._model = before

    def branch(self, name: str, *, logs: bool) -> Journal:
        """Return a journal for a part of the run, whose keys are its own: one of several searches.

        Its `elapsed` and `cpu_seconds` begin at 0; whoever opened it adds them here.

        Args:
            name: of the branch; the same name finds the same finished work.
            logs: write this journal's logs; else the branch logs nothing.
        """
        own = (self.metrics, self.growth, self.shares) if logs else (MemoryLog(), MemoryLog(), MemoryLog())
        made = copy.copy(self)
        made.store, made.root = BranchStore(self.store, name), self.root or self
        made.metrics, made.growth, made.shares = own
        made.elapsed, made.cpu_seconds, made._counted = 0.0, 0.0, set()
        return made

    def remember(self, key: str, work: Callable[[], Tree]) -> Tree:
        """Do a piece of work, or give back what it gave before. The tree also holds its `seconds`.

        Work that is asked for again counts once.
        """
        self._stop_if_asked()
        done = self.store.load(f"{key}.done")
        if done is None:
            began = time.perf_counter()
            tree = work()
            done = {"seconds": time.perf_counter() - began, **tree}
            self.store.save(f"{key}.done", done)
        if key not in self._counted:
            self.elapsed += done["seconds"]
            self._counted.add(key)
        return done

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
        """Train as `train.fit` does, from where an earlier try was cut off, or give back the finished fit.

        Args:
            key: of the fit.
            model: see `train.fit`.
            task: likewise.
            recipe: likewise.
            seed: likewise.
            optimizers: likewise.
            stage: of the growth; 0 for none.
            after: key of a fit that is the same but for fewer epochs, and extendable: this one goes on where that one
                ended. Result and log are those of one long fit; `elapsed` counts the epochs that both have once.
            extendable: let a longer fit go on from the end of this one.
        """
        return self._fit(key, model, task, recipe, seed, optimizers, stage, after, extendable, repeats_log=True)

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
        """Train as `fit` does, so many epochs at a time; yield the fit so far after each piece.

        The last one equals that of `fit`. A caller may stop between pieces, and later go on by the same call.
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
        """Free what a fit kept for a longer one, which is done."""
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
        """See `fit`; `repeats_log`: the log repeats that of the shorter fit, as one of one long fit."""
        self._stop_if_asked()
        shorter = None if after is None else self.store.load(f"{after}.done")
        counted = {name: shorter[name] if shorter else 0.0 for name in ("seconds", "cpu_seconds")}
        done = self.store.load(f"{key}.done")
        if done is None:
            part = self.store.load(f"{key}.part")
            if after is not None and part is None:
                assert shorter is not None, f"{key} goes on after {after}, which was not trained yet"
                assert shorter["end"] is not None, f"{key} goes on after {after}, which is not extendable"
                lines = [{**line, "stage": stage, "part": key} for line in shorter["lines"] if repeats_log]
                part = {"trainer": shorter["end"], "lines": lines}
            place = {"stage": stage, "part": key, "model": self._model}
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
                kept = "" if self.store.load(f"{key}.part") is None else f"; the last good state is kept as {key}.part"
                self._count(error, counted)
                spent = error.seconds, error.steps, error.cpu_seconds
                raise TrainingError(f"{key} (stage {stage}), {error}{kept}", *spent) from error
            done = _to_tree(finished, watcher.lines)
            self.store.save(f"{key}.done", done)
        else:
            for line in done["lines"]:
                self.metrics.append(line)
            finished = _from_tree(done, model, recipe, optimizers)
        self.store.remove(f"{key}.part")  # also one that a kill left beside the finished fit
        logged = shorter["epochs"] + 1 if shorter and not repeats_log else 0
        for line in _share_lines(finished, logged):
            self.shares.append({"stage": stage, "part": key, **line})
        self._count(finished, counted)
        return finished

    def _count(self, spent: Fit | TrainingError, counted: Mapping[str, float]) -> None:
        """Add what was spent on a fit, but for what was counted with a shorter one."""
        self.elapsed += spent.seconds - counted["seconds"]
        self.cpu_seconds += spent.cpu_seconds - counted["cpu_seconds"]

    def note(self, words: str) -> None:
        """Show what is being done, `title: words`, such as a fold; stop there if the user asked to."""
        self._stop_if_asked()
        title, _, rest = words.partition(": ")
        self.progress.show(title, rest)

    def log_morphism(self, line: Mapping[str, Any]) -> None:
        """Take one line of the growth log."""
        self.growth.append(line)

    def interrupt(self) -> None:
        """Ask the run to stop after the step it is at."""
        self.interrupted = True

    @property
    def is_interrupted(self) -> bool:
        """Whether the run was asked to stop."""
        return (self.root or self).interrupted

    def _stop_if_asked(self) -> None:
        if self.is_interrupted:
            raise Interrupted


class _Watcher:
    """Watches one fit for the journal."""

    def __init__(
        self, journal: Journal, place: Mapping[str, Any], part: Tree | None, *, model: Model, epochs: int
    ) -> None:
        self.journal, self.place, self.epochs = journal, place, epochs
        self.key, self.stage = place["part"], place["stage"]
        self.nodes = len(model.core.nodes) if hasattr(model.core, "nodes") else None
        self.lines: list[dict[str, Any]] = list(part["lines"]) if part else []
        self.best, self.speed = float("inf"), ""
        for line in self.lines:
            journal.metrics.append(line)
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
        """Save a snapshot when it is time or when the user asked to stop."""
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
        """Say whether a line holds the validation metric, and keep the lowest of plain nodes."""
        if line["split"] != "val" or line["metric"] == "loss":
            return False
        if "blend" not in line:
            self.best = min(self.best, line["value"])
        return True


def _to_tree(done: Fit, lines: list[dict[str, Any]]) -> Tree:
    return {
        "model": dict(done.model.state_dict()),
        "optimizers": [o.state_dict() for o in done.optimizers],
        "evaluation": {
            "metric": done.evaluation.metric,
            "losses": done.evaluation.losses,
            "forecasts": done.evaluation.forecasts,
        },
        "epochs": done.epochs,
        "best_epoch": done.best_epoch,
        "steps": done.steps,
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "reason": done.reason,
        "shares": done.shares,
        "speed": done.speed,
        "end": done.end,
        "gradients": done.gradients,
        "lines": lines,
    }


def _from_tree(tree: Tree, model: Model, recipe: Recipe, optimizers: list[torch.optim.Optimizer] | None) -> Fit:
    model, optimizers = copy.deepcopy((model, optimizers or make_optimizers(model, recipe)))
    finish_blend(model).load_state_dict(tree["model"])
    for optimizer, state in zip(optimizers, tree["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return Fit(
        model=model,
        optimizers=optimizers,
        evaluation=Evaluation(**tree["evaluation"]),
        epochs=tree["epochs"],
        best_epoch=tree["best_epoch"],
        steps=tree["steps"],
        seconds=tree["seconds"],
        cpu_seconds=tree["cpu_seconds"],
        reason=tree["reason"],
        shares=tree["shares"],
        speed=tree["speed"],
        end=tree["end"],
        gradients=tree["gradients"],
    )


def _share_lines(done: Fit, first: int) -> Iterator[dict[str, Any]]:
    """Yield a line for each epoch from `first` on and each node."""
    core: Any = done.model.core  # with shares it is a supernet, of whatever class, and names its ops
    for epoch, nodes in enumerate(done.shares[first:], first):
        for node, shares in enumerate(nodes):
            ops = [f"{combine}/{activation}" for combine, activation in core.op_names(node)]
            yield {"epoch": epoch, "node": node, "ops": ops, "shares": [round(share, 6) for share in shares]}
