"""Comparisons of fabricated runs: figures by hand, findings of the tests, and what is refused."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from statsmodels.stats.multitest import multipletests

from grownas.errors import RunError
from grownas.evaluation.comparison import compare, pair_tests, step_losses
from grownas.evaluation.statistics import MEASURED_SIZE, diebold_mariano, two_way_t, welch_t

N_VAL, N_TEST, SERIES = 20, 120, 3
GOOD, FAIR, POOR = 0.9, 0.6, 0.2  # parts of the signal that a model's forecasts hold


def write_run(folder, parts, *, seed=1, data=0, same=(), strategy="growing"):
    """Write the files that a comparison reads.

    Args:
        folder: where to.
        parts: of each model, how much of the signal its forecasts hold.
        seed: disturbs the forecasts, but not those of fitted models.
        data: another number makes other data.
        same: pairs (model, other): the first forecasts as the other does.
    """
    rng = np.random.default_rng([7, data])
    signal = rng.normal(size=(N_VAL + N_TEST, SERIES))
    actual = signal + 0.5 * rng.normal(size=signal.shape)
    own = np.random.default_rng([8, seed])
    forecasts = {}
    for model, part in parts.items():
        disturbance = own.normal(size=signal.shape) * (0.0 if model in ("zero", "var1", "var", "var_robust") else 0.05)
        forecasts[model] = part * signal + disturbance
    forecasts.update({model: forecasts[other].copy() for model, other in same})
    errors = {model: ((actual - forecast) ** 2).mean(1) for model, forecast in forecasts.items()}
    entries = [
        {
            "model": model, "params": 10 * len(model), "seconds": 2.0 * seed, "settings": 4,
            "val": float(error[:N_VAL].mean()), "test": float(error[N_VAL:].mean()),
        }
        for model, error in errors.items()
    ]  # fmt: skip
    folder.mkdir(parents=True)
    save_file({"actual": actual, **forecasts}, folder / "forecasts.safetensors")
    (folder / "data.json").write_text(json.dumps({"kind": "series", "n_val": N_VAL, "n_test": N_TEST}))
    summary = {"seed": seed, "strategy": strategy, "metric": "mse", "scores": entries}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Write one run a seed: `runs({"grown": 0.9, ...}, seeds=(1, 2, 3), ...)`."""

    def runs(parts, seeds=(1, 2, 3), **options):
        return [write_run(tmp_path / f"seed-{seed}", parts, seed=seed, **options) for seed in seeds]

    return runs


def by_model(result):
    return {entry["model"]: entry for entry in result["models"]}


def forecasts_of(folder, model):
    return load_file(folder / "forecasts.safetensors")[model][N_VAL:]


MODELS = {"grown": GOOD, "start": FAIR, "zero": 0.0, "var1": FAIR, "gru": POOR}


# Figures


def test_means_sds_and_counts_over_seeds(runs):
    folders = runs(MODELS)
    result = compare(folders)
    assert result["metric"] == "mse"
    assert result["seeds"] == [1, 2, 3]
    assert list(by_model(result)) == list(MODELS)
    for model, entry in by_model(result).items():
        errors = [float(((forecasts_of(f, "actual") - forecasts_of(f, model)) ** 2).mean()) for f in folders]
        assert entry["n"] == 3
        assert entry["test"]["each"] == pytest.approx(errors, rel=1e-12)
        assert entry["test"]["mean"] == pytest.approx(sum(errors) / 3, rel=1e-12)
        squares = sum((error - sum(errors) / 3) ** 2 for error in errors)
        assert entry["test"]["sd"] == pytest.approx((squares / 2) ** 0.5, abs=1e-12)
        assert entry["params"] == 10 * len(model)
        assert entry["seconds"] == 4.0  # of 2, 4 and 6
        assert entry["settings"] == 4
    assert by_model(result)["zero"]["test"]["sd"] == 0
    assert by_model(result)["grown"]["test"]["sd"] > 0


def test_forecasts_are_averaged_over_seeds(runs):
    folders = runs(MODELS)
    mean = sum(forecasts_of(f, "grown") for f in folders) / 3
    entry = by_model(compare(folders))["grown"]
    assert entry["averaged_test"] == pytest.approx(((forecasts_of(folders[0], "actual") - mean) ** 2).mean(), rel=1e-12)
    assert entry["averaged_test"] < entry["test"]["mean"]


