"""Regret over panels, worked out by hand, and folders that cannot be compared."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from statsmodels.tsa.stattools import diebold_mariano_test

from grownas.errors import RunError
from grownas.evaluation.comparison import FORECASTS
from grownas.evaluation.models import FITTED
from grownas.evaluation.panels import compare

RUNS = [
    {"grown": 0.9, "chosen": 1.0, "zero": 1.2, "har": 1.0},
    {"grown": 2.2, "chosen": 2.0, "zero": 2.0, "har": 2.1},
    {"grown": 3.3, "chosen": 3.0, "zero": 3.6, "har": 3.0},
]
DAYS = 40


def losses_of(test, model, seed=1, noise=0.2):
    """Return losses of `DAYS` days with a given mean; days that are bad for one model are not bad for all."""
    drawn = np.random.default_rng([seed, *model.encode()]).uniform(-noise, noise, DAYS)
    return test * (1 + drawn - drawn.mean())


def write_run(folder: Path, test, *, seed=1, strategy="growing", names=("a", "b"), losses=None) -> Path:
    """Write a finished run whose models have these test metrics, and these losses on the days of the test part."""
    folder.mkdir(exist_ok=True)
    scores = [{"model": name, "test": value} for name, value in test.items()]
    summary = {"metric": "mse", "strategy": strategy, "seed": seed, "scores": scores}
    (folder / "summary.json").write_text(json.dumps(summary))
    dates = [f"2020-{1 + day // 28:02}-{1 + day % 28:02}" for day in range(DAYS + 1)]
    (folder / "data.json").write_text(json.dumps({"names": names, "dates": dates, "n_val": 1, "kind": "series"}))
    losses = losses or {name: losses_of(value, name, seed) for name, value in test.items()}
    tensors = {name: np.sqrt([[0, 0], *zip(each, each, strict=True)]) for name, each in losses.items()}
    save_file({"actual": np.zeros((DAYS + 1, 2)), **tensors}, folder / FORECASTS)
    return folder


@pytest.fixture
def folders(tmp_path):
    def write(runs=RUNS):
        return [write_run(tmp_path / f"panel-{number}", test) for number, test in enumerate(runs, 1)]

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
    assert (panel["panel"], panel["series"], panel["days"]) == ("panel-2", ["a", "b"], ["2020-01-02", "2020-02-13"])
    assert (panel["test"], panel["best"], panel["rows"], panel["seeds"]) == (RUNS[1], "zero", DAYS, [1])
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


def test_a_finding_is_diebold_and_marianos_on_losses_averaged_over_the_seeds(tmp_path):
    seeds = (1, 2, 3)
    runs = [
        {"zero": losses_of(1.0, "zero"), "lstm": losses_of(0.9, "lstm", seed), "gru": losses_of(0.999, "gru", seed)}
        | {"har": losses_of(1.2, "har")}
        for seed in seeds
    ]
    for seed, losses in zip(seeds, runs, strict=True):
        test = {name: float(each.mean()) for name, each in losses.items()}
        write_run(tmp_path / f"panel-closes-seed-{seed}", test, seed=seed, losses=losses)
    result = compare([tmp_path / f"panel-closes-seed-{seed}" for seed in seeds])
    (panel,) = result["panels"]
    assert (panel["panel"], panel["seeds"], panel["best"]) == ("panel-closes", [1, 2, 3], "zero")
    averaged = {name: np.mean([losses[name] for losses in runs], axis=0) for name in runs[0]}
    for name in ("lstm", "gru", "har"):
        roots = np.sqrt(averaged["zero"]), np.sqrt(averaged[name])
        wanted = diebold_mariano_test(np.zeros(DAYS), *roots, harvey_adj=True)
        assert panel["p_value"][name] == pytest.approx(wanted.pvalue, rel=1e-9)
        assert panel["test"][name] == pytest.approx(averaged[name].mean(), rel=1e-12)
    assert panel["dm"] == {"zero": "not told apart", "lstm": "better", "gru": "not told apart", "har": "worse"}
    assert panel["sd"]["zero"] == pytest.approx(0, abs=1e-12)
    models = {one["model"]: one for one in result["models"]}
    assert [(one["n"], one["wins"], one["dm"]) for one in (models["lstm"], models["gru"], models["har"])] == [
        (1, 1, {"better": 1}),
        (1, 1, {"not told apart": 1}),
        (1, 0, {"worse": 1}),
    ]


def test_a_single_seed_has_no_spread(folders):
    assert set(compare(folders())["panels"][0]["sd"].values()) == {None}


def test_seeds_of_a_panel_with_other_data_are_refused(tmp_path):
    one = write_run(tmp_path / "panel-a-seed-1", RUNS[0])
    two = write_run(tmp_path / "panel-a-seed-2", RUNS[0], seed=2)
    save_file({"actual": np.ones((DAYS + 1, 2)), **dict.fromkeys(RUNS[0], np.ones((DAYS + 1, 2)))}, two / FORECASTS)
    with pytest.raises(RunError, match=r"panel-a-seed-2: its test data differ from those of .*panel-a-seed-1"):
        compare([one, two])


def test_what_cannot_be_compared_is_refused(folders, tmp_path):
    with pytest.raises(RunError, match="no run folder was given"):
        compare([])
    with pytest.raises(RunError, match="needs one of zero, var1, var, var_robust, har in every run"):
        compare(folders([{"grown": 1.0, "zero": 1.0}, {"grown": 1.0}]))
    with pytest.raises(RunError, match=r"panel-1: the test metric of zero is 0\.0, not above 0"):
        compare(folders([{"zero": 0.0}]))
    write_run(tmp_path / "panel-1", RUNS[0])
    for damaged, words in (("{}", "'n_val' is missing"), ('{"n_val": 1, "dates": []}', r"data\.json: KeyError")):
        (tmp_path / "panel-1" / "data.json").write_text(damaged)
        with pytest.raises(RunError, match=f"panel-1: damaged: {words}"):
            compare([tmp_path / "panel-1"])
    with pytest.raises(RunError, match=r"not a finished run: summary\.json is missing; resume it"):
        compare([tmp_path])


def test_models_that_further_strategies_found_stand_beside_the_firsts(folders, tmp_path):
    groups = []
    for number, first in enumerate(folders(), 1):
        test = dict.fromkeys(("chosen", "random", "start", "random_retrained"), number / 2)
        groups.append([first, write_run(tmp_path / f"panel-{number}-random", test, strategy="random")])
    alone, together = compare([first for first, _ in groups]), compare(groups)
    models = {one["model"]: one for one in together["models"]}
    assert set(models) == {"grown", "chosen", "zero", "har", "random", "random_retrained"}
    assert [one for one in together["models"] if not one["model"].startswith("random")] == alone["models"]
    lowest = [min(run["zero"], run["har"]) for run in RUNS]
    each = [100 * math.log(number / 2 / low) for number, low in enumerate(lowest, 1)]
    assert models["random"]["each"] == pytest.approx(each, abs=1e-10)
    other = {"actual": np.ones((DAYS + 1, 2)), **{name: np.ones((DAYS + 1, 2)) for name in ("chosen", "random")}}
    write_run(groups[1][1], {"chosen": 1.0, "random": 1.0}, strategy="random")
    save_file(other, groups[1][1] / FORECASTS)
    with pytest.raises(RunError, match=r"panel-2-random: its test data differ from those of .*panel-2; compare runs"):
        compare(groups)
