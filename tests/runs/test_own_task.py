"""A task of another package, written from `grownas.protocols` alone: searched, compared, scored again, forecast."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from grownas.config import loading as configs

TASK = '''
"""Forecast the next value of noisy maps x -> sin(3 x) / 2 + x_before / 3, of which some run side by side."""
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import torch

from grownas.config.schema import Count, Section
from grownas.protocols import Evaluation, Figure, Line, Task, Window
from grownas.readout import LinearReadout


class Options(Section):
    use: Literal["maps"] = "maps"
    steps: Count = 240


@dataclass(frozen=True)
class Maps(Task):
    name: ClassVar[str] = "maps"
    metric: ClassVar[str] = "mse"
    section: ClassVar[type] = Options
    source: ClassVar[str] = "noisy maps"
    input_size: ClassVar[int] = 1
    values: torch.Tensor  # (T, B, 1)
    bounds: dict[str, tuple[int, int]]

    @classmethod
    def load(cls, options, *, architecture_share=0.2):
        draw, x = np.random.default_rng(0), [np.zeros(3), np.zeros(3)]
        while len(x) < options.steps:
            x.append(np.sin(3 * x[-1]) / 2 + x[-2] / 3 + draw.normal(0, 0.3, 3))
        train, val = int(0.6 * options.steps), int(0.8 * options.steps)
        cut = int((1 - architecture_share) * train)
        parts = {"train": (0, train), "weights": (0, cut), "architecture": (cut, train)}
        rest = {"val": (train, val), "test": (val, options.steps)}
        return cls(torch.tensor(np.array(x), dtype=torch.float32)[..., None], {**parts, **rest})

    @property
    def checksum(self):
        return str(float(self.values.double().sum()))

    def model(self, core, *, generator=None):
        return LinearReadout(core, 1, generator=generator)

    def windows(self, part, *, seed):
        first, last = self.bounds[part]
        for t in range(first, last - 1, 10):
            end = min(t + 10, last - 1)
            yield Window(self.values[t:end], self.values[t + 1 : end + 1], fresh=t == first)

    def loss(self, model, out, window):
        return (model.readout(out) - window.target).square().mean()

    def evaluate(self, model, part):
        first, last = self.bounds[part]
        with torch.no_grad():
            ahead = model.eval()(self.values)[0][max(first, 1) - 1 : last - 1]
        losses = (ahead - self.values[max(first, 1) : last]).square().mean((1, 2)).double().numpy()
        return Evaluation(float(losses.mean()), losses)

    def figures(self, model, scores):
        losses = self.evaluate(model, "test").losses
        sizes = Line("sizes", [entry["params"] for entry in scores], [entry["test"] for entry in scores], True)
        lines = [Line(scores[0]["model"], range(len(losses)), losses), sizes]
        return [Figure("Losses", "By step.", "step", "loss", lines)]

    def predict(self, model):
        first = self.bounds["val"][0]
        with torch.no_grad():
            ahead = model.eval()(self.values)[0][first - 1 :, :, 0].double().numpy()
        actual = np.concatenate([self.values[first:, :, 0].double().numpy(), np.full((1, 3), np.nan)])
        index = pd.MultiIndex.from_product([range(first, len(self.values) + 1), list("abc")], names=["date", "series"])
        columns = {"forecast": ahead.ravel(), "actual": actual.ravel()}
        return pd.DataFrame(columns, index=index).reset_index()

    def with_refit(self):
        train = (0, self.bounds["val"][1])
        return replace(self, bounds={**self.bounds, "train": train, "weights": train})
'''
CONFIG = """
task: {use: maps}
space: {hidden_size: 4, activation: [identity, tanh]}
strategy: {max_epochs: 3, first_epochs: 2, max_nodes: 2, accept: better, guard: false, blend_steps: 4, patience: 3}
retrain: {epochs: 2, patience: 2}
baselines: {hidden_sizes: [3], rates: [0.01], weight_decays: [0]}
checkpoint_seconds: 1000
quiet: true
"""
MODELS = ["chosen", "grown", "first_stage", "start", "grown_retrained", "lstm", "gru"]


def clear() -> None:
    configs._plugin.cache_clear()
    configs.config_class.cache_clear()


def install(folder: Path, text: str, monkeypatch) -> Path:
    """Make a package as pip would install it, here and for processes that are started; return a config for it."""
    (folder / "own_maps.py").write_text(text)
    info = folder / "own_maps-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-maps\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[grownas.tasks]\nmaps = own_maps:Maps\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.delitem(sys.modules, "own_maps", raising=False)
    clear()
    config = folder / "maps.yaml"
    config.write_text(CONFIG)
    return config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield install(tmp_path_factory.mktemp("package"), TASK, patch)
    clear()


@pytest.fixture(scope="module")
def searched(config, call) -> Path:
    """A finished search; do not write to it."""
    ended = call("search", config, f"runs={config.parent}", "name=searched")
    assert ended.code == 0, ended.err
    return config.parent / "searched"


def test_it_is_searched_retrained_and_scored_beside_baselines(searched, read_json):
    summary = read_json(searched / "summary.json")
    assert (summary["task"], summary["metric"]) == ("maps", "mse")
    assert [entry["model"] for entry in summary["scores"]] == MODELS
    losses = load_file(searched / "losses.safetensors")
    for entry in summary["scores"]:
        assert losses[entry["model"]].mean() == pytest.approx(entry["test"], rel=1e-12)
    assert (searched / "report.html").stat().st_size > 0


def test_its_own_figures_are_in_the_report(searched, read_json):
    scores, (figure,) = read_json(searched / "summary.json")["scores"], read_json(searched / "figures.json")["figures"]
    losses, sizes = figure["lines"]
    assert losses["label"] == "chosen"
    assert losses["y"] == load_file(searched / "losses.safetensors")["chosen"].tolist()
    assert dict(zip(sizes["x"], sizes["y"], strict=True)) == {entry["params"]: entry["test"] for entry in scores}
    assert "<b>Losses.</b> By step." in (searched / "report.html").read_text()


def test_its_model_is_scored_again_to_the_last_bit(searched, call, read_json):
    summary, ended = read_json(searched / "summary.json"), call("evaluate", searched)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [f"{part} mse {summary[part]!r}" for part in ("val", "test")]
    assert call("show", searched).code == call("report", searched).code == 0
    ended = call("evaluate", searched, "task.steps=300")
    assert ended.code == 2
    assert "only device, backend, threads (hardware) may change on a finished run" in ended.err


def test_its_forecasts_are_written(searched, call):
    ended = call("predict", searched)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[:3] == [
        str(searched / "forecasts.csv"), "units: the task's own", "next step: 240",
    ]  # fmt: skip
    frame = pd.read_csv(searched / "forecasts.csv")
    assert list(frame.columns) == ["date", "series", "forecast", "actual"]
    assert frame["actual"].isna().sum() == 3
    errors = (frame["forecast"] - frame["actual"])[frame["date"] >= 192]
    assert (errors**2).mean() == pytest.approx(load_file(searched / "losses.safetensors")["chosen"].mean(), rel=1e-5)


def test_its_model_is_exported(searched, call, tmp_path):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    ended = call("export", searched, tmp_path / "maps.onnx")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[1:] == [
        "inputs: x float32 (T, B, 1)", "outputs: predictions float32 (T, B, 1), next_state float32 (1, B, 4)",
    ]  # fmt: skip


def test_strategies_and_seeds_are_compared(config, call, read_json):
    random = "{use: random, max_nodes: 2, max_epochs: 2, patience: 2, rates: [0.01], accept: better, guard: false}"
    options = ("seeds=[1,2]", f"strategies=[growing,{random}]", "baselines.use=gru", "workers=2")
    ended = call("compare", config, f"runs={config.parent}", "name=compared", *options)
    assert ended.code == 0, ended.err
    result = read_json(config.parent / "compared" / "comparison.json")
    names = [entry["model"] for entry in result["models"]]
    assert {"chosen", "grown", "grown_retrained", "random", "random_retrained", "gru"} <= set(names)
    assert result["steps"] == {"count": 48, "unit": "steps"}
    assert result["seeds"] == [1, 2]


def test_it_is_refitted_trained_and_resumed(config, call, read_json):
    ended = call("search", config, f"runs={config.parent}", "name=refit", "refit=true", "baselines.use=gru")
    assert ended.code == 0, ended.err
    folder = config.parent / "refit"
    before = read_json(folder / "summary.json")
    (folder / "summary.json").unlink()
    assert call("resume", folder).code == 0
    assert read_json(folder / "summary.json")["scores"] == before["scores"]
    for what in ("gru", folder / "genotype.json"):
        assert call("train", config, f"genotype={what}", f"runs={config.parent}").code == 0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["device=cuda"], "cuda"),
        (["baselines.use=var"], "baselines.use: unknown 'var', expected some of lstm, gru"),
        (["start.use=var"], "start.use: unknown 'var', expected some of random"),
    ],
)
def test_what_it_cannot_do_is_refused_before_work(config, call, tmp_path, overrides, words):
    ended = call("search", config, f"runs={tmp_path}", *overrides)
    assert (ended.code, "Traceback" in ended.err) == (2, False)
    assert words in ended.err
    assert list(tmp_path.iterdir()) == []


# ---- what is left out


def without(*names: str) -> str:
    """Return the task's text without some of its members."""
    lines, kept, skipping = TASK.splitlines(), [], False
    for number, line in enumerate(lines):
        after = lines[number + 1] if line.startswith("    @") else line
        if line.startswith("    ") and not line.startswith("     "):
            skipping = any(after.startswith((f"    def {name}(", f"    {name}: ClassVar")) for name in names) or (
                skipping and line.startswith("    def") and lines[number - 1].startswith("    @")
            )
        elif line and not line.startswith(" "):
            skipping = False
        kept += [line] * (not skipping)
    return "\n".join(kept)


