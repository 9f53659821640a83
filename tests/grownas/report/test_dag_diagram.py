"""The drawing of a DAG is sound SVG, shows each state, and its wires lead where the genotype says."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op, published
from grownas.report.dag_diagram import wires
from grownas.report.diagram import diagram
from grownas.report.drawings import about, draw

SVG = "{http://www.w3.org/2000/svg}"


def shown(genotype) -> tuple[ElementTree.Element, list[str]]:
    root = ElementTree.fromstring(draw(genotype))
    return root, ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("name", sorted(published()))
def test_it_shows_every_state_with_its_activation_and_says_what_it_reads(name):
    genotype = Genotype.load(name)
    root, texts = shown(genotype)
    states = [(texts[i], texts[i + 1]) for i, text in enumerate(texts) if text.startswith("state ")]
    names = ["tanh", *(node.activation for node in genotype.nodes)]
    assert states == [(f"state {i}", name) for i, name in enumerate(names)]
    assert {"xt", "ht", "mean", "next step"} <= set(texts)
    for i, node in enumerate(genotype.nodes, start=1):
        assert f"state {i}: reads state {node.reads}, {node.activation};" in root.get("aria-label")


def heads(root: ElementTree.Element, pattern: str) -> list[tuple[float, float]]:
    paths = [path.get("d") for path in root.iter(f"{SVG}path") if path.get("class") == "gc-head"]
    return [tuple(map(float, re.match(r"M(\S+) (\S+?)(?=[a-z])", d).groups())) for d in paths if re.search(pattern, d)]


@given(
    nodes=st.lists(st.integers(0, 9), min_size=1, max_size=9),
    concat=st.sets(st.integers(0, 9)),
)
def test_each_state_is_entered_once_and_wires_that_pass_a_state_lie_apart(nodes, concat):
    genotype = DagGenotype(
        tuple(DagNode(reads % (i + 1), "tanh") for i, reads in enumerate(nodes)),
        tuple(i for i in concat if i <= len(nodes)),
    )
    root, _ = shown(genotype)
    cards = [
        (float(box.get("y")), float(box.get("height")))
        for box in root.iter(f"{SVG}rect")
        if box.get("class") == "gc-card"
    ]
    from_above = [y + 7 for _, y in heads(root, "h8l-4 7z")]
    from_left = [y + 4 for _, y in heads(root, "v8l7 -4z")]
    for i, (top, height) in enumerate(cards):
        entered = from_above.count(top) + sum(top < y < top + height for y in from_left)
        assert entered == (2 if i == 0 else 1)  # node 0 reads the input and the state before
    found = wires(genotype)
    passing = [(wire.source, i) for wire in found for i in wire.readers]
    assert sorted(passing) == sorted(
        (node.reads, i) for i, node in enumerate(genotype.nodes, start=1) if node.reads < i - 1
    )
    for one in found:
        for other in found:
            overlap = one.source <= other.readers[-1] and other.source <= one.readers[-1]
            assert one is other or not overlap or one.lane != other.lane


def test_everything_lies_inside_and_nothing_has_an_id():
    root, _ = shown(DagGenotype(tuple(DagNode(i // 2, "sigmoid") for i in range(30))))
    _, _, width, height = map(float, root.get("viewBox").split())
    for box in root.iter(f"{SVG}rect"):
        x, y, wide, high = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    for path in root.iter(f"{SVG}path"):
        x, y = map(float, re.match(r"M(\S+) (\S+?)(?=[A-Za-z])", path.get("d")).groups())
        assert 0 <= x <= width
        assert 0 <= y <= height
    assert not [element for element in root.iter() if element.get("id")]


def test_the_output_gathers_the_states_of_concat():
    genotype = Genotype.load("enas")
    root, _ = shown(genotype)
    boxes = [box for box in root.iter(f"{SVG}rect") if box.get("class") == "gc-card"]
    right = float(boxes[0].get("x")) + float(boxes[0].get("width"))
    middles = [float(box.get("y")) + float(box.get("height")) / 2 for box in boxes]
    starts = [
        re.match(r"M(\S+) (\S+?)H", path.get("d")) for path in root.iter(f"{SVG}path") if path.get("class") == "gc-wire"
    ]
    leaving = [float(start[2]) for start in starts if start and float(start[1]) == right]
    assert [middles.index(y) for y in leaving] == list(genotype.concat)


def test_a_chain_is_drawn_and_described_as_ever():
    chain = Genotype((Node((Op("add", "tanh"),)),))
    assert draw(chain) == diagram(chain)
    assert about(chain).startswith("Each node mixes its ops;")
    assert about(Genotype.load("enas")).startswith("Each state reads one earlier state")
