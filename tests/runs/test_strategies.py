"""Another strategy than growth, from the command line: searched, resumed, refitted, and compared with growth."""

from __future__ import annotations

from pathlib import Path

import pytest

import grownas
from grownas.config.loading import task_class
from grownas.protocols import Strategy, Task
from grownas.strategies.random_search import RandomSearch

RANDOM = (
    "strategy={use: random, max_nodes: 2, max_epochs: 3, patience: 3, accept: better, guard: false, rates: [0.01]}",
    "budget.genotypes=3",
    "baselines.use=[zero]",
)
MODELS = ["chosen", "random", "start", "random_retrained", "zero"]


@pytest.fixture(scope="module")
def searched(runs) -> Path:
    """A finished random search; do not write to it."""
    return runs.search("random", *RANDOM)


def scores_of(summary):
    return {entry["model"]: entry for entry in summary["scores"]}


def test_random_search_writes_a_run_as_growth_does(searched, read_json, read_lines, evaluates_to_summary, call):
    summary = read_json(searched / "summary.json")
    assert (summary["strategy"], summary["stopped"]) == ("random", "budget.genotypes = 3 reached")
    assert list(scores_of(summary)) == MODELS
    genotypes, best = summary["genotypes"], scores_of(summary)["random"]
    assert len(genotypes) == 3
    assert best["steps"] == sum(one["steps"] for one in genotypes) == summary["search_steps"] > 0
    start = scores_of(summary)["start"]["val"]
    assert best["val"] == pytest.approx(min(start, *(one["val"] for one in genotypes)), rel=1e-5)
    models = {line["part"]: line["model"] for line in read_lines(searched / "metrics.jsonl")}
    assert [models[f"random-{i}"] for i in range(3)] == ["search"] * 3
    assert set(models.values()) == {"search", "random_retrained"}
    evaluates_to_summary(searched)
    assert call("show", searched).code == call("predict", searched).code == 0
    assert (searched / "report.html").stat().st_size > 0


@pytest.mark.parametrize("until", ["random-0.part", "random-1.part", "random-2.done"])
def test_a_random_search_that_was_killed_goes_on_to_the_same_bits(
    searched, killed_search, call, assert_same_run, until
):
    folder = killed_search("random", until, *RANDOM)
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(searched, folder)


def test_what_random_search_found_is_refitted(searched, runner, read_json, read_lines, evaluates_to_summary):
    folder = runner.search("refit", "refit=true", *RANDOM)
    before, after = (read_json(each / "summary.json") for each in (searched, folder))
    for summary in (before, after):
        for one in summary["genotypes"]:
            assert one.pop("seconds") > 0
    assert after["genotypes"] == before["genotypes"]  # the search is the same
    models = {line["part"]: line["model"] for line in read_lines(folder / "metrics.jsonl")}
    assert models["random-refit"] == "refit"
    assert models["random_retrained-refit"] == "random_retrained"
    assert after["search_steps"] == before["search_steps"] < scores_of(after)["random"]["steps"]
    for model in ("random", "start", "random_retrained"):
        assert scores_of(after)[model]["test"] != scores_of(before)[model]["test"]
    evaluates_to_summary(folder)


@pytest.mark.parametrize("command", ["search", "compare"])
def test_a_strategy_that_cannot_refit_is_refused_before_work(runner, call, monkeypatch, command):
    monkeypatch.setattr(RandomSearch, "refit", Strategy.refit)  # as of a strategy that inherits it
    ended = call(command, *runner.options("name=unfit", "refit=true", "strategies=[random]", *RANDOM))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: refit=true: strategy.use=random cannot refit its result; set refit=false\n"
    assert not (runner.folder / "unfit").exists()


def test_a_baseline_is_refitted_whatever_the_strategy_can(runner, call, monkeypatch):
    monkeypatch.setattr(RandomSearch, "refit", Strategy.refit)
    ended = call("train", *runner.options("name=fit", "refit=true", *RANDOM, "genotype=gru"))
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("command", ["search", "compare"])
def test_a_task_on_series_that_cannot_refit_is_refused_before_work(runner, call, monkeypatch, command):
    monkeypatch.setattr(task_class("index_returns"), "with_refit", Task.with_refit)
    ended = call(command, *runner.options("name=unfit", "refit=true", "strategies=[random]", *RANDOM))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: index_returns cannot be refitted; set refit=false\n"
    assert not (runner.folder / "unfit").exists()


def test_options_of_another_strategy_are_refused(runner, call):
    ended = call("search", *runner.options("strategy={use: random, mode: nodes}"))
    assert ended.code == 2
    assert "strategy.mode: unknown key" in ended.err


