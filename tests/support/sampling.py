"""What the tests of strategies share that train each genotype on its own: a journal that trains nothing, problems."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from grownas.cells.cell import GrownRNN
from grownas.errors import TrainingError
from grownas.protocols import Evaluation, Problem
from grownas.space import SearchSpace
from grownas.starts.random import random_start
from grownas.training.loop import Fit

SPACE = SearchSpace(combine=("add",), activation=("tanh", "relu"), max_nodes=3)
DAG = SearchSpace((), ("none", "tanh", "relu"), max_nodes=3, backbone="dag")
START, STEPS, DAYS = 2.0, 20, 64


class Journal:
    """Gives each key the validation loss of a script, None where training diverges; a fit takes 20 steps and 1 s."""

    def __init__(self, says=lambda key: 1.0):
        self.says, self.fits, self.lines, self.elapsed = says, {}, [], 5.0

    def fit(self, key, model, task, recipe, *, seed, after=None, extendable=False):
        self.elapsed += 1.0
        self.fits[key] = (model, task, recipe, seed)
        if self.says(key) is None:
            raise TrainingError(f"{key} diverged", seconds=1.0, steps=7)
        losses = np.full(DAYS, self.says(key))
        return Fit(model, [], Evaluation(float(losses[0]), losses), 9, 4, STEPS, 1.0, "patience", [])

    def log_trial(self, line):
        self.lines.append(copy.deepcopy(line))


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
