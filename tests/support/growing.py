"""What all tests of growth share: a journal that trains nothing, one that trains, and contexts to make moves in."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from grownas.backbones.chain import Backbone, shares_of
from grownas.backbones.dag import DagBackbone
from grownas.cells.cell import GrownRNN
from grownas.criteria import threshold
from grownas.criteria.threshold import Thresholds
from grownas.protocols import Budget, Evaluation, Problem, Verdict
from grownas.space import SearchSpace
from grownas.strategies.growing.context import Context
from grownas.strategies.growing.moves import MOVES
from grownas.strategies.growing.options import Options
from grownas.strategies.growing.state import Candidate
from grownas.strategies.growing.strategy import Growth, path_of
from grownas.strategies.growing.strategy import replay as replay_problem
from grownas.training.loop import Fit, fit
from grownas.training.recipe import OptimizerRecipe, Recipe, make_optimizers

CONTRACT_KEYS = {
    "stage", "step", "kind", "node", "op", "drift", "loss_before", "loss_after", "predicted_change", "params_before",
    "params_after", "accepted", "judge", "wall_s",
}  # fmt: skip
KEYS = CONTRACT_KEYS | {"measured_change", "cell_before", "cell_after", "part", "trial", "words"}  # of any move
NODE_KEYS = KEYS | {"draw"}  # of a new node
OP_KEYS = KEYS | {"op_name", "sources"}  # of a change of an op
KINDS = [kind for kind, move in MOVES.items() if move.propose is not None]  # that a stage may begin with
SPACE = SearchSpace(("add", "hadamard"), ("identity", "tanh", "sigmoid", "relu"))
START = 1.0  # the start's validation loss
CHANGED = 0.97  # that of a model which was just changed
STEPS, EPOCHS, BEST = 10, 20, 15  # of each scripted fit: enough for ops to be judged
DAYS = 64


def _flat(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their keys, from some that may be given as a recipe or as thresholds."""
    flat = dict(changes)
    if (recipe := flat.pop("recipe", None)) is not None:
        given = asdict(recipe)
        for key in ("clip", "warm_up", "decay", "average", "non_monotone"):
            given["weights"][key] = given.pop(key)
        flat |= {key: given.pop(key) for key in ("patience", "bilevel", "weights", "alpha")}
        flat["max_epochs"] = given.pop("epochs")
        others = asdict(Recipe())
        assert given == {key: others[key] for key in given}, "the options have no key for this field of a recipe"
    if (thresholds := flat.pop("thresholds", None)) is not None:
        flat |= asdict(thresholds)
    return flat


def growing(**changes: Any) -> Options:
    """Checked options; `recipe` and `thresholds` may stand for their keys."""
    return Options(**_flat(changes))


def but(options: Options, **changes: Any) -> Options:
    """Checked options that differ from others in this."""
    return Options(**{**options.model_dump(), **_flat(changes)})


def problem_of(start, task, journal, *, seed=1, space=SPACE, seconds=None, origins=()):
    """A search's problem; the models that it builds are as large as its start."""

    def build(nodes, purpose):
        make = dag_model_of if space.backbone == "dag" else model_of
        return make(task, *nodes, seed=sum(map(ord, purpose)), hidden=start.core.hidden_size)

    def build_cell(genotype, purpose):
        generator = torch.Generator().manual_seed(sum(map(ord, purpose)))
        core = GrownRNN(genotype, task.input_size, start.core.hidden_size)
        core.reset_parameters(generator)
        return task.model(core, generator=generator)

    return Problem(
        task=task, space=space, build=build, start=start, journal=journal, budget=Budget(seconds=seconds), seed=seed,
        origins=lambda count: origins[:count], build_cell=build_cell,
    )  # fmt: skip


@dataclass(frozen=True)
class Grown:
    """What a growth found, before its cell is derived."""

    model: Any
    evaluation: Evaluation
    first_stage: Any
    stages: list[dict[str, Any]]
    l2_sp: float | None
    steps: int
    seconds: float
    reason: str
    first_line: dict[str, Any]
    speed: float | None
    first_speed: float | None

    def path(self):
        """The lines of the stages that led to the model."""
        return path_of(self.stages)


