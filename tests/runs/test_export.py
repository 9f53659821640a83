"""`grownas export` and `Run.export` on finished runs: the forecasts of `predict`, and errors of the command line."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import grownas
from grownas.errors import ConfigError, RunError

pytest.importorskip("onnx", reason="the extra onnx is not installed")

CONTEXT = 20  # as the fast config says


@pytest.fixture(scope="module")
def session():
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return lambda path: runtime.InferenceSession(path)


def notes_of(run) -> dict[str, str]:
    return run.get_modelmeta().custom_metadata_map


def test_the_file_gives_the_forecasts_of_predict(session, finished, call, data, tmp_path, read_json):
    ended = call("export", finished, tmp_path / "model.onnx")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        str(tmp_path / "model.onnx"),
        "inputs: values float64 (T, B, 3)",
        "outputs: forecasts float64 (T, B, 3), next_state float32 (1, B, 8)",
    ]
    assert sorted(os.listdir(tmp_path)) == ["model.onnx"]
    closes = pd.read_csv(data, index_col="date")
    returns = np.log(closes).diff().iloc[1:].to_numpy()
    forecasts = grownas.load(finished).predict().pivot(index="date", columns="series", values="forecast").to_numpy()
    run = session(tmp_path / "model.onnx")
    ahead = run.run(["forecasts"], {"values": returns[-CONTEXT - 1 :, None]})[0][-1, 0]
    np.testing.assert_allclose(ahead, forecasts[-1], rtol=0, atol=1e-5 * returns.std())
    summary, notes = read_json(finished / "summary.json"), notes_of(run)
    genotype = read_json(finished / "genotype.json")
    assert (json.loads(notes.pop("names")), json.loads(notes.pop("genotype"))) == (["A", "B", "C"], genotype)
    assert notes == {
        "task": "index_returns",
        "model": summary["chosen"],
        "targets": '["A", "B", "C"]',
        "units": "log returns in decimals",
        "metric": "mse",
        "val": repr(summary["val"]),
        "test": repr(summary["test"]),
        "seed": "1",
        "form": "sequence",
    }


def test_a_language_model_is_exported_with_its_vocabulary(session, runner, call, small_text, tmp_path):
    options = ("space.hidden_size=6", "task.streams=4", "task.bptt=5", "retrain.layers=2", "retrain.epochs=1")
    quiet = ("quiet=true", f"task.data={small_text}", f"runs={runner.folder}", "name=text")
    ended = call("train", "penn_treebank/growing_cpu", "genotype=darts_v2", *options, *quiet)
    assert ended.code == 0, ended.err
    run = grownas.load(runner.folder / "text")
    path = run.export(tmp_path / "words.onnx")
    found = session(path)
    words = json.loads(notes_of(found)["names"])
    assert {"the", "cat", "<eos>"} <= set(words)
    assert "units" not in notes_of(found)
    ids = np.array([[words.index(word)] for word in ("the", "cat", "sat", "<eos>")])
    logits, state = found.run(None, {"words": ids})
    with torch.no_grad():
        wanted = run.model(torch.from_numpy(ids))[0].numpy()
    assert state.shape == (2, 1, run.model.core.hidden_size)
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_run_in_memory_is_exported_as_a_step(session, data, tmp_path):
    prices = pd.read_csv(data, index_col="date", parse_dates=True)
    quick = {"strategy.max_epochs": 2, "retrain.epochs": 1, "baselines.use": [], "baselines.compare": []}
    run = grownas.search("index_returns/growing", data=prices, overrides=quick, quiet=True)
    found = session(run.export(tmp_path / "step.onnx", form="step"))
    assert [one.name for one in found.get_inputs()] == ["values", "state"]
    assert [one.name for one in found.get_outputs()] == ["forecasts", "next_state"]


# ---- what goes wrong


@pytest.fixture
def refused(call):
    """Run `grownas export` with some arguments, which ends with 2 and an error that holds some words."""

    def check(*arguments, words):
        ended = call("export", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert words in ended.err
        assert ended.err.count("\n") == 1

    return check


def test_an_unknown_run_form_or_suffix_is_named(refused, finished, tmp_path):
    file = tmp_path / "m.onnx"
    refused(tmp_path / "nothing", file, words=f"{tmp_path / 'nothing'}: no such folder")
    refused(finished, file, "form=both", words="form=both: expected sequence or step")
    refused(finished, tmp_path / "m.pt", words=f"m.pt: the name of an ONNX file ends in .onnx; give {file}")
    refused(finished, file, "seed=3", words="may change on a finished run")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(refused, finished, tmp_path):
    refused(finished, tmp_path / "no" / "m.onnx", words="m.onnx: cannot be written: No such file or directory")
    (tmp_path / "file").write_text("")
    refused(finished, tmp_path / "file" / "m.onnx", words="m.onnx: cannot be written: Not a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_named(refused, finished, tmp_path):
    tmp_path.chmod(0o500)
    refused(finished, tmp_path / "m.onnx", words="m.onnx: cannot be written: Permission denied")


def test_a_run_of_a_baseline_has_no_model(refused, runner, call, tmp_path):
    ended = call("train", *runner.options("genotype=gru", "name=gru"))
    assert ended.code == 0, ended.err
    refused(runner.folder / "gru", tmp_path / "m.onnx", words="no saved model; this run trained a baseline")
    with pytest.raises(RunError, match="trained a baseline"):
        grownas.load(runner.folder / "gru").export(tmp_path / "m.onnx")


def test_a_run_whose_data_are_gone_is_exported_with_other_data(finished, call, write_closes, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    config = copy / "config.yaml"
    text = config.read_text()
    data = next(line.strip() for line in text.splitlines() if line.strip().startswith("data:"))
    config.write_text(text.replace(data, f"data: {tmp_path / 'gone.csv'}"))
    assert call("export", copy, tmp_path / "m.onnx").code == 2
    other = write_closes(tmp_path / "other.csv", 360)
    for run, name, more in ((finished, "one.onnx", ()), (copy, "other.onnx", (f"task.data={other}",))):
        ended = call("export", run, tmp_path / name, *more)
        assert ended.code == 0, ended.err
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


def test_without_the_package_the_extra_is_named(monkeypatch, refused, finished, tmp_path):
    for name in [name for name in sys.modules if name.startswith("grownas.export.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(finished, tmp_path / "m.onnx", words="install it with `pip install 'grownas[onnx]'`")
    with pytest.raises(ConfigError, match="export needs onnx"):
        grownas.load(finished).export(tmp_path / "m.onnx")
