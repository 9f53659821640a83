"""Training without autograd: the same gradients, the same fits, and autograd where nothing else can compute them."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch

from grownas.backbones.chain import Backbone
from grownas.baselines.recurrent import recurrent_core
from grownas.cells import native_loop
from grownas.cells.cell import GrownRNN
from grownas.cells.native_pass import MOST_THREADS
from grownas.genotype import Genotype, Node, Op
from grownas.tasks.index_returns.losses import LOSSES
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.task import IndexReturns
from grownas.training.bilevel import window_loss
from grownas.training.loop import Trainer, fit
from grownas.training.recipe import OptimizerRecipe, Recipe, split_parameters

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
PREPARED = ["one node", "two nodes", "shared projections", "cell"]
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
    return {name: p.grad for name, p in model.named_parameters() if p.numel()}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CORES)
def test_gradients_are_those_of_autograd(panel, name, loss):
    task = panel.with_loss(loss)
    model = model_of(task, name).double()
    before, window = two_windows(task)
    with torch.no_grad():
        _, hidden = model.states(before.x)
    value, after, _ = model.backpropagation()(window.x, hidden, partial(task.loss_and_slope, window))
    found = gradients(model)
    model.zero_grad()
    wanted, last = window_loss(model, task, window, hidden)
    wanted.backward()
    torch.testing.assert_close(value, wanted.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(after, last, rtol=0, atol=1e-13)
    torch.testing.assert_close(found, gradients(model), rtol=0, atol=1e-13)
    assert all(grad.abs().max() > 0 for grad in found.values() if grad.numel())


@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_pass_has_the_values_and_gradients_of_the_reference(panel, name):
    """Windows of two shapes in turn, with and without a state, so that each pass finds what the other one left."""
    task = panel.with_loss("huber")
    model = model_of(task, name).double()
    judge = copy.deepcopy(model)
    judge.core.backend = "reference"
    backpropagate, (_, window) = model.backpropagation(), two_windows(task)
    hidden = torch.randn(1, window.x.shape[1], model.core.hidden_size, dtype=torch.float64)
    for cut, state in ((window, None), (window.cut(0, 3), hidden), (window, hidden), (window.cut(2, 3), None)):
        value, after, together = backpropagate(cut.x, state, partial(task.loss_and_slope, cut))
        judge.zero_grad()
        wanted, last = window_loss(judge, task, cut, state)
        wanted.backward()
        torch.testing.assert_close(value, wanted.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(after, last, rtol=0, atol=1e-12)
        torch.testing.assert_close(gradients(model), gradients(judge), rtol=0, atol=1e-12)
        weights, _ = split_parameters(model)
        norm = torch.nn.utils.get_total_norm([p.grad for p in weights])
        assert norm <= torch.nn.utils.get_total_norm(together) * (1 + 1e-12)


@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_pass_is_used_unless_pytorch_has_more_threads(panel, name):
    core = model_of(panel, name).core
    assert core.prepare(4, 3) is not None
    before = torch.get_num_threads()
    torch.set_num_threads(MOST_THREADS + 1)
    try:
        assert core.prepare(4, 3) is None
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", CORES)
def test_an_evaluation_by_prepared_passes_has_the_same_bits(panel, name):
    """In turn with training, whose passes overwrite their own buffers only."""
    task = panel.with_loss("huber")
    model = model_of(task, name)
    backpropagate, (_, window) = model.backpropagation(), two_windows(task)
    for shift in (0.0, 0.1):
        with torch.no_grad():
            model.readout.weight += shift
            next(model.core.parameters()).add_(shift)
        backpropagate(window.x, None, partial(task.loss_and_slope, window))
        with backpropagate.in_use():
            found = task.evaluate(model, "val")
            states, last = model.states(window.x)
            model.states(window.x + 1.0)
        wanted = task.evaluate(model, "val")
        assert np.array_equal(found.losses, wanted.losses)
        assert np.array_equal(found.forecasts, wanted.forecasts)
        torch.testing.assert_close((states, last), model.states(window.x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["two nodes", "cell"])
def test_a_fit_evaluates_by_prepared_passes(panel, name, monkeypatch):
    task, model = panel.with_loss("huber"), model_of(panel, name)
    core, calls = type(model.core), []
    forward = core.forward
    monkeypatch.setattr(core, "forward", lambda *args: calls.append(len(args)) or forward(*args))
    done = fit(model, task, Recipe(epochs=2, patience=None), seed=0)
    assert len(calls) == 1  # the evaluation of the result, after training
    assert done.model.prepared is None


@pytest.mark.parametrize("name", NEED_AUTOGRAD)
def test_cores_that_need_autograd_prepare_nothing(panel, name):
    assert NEED_AUTOGRAD[name](panel.input_size).prepare(4, 3) is None


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


def test_a_fit_with_a_node_that_is_blended_in_has_the_bits_of_autograd(panel, monkeypatch, assert_equal):
    task = panel.with_loss("huber")
    model = model_of(task, "two nodes")
    model.core.nodes[1].set_blend(0.1)
    recipe = Recipe(epochs=2, patience=None, blend_steps=4, weights=OptimizerRecipe(rate=0.01))
    direct = fit(model, task, recipe, seed=0)
    monkeypatch.delattr(IndexReturns, "loss_and_slope")
    assert_equal(dict(direct.model.state_dict()), dict(fit(model, task, recipe, seed=0).model.state_dict()))


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
