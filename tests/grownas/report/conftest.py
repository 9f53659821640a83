"""Fabricated run folders: every file as a real run writes it, made from random numbers in a moment."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from torch import nn

from grownas.cells.cell import GrownRNN
from grownas.equations import equations
from grownas.genotype import Genotype, Node, Op
from grownas.ops import DEFAULT_OPS

N_VAL, N_TEST = 150, 160
NAMES = ("SP500", "NASDAQ", "SP500_range", "NASDAQ_range")
MODELS = {  # how far each model's forecasts lie between nothing (0) and the truth (1), and its settings
    "grown": (0.55, {"pull": 0.0, "nodes": 2}),
    "grown_retrained": (0.50, {"loss": "huber"}),
    "start": (0.50, {}),
    "first_stage": (0.54, {}),
    "zero": (0.0, {}),
    "var1": (0.40, {}),
    "var": (0.48, {"order": 15}),
    "var_robust": (0.50, {"order": 8, "ridge": 0.03, "loss": "huber"}),
    "lstm": (0.45, {"hidden_size": 16, "loss": "huber"}),
    "gru": (0.47, {"hidden_size": 32, "loss": "squared"}),
}
CONFIG = """\
task: {use: index_returns, data: bundled}
strategy: {use: growing, patience: 12}
seed: %(seed)d
versions: {grownas: 0.1.0, torch: 2.13.0+cpu, numpy: 2.4.6}
"""


def write_run(folder: Path, *, seed: int = 1, names: Sequence[str] = NAMES, finished: bool = True) -> Path:
    """Write a run folder; one that is still going lacks all that is written at the end."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    (folder / "config.yaml").write_text(CONFIG % {"seed": seed})
    (folder / "run.json").write_text('{"command": "search"}')
    (folder / "metrics.jsonl").write_text(_lines(_metrics(rng)))
    (folder / "growth.jsonl").write_text(_lines(GROWTH))
    (folder / "data.json").write_text(json.dumps(_data(names, rng)))
    if not finished:
        return folder
    genotype = make_genotype(rng)
    genotype.save(folder / "genotype.json")
    inputs = len(names)
    cell, readout = GrownRNN(genotype, inputs, 8), nn.Linear(8, inputs)
    (folder / "equations.txt").write_text(equations(cell, readout, names, np.zeros(inputs), np.ones(inputs)))
    forecasts = _forecasts(rng, inputs)
    save_file(forecasts, folder / "forecasts.safetensors")
    (folder / "summary.json").write_text(json.dumps(_summary(seed, names, genotype, forecasts)))
    return folder


def write_comparison(folder: Path, seeds: Sequence[int] = (1, 2, 3), *, finished: bool = True) -> Path:
    """Write the folder of a comparison; one that is still going has no result."""
    for seed in seeds:
        write_run(folder / f"seed-{seed}", seed=seed)
    (folder / "config.yaml").write_text(CONFIG % {"seed": 1})
    (folder / "run.json").write_text('{"command": "compare"}')
    if finished:
        (folder / "comparison.json").write_text(json.dumps(_comparison(folder, seeds)))
    return folder


def make_genotype(rng: np.random.Generator) -> Genotype:
    """Two nodes of eight ops with random shares."""
    shares = [rng.dirichlet(np.r_[4.0, np.ones(7)]) for _ in range(2)]
    return Genotype(
        tuple(
            Node(tuple(Op(*op, share=float(w)) for op, w in zip(DEFAULT_OPS, weights, strict=True)))
            for weights in shares
        )
    )