def grow(start, task, journal, options, *, seed, origins=(), space=SPACE, seconds=None) -> Grown:
    """Do all units of a growth."""
    growth = Growth(problem_of(start, task, journal, seed=seed, space=space, seconds=seconds, origins=origins), options)
    for _ in growth.units():
        assert growth.reason == ""
    found = growth.result()
    return Grown(
        found.model, found.evaluation, growth.first.model, growth.stages, growth.l2_sp, found.steps, found.seconds,
        found.reason, growth.first_line, found.speed, growth.first.fits[0].speed,
    )  # fmt: skip


def replay(start, task, journal, options, path, *, seed, space=SPACE):
    """Repeat a path without judging."""
    return replay_problem(problem_of(start, task, journal, seed=seed, space=space), options, path)[0]


PLAIN = growing(
    recipe=Recipe(epochs=7), l2_sp=(100.0, 0.0), accept="better", mode="nodes", prune="none", restarts=0, max_nodes=3,
    first_epochs=None, guard=False, birth="carrier", blend_steps=0, nodes_at_once=1,
)  # fmt: skip
ONE_STRENGTH = but(PLAIN, l2_sp=(0.0,))
QUICK = Recipe(epochs=3, patience=2, weights=OptimizerRecipe(rate=0.02), alpha=OptimizerRecipe(rate=0.05))
TRAINED = growing(
    recipe=QUICK, l2_sp=(5.0,), accept="better", mode="nodes", prune="none", restarts=0,
    thresholds=Thresholds(min_age=1), first_epochs=None, guard=False, birth="carrier", blend_steps=0, nodes_at_once=1,
)  # fmt: skip


class ScriptedJournal:
    """Gives each key's fit the loss of the script; does what is to be remembered.

    `shares` sets the mixture of a node at each epoch: one list for all, or one list for each epoch from 1 on.
    """

    def __init__(self, losses, *, shares=None, seconds=1.0, best_epoch=BEST):
        self.losses, self.shares, self.seconds_each, self.elapsed = losses, shares or {}, seconds, 0.0
        self.fits, self.lines, self.work, self.asked, self.best_epoch = {}, [], {}, [], best_epoch
        self.cpu_seconds, self.gradients, self.notes = 0.0, 0, []

    def fit(self, key, model, task, recipe, *, seed, optimizers=None, stage=0, after=None, extendable=False):
        assert (after, extendable) == (None, False)  # growth trains every stage from its own start
        assert key not in self.fits, f"{key} was asked for twice"
        self.fits[key] = {"model": model, "recipe": recipe, "optimizers": optimizers, "stage": stage, "seed": seed}
        trained = copy.deepcopy(model)
        shares = [shares_of(model.core) for _ in range(EPOCHS + 1)]
        if key in self.shares:
            node, script = self.shares[key]
            script = script if isinstance(script[0], list) else [script] * EPOCHS
            for epoch, one in enumerate(script, 1):
                shares[epoch][node] = one
            with torch.no_grad():
                trained.core.alpha[node].copy_(torch.tensor(shares[self.best_epoch][node]).log())
        self.elapsed += self.seconds_each
        loss = self.losses[key]
        losses = loss if isinstance(loss, np.ndarray) else np.full(DAYS, loss)
        done = Fit(
            model=trained,
            optimizers=make_optimizers(trained, recipe),
            evaluation=Evaluation(float(losses.mean()), losses),
            epochs=EPOCHS,
            best_epoch=self.best_epoch,
            steps=STEPS,
            seconds=self.seconds_each,
            reason="the script says so",
            shares=shares,
        )
        self.fits[key]["done"] = done
        return done

    def fit_all(self, requests):
        raise AssertionError("growth trains one model after the other")

    def fit_in_pieces(self, key, model, task, recipe, *, seed, every, optimizers=None):
        raise AssertionError("growth trains a stage at once")

    def branch(self, name, *, logs):
        raise AssertionError("a strategy opens no branch")

    def mark(self):
        raise AssertionError("a strategy marks nothing")

    def rewind(self, mark):
        raise AssertionError("a strategy takes nothing back")

    def forget(self):
        raise AssertionError("a strategy forgets nothing")

    @contextmanager
    def of_model(self, name):
        yield

    def remember(self, key, work):
        """A key that is asked for again must stand for the same work: it is done again, and compared."""
        self.asked.append(key)
        again = work()
        assert as_bytes(self.work.setdefault(key, again)) == as_bytes(again), f"{key} stands for different things"
        return self.work[key]

    def note(self, words):
        self.notes.append(words)

    def log_morphism(self, line):
        self.lines.append(rounded(line))

    def log_trial(self, line):
        raise AssertionError("growth trains no genotype on its own")


