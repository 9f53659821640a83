"""Columns that are inputs only, on the command line: search, evaluate, predict, update, backtest, export."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import grownas

OPTIONS = ("task.inputs=[degrees,holiday]", "baselines.use=[var1,var,var_robust,har,esn,zero,gru,tsmixer,gru_var]")


def panel(rows=420):
    """Two series of closes that follow the degrees of the day before, and holidays; degrees may be below 0."""
    rng = np.random.default_rng(0)
    degrees = rng.normal(size=rows)
    moves = 0.009 * np.concatenate([[0.0], degrees[:-1]])[:, None] + 0.003 * rng.normal(size=(rows, 2))
    closes = 100 * np.exp(moves.cumsum(0))
    columns = {"holiday": np.arange(rows) % 50 < 2, "a": closes[:, 0], "degrees": 10 * degrees, "b": closes[:, 1]}
    frame = pd.DataFrame(columns, index=pd.bdate_range("2020-01-01", periods=rows)).astype(float)
    return frame.rename_axis("date")


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / "panel.csv"
    panel().iloc[:400].to_csv(path)
    return path


@pytest.fixture(scope="module")
def run(runs, call, csv):
    ended = call("search", *runs.options("name=inputs", f"task.data={csv}", *OPTIONS))
    assert ended.code == 0, ended.err
    return runs.folder / "inputs"


def test_every_model_reads_the_inputs_and_forecasts_the_other_series(run, read_json):
    summary = read_json(run / "summary.json")
    scores = {one["model"]: one["test"] for one in summary["scores"]}
    assert set(scores) >= {"chosen", "var1", "var", "var_robust", "har", "esn", "zero", "gru", "tsmixer", "gru_var"}
    linear = max(scores[name] for name in ("start", "var1", "var", "var_robust", "har", "gru_var"))
    assert linear < 0.25 < 0.8 < scores["zero"]
    assert set(summary["scores"][0]["detail"]["test"]["per_series"]) == {"a", "b"}
    assert summary["free_running"] is None
    data = read_json(run / "data.json")
    assert (data["names"], data["inputs"]) == (["a", "b"], ["degrees", "holiday"])
    assert 'Inputs only, so that y, value, mean and sd of the forecast have the first 2:\n"degrees", "holiday"' in (
        (run / "equations.txt").read_text()
    )


def test_the_same_from_a_data_frame(run, read_json):
    config = str(run / "config.yaml")
    again = grownas.search(config, panel().iloc[:400], overrides={"name": None}, quiet=True)
    assert again.summary["test"] == read_json(run / "summary.json")["test"]


def test_a_finished_run_scores_forecasts_and_learns_on(run, call, csv, tmp_path, read_json):
    ended = call("evaluate", run)
    assert (ended.code, ended.err) == (0, "")
    assert f"{read_json(run / 'summary.json')['test']!r}" in ended.out
    forecasts = grownas.load(run).predict(panel())
    assert sorted(set(forecasts["series"])) == ["a", "b"]
    later = tmp_path / "later.csv"
    panel().to_csv(later)
    ended = call("update", run, f"task.data={later}", f"runs={tmp_path}", "name=updated", "update.block=5")
    assert ended.code == 0, ended.err
    assert read_json(tmp_path / "updated" / "data.json")["inputs"] == ["degrees", "holiday"]


def test_a_backtest_reads_the_inputs(runs, call, csv, read_json):
    models = "models=[grown,zero,var1,var_robust,har,gru]"
    ended = call("backtest", *runs.options("name=walked-inputs", f"task.data={csv}", *OPTIONS, models, "every=30"))
    assert ended.code == 0, ended.err
    losses = {one["model"]: one["loss"] for one in read_json(runs.folder / "walked-inputs/backtest.json")["models"]}
    assert max(losses[name] for name in ("grown_continue", "var1", "var_robust", "har")) < 0.25 < losses["zero"]
    found = grownas.load(runs.folder / "walked-inputs")
    assert list(found.forecasts["actual"].columns) == ["a", "b"]


def test_an_exported_model_reads_all_columns_in_their_order(run, tmp_path):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = runtime.InferenceSession(grownas.load(run).export(tmp_path / "model.onnx"))
    notes = session.get_modelmeta().custom_metadata_map
    names, targets = (json.loads(notes[key]) for key in ("names", "targets"))
    assert (names, targets) == (["a", "b", "degrees", "holiday"], ["a", "b"])
    data = panel().iloc[:400]
    values = np.concatenate([np.diff(np.log(data[targets]), axis=0), data[names[2:]].to_numpy()[1:]], axis=1)
    ahead = session.run(["forecasts"], {"values": values[-21:, None]})[0][-1, 0]
    told = grownas.load(run).predict().tail(2)["forecast"]
    np.testing.assert_allclose(ahead, told, rtol=0, atol=1e-7)