def test_one_seed_has_no_spread(runs):
    entry = by_model(compare(runs(MODELS, seeds=(4,))))["grown"]
    assert (entry["n"], entry["test"]["sd"], entry["val"]["sd"]) == (1, None, None)
    assert entry["averaged_test"] == pytest.approx(entry["test"]["mean"], rel=1e-12)


def test_a_model_that_only_some_runs_hold_is_counted_as_often(runs, tmp_path):
    folders = [*runs(MODELS, seeds=(1, 2)), write_run(tmp_path / "more", {**MODELS, "random": FAIR}, seed=3)]
    entries = by_model(compare(folders))
    assert (entries["grown"]["n"], entries["random"]["n"]) == (3, 1)
    assert {test["baseline"]: test["seeds"] for test in compare(folders)["tests"]} == {
        "start": 3, "zero": 3, "var1": 3, "gru": 3, "random": 1,
    }  # fmt: skip


def test_tests_read_daily_losses_averaged_over_series_and_seeds(runs):
    folders = runs(MODELS)
    result = compare(folders)
    daily = {
        model: np.mean([((forecasts_of(f, "actual") - forecasts_of(f, model)) ** 2).mean(1) for f in folders], axis=0)
        for model in MODELS
    }
    assert [test["baseline"] for test in result["tests"]] == ["start", "zero", "var1", "gru"]
    for test in result["tests"]:
        judge = diebold_mariano(daily[test["baseline"]], daily["grown"])
        assert test["statistic"] == pytest.approx(judge.statistic, rel=1e-10)
        assert test["p_value"] == pytest.approx(judge.p_value, rel=1e-10)
        assert test["p_one_sided"] == pytest.approx(judge.p_one_sided, rel=1e-10)
        assert test["loss_difference"] == pytest.approx(judge.difference, rel=1e-10)
        assert not test["equal"]
        assert test["statistic"] > 0  # the grown cell is better than each
        assert test["finding"] == "better"


def test_tests_of_kinds_of_models_read_losses_by_seed_and_day(runs):
    folders = runs(MODELS)
    by_seed = {
        model: np.stack([((forecasts_of(f, "actual") - forecasts_of(f, model)) ** 2).mean(1) for f in folders])
        for model in MODELS
    }
    for test in compare(folders)["tests"]:
        pair = by_seed[test["baseline"]], by_seed["grown"]
        judge, over_seeds = two_way_t(*pair), welch_t(*(each.mean(1) for each in pair))
        assert test["days_and_seeds"] == pytest.approx(judge._asdict(), rel=1e-9)
        assert test["over_seeds"] == pytest.approx(over_seeds._asdict(), rel=1e-9)


def test_neither_of_two_fitted_models_has_a_test_over_seeds(runs):
    result = compare(runs({"grown": FAIR, "var1": GOOD, "zero": 0.0}, same=[("grown", "var1")]))
    zero = next(test for test in result["tests"] if test["baseline"] == "zero")
    assert zero["over_seeds"] is None
    assert zero["finding"] == "better"
    assert zero["days_and_seeds"]["statistic"] == pytest.approx(zero["statistic"], rel=0.05)  # so it is DM's, nearly


def test_the_result_says_how_often_each_test_is_wrong(runs):
    assert compare(runs(MODELS))["sizes"] == [one._asdict() for one in MEASURED_SIZE]


def test_the_confidence_set_stands_in_the_models_too(runs):
    result = compare(runs(MODELS))
    assert result["mcs"]["members"] == ["grown"]
    assert result["mcs"]["size"] == 0.1
    assert set(result["mcs"]["p_values"]) == set(MODELS)
    assert [model for model, entry in by_model(result).items() if entry["in_mcs"]] == ["grown"]


def test_the_result_is_json(runs):
    result = compare(runs(MODELS))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


# Texts