class TrainingJournal(ScriptedJournal):
    """Does the fits; keeps what each was given, what came out, and a copy of that as a tree.

    Args:
        outcome: makes the tree of a finished fit.
        losses: of fits whose validation loss shall be another than it is, by key.
    """

    def __init__(self, outcome=None, losses=()):
        super().__init__(dict(losses))
        self.outcome, self.outcomes = outcome, {}

    def fit(self, key, model, task, recipe, *, seed, optimizers=None, stage=0, after=None, extendable=False):
        assert (after, extendable) == (None, False)
        assert key not in self.fits, f"{key} was asked for twice"
        done = fit(model, task, recipe, seed=seed, optimizers=optimizers)
        if key in self.losses:
            done = replace(done, evaluation=Evaluation(self.losses[key], np.full(DAYS, self.losses[key])))
        self.fits[key] = {"model": model, "recipe": recipe, "optimizers": optimizers, "stage": stage, "done": done}
        if self.outcome is not None:
            self.outcomes[key] = copy.deepcopy(self.outcome(done))
        return done

    def log_morphism(self, line):
        self.lines.append(dict(line))


def as_bytes(tree):
    """What tells two trees apart to the last bit."""
    if isinstance(tree, dict):
        return {key: as_bytes(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [as_bytes(value) for value in tree]
    return tree.numpy().tobytes() if isinstance(tree, torch.Tensor) else tree


def rounded(line):
    """A line whose losses are those of the script again: the mean of equal figures is not exactly that figure."""
    return {key: round(value, 12) if key.startswith("loss") else value for key, value in line.items()}


def timeless(line):
    return {key: value for key, value in line.items() if key not in ("wall_s", "seconds")}


def context_of(
    model, task, options=TRAINED, *, trained=None, watched=None, l2_sp=0.0, seed=7, number=2, space=SPACE, journal=None
):
    """A context in which a model, or what a fit made of it, is the best candidate.

    Args:
        trained: the fit; a real journal is not needed.
        watched: a state for each node, in place of new ones.
    """
    candidate = Candidate.start(model, task.evaluate(model, "val"))
    candidate = candidate._replace(optimizers=make_optimizers(model, options.recipe))
    if trained is not None:
        candidate = candidate.trained(trained, options.thresholds)
    if watched is not None:
        candidate = candidate._replace(watched=tuple(watched))
    problem = problem_of(model, task, ScriptedJournal({}) if journal is None else journal, seed=seed, space=space)
    return Context(candidate, problem, options, l2_sp, number, source=1)


def with_problem(context, **changes):
    """The same context in a problem that differs in this."""
    return replace(context, problem=replace(context.problem, **changes))


def model_of(task, *nodes, seed=0, hidden=3):
    """The task's model around a backbone whose nodes have these ops."""
    generator = torch.Generator().manual_seed(seed)
    return task.model(Backbone.from_ops(task.input_size, hidden, nodes, generator=generator), generator=generator)


def dag_model_of(task, *nodes, seed=0, hidden=3, **options):
    """The task's model around a DAG; all edges of a node have these ops."""
    generator = torch.Generator().manual_seed(seed)
    core = DagBackbone.from_ops(task.input_size, hidden, nodes, generator=generator, **options)
    return task.model(core, generator=generator)


YOUNG = Thresholds(min_age=1)


def aged(shares, thresholds=YOUNG):
    """The state of a node whose ops have had these shares for long."""
    state = threshold.begin(shares)
    for _ in range(99):
        state = threshold.observe(state, shares, thresholds)
    return state


def set_shares(core, node, shares):
    """Set a node's mixture."""
    with torch.no_grad():
        core.alpha[node].copy_(torch.tensor(shares, dtype=torch.float64).log())


def verdicts(*answers):
    """A criterion that gives scripted answers, one after the other, and then rejects everything."""
    rest = iter(answers)

    def answer(best, candidate, *, threshold):
        return Verdict(next(rest, False), 0.25, "scripted", 0.5)

    return answer
