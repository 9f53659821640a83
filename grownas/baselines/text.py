"""Baselines of texts: LSTM, GRU and published cells, with about as many parameters as the found model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Generator

from grownas.baselines.recurrent import recurrent_core
from grownas.evaluation.scoring import Score
from grownas.genotype import Genotype, published
from grownas.protocols import Recurrent

if TYPE_CHECKING:
    from grownas.experiments.choosing import Setting
    from grownas.experiments.text import TextExperiment


def _recurrent(kind: str, experiment: TextExperiment) -> Score:
    return experiment.train_and_score(kind, recurrent_settings(experiment, kind))[0]


def recurrent_settings(experiment: TextExperiment, kind: str) -> list[list[Setting]]:
    """Return the settings for training an `lstm` or a `gru`, as candidates for `Experiment.choose`."""

    def core(units: int, generator: Generator) -> Recurrent:
        return recurrent_core(kind, units, units, generator=generator)

    return experiment.settings_of_core(kind, core)


def _published_cell(name: str, experiment: TextExperiment) -> Score:
    genotype = Genotype.load(published()[name])
    return experiment.train_and_score(name, experiment.settings_of(genotype, name))[0]


lstm = partial(_recurrent, "lstm")
gru = partial(_recurrent, "gru")
darts_v1, darts_v2, enas = (partial(_published_cell, name) for name in ("darts_v1", "darts_v2", "enas"))