def write_text_run(folder, means, *, seed=1, tokens=2345, text="one", without=None):
    """Write what a comparison reads of a run on a text.

    Args:
        folder: where to.
        means: of each model, the mean nll of its tokens, about.
        seed: of the losses.
        tokens: of the test part.
        text: another makes another text.
        without: a file that is left out.
    """
    rng = np.random.default_rng([9, seed])
    shared = rng.gamma(2.0, 1.0, size=tokens)  # some tokens are harder than others, for every model
    losses = {
        name: (mean * shared / 2 * rng.uniform(0.9, 1.1, tokens)).astype(np.float32) for name, mean in means.items()
    }
    entries = [
        {"model": name, "params": 100, "seconds": 1.0, "val": 9.0, "test": float(np.exp(each.astype(float).mean()))}
        for name, each in losses.items()
    ]
    folder.mkdir(parents=True)
    save_file(losses, folder / "losses.safetensors")
    (folder / "data.json").write_text(
        json.dumps({"kind": "language", "words": 50, "n_test": tokens + 1, "checksum": text})
    )
    (folder / "summary.json").write_text(
        json.dumps({"seed": seed, "strategy": "growing", "metric": "perplexity", "scores": entries})
    )
    if without:
        (folder / without).unlink()
    return folder


NLL = {"grown": 4.0, "lstm": 4.2, "gru": 3.9, "random": 4.0}


@pytest.fixture
def texts(tmp_path):
    return lambda means=NLL, **more: [write_text_run(tmp_path / f"{s}", means, seed=s, **more) for s in (1, 2, 3)]


def test_tests_on_a_text_read_means_of_blocks_of_100_tokens_averaged_over_seeds(texts):
    folders = texts()
    result = compare(folders)
    assert result["steps"] == {"count": 23, "unit": "blocks of 100 tokens"}
    losses = {
        name: np.mean([load_file(f / "losses.safetensors")[name].astype(float) for f in folders], axis=0)
        for name in NLL
    }
    blocks = {
        name: [each[first : first + 100].mean() for first in range(0, 2300, 100)] for name, each in losses.items()
    }
    assert [test["baseline"] for test in result["tests"]] == ["lstm", "gru", "random"]
    for test in result["tests"]:
        judge = diebold_mariano(np.array(blocks[test["baseline"]]), np.array(blocks["grown"]))
        assert test["statistic"] == pytest.approx(judge.statistic, rel=1e-9)
        assert test["p_value"] == pytest.approx(judge.p_value, rel=1e-9)
    assert {test["baseline"]: test["statistic"] > 0 for test in result["tests"]}["lstm"]
    assert result["mcs"]["members"] == ["gru"]


def test_means_of_perplexity_are_over_seeds_and_all_tokens(texts):
    folders = texts()
    for name, entry in by_model(compare(folders)).items():
        each = [np.exp(load_file(f / "losses.safetensors")[name].astype(float).mean()) for f in folders]
        assert entry["test"]["each"] == pytest.approx(each, rel=1e-9)
        assert entry["test"]["mean"] == pytest.approx(np.mean(each), rel=1e-9)
        assert entry["test"]["sd"] == pytest.approx(np.std(each, ddof=1), rel=1e-9)
        assert entry["averaged_test"] is None


def test_a_short_text_has_shorter_blocks(texts):
    assert compare(texts(tokens=130))["steps"] == {"count": 21, "unit": "blocks of 6 tokens"}


def test_another_text_is_refused(texts, tmp_path):
    folders = [*texts(), write_text_run(tmp_path / "other", NLL, text="other")]
    with pytest.raises(RunError, match=r"other: its test data differ from those of"):
        compare(folders)


def test_a_run_on_series_is_not_compared_with_one_on_a_text(runs, texts):
    with pytest.raises(RunError, match="its test data differ"):
        compare([*texts(), *runs(MODELS, seeds=(7,))])


@pytest.mark.parametrize("name", ["summary.json", "data.json", "losses.safetensors"])
def test_an_unfinished_run_on_a_text_is_refused_with_what_is_missing(tmp_path, name):
    folder = write_text_run(tmp_path / "run", NLL, without=name)
    with pytest.raises(RunError, match=rf"run: not a finished run: {name} is missing; resume it"):
        compare([folder])


