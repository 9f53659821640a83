"""The drawing of a cell is sound SVG and shows each op with its share."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from grownas.genotype import Genotype, Node, Op
from grownas.report.diagram import CARDS, FULL, diagram

SVG = "{http://www.w3.org/2000/svg}"


def shown(genotype: Genotype, *layout, **fates) -> tuple[ElementTree.Element, list[str]]:
    root = ElementTree.fromstring(diagram(genotype, *layout, **fates))
    return root, ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("layout", [FULL, CARDS])
def test_it_shows_every_op_with_its_share(genotype, layout):
    root, texts = shown(genotype, layout)
    assert root.tag == f"{SVG}svg"
    for number, node in enumerate(genotype.nodes, start=1):
        assert f"node {number}" in texts
        for op in node.ops:
            assert f"{100 * op.share:.1f} %" in texts
            assert f"{op.name} {op.share:.1%}" in root.get("aria-label")
    assert [texts.count(name) for name in ("identity", "tanh", "sigmoid", "relu")] == [4, 4, 4, 4]
    bars = [float(bar.get("width")) for bar in root.iter(f"{SVG}rect") if "gc-bar" in bar.get("class")]
    shares = [op.share for node in genotype.nodes for op in node.ops]
    assert bars == pytest.approx([layout.bar_width * share for share in shares], abs=0.051)


def test_it_shows_the_input_the_states_and_the_way_back(genotype):
    _, texts = shown(genotype)
    assert {"xt", "ht", "s1", "next step"} <= set(texts)
    assert sum(text.startswith("ht") for text in texts) == 2


def test_the_cards_alone_are_compact(genotype):
    root, texts = shown(genotype, CARDS)
    assert not {"xt", "ht", "s1", "next step"} & set(texts)
    assert not list(root.iter(f"{SVG}path"))
    full, _ = shown(genotype, FULL)
    assert float(root.get("width")) < 0.6 * float(full.get("width"))
    assert float(root.get("height")) < 0.8 * float(full.get("height"))


def test_what_went_and_came_is_set_off_and_said(genotype):
    root, _ = shown(genotype, CARDS, gone={(0, 2)}, new={(1, 7)})
    texts = {text.get("class"): "".join(text.itertext()) for text in root.iter(f"{SVG}text") if text.get("class")}
    assert texts["gc-gone"] == genotype.nodes[0].ops[2].activation
    assert texts["gc-new"] == genotype.nodes[1].ops[7].activation
    assert "gc-most" in [box.get("class") for box in root.iter(f"{SVG}rect")]  # a bar beside the new one
    words = root.get("aria-label")
    assert words.count("(gone)") == words.count("(new)") == 1
    assert "(" not in shown(genotype)[0].get("aria-label")


@pytest.mark.parametrize(("layout", "pills"), [(FULL, 3), (CARDS, 0)])
def test_everything_lies_inside_and_nothing_has_an_id(layout, pills):
    genotype = Genotype(tuple(Node(tuple(Op("add", "tanh", 1 / 12) for _ in range(12))) for _ in range(8)))
    root, _ = shown(genotype, layout)
    _, _, width, height = map(float, root.get("viewBox").split())
    boxes = list(root.iter(f"{SVG}rect"))
    assert len(boxes) == pills + 8 * (1 + 24)
    for box in boxes:
        x, y, wide, high = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    assert not [element for element in root.iter() if element.get("id")]


def test_a_highway_is_named():
    node = Node((Op("hadamard", "relu", 1.0),))
    assert "highway gate" in shown(Genotype((node,), highway=True))[1]
    assert "highway gate" not in shown(Genotype((node,)))[1]
