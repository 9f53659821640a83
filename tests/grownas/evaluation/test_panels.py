"""Regret over panels, worked out by hand, and folders that cannot be compared."""

from __future__ import annotations

import json
import math

import pytest

from grownas.errors import RunError
from grownas.evaluation.models import FITTED
from grownas.evaluation.panels import compare
from grownas.report.tables import regret_table

RUNS = [
    {"grown": 0.9, "chosen": 1.0, "zero": 1.2, "har": 1.0},
    {"grown": 2.2, "chosen": 2.0, "zero": 2.0, "har": 2.1},
    {"grown": 3.3, "chosen": 3.0, "zero": 3.6, "har": 3.0},
]


@pytest.fixture
def folders(tmp_path):
    def write(runs=RUNS):
        made = []
        for number, test in enumerate(runs, 1):
            folder = tmp_path / f"panel-{number}"
            folder.mkdir(exist_ok=True)
            scores = [{"model": name, "test": value} for name, value in test.items()]
            (folder / "summary.json").write_text(json.dumps({"metric": "mse", "strategy": "growing", "scores": scores}))
            (folder / "data.json").write_text(
                json.dumps({"names": ["a", "b"], "dates": ["2020-01-01", "2020-01-02", "2020-01-03"]})
            )
            made.append(folder)
        return made

    return write


def test_regret_is_the_logarithm_over_the_best_simple_model(folders):
    result = compare(folders())
    assert result["simple"] == ["zero", "har"]
    models = {one["model"]: one for one in result["models"]}
    assert set(models) == {"grown", "chosen", "zero", "har"}
    each = [100 * math.log(0.9 / 1.0), 100 * math.log(2.2 / 2.0), 100 * math.log(3.3 / 3.0)]
    grown = models["grown"]
    assert grown["each"] == pytest.approx(each, abs=1e-10)
    assert grown["mean"] == pytest.approx(sum(each) / 3, abs=1e-10)
    assert grown["median"] == pytest.approx(each[1], abs=1e-10)
    assert grown["worst"] == pytest.approx(max(each), abs=1e-10)
    assert grown["p90"] == pytest.approx(each[1], abs=1e-10)  # between two equal ones
    assert [grown[key] for key in ("n", "wins", "ties", "losses")] == [3, 1, 0, 2]
    assert [models["chosen"][key] for key in ("wins", "ties", "losses")] == [0, 3, 0]
    assert [models["zero"][key] for key in ("wins", "ties", "losses")] == [0, 1, 2]


def test_p90_lies_between_the_two_highest(folders):
    """Of three values at ranks 0, .5 and 1, the quantile .9 is the second plus .8 of the step to the third."""
    result = compare(folders([{"start": math.exp(x / 100), "zero": 1.0} for x in (0.0, 1.0, 2.0)]))
    start = next(one for one in result["models"] if one["model"] == "start")
    assert start["p90"] == pytest.approx(1.8, abs=1e-10)


def test_models_stand_by_their_mean_and_panels_say_what_they_are(folders):
    result = compare(folders())
    means = [one["mean"] for one in result["models"]]
    assert means == sorted(means)
    assert result["models"][0]["model"] == "chosen"
    panel = result["panels"][1]
    assert (panel["panel"], panel["series"], panel["days"]) == ("panel-2", ["a", "b"], ["2020-01-01", "2020-01-03"])
    assert panel["test"] == RUNS[1]
    assert (result["metric"], len(result["panels"])) == ("mse", 3)
    assert all("metric" not in one for one in result["panels"])


def test_a_model_that_some_panels_lack_counts_where_it_is(folders):
    result = compare(folders([*RUNS, {"zero": 1.0, "har": 1.0, "lstm": 1.1}]))
    counts = {one["model"]: one["n"] for one in result["models"]}
    assert counts == {"grown": 3, "chosen": 3, "zero": 4, "har": 4, "lstm": 1}


def test_a_simple_model_that_some_panels_lack_is_no_measure(folders):
    runs = [{**RUNS[0], "var1": 0.1}, *RUNS[1:]]
    assert compare(folders(runs))["simple"] == ["zero", "har"]


def test_no_simple_model_is_below_the_best_simple_one(folders):
    result = compare(folders())
    assert all(min(one["each"]) >= 0 for one in result["models"] if one["model"] in FITTED)


def test_the_table_has_a_row_a_model(folders):
    lines = regret_table(compare(folders())).splitlines()
    assert " ".join(lines[0].split()) == "model mean % median % p90 % worst % n wins ties losses"
    assert lines[2].split() == ["chosen", *["0.00"] * 4, "3", "0", "3", "0"]
    assert "of the test mse over the lowest of zero, har, on 3 panels" in lines[-1]


def test_what_cannot_be_compared_is_refused(folders, tmp_path):
    with pytest.raises(RunError, match="no run folder was given"):
        compare([])
    with pytest.raises(RunError, match="needs one of zero, var1, var, var_robust, har in every run"):
        compare(folders([{"grown": 1.0, "zero": 1.0}, {"grown": 1.0}]))
    with pytest.raises(RunError, match="a test metric is not above 0"):
        compare(folders([{"zero": 0.0}]))
    (tmp_path / "panel-1" / "data.json").write_text("{}")
    with pytest.raises(RunError, match="damaged"):
        compare([tmp_path / "panel-1"])
    with pytest.raises(RunError, match=r"not a finished run: summary\.json is missing; resume it"):
        compare([tmp_path])


def test_models_that_further_strategies_found_stand_beside_the_firsts(folders, tmp_path):
    groups = []
    for number, first in enumerate(folders(), 1):
        second = tmp_path / f"panel-{number}-random"
        second.mkdir()
        (second / "data.json").write_bytes((first / "data.json").read_bytes())
        scores = [{"model": name, "test": number / 2} for name in ("chosen", "random", "start", "random_retrained")]
        summary = {"metric": "mse", "strategy": "random", "scores": scores}
        (second / "summary.json").write_text(json.dumps(summary))
        groups.append([first, second])
    alone, together = compare([first for first, _ in groups]), compare(groups)
    models = {one["model"]: one for one in together["models"]}
    assert set(models) == {"grown", "chosen", "zero", "har", "random", "random_retrained"}
    assert [one for one in together["models"] if not one["model"].startswith("random")] == alone["models"]
    lowest = [min(run["zero"], run["har"]) for run in RUNS]
    each = [100 * math.log(number / 2 / low) for number, low in enumerate(lowest, 1)]
    assert models["random"]["each"] == pytest.approx(each, abs=1e-10)
    (groups[1][1] / "data.json").write_text(json.dumps({"names": ["a", "c"], "dates": ["2020-01-01"]}))
    with pytest.raises(RunError, match=r"panel-2-random: its test data differ from those of .*panel-2; compare runs"):
        compare(groups)