@pytest.mark.parametrize(
    "change",
    [
        lambda losses: {**losses, "gru": losses["gru"][1:]},
        lambda losses: {name: each for name, each in losses.items() if name != "gru"},
        lambda losses: {**losses, "gru": np.float32([[1.0]])},
    ],
    ids=["shorter", "missing", "no list"],
)
def test_damaged_losses_are_refused(tmp_path, change):
    folder = write_text_run(tmp_path / "run", NLL)
    save_file(change(load_file(folder / "losses.safetensors")), folder / "losses.safetensors")
    with pytest.raises(RunError, match=r"run: damaged: "):
        compare([folder])


def test_a_run_without_scores_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"run: damaged: .* or it has no models"):
        compare([write_text_run(tmp_path / "run", {})])


# Findings


def findings(result):
    return {test["baseline"]: test["finding"] for test in result["tests"]}


def test_findings_say_of_the_reference_what_the_tests_find(runs):
    result = compare(runs({"grown": FAIR, "start": FAIR, "zero": 0.0, "var": GOOD, "gru": POOR}))
    found = findings(result)
    assert (found["zero"], found["gru"], found["var"]) == ("better", "better", "worse")
    assert result["strategies"] == ["growing"]
    assert "var" in result["mcs"]["members"]
    assert "grown" not in result["mcs"]["members"]
    assert "verdict" not in result  # words are the report's


def test_seeds_in_which_the_start_is_kept_are_counted(runs, tmp_path):
    result = compare(runs({**MODELS, "grown": FAIR}, same=[("grown", "start")]))
    assert result["kept_starts"] == 3
    assert next(test for test in result["tests"] if test["baseline"] == "start")["equal"]
    assert {entry["in_mcs"] for model, entry in by_model(result).items() if model in ("grown", "start")} == {True}
    folders = [
        *(write_run(tmp_path / f"free-{seed}", MODELS, seed=seed) for seed in (1, 2)),
        write_run(tmp_path / "kept", MODELS, seed=3, same=[("grown", "start")]),
    ]
    assert compare(folders)["kept_starts"] == 1


def test_a_baseline_that_forecasts_the_same_is_found_to(runs):
    result = compare(runs({"grown": FAIR, "var_robust": FAIR, "lstm": FAIR}, same=[("grown", "var_robust")]))
    assert findings(result) == {"var_robust": "same", "lstm": "not told apart"}


def test_one_seed_says_nothing_of_trained_models(runs):
    result = compare(runs(MODELS, seeds=(1,)))
    for test in result["tests"]:
        assert (test["finding"], test["days_and_seeds"], test["over_seeds"]) == ("untested", None, None)
        assert 0 <= test["p_value"] <= 1  # Diebold and Mariano's test is of these forecasts
    assert result["mcs"]["untested"] == ["grown", "start", "gru"]
    assert set(result["mcs"]["p_values"]) == {"zero", "var1"}
    assert {name for name, entry in by_model(result).items() if entry["in_mcs"] is None} == {"grown", "start", "gru"}


def test_one_seed_without_a_fitted_model_has_no_set(runs):
    result = compare(runs({"grown": GOOD, "gru": POOR}, seeds=(1,)))
    assert (result["mcs"]["members"], result["mcs"]["p_values"]) == ([], {})


def test_the_chosen_model_is_the_reference_where_there_is_one(runs):
    result = compare(runs({**MODELS, "chosen": GOOD}, same=[("chosen", "grown")]))
    assert result["reference"] == "chosen"
    assert [test["baseline"] for test in result["tests"]] == list(MODELS)
    assert findings(result)["grown"] == "same"
    kept = compare(runs({**MODELS, "chosen": FAIR}, seeds=(4, 5), same=[("chosen", "start")]))
    assert kept["kept_starts"] == 2


