from __future__ import annotations

from grownas.bench import table
from grownas.bench.figures import Figure, Row
from grownas.bench.table import COLUMNS


def test_a_line_gives_ratios_and_speed(make_row):
    row = make_row()
    head, *lines = table.lines(row)
    assert head == "supernet T4: ms, base: floor"
    eager, torch, lstm, gru, floor, *musts = (line.split() for line in lines)
    assert eager == ["reference", "8", "8", "to", "8", "3", "1", "2", "16", "0.125"]
    assert torch == ["torch", "2", "2", "to", "2", "3", "0.25", "0.5", "4", "0.5"]
    assert lstm == ["nn.LSTM", "4", "4", "to", "4", "3", "0.5", "1", "8"]  # other products than the chain's
    assert gru[-1] == "6"
    assert floor[-2:] == ["1", "2"]
    assert [" ".join(must) for must in musts] == [
        "must: torch <= 0.25 x reference: 0.25, holds",
        "must: torch <= 2 x floor: 4, DOES NOT HOLD",
    ]


def test_figures_end_below_their_heads(make_row):
    head, line = table.head(), list(table.lines(make_row()))[2]
    ends = [head.index(title) + len(title) for title in COLUMNS if title != "peer"]
    assert all(line[end - 1] != " " for end in ends)
    assert all(line[end : end + 1] in (" ", "") for end in ends)


def test_ratios_that_were_not_measured_are_blank():
    row = Row("peak memory", "MiB", {"outputs": Figure(2.0, 2.0, 2.0, 1), "torch": Figure(3.0, 3.0, 3.0, 1)}, "outputs")
    assert table.cells(row, "torch") == ["torch", "3", "", "1", "", "", "1.5", ""]
    assert len(COLUMNS) == len(table.cells(row, "torch"))


def test_what_was_skipped_gives_its_reason():
    assert list(table.lines(Row("gpu", "", {}, "", skipped="torch sees no GPU"))) == ["gpu: skipped, torch sees no GPU"]


def test_the_page_holds_machine_bars_figures_and_reasons(make_row, make_results):
    page = table.page(make_results(make_row(), Row("gpu", "", {}, "", skipped="no GPU")), picture="results.svg")
    assert "cpu: a cpu; capability: AVX2; torch: 2.9; blas: mkl; backends: torch." in page
    assert "Measured 2026-11-24T10:00:00+00:00." in page
    assert "![ratio to the floor](results.svg)" in page
    assert "| supernet T4 | torch <= 2 x floor | 4 | DOES NOT HOLD |" in page
    assert "| supernet T4 (ms) | reference | 8 | 8 to 8 | 3 | 1 | 2 | 16 | 0.125 |" in page
    assert "|  | floor | 0.5 |" in page
    assert "- gpu: no GPU" in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {5, 2 + len(COLUMNS)}