GROWTH = [
    {
        "stage": 2, "kind": "add_node", "node": 1, "op": None, "drift": 0.0123, "predicted_change": 0.0, "step": 2600,
        "loss_before": 0.4275, "loss_after": 0.4212, "params_before": 1220, "params_after": 3412, "accepted": True,
        "judge": {"rule": "significant", "figure": 2.31}, "wall_s": 14.2,
    },
    {
        "stage": 3, "kind": "add_node", "node": 2, "op": None, "drift": 0.0098, "predicted_change": 0.0, "step": 1900,
        "loss_before": 0.4212, "loss_after": 0.4218, "params_before": 3412, "params_after": 5604, "accepted": False,
        "judge": {"rule": "significant", "figure": -0.42}, "wall_s": 21.9,
    },
]  # fmt: skip
STAGES = [
    {
        "stage": 1, "nodes": 1, "pull": 100.0, "loss_before": 0.4351, "loss_after": 0.4346, "accepted": False,
        "judge": {"rule": "significant", "figure": 1.02}, "epochs": 30, "steps": 1500, "seconds": 5.1, "params": 1220,
        "stopped": "no lower validation loss for 12 epochs",
    },
    {
        "stage": 1, "nodes": 1, "pull": 0.0, "loss_before": 0.4351, "loss_after": 0.4275, "accepted": True,
        "judge": {"rule": "significant", "figure": 3.4}, "epochs": 60, "steps": 3000, "seconds": 9.3, "params": 1220,
        "stopped": "no lower validation loss for 12 epochs",
    },
    *({**line, "nodes": line["node"] + 1, "pull": 0.0} for line in GROWTH),
]  # fmt: skip


