"""The price of bit operations: the formula of the loss, its schedule, and fits that resume to the last bit."""

from __future__ import annotations

import math

import pytest
import torch

from grownas.cells.cell import GrownRNN
from grownas.cells.widths import MixedCell, observe
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op
from grownas.training.loop import fit
from grownas.training.pricing import Priced
from grownas.training.recipe import OptimizerRecipe, Recipe

GENOTYPES = {
    "chain": Genotype((Node((Op("add", "tanh", 0.5), Op("hadamard", "identity", 0.5))),)),
    "dag": DagGenotype((DagNode(0, "tanh"), DagNode(1, "relu"))),
}
RECIPE = Recipe(
    epochs=4, patience=None, tells_done=True, weights=OptimizerRecipe(rate=0.01), alpha=OptimizerRecipe(rate=0.05)
)
both = pytest.mark.parametrize("backbone", GENOTYPES)


def mixed_model(task, backbone, **options):
    cell = GrownRNN(GENOTYPES[backbone], 2, 3)
    cell.reset_parameters(torch.Generator().manual_seed(0))
    model = task.model(cell.double(), generator=torch.Generator().manual_seed(1))
    model.core = MixedCell(model.core, (2, 4, 8), observe(model, task.windows("train", seed=0)), **options)
    return model


@both
def test_the_loss_is_the_tasks_plus_both_prices(copy_task, backbone):
    task = copy_task()
    priced, model = Priced(task, eta=0.7, mu=0.3), mixed_model(task, backbone)
    model.core.done = 0.25
    window = list(task.windows("train", seed=0))[1]
    out, _ = model.states(window.x)
    own, cost = task.loss(model, out, window), model.core.expected_cost()
    expected = float((own + 0.7 * cost).detach()) + 0.3 * 0.25 * math.log(3)
    assert priced.loss(model, out, window).item() == pytest.approx(expected, rel=1e-12)
    assert priced.evaluate(model, "val").metric == task.evaluate(model, "val").metric


@both
def test_a_high_price_leaves_few_bits_and_the_entropy_falls(copy_task, backbone):
    task = copy_task()
    done = fit(mixed_model(task, backbone), Priced(task, eta=3.0, mu=0.1), RECIPE, seed=1)
    core = done.model.core
    assert done.best_epoch == done.epochs == 4  # the last epoch: the shares settle
    assert 0.9 < core.done < 1
    assert float(core.entropy().detach()) < 0.9 * math.log(3)
    assert [len(each) for each in done.shares] == [len(core.mixtures)] * 5
    assert float(core.expected_cost().detach()) < 0.5 * (4 + 16 + 64) / (3 * 64)  # of equal shares


@both
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "free"])
def test_a_fit_that_is_resumed_equals_an_unbroken_one(copy_task, assert_equal, outcome, backbone, tie):
    task = copy_task(dropout=0.2)
    priced, model = Priced(task, eta=0.3, mu=0.1), mixed_model(task, backbone, tie=tie)
    whole = fit(model, priced, RECIPE, seed=1)
    snapshots = []

    class StoppedError(Exception):
        pass

    class Monitor:
        def record(self, line):
            pass

        def failed(self, snapshot):
            pass

        def after_step(self, snapshot):
            snapshots.append(snapshot())
            if len(snapshots) == 9:
                raise StoppedError

    with pytest.raises(StoppedError):
        fit(model, priced, RECIPE, seed=1, monitor=Monitor())
    again = fit(model, priced, RECIPE, seed=1, resume=snapshots[-1])
    assert_equal(outcome(again), outcome(whole))
    assert again.model.core.bits == whole.model.core.bits
