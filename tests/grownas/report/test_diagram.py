"""The drawing of a cell is sound SVG and shows each op with its share."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from grownas.genotype import Genotype, Node, Op
from grownas.report.diagram import BAR_WIDTH, diagram

SVG = "{http://www.w3.org/2000/svg}"


def shown(genotype: Genotype) -> tuple[ElementTree.Element, list[str]]:
    root = ElementTree.fromstring(diagram(genotype))
    return root, ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def test_it_shows_every_op_with_its_share(genotype):
    root, texts = shown(genotype)
    assert root.tag == f"{SVG}svg"
    for number, node in enumerate(genotype.nodes, start=1):
        assert f"node {number}" in texts
        for op in node.ops:
            assert f"{100 * op.share:.1f} %" in texts
            assert f"{op.name} {op.share:.1%}" in root.get("aria-label")
    assert [texts.count(name) for name in ("identity", "tanh", "sigmoid", "relu")] == [4, 4, 4, 4]
    bars = [float(bar.get("width")) for bar in root.iter(f"{SVG}rect") if "gc-bar" in bar.get("class")]
    shares = [op.share for node in genotype.nodes for op in node.ops]
    assert bars == pytest.approx([BAR_WIDTH * share for share in shares], abs=0.051)


def test_it_shows_the_input_the_states_and_the_way_back(genotype):
    _, texts = shown(genotype)
    assert {"xt", "ht", "s1", "next step"} <= set(texts)
    assert sum(text.startswith("ht") for text in texts) == 2


def test_everything_lies_inside_and_nothing_has_an_id():
    genotype = Genotype(tuple(Node(tuple(Op("add", "tanh", 1 / 12) for _ in range(12))) for _ in range(8)))
    root, _ = shown(genotype)
    _, _, width, height = map(float, root.get("viewBox").split())
    boxes = list(root.iter(f"{SVG}rect"))
    assert len(boxes) == 3 + 8 * (1 + 24)
    for box in boxes:
        x, y, wide, high = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    assert not [element for element in root.iter() if element.get("id")]


def test_a_highway_is_named():
    node = Node((Op("hadamard", "relu", 1.0),))
    assert "highway gate" in shown(Genotype((node,), highway=True))[1]
    assert "highway gate" not in shown(Genotype((node,)))[1]