@pytest.mark.parametrize("names", [("load",), ("model",), ("checksum",), ("metric",), ("loss", "windows")])
def test_a_member_that_is_left_out_is_named_in_one_sentence(tmp_path, monkeypatch, call, names):
    config = install(tmp_path, without(*names), monkeypatch)
    ended = call("search", config, f"runs={tmp_path / 'runs'}")
    clear()
    assert ended.code == 2
    left_out = ", ".join(name for name in ("metric", "load", "checksum", "windows", "loss", "model") if name in names)
    message = "task.use=maps: own_maps.Maps lacks"
    assert message in ended.err
    found = ended.err.partition(message)[2].partition(", which")[0].strip()
    assert sorted(found.split(", ")) == sorted(left_out.split(", "))
    assert "which grownas.protocols.Task requires" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "command", "words"),
    [
        ("predict", "predict", "maps makes no forecasts; `grownas evaluate` scores its model"),
        ("with_refit", "search", "maps cannot be refitted; set refit=false"),
    ],
)
def test_what_is_no_duty_is_told_where_it_is_asked_for(searched, tmp_path, monkeypatch, call, name, command, words):
    config = install(tmp_path, without(name), monkeypatch)
    given = (searched,) if command == "predict" else (config, "refit=true", f"runs={tmp_path / 'runs'}")
    ended = call(command, *given)
    clear()
    assert (ended.code, ended.err.strip()) == (2, f"error: {words}")
