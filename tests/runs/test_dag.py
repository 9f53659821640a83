"""The space of DAGs from the command line: searched on series and on a text, resumed, refused where it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from grownas.config.loading import strategy_class
from grownas.genotype import DagGenotype, Genotype

DAG = (
    "space={backbone: dag, hidden_size: 8}",
    "start={use: random, rule: single, max_order: 2, nodes: 2}",
    "strategy={use: random, max_nodes: 3, max_epochs: 3, patience: 3, accept: better, guard: false, rates: [0.01]}",
    "budget.genotypes=3",
    "baselines.use=[zero]",
)
GROWING = (
    *DAG[:2],
    "strategy={use: growing, max_nodes: 4, nodes_at_once: 1, max_epochs: 6, first_epochs: 4, patience: 2, accept: "
    "better, guard: false, origins: 1, blend_steps: 6, prune: each_stage, prune_threshold: 0.19, min_age: 1, "
    "fine_tune_epochs: 3, weights: {rate: 0.01}, alpha: {rate: 0.05}}",
    "baselines.use=[zero]",
)
TEXT = (
    "space={backbone: dag, hidden_size: 6, norm: true}",
    "start.nodes=2",
    "task={use: penn_treebank, streams: 4, bptt: 5, samples: 4, weight_drop: 0.2}",
    "strategy={use: random, max_nodes: 3, max_epochs: 2, accept: better, guard: false, rates: [0.01]}",
    "budget.genotypes=2",
    "retrain.epochs=2",
    "baselines.use=[gru]",
    "quiet=true",
)


def only(options):
    """Options of the tiny panel without those of sections that are given whole."""
    return [one for one in options if not one.startswith(("space.", "start.", "strategy."))]


@pytest.fixture(scope="module")
def searched(runs, call) -> Path:
    """A finished search; do not write to it."""
    ended = call("search", *only(runs.options("name=dag")), *DAG)
    assert ended.code == 0, ended.err
    return runs.folder / "dag"


def test_a_search_writes_a_run_as_any_does(searched, read_json, evaluates_to_summary, call):
    summary = read_json(searched / "summary.json")
    scores = {entry["model"]: entry for entry in summary["scores"]}
    assert list(scores) == ["chosen", "random", "start", "random_retrained", "zero"]
    genotype = Genotype.load(searched / "genotype.json")
    assert isinstance(genotype, DagGenotype)
    assert summary["nodes"] == summary["ops"] == len(genotype.nodes) <= 3
    assert [one["genotype"]["backbone"] for one in summary["genotypes"]] == ["dag"] * 3
    evaluates_to_summary(searched)
    shown = call("show", searched)
    assert (shown.code, "state 1: reads state 0" in shown.out) == (0, True)
    assert call("predict", searched).code == 0
    assert "c_1 = sigmoid(s_0 gate_h[1])" in (searched / "equations.txt").read_text()
    assert "<svg" in (searched / "report.html").read_text()


def test_a_search_that_was_killed_goes_on_to_the_same_bits(searched, runner, fork, wait_for, call, assert_same_run):
    folder = runner.folder / "dag"
    process = fork("search", *only(runner.options("name=dag", "checkpoint_seconds=0")), *DAG)
    wait_for(lambda: (folder / "checkpoint" / "random-1.part").exists() or process.exitcode is not None)
    process.kill()
    process.join()
    assert not (folder / "summary.json").exists()
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(searched, folder)


def test_what_was_found_is_refitted(searched, runner, call, read_json, evaluates_to_summary):
    ended = call("search", *only(runner.options("name=refit", "refit=true")), *DAG)
    assert ended.code == 0, ended.err
    before, after = (read_json(each / "summary.json") for each in (searched, runner.folder / "refit"))
    after, before = ([{**one, "seconds": None} for one in each["genotypes"]] for each in (after, before))
    assert after == before
    evaluates_to_summary(runner.folder / "refit")


def test_supernets_of_the_dag_are_baselines_of_a_comparison(runner, call, read_json):
    more = ("seeds=[1]", "baselines.compare=[fixed_size_random,sizes]", "strategies=[random]", "budget.genotypes=1")
    ended = call("compare", *only(runner.options("name=compared", *more)), *DAG[:3], "baselines.use=[zero]")
    assert ended.code == 0, ended.err
    models = {one["model"] for one in read_json(runner.folder / "compared" / "comparison.json")["models"]}
    assert {"random", "fixed_size_random", "sizes"} <= models


@pytest.fixture(scope="module")
def grown(runs, call) -> Path:
    """A finished growth; do not write to it."""
    ended = call("search", *only(runs.options("name=grown")), *GROWING)
    assert ended.code == 0, ended.err
    return runs.folder / "grown"


def test_a_dag_grows(grown, read_json, read_lines, evaluates_to_summary, call):
    summary, lines = read_json(grown / "summary.json"), read_lines(grown / "growth.jsonl")
    assert [entry["model"] for entry in summary["scores"]] == [
        "chosen", "grown", "first_stage", "grown_supernet", "start", "grown_retrained", "zero"
    ]  # fmt: skip
    accepted = [line for line in lines if line["accepted"]]
    assert {line["kind"] for line in accepted} == {"add_node", "prune_op"}
    genotype = Genotype.load(grown / "genotype.json")
    assert isinstance(genotype, DagGenotype)
    assert len(genotype.nodes) == 2 + sum(line["kind"] == "add_node" for line in accepted)
    for line in lines:
        for key in ("cell_before", "cell_after"):
            assert isinstance(Genotype.from_dict(line[key]), DagGenotype)
        assert line["drift"] == 0 or line["kind"] == "prune_op"
    evaluates_to_summary(grown)
    page = (grown / "report.html").read_text()
    for words in ("add node 3", "of the edge from state 0 to state ", "The cell move by move", "state 1 to state 3"):
        assert words in page
    assert call("show", grown).code == 0
    assert call("report", grown).code == 0


def test_a_growth_that_was_killed_goes_on_to_the_same_bits(grown, runner, fork, wait_for, call, assert_same_run):
    folder = runner.folder / "grown"
    process = fork("search", *only(runner.options("name=grown", "checkpoint_seconds=0")), *GROWING)
    wait_for(lambda: (folder / "checkpoint" / "stage-2.part").exists() or process.exitcode is not None)
    process.kill()
    process.join()
    assert not (folder / "summary.json").exists()
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(grown, folder)


def test_a_growth_is_refitted(grown, runner, call, read_json, evaluates_to_summary):
    ended = call("search", *only(runner.options("name=refit", "refit=true")), *GROWING)
    assert ended.code == 0, ended.err
    before, after = (read_json(each / "summary.json") for each in (grown, runner.folder / "refit"))
    assert [line["moves"] for line in after["stage_log"]] == [line["moves"] for line in before["stage_log"]]
    evaluates_to_summary(runner.folder / "refit")


def test_a_text_is_searched(small_text, tmp_path, call, read_json):
    ended = call(
        "search", "penn_treebank/growing_cpu", *TEXT, f"task.data={small_text}", f"runs={tmp_path}", "name=text"
    )
    assert ended.code == 0, ended.err
    summary = read_json(tmp_path / "text" / "summary.json")
    assert isinstance(Genotype.load(tmp_path / "text" / "genotype.json"), DagGenotype)
    scores = {entry["model"]: entry for entry in summary["scores"]}
    assert list(scores) == ["chosen", "random", "start", "random_retrained", "gru"]
    assert scores["gru"]["params"] == pytest.approx(scores["random"]["params"], rel=0.3)
    ended = call("evaluate", tmp_path / "text")
    assert ended.code == 0, ended.err
    assert f"test perplexity {summary['test']!r}" in ended.out


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["strategy.mode=nodes_and_ops"],
            "space.backbone=dag: growing offers strategy.mode=nodes_and_ops on a chain only; set strategy.mode=nodes",
        ),
        (
            ["strategy.birth=carrier", "strategy.position=first", "strategy.top_k=1"],
            "space.backbone=dag: growing offers strategy.birth=carrier, strategy.position=first, strategy.top_k=1 on a "
            "chain only; set strategy.birth=blend or drawn, strategy.position=last, strategy.top_k=null",
        ),
        (
            ["strategy={use: random}", "start.use=var"],
            "start.use=var: a fitted VAR is the start of a chain, not of a dag; set start.use=random",
        ),
        (
            ["strategy={use: random}", "space.highway=true"],
            "space.highway: True is for chains only; leave it out with ",
        ),
        (["strategy={use: random}", "space.share_projection=true"], "space.share_projection: True is for chains only"),
        (["strategy={use: random}", "space.combine=[add]"], "space.combine: ('add',) is for chains only; leave it out"),
        (["strategy={use: random}", "space.activation=[none]"], "space.activation: 'none' alone cannot form a cell"),
    ],
)
@pytest.mark.parametrize("command", ["search", "compare"])
def test_what_does_not_fit_is_refused_in_one_line_before_work(runner, call, command, overrides, line):
    ended = call(command, *only(runner.options()), "space.backbone=dag", "start.use=random", *overrides)
    assert ended.code == 2
    assert f"error: {line}" in ended.err
    assert not runner.folder.exists()


@pytest.mark.parametrize("command", ["search", "compare"])
def test_a_strategy_that_does_not_search_dags_is_refused_before_work(runner, call, monkeypatch, command):
    monkeypatch.setattr(strategy_class("random"), "backbones", ("chain",))
    ended = call(command, *only(runner.options()), *DAG)
    assert ended.code == 2
    assert (
        "space.backbone=dag: strategy.use=random searches chain only; set space.backbone=chain or another strategy"
    ) in ended.err
    assert not runner.folder.exists()


def test_a_further_strategy_whose_options_do_not_fit_a_dag_is_refused_before_work(runner, call):
    further = "strategies=[random,{use: growing, mode: ops_split}]"
    ended = call("compare", *only(runner.options(further)), *DAG)
    assert ended.code == 2
    assert "growing offers strategy.mode=ops_split on a chain only; set strategy.mode=nodes" in ended.err
    assert not runner.folder.exists()
