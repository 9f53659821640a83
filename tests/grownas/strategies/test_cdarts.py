"""CDARTS: supernet and evaluation network in turn, each drawn to the other's predictions."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from grownas.protocols import Window
from grownas.runs.journal import Journal
from grownas.space import SearchSpace
from grownas.strategies.cdarts import CDarts
from grownas.strategies.darts import Darts
from grownas.strategies.supernet_options import CDartsOptions
from grownas.training.distil import DISTANCES, Distilled
from grownas.training.loop import fit
from grownas.training.recipe import OptimizerRecipe, Recipe
from support.growing import problem_of, timeless
from support.mortal import goes_on_after_a_kill

SPACE = SearchSpace(("add", "hadamard"), ("identity", "tanh", "sigmoid"), max_nodes=2, max_ops=6)
SMALL = {
    "max_epochs": 3, "patience": None, "unit_epochs": 1, "fine_tune_epochs": 1, "max_nodes": 2,
    "accept": "better", "guard": False, "weights": {"rate": 0.02}, "alpha": {"rate": 0.05},
}  # fmt: skip
RATE, WEIGHT = 0.1, 0.7


@pytest.fixture
def one_window(copy_task):
    """The copy task whose epochs have one window to learn from, after one that carries the state."""

    class OneWindow(copy_task):
        def windows(self, part, *, seed):
            return itertools.islice(super().windows(part, seed=seed), 2)

    return OneWindow()


@pytest.fixture
def networks(copy_task, make_model):
    """A supernet, with some alpha, and a cell as the evaluation network."""
    supernet = make_model(copy_task(), seed=1, nodes=2)
    with torch.no_grad():
        for number, alpha in enumerate(supernet.core.alpha):
            alpha.copy_(torch.tensor([0.3, -0.2, 0.1 * number]))
    evaluation = make_model(copy_task(), seed=2)
    evaluation.core = evaluation.core.derive(1)
    return supernet, evaluation.double()


def predicting(model, task, part):
    """A function that says what a model predicts of the one window of a first epoch, and the target, in NumPy.

    The state before the window stays as it is now: no gradient passes it.
    """
    burn_in, window = task.windows(part, seed=int(np.random.SeedSequence([1, 0]).generate_state(1)[0]))
    with torch.no_grad():
        _, hidden = model.eval()(burn_in.x)

    @torch.no_grad()
    def predict():
        return model(window.x, hidden)[0].numpy()

    return predict, window.target.numpy()


def mean_square(a, b):
    return np.mean((a - b) ** 2)


def fitted(model, task, bilevel):
    plain = OptimizerRecipe("sgd", rate=RATE, momentum=0.0)
    recipe = Recipe(epochs=1, patience=None, clip=1e9, bilevel=bilevel, weights=plain, alpha=plain)
    return fit(model, task, recipe, seed=1).model


def differences(parameters, loss, eps=1e-6):
    """Central differences of a loss in each entry of some parameters."""
    found = []
    for parameter in parameters:
        gradient, flat = torch.zeros_like(parameter).flatten(), parameter.detach().view(-1)
        for number in range(len(flat)):
            value = float(flat[number])
            flat[number] = value + eps
            above = loss()
            flat[number] = value - eps
            gradient[number] = (above - loss()) / (2 * eps)
            flat[number] = value
        found.append(gradient.view_as(parameter))
    return found


def test_alpha_descends_the_tasks_loss_and_the_distance_from_the_evaluation_network(one_window, networks):
    """And the weights descend the task's loss alone."""
    supernet, evaluation = networks
    task = Distilled(one_window, "architecture", weight=WEIGHT, temperature=2.0, teacher=evaluation)
    taught = predicting(evaluation, one_window, "architecture")[0]()
    own, target = predicting(supernet, one_window, "architecture")

    def alphas_loss():
        return mean_square(own(), target) + WEIGHT * mean_square(own(), taught)

    own_weights, weights_target = predicting(supernet, one_window, "weights")
    trained = fitted(supernet, task, "first")
    gradients = differences(supernet.core.alpha, alphas_loss)
    for alpha, before, gradient in zip(trained.core.alpha, supernet.core.alpha, gradients, strict=True):
        assert float(gradient.abs().max()) > 1e-4
        torch.testing.assert_close(alpha, before - RATE * gradient, rtol=0, atol=1e-8)

    with torch.no_grad():  # the weights' step comes after alpha's
        for alpha, value in zip(supernet.core.alpha, trained.core.alpha, strict=True):
            alpha.copy_(value)
    names = ("readout.weight", "core.nodes.0.W_h")
    weights = [supernet.get_parameter(name) for name in names]
    gradients = differences(weights, lambda: mean_square(own_weights(), weights_target))
    for name, before, gradient in zip(names, weights, gradients, strict=True):
        torch.testing.assert_close(trained.get_parameter(name), before - RATE * gradient, rtol=0, atol=1e-8)


