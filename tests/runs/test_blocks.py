"""Networks of blocks from the command line: searched by three strategies, resumed, followed, refused elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import grownas
from grownas.genotype import BlocksGenotype, Genotype
from support.following_blocks import from_text

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


@pytest.fixture(scope="module")
def searched(tmp_path_factory, call):
    """Return the folder of a strategy's finished search, which is done once; do not write to it."""
    folder, done = tmp_path_factory.mktemp("blocks"), dict[str, Path]()

    def search(name: str) -> Path:
        if name not in done:
            ended = call("search", "predistortion/growing", *SPACE, STRATEGIES[name], "start={}", f"runs={folder}",
                         f"name={name}")  # fmt: skip
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


def test_its_saved_model_scores_the_same(searched, evaluates_to_summary):
    evaluates_to_summary(searched("darts"))


def test_another_program_follows_the_equations(searched):
    folder, x = searched("random"), torch.randn(40, 1, 2, generator=torch.Generator().manual_seed(0)) / 3
    model = grownas.load(folder).model
    with torch.no_grad():
        wanted = model.decode(model.core(x)[0]).numpy()
    np.testing.assert_allclose(from_text((folder / "equations.txt").read_text(), x.numpy()), wanted, atol=1e-5)


def test_a_search_that_was_killed_goes_on_to_the_same_bits(searched, tmp_path, fork, wait_for, call):
    folder = tmp_path / "darts"
    process = fork("search", "predistortion/growing", *SPACE, STRATEGIES["darts"], "start={}", f"runs={tmp_path}",
                   "name=darts", "checkpoint_seconds=0")  # fmt: skip
    wait_for(lambda: any(folder.glob("checkpoint/darts*")) or process.exitcode is not None)
    process.kill()
    process.join()
    assert not (folder / "summary.json").exists()
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    for name in ("weights.safetensors", "genotype.json", "equations.txt"):
        assert (searched("darts") / name).read_bytes() == (folder / name).read_bytes()


def test_the_genotype_is_trained_again(searched, tmp_path, call, read_json):
    genotype = searched("random") / "genotype.json"
    ended = call("train", "predistortion/growing", *SPACE, STRATEGIES["random"], "start={}", f"genotype={genotype}",
                 f"runs={tmp_path}", "name=again")  # fmt: skip
    assert ended.code == 0, ended.err
    assert read_json(tmp_path / "again" / "genotype.json") == read_json(genotype)


@pytest.mark.parametrize("form", ["sequence", "step"])
def test_its_file_gives_what_predict_gives(searched, tmp_path, call, form):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folder, given = searched("random"), tmp_path / "given.csv"
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
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["strategy={use: growing}"], "strategy.use=growing searches chain and dag only"),
        (["strategy={use: pdarts}"], "strategy.use=pdarts searches chain and dag only"),
        (["strategy={use: enas}"], "strategy.use=enas searches chain and dag only"),
        (["strategy={use: darts}", "task.features=[i,q,abs]"], "space.backbone=blocks reads complex samples, I and Q"),
        (["strategy={use: darts}", "backend=native"], "backend=native: PyTorch alone runs blocks; set backend=auto"),
        (["strategy={use: darts}", "space.cells=4"], "space.cells: expected 1, 2 or 3, got 4"),
        (
            ["strategy={use: darts}", "task={use: index_returns}", "baselines={use: [lstm]}"],
            "I and Q, which task.use=index_returns does not",
        ),
    ],
    ids=["growing", "pdarts", "enas", "features", "backend", "cells", "task"],
)
def test_what_does_not_fit_blocks_is_said_in_one_line(changes, message, tmp_path, call):
    ended = call("search", "predistortion/growing", *SPACE, *changes, "start={use: random}", f"runs={tmp_path}")
    assert (ended.code, message in ended.err) == (2, True), ended.err
    assert not list(tmp_path.iterdir())
