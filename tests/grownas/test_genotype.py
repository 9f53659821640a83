"""Genotypes: what is written is read, and what is wrong is refused with its place."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.bits import units
from grownas.errors import GenotypeError
from grownas.genotype import COMBINES, Genotype, Node, Op
from grownas.ops import ACTIVATION


@st.composite
def genotypes(draw):
    share_projection = draw(st.booleans())
    nodes = []
    for _ in range(draw(st.integers(1, 4))):
        weights = draw(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=6))
        total = sum(weights)
        nodes.append(
            Node(
                tuple(
                    Op(
                        draw(st.sampled_from(COMBINES)),
                        draw(st.sampled_from(list(ACTIVATION))),
                        min(weight / total, 1.0),
                        share_projection and draw(st.booleans()),
                    )
                    for weight in weights
                )
            )
        )
    made = Genotype(tuple(nodes), draw(st.booleans()), share_projection)
    width = st.integers(2, 16)
    return made.with_bits([draw(st.tuples(width, width)) for _ in units(made)]) if draw(st.booleans()) else made


def plain(**changes):
    """A good genotype as a mapping, with changes at the top level."""
    ops = [
        {"combine": "hadamard", "activation": "tanh", "share": 0.7},
        {"combine": "add", "activation": "identity", "share": 0.3},
    ]
    tree = {"format": "grownas.genotype", "version": 1, "backbone": "chain", "nodes": [{"ops": ops}]}
    return {key: value for key, value in {**tree, **changes}.items() if value is not ...}


def with_op(**changes):
    """A good genotype but for the second op of its second node."""
    tree = plain()
    good = tree["nodes"][0]["ops"]
    bad = {key: value for key, value in {**good[1], **changes}.items() if value is not ...}
    tree["nodes"].append({"ops": [good[0], bad]})
    return tree


@settings(deadline=None)
@given(genotypes())
def test_a_genotype_survives_json(genotype):
    again = Genotype.from_dict(json.loads(json.dumps(genotype.to_dict())))
    assert again == genotype
    assert hash(again) == hash(genotype)


@settings(deadline=None)
@given(genotypes())
def test_a_genotype_survives_pickle(genotype):
    assert pickle.loads(pickle.dumps(genotype)) == genotype  # noqa: S301


def test_a_genotype_survives_a_file_which_is_written_whole(tmp_path):
    genotype = Genotype((Node((Op("add", "tanh", 0.1 + 0.2), Op("hadamard", "relu", 0.7))),), highway=True)
    path = tmp_path / "genotype.json"
    genotype.save(path)
    assert Genotype.load(str(path)) == genotype
    assert [file.name for file in tmp_path.iterdir()] == ["genotype.json"]


def test_the_format_is_the_contracts():
    genotype = Genotype((Node((Op("hadamard", "tanh", 0.7), Op("add", "identity", 0.3))),))
    assert genotype.to_dict() == plain()
    assert Genotype.from_dict(plain()) == genotype
    assert Genotype.from_dict(plain(highway=True, share_projection=False)) == Genotype(genotype.nodes, highway=True)


def test_switches_and_a_carriers_projection_are_written():
    op = Op("add", "identity", 1.0, own_projection=True)
    tree = Genotype((Node((op,)),), share_projection=True).to_dict()
    assert tree["share_projection"] is True
    assert "highway" not in tree
    assert tree["nodes"][0]["ops"][0]["own_projection"] is True


def test_bit_widths_are_written_and_read_and_can_be_taken_away():
    genotype = Genotype((Node((Op("add", "tanh", 0.5), Op("hadamard", "relu", 0.5))),), highway=True)
    quantised = genotype.with_bits([(4, 8), (2, 2), (16, 3)])
    (tree,) = quantised.to_dict()["nodes"]
    assert [op["bits"] for op in tree["ops"]] == [[4, 8], [2, 2]]
    assert tree["gate_bits"] == [16, 3]
    assert quantised.bits == ((4, 8), (2, 2), (16, 3))
    assert genotype.bits == ()
    assert quantised.with_bits([]) == genotype
    assert quantised.in_words()[1:] == [
        "node 1: reads x_t and h_(t-1)  (gate: 16-bit weights, 3-bit inputs)",
        "   50.00%  add/tanh  (4-bit weights, 8-bit inputs)",
        "   50.00%  hadamard/relu  (2-bit weights, 2-bit inputs)",
    ]
    with pytest.raises(GenotypeError, match="bits: 2 pairs of widths, expected 3, one per projection and gate"):
        genotype.with_bits([(4, 8), (2, 2)])


def test_ops_that_share_a_projection_have_its_bit_widths():
    ops = tuple(Op("add", name, 0.25) for name in ("tanh", "relu", "sigmoid"))
    carrier = Op("add", "identity", 0.25, own_projection=True)
    genotype = Genotype((Node((*ops, carrier)),), share_projection=True).with_bits([(4, 8), (2, 2)])
    assert [op.bits for op in genotype.nodes[0].ops] == [(4, 8)] * 3 + [(2, 2)]
    assert genotype.bits == ((4, 8), (2, 2))


def test_shares_may_be_off_by_float32_rounding_only():
    thirds = (1 / 3 + 2e-7, 1 / 3, 1 / 3)
    Genotype((Node(tuple(Op("add", "tanh", share) for share in thirds)),))
    with pytest.raises(GenotypeError, match=r"nodes\[0\]: shares sum to 1\.00001, expected 1"):
        Genotype((Node((Op("add", "tanh", 0.5), Op("add", "relu", 0.50001))),))


SHARED = {"combine": "add", "activation": "tanh", "share": 0.5}
HUGE = 10**400  # an int beyond every float

WRONG = {
    "not an object": ([1], r"genotype: \[1\] is not an object"),
    "unknown key": (plain(highwai=True), "key: unknown 'highwai'.*did you mean 'highway'"),
    "no format": (plain(format=...), "genotype: format missing"),
    "no nodes": (plain(nodes=...), "genotype: nodes missing"),
    "format": (plain(format="grownas.genotyp"), "format: 'grownas.genotyp' is not supported; expected"),
    "version": (plain(version=2), "version: 2 is not supported; expected 1"),
    "version true": (plain(version=True), "version: True is not supported"),
    "backbone": (plain(backbone="tree"), "backbone: 'tree' is not supported; expected 'chain' or 'dag'"),
    "backbone no text": (plain(backbone=["dag"]), r"backbone: \['dag'\] is not supported; expected 'chain' or 'dag'"),
    "concat of a chain": (plain(concat=[1]), "genotype: key: unknown 'concat', expected one of .*share_projection$"),
    "highway": (plain(highway=1), "highway: 1 is not true or false"),
    "share_projection": (plain(share_projection="yes"), "share_projection: 'yes' is not true or false"),
    "nodes no list": (plain(nodes={}), r"nodes: \{\} is not a list"),
    "nodes empty": (plain(nodes=[]), "nodes: empty"),
    "node no object": (plain(nodes=[3]), r"nodes\[0\]: 3 is not an object with ops"),
    "node's key": (plain(nodes=[{"ops": [], "op": 1}]), r"nodes\[0\]: key: unknown 'op'.*did you mean 'ops'"),
    "no ops": (plain(nodes=[{}]), r"nodes\[0\]: ops missing"),
    "ops empty": (plain(nodes=[{"ops": []}]), r"nodes\[0\]\.ops: empty"),
    "op no object": (plain(nodes=[{"ops": ["add"]}]), r"nodes\[0\]\.ops\[0\]: 'add' is not an object"),
    "op's key": (with_op(weight=1), r"nodes\[1\]\.ops\[1\]: key: unknown 'weight'"),
    "no share": (with_op(share=...), r"nodes\[1\]\.ops\[1\]: share missing"),
    "combine": (with_op(combine="hadamrd"), r"nodes\[1\]\.ops\[1\]\.combine: unknown 'hadamrd'.*mean 'hadamard'"),
    "activation": (with_op(activation="tahn"), r"nodes\[1\]\.ops\[1\]\.activation: unknown 'tahn'.*mean 'tanh'"),
    "activation no text": (with_op(activation=["tanh"]), r"nodes\[1\]\.ops\[1\]\.activation: unknown \['tanh'\]"),
    "share zero": (with_op(share=0), r"nodes\[1\]\.ops\[1\]\.share: 0 is not a number above 0"),
    "share negative": (with_op(share=-0.3), r"nodes\[1\]\.ops\[1\]\.share: -0\.3 is not"),
    "share above 1": (with_op(share=1.3), r"nodes\[1\]\.ops\[1\]\.share: 1\.3 is not"),
    "share text": (with_op(share="0.3"), r"nodes\[1\]\.ops\[1\]\.share: '0\.3' is not"),
    "share true": (with_op(share=True), r"nodes\[1\]\.ops\[1\]\.share: True is not"),
    "share nan": (with_op(share=float("nan")), r"nodes\[1\]\.ops\[1\]\.share: nan is not"),
    "share inf": (with_op(share=float("inf")), r"nodes\[1\]\.ops\[1\]\.share: inf is not"),
    "share huge": (with_op(share=HUGE), r"nodes\[1\]\.ops\[1\]\.share: 1000"),
    "sum": (with_op(share=0.2), r"nodes\[1\]: shares sum to 0\.9, expected 1"),
    "bits": (with_op(bits=[1, 8]), r"nodes\[1\]\.ops\[1\]\.bits: \(1, 8\) is not a width of .* from 2 to 16"),
    "bits no list": (with_op(bits=8), r"nodes\[1\]\.ops\[1\]\.bits: 8 is not a list"),
    "bits of one number": (with_op(bits=[8]), r"nodes\[1\]\.ops\[1\]\.bits: \(8,\) is not a width"),
    "bits true": (with_op(bits=[True, 8]), r"nodes\[1\]\.ops\[1\]\.bits: \(True, 8\) is not a width"),
    "bits of some": (with_op(bits=[4, 8]), "bits: 3 of 4 ops have none; give bits to all ops or to none"),
    "bits of a gate": (
        plain(nodes=[{**plain()["nodes"][0], "gate_bits": [4, 8]}]),
        r"nodes\[0\]\.gate_bits: only allowed with highway",
    ),
    "bits of a shared projection": (
        plain(share_projection=True, nodes=[{"ops": [{**SHARED, "bits": [4, 4]}, {**SHARED, "bits": [4, 8]}]}]),
        r"nodes\[0\]\.ops\[1\]\.bits: \(4, 8\), but ops\[0\] has \(4, 4\); ops that share a projection have the same",
    ),
    "own_projection": (with_op(own_projection=1), r"nodes\[1\]\.ops\[1\]\.own_projection: 1 is not true or false"),
    "own_projection alone": (with_op(own_projection=True), r"ops\[1\]\.own_projection: only allowed with share_pro"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_quotes_the_place(case):
    tree, message = WRONG[case]
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_dict(tree)


def test_a_genotype_made_in_python_is_checked_too():
    node = Node((Op("add", "tanh"),))
    with pytest.raises(GenotypeError, match="nodes: empty"):
        Genotype(())
    with pytest.raises(GenotypeError, match=r"nodes\[1\]\.ops: empty"):
        Genotype((node, Node(())))
    with pytest.raises(GenotypeError, match=r"nodes\[0\]\.ops\[0\]\.activation: unknown 'thanh'.*'tanh'"):
        Genotype((Node((Op("add", "thanh"),)),))
    with pytest.raises(GenotypeError, match="highway: 'yes' is not true or false"):
        Genotype((node,), highway="yes")


DAMAGED = {
    "half": ('{"format": "grow', "not JSON.*Unterminated string.*line 1"),
    "empty": ("", "not JSON"),
    "NaN": (json.dumps(with_op(share=float("nan"))), "NaN is not a finite number"),
    "beyond a float": (json.dumps(plain()).replace("0.7", "1e999"), r"nodes\[0\]\.ops\[0\]\.share: inf is not"),
    "number of 5,000 digits": (json.dumps(plain()).replace("0.7", "7" * 5000), "not JSON.*digits"),
    "key twice": ('{"format": "grownas.genotype", "format": 1}', "key 'format' appears twice"),
    "too deep": ("[" * 100_000, "cannot be read"),
    "place": (json.dumps(plain(version=3)), "version: 3 is not supported"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_by_name_and_reason(case, tmp_path):
    text, message = DAMAGED[case]
    path = tmp_path / "cell.json"
    path.write_text(text)
    with pytest.raises(GenotypeError, match=r"cell\.json: .*" + message):
        Genotype.load(path)


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(GenotypeError, match=r"binary\.json: cannot be read"):
        Genotype.load(tmp_path / "binary.json")
    with pytest.raises(GenotypeError, match=r"none\.json: no such file"):
        Genotype.load(tmp_path / "none.json")
    with pytest.raises(GenotypeError, match=r"the folder has no genotype\.json; give the folder of a finished run"):
        Genotype.load(tmp_path)


def test_reading_the_module_needs_no_torch():
    """The command line's help stays quick."""
    code = "import sys, grownas.genotype, grownas.space; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