def test_the_pairs_of_one_run_are_tested_by_diebold_and_mariano(runs):
    (folder,) = runs({**MODELS, "chosen": GOOD}, seeds=(1,), same=[("chosen", "grown")])
    actual = forecasts_of(folder, "actual")
    losses = {name: ((actual - forecasts_of(folder, name)) ** 2).mean(1) for name in (*MODELS, "chosen")}
    tests = {test["baseline"]: test for test in pair_tests(losses)}
    assert list(tests) == list(MODELS)
    assert (tests["grown"]["equal"], tests["grown"]["p_value"]) == (True, 1.0)
    judge = diebold_mariano(losses["gru"], losses["chosen"])
    assert (tests["gru"]["statistic"], tests["gru"]["p_value"]) == (judge.statistic, judge.p_value)
    assert tests["gru"]["loss_difference"] == pytest.approx(losses["gru"].mean() - losses["chosen"].mean())
    assert tests["gru"]["loss_difference"] > 0
    assert pair_tests({}) == pair_tests({"gru": losses["gru"]}) == []


def test_the_steps_of_a_text_are_means_of_blocks():
    tokens = np.arange(2345.0)
    assert step_losses(tokens).tolist() == [tokens[first : first + 100].mean() for first in range(0, 2300, 100)]


def write_kinds(folder, seed_means, seed):
    """Write a run in which the error of each model in one seed is what `seed_means` says, on every day about."""
    rng = np.random.default_rng([11, seed])
    actual = np.zeros((N_VAL + N_TEST, 1))
    day = np.random.default_rng(12).chisquare(5, size=len(actual)) / 5
    errors = {model: means[seed] * day * rng.uniform(0.95, 1.05, len(day)) for model, means in seed_means.items()}
    entries = [
        {"model": model, "params": 1, "seconds": 1.0, "val": 1.0, "test": float(error[N_VAL:].mean())}
        for model, error in errors.items()
    ]
    folder.mkdir(parents=True)
    save_file(
        {"actual": actual, **{m: np.sqrt(e)[:, None] for m, e in errors.items()}}, folder / "forecasts.safetensors"
    )
    (folder / "data.json").write_text(json.dumps({"kind": "series", "n_val": N_VAL, "n_test": N_TEST}))
    (folder / "summary.json").write_text(
        json.dumps({"seed": seed, "strategy": "growing", "metric": "mse", "scores": entries})
    )
    return folder


def test_a_difference_that_other_seeds_would_undo_is_not_told(tmp_path):
    """The LSTM's seeds lie on both sides of grown's: the averages differ on every day, the kinds do not."""
    means = {"grown": [1.0, 1.02, 0.98, 1.01], "lstm": [0.8, 1.3, 0.9, 1.4], "gru": [1.5, 1.6, 1.55, 1.45]}
    result = compare([write_kinds(tmp_path / str(seed), means, seed) for seed in range(4)])
    tests = {test["baseline"]: test for test in result["tests"]}
    assert tests["lstm"]["p_value"] < 1e-6  # by Diebold and Mariano
    assert tests["lstm"]["days_and_seeds"]["p_value"] > 0.3
    assert tests["lstm"]["over_seeds"]["p_value"] > 0.3
    assert (tests["lstm"]["finding"], tests["gru"]["finding"]) == ("not told apart", "better")
    assert result["mcs"]["members"] == ["grown", "lstm"]


def test_both_tests_must_reject(tmp_path):
    """Seeds that all are a little worse, of days so unlike that other days might undo it: only one test rejects."""
    means = {"grown": [1.0, 1.001, 0.999, 1.0], "var": [1.02] * 4}
    folders = [write_kinds(tmp_path / str(seed), means, seed) for seed in range(4)]
    for folder in folders:  # another day effect of the fitted model, the same in all seeds
        tensors = load_file(folder / "forecasts.safetensors")
        tensors["var"] = np.sqrt(1.02 * np.random.default_rng(13).chisquare(5, size=(N_VAL + N_TEST, 1)) / 5)
        save_file(tensors, folder / "forecasts.safetensors")
    (test,) = compare(folders)["tests"]
    assert test["over_seeds"]["p_value"] < 0.05 < test["days_and_seeds"]["p_value"]
    assert test["finding"] == "not told apart"


# Refused


def test_nothing_to_compare_is_refused():
    with pytest.raises(RunError, match="no run folder was given"):
        compare([])


def test_other_data_are_refused(runs, tmp_path):
    folders = [*runs(MODELS, seeds=(1, 2)), write_run(tmp_path / "other", MODELS, seed=3, data=1)]
    with pytest.raises(RunError) as caught:
        compare(folders)
    assert str(caught.value).startswith(f"{folders[2]}: its test data differ from those of {folders[0]};")


