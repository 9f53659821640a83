"""The DAG supernet in the training loop, which knows nothing of it: shares, blend, running moments, going on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grownas.backbones.dag import DagBackbone
from grownas.strategies.cores import derived, genotype_of
from grownas.training.loop import Silent, fit
from grownas.training.recipe import OptimizerRecipe, Recipe, count_parameters, split_parameters

QUICK = Recipe(epochs=2, patience=None, weights=OptimizerRecipe(rate=0.01), alpha=OptimizerRecipe(rate=0.02))


class Snapshots(Silent):
    def __init__(self):
        self.kept = []

    def after_step(self, snapshot):
        self.kept.append(snapshot())


def make_model(task, *, norm=True, nodes=2, backend="auto"):
    generator = torch.Generator().manual_seed(0)
    core = DagBackbone(task.input_size, 3, nodes, norm=norm, generator=generator, backend=backend)
    return task.model(core, generator=generator)


def test_alphas_are_told_from_weights(copy_task):
    model = make_model(copy_task())
    weights, alphas = split_parameters(model)
    assert [id(one) for one in alphas] == [id(one) for one in model.core.alpha]
    cell = 2 * 2 * 3 + 3 * 3 * 6  # W_x; W_h of the input node and two more
    assert count_parameters(model) == cell + 3 * 5 + sum(one.numel() for one in model.readout.parameters())
    assert len(weights) == 1 + 3 + 2


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("bilevel", ["joint", "first", "second"])
def test_going_on_after_any_step_equals_an_unbroken_fit(copy_task, assert_equal, bilevel, norm, outcome):
    task, watch = copy_task(), Snapshots()
    start, recipe = make_model(task, norm=norm), replace(QUICK, bilevel=bilevel)
    whole = fit(start, task, recipe, seed=2, monitor=watch)
    assert [len(shares) for shares in whole.shares] == [3] * 3  # an edge, at each epoch
    assert whole.shares[-1] != whole.shares[0]
    for snapshot in watch.kept[::3]:
        assert_equal(outcome(fit(start, copy_task(), recipe, seed=2, resume=snapshot)), outcome(whole))
    if norm:
        assert not torch.equal(whole.model.core.moments, start.core.moments)


def test_it_learns_on_every_backend_alike(copy_task):
    task, found = copy_task(), []
    for backend in ("reference", "torch", "native"):
        start = make_model(task, norm=False, backend=backend)
        recipe = replace(QUICK, epochs=20, weights=OptimizerRecipe(rate=0.03))
        found.append(fit(start, task, recipe, seed=2).evaluation.metric)
    assert found[0] < 0.6 * task.evaluate(start, "val").metric
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-9)


def test_a_blended_node_rises_to_a_plain_one(copy_task):
    task = copy_task()
    start = make_model(task, nodes=3)
    start.core.blend[-1] = 0.0
    done = fit(start, task, replace(QUICK, blend_steps=5), seed=2)
    assert start.core.blend == [1, 1, 0]
    assert done.model.core.blend == [1, 1, 1]


def test_the_derived_model_is_read_out_of_the_trained_one(copy_task):
    task = copy_task()
    model = fit(make_model(task), task, QUICK, seed=2).model
    cell = derived(model)
    assert cell.core.genotype == model.core.genotype() == genotype_of(model) == genotype_of(cell)
    assert derived(cell) is cell
    assert torch.equal(cell.readout.weight, model.readout.weight)
    assert "moments" not in {name.rpartition(".")[2] for name in cell.state_dict()}
