"""Figures of a task in the report: drawn from plain numbers, escaped, and refused if they are damaged."""

from __future__ import annotations

import json
import re

import pytest

from grownas.errors import RunError
from grownas.protocols import Figure, Line, Span
from grownas.report.figures import draw
from grownas.report.page import write_report

NASTY = "<script>alert('1')</script>"


def figure(**changes) -> dict:
    lines = [Line("ours", [1, 10, 100], [0.5, float("nan"), -2.0]), Line("points", range(1, 50), range(1, 50), True)]
    return Figure("A title", "A caption.", "hertz", "decibel", lines, [Span("here", 2, 5)]).to_dict() | changes


def write(run, *figures):
    text = json.dumps({"figures": figures}).replace("NaN", "null")
    (run / "figures.json").write_text(text)


def test_a_figure_shows_its_words_and_its_points():
    svg = draw(figure())
    for words in ("hertz", "decibel", "ours", "points", "here"):
        assert f">{words}</text>" in svg
    assert svg.count("<use") >= 49
    assert svg == draw(figure())


def test_a_logarithmic_axis_has_round_ticks():
    svg = draw(figure(is_log=True))
    assert re.findall(r">(1|10|100)</text>", svg)


def test_more_lines_than_colours_are_drawn():
    lines = [Line(f"model {number}", [number], [number], True)._asdict() for number in range(1, 15)]
    svg = draw(figure(lines=lines, spans=[]))
    assert ">model 14</text>" in svg


def test_the_page_shows_figures_with_their_captions(make_run):
    run = make_run()
    assert "Figures of the task" not in write_report([run]).read_text()
    write(run, figure(), figure(title="Another"))
    page = write_report([run]).read_text()
    assert page.count("Figures of the task") == 2  # in the contents and above the section
    assert "<b>A title.</b> A caption.</figcaption>" in page
    assert "<b>Another.</b>" in page


def test_words_of_a_figure_are_escaped(make_run):
    run = make_run()
    lines = [Line(NASTY, [1], [1])._asdict()]
    write(run, figure(title=NASTY, caption=NASTY, x_label=NASTY, y_label=NASTY, lines=lines))
    assert "<script" not in write_report([run]).read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"title": 3}, "figures[0].title: expected a text, got '3'"),
        ({"lines": [{"label": "a", "x": ["1"], "y": [1], "is_points": True}]}, "figures[0].lines[0].x[0]: expected"),
        (
            {"lines": [{"label": "a", "x": [1, 2], "y": [1], "is_points": True}]},
            "line 'a' has 2 x and 1 y, expected as many",
        ),
    ],
)
def test_damaged_figures_are_refused(make_run, changes, reason):
    run = make_run()
    write(run, figure(**changes))
    with pytest.raises(RunError) as caught:
        write_report([run])
    assert str(caught.value).startswith(f"{run / 'figures.json'}: damaged: {reason}")