def test_another_length_of_data_is_refused(runs, tmp_path):
    folders = [*runs(MODELS, seeds=(1,)), write_run(tmp_path / "other", MODELS, seed=2)]
    (folders[1] / "data.json").write_text(json.dumps({"n_val": N_VAL + 1}))
    with pytest.raises(RunError, match=r"other: its test data differ from those of .*seed-1;"):
        compare(folders)


@pytest.mark.parametrize("name", ["summary.json", "data.json", "forecasts.safetensors"])
def test_an_unfinished_run_is_refused_with_what_is_missing(runs, name):
    folders = runs(MODELS)
    (folders[1] / name).unlink()
    with pytest.raises(RunError) as caught:
        compare(folders)
    assert str(caught.value) == f"{folders[1]}: not a finished run: {name} is missing; resume it"


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"nowhere: not a finished run: summary\.json is missing"):
        compare([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", b""),
        ("summary.json", b'{"scores": ['),
        ("summary.json", b"\xff\xfe"),
        ("summary.json", b"[]"),
        ("data.json", b'{"n_val": null}'),
        ("forecasts.safetensors", b"\0" * 8),
        ("forecasts.safetensors", b"not tensors"),
    ],
)
def test_a_damaged_file_is_refused(runs, name, content):
    folders = runs(MODELS)
    (folders[2] / name).write_bytes(content)
    with pytest.raises(RunError) as caught:
        compare(folders)
    assert str(caught.value).startswith(f"{folders[2]}: damaged: ")


def test_forecasts_that_lack_a_model_are_refused(runs):
    folders = runs(MODELS)
    tensors = load_file(folders[0] / "forecasts.safetensors")
    del tensors["gru"]
    save_file(tensors, folders[0] / "forecasts.safetensors")
    with pytest.raises(RunError, match=r"damaged: .*gru.* is missing in its files; run it again"):
        compare(folders)


# Several strategies


FOUND = {"chosen": POOR, "random": FAIR, "first_stage": POOR, "start": POOR, "random_retrained": GOOD, "gru": GOOD}


def test_models_that_further_strategies_found_stand_beside_the_firsts(runs, tmp_path):
    firsts = runs(MODELS)
    groups = [
        [first, write_run(tmp_path / f"seed-{seed}-random", FOUND, seed=seed, strategy="random")]
        for seed, first in enumerate(firsts, 1)
    ]
    alone, together = compare(firsts), compare(groups)
    assert list(by_model(together)) == [*MODELS, "random", "random_retrained"]
    assert (together["seeds"], together["reference"]) == ([1, 2, 3], "grown")
    for model, entry in by_model(alone).items():
        found = by_model(together)[model]
        assert (found["test"], found["n"]) == (entry["test"], 3)
    for model in ("random", "random_retrained"):
        each = [
            float(((forecasts_of(second, "actual") - forecasts_of(second, model)) ** 2).mean()) for _, second in groups
        ]
        assert by_model(together)[model]["test"]["each"] == pytest.approx(each, rel=1e-12)
    findings = {test["baseline"]: test["finding"] for test in together["tests"]}
    assert findings["random"] == "better"
    assert "random" in together["mcs"]["p_values"]
    assert compare([[first] for first in firsts]) == alone


@pytest.fixture
def strategies(tmp_path):
    """Write one group of runs a seed: of growing, of random search and of two that are named."""
    found = {"random": (POOR, FAIR), "good": (GOOD, FAIR), "same": (POOR, GOOD)}

    def groups(seeds):
        made = [[write_run(tmp_path / f"seed-{seed}", {"grown": FAIR, "zero": 0.0}, seed=seed)] for seed in seeds]
        for (name, (here, again)), (group, seed) in itertools.product(found.items(), zip(made, seeds, strict=True)):
            parts, folder = {name: here, f"{name}_retrained": again}, tmp_path / f"seed-{seed}-{name}"
            group.append(write_run(folder, parts, seed=10 * seed + len(name), strategy=name))
        return made

    return groups


