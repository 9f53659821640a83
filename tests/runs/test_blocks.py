"""Networks of blocks from the command line: searched by three strategies, resumed, followed, quantised, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import grownas
from grownas.bits import bit_operations
from grownas.cells import integer
from grownas.genotype import BlocksGenotype, Genotype

SPACE = (
    "task={use: predistortion, features: [i, q], streams: 8, bptt: 400}",
    "space={backbone: blocks, blocks: [none, delay(1), fir(2), fir(2)-polynomial(3)-fir(2)]}",
    "baselines={use: [fir], hidden_sizes: [2], rates: [0.01], weight_decays: [0]}",
    "retrain={epochs: 2, patience: 2, rate: 0.01}",
    "quiet=true",
)
STRATEGIES = {
    "darts": "strategy={use: darts, max_nodes: 2, max_epochs: 2, unit_epochs: 1, fine_tune_epochs: 2, accept: better, "
    "guard: false, weights: {rate: 0.01, weight_decay: 0}}",
    "darts_second": "strategy={use: darts, order: second, readout: ablation, tune_epochs: 1, max_nodes: 1, max_epochs: "
    "1, fine_tune_epochs: 1, accept: better, guard: false}",
    "random": "strategy={use: random, max_nodes: 2, max_epochs: 2, genotypes: 2, accept: better, guard: false}",
    "evolution": "strategy={use: evolution, max_nodes: 2, max_epochs: 1, genotypes: 3, population: 2, tournament: 1, "
    "accept: better, guard: false}",
}
BITS = (
    "space.blocks=[fir(2),fir(2)-polynomial(3)-fir(2)]",
    "quantise={widths: [2, 4, 8], epochs: 2, fine_tune_epochs: 1, uniform: [4, 16], eta: [0.01, 2], tie: false}",
)
SWITCHES = {"bits": ("random", BITS)} | {name: (name, ()) for name in STRATEGIES}  # run -> strategy, other options


@pytest.fixture(scope="module")
def searched(tmp_path_factory, call):
    """Return the folder of a strategy's finished search, which is done once; do not write to it."""
    folder, done = tmp_path_factory.mktemp("blocks"), dict[str, Path]()

    def search(name: str) -> Path:
        if name not in done:
            strategy, switches = SWITCHES[name]
            ended = call("search", "predistortion/growing", *SPACE, STRATEGIES[strategy], *switches, "start={}",
                         f"runs={folder}", f"name={name}")  # fmt: skip
            assert ended.code == 0, ended.err
            done[name] = folder / name
        return done[name]

    return search


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_writes_a_run_as_any_does(searched, name, read_json, call):
    folder = searched(name)
    summary, genotype = read_json(folder / "summary.json"), Genotype.load(folder / "genotype.json")
    assert isinstance(genotype, BlocksGenotype)
    assert {key: summary[key] for key in genotype.figures} == genotype.figures
    assert all(one["genotype"]["backbone"] == "blocks" for one in summary["genotypes"])
    scores = {one["model"]: one["test"] for one in summary["scores"]}
    assert {"chosen", "start", "fir"} <= set(scores)
    assert scores["chosen"] < scores["start"] < 0
    shown = call("show", folder)
    assert (shown.code, "real multiplications a sample" in shown.out) == (0, True)
    assert "<svg" in (folder / "report.html").read_text()


@pytest.mark.parametrize("name", ["darts", "bits"])
def test_its_saved_model_scores_the_same(searched, evaluates_to_summary, name):
    evaluates_to_summary(searched(name))


@pytest.mark.parametrize(("name", "near"), [("darts", 1.0), ("random", 1.0), ("bits", 0.98)])
def test_another_program_follows_the_equations(searched, name, near, predicts_as_written):
    predicts_as_written(searched(name), near)  # of bits a few numbers are rounded to the other side of a half


def test_a_network_with_bit_widths_has_a_row_for_each_and_runs_in_integers(searched, read_json, call):
    folder = searched("bits")
    summary, genotype = read_json(folder / "summary.json"), Genotype.load(folder / "genotype.json")
    real, *quantised = summary["front"]
    rows = {entry["model"]: entry for entry in quantised}
    assert list(rows) == ["ptq_4", "uniform_4", "ptq_16", "uniform_16", "quantised_0.01", "quantised_2"]
    assert {entry["model"] for entry in summary["scores"]} >= set(rows)
    assert [list(own) for own in genotype.bits] == rows[summary["chosen"]]["bits"]
    assert rows[summary["chosen"]]["bit_operations"] == bit_operations(genotype, 2, 2)
    assert real["bit_operations"] == 4 * rows["ptq_16"]["bit_operations"]
    assert rows["ptq_16"]["test"] == pytest.approx(real["test"], abs=0.05)  # dB
    assert "-bit weights, " in call("show", folder).out
    network, x = grownas.load(folder).model.core, torch.randn(40, 2, 2, generator=torch.Generator().manual_seed(0))
    out, last = integer.run(network, x.numpy())
    with torch.no_grad():
        wanted, state = network(x)
    assert (out.tobytes(), last.tobytes()) == (wanted.numpy().tobytes(), state.numpy().tobytes())


