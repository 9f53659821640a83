"""Tables hold the figures they were given, in order, and say nothing where there is none."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from grownas.report import tables


@pytest.fixture
def summary(make_run):
    return json.loads((make_run() / "summary.json").read_text())


def test_scores_stand_with_the_lowest_first(summary):
    table = tables.scores(summary)
    tests = {entry["model"]: entry["test"] for entry in summary["scores"]}
    assert [row.cells[0] for row in table.rows] == sorted(tests, key=tests.get)
    assert [row.cells[1] for row in table.rows] == [f"{value:.4f}" for value in sorted(tests.values())]
    assert [row.cells[0] for row in table.rows if row.marked] == ["grown"]
    var = next(row for row in table.rows if row.cells[0] == "var")
    assert var.note == "VAR, least squares, order chosen on validation; order 15"


def test_text_lines_up_and_fits_a_terminal(summary):
    lines = tables.score_table(summary).splitlines()
    assert len(lines) == 2 + len(summary["scores"])
    assert lines[0].startswith("model")
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 80


def test_a_comparison_has_spread_and_tests(make_comparison):
    folder = make_comparison(seeds=(1, 2))
    result = json.loads((folder / "comparison.json").read_text())
    result["tests"][0]["p_value"] = 1e-9
    result["models"][2]["test"]["mean"] = None
    table = tables.comparison(result)
    rows = {row.cells[0]: dict(zip((c.title for c in table.columns), row.cells, strict=True)) for row in table.rows}
    assert list(rows)[-1] == result["models"][2]["model"] == "start"
    assert rows["start"]["test MSE"] == tables.NONE
    tests = ("than grown", "p over days and seeds", "p over seeds", "DM p")
    assert {rows["grown"][title] for title in tests} == {tables.NONE}
    assert rows[result["tests"][0]["baseline"]]["DM p"] == "<.001"
    assert [rows["var"][title] for title in tests] == ["worse", "0.046", "0.035", "0.012"]
    assert [rows["zero"][title] for title in tests] == ["worse", "0.046", tables.NONE, "0.012"]
    assert rows["var"] | {"tried": "22", "MCS": "out", "n": "2"} == rows["var"]
    assert rows["grown"]["MCS"] == "in"
    assert "0.012" in tables.comparison_table(result)
    assert [column.title for column in table.columns[:4]] == ["model", "test MSE", "sd", "than grown"]  # on a phone


def test_notes_say_what_each_test_is_of_and_how_often_it_is_wrong(make_comparison):
    result = json.loads((make_comparison(seeds=(1, 2)) / "comparison.json").read_text())
    notes = {column.title: column.note for column in tables.comparison(result).columns}
    assert "on 160 days: " in notes["p over days and seeds"]
    assert notes["p over seeds"].endswith("; at 5% it rejects 3.1 to 5.2 % of equal models")
    assert "rejects" not in notes["p over days and seeds"]  # of which no size is given
    assert "says nothing about other seeds" in notes["DM p"]
    result["steps"] = {"count": 23, "unit": "blocks of 100 tokens"}
    notes = {column.title: column.note for column in tables.comparison(result).columns}
    assert "on 23 blocks of 100 tokens: " in notes["p over blocks and seeds"]


def test_sizes_are_told_with_their_source():
    sizes = [
        {"test": "over_seeds", "nominal": 0.05, "lowest": 0.031, "highest": 0.052, "source": "1,234 splits"},
        {"test": "finding", "nominal": 0.05, "lowest": 0.03, "highest": 0.04, "source": "1,234 splits"},
        {"test": "mcs", "nominal": 0.1, "lowest": 0.08, "highest": 0.12, "source": "500 splits"},
    ]
    assert tables.size_words({"sizes": sizes}) == (
        "Measured size of the tests, on equal models: over seeds 3.1 to 5.2 % at 5%; both together 3.0 to 4.0 % at 5% "
        "(1,234 splits). model confidence set 8.0 to 12.0 % at 10% (500 splits)."
    )
    assert tables.size_words({}) == ""


AGAINST = [
    {
        "baseline": name, "reference": reference, "finding": finding, "loss_difference": difference, "p_value": 0.0123,
        "p_holm": 0.07, "days_and_seeds": {"p_value": 0.0456}, "over_seeds": {"p_value": 0.0351},
    }
    for name, reference, finding, difference in (
        ("grown", "random", "better", 0.02), ("first_stage", "random", "worse", -0.0312),
        ("grown_retrained", "random_retrained", "not told apart", 0.001),
    )
]  # fmt: skip


def test_tests_against_random_search_stand_in_a_table_of_their_own(make_comparison):
    result = json.loads((make_comparison(seeds=(1, 2)) / "comparison.json").read_text())
    assert tables.against_random(result) is None
    result["tests_against_random"] = AGAINST
    means = {entry["model"]: entry["test"] for entry in result["models"]}
    means["first_stage"]["mean"] = means["grown"]["mean"] / 2
    table = tables.against_random(result)
    assert [row.cells[:2] for row in table.rows] == [
        ("first_stage", "random"),
        ("grown", "random"),
        ("grown_retrained", "random_retrained"),
    ]
    rows = [dict(zip((c.title for c in table.columns), row.cells, strict=True)) for row in table.rows]
    assert [row["than random"] for row in rows] == ["better", "worse", "not told apart"]  # said about the row's model
    assert [row["loss difference"] for row in rows] == [f"{tables.MINUS}0.0312", "0.02", "0.001"]
    assert rows[0]["test MSE"] == f"{means['first_stage']['mean']:.4f}"
    assert [rows[0][title] for title in ("p over days and seeds", "p over seeds", "Holm p", "DM p")] == [
        "0.046",
        "0.035",
        "0.070",
        "0.012",
    ]
    assert tables.as_text(table) in tables.comparison_text(result)


def test_gradients_are_shown_a_step(make_comparison):
    result = json.loads((make_comparison(seeds=(1, 2)) / "comparison.json").read_text())
    assert "grad/step" not in [column.title for column in tables.comparison(result).columns]
    result["models"][0] |= {"steps": 30.0, "gradients": 150.0}
    result["models"][1] |= {"steps": None, "gradients": None}
    table = tables.comparison(result)
    place = [column.title for column in table.columns].index("grad/step")
    assert sorted({row.cells[place] for row in table.rows}) == ["5.0", tables.NONE]


def test_a_comparison_of_an_early_version_has_its_own_columns(make_comparison):
    result = json.loads((make_comparison(seeds=(1, 2)) / "comparison.json").read_text())
    del result["sizes"], result["steps"], result["mcs"]["untested"]
    for test in result["tests"]:
        for key in ("days_and_seeds", "over_seeds", "finding"):
            del test[key]
    assert [column.title for column in tables.comparison(result).columns][:5] == [
        "model",
        "test MSE",
        "sd",
        "MCS",
        "DM p",
    ]


def test_figures_are_set_alike():
    assert [tables.percent(v) for v in (0.5, -0.0001, -0.0123, None, float("nan"))] == [
        "50.0 %",
        "0.0 %",
        f"{tables.MINUS}1.2 %",
        tables.NONE,
        tables.NONE,
    ]
    assert [tables.count(v) for v in (1234567, 0, None)] == ["1,234,567", "0", tables.NONE]
    assert [tables.seconds(v) for v in (1.25, 99.94, 1234.5)] == ["1.2", "99.9", "1,234"]
    assert [tables.probability(v) for v in (0.0004, 0.05, None)] == ["<.001", "0.050", tables.NONE]


def test_only_differing_keys_are_shown():
    configs = {"a": {"x": {"y": 1, "z": 2}, "versions": {"torch": "1"}}, "b": {"x": {"y": 1, "z": 3}, "new": True}}
    assert [row.cells for row in tables.differences(configs).rows] == [("x.z", "2", "3"), ("new", tables.NONE, "True")]


def test_importing_the_tables_is_light():
    heavy = ("torch", "matplotlib", "jinja2", "numpy")
    code = f"import sys, grownas.report.growth_log; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("finding", "said"),
    [
        ("better", "worse"),  # the reference is
        ("worse", "better"),
        ("not told apart", "not told apart"),
        ("same", "the same"),
        ("untested", "untested"),
    ],
)
def test_a_row_says_what_the_tests_find_of_its_model(make_comparison, finding, said):
    result = json.loads((make_comparison(seeds=(1, 2)) / "comparison.json").read_text())
    result["tests"][0]["finding"] = finding
    rows = {row.cells[0]: row.cells for row in tables.comparison(result).rows}
    assert rows[result["tests"][0]["baseline"]][3] == said


@pytest.mark.parametrize(("tried", "said"), [(1, False), (3, True)])
def test_settings_were_chosen_where_there_were_several(tried, said):
    entry = {"model": "lstm", "params": 9, "val": 60.126, "test": 50.0, "seconds": 1.0, "settings": tried,
             "chosen": {"rate": 0.01, "hidden_size": 9}}  # fmt: skip
    table = tables.scores({"metric": "perplexity", "scores": [entry]})
    (row,) = table.rows
    assert ("settings chosen on validation" in row.note) == said
    assert row.note.endswith("rate 0.01, hidden size 9")
    assert [column.title for column in table.columns] == [
        "model", "test perplexity", "val perplexity", "params", "seconds", "tried",
    ]  # fmt: skip
    assert row.cells[1:3] == ("50.00", "60.13")


def test_a_model_that_ended_at_the_epoch_limit_is_marked_and_said_under_the_table(summary, make_comparison):
    assert tables.scores(summary).notes == ()
    assert tables.CAPPED not in tables.score_table(summary)
    entries = {entry["model"]: entry for entry in summary["scores"]}
    entries["grown"]["capped"] = False
    entries["gru"]["capped"] = True
    table = tables.scores(summary)
    assert [row.cells[0] for row in table.rows if row.cells[0].endswith(tables.CAPPED)] == [f"gru {tables.CAPPED}"]
    (note,) = table.notes
    assert note.endswith("Raise retrain.epochs.")
    assert tables.score_table(summary).splitlines()[-1] == note
    entries["grown"]["capped"] = True
    (note,) = tables.scores(summary).notes
    assert note.endswith("Raise retrain.epochs and strategy.max_epochs.")
    entries["gru"]["capped"], summary["strategy"] = False, "darts"
    summary["scores"] += [{**entries["grown"], "model": "darts"}, {**entries["gru"], "model": "darts_supernet"}]
    (note,) = tables.scores(summary).notes
    assert note.endswith("Raise strategy.max_epochs and strategy.fine_tune_epochs.")

    result = json.loads((make_comparison(seeds=(1, 2)) / "comparison.json").read_text())
    assert tables.comparison(result).notes == ()
    result["models"][1] |= {"capped": 1, "steps": 12_345.0, "cpu_seconds": 6.789}
    table, name = tables.comparison(result), f"{result['models'][1]['model']} {tables.CAPPED}"
    (row,) = (row for row in table.rows if row.cells[0] == name)
    titles = [column.title for column in table.columns]
    assert [row.cells[titles.index(title)] for title in ("steps", "CPU s")] == ["12,345", "6.8"]
    assert len(table.notes) == 1
