"""Baselines of a task of any kind: LSTM and GRU; validation chooses their settings, including the hidden size."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from grownas.baselines.recurrent import recurrent_core
from grownas.evaluation.scoring import Score
from grownas.protocols import Model

if TYPE_CHECKING:
    from grownas.experiments.experiment import Experiment


def _recurrent(kind: str, experiment: Experiment) -> Score:
    task = experiment.task

    def build(units: int) -> Model:
        generator = experiment.draw(f"{kind}-{units}")
        return task.model(recurrent_core(kind, experiment.input_size, units, generator=generator), generator=generator)

    equal = [experiment.matched_size(build, experiment.params)] if experiment.params else []
    by_size = [
        experiment.settings(f"{kind}-{units}", {"hidden_size": units}, partial(build, units))
        for units in sorted({*experiment.hidden_sizes, *equal})
    ]
    return experiment.train_and_score(kind, [one for candidates in by_size for one in candidates])[0]


lstm = partial(_recurrent, "lstm")
gru = partial(_recurrent, "gru")