@pytest.mark.parametrize(("name", "until"), [("darts", "darts*"), ("bits", "quantised-2*")])
def test_a_search_that_was_killed_goes_on_to_the_same_bits(searched, tmp_path, fork, wait_for, call, name, until):
    folder, (strategy, switches) = tmp_path / name, SWITCHES[name]
    process = fork("search", "predistortion/growing", *SPACE, STRATEGIES[strategy], *switches, "start={}",
                   f"runs={tmp_path}", f"name={name}", "checkpoint_seconds=0")  # fmt: skip
    wait_for(lambda: any(folder.glob(f"checkpoint/{until}")) or process.exitcode is not None)
    process.kill()
    process.join()
    assert not (folder / "summary.json").exists()
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    for file in ("weights.safetensors", "genotype.json", "equations.txt"):
        assert (searched(name) / file).read_bytes() == (folder / file).read_bytes()


def test_the_genotype_is_trained_again(searched, tmp_path, call, read_json):
    genotype = searched("random") / "genotype.json"
    ended = call("train", "predistortion/growing", *SPACE, STRATEGIES["random"], "start={}", f"genotype={genotype}",
                 f"runs={tmp_path}", "name=again")  # fmt: skip
    assert ended.code == 0, ended.err
    assert read_json(tmp_path / "again" / "genotype.json") == read_json(genotype)


@pytest.mark.parametrize("name", ["random", "bits"])
@pytest.mark.parametrize("form", ["sequence", "step"])
def test_its_file_gives_what_predict_gives(searched, tmp_path, call, form, name):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folder, given = searched(name), tmp_path / "given.csv"
    np.savetxt(given, np.random.default_rng(0).normal(0, 0.1, (50, 2)), delimiter=",", header="I,Q", comments="")
    ended = call("predict", folder, f"input={given}", f"out={tmp_path / 'wanted.csv'}")
    assert ended.code == 0, ended.err
    x, wanted = (np.loadtxt(tmp_path / name, delimiter=",", skiprows=1) for name in ("given.csv", "wanted.csv"))
    ended = call("export", folder, tmp_path / "network.onnx", f"form={form}")
    assert ended.code == 0, ended.err
    kept = grownas.load(folder).model.core.kept
    assert (
        f"outputs: output float64 ({'T, ' if form == 'sequence' else ''}B, 2), next_state float32 ({kept}, B, 2)"
        in ended.out
    )
    session = runtime.InferenceSession(tmp_path / "network.onnx")
    if form == "sequence":
        found = session.run(["output"], {"samples": x[:, None]})[0][:, 0]
    else:
        found, state = np.empty_like(wanted), np.zeros((kept, 1, 2), np.float32)
        for t, sample in enumerate(x):
            found[t], state = session.run(None, {"samples": sample[None], "state": state})
    near = np.isclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert near.all() if name == "random" else near.mean() > 0.98  # float32 rounds a few to the other side of a half


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["strategy={use: growing}"], "strategy.use=growing searches chain and dag only"),
        (["strategy={use: pdarts}"], "strategy.use=pdarts searches chain and dag only"),
        (["strategy={use: enas}"], "strategy.use=enas searches chain and dag only"),
        (["strategy={use: darts}", "task.features=[i,q,abs]"], "space.backbone=blocks reads complex samples, I and Q"),
        (["strategy={use: darts}", "backend=native"], "backend=native: PyTorch alone runs blocks; set backend=auto"),
        (
            ["strategy={use: darts}", "space.blocks=[none,delay(1)]", "quantise.widths=[4,8]"],
            "quantise.widths: none of space.blocks, none, delay(1), has coefficients; add a FIR or a polynomial",
        ),
        (["strategy={use: darts}", "space.cells=4"], "space.cells: expected 1, 2 or 3, got 4"),
        (
            ["strategy={use: darts}", "task={use: index_returns}", "baselines={use: [lstm]}"],
            "I and Q, which task.use=index_returns does not",
        ),
    ],
    ids=["growing", "pdarts", "enas", "features", "backend", "widths", "cells", "task"],
)
def test_what_does_not_fit_blocks_is_said_in_one_line(changes, message, tmp_path, call):
    ended = call("search", "predistortion/growing", *SPACE, *changes, "start={use: random}", f"runs={tmp_path}")
    assert (ended.code, message in ended.err) == (2, True), ended.err
    assert not list(tmp_path.iterdir())
