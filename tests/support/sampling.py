"""What the tests of strategies share that train each genotype on its own: a journal that trains nothing, problems."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import torch

from grownas.cells.cell import GrownRNN
from grownas.errors import TrainingError
from grownas.protocols import Evaluation, Problem
from grownas.runs import journal as runs_journal
from grownas.space import SearchSpace
from grownas.starts.random import random_start
from grownas.training.loop import Fit

SPACE = SearchSpace(combine=("add",), activation=("tanh", "relu"), max_nodes=3)
DAG = SearchSpace((), ("none", "tanh", "relu"), max_nodes=3, backbone="dag")
START, STEPS, DAYS = 2.0, 20, 64


class Journal:
    """Gives each key the validation loss of a script, None where training diverges.

    A fit takes 20 steps, 1 s, and 0.5 s of the processor.
    """

    pool = None

    def __init__(self, says=lambda key: 1.0):
        self.says, self.fits, self.lines, self.elapsed, self.cpu_seconds = says, {}, [], 5.0, 3.0

    def fit(self, key, model, task, recipe, *, seed, after=None, extendable=False):
        self.elapsed, self.cpu_seconds = self.elapsed + 1.0, self.cpu_seconds + 0.5
        self.fits[key] = (model, task, recipe, seed)
        if self.says(key) is None:
            raise TrainingError(f"{key} diverged", seconds=1.0, steps=7)
        losses = np.full(DAYS, self.says(key))
        return Fit(model, [], Evaluation(float(losses[0]), losses), 9, 4, STEPS, 1.0, "patience", [])

    fit_all, fit_request = runs_journal.Journal.fit_all, runs_journal.Journal.fit_request

    def remember(self, key, work):
        return work()

    def log_trial(self, line):
        self.lines.append(copy.deepcopy(line))


class Rigged(Journal):
    """Gives each genotype a computed loss, None where training diverges, without training."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def fit(self, key, model, task, recipe, *, seed, after=None, extendable=False):
        genotype = model.core.genotype(None) if callable(model.core.genotype) else model.core.genotype
        self.says = lambda key: self.loss(genotype)
        return super().fit(key, model, task, recipe, seed=seed)


class Ahead(Rigged):
    """Reads some requests in advance and does the latest first; yields in order, as `Journal.fit_all` says."""

    def __init__(self, loss, ahead):
        super().__init__(loss)
        self.ahead, self.counted = ahead, (5.0, 3.0)

    def fit_all(self, requests):
        requests = iter(requests)
        while batch := list(itertools.islice(requests, self.ahead)):
            found = []
            for request in reversed(batch):
                found += super().fit_all([request])
            for one in reversed(found):  # time counts once a result is yielded
                self.counted = self.counted[0] + 1.0, self.counted[1] + 0.5
                self.elapsed, self.cpu_seconds = self.counted
                yield one


def problem_of(copy_task, journal, **changes):
    """A problem on chains, whose start has the validation loss `START`."""
    task = copy_task()
    evaluate = task.evaluate
    task.evaluate = lambda model, part: (
        Evaluation(START, np.full(DAYS, START)) if part == "val" else evaluate(model, part)
    )

    def build(nodes, purpose):
        generator = torch.Generator().manual_seed(len(purpose))
        return random_start(task, nodes, input_size=2, hidden_size=3, generator=generator)

    start = build([SPACE.ops], "start")
    return Problem(task=task, space=SPACE, build=build, start=start, journal=journal, **changes)


def dag_problem_of(copy_task, journal, **changes):
    """The same on DAGs."""
    problem = problem_of(copy_task, journal)

    def drawn(purpose):
        return torch.Generator().manual_seed(len(purpose))

    def build(nodes, purpose):
        return random_start(problem.task, nodes, input_size=2, hidden_size=3, backbone="dag", generator=drawn(purpose))

    def build_cell(genotype, purpose):
        core = GrownRNN(genotype, 2, 3)
        core.reset_parameters(drawn(purpose))
        return problem.task.model(core, generator=drawn(purpose))

    start = build([DAG.ops] * 2, "start")
    return replace(problem, space=DAG, build=build, build_cell=build_cell, start=start, **changes)


WIDE = {
    "chain": SearchSpace(("add", "hadamard"), ("identity", "tanh", "sigmoid", "relu"), max_nodes=3, max_ops=4),
    "dag": SearchSpace((), ("identity", "tanh", "sigmoid", "relu"), max_nodes=8, backbone="dag"),
}


def distance(genotype):
    """How far a genotype is from one that is thought of: in a chain nodes of hadamard/tanh alone, in a DAG a path."""
    if genotype.to_dict()["backbone"] == "dag":
        wrong = sum((node.reads != i) + (node.activation != "tanh") for i, node in enumerate(genotype.nodes))
        return wrong + 3.0 * (8 - len(genotype.nodes))
    wrong = sum(op.name != "hadamard/tanh" for node in genotype.nodes for op in node.ops)
    missing = sum("hadamard/tanh" not in [op.name for op in node.ops] for node in genotype.nodes)
    return wrong + 2.0 * missing + 4.0 * (3 - len(genotype.nodes))


def rigged_problem_of(copy_task, backbone, seed):
    """A problem in a wide space whose loss is 1 + the distance; each genotype takes one fit of no time."""
    make = dag_problem_of if backbone == "dag" else problem_of
    problem = make(copy_task, Rigged(lambda genotype: 1.0 + distance(genotype)), seed=seed)
    return replace(problem, space=WIDE[backbone])
