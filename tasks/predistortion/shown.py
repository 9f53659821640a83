"""The figures of a run for its report, from its task, its model and the scores of all models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from grownas.cost import costs_of, gru, lstm, total
from grownas.protocols import Figure, Model
from grownas.tasks.predistortion.figures import am_am, am_pm, nmse_against, spectra
from grownas.tasks.predistortion.model import SignalModel, as_complex
from grownas.tasks.predistortion.polynomial import COMPLEX

if TYPE_CHECKING:
    from grownas.tasks.predistortion.task import Predistortion

PRODUCTS = "multiplications"  # key of `chosen` of fitted polynomials
OURS = "chosen"  # name of the model that a run keeps
RECURRENT: dict[str, Callable[[int, int], int]] = {  # baseline -> multiplications of a step, with the readout
    "lstm": lambda inputs, units: lstm(inputs, units).multiplications + 2 * units,
    "gru": lambda inputs, units: gru(inputs, units).multiplications + 2 * units,
    "dgru": lambda inputs, units: gru(inputs, units).multiplications + units**2 + 2 * (units + inputs),
}


def figures_of(task: Predistortion, model: Model, scores: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Return AM/AM, AM/PM, spectra, and NMSE against parameters and against multiplications per sample.

    Args:
        task: the run's task.
        model: the model that the run keeps.
        scores: the entries of all models in the summary.
    """
    x, outputs = _signals(task, model)
    pairs = {name: (x, y) for name, y in outputs.items()}
    sizes = {one["model"]: (one["params"], one["test"]) for one in scores}
    products = {one["model"]: (count, one["test"]) for one in scores if (count := _products(task, model, one))}
    return [
        am_am(pairs),
        am_pm(pairs),
        spectra(outputs, task.recording.band),
        nmse_against("parameters", sizes),
        *([nmse_against("real multiplications per sample", products)] if products else []),  # `train` scores one model
    ]


def _signals(task: Predistortion, model: Model) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the input of the test part and outputs by name, in their own units."""
    found = task.evaluate(model, "test").forecasts
    assert found is not None
    scored = task.scored("test")
    output, (x, y) = as_complex(found), (one[scored] for one in task.signals("test"))
    if task.amplifier is None:
        return x, {"measured": y, "model": output, "error of the model": output - y}
    plain = task.evaluate_signal(task.delayed(task.scaled("test")[0])[..., :2], "test").forecasts
    assert plain is not None
    return x, {"without predistorter": as_complex(plain), "with predistorter": output}


def _products(task: Predistortion, model: Model, entry: Mapping[str, Any]) -> int:
    """Return the real multiplications per sample of a model, with its readout; 0 if its size is not in the summary.

    Features are not counted. With relative phases the rotations of each sample read and of the output are counted.
    """
    name, chosen, options = entry["model"], entry["chosen"], task.options
    rotations = COMPLEX * (options.taps + 2) if options.phase == "relative" else 0
    if name == OURS:
        assert isinstance(model, SignalModel)
        core: Any = model.core
        cell = total(costs_of(core.genotype, core.input_size, core.hidden_size).values()).multiplications
        path = 0 if model.polynomial is None else model.polynomial.multiplications
        return int(cell + 2 * core.hidden_size + path + rotations)
    if name in RECURRENT:
        return RECURRENT[name](task.input_size, chosen["hidden_size"]) + rotations
    return int(chosen.get(PRODUCTS, 0))
