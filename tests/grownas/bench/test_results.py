"""Stored results come back as they were, and two runs are compared by ratios."""

from __future__ import annotations

import json
import re

import pytest

from grownas.bench import results
from grownas.bench.figures import Figure, Must, Row
from grownas.bench.results import SLACK, Results
from grownas.cells.backends import BACKENDS, Backend
from grownas.errors import DataError


def test_results_come_back_from_their_file(make_row, make_results, tmp_path):
    skipped = Row("gpu", "", {}, "", skipped="no GPU")
    whole = make_results(make_row(), skipped)
    whole.save(tmp_path / "a.json")
    assert Results.load(tmp_path / "a.json") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    tree = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert [must["holds"] for must in tree["rows"][0]["musts"]] == [True, False]
    assert [must["ratio"] for must in tree["rows"][0]["musts"]] == [0.25, 4.0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"grownas.bench"', '"other"', "ValueError: format 'other', version 1"),
        ('"version": 1', '"version": 2', "ValueError: format 'grownas.bench', version 2"),
        ('"median": 0.5', '"median": null', "TypeError"),
        ('"floor": {', '"roof": {', "KeyError: 'floor'"),
        ('"rows"', '"lines"', "KeyError: 'rows'"),
        ('"base": "floor"', '"base": "roof"', "ValueError: row 'supernet T4' has no figure for its base 'roof'"),
        ("{", "[", "JSONDecodeError"),
    ],
)
def test_a_damaged_file_is_an_error_that_says_where(make_row, make_results, tmp_path, old, new, message):
    path = tmp_path / "a.json"
    make_results(make_row()).save(path)
    path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")
    with pytest.raises(DataError, match=rf"a\.json: not a file of `grownas bench --json`.*{re.escape(message)}"):
        Results.load(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"a\.json: cannot be read: No such file"):
        Results.load(tmp_path / "a.json")


def test_a_slower_machine_changes_nothing_since_ratios_are_compared(make_row, make_results):
    row = make_row()
    twice = {name: Figure(*(2 * ms for ms in figure[:3]), 3) for name, figure in row.figures.items()}
    (change,) = results.changes(make_results(row), make_results(row._replace(figures=twice)))
    assert (change.peer, change.base, change.then, change.now) == ("torch", "floor", 4.0, 4.0)
    assert not change.slower


def test_a_ratio_may_grow_by_as_much_as_noise_allows_and_no_more(make_row, make_results):
    before = make_results(make_row(torch=2.0))
    for ms, slower in ((2.0 * (1 + SLACK) - 0.01, False), (2.0 * (1 + SLACK) + 0.01, True), (1.0, False)):
        (change,) = results.changes(before, make_results(make_row(torch=ms)))
        assert change.slower == slower


def test_wide_figures_allow_more(make_row, make_results):
    row = make_row(torch=2.6)
    wide = row._replace(figures={**row.figures, "torch": Figure(2.6, 2.3, 2.9, 3)})
    (change,) = results.changes(make_results(make_row(torch=2.0)), make_results(wide))
    assert change.allowed == pytest.approx(4 * (1 + SLACK + 0.6 / 2.6))
    assert not change.slower


def test_only_what_both_runs_measured_is_compared(make_row, make_results):
    old = make_results(make_row("a"), make_row("b"), Row("c", "", {}, "", skipped="busy"))
    search = Row("d", "s", {"whole": Figure(1.0, 1.0, 1.0, 1)}, "", (Must("whole", 1.0, "whole"),))
    new = make_results(Row("a", "", {}, "", skipped="busy"), make_row("b"), make_row("c"), search, make_row("e"))
    assert [change.row for change in results.changes(old, new)] == ["b"]
    lacking = make_row("b")
    del lacking.figures["torch"]  # a backend that could not run
    assert list(results.changes(old, make_results(lacking))) == []


def test_a_ratio_that_is_no_number_is_slower(make_row, make_results):
    (change,) = results.changes(make_results(make_row()), make_results(make_row(torch=float("nan"))))
    assert change.slower


def test_machines_differ_where_that_changes_ratios(make_results):
    before = make_results()
    assert results.differences(before, make_results(backends=["torch", "native"])) == []
    assert results.differences(before, make_results(cpu="another", torch="2.10")) == [
        "cpu a cpu then, another now",
        "torch 2.9 then, 2.10 now",
    ]


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setitem(BACKENDS, "other", Backend(BACKENDS["torch"].run, lambda device, dtype, used: "no compiler"))
    machine = results.describe_machine()
    assert "other: no compiler" in machine["cannot run"]
    assert {"reference", "torch"} <= set(machine["backends"])
    assert machine["capability"]
    json.dumps(machine, allow_nan=False)
