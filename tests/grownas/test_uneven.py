"""A backbone whose nodes morphisms made uneven, with ops that stand several times in a node, goes everywhere."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from grownas import cli, morphisms
from grownas.backbones.chain import Backbone
from grownas.cells.backends import BACKENDS
from grownas.equations import equations
from grownas.genotype import Genotype
from grownas.ops import DEFAULT_OPS
from grownas.report.diagram import diagram
from grownas.runs import checkpoint
from grownas.strategies.growing.state import with_core
from grownas.training.loop import fit
from grownas.training.migrate import migrate
from grownas.training.recipe import OptimizerRecipe, Recipe

I, H = 3, 5  # noqa: E741 - the field's names
SWITCHES = [(highway, share) for highway in (False, True) for share in (False, True)]
each_switch = pytest.mark.parametrize("switches", SWITCHES, ids=str)


def uneven(switches, *, inputs=I, hidden=H, dtype=torch.float64, seed=0):
    """Nodes of 12, 1, 3 and 8 ops: every morphism had a part in it."""
    generator = torch.Generator().manual_seed(seed)
    first, second = DEFAULT_OPS, [("add", "tanh"), ("hadamard", "sigmoid")]
    core = Backbone.from_ops(
        inputs, hidden, [first, second], highway=switches[0], share_projection=switches[1], generator=generator
    ).to(dtype)
    core = morphisms.prune_op(core, 1, 1).backbone
    core = morphisms.add_node(core, 2, generator=generator, ops=[*second, ("add", "identity")], noise=0.3).backbone
    core = morphisms.add_node(core, 3, generator=generator, ops=first, noise=0.3).backbone
    for op in (5, 0, 8):  # a copy of a copy, too
        core = morphisms.duplicate_op(core, 0, op, 0.1, generator).backbone
    pairs = torch.randn(hidden, generator=generator), torch.randn(hidden, inputs + hidden + 1, generator=generator)
    core = morphisms.split_op(core, 0, 1, pairs, 0.1).backbone
    core = morphisms.replace_op(core, 2, 1, ("hadamard", "relu"), generator).backbone
    assert [len(node.ops) for node in core.mixed_nodes()] == [12, 1, 3, 8]
    with torch.no_grad():
        for alpha in core.alpha:
            alpha += torch.randn(alpha.shape, generator=generator).to(dtype)
    return core


def randn(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@each_switch
@pytest.mark.parametrize("engine", ["torch", "native"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)], ids=str)
def test_every_engine_computes_it(engine, switches, dtype, tolerance):
    core = uneven(switches, dtype=dtype)
    x, h_0 = randn(7, 3, I, dtype=dtype), randn(3, H, seed=2, dtype=dtype)
    nodes, found = core.mixed_nodes(), []
    for backend in ("reference", engine):
        out = BACKENDS[backend].run(nodes, [node.shares for node in nodes], x, h_0)
        wanted = [parameter for parameter in core.parameters() if parameter.numel()]  # one node has no Hadamard op
        found.append([out, *torch.autograd.grad(out.square().mean(), wanted)])
    for truth, value in zip(*found, strict=True):
        torch.testing.assert_close(value, truth, rtol=tolerance, atol=tolerance)


@each_switch
def test_its_genotype_survives_a_file_and_the_cell_computes_the_same(switches, tmp_path):
    core, x = uneven(switches), randn(6, 2, I)
    core.genotype(None).save(tmp_path / "genotype.json")
    genotype = Genotype.load(tmp_path / "genotype.json")
    assert genotype == core.genotype(None) == core.derive().genotype
    assert [len(node.ops) for node in genotype.nodes] == [12, 1, 3, 8]
    torch.testing.assert_close(core.derive()(x)[0], core(x)[0], rtol=0, atol=1e-12)
    assert [len(node.ops) for node in core.genotype(2).nodes] == [2, 1, 2, 2]


@each_switch
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_its_equations_can_be_followed(followed, switches, dtype, tolerance):
    cell, readout = uneven(switches, dtype=dtype).derive(), nn.Linear(H, I, dtype=dtype)
    mean, sd = np.array([0.001, -0.02, 3.0]), np.array([0.01, 1 / 3, 2.0])
    text = equations(cell, readout, ["A", "B", "C"], mean, sd)
    values = np.random.default_rng(1).normal(size=(20, I)) * sd + mean
    with torch.no_grad():
        x = torch.from_numpy((values - mean) / sd).to(dtype)
        wanted = mean + sd * readout(cell(x.unsqueeze(1))[0]).squeeze(1).double().numpy()
    np.testing.assert_allclose(followed(text).forecast(values), wanted, rtol=0, atol=tolerance)


@each_switch
def test_its_drawing_shows_every_op(switches):
    root = ElementTree.fromstring(diagram(uneven(switches).genotype(None)))
    bars = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if "gc-bar" in each.get("class")]
    assert len(bars) == 24
    assert {f"node {number}" for number in (1, 2, 3, 4)} <= {text.text for text in root.iter() if text.text}


@each_switch
def test_it_can_be_shown(switches, tmp_path, capsys):
    genotype = uneven(switches).genotype(None)
    genotype.save(tmp_path / "genotype.json")
    assert cli._status(lambda **options: cli.cli(["show", str(tmp_path / "genotype.json")], **options)) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("4 node(s), 24 op(s)")
    assert shown.count("%") == 24
    assert shown.count("own projection") == sum(op.own_projection for node in genotype.nodes for op in node.ops)
    assert ("own projection" in shown) == switches[1]


@each_switch
def test_it_trains_and_goes_on_from_a_file_where_it_stopped(copy_task, switches, tmp_path, assert_equal, outcome):
    """As a search does that is interrupted in the stage after a morphism."""
    task, generator = copy_task(), torch.Generator().manual_seed(0)
    recipe = Recipe(epochs=3, patience=None, weights=OptimizerRecipe(rate=0.01), alpha=OptimizerRecipe(rate=0.01))
    first = fit(
        task.model(uneven(switches, inputs=task.input_size, hidden=3), generator=generator), task, recipe, seed=0
    )
    core, origins = morphisms.duplicate_op(first.model.core, 2, 1, 0.1, generator)
    model = with_core(first.model, core)
    migrated = [migrate(each, origins, first.model, model, prefix="core.") for each in first.optimizers]
    snapshots = []

    class Watch:
        def record(self, line):
            pass

        def after_step(self, snapshot):
            snapshots.append(snapshot())

        def failed(self, snapshot):
            raise AssertionError("nothing fails here")

    done = fit(model, task, recipe, seed=1, monitor=Watch(), optimizers=migrated)
    checkpoint.save(tmp_path / "part", snapshots[len(snapshots) // 2], "test")
    again = fit(model, task, recipe, seed=1, optimizers=migrated, resume=checkpoint.load(tmp_path / "part", "test"))
    assert_equal(outcome(again), outcome(done))