# ---- compared


@pytest.fixture(scope="module")
def compared(runs, call) -> Path:
    """Growth and random search under two names over one seed, without a budget; do not write to it."""
    section = "use: random, max_epochs: 3, patience: 3, rates: [0.01]"
    named = f"{{{section}, max_nodes: 1, name: random_one}}"
    strategies = f"strategies=[growing,{{{section}, max_nodes: 2}},{named}]"
    options = ("seeds=[1]", "baselines.use=[zero]", strategies, "strategy.max_epochs=3")
    ended = call("compare", *runs.options("name=strategies", *options))
    assert ended.code == 0, ended.err
    return runs.folder / "strategies"


def test_strategies_are_compared_in_one_table(compared, read_json):
    result = read_json(compared / "comparison.json")
    names = [entry["model"] for entry in result["models"]]
    assert {"chosen", "grown", "grown_retrained", "random", "random_retrained", "zero"} <= set(names)
    assert len(names) == len(set(names))
    second = scores_of(read_json(compared / "seed-1-random" / "summary.json"))
    models = {entry["model"]: entry for entry in result["models"]}
    for name in ("random", "random_retrained"):
        assert models[name]["test"]["each"] == [second[name]["test"]]
    assert "zero" not in second  # the baselines are the first's
    assert [(test["baseline"], test["reference"]) for test in result["tests_against_random"]] == [
        ("grown", "random"),
        ("random_one", "random"),
        ("grown_retrained", "random_retrained"),
        ("random_one_retrained", "random_retrained"),
    ]


def test_a_strategy_is_compared_with_itself_under_another_name(compared, read_json, call):
    result = read_json(compared / "comparison.json")
    assert result["strategies"] == ["growing", "random", "random_one"]
    models = {entry["model"]: entry for entry in result["models"]}
    summary = read_json(compared / "seed-1-random_one" / "summary.json")
    assert summary["strategy"] == "random_one"
    assert all(len(one["genotype"]["nodes"]) == 1 for one in summary["genotypes"])
    for name in ("random_one", "random_one_retrained"):
        assert models[name]["test"]["each"] == [scores_of(summary)[name]["test"]]
        assert models[name]["gradients"] == models[name]["steps"] > 0
    loaded = grownas.load(compared)
    assert {"random_one", "random_one_retrained"} <= set(loaded.scores.index)
    assert list(loaded.runs()) == ["seed-1", "seed-1-random", "seed-1-random_one"]
    assert "random_one, seed-1-random_one" in (compared / "report.html").read_text("utf-8")  # its cell
    assert "found by random_one" in (compared / "report.html").read_text("utf-8")
    assert call("evaluate", compared / "seed-1-random_one").code == 0


def test_where_there_is_no_budget_a_further_strategy_has_the_firsts_steps(compared, read_json):
    first, second = (read_json(compared / name / "summary.json") for name in ("seed-1", "seed-1-random"))
    assert second["stopped"] == f"budget.steps = {first['search_steps']} reached"
    assert second["search_steps"] >= first["search_steps"]
    assert second["search_steps"] - second["genotypes"][-1]["steps"] < first["search_steps"]  # no training too many


def test_a_finished_comparison_of_strategies_comes_out_the_same(compared, call, read_json):
    before = (compared / "comparison.json").read_bytes()
    assert call("resume", compared).code == 0
    assert (compared / "comparison.json").read_bytes() == before
    assert call("resume", compared, "strategies=growing").code == 0
    names = {entry["model"] for entry in read_json(compared / "comparison.json")["models"]}
    assert "grown" in names
    assert not {"random", "random_retrained", "random_one"} & names
    again = "strategies=[growing,random,{use: random, name: random_one}]"
    assert call("resume", compared, again).code == 0
    assert (compared / "comparison.json").read_bytes() == before


def test_a_budget_that_is_given_is_every_strategys(runner, call, read_json):
    section = "{use: random, max_nodes: 1, max_epochs: 1, rates: [0.01]}"
    options = ("seeds=[1]", "baselines.use=[zero]", f"strategies=[growing,{section}]", "budget.genotypes=2")
    ended = call("compare", *runner.options("name=budget", "retrain.grown=false", *options))
    assert ended.code == 0, ended.err
    for name in ("seed-1", "seed-1-random"):
        summary = read_json(runner.folder / "budget" / name / "summary.json")
        assert len(summary["genotypes"]) <= 2
    assert summary["stopped"] == "budget.genotypes = 2 reached"


def test_strategies_that_cannot_be_compared_are_refused_before_work(runner, call):
    ended = call("compare", *runner.options("strategies=[random,growing]"))
    assert ended.code == 2
    assert "first strategy.use=growing" in ended.err
    assert not runner.folder.exists()


