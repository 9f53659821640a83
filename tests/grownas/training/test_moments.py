"""The state of optimisers by name: what is saved is what another optimiser goes on with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from grownas.backbones.chain import Backbone
from grownas.training.moments import load_moments, moments_of, of_derived, of_supernet
from grownas.training.recipe import OptimizerRecipe, Recipe, make_optimizers

RECIPES = {
    "adam": Recipe(weights=OptimizerRecipe("adam", 0.01)),
    "sgd": Recipe(weights=OptimizerRecipe("sgd", 0.1, momentum=0.9)),
    "sgd without momentum": Recipe(weights=OptimizerRecipe("sgd", 0.1, momentum=0.0)),
}


def step(model, optimizers, seed):
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(seed))
    for optimizer in optimizers:
        optimizer.zero_grad()
    model(x)[0].pow(2).mean().backward()
    for optimizer in optimizers:
        optimizer.step()


def trained(recipe, model):
    optimizers = make_optimizers(model, recipe)
    for seed in range(3):
        step(model, optimizers, seed)
    return optimizers


@pytest.mark.parametrize("name", RECIPES)
def test_an_optimiser_with_saved_moments_takes_the_same_steps(name):
    model = nn.GRU(3, 4)
    optimizers = trained(RECIPES[name], model)
    moments = moments_of(model, optimizers)
    other = copy.deepcopy(model)
    again = make_optimizers(other, RECIPES[name])
    load_moments(other, again, moments)
    before = {key: value.clone() for key, value in moments.items()}
    for one, ones in ((model, optimizers), (other, again)):
        step(one, ones, 9)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(value, before[key]) for key, value in moments.items())  # they are copies


def test_moments_of_another_shape_are_refused():
    model = nn.GRU(3, 4)
    moments = moments_of(model, trained(RECIPES["adam"], model))
    wider = nn.GRU(3, 5)
    with pytest.raises(ValueError, match=r"weight_ih_l0/exp_avg has shape \(12, 3\), expected \(15, 3\)"):
        load_moments(wider, make_optimizers(wider, RECIPES["adam"]), moments)


class Around(nn.Module):
    """A model with a core."""

    def __init__(self, core):
        super().__init__()
        self.core, self.readout = core, nn.Linear(4, 3)

    def forward(self, x):
        return self.core(x)


@pytest.mark.parametrize(
    "switches", [{}, {"highway": True}, {"share_projection": True}], ids=["plain", "highway", "shared"]
)
def test_a_derived_cell_has_the_supernets_moments_but_those_of_alpha(switches):
    supernet = Around(Backbone(3, 4, nodes=2, **switches))
    moments = moments_of(supernet, trained(RECIPES["adam"], supernet))
    assert any(".alpha/" in name for name in moments)
    cell = Around(supernet.core.derive())
    renamed = of_derived(moments)
    shapes = {name: parameter.shape for name, parameter in cell.named_parameters()}
    assert {name.partition("/")[0] for name in renamed} == {name for name in shapes if not name.startswith("readout")}
    assert all(value.shape == shapes[name.partition("/")[0]] for name, value in renamed.items() if value.dim())
    back = of_supernet(renamed)
    assert back.keys() == {name for name in moments if ".alpha/" not in name}
    assert all(torch.equal(back[name], moments[name]) for name in back)
