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
from grownas.report import growth_plots, plots

N_VAL, N_TEST = 150, 160
NAMES = ("SP500", "NASDAQ", "SP500_range", "NASDAQ_range")
MODELS = {  # how far each model's forecasts lie between nothing (0) and the truth (1), and its settings
    "grown": (0.55, {"l2_sp": 0.0, "nodes": 2}),
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


def write_run(
    folder: Path,
    *,
    seed: int = 1,
    names: Sequence[str] = NAMES,
    finished: bool = True,
    early: bool = False,
    short: bool = False,
) -> Path:
    """Write a run folder.

    One that is still going lacks all that is written at the end, one of an early version what was not logged then.
    The logs of a short one have every twentieth line.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    (folder / "config.yaml").write_text(CONFIG % {"seed": seed})
    (folder / "run.json").write_text('{"command": "search"}')
    (folder / "metrics.jsonl").write_text(_lines(_metrics(rng)))
    growth = [{key: line[key] for key in line if not (early and key in NEW_KEYS)} for line in GROWTH]
    (folder / "growth.jsonl").write_text(_lines(growth))
    if not early:
        (folder / "shares.jsonl").write_text(_lines(_shares(rng)))
    for log in ("metrics.jsonl", "shares.jsonl") if short else ():
        (folder / log).write_text("".join((folder / log).read_text().splitlines(keepends=True)[::20]))
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


def write_comparison(
    folder: Path, seeds: Sequence[int] = (1, 2, 3), *, finished: bool = True, short: bool = False
) -> Path:
    """Write the folder of a comparison; one that is still going has no result."""
    for seed in seeds:
        write_run(folder / f"seed-{seed}", seed=seed, short=short)
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


def make_cell(*nodes: Sequence[tuple[str, str]]) -> Genotype:
    """A cell in which all ops of a node have the same share."""
    return Genotype(tuple(Node(tuple(Op(*op, share=1 / len(ops)) for op in ops)) for ops in nodes))


SPLIT = [*DEFAULT_OPS, ("hadamard", "tanh")]
PRUNED = [*SPLIT[:2], *SPLIT[3:]]
CELLS = {  # part of the growth -> the cell that is trained in it
    "stage-1-l2_sp-100": make_cell(DEFAULT_OPS),
    "stage-1-l2_sp-0": make_cell(DEFAULT_OPS),
    "stage-2-try-add_node": make_cell(DEFAULT_OPS, DEFAULT_OPS),
    "stage-2-try-split_op": make_cell(SPLIT),
    "stage-2": make_cell(SPLIT),
    "stage-2-l2_sp-0-pruned-each_stage": make_cell(PRUNED),
    "stage-3": make_cell(PRUNED, DEFAULT_OPS),
    "stage-4": make_cell(PRUNED, [*DEFAULT_OPS, ("hadamard", "relu")]),
}
EPOCHS = {
    "stage-1-l2_sp-100": 30, "stage-1-l2_sp-0": 60, "stage-2-try-add_node": 5, "stage-2-try-split_op": 5, "stage-2": 52,
    "stage-2-l2_sp-0-pruned-each_stage": 14, "stage-3": 40, "stage-4": 38, "gru-16-huber": 20,
}  # fmt: skip
NEW_KEYS = (
    "measured_change",
    "cell_before",
    "cell_after",
    "op_name",
    "split_step",
    "change_on",
    "part",
    "trial",
)  # early logs lack them


def _move(stage: int, kind: str, node: int, op: int | None, after: str, before: str, **others: Any) -> dict[str, Any]:
    line = {
        "stage": stage, "step": 0, "kind": kind, "node": node, "op": op, "drift": 0.0123, "predicted_change": 0.0,
        "measured_change": 0.0009, "accepted": True, "judge": {"rule": "significant", "figure": 2.31}, "wall_s": 14.2,
        "cell_before": CELLS[before].to_dict(), "cell_after": CELLS[after].to_dict(), "part": after, "trial": None,
    }  # fmt: skip
    return line | _words_and_sources(kind, op, len(CELLS[before].nodes[node].ops) if op is not None else 0) | others


def _words_and_sources(kind: str, op: int | None, count: int) -> dict[str, Any]:
    words = {"words": kind.replace("_", " ")}
    if op is None:
        return words
    kept = {"split_op": [*range(count), op], "prune_op": [one for one in range(count) if one != op]}
    return {**words, "sources": kept.get(kind, list(range(count)))}


GROWTH = [
    _move(
        2, "add_node", 1, None, "stage-2-try-add_node", "stage-1-l2_sp-0", accepted=False, loss_before=0.4275,
        loss_after=0.4271, params_before=1220, params_after=2440, wall_s=0.9, trial="stage-2-try-add_node",
        judge={"rule": "gain per parameter in a trial", "figure": 1.5e-7, "threshold": 4e-7},
    ),
    _move(
        2, "split_op", 0, 5, "stage-2", "stage-1-l2_sp-0", loss_before=0.4275, loss_after=0.4243, params_before=1220,
        params_after=1372, op_name="hadamard/tanh", predicted_change=-4e-5, measured_change=-3e-5, split_step=0.03,
        change_on="train", trial="stage-2-try-split_op",
    ),
    _move(
        2, "prune_op", 0, 2, "stage-2-l2_sp-0-pruned-each_stage", "stage-2", step=2700, loss_before=0.4243,
        loss_after=0.4240, params_before=1372, params_after=1220, op_name="add/sigmoid", predicted_change=None,
        judge={"rule": "share", "figure": 0.041, "threshold": 0.05},
    ),
    _move(
        3, "add_node", 1, None, "stage-3", "stage-2-l2_sp-0-pruned-each_stage", loss_before=0.4235, loss_after=0.4212,
        params_before=1220, params_after=3412,
    ),
    _move(
        4, "split_op", 1, 7, "stage-4", "stage-3", loss_before=0.4212, loss_after=0.4218, params_before=3412,
        params_after=3564, op_name="hadamard/relu", predicted_change=-2e-5, measured_change=-1e-5, split_step=0.06,
        change_on="train", accepted=False, judge={"rule": "significant", "figure": -0.42}, wall_s=21.9,
    ),
]  # fmt: skip
STAGES = [
    {
        "stage": 1, "nodes": 1, "l2_sp": 100.0, "loss_before": 0.4351, "loss_after": 0.4346, "accepted": False,
        "judge": {"rule": "significant", "figure": 1.02}, "epochs": 30, "steps": 1500, "seconds": 5.1, "params": 1220,
        "part": "stage-1-l2_sp-100", "part_pruned": None, "stopped": "no lower validation loss for 12 epochs",
    },
    {
        "stage": 1, "nodes": 1, "l2_sp": 0.0, "loss_before": 0.4351, "loss_after": 0.4275, "accepted": True,
        "judge": {"rule": "significant", "figure": 3.4}, "epochs": 60, "steps": 3000, "seconds": 9.3, "params": 1220,
        "part": "stage-1-l2_sp-0", "part_pruned": None, "stopped": "no lower validation loss for 12 epochs",
    },
    *({**line, "nodes": line["node"] + 1, "l2_sp": 0.0} for line in (GROWTH[1], GROWTH[3], GROWTH[4])),
]  # fmt: skip


def _metrics(rng: np.random.Generator) -> list[dict[str, Any]]:
    """The fits of the growth and one of a baseline, in the order in which they were trained; all fall to their end."""
    ends = {
        "stage-1-l2_sp-100": (0.435, 0.4346), "stage-1-l2_sp-0": (0.435, 0.4275),
        "stage-2-try-add_node": (0.43, 0.4271),
        "stage-2-try-split_op": (0.428, 0.427), "stage-2": (0.428, 0.4243),
        "stage-2-l2_sp-0-pruned-each_stage": (0.424, 0.4235), "stage-3": (0.425, 0.4212), "stage-4": (0.422, 0.4218),
        "gru-16-huber": (0.6, 0.45),
    }  # fmt: skip
    lines = []
    for part, (first, last) in ends.items():
        stage = int(part.split("-")[1]) if part.startswith("stage") else 0
        for epoch in range(EPOCHS[part] + 1):
            value = last + (first - last) * np.exp(-epoch / 8)
            place = {
                "stage": stage, "part": part, "model": "search" if stage else "gru", "epoch": epoch, "step": 50 * epoch,
                "wall_s": 0.15 * epoch,
            }  # fmt: skip
            lines.append({**place, "split": "val", "metric": "loss", "value": value})
            lines.append({**place, "split": "val", "metric": "mse", "value": 2 * value})
            if epoch:
                train = value - 0.006 - 0.0001 * epoch + 0.0004 * rng.normal()
                lines.append({**place, "split": "train", "metric": "loss", "value": train})
    return lines


def _shares(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Shares that begin alike and drift apart."""
    lines = []
    for part, cell in CELLS.items():
        tilts = [rng.normal(size=len(node.ops)) for node in cell.nodes]
        for epoch in range(EPOCHS[part] + 1):
            for number, (node, tilt) in enumerate(zip(cell.nodes, tilts, strict=True)):
                weights = np.exp(0.02 * epoch * tilt)
                shares = [round(float(share), 6) for share in weights / weights.sum()]
                place = {"stage": int(part.split("-")[1]), "part": part, "epoch": epoch, "node": number}
                lines.append({**place, "ops": [op.name for op in node.ops], "shares": shares})
    return lines


def _data(names: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    first = datetime.date(2012, 11, 20)
    return {
        "kind": "series",
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
        "retrain_seconds": 22.1, "stages": 4, "stage_log": STAGES, "stopped": "the last added node was not accepted",
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
        {
            "baseline": model,
            "statistic": 2.5,
            "p_value": 0.0123,
            "loss_difference": 0.02,
            "seeds": len(seeds),
            "days_and_seeds": {"statistic": 2.1, "p_value": 0.0456, "freedom": 7.5},
            "over_seeds": None if model == "zero" else {"statistic": 2.2, "p_value": 0.0351, "freedom": 6.5},
            "finding": "better",
            "equal": False,
        }
        for model in MODELS
        if model != "grown"
    ]
    return {
        "metric": "mse", "seeds": list(seeds), "models": models, "reference": "grown", "tests": tests,
        "mcs": {
            "size": 0.1, "members": ["grown", "first_stage"], "p_values": dict.fromkeys(MODELS, 0.2), "untested": [],
        },
        "steps": {"count": N_TEST, "unit": "days"},
        "sizes": [
            {"test": "over_seeds", "nominal": 0.05, "lowest": 0.031, "highest": 0.052, "source": "1,234 splits"}
        ],
        "verdict": "The grown cell is better than every baseline; none of them is in the confidence set.",
    }  # fmt: skip


def _lines(objects: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder of some name: `make_run("name", seed=1, names=(...), finished=True, early=False)`."""
    return lambda name="run", **options: write_run(tmp_path / name, **options)


@pytest.fixture
def make_comparison(tmp_path: Path) -> Callable[..., Path]:
    """Write the folder of a comparison: `make_comparison(seeds=(1, 2), finished=True)`."""
    return lambda **options: write_comparison(tmp_path / "comparison", **options)


@pytest.fixture(scope="session")
def genotype() -> Genotype:
    """Two nodes of eight ops."""
    return make_genotype(np.random.default_rng(0))


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Leave drawings blank, for a test of a page's words: they take most of its time."""
    for module in (plots, growth_plots):
        monkeypatch.setattr(module, "as_svg", lambda canvas: "<svg></svg>")
