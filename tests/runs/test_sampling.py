"""Whole runs of strategies that train each genotype on its own: their trials, resumed and on texts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import grownas
from grownas.genotype import DagGenotype, Genotype

SHORT = "max_nodes: 2, max_epochs: 3, patience: 3, accept: better, guard: false, rates: [0.01]"
STRATEGIES = {  # name -> the strategy's section
    "halving": f"{{use: random, {SHORT}, halving: {{candidates: 2, first_epochs: 1, reduction_factor: 2}}}}",
    "evolution": f"{{use: evolution, {SHORT}, population: 2, tournament: 2}}",
    "seqnas": f"{{use: seqnas, {SHORT}, initial: 2, candidates: 4, per_round: 2, predictors: 2}}",
}
OTHERS = ("budget.genotypes=4", "baselines.use=[zero]", "retrain.grown=false")
UNTIL = {"halving": "random-2-to-1.part", "evolution": "evolution-2.part", "seqnas": "seqnas-3.part"}
DAG = "space={backbone: dag, hidden_size: 6, activation: [none,tanh,identity]}"


@pytest.fixture(scope="module", params=STRATEGIES)
def searched(request, runs) -> Path:
    """A finished search; do not write to it."""
    return runs.search(request.param, f"strategy={STRATEGIES[request.param]}", *OTHERS)


def test_a_run_logs_its_trials(searched, read_json, read_lines, evaluates_to_summary):
    summary, trials = read_json(searched / "summary.json"), read_lines(searched / "trials.jsonl")
    assert sorted(line["number"] for line in trials) == [0, 1, 2, 3]
    assert [line["genotype"] for line in trials] == [one["genotype"] for one in summary["genotypes"]]
    assert [line["val"] for line in trials] == [one["val"] for one in summary["genotypes"]]
    assert sum(line["steps"] for line in trials) == summary["search_steps"]
    assert {line["reason"] for line in trials} <= {"epochs", "patience", "halving"}
    assert trials[-1]["best"] == min(line["val"] for line in trials)
    parts = {line["part"] for line in read_lines(searched / "metrics.jsonl")}
    assert all(any(part.startswith(line["part"]) for part in parts) for line in trials)
    assert ">Trials</h2>" in (searched / "report.html").read_text()
    evaluates_to_summary(searched)


def test_a_search_that_was_killed_goes_on_to_the_same_bits_and_trials(searched, killed_search, call, assert_same_run):
    name = searched.name
    folder = killed_search(name, UNTIL[name], f"strategy={STRATEGIES[name]}", *OTHERS)
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(searched, folder)


@pytest.mark.parametrize("name", ["evolution", "seqnas"])
@pytest.mark.parametrize("space", ["space.hidden_size=6", DAG])
def test_a_text_is_searched(small_text, tmp_path, call, read_json, name, space):
    section = f"strategy={STRATEGIES[name]}"
    options = (section, "budget.genotypes=4", "retrain.grown=false", space, "baselines.use=[]", "task.streams=4")
    ended = call(
        "search", "penn_treebank/growing_cpu", f"task.data={small_text}", "task.bptt=5", "task.samples=4", *options,
        f"runs={tmp_path}", "name=text", "quiet=true",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    summary = read_json(tmp_path / "text" / "summary.json")
    assert summary["stopped"] == "budget.genotypes = 4 reached"
    assert len(summary["genotypes"]) == 4
    assert isinstance(Genotype.load(tmp_path / "text" / "genotype.json"), DagGenotype) == (space is DAG)


def test_trials_are_a_table_in_python(data):
    strategy = {"use": "random", "max_nodes": 1, "max_epochs": 1, "rates": [0.01]}
    overrides = {
        "strategy": strategy, "budget.genotypes": 2, "retrain.grown": False, "baselines.use": [], "task.streams": 4,
        "task.context": 20, "space.hidden_size": 4,
    }  # fmt: skip
    run = grownas.search("index_returns/growing", data=data, overrides=overrides, quiet=True)
    assert run.folder is None
    assert isinstance(run.trials, pd.DataFrame)
    assert run.trials["number"].tolist() == [0, 1]
    assert run.trials["best"].tolist()[-1] == run.trials["val"].min()


def test_trials_of_a_folder_are_the_same_table(searched):
    assert sorted(grownas.load(searched).trials["number"]) == [0, 1, 2, 3]
