"""Training without autograd: the same gradients, the same fits, and autograd where nothing else can compute them."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from grownas.backbones.chain import Backbone
from grownas.baselines.recurrent import recurrent_core
from grownas.cells import native_loop
from grownas.cells.cell import GrownRNN
from grownas.genotype import Genotype, Node, Op
from grownas.tasks.index_returns.losses import LOSSES
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.task import IndexReturns
from grownas.training.bilevel import window_loss
from grownas.training.loop import Trainer, fit
from grownas.training.recipe import OptimizerRecipe, Recipe

GENOTYPE = Genotype((Node((Op("add", "tanh"),)), Node((Op("hadamard", "sigmoid", 0.5), Op("hadamard", "relu", 0.5)))))
CORES = {
    "one node": lambda inputs, seed: Backbone(inputs, 5, 1, generator=seed),
    "two nodes": lambda inputs, seed: Backbone(inputs, 16, 2, generator=seed),
    "shared projections": lambda inputs, seed: Backbone(inputs, 5, 2, share_projection=True, generator=seed),
    "torch loop": lambda inputs, seed: Backbone(inputs, 5, 2, generator=seed, backend="torch"),
    "cell": lambda inputs, seed: GrownRNN(GENOTYPE, inputs, 5),
    "lstm": lambda inputs, seed: recurrent_core("lstm", inputs, 5, generator=seed),
    "gru": lambda inputs, seed: recurrent_core("gru", inputs, 5, generator=seed),
}
NEED_AUTOGRAD = {
    "reference": lambda inputs: Backbone(inputs, 5, backend="reference"),
    "highway": lambda inputs: Backbone(inputs, 5, highway=True),
    "order": lambda inputs: Backbone(inputs, 5, ops=[("hadamard", "tanh"), ("add", "tanh")]),
    "blend": lambda inputs: changed(Backbone(inputs, 5), lambda core: core.nodes[0].set_blend(0.5)),
    "skip": lambda inputs: changed(Backbone(inputs, 5), lambda core: core.set_skip(0.5)),
    "shares": lambda inputs: changed(Backbone(inputs, 5), lambda core: core.set_shares([torch.ones(8) / 8])),
    "layers": lambda inputs: GrownRNN(GENOTYPE, inputs, 5, num_layers=2),
    "batch first": lambda inputs: GrownRNN(GENOTYPE, inputs, 5, batch_first=True),
    "both directions": lambda inputs: GrownRNN(GENOTYPE, inputs, 5, bidirectional=True),
    "dag": lambda inputs: GrownRNN("darts_v2", inputs, 5),
}

pytestmark = pytest.mark.skipif(native_loop.MISSING is not None, reason=str(native_loop.MISSING))


def changed(core, change):
    change(core)
    return core


@pytest.fixture(scope="module")
def panel():
    return IndexReturns.load(Options(data="planted", bptt=7, streams=3))


def model_of(task, name):
    seed = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    return task.model(CORES[name](task.input_size, seed), generator=seed)


def two_windows(task):
    burn_in, first, *_ = task.windows("train", seed=0)
    assert burn_in.burn_in
    return burn_in, first


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CORES)
def test_gradients_are_those_of_autograd(panel, name, loss):
    task = panel.with_loss(loss)
    model = model_of(task, name).double()
    before, window = two_windows(task)
    with torch.no_grad():
        _, hidden = model.states(before.x)
    value, after = model.backpropagation()(window.x, hidden, partial(task.loss_and_slope, window))
    found = gradients(model)
    model.zero_grad()
    wanted, last = window_loss(model, task, window, hidden)
    wanted.backward()
    torch.testing.assert_close(value, wanted.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(after, last, rtol=0, atol=1e-13)
    torch.testing.assert_close(found, gradients(model), rtol=0, atol=1e-13)
    assert all(grad.abs().max() > 0 for grad in found.values() if grad.numel())


@pytest.mark.parametrize("name", CORES)
def test_no_two_gradients_share_memory(panel, name):
    task = panel.with_loss("huber")
    model = model_of(task, name)
    _, window = two_windows(task)
    model.backpropagation()(window.x, None, partial(task.loss_and_slope, window))
    kept = {key: one.clone() for key, one in gradients(model).items()}
    for parameter in model.parameters():
        parameter.grad.mul_(2)  # as clipping does, one after the other
    for key, one in gradients(model).items():
        assert one.is_contiguous()
        assert torch.equal(one, 2 * kept[key]), key


@pytest.mark.parametrize("name", CORES)
def test_a_fit_without_autograd_has_the_bits_of_a_fit_with_it(panel, name, monkeypatch, assert_equal):
    task = panel.with_loss("huber")
    recipe = Recipe(epochs=1, patience=None, clip=0.1, weights=OptimizerRecipe(rate=0.01, weight_decay=0.1))
    direct = fit(model_of(task, name), task, recipe, seed=0)
    monkeypatch.delattr(IndexReturns, "loss_and_slope")
    wanted = fit(model_of(task, name), task, recipe, seed=0)
    assert_equal(dict(direct.model.state_dict()), dict(wanted.model.state_dict()))


def test_a_fit_calls_no_autograd(panel, monkeypatch):
    task = panel.with_loss("squared")
    monkeypatch.setattr(torch.Tensor, "backward", None)
    recipe = Recipe(epochs=1, patience=None)
    assert fit(model_of(task, "one node"), task, recipe, seed=0).steps > 0
    with pytest.raises(TypeError):
        fit(task.model(NEED_AUTOGRAD["highway"](task.input_size)), task, recipe, seed=0)


@pytest.mark.parametrize("name", NEED_AUTOGRAD)
def test_other_cores_are_left_to_autograd(panel, name):
    task = panel.with_loss("squared")
    model = task.model(NEED_AUTOGRAD[name](task.input_size))
    _, window = two_windows(task)
    assert model.backpropagation()(window.x, None, partial(task.loss_and_slope, window)) is None
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("change", [{"bf16": True}, {"perturb": "random"}])
def test_a_recipe_that_changes_the_forward_pass_needs_autograd(panel, change):
    task = panel.with_loss("squared")

    def direct(**options):
        return Trainer(model_of(task, "one node"), task, Recipe(**options), seed=0, monitor=None).direct

    assert direct() is not None
    assert direct(**change) is None


def test_frozen_parameters_need_autograd(panel):
    task = panel.with_loss("squared")
    model = model_of(task, "one node")
    model.core.alpha[0].requires_grad_(False)
    assert Trainer(model, task, Recipe(), seed=0, monitor=None).direct is None
