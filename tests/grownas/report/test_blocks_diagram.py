"""The drawing of a cell of blocks is sound SVG, shows each state with its ops, and each node is entered twice."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import pytest

from grownas.blocks import DEFAULT_BLOCKS
from grownas.report.drawings import about, draw
from grownas.space import SearchSpace
from support.blocks import SMALL

SVG = "{http://www.w3.org/2000/svg}"
SPACE = SearchSpace((), (), 6, backbone="blocks", blocks=DEFAULT_BLOCKS)


def test_it_shows_every_state_with_its_ops():
    root = ElementTree.fromstring(draw(SMALL))
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert texts[:10] == [
        "state 0", "output of the cell before the last", "state 1", "output of the cell before",
        "state 2", "fir(3) of state 0", "fir(2)-polynomial(5)-fir(4) of state 1",
        "state 3", "delay(2) of state 1", "polynomial_all(4) of state 2",
    ]  # fmt: skip
    assert texts[10:] == ["yt", "mean"]
    assert "2 cell(s) in a row: 6 FIRs" in root.get("aria-label")
    assert about(SMALL).startswith("Each state sums what two ops make of earlier states.")


@pytest.mark.parametrize("seed", range(8))
def test_wires_enter_each_node_twice(seed):
    genotype = SPACE.sample(random.Random(seed))
    root = ElementTree.fromstring(draw(genotype))
    heads = [path.get("d") for path in root.iter(f"{SVG}path") if path.get("class") == "gc-head"]
    from_above = sum(d.endswith("h8l-4 7z") for d in heads)
    from_left = sum(d.endswith("v8l7 -4z") for d in heads)
    assert from_above + from_left == 2 * len(genotype.nodes)
    assert from_above == sum(i + 1 in [e.reads for e in node.edges] for i, node in enumerate(genotype.nodes))
