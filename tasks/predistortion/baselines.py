"""The task's own baselines: polynomials fitted by least squares, and DGRU. Each maps an experiment to a score."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from grownas.evaluation.scoring import Score
from grownas.protocols import Model
from grownas.tasks.predistortion.dgru import DGRU
from grownas.tasks.predistortion.options import MEMORY
from grownas.tasks.predistortion.polynomial_fit import choose


def _polynomial(family: str, experiment: Any) -> Score:
    """Fit a polynomial on the training part, with `refit` on the validation part too; folds choose shape and ridge."""
    task = experiment.task

    def work() -> dict[str, Any]:
        learned = task.with_refit() if experiment.refit else task
        given, wanted = learned.learned("train")
        fitted = choose(given, wanted, family, used=learned.compared("train"), most=task.options.polynomial_params)
        signals = {part: fitted.predict(task.scaled(part)[0]) for part in ("val", "test")}
        outputs = {part: torch.view_as_real(torch.from_numpy(signal)) for part, signal in signals.items()}
        chosen = {**fitted.shape._asdict(), "ridge": fitted.ridge, "multiplications": fitted.multiplications}
        return {"outputs": outputs, "params": fitted.params, "chosen": chosen}

    done = experiment.journal.remember(family, work)
    val, test = (task.evaluate_signal(done["outputs"][part][MEMORY:, None], part) for part in ("val", "test"))
    return Score(family, done["params"], val, test, done["seconds"], 1, done["chosen"])


fir = partial(_polynomial, "fir")
mp = partial(_polynomial, "mp")
gmp = partial(_polynomial, "gmp")


def dgru(experiment: Any) -> Score:
    """Train DGRUs; the validation part chooses units, rate and weight decay."""
    task = experiment.task

    def build(units: int) -> Model:
        generator = experiment.draw(f"dgru-{units}")
        model: Model = task.model(DGRU(task.input_size, units, generator=generator), generator=generator)
        return model

    score: Score = experiment.train_and_score("dgru", experiment.settings_by_size("dgru", build))[0]
    return score