# ---- a strategy that trains one supernet


DARTS = (
    "strategy={use: darts, order: second, max_nodes: 1, max_epochs: 24, patience: null, unit_epochs: 12, top_k: 2,"
    " readout: ablation, tune_epochs: 12, accept: better, guard: false, weights: {rate: 0.01}, fine_tune_epochs: 1,"
    " architecture_share: 0.4}",
    "space.hidden_size=4",
    "retrain.grown=false",
    "baselines.use=[zero]",
)


def test_a_name_is_that_of_the_rows_and_changes_nothing_that_is_drawn(runner, read_json, call):
    options = (
        "strategy={use: darts, max_nodes: 1, max_epochs: 2, unit_epochs: 1, fine_tune_epochs: 1, accept: better, "
        "guard: false, architecture_share: 0.4}",
        "baselines.use=[zero]",
    )
    plain, named = runner.search("plain", *options), runner.search("named", *options, "strategy.name=mine")
    one, other = (read_json(folder / "summary.json") for folder in (plain, named))
    assert (one["strategy"], other["strategy"]) == ("darts", "mine")
    renamed = {name.replace("darts", "mine"): entry for name, entry in scores_of(one).items()}
    assert list(scores_of(other)) == list(renamed)
    assert {"mine", "mine_supernet", "mine_retrained"} <= set(renamed)
    for name, entry in scores_of(other).items():
        assert [entry[part] for part in ("val", "test", "params")] == [
            renamed[name][part] for part in ("val", "test", "params")
        ]
    assert (plain / "weights.safetensors").read_bytes() == (named / "weights.safetensors").read_bytes()
    assert call("evaluate", named).code == call("show", named).code == 0
    scores, units = scores_of(one), one["genotypes"]
    assert scores["darts_retrained"]["gradients"] == scores["darts_retrained"]["steps"] > 0
    closing = scores["darts"]["steps"] - sum(unit["steps"] for unit in units)
    assert closing > 0
    assert scores["darts"]["gradients"] == 2 * sum(unit["steps"] for unit in units) + closing


@pytest.mark.parametrize("command", ["search", "train", "compare"])
def test_the_name_of_another_row_is_refused_before_work(runner, call, command):
    more = ["genotype=gru"] if command == "train" else []
    ended = call(command, *runner.options("strategy.name=gru", *more))
    assert (ended.code, ended.out) == (2, "")
    assert "strategy.name=gru: gru is a row of another model; choose another name for this growing" in ended.err
    assert not runner.folder.exists()


def test_a_supernet_that_was_killed_within_a_piece_and_within_a_tuning_goes_on_to_the_same_bits(
    runner, fork, wait_for, call, assert_same_run
):
    whole, folder = runner.search("whole", *DARTS), runner.folder / "darts"
    begin = ("search", *runner.options("name=darts", "checkpoint_seconds=0", *DARTS))
    for until, command in (("darts-epoch-24.part", begin), ("darts-tune-2.part", ("resume", folder))):
        process = fork(*command)
        wait_for(lambda until=until: (folder / "checkpoint" / until).exists())
        process.kill()
        process.join()
        assert (folder / "checkpoint" / until).exists()
        assert not (folder / "summary.json").exists()
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(whole, folder)


# ---- strategies that sample genotypes by a policy or on shared weights


SHARED = "max_nodes: 2, max_epochs: 8, unit_epochs: 4, rounds: 2, samples: 5, rescored: 2, fine_tune_epochs: 2"
POLICY = "policy_updates: 3, policy_samples: 3"
SAMPLED = {  # options, and what is in the checkpoint when the search is killed
    "random_shared": (SHARED, "random_shared-epoch-8.part"),
    "enas": (f"{SHARED}, {POLICY}, architecture_share: 0.4", "enas-policy-8.done"),
    "nas_rl": ("max_nodes: 2, genotypes: 3, max_epochs: 3, patience: 3", "nas_rl-1.part"),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_a_search_by_samples_that_was_killed_goes_on_to_the_same_bits(
    runner, killed_search, call, assert_same_run, evaluates_to_summary, name
):
    own, until = SAMPLED[name]
    options = (
        f"strategy={{use: {name}, {own}, accept: better, guard: false, weights: {{rate: 0.01}}}}",
        "space.hidden_size=4",
        "retrain.grown=false",
        "baselines.use=[zero]",
        "refit=true",
    )
    whole, folder = runner.search("whole", *options), killed_search(name, until, *options)
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(whole, folder)
    evaluates_to_summary(folder)
