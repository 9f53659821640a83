"""Plots of a growth are sound SVG in the page's colours; labels keep apart, marks differ by more than colour."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest

from grownas.report import canvas, growth_plots
from grownas.report.history import Fit, Mark, Node, Prediction, Shares, Track


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))
    assert root.tag == "svg"
    return ["".join(text.itertext()) for text in root.iter("text")]


def fit(part: str, begin: int, values: list[float]) -> Fit:
    points = [(begin + 10 * i, value) for i, value in enumerate(values)]
    return Fit(part, begin, begin + 10 * (len(values) - 1), points, points, "-try-" in part)


def split(predicted: float, measured: float, *, accepted: bool = True) -> Prediction:
    return Prediction("split_op", predicted, measured, accepted, "training")


def node(*ops: tuple[str, list[float]], gone: tuple[str, list[float]] | None = None) -> Node:
    tracks = [Track(name, list(enumerate(shares))) for name, shares in ops]
    return Node(tracks, tracks + ([Track(gone[0], list(enumerate(gone[1])))] if gone else []))


FITS = [fit("stage-1", 0, [1, 0.9, 0.8]), fit("stage-2-try-add_node", 20, [0.8, 0.7]), fit("stage-2", 30, [0.8, 0.6])]
MARKS = [Mark(0, "start", True, False), Mark(20, "add node 2", False, True), Mark(30, "split", False, False)]
SHARES = Shares(
    [node(("add/tanh", [0.6, 0.7]), ("hadamard/tanh", [0.4, 0.3])), node(("add/relu", [1.0, 1.0]))], [(0, 1), (1, 2)], 1
)


def draw(name: str, width: float) -> str:
    return {
        "timeline": lambda: growth_plots.timeline(FITS, MARKS, metric="loss", width=width),
        "shares": lambda: growth_plots.share_panels(SHARES, width=width)[0],
        "scatter": lambda: growth_plots.scatter([split(-1e-4, -9e-5), split(-2e-3, 1e-5)], width=width),
    }[name]()


@pytest.mark.parametrize("width", [canvas.WIDE, canvas.NARROW])
@pytest.mark.parametrize("name", ["timeline", "shares", "scatter"])
def test_only_the_pages_colours_and_fonts_are_used(name, width):
    svg = draw(name, width)
    assert texts(svg)
    assert not re.search(r"(fill|stroke): ?#", svg)
    assert set(re.findall(r"var\((--\w+)\)", svg)) <= {*canvas.ROLES.values(), "--sans"}
    assert "DejaVu" not in svg
    assert "<style" not in svg
    assert svg == draw(name, width)


# --- timeline ---


def test_the_timeline_has_every_step_and_a_label_for_each_move():
    shown = texts(growth_plots.timeline(FITS, MARKS, metric="loss", width=canvas.WIDE))
    assert {"start", "add node 2", "split", "loss", "training step", "40"} <= set(shown)
    assert growth_plots.timeline([], [], metric="loss", width=canvas.WIDE) is None


def test_trials_are_fainter_than_what_was_trained_in_full():
    faint = growth_plots.timeline(FITS, [], metric="loss", width=canvas.WIDE).count("opacity: 0.45")
    assert faint == 2  # training and validation of one trial
    full = [one for one in FITS if not one.is_trial]
    assert "opacity: 0.45" not in growth_plots.timeline(full, [], metric="loss", width=canvas.WIDE)


def test_accepted_and_rejected_differ_in_shape_and_colour():
    shapes, colours = zip(*growth_plots.MARKERS.values(), strict=True)
    assert len(set(shapes)) == len(set(colours)) == 3


def test_one_value_can_be_drawn():
    assert "ppl" in texts(
        growth_plots.timeline([Fit("a", 0, 0, [], [(0, 5.0)])], [], metric="ppl", width=canvas.NARROW)
    )


def apart(labels) -> bool:
    """No label meets another in its lane, nor the line that rises to one in a higher lane."""
    same = all(a.lane != b.lane or a.end <= b.begin or b.end <= a.begin for a, b in itertools.combinations(labels, 2))
    return same and not any(
        low.begin < high.mark.step < low.end for low, high in itertools.permutations(labels, 2) if low.lane < high.lane
    )


@pytest.mark.parametrize("steps", [[0], [0, 1000], [0, 50, 100, 990], [0, 300, 320, 340, 1000], [970, 980, 1000]])
def test_lying_labels_keep_apart_and_inside(steps):
    marks = [Mark(step, "split ⊗ tanh", bool(i % 2), False) for i, step in enumerate(steps)]
    labels = growth_plots._lying(marks, 1000, 1000 / 6)
    assert len(labels) == len(steps)
    assert apart(labels)
    assert all(0 <= label.begin <= label.end <= 1030 and 1 <= label.lane <= growth_plots.LANES for label in labels)


def test_a_crowd_of_marks_has_standing_labels_and_accepted_ones_come_first():
    marks = [Mark(20 * i, f"move {i}", i % 5 == 0, False) for i in range(50)]
    assert growth_plots._lying(marks, 1000, 1000 / 6) is None
    standing = growth_plots._standing(marks, 1000 / 6)
    assert {mark for mark in marks if mark.accepted} <= set(standing)
    steps = sorted(mark.step for mark in standing)
    assert min(b - a for a, b in itertools.pairwise(steps)) >= 0.7 * canvas.LINE * 1000 / 6
    svg = growth_plots.timeline([fit("stage-1", 0, [1.0] * 101)], marks, metric="loss", width=6.7)
    assert sum(text.startswith("move") for text in texts(svg)) == len(standing)
    assert "rotate(-90" in svg


def test_trials_go_without_a_label_before_others_do():
    marks = [Mark(500 + 5 * i, "split ⊗ tanh of node 1", None, i > 1) for i in range(12)]
    labels = growth_plots._lying(marks, 1000, 1000 / 6)
    assert {label.mark for label in labels} >= set(marks[:2])
    assert len(labels) < len(marks)


# --- shares ---


def test_each_node_has_a_panel_with_its_ops_by_name():
    first, second = growth_plots.share_panels(SHARES)
    assert {"node 1", "⊕ tanh", "⊗ tanh"} <= set(texts(first))
    assert {"node 2", "⊕ relu"} <= set(texts(second))
    assert growth_plots.share_panels(Shares([], [], 0)) == []


def test_each_edge_of_a_dag_has_a_panel():
    edges = [node(("gated/tanh", [0.5, 0.5]), ("gated/none", [0.5, 0.5])) for _ in range(6)]
    panels = growth_plots.share_panels(Shares(edges, [(0, 1)], 1))
    pairs = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    for panel, (source, reader) in zip(panels, pairs, strict=True):
        assert f"state {source} to state {reader}" in texts(panel)


def test_stages_are_named_where_there_is_room():
    shares = Shares([node(("add/tanh", [1.0] * 101))], [(0, 1), (3, 2), (40, 3), (42, 4), (65, 4), (90, 5)], 100)
    (svg,) = growth_plots.share_panels(shares)
    assert [text for text in texts(svg) if text.startswith("stage")] == ["stage 3", "stage 5"]


def test_ops_of_a_name_are_told_apart_by_number_and_marks():
    twice = node(*(("add/tanh", [0.2, 0.2]),) * 3, ("hadamard/tanh", [0.4, 0.4]), gone=("hadamard/tanh", [0.1]))
    looks = growth_plots.look_of(twice, {"tanh": canvas.ACCENT})
    assert [looks[track].label for track in twice.tracks] == [
        "⊕ tanh 1",
        "⊕ tanh 2",
        "⊕ tanh 3",
        "⊗ tanh 1",
        "⊗ tanh 2",
    ]
    assert len({(looks[track].line, looks[track].marker) for track in twice.tracks}) == 5
    (svg,) = growth_plots.share_panels(Shares([twice], [(0, 1)], 1))
    shown = texts(svg)
    assert {"⊕ tanh 1", "⊕ tanh 2", "⊕ tanh 3", "⊗ tanh 1"} <= set(shown)
    assert "⊗ tanh 2" not in shown  # it went; its line ends in a cross


def test_many_ops_make_a_panel_higher():
    def height(count: int) -> float:
        many = node(*((f"add/{i}", [1 / count] * 2) for i in range(count)))
        (svg,) = growth_plots.share_panels(Shares([many], [(0, 1)], 1))
        return float(re.search(r'viewBox="[\d. ]* ([\d.]+)"', svg)[1])

    assert height(4) == height(8) < height(16)


@pytest.mark.parametrize("name", ["<b>", "$x^{$", "&amp;/tanh", "a" * 90])
def test_an_ops_name_from_a_file_is_shown_as_it_is(name):
    (svg,) = growth_plots.share_panels(Shares([node((name, [1.0, 1.0]))], [(0, 1)], 1))
    assert canvas.shorten(name) in texts(svg)


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([0.0, 0.5], [0.0, 0.5]),
        ([0.5, 0.5], [0.5, 0.6]),
        ([0.0, 0.02, 0.04], [0.0, 0.1, 0.2]),
        ([0.95, 0.97, 1.0], [0.8, 0.9, 1.0]),
        ([], []),
    ],
)
def test_labels_are_spread(values, places):
    assert growth_plots.spread(values, gap=0.1, low=0.0, high=1.0) == pytest.approx(places)


# --- predictions ---


def test_the_scatter_is_logarithmic_where_it_can_be():
    shown = texts(growth_plots.scatter([split(-1e-6, -2e-6), split(-1e-3, -7e-4, accepted=False)]))
    assert {"10⁻⁶", "10⁻³", "predicted fall of the loss", "measured fall of the loss"} <= set(shown)
    assert "0" not in shown
    assert growth_plots.scatter([]) is None


@pytest.mark.parametrize("measured", [0.0, 1e-9, 3e-4])
def test_the_scatter_bears_what_did_not_fall(measured):
    shown = texts(growth_plots.scatter([split(-1e-8, measured), split(-1e-3, -7e-4)]))
    assert shown.count("0") == 2
    assert any(text.startswith("\N{MINUS SIGN}10") for text in shown) == (measured > 0)


def test_the_scatter_bears_one_move_and_a_predicted_rise():
    assert growth_plots.scatter([split(-3e-5, -3e-5)])
    assert growth_plots.scatter([split(2e-5, 3e-5)])


def test_ticks_are_round_and_few():
    assert growth_plots.log_ticks(1e-9, 1e-3) == pytest.approx([1e-9, 1e-7, 1e-5, 1e-3])
    assert growth_plots.log_ticks(1e-9, 1e-10) == []
    for low, high in ((1e-9, 1e-3), (2e-5, 9e-5), (1.2e-5, 4e-5), (3e-8, 2e-1)):
        ticks = growth_plots.log_ticks(low, high)
        assert 2 <= len(ticks) <= 6
        assert all(low <= tick <= high for tick in ticks)
        assert all(f"{tick:.0e}" == f"{tick:.1e}".replace(".0e", "e") for tick in ticks)


def test_powers_are_written_out():
    assert [growth_plots.power(value) for value in (1e-5, 2e-5, -1e-10, 0.0, 1.0)] == [
        "10⁻⁵",
        "2·10⁻⁵",
        "\N{MINUS SIGN}10⁻¹⁰",
        "0",
        "10⁰",
    ]


def test_the_timeline_ends_with_the_last_curve():
    """Fits at earlier origins have no curve: their steps once left half of the plot empty."""
    curve = [(0, 1.0), (50, 0.9), (100, 0.8)]
    fits = [Fit("stage-1", 0, 100, curve, curve), Fit("stage-1-origin-1", 100, 900, [], [], is_trial=True)]
    svg = growth_plots.timeline(fits, [], metric="loss", width=canvas.WIDE)
    shown = [int(text) for text in re.findall(r">(\d+)<", svg)]
    assert max(shown) == 100