def test_the_evaluation_network_descends_the_tasks_loss_and_the_distance_from_the_supernet(one_window, networks):
    supernet, evaluation = networks
    task = Distilled(one_window, "train", weight=WEIGHT, temperature=2.0, teacher=supernet)
    taught = predicting(supernet, one_window, "train")[0]()
    own, target = predicting(evaluation, one_window, "train")

    def loss():
        return mean_square(own(), target) + WEIGHT * mean_square(own(), taught)

    trained = fitted(evaluation, task, "joint")
    gradients = differences(list(evaluation.parameters()), loss)
    for weight, before, gradient in zip(trained.parameters(), evaluation.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight, before - RATE * gradient, rtol=0, atol=1e-8)


def test_the_distance_between_texts_is_the_divergence_of_softened_words():
    """KL from its definition, with the factor of Hinton et al. (2015)."""
    generator, temperature = torch.Generator().manual_seed(1), 2.0
    own, theirs = (3 * torch.randn(4, 2, 5, generator=generator, dtype=torch.float64) for _ in range(2))

    def softened(logits):
        powers = np.exp(logits.numpy() / temperature)
        return powers / powers.sum(-1, keepdims=True)

    p, q = softened(theirs), softened(own)
    found = DISTANCES["language"](own, theirs, temperature)
    np.testing.assert_allclose(found[..., 0], temperature**2 * (p * np.log(p / q)).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(DISTANCES["language"](own, own, temperature), 0, atol=1e-15)


@pytest.mark.parametrize("kind", ["series", "language"])
def test_the_further_term_is_weighted_as_the_window_is(kind):
    generator = torch.Generator().manual_seed(1)
    out, taught = (torch.randn(3, 2, 4, generator=generator) for _ in range(2))
    weight = torch.rand(3, 1, 1, generator=generator)
    model = SimpleNamespace(predictions=lambda out, x: 2 * out)
    base = SimpleNamespace(kind=kind, metric="mse", unit=None, loss=lambda model, out, window: torch.tensor(5.0))
    task = Distilled(base, "train", weight=WEIGHT, temperature=1.5)
    window = Window(out, out, weight, taught=taught)
    each = DISTANCES[kind](2 * out, taught, 1.5)
    expected = 5 + WEIGHT * (each[..., 0] * weight[..., 0]).mean()
    torch.testing.assert_close(task.loss(model, out, window), expected)
    assert float(task.loss(model, out, window._replace(taught=None))) == 5


# ---- the teacher


def test_a_teacher_reads_its_part_in_order(copy_task, networks):
    task, (supernet, _) = copy_task(), networks
    taught = Distilled(task, "architecture", weight=1.0, temperature=1.0, teacher=supernet)
    windows = list(taught.windows("architecture", seed=4))
    whole, _ = supernet.eval()(torch.cat([window.x for window in windows]))
    assert windows[0].burn_in
    assert windows[0].taught is None
    said = torch.cat([window.taught for window in windows[1:]])
    torch.testing.assert_close(said, whole[len(windows[0].x) :], rtol=0, atol=1e-14)
    assert not said.requires_grad
    assert all(window.taught is None for window in taught.windows("weights", seed=4))
    plain = list(task.windows("architecture", seed=4))
    for own, other in zip(windows, plain, strict=True):
        assert torch.equal(own.x, other.x)
        assert torch.equal(own.target, other.target)


def test_a_teacher_forgets_what_was_before_a_fresh_window(copy_task, networks):
    class Fresh(copy_task):
        def windows(self, part, *, seed):
            return (window._replace(fresh=True) for window in super().windows(part, seed=seed))

    supernet, _ = networks
    taught = Distilled(Fresh(), "train", weight=1.0, temperature=1.0, teacher=supernet)
    for window in list(taught.windows("train", seed=4))[1:]:
        assert torch.equal(window.taught, supernet.eval()(window.x)[0])


def test_a_teacher_is_a_copy_in_evaluation_mode(copy_task, make_model):
    """What becomes of the model that it was does not matter."""
    teacher = make_model(copy_task(dropout=0.5))
    task = Distilled(copy_task(), "train", weight=1.0, temperature=1.0, teacher=teacher)
    before = [window.taught for window in task.windows("train", seed=1)]
    teacher.train()
    nn.init.zeros_(teacher.readout.weight)
    after = [window.taught for window in task.windows("train", seed=1)]
    assert all(torch.equal(*pair) for pair in zip(before[1:], after[1:], strict=True))


# ---- searches


def searched(strategy, options, copy_task, make_model, **changes):
    task, journal = copy_task(), Journal.in_memory()
    problem = problem_of(make_model(task), task, journal, space=SPACE)
    return problem, [copy.deepcopy(result) for result in strategy(options(**SMALL, **changes)).search(problem)]


def test_an_evaluation_network_is_trained_between_two_rounds(copy_task, make_model):
    problem, results = searched(CDarts, CDartsOptions, copy_task, make_model, evaluation_epochs=2)
    fits = {key: tree for key, tree in problem.journal.store.trees.items() if "steps" in tree}
    assert list(fits) == [
        "cdarts-epoch-1.done", "cdarts-evaluation-1.done", "cdarts-epoch-2.done", "cdarts-evaluation-2.done",
        "cdarts-epoch-3.done", "cdarts-fine-tune.done",
    ]  # fmt: skip
    assert [fits[f"cdarts-evaluation-{number}.done"]["epochs"] for number in (1, 2)] == [2, 2]
    scores = results[-1].scores
    assert [score.get("evaluation_val") for score in scores] == [
        fits["cdarts-evaluation-1.done"]["evaluation"]["metric"],
        fits["cdarts-evaluation-2.done"]["evaluation"]["metric"],
        None,
    ]
    assert [score["gradients"] / score["steps"] for score in scores] == [2, 2, 2]
    assert results[-1].settings == 4


def test_the_first_round_is_that_of_darts_and_the_second_is_not(copy_task, make_model, monkeypatch):
    """With no distance all rounds are."""
    monkeypatch.setattr(CDarts, "name", "darts")  # for which the weights are drawn
    own = {"evaluation_epochs": 1}
    options = [
        (CDarts, CDartsOptions, own),
        (CDarts, CDartsOptions, {**own, "distillation": 0.0}),
        (Darts, Darts.section, {}),
    ]
    found = []
    for strategy, section, changes in options:
        _, results = searched(strategy, section, copy_task, make_model, **changes)
        found.append([result.model.core.alpha for result in results[:3]])
    drawn, free, darts = [[[alpha.tolist() for alpha in unit] for unit in units] for units in found]
    assert free == darts
    assert drawn[0] == darts[0]
    assert drawn[1] != darts[1]


@pytest.mark.parametrize(("part", "training"), [(0.45, "epoch-2"), (0.6, "evaluation-2"), (0.75, "epoch-3")])
def test_a_search_that_is_killed_goes_on_with_the_teacher_it_had(copy_task, make_model, assert_equal, part, training):
    task = copy_task(dropout=0.1)
    problem = problem_of(make_model(task), task, None, space=SPACE)
    search = CDarts(CDartsOptions(**SMALL, evaluation_epochs=1)).search
    whole, again, cut = goes_on_after_a_kill(search, problem, part=part)
    assert cut == f"cdarts-{training}"
    for one, other in zip(again, whole, strict=True):
        assert_equal(dict(one.model.state_dict()), dict(other.model.state_dict()))
        assert_equal([timeless(score) for score in one.scores], [timeless(score) for score in other.scores])


def test_what_was_found_is_trained_on_by_a_refit(copy_task, make_model):
    problem, results = searched(CDarts, CDartsOptions, copy_task, make_model, evaluation_epochs=1)
    again = CDarts(CDartsOptions(**SMALL)).refit(problem, results[-1])
    assert again.steps > results[-1].steps
    assert not torch.equal(again.model.readout.weight, results[-1].model.readout.weight)
