"""Genotypes of the DAG backbone and the published cells: what is written is read, and what is wrong is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.cells.cell import GrownRNN
from grownas.errors import GenotypeError
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op, published
from grownas.ops import ACTIVATION

# quark0/darts, rnn/genotypes.py at f276dd3: (activation, state read) of each node, and the states that are averaged
DARTS_V1 = ("relu 0, relu 1, tanh 2, relu 3, relu 4, identity 1, relu 5, relu 1", (1, 2, 3, 4, 5, 6, 7, 8))
DARTS_V2 = ("sigmoid 0, relu 1, relu 1, identity 1, tanh 2, sigmoid 5, tanh 3, relu 5", (1, 2, 3, 4, 5, 6, 7, 8))
ENAS = (
    "tanh 0, tanh 1, relu 1, tanh 3, tanh 3, relu 3, relu 4, relu 7, relu 8, relu 8, relu 8",
    (2, 5, 6, 9, 10, 11),
)


@st.composite
def dags(draw):
    nodes = [
        DagNode(draw(st.integers(0, i)), draw(st.sampled_from(list(ACTIVATION))))
        for i in range(draw(st.integers(1, 9)))
    ]
    made = DagGenotype(tuple(nodes), tuple(draw(st.lists(st.integers(0, len(nodes)), unique=True))))
    width = st.integers(2, 16)
    return (
        made.with_bits([draw(st.tuples(width, width)) for _ in range(len(nodes) + 1)]) if draw(st.booleans()) else made
    )


@given(dags())
def test_it_survives_json_and_pickle(genotype):
    for again in (
        Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))),
        DagGenotype.from_dict(genotype.to_dict()),
        pickle.loads(pickle.dumps(genotype)),  # noqa: S301
    ):
        assert again == genotype
        assert hash(again) == hash(genotype)


def plain(**changes):
    """A good genotype as a mapping, with changes at the top level."""
    nodes = [{"reads": 0, "activation": "tanh"}, {"reads": 1, "activation": "relu"}]
    tree = {"format": "grownas.genotype", "version": 1, "backbone": "dag", "nodes": nodes}
    return {key: value for key, value in {**tree, **changes}.items() if value is not ...}


def with_node(**changes):
    """A good genotype but for its second node."""
    tree = plain()
    tree["nodes"][1] = {key: value for key, value in {**tree["nodes"][1], **changes}.items() if value is not ...}
    return tree


def test_the_format_and_its_defaults():
    genotype = DagGenotype((DagNode(0, "tanh"), DagNode(1, "relu")))
    assert genotype.concat == (1, 2)
    assert genotype.to_dict() == plain()
    assert Genotype.from_dict(plain()) == Genotype.from_dict(plain(concat=[2, 1])) == genotype
    last = Genotype.from_dict(plain(concat=[2, 0]))
    assert last == DagGenotype(genotype.nodes, (0, 2))
    assert last.to_dict() == plain(concat=[0, 2])


def test_bit_widths_are_written_and_read():
    genotype = DagGenotype((DagNode(0, "tanh"), DagNode(1, "relu")))
    quantised = genotype.with_bits([(8, 8), (4, 6), (2, 2)])
    tree = quantised.to_dict()
    assert (tree["input_bits"], [node["bits"] for node in tree["nodes"]]) == ([8, 8], [[4, 6], [2, 2]])
    assert quantised.in_words()[1] == "state 1: reads state 0, tanh  (4-bit weights, 6-bit inputs)"
    assert quantised.with_bits([]) == genotype
    for wrong, message in (
        (with_node(bits=[4, 6]), "bits: 2 of 3 ops have none; give bits to all ops or to none"),
        (plain(input_bits=[4, 17]), r"input_bits: \(4, 17\) is not a width"),
    ):
        with pytest.raises(GenotypeError, match=message):
            Genotype.from_dict(wrong)
    with pytest.raises(GenotypeError, match="bits: 1 pairs of widths, expected 3, one per node"):
        genotype.with_bits([(4, 8)])


def test_it_is_frozen():
    genotype = DagGenotype((DagNode(0, "tanh"),))
    for one, name in ((genotype, "concat"), (genotype.nodes[0], "reads")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, 0)


def test_files_of_both_backbones_are_read_by_one_call(tmp_path):
    chain = Genotype((Node((Op("add", "tanh"),)),))
    dag = DagGenotype((DagNode(0, "tanh"), DagNode(0, "relu")), (2,))
    for genotype in (chain, dag):
        genotype.save(tmp_path / "genotype.json")
        assert Genotype.load(tmp_path / "genotype.json") == DagGenotype.load(tmp_path / "genotype.json") == genotype


WRONG = {
    "version": (plain(version=2), "version: 2 is not supported; expected 1"),
    "unknown key": (plain(concatt=[1]), "key: unknown 'concatt'.*did you mean 'concat'"),
    "no nodes": (plain(nodes=...), "genotype: nodes missing"),
    "nodes no list": (plain(nodes={}), r"nodes: \{\} is not a list"),
    "nodes empty": (plain(nodes=[]), "nodes: empty"),
    "node no object": (plain(nodes=[3]), r"nodes\[0\]: 3 is not an object with reads, activation"),
    "a chain's node": (
        plain(nodes=[{"ops": []}]),
        r"nodes\[0\]: key: unknown 'ops', expected one of reads, activation",
    ),
    "no activation": (with_node(activation=...), r"nodes\[1\]: activation missing"),
    "activation": (with_node(activation="rellu"), r"nodes\[1\]\.activation: unknown 'rellu'.*mean 'relu'"),
    "activation no text": (
        with_node(activation=3),
        r"nodes\[1\]\.activation: unknown 3, expected one of identity, tanh",
    ),
    "none": (with_node(activation="none"), r"nodes\[1\]\.activation: 'none' exists in the search only"),
    "reads itself": (with_node(reads=2), r"nodes\[1\]\.reads: 2, but only states 0\.\.1 exist before it"),
    "reads a later one": (with_node(reads=7), r"nodes\[1\]\.reads: 7, but only states 0\.\.1 exist"),
    "reads negative": (with_node(reads=-1), r"nodes\[1\]\.reads: -1, but only"),
    "reads true": (with_node(reads=True), r"nodes\[1\]\.reads: True, but only"),
    "reads text": (with_node(reads="1"), r"nodes\[1\]\.reads: '1', but only"),
    "reads fraction": (with_node(reads=1.0), r"nodes\[1\]\.reads: 1\.0, but only"),
    "first reads itself": (
        plain(nodes=[{"reads": 1, "activation": "tanh"}]),
        r"nodes\[0\]\.reads: 1, but only state 0 exists before it",
    ),
    "concat no list": (plain(concat=2), "concat: 2 is not a list"),
    "concat empty": (plain(concat=[]), "concat: empty; list the states whose mean is h_t, or leave it out for all"),
    "concat beyond": (plain(concat=[1, 3]), r"concat\[1\]: 3 is not a state; expected one of 0\.\.2"),
    "concat text": (plain(concat=["1"]), r"concat\[0\]: '1' is not a state"),
    "concat true": (plain(concat=[True]), r"concat\[0\]: True is not a state"),
    "concat twice": (plain(concat=[1, 2, 1]), r"concat\[2\]: state 1 appears twice"),
    "highway": (plain(highway=True), "highway: only the chain backbone has this key; leave it out"),
    "highway off": (plain(highway=False), "highway: only the chain backbone has this key; leave it out"),
    "share_projection": (plain(share_projection=True), "share_projection: only the chain backbone has this key"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_quotes_the_place(case):
    tree, message = WRONG[case]
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_dict(tree)


def test_one_made_in_python_is_checked_too():
    with pytest.raises(GenotypeError, match="nodes: empty"):
        DagGenotype(())
    with pytest.raises(GenotypeError, match=r"nodes\[0\]\.reads: 1, but only state 0 exists"):
        DagGenotype((DagNode(1, "tanh"),))
    with pytest.raises(GenotypeError, match=r"concat\[0\]: 2 is not a state"):
        DagGenotype((DagNode(0, "tanh"),), (2,))


@pytest.mark.parametrize(("name", "cell"), [("darts_v1", DARTS_V1), ("darts_v2", DARTS_V2), ("enas", ENAS)])
def test_the_published_cells_are_as_published(name, cell):
    genotype = Genotype.load(name)
    assert ", ".join(f"{node.activation} {node.reads}" for node in genotype.nodes) == cell[0]
    assert genotype.concat == cell[1]


def test_every_published_cell_is_tested():
    assert list(published()) == ["darts_v1", "darts_v2", "enas"]


def test_enas_averages_its_loose_ends():
    genotype = Genotype.load("enas")
    assert set(genotype.concat) == set(range(1, 12)) - {node.reads for node in genotype.nodes}


def test_a_file_goes_before_a_published_cell_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = DagGenotype((DagNode(0, "relu"),))
    own.save("enas")
    assert Genotype.load("enas") == own
    assert len(Genotype.load("darts_v1").nodes) == 8


def test_an_unknown_name_is_told_the_nearest():
    message = r"darts_v3: no such file; give the path .* darts_v1, darts_v2, enas; did you mean 'darts_v\d'"
    with pytest.raises(GenotypeError, match=message):
        Genotype.load("darts_v3")


@pytest.mark.parametrize(
    ("name", "nodes", "millions"), [("darts_v1", 8, 23.0), ("darts_v2", 8, 23.0), ("enas", 11, 27.3)]
)
def test_parameters_at_850_units_with_the_usual_decoder(name, nodes, millions):
    """Vocabulary 10,000, embedding tied to the decoder, which has a bias; DARTS is published as "23M model params"."""
    V, H = 10_000, 850
    cell = GrownRNN(Genotype.load(name), H, H)
    count = sum(parameter.numel() for parameter in cell.parameters())
    assert count == (H + H) * 2 * H + nodes * H * 2 * H
    assert round((count + V * H + V) / 1e6, 1) == millions
