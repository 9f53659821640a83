"""What all tests of growth share: a journal that trains nothing, one that trains, and scenes to make moves in."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from grownas.backbones.chain import Backbone, shares_of
from grownas.criteria import threshold
from grownas.criteria.early_stop import Verdict
from grownas.criteria.threshold import Thresholds
from grownas.protocols import Evaluation
from grownas.strategies.growing.moves import Scene
from grownas.strategies.growing.state import Candidate, Growth
from grownas.training.loop import Fit, fit
from grownas.training.recipe import OptimizerRecipe, Recipe, make_optimizers

CONTRACT_KEYS = {
    "stage", "step", "kind", "node", "op", "drift", "loss_before", "loss_after", "predicted_change", "params_before",
    "params_after", "accepted", "judge", "wall_s",
}  # fmt: skip
KEYS = CONTRACT_KEYS | {"measured_change", "cell_before", "cell_after", "part", "trial"}  # of any move
NODE_KEYS = KEYS | {"draw"}  # of a new node
START = 1.0  # the start's validation loss
CHANGED = 0.97  # that of a model which was just changed
STEPS, EPOCHS, BEST = 10, 20, 15  # of each scripted fit: enough for ops to be judged
DAYS = 64
PLAIN = Growth(
    recipe=Recipe(epochs=7), pulls=(100.0, 0.0), judge="better", mode="nodes", prune="none", restarts=0, max_nodes=3,
    first_epochs=None, guard=False, birth="carrier", blend_steps=0, nodes_at_once=1,
)  # fmt: skip
ONE_PULL = replace(PLAIN, pulls=(0.0,))
QUICK = Recipe(epochs=3, patience=2, weights=OptimizerRecipe(rate=0.02), alpha=OptimizerRecipe(rate=0.05))
TRAINED = Growth(
    recipe=QUICK, pulls=(5.0,), judge="better", mode="nodes", prune="none", restarts=0,
    thresholds=Thresholds(min_age=1), first_epochs=None, guard=False, birth="carrier", blend_steps=0, nodes_at_once=1,
)  # fmt: skip


class ScriptedJournal:
    """Gives each key's fit the loss of the script; does what is to be remembered.

    `shares` sets the mixture of a node at each epoch: one list for all, or one list for each epoch from 1 on.
    """

    def __init__(self, losses, *, shares=None, seconds=1.0, best_epoch=BEST):
        self.losses, self.shares, self.seconds_each, self.elapsed = losses, shares or {}, seconds, 0.0
        self.fits, self.lines, self.work, self.asked, self.best_epoch = {}, [], {}, [], best_epoch

    def fit(self, key, model, task, recipe, *, seed, optimizers=None, stage=0):
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

    def remember(self, key, work):
        """A key that is asked for again must stand for the same work: it is done again, and compared."""
        self.asked.append(key)
        again = work()
        assert as_bytes(self.work.setdefault(key, again)) == as_bytes(again), f"{key} stands for different things"
        return self.work[key]

    def grew(self, line):
        self.lines.append(rounded(line))


class TrainingJournal(ScriptedJournal):
    """Does the fits; keeps what each was given, what came out, and a copy of that as a tree.

    Args:
        outcome: makes the tree of a finished fit.
        losses: of fits whose validation loss shall be another than it is, by key.
    """

    def __init__(self, outcome=None, losses=()):
        super().__init__(dict(losses))
        self.outcome, self.outcomes = outcome, {}

    def fit(self, key, model, task, recipe, *, seed, optimizers=None, stage=0):
        assert key not in self.fits, f"{key} was asked for twice"
        done = fit(model, task, recipe, seed=seed, optimizers=optimizers)
        if key in self.losses:
            done = replace(done, evaluation=Evaluation(self.losses[key], np.full(DAYS, self.losses[key])))
        self.fits[key] = {"model": model, "recipe": recipe, "optimizers": optimizers, "stage": stage, "done": done}
        if self.outcome is not None:
            self.outcomes[key] = copy.deepcopy(self.outcome(done))
        return done

    def grew(self, line):
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


def scene_of(model, task, options=TRAINED, *, trained=None, watched=None, pull=0.0, seed=7, number=2):
    """A scene in which a model, or what a fit made of it, is the best candidate.

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
    return Scene(candidate, task, ScriptedJournal({}), options, pull, seed, number, source=1)


def model_of(task, *nodes, seed=0, hidden=3):
    """The task's model around a backbone whose nodes have these ops."""
    generator = torch.Generator().manual_seed(seed)
    return task.model(Backbone.from_ops(task.input_size, hidden, nodes, generator=generator), generator=generator)


def aged(shares, thresholds=TRAINED.thresholds):
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
    """A judge that gives scripted answers, one after the other, and then rejects everything."""
    rest = iter(answers)

    def judge(best, candidate, *, threshold):
        return Verdict(next(rest, False), 0.25, "scripted", 0.5)

    return judge