def _metrics(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Four fits of the growth and one of a baseline, in the order in which they were trained."""
    fits = [
        ("stage-1-pull-100", 1, 30, 0.435, 0.4346), ("stage-1-pull-0", 1, 60, 0.435, 0.4275),
        ("stage-2", 2, 52, 0.428, 0.4212), ("stage-3", 3, 38, 0.422, 0.4218), ("gru-16-huber", 0, 20, 0.6, 0.45),
    ]  # fmt: skip
    lines = []
    for part, stage, epochs, first, last in fits:
        for epoch in range(epochs + 1):
            value = last + (first - last) * np.exp(-epoch / 8) + 0.0004 * rng.normal()
            place = {"stage": stage, "part": part, "epoch": epoch, "step": 50 * epoch, "wall_s": 0.15 * epoch}
            lines.append({**place, "split": "val", "metric": "loss", "value": value})
            lines.append({**place, "split": "val", "metric": "mse", "value": 2 * value})
            if epoch:
                train = value - 0.006 - 0.0001 * epoch + 0.0004 * rng.normal()
                lines.append({**place, "split": "train", "metric": "loss", "value": train})
    return lines


def _data(names: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    first = datetime.date(2012, 11, 20)
    return {
        "names": list(names),
        "dates": [(first + datetime.timedelta(days=day)).isoformat() for day in range(N_VAL + N_TEST)],
        "n_train": 1200, "n_val": N_VAL, "n_test": N_TEST,
        "mean": (0.0003 * rng.normal(size=len(names))).tolist(), "sd": [0.012] * len(names),
        "cleaning": {
            "rows_read": 1512, "first_day_of_all": "1999-01-05", "rows_used": 1510,
            "carried_forward": {name: 3 * i for i, name in enumerate(names)}, "differenced": [],
            "note": "Markets close at different hours: part of what can be predicted is older news.",
        },
        "source": "bundled (arch.data: S&P 500 and NASDAQ)", "checksum": "sha256:" + "0123456789abcdef" * 4,
    }  # fmt: skip


def _forecasts(rng: np.random.Generator, inputs: int) -> dict[str, np.ndarray]:
    """A signal under noise; each model sees part of the signal."""
    signal = np.cumsum(rng.normal(size=(N_VAL + N_TEST, inputs)), axis=0)
    signal = (signal - signal.mean(0)) / signal.std(0)
    made = {"actual": 0.8 * signal + 0.6 * rng.normal(size=signal.shape)}
    for model, (part, _) in MODELS.items():
        made[model] = part * signal + (0.02 * rng.normal(size=signal.shape) if part else 0)
    return made


def _score(actual: np.ndarray, forecast: np.ndarray) -> dict[str, Any]:
    error = float(((actual - forecast) ** 2).mean())
    hits = float((np.sign(actual) == np.sign(forecast)).mean())
    return {
        "mse": error,
        "mae": error,
        "r2": 1 - error / float((actual**2).mean()),
        "hit_rate": hits,
        "count": actual.size,
    }


def _summary(seed: int, names: Sequence[str], genotype: Genotype, forecasts: dict[str, np.ndarray]) -> dict[str, Any]:
    scores = []
    for model, (_, chosen) in MODELS.items():
        detail = {}
        for part, rows in (("val", slice(None, N_VAL)), ("test", slice(N_VAL, None))):
            actual, forecast = forecasts["actual"][rows], forecasts[model][rows]
            each = {name: _score(actual[:, i], forecast[:, i]) for i, name in enumerate(names)}
            detail[part] = {**_score(actual, forecast), "per_series": each}
        scores.append(
            {
                "model": model, "params": 100 * len(model), "val": detail["val"]["mse"], "test": detail["test"]["mse"],
                "seconds": 1.5 * len(model), "settings": 8 if chosen else 1, "chosen": chosen, "detail": detail,
            }
        )  # fmt: skip
    return {
        "task": "index_returns", "strategy": "growing", "seed": seed, "metric": "mse", "val": scores[0]["val"],
        "test": scores[0]["test"], "nodes": 2, "ops": 16, "params": 3412, "search_seconds": 50.5,
        "retrain_seconds": 22.1, "stages": 3, "stage_log": STAGES, "stopped": "the last added node was not accepted",
        "verdict": f"The grown cell's test error {scores[0]['test']:.4f} is lower than that of the best baseline.",
        "loss": "huber", "free_running": {"steps": 1000, "largest": 1.83, "diverged": False}, "scores": scores,
    }  # fmt: skip


def _comparison(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    summaries = [json.loads((folder / f"seed-{seed}" / "summary.json").read_text()) for seed in seeds]
    models = []
    for i, model in enumerate(MODELS):
        test = [summary["scores"][i]["test"] for summary in summaries]
        val = [summary["scores"][i]["val"] for summary in summaries]
        models.append(
            {
                "model": model, "n": len(seeds), "params": 100 * len(model), "seconds": 3.0,
                "val": {"mean": np.mean(val), "sd": np.std(val)},
                "test": {"mean": np.mean(test), "sd": np.std(test), "each": test},
                "averaged_test": np.mean(test) - 0.001, "in_mcs": model in ("grown", "first_stage"),
                "settings": 22 if model == "var" else 1,
            }
        )  # fmt: skip
    tests = [
        {"baseline": model, "statistic": 2.5, "p_value": 0.0123, "loss_difference": 0.02, "seeds": len(seeds)}
        for model in MODELS
        if model != "grown"
    ]
    return {
        "metric": "mse", "seeds": list(seeds), "models": models, "reference": "grown", "tests": tests,
        "mcs": {"size": 0.1, "members": ["grown", "first_stage"], "p_values": dict.fromkeys(MODELS, 0.2)},
        "verdict": "The grown cell is better than every baseline; none of them is in the confidence set.",
    }  # fmt: skip


def _lines(objects: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder of some name: `make_run("name", seed=1, names=(...), finished=True)`."""
    return lambda name="run", **options: write_run(tmp_path / name, **options)


@pytest.fixture
def make_comparison(tmp_path: Path) -> Callable[..., Path]:
    """Write the folder of a comparison: `make_comparison(seeds=(1, 2), finished=True)`."""
    return lambda **options: write_comparison(tmp_path / "comparison", **options)


@pytest.fixture(scope="session")
def genotype() -> Genotype:
    """Two nodes of eight ops."""
    return make_genotype(np.random.default_rng(0))
