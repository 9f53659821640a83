"""Bit widths from the command line: on series and texts, chains and DAGs; resumed, reloaded, exported, refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import grownas
from grownas.bits import bit_operations
from grownas.cells import integer
from grownas.genotype import Genotype
from support.slow import mostly_slow

BITS = (
    "quantise.widths=[8,2,4]",
    "quantise.eta=[0.01,2]",
    "quantise.epochs=2",
    "quantise.fine_tune_epochs=1",
    "quantise.alpha_rate=0.2",
    "quantise.uniform=[4,8]",
    "quantise.tolerance=1000",
    "baselines.use=[zero]",
    "retrain.grown=false",
    "strategy.max_epochs=2",
    "strategy.max_nodes=1",
)
ROWS = ["ptq_4", "uniform_4", "ptq_8", "uniform_8", "quantised_0.01", "quantised_2"]
DAG = (
    "space={backbone: dag, hidden_size: 6}",
    "start={use: random, rule: single, max_order: 2, nodes: 2}",
    "strategy={use: darts, max_nodes: 2, max_epochs: 2, fine_tune_epochs: 1, accept: better, guard: false}",
)
TEXT = (
    *("space.hidden_size=6", "task.streams=4", "task.bptt=5", "task.samples=4", "task.weight_drop=0.2"),
    *("strategy.later_epochs=2", "strategy.guard=false", "quiet=true"),
)


@pytest.fixture(scope="module")
def searched(runs):
    """A finished search with bit widths; do not write to it."""
    return runs.search("bits", *BITS)


def test_the_summary_has_a_row_for_each_cell_and_the_cheapest_is_chosen(searched, read_json, read_lines):
    summary = read_json(searched / "summary.json")
    scores = {entry["model"]: entry for entry in summary["scores"]}
    assert set(scores) >= {"chosen", "grown", *ROWS}
    assert [entry["model"] for entry in summary["front"]][1:] == ROWS
    assert summary["chosen"] == scores["chosen"]["chosen"]["model"] == "quantised_2"  # both are within the tolerance
    assert scores["chosen"]["test"] == scores["quantised_2"]["test"] == summary["test"]
    genotype = Genotype.load(searched / "genotype.json")
    front = {entry["model"]: entry for entry in summary["front"]}
    assert [list(bits) for bits in genotype.bits] == front["quantised_2"]["bits"]
    assert front["quantised_2"]["bit_operations"] == bit_operations(genotype, 3, 8)
    real, four, eight = (summary["front"][0], front["uniform_4"], front["uniform_8"])
    assert real["bit_operations"] / 1024 == four["bit_operations"] / 16 == eight["bit_operations"] / 64
    assert front["quantised_2"]["bit_operations"] < front["quantised_0.01"]["bit_operations"]
    assert scores["uniform_4"]["steps"] == scores["quantised_2"]["steps"]  # as many as all of the search
    assert scores["ptq_8"]["seconds"] == 0
    lines = [line for line in read_lines(searched / "shares.jsonl") if line["part"] == "quantised-2"]
    assert {len(line["shares"]) for line in lines} == {3}
    assert lines[0]["ops"] == ["node 1 op 1/2 bits", "node 1 op 1/4 bits", "node 1 op 1/8 bits"]
    assert {line["model"] for line in read_lines(searched / "metrics.jsonl")} >= {"quantised"}


def test_the_run_is_used_as_any_other(searched, evaluates_to_summary, call, read_json):
    evaluates_to_summary(searched)
    shown = call("show", searched)
    assert "-bit weights, " in shown.out
    assert "Q" in (searched / "equations.txt").read_text()
    run = grownas.load(searched)
    cell, x = run.cell(), torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0))
    out, last = integer.run(cell, x.numpy())
    with torch.no_grad():
        wanted, state = cell(x)
    assert out.tobytes() == wanted.numpy().tobytes()
    assert last.tobytes() == state.numpy().tobytes()
    assert len(run.predict()) > 0


def test_it_is_exported(searched, call, tmp_path):
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    ended = call("export", searched, tmp_path / "model.onnx")
    assert (ended.code, ended.err) == (0, "")
    proto = onnx.load(tmp_path / "model.onnx")
    (scan,) = (node for node in proto.graph.node if node.op_type == "Scan")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in scan.attribute[0].g.node}


@pytest.mark.parametrize(
    "until",
    mostly_slow(("uniform_8.part", "quantised-2.part", "quantised-2-fixed.part"), keep=("quantised-2.part",)),
)
def test_a_killed_search_resumes_to_the_last_bit(searched, broken_off, call, assert_same_run, until):
    folder = broken_off(f"checkpoint/{until}", *BITS)
    assert not (folder / "summary.json").exists()
    ended = call("resume", folder)
    assert (ended.code, ended.err) == (0, "")
    assert_same_run(searched, folder)


@pytest.mark.parametrize("switches", [("quantise.per=node", "quantise.tie=false", "quantise.scale=percentile")])
def test_a_dag_with_widths_of_its_own_for_inputs(runs, call, read_json, switches):
    own = [one for one in runs.options("name=dag-bits") if not one.startswith(("space.", "start.", "strategy."))]
    ended = call("search", *own, *BITS[:9], *DAG, "task.bptt=10", *switches)
    assert ended.code == 0, ended.err
    summary = read_json(runs.folder / "dag-bits" / "summary.json")
    genotype = Genotype.load(runs.folder / "dag-bits" / "genotype.json")
    assert len(genotype.bits) == len(genotype.nodes) + 1
    assert summary["front"][-1]["bit_operations"] == bit_operations(genotype, 3, 6, summary["front"][-1]["bits"])


def test_a_text(runner, call, small_text, read_json):
    options = (f"task.data={small_text}", f"runs={runner.folder}", "name=text", *TEXT, *BITS[:7], "baselines.use=[]")
    ended = call("search", "penn_treebank/growing_cpu", *options, "strategy.max_nodes=1", "retrain.grown=false")
    assert ended.code == 0, ended.err
    summary = read_json(runner.folder / "text" / "summary.json")
    assert {entry["model"] for entry in summary["scores"]} >= set(ROWS)
    scored = json.dumps(grownas.load(runner.folder / "text").evaluate())
    assert repr(summary["test"]) in scored


REFUSED = {
    "quantise.widths=[1,8]": "quantise.widths",
    "quantise.widths=[8,8]": "8 is repeated",
    "quantise.scale=learned": "did you mean learnt",
    "quantise.eta=[-1]": "quantise.eta",
    "quantise.bits=[8]": "quantise.bits: unknown key",
}


@pytest.mark.parametrize("override", REFUSED)
def test_wrong_options_are_told(runner, call, override):
    ended = call("search", *runner.options("name=wrong", override))
    assert ended.code == 2
    assert REFUSED[override] in ended.err
    assert not (runner.folder / "wrong").exists()


@pytest.mark.parametrize("switch", ["refit"])
def test_what_cannot_be_quantised_is_refused_before_any_work(runner, call, switch):
    ended = call("search", *runner.options("name=wrong", *BITS, f"{switch}=true"))
    assert ended.code == 2
    assert f"quantise.widths: not supported with {switch}=true; set {switch}=false or quantise.widths=[]" in ended.err
    assert not (runner.folder / "wrong").exists()


def test_an_update_trains_it_on_but_does_not_grow_it(searched, call, data, write_closes, tmp_path, read_json):
    longer = write_closes(tmp_path / "longer.csv", days=340)
    options = (f"task.data={longer}", f"runs={tmp_path}", "name=updated", "quiet=true")
    ended = call("update", searched, *options, "how=grow")
    assert ended.code == 2
    assert "a cell with bit widths cannot grow on" in ended.err
    ended = call("update", searched, *options[:2], "name=again", "quiet=true", "how=continue")
    assert ended.code == 0, ended.err
    assert Genotype.load(tmp_path / "again" / "genotype.json").bits
    assert np.isfinite(read_json(tmp_path / "again" / "summary.json")["test"])
