"""Bit widths for the cell that a run chose: a search among widths, beside uniform widths and no training at all.

    chosen cell, in real numbers
      -> ptq_B        all products at B bits, grids fitted, nothing trained (post-training quantisation)
      -> uniform_B    the same, trained for epochs + fine_tune_epochs
      -> quantised    a mixture over widths, trained for `epochs` with a price on bit operations, read out, then trained
                      for fine_tune_epochs at the widths read out

All trainings start from the weights of the chosen cell. Validation chooses the epoch, except in the search, whose last
epoch is read out. The rows differ in nothing else.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import nn

from grownas.bits import bit_operations, units
from grownas.blocks import block
from grownas.cells.derived import Derived
from grownas.cells.quantiser import Grid
from grownas.cells.widths import MixedCell, Sample, derived_core, observe, quantised
from grownas.config.sections import Config, Quantise
from grownas.errors import ConfigError, TrainingError
from grownas.evaluation.fronts import rise
from grownas.evaluation.models import QUANTISED, UNIFORM, UNTRAINED
from grownas.evaluation.scoring import Score
from grownas.experiments.experiment import Experiment
from grownas.genotype import AnyGenotype
from grownas.protocols import Model
from grownas.strategies.cores import with_core
from grownas.training.loop import Fit
from grownas.training.pricing import Priced
from grownas.training.recipe import OptimizerRecipe, Recipe

CALIBRATION = 32  # windows of training data to which grids are fitted


class Quantised(NamedTuple):
    """The cells with bit widths.

    Attributes:
        scores: a row for each.
        winner: the row of the cell that is used from now on, see `Quantise.tolerance`.
        model: its model.
        fit: its training.
        recipe: how it was trained.
        front: an entry of plain values for each row, the cell in real numbers first: `model`, `kind`, `bits`,
            `bit_operations` of a time step, `val` and `test`.
    """

    scores: list[Score]
    winner: Score
    model: Model
    fit: Fit
    recipe: Recipe
    front: list[dict[str, Any]]


def check(config: Config) -> None:
    """Refuse what cannot be quantised, before any work.

    Raises:
        ConfigError: it cannot.
    """
    if not config.quantise.widths:
        return
    space = config.space
    if space.backbone == "blocks" and not any(part.coefficients for name in space.blocks for part in block(name).parts):
        raise ConfigError(
            f"quantise.widths: none of space.blocks, {', '.join(space.blocks)}, has coefficients; add a FIR or a "
            "polynomial, or set quantise.widths=[]"
        )
    layers = getattr(config.retrain, "layers", 1)
    for switch, value, needed in (
        ("refit", config.refit, False),  # widths and epochs are chosen on validation data
        ("retrain.layers", layers, 1),
    ):
        if value != needed:
            raise ConfigError(
                f"quantise.widths: not supported with {switch}={str(value).lower()}; set "
                f"{switch}={str(needed).lower()} or quantise.widths=[]"
            )


def quantise(experiment: Experiment, options: Quantise, score: Score, model: Model) -> Quantised | None:
    """Search bit widths for a model's cell and compare them with uniform ones.

    Args:
        experiment: task, journal and recipe of the run.
        options: the section of the config.
        score: of the model.
        model: the model that the run chose; its core is a derived cell.

    Returns:
        The cells; None with a warning if the chosen network has nothing to quantise, as one of delays alone.
    """
    if not units(derived_core(model).genotype):
        warnings.warn(
            "quantise: the chosen network has neither a FIR nor a polynomial, so nothing has a width",
            stacklevel=2,
        )
        return None
    work = Work.of(experiment, options, model)
    front = [_entry(score, "real", work.real.genotype, work.real)]
    rows, found = list[Score](), list[tuple[Score, Fit]]()
    for bits in options.uniform:
        cell = work.uniform(bits)
        rows.append(work.score(f"{UNTRAINED}{bits}", with_core(model, cell), 0.0, 0))
        front.append(_entry(rows[-1], "ptq", cell.genotype, cell))
        if (fit := work.trained_uniform(cell, bits)) is not None:
            rows.append(work.score_of(f"{UNIFORM}{bits}", [fit]))
            front.append(_entry(rows[-1], "uniform", cell.genotype, cell))
    for eta in options.eta:
        name = QUANTISED if len(options.eta) == 1 else f"{QUANTISED}_{eta:g}"
        if fits := work.searched(eta):
            rows.append(work.score_of(name, fits))
            found.append((rows[-1], fits[-1]))
            front.append(_entry(rows[-1], "mixed", derived_core(fits[-1].model).genotype, work.real))
    if not found:
        raise TrainingError("quantise: training diverges at every price; lower quantise.rate or quantise.alpha_rate")
    winner, fit = _choice(found, front, options.tolerance, experiment.task.metric)
    return Quantised(rows, winner, fit.model, fit, work.recipe(options.fine_tune_epochs), front)


@dataclass(frozen=True)
class Work:
    """The trainings of one run.

    Attributes:
        experiment, options, model: see `quantise`.
        real: the model's cell.
        sample: what its products read.
    """

    experiment: Experiment
    options: Quantise
    model: Model
    real: Derived
    sample: Sample

    @classmethod
    def of(cls, experiment: Experiment, options: Quantise, model: Model) -> Work:
        """Look at some training data."""
        device = next(model.parameters()).device
        windows = itertools.islice(experiment.task.windows("train", seed=experiment.seed), CALIBRATION)
        sample = observe(model, (window.to(device) for window in windows))
        return cls(experiment, options, model, derived_core(model), sample)

    def recipe(self, epochs: int) -> Recipe:
        """Return the recipe of a training at fixed widths: all epochs, of which validation chooses the best."""
        own = self.options
        return replace(
            self.experiment.recipe,
            epochs=epochs,
            patience=epochs,
            bf16=False,
            weights=OptimizerRecipe(rate=own.rate),  # no decay: it would move the logarithms of the steps to 0
            alpha=OptimizerRecipe(rate=own.alpha_rate),
        )

    def uniform(self, bits: int) -> Derived:
        """Return the cell with all products at one width, its grids fitted."""
        return quantised(self.real, [(bits, bits)] * len(units(self.real.genotype)), self.sample)

    def trained_uniform(self, cell: Derived, bits: int) -> Fit | None:
        """Train a cell of `uniform`; None if training diverges."""
        epochs = self.options.epochs + self.options.fine_tune_epochs
        return self._train(f"{UNIFORM}{bits}", cell, epochs)

    def searched(self, eta: float) -> list[Fit]:
        """Search widths at a price, then train the cell at these widths; return both fits, none if one diverges."""
        own, journal = self.options, self.experiment.journal
        mixed = MixedCell(self.real, own.widths, self.sample, per=own.per, tie=own.tie)
        task: Any = Priced(self.experiment.task, eta=eta, mu=own.mu)
        recipe = replace(self.recipe(own.epochs), patience=None, tells_done=True)  # the last epoch: the shares settle
        key = f"{QUANTISED}-{eta:g}"
        try:
            first = journal.fit(key, self._with(mixed), task, recipe, seed=self.experiment.seed)
        except TrainingError as error:
            _tell(error)
            return []
        core: Any = first.model.core
        done = self._train(f"{key}-fixed", core.read_out(), own.fine_tune_epochs, first.model)
        return [] if done is None else [first, done]

    def score_of(self, name: str, fits: Sequence[Fit]) -> Score:
        """Score the cell of the last fit; all fits led to it, and count."""
        spent = {
            key: sum(getattr(fit, key) for fit in fits) for key in ("steps", "gradients", "cpu_seconds", "seconds")
        }
        return replace(self.score(name, fits[-1].model, spent["seconds"], 1), **spent)

    def score(self, name: str, model: Any, seconds: float, settings: int) -> Score:
        """Score a cell with widths; its settings are the mean width and the bit operations of a step."""
        bits = derived_core(model).genotype.bits
        mean = sum(a + b for a, b in bits) / (2 * len(bits))
        chosen = {"mean_bits": round(mean, 2), "bit_operations": _operations(derived_core(model).genotype, self.real)}
        return self.experiment.score(name, model, seconds, settings, chosen)

    def _train(self, key: str, cell: Derived, epochs: int, model: Any = None) -> Fit | None:
        experiment = self.experiment
        try:
            return experiment.journal.fit(
                key, self._with(cell, model), experiment.task, self.recipe(epochs), seed=experiment.seed
            )
        except TrainingError as error:
            _tell(error)
            return None

    def _with(self, core: nn.Module, model: Any = None) -> Any:
        """Return the task's model, with the weights of another one outside the core, around a core."""
        for grid in (part for part in core.modules() if isinstance(part, Grid)):
            grid.log_step.requires_grad_(self.options.scale == "learnt")
        made: Any = with_core(model or self.model, core)  # type: ignore[arg-type]  # a module with the methods of one
        return made


def _tell(error: TrainingError) -> None:
    warnings.warn(f"skipped a setting: {error}", stacklevel=3)


def _operations(genotype: AnyGenotype, cell: Derived) -> int:
    return bit_operations(genotype, cell.input_size, cell.hidden_size)


def _entry(score: Score, kind: str, genotype: AnyGenotype, cell: Derived) -> dict[str, Any]:
    return {
        "model": score.model,
        "kind": kind,
        "bits": [list(own) for own in genotype.bits],
        "bit_operations": _operations(genotype, cell),
        "val": score.val.metric,
        "test": score.test.metric,
    }


def _choice(
    found: Sequence[tuple[Score, Fit]], front: Sequence[dict[str, Any]], tolerance: float, metric: str
) -> tuple[Score, Fit]:
    """Return the cheapest cell whose validation figure is within the tolerance; the best if there is none."""
    real, cost = front[0]["val"], {one["model"]: one["bit_operations"] for one in front}
    near = [one for one in found if rise(one[0].val.metric, real, metric) <= tolerance]
    if near:
        return min(near, key=lambda one: cost[one[0].model])
    return min(found, key=lambda one: one[0].val.metric)
