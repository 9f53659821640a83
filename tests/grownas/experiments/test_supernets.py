"""What a problem builds in each space: supernets whose nodes have given ops, and cells of genotypes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.cells.cell import GrownRNN
from grownas.config.loading import load
from grownas.experiments.experiment import Experiment
from grownas.experiments.text import TextExperiment
from grownas.genotype import DagGenotype, DagNode, Genotype
from grownas.readout import LinearReadout

DAG = ["space.backbone=dag", "start.use=random", "space.hidden_size=5", "strategy={use: random}", "backend=torch"]
CELL = DagGenotype((DagNode(0, "relu"), DagNode(1, "tanh")))


def plain(*overrides):
    """An experiment on a task of three series."""

    def model(core, *, generator):
        return LinearReadout(core, 3, generator=generator)

    task = SimpleNamespace(name="plain", kind="plain", input_size=3, model=model)
    return Experiment.of(load("index_returns/growing", [*DAG, *overrides]), SimpleNamespace(), task)


def text(*overrides):
    def model(*cores, generator):
        return LinearReadout(cores[0], 7, generator=generator)

    own = [one for one in DAG if not one.startswith("start.")]
    task = SimpleNamespace(name="text", kind="language", input_size=None, model=model)
    return TextExperiment.of(load("penn_treebank/growing_cpu", ["space={}", *own, *overrides]), SimpleNamespace(), task)


@pytest.mark.parametrize(("make", "inputs"), [(plain, 3), (text, 5)])
@pytest.mark.parametrize("norm", [False, True])
def test_every_edge_of_a_node_has_the_nodes_ops(make, inputs, norm):
    reduction = "sum" if norm else "mean"
    made = make(f"space.norm={str(norm).lower()}", f"space.edge_reduction={reduction}")
    nodes = [[("gated", "tanh"), ("gated", "none")], made.space.ops]
    problem = made.problem(nodes)
    core = problem.build(nodes, "one").core
    assert isinstance(core, DagBackbone)
    assert [core.op_names(edge) for edge in range(3)] == [nodes[0], nodes[1], nodes[1]]
    assert (core.input_size, core.hidden_size, core.norm, core.edge_reduction, core.backend) == (
        *(inputs, 5, norm, reduction),
        "torch",
    )
    assert not core.training  # a batch of one stream can be evaluated
    assert len(problem.start.core.nodes) == 2


@pytest.mark.parametrize("make", [plain, text])
def test_equal_purposes_give_equal_weights(make):
    problem = make().problem([make().space.ops])
    ops = [problem.space.ops] * 2
    for build, what in ((problem.build, ops), (problem.build_cell, CELL)):
        one, same, other = (build(what, purpose).state_dict() for purpose in ("a", "a", "b"))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert not torch.equal(one["readout.weight"], other["readout.weight"])


@pytest.mark.parametrize(("make", "inputs"), [(plain, 3), (text, 5)])
@pytest.mark.parametrize("genotype", [CELL, Genotype.load("darts_v2")], ids=["small", "published"])
def test_a_cell_of_a_genotype_is_built(make, inputs, genotype):
    made = make()
    core = made.problem([made.space.ops]).build_cell(genotype, "one").core
    assert isinstance(core, GrownRNN)
    assert (core.genotype, core.input_size, core.hidden_size, core.backend) == (genotype, inputs, 5, "torch")


def test_a_chain_is_built_where_the_space_has_chains():
    made = plain("space={hidden_size: 5, highway: true}")
    core = made.problem([made.space.ops]).start.core
    assert isinstance(core, Backbone)
    assert core.highway
    assert made.space.max_ops == 8
