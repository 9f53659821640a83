"""Genotypes of blocks and their ops: what is written is read, what is wrong is refused, figures follow by hand."""

from __future__ import annotations

import json

import pytest

from grownas.blocks import DEFAULT_BLOCKS, block
from grownas.blocks_genotype import BlockEdge, BlockNode, BlocksGenotype
from grownas.errors import GenotypeError
from grownas.genotype import Genotype
from support.blocks import SMALL


def plain(**changes):
    """A good genotype as a mapping, with changes at the top level."""
    edges = [{"reads": 0, "op": "fir(3)"}, {"reads": 1, "op": "polynomial(5)"}]
    tree = {"format": "grownas.genotype", "version": 1, "backbone": "blocks", "cells": 1, "nodes": [{"edges": edges}]}
    return {key: value for key, value in {**tree, **changes}.items() if value is not ...}


def with_edges(*edges):
    return plain(nodes=[{"edges": [{"reads": reads, "op": op} for reads, op in edges]}])


def test_the_format_is_read_as_it_is_written(tmp_path):
    genotype = BlocksGenotype((BlockNode((BlockEdge(0, "fir(3)"), BlockEdge(1, "polynomial(5)"))),))
    assert genotype.to_dict() == plain()
    for one in (genotype, SMALL):
        assert Genotype.from_dict(json.loads(json.dumps(one.to_dict()))) == one
        one.save(tmp_path / "genotype.json")
        assert Genotype.load(tmp_path / "genotype.json") == one
        assert hash(one) == hash(Genotype.from_dict(one.to_dict()))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (plain(cells=4), "cells: 4 is not a whole number from 1 to 3"),
        (plain(cells=True), "cells: True is not a whole number"),
        (plain(cells=...), "genotype: cells missing"),
        (plain(highway=True), "genotype: key: unknown 'highway'"),
        (plain(nodes=[]), "nodes: empty"),
        (with_edges((0, "fir(3)")), r"nodes\[0\]\.edges: 1, expected 2"),
        (with_edges((0, "fir(3)"), (2, "fir(3)")), r"nodes\[0\]\.edges\[1\]\.reads: 2, but only states 0\.\.1 exist"),
        (with_edges((1, "fir(3)"), (0, "fir(3)")), "they read states 1, 0, expected two states in ascending order"),
        (with_edges((0, "fir(3)"), (0, "fir(3)")), "they read states 0, 0, expected two states"),
        (with_edges((0, "fir(3)"), (1, "none")), "'none' exists in the search only"),
        (with_edges((0, "fir(3)"), (1, 3)), r"nodes\[0\]\.edges\[1\]\.op: 3 is not the name of an op"),
        (with_edges((0, "fir(3)"), (1, "fir(0)")), r"'fir\(0\)': taps is 0, expected one of 1, 2, 3, \.\."),
    ],
)
def test_what_is_wrong_is_quoted(tree, message):
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_dict(tree)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("polynomial(4)", r"'polynomial\(4\)': order is 4, expected one of 1, 3, 5, \.\."),
        ("fir", r"unknown op 'fir', expected one of none, delay\(samples\), fir\(taps\), .*joined by -"),
        ("fir(4)-fur(3)", r"unknown op 'fur\(3\)'"),
        ("fir(04)", r"unknown op 'fir\(04\)'"),
        ("none(1)", "unknown op"),
        ("fir(2)-none", "none is an op of its own"),
        ("", "unknown op ''"),
    ],
)
def test_a_wrong_op_is_quoted(name, message):
    with pytest.raises(GenotypeError, match=message):
        block(name)


BITS = [(4, 8), (2, 3), (16, 5), (6, 6), (3, 12)]


def test_each_fir_and_polynomial_has_widths_of_its_own():
    found = SMALL.with_bits(BITS)
    assert found.nodes[0].edges[1] == BlockEdge(1, "fir(2)-polynomial(5)-fir(4)", ((2, 3), (16, 5), (6, 6)))
    assert found.nodes[1].edges[0].bits == ()  # a delay
    assert found.bits == tuple(BITS)
    assert found.with_bits(()) == SMALL
    assert SMALL.bits == ()
    assert found.figures == SMALL.figures
    assert "node 1 edge 2 part 2 polynomial(5)  (16-bit weights, 5-bit inputs)" in found.in_words()
    assert Genotype.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert "bits" not in json.dumps(SMALL.to_dict())


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ([[4, 8], [4, 8]], r"nodes\[0\]\.edges\[0\]\.bits: 2 pairs of widths, expected 1, one per FIR and polynomial"),
        ([[4, 17]], r"nodes\[0\]\.edges\[0\]\.bits\[0\]: \(4, 17\) is not a width of weights and one of inputs"),
        ([[4]], r"\.bits\[0\]: \(4,\) is not a width"),
        ([4], r"nodes\[0\]\.edges\[0\]\.bits"),
        ([None], r"nodes\[0\]\.edges\[0\]\.bits"),
        ([], "bits: 1 of 5 ops have none; give bits to all ops or to none"),
    ],
    ids=["count", "width", "pair", "number", "null", "missing"],
)
def test_wrong_widths_are_quoted(bits, message):
    tree = SMALL.with_bits(BITS).to_dict()
    tree["nodes"][0]["edges"][0]["bits"] = bits
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_dict(tree)


def test_the_number_of_widths_is_checked():
    with pytest.raises(GenotypeError, match="bits: 2 pairs of widths, expected 5, one per FIR and polynomial"):
        SMALL.with_bits(BITS[:2])


def test_the_figures_of_ops():
    found = {name: block(name) for name in (*DEFAULT_BLOCKS, "polynomial(1)", "polynomial_all(3)")}
    assert {name: one.memory for name, one in found.items()} == {
        "none": 0, "delay(1)": 1, "fir(4)": 3, "polynomial(5)": 0, "fir(4)-polynomial(5)-fir(4)": 6,
        "polynomial(1)": 0, "polynomial_all(3)": 0,
    }  # fmt: skip
    assert {name: one.multiplications for name, one in found.items()} == {
        "none": 0, "delay(1)": 0, "fir(4)": 16, "polynomial(5)": 10, "fir(4)-polynomial(5)-fir(4)": 42,
        "polynomial(1)": 4, "polynomial_all(3)": 10,
    }  # fmt: skip


def test_the_figures_of_a_network():
    assert SMALL.figures == {"firs": 6, "polynomials": 4, "multiplications": 2 * (12 + 34 + 0 + 12 + 2)}
    assert SMALL.memory == 8  # in each cell 4, through the parts in a row
    assert "state 3: delay(2) of state 1 + polynomial_all(4) of state 2" in SMALL.in_words()
    assert SMALL.op_count == 4