def test_each_strategy_is_tested_against_random_search_and_corrected_for_their_number(strategies):
    result = compare(strategies((1, 2, 3)))
    tests = result["tests_against_random"]
    pairs = [(test["baseline"], test["reference"]) for test in tests]
    again = [("good_retrained", "random_retrained"), ("same_retrained", "random_retrained")]
    assert pairs == [("grown", "random"), ("good", "random"), ("same", "random"), *again]
    for group in (tests[:3], tests[3:]):
        larger = [max(test[key]["p_value"] for key in ("days_and_seeds", "over_seeds")) for test in group]
        corrected = multipletests(larger, method="holm")[1]
        assert [test["p_holm"] for test in group] == pytest.approx(list(corrected), rel=1e-9)
    means = {name: entry["test"]["mean"] for name, entry in by_model(result).items()}
    for test in tests:
        difference = means[test["baseline"]] - means[test["reference"]]
        assert test["loss_difference"] == pytest.approx(difference, rel=1e-9)
    findings = {test["baseline"]: test["finding"] for test in tests}
    assert findings["good"] == "worse"  # said about random
    assert findings["same"] == "not told apart"
    assert {test["baseline"] for test in result["tests"]} == set(means) - {"grown"}  # as without random search


def test_one_seed_is_not_tested_against_random_search(strategies):
    tests = compare(strategies((1,)))["tests_against_random"]
    assert [(test["finding"], test["p_holm"]) for test in tests] == [("untested", None)] * 5


def test_where_random_search_comes_first_or_is_missing_nothing_is_tested_against_it(tmp_path):
    first = write_run(tmp_path / "one", {"chosen": GOOD, "random": GOOD}, strategy="random")
    second = write_run(tmp_path / "two", {"chosen": POOR, "grown": FAIR})
    assert compare([[first, second]])["tests_against_random"] == []
    assert compare([second])["tests_against_random"] == []


def test_growth_may_be_the_further_strategy(tmp_path):
    first = write_run(tmp_path / "one", {"chosen": GOOD, "random": GOOD}, strategy="random")
    second = write_run(tmp_path / "two", {"chosen": POOR, "grown": FAIR, "grown_retrained": FAIR, "first_stage": FAIR})
    assert list(by_model(compare([[first, second]]))) == ["chosen", "random", "grown", "grown_retrained"]


def test_a_further_strategy_must_have_seen_the_same_data(runs, tmp_path):
    (first,) = runs(MODELS, seeds=(1,))
    second = write_run(tmp_path / "other", FOUND, data=1, strategy="random")
    with pytest.raises(RunError, match=r"other: its test data differ from those of .*seed-1; compare runs on the same"):
        compare([[first, second]])


# A task of another kind


def write_plain_run(folder, losses, *, seed=1, checksum="one"):
    """Write the files of a run on a task of which nothing but its losses is known."""
    folder.mkdir(parents=True)
    entries = [
        {"model": name, "params": 3, "seconds": 1.0, "val": 1.0, "test": float(each.mean())}
        for name, each in losses.items()
    ]
    save_file(losses, folder / "losses.safetensors")
    (folder / "data.json").write_text(json.dumps({"kind": "plain", "checksum": checksum}))
    summary = {"seed": seed, "strategy": "growing", "metric": "mae", "scores": entries}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_of_another_task_each_loss_is_a_step(tmp_path):
    rng = np.random.default_rng(0)
    losses = [{"grown": rng.random(80), "gru": 1 + rng.random(80)} for _ in range(3)]
    folders = [write_plain_run(tmp_path / f"{number}", each, seed=number) for number, each in enumerate(losses)]
    result = compare(folders)
    assert result["steps"] == {"count": 80, "unit": "steps"}
    (test,) = result["tests"]
    own, other = (np.stack([each[name] for each in losses]) for name in ("grown", "gru"))
    assert test["loss_difference"] == pytest.approx(other.mean() - own.mean(), rel=1e-12)
    assert test["days_and_seeds"]["statistic"] == two_way_t(other, own).statistic
    assert test["finding"] == "better"
    assert by_model(result)["gru"]["averaged_test"] is None
    with pytest.raises(RunError, match="its test data differ"):
        compare([*folders, write_plain_run(tmp_path / "else", losses[0], checksum="two")])
