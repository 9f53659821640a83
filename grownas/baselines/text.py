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
    from grownas.experiments.text import TextExperiment


def _recurrent(kind: str, experiment: TextExperiment) -> Score:
    def core(units: int, generator: Generator) -> Recurrent:
        return recurrent_core(kind, units, units, generator=generator)

    return experiment.train_and_score(kind, experiment.settings_of_core(kind, core))[0]


def _published_cell(name: str, experiment: TextExperiment) -> Score:
    genotype = Genotype.load(published()[name])
    return experiment.train_and_score(name, experiment.settings_of(genotype, name))[0]


lstm = partial(_recurrent, "lstm")
gru = partial(_recurrent, "gru")
darts_v1, darts_v2, enas = (partial(_published_cell, name) for name in ("darts_v1", "darts_v2", "enas"))
