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

    return experiment.train_and_score(kind, experiment.settings_by_size(kind, build))[0]


lstm = partial(_recurrent, "lstm")
gru = partial(_recurrent, "gru")
