"""Times models of an amplifier in real time: one sample in, one sample out, with the state carried on.

Run: python tests/benchmarks/streaming.py RUN, where RUN is a finished search of the task predistortion. The model that
the run keeps is timed, its cell alone, and a GRU and a DGRU with as many parameters as the whole model.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import grownas
from grownas.baselines.recurrent import recurrent_core
from grownas.tasks.predistortion.dgru import DGRU
from grownas.tasks.predistortion.model import SignalModel
from grownas.training.recipe import count_parameters

SAMPLES, REPEATS = 2000, 7


def per_second(step: Callable[[Any], Any]) -> float:
    """Return the median number of samples per second; `step` maps a state, at first None, to the next one."""
    rates = []
    for _ in range(1 + REPEATS):  # the first repeat warms up
        state, began = None, time.perf_counter()
        for _ in range(SAMPLES):
            state = step(state)
        rates.append(SAMPLES / (time.perf_counter() - began))
    return statistics.median(rates[1:])


def nearest(build: Callable[[int], SignalModel], params: int) -> SignalModel:
    """Return the model whose number of parameters is the first at or above `params`."""
    return next(model for units in itertools.count(1) if count_parameters(model := build(units)) >= params).eval()


@torch.inference_mode()
def main(folder: str) -> None:
    """Print a line per model."""
    torch.set_num_threads(1)
    run, generator = grownas.load(folder), torch.Generator().manual_seed(0)
    ours: Any = run.model
    sample, cell, inputs = torch.rand(1, 2, generator=generator), ours.core, ours.core.input_size
    features, params = torch.rand(1, inputs, generator=generator), run.summary["params"]

    def model_of(core: Any) -> SignalModel:
        return SignalModel(core, ours.features, ours.taps, is_relative=ours.is_relative, generator=generator)

    rivals = {
        "GRU": nearest(lambda units: model_of(recurrent_core("gru", inputs, units, generator=generator)), params),
        "DGRU": nearest(lambda units: model_of(DGRU(inputs, units, generator=generator)), params),
    }
    models = {"chosen model": ours, **rivals}
    print(f"{'chosen cell alone':<18}{per_second(lambda state: cell.step(features, state)[1]):>10,.0f} samples/s")
    for name, model in models.items():
        rate = per_second(lambda state, model=model: model.step(sample, state)[1])
        print(f"{name:<18}{rate:>10,.0f} samples/s, {count_parameters(model):,} parameters")


if __name__ == "__main__":
    main(*sys.argv[1:])
