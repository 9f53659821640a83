"""What a weight step on one genotype of shared weights costs, beside its derived cell and the mixture of all ops."""

from __future__ import annotations

import pytest
import torch

from grownas.backbones.chain import Backbone
from grownas.backbones.shared import SharedChain
from grownas.bench import table, timing
from grownas.bench.figures import Must, Row
from grownas.genotype import Genotype, Node, Op
from grownas.ops import DEFAULT_OPS
from grownas.training.recipe import Recipe, clip_gradients, make_optimizers, split_parameters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SHARED, ALONE, CELL, MIXED = (
    "one genotype of 8 ops a node",
    "the same of 1 op a node",
    "derived cell",
    "mixture of 8 ops",
)
GENOTYPE = Genotype((Node((Op("add", "tanh"),)), Node((Op("hadamard", "relu"),)), Node((Op("add", "sigmoid"),))))
BARS = {16: 1.6, 128: 1.5}  # hidden size -> most steps of the derived cell; what is above 1 is Python and copies


def weight_step(core, x):
    """Return a function that takes a weight step."""
    optimizers, (weights, _) = make_optimizers(core, Recipe()), split_parameters(core)

    def step():
        for optimizer in optimizers:
            optimizer.zero_grad()
        core(x)[0].square().mean().backward()
        clip_gradients(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()

    return step


@pytest.mark.parametrize("hidden_size", BARS)
def test_ops_that_are_not_drawn_cost_nothing(hidden_size):
    core = SharedChain(5, hidden_size, [DEFAULT_OPS] * 3, lambda: GENOTYPE)
    core.chosen = GENOTYPE
    alone = [[(op.combine, op.activation) for op in node.ops] for node in GENOTYPE.nodes]
    x = torch.randn(20, 16, 5)
    peers = {
        SHARED: core,
        ALONE: SharedChain(5, hidden_size, alone, lambda: GENOTYPE),
        CELL: core.derive(),
        MIXED: Backbone(5, hidden_size, 3, DEFAULT_OPS),
    }
    with timing.threads(1):
        steps = {name: weight_step(one, x) for name, one in peers.items()}
        figures = timing.measure(steps, timing.FULL, timing.processor_seconds)
    musts = Must(CELL, BARS[hidden_size], SHARED), Must(ALONE, 1.2, SHARED)
    row = Row(f"shared weights, H{hidden_size}", "ms", figures, CELL, musts)
    print()
    for line in table.lines(row):
        print(line, flush=True)
    assert all(check.holds for check in row.checks())
