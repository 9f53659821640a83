"""Tables of a comparison over panels: every figure, mark and count, and what they mean."""

from __future__ import annotations

from grownas.report.regret import metric_table, regret_table

MODEL = {"n": 2, "mean": 1.0, "median": 1.25, "p90": 2.0, "worst": 3.0, "wins": 0, "ties": 1, "losses": 1}
PANEL = {"series": ["a", "b"], "rows": 150, "seeds": [1, 2, 3], "best": "har"}
RESULT = {
    "metric": "mse",
    "level": 0.05,
    "simple": ["zero", "har"],
    "panels": [
        {
            **PANEL,
            "panel": "panel-closes",
            "test": {"har": 1.0, "zero": 1.25, "lstm": 0.9},
            "dm": {"har": "not told apart", "zero": "worse", "lstm": "better"},
        },
        {
            **PANEL,
            "panel": "panel-river_stocks",
            "test": {"har": 2.0, "zero": 2.1},
            "dm": {"har": "not told apart", "zero": "not told apart"},
        },
    ],
    "models": [
        {**MODEL, "model": "lstm", "dm": {"better": 1}},
        {**MODEL, "model": "har", "dm": {"not told apart": 2}},
        {**MODEL, "model": "zero", "dm": {"not told apart": 1, "worse": 1}},
    ],
}


def cells(line):
    return line.split()


def test_regrets_have_a_row_a_model_with_counts_of_both_kinds():
    lines = regret_table(RESULT).splitlines()
    titles = "model mean % median % p90 % worst % n wins ties losses DM wins DM ties DM losses"
    assert " ".join(lines[0].split()) == titles
    figures = ["1.00", "1.25", "2.00", "3.00", "2", "0", "1", "1"]
    assert cells(lines[2]) == ["lstm", *figures, "1", "0", "0"]
    assert cells(lines[3]) == ["har", *figures, "0", "2", "0"]
    assert cells(lines[4]) == ["zero", *figures, "0", "1", "1"]
    assert "of the test mse over the lowest of zero, har, on 2 panels" in lines[6]
    assert "by the Diebold-Mariano test at the 5% level" in lines[7]


def test_metrics_have_a_row_a_panel_with_the_marks_of_the_tests():
    lines = metric_table(RESULT).splitlines()
    assert " ".join(lines[0].split()) == "panel series test rows seeds lstm har zero"
    assert cells(lines[2]) == ["closes", "2", "150", "3", "0.9000", "<", "1.0000", "*", "1.2500", ">"]
    assert cells(lines[3]) == ["river_stocks", "2", "150", "3", "–", "2.0000", "*", "2.1000"]
    assert "* the best simple model of the panel; < lower and > higher" in lines[5]
