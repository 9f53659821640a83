"""Growth from two starts: which cell is kept, what the run then holds, and that a resumed run is the same."""

from __future__ import annotations

import numpy as np
import pytest

from grownas.config import loading
from grownas.experiments.search import tuned
from grownas.genotype import Genotype
from grownas.runs.commands import load_task
from grownas.runs.journal import Journal

SLOW = (  # only the second growth learns
    "task.data=nonlinear",
    "strategy.birth=blend",
    "strategy.origins=3",
    "strategy.weights.rate=1e-7",
    "strategy.l2_sp=[0]",
    "strategy.max_epochs=4",
    "retrain.rate=0.02",
)
TWO = ("strategy.gated=true", *SLOW)
COSTS = ("seconds", "cpu_seconds", "steps", "gradients", "settings")


@pytest.fixture(scope="module")
def kept(runs):
    return runs.search("second-kept", *TWO)


@pytest.fixture(scope="module")
def alone(runs):
    return runs.search("second-alone", "strategy.gated=false", *SLOW)


def row(read_json, folder, name):
    return next(entry for entry in read_json(folder / "summary.json")["scores"] if entry["model"] == name)


def without_costs(entry):
    return {key: value for key, value in entry.items() if key not in COSTS}


def test_the_better_cell_at_all_origins_together_is_kept(kept, alone, read_json, evaluates_to_summary):
    summary = read_json(kept / "summary.json")
    linear, gated = summary["starts"]
    assert (linear["start"], linear["kept"], gated["start"], gated["kept"]) == ("linear", False, "gated", True)
    assert linear["val"] == pytest.approx(row(read_json, alone, "grown")["val"], rel=1e-6)  # of the supernet
    assert gated["val"] == pytest.approx(row(read_json, kept, "grown")["val"], rel=1e-6)
    assert gated["val"] < linear["val"]
    assert gated["judge"]["origins"] == 3
    genotype = Genotype.load(kept / "genotype.json")
    assert genotype.highway
    assert {(op.combine, op.activation) for node in genotype.nodes for op in node.ops} == {("add", "tanh")}
    assert without_costs(row(read_json, kept, "start")) == without_costs(row(read_json, alone, "start"))
    assert "It grew from one gated node" in (kept / "report.html").read_text()
    evaluates_to_summary(kept)


def test_the_logs_hold_only_the_kept_search_and_its_costs_count_both(kept, alone, read_json, read_lines):
    metrics = read_lines(kept / "metrics.jsonl")
    keys = [(line["part"], line["epoch"], line["split"], line["metric"]) for line in metrics]
    assert len(keys) == len(set(keys))
    searched = "search", "val", "mse"
    theirs = [line for line in metrics if (line["model"], line["split"], line["metric"]) == searched]
    linear, gated = read_json(kept / "summary.json")["starts"]
    assert min(line["value"] for line in theirs) == pytest.approx(gated["val"], rel=1e-6)
    assert all(line["value"] != linear["val"] for line in theirs)
    cells = [line["cell_before"] for line in read_lines(kept / "growth.jsonl")]
    assert cells
    assert all(cell["highway"] for cell in cells)
    ours, theirs = row(read_json, kept, "grown"), row(read_json, alone, "grown")
    assert ours["steps"] > 2 * theirs["steps"]  # the second growth, and trainings at two origins
    assert ours["settings"] > theirs["settings"]
    assert ours["gradients"] == ours["steps"]


def test_the_cell_from_the_linear_start_is_kept_unless_the_test_says_otherwise(
    runs, alone, read_json, read_lines, without_times
):
    folder = runs.search("second-lost", *TWO, "strategy.accept=significant", "strategy.threshold=1000")
    linear, gated = read_json(folder / "summary.json")["starts"]
    assert linear["kept"]
    assert not gated["kept"]
    assert gated["judge"]["figure"] < gated["judge"]["threshold"] == 1000
    significant = runs.search("second-none", *SLOW, "strategy.accept=significant", "strategy.threshold=1000")
    for name in ("metrics.jsonl", "growth.jsonl", "shares.jsonl"):
        assert without_times(read_lines(folder / name)) == without_times(read_lines(significant / name))
    assert (folder / "weights.safetensors").read_bytes() == (significant / "weights.safetensors").read_bytes()


def test_the_second_node_has_as_many_parameters_as_the_linear_start(data):
    config = loading.load("index_returns/growing", [f"task.data={data}"])
    first = tuned(config, Journal.in_memory(), load_task(config))
    second = first.second_start()
    count = [sum(p.numel() for p in one.problem([one.space.ops]).start.parameters()) for one in (first, second)]
    more = second.problem([second.space.ops]).start.core.input_size + 2 * second.hidden_size
    assert abs(count[0] - count[1]) < 4 * more


def test_a_second_cell_that_is_worse_on_the_validation_part_is_not_trained_again(runs, read_json):
    quick = "strategy.gated=true", "strategy.origins=3", "strategy.accept=better", "retrain.rate=1e-7"
    linear, gated = read_json(runs.search("second-worse", *quick) / "summary.json")["starts"]
    assert linear["kept"]
    assert (gated["judge"]["origins"], gated["kept"]) == (1, False)
    assert gated["judge"]["figure"] < 0
    assert gated["val"] > linear["val"]


@pytest.mark.parametrize(
    "option", ["strategy.gated=false", "strategy.origins=1", "budget.steps=100", "start.use=random"]
)
def test_there_is_one_start_only_where_the_options_say_so(data, option):
    config = loading.load("index_returns/growing", [f"task.data={data}", option])
    assert tuned(config, Journal.in_memory(), load_task(config)).second_start() is None


@pytest.mark.parametrize("search", ["second-start", "first-start-origin-1-refit", "second-start-origin-2-refit"])
def test_a_killed_search_goes_on_as_if_nothing_had_been(kept, killed_search, call, assert_same_run, search):
    folder = killed_search(f"killed-{search}", f"{search}-stage-1-l2_sp-0.part", *TWO)
    assert call("resume", folder).code == 0
    assert_same_run(folder, kept)


def test_a_refit_fits_the_kept_cell_and_the_linear_start_on_validation_data_too(runs, read_json, evaluates_to_summary):
    folder = runs.search("second-refit", *TWO, "refit=true")
    assert read_json(folder / "summary.json")["starts"][1]["kept"]
    assert np.isfinite(row(read_json, folder, "start")["test"])
    assert Genotype.load(folder / "genotype.json").highway
    evaluates_to_summary(folder)


def test_a_backtest_follows_the_kept_cell(runs, call):
    ended = call("backtest", *runs.options("name=second-walk", *TWO, "every=200", "models=[grown,zero]", "how=[state]"))
    assert ended.code == 0, ended.err
