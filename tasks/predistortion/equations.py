"""The model of a signal around its core in `equations.txt`: scales, features, readout and polynomial.

`tests/support/following_signals.py` evaluates the file with NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from grownas.protocols import Formulas
from grownas.tasks.predistortion.model import SignalModel
from grownas.tasks.predistortion.options import Job

FEATURES = {  # of a sample r, see `model.FEATURES`
    "i": "re(r)",
    "q": "im(r)",
    "abs": "abs(r)",
    "abs3": "abs(r)**3",
    "cos": "re(r) / abs(r)",
    "sin": "im(r) / abs(r)",
}
TITLES: dict[Job, str] = {"model": "Model of a power amplifier", "predistort": "Predistorter of a power amplifier"}
SIGNALS: dict[Job, tuple[str, str]] = {  # what a model reads and returns
    "model": ("the amplifier's input, in its own units", "the amplifier's output, in its own units"),
    "predistort": (
        "the signal to amplify, in units of the amplifier's input",
        "the signal that drives the amplifier, in units of the amplifier's input",
    ),
}

NOTATION = """\
  input_t   sample t of {input}: a complex number I + jQ
  v_t       the same, scaled: v_t = input_t / unit_in; 0 before the first sample
  x_t       the {size} features of v_t{before}, a row vector
  re im     real and imaginary part; abs(r), or |r|, is the magnitude, and conj(r) the complex conjugate"""

ORDER = """\
Samples are read in the order of time, one step a sample, after silence. The
output of sample t uses samples up to t and nothing later."""

LINES = """\
unit_in and unit_out are float64. v_t is rounded to dtype.
`features` are the features in their order: the first of the present sample and of `taps` samples before it, newest
first, then the second, and so on. `feature` lines define each of a sample r; all are 0 where r = 0. With
`phase relative` samples are turned by conj(p_t) before, and the readout by p_t; with `phase absolute` neither is."""

POLYNOMIAL_LINES = """
The polynomial is computed in float64, because large terms nearly cancel. A row of polynomial_terms is delay, envelope
and power of a term, and the row of polynomial_coefficients its c: real and imaginary part, float64."""


def formulas_of(model: SignalModel, units: tuple[float, float], job: Job) -> Formulas:
    """Return how a model is written around its core, see `protocols.Written`.

    Args:
        model: a model of scaled signals.
        units: what a scaled 1 is at its input and at its output.
        job: what the model is for, see `Options`.
    """
    (given, returned), size = SIGNALS[job], len(model.features) * (model.taps + 1)
    before = f" and of the {model.taps} sample(s) before it" if model.taps else ""
    return Formulas(
        title=TITLES[job],
        step="sample",
        notation=NOTATION.format(input=given, size=size, before=before),
        before=[ORDER, "\n".join(_features(model))],
        after="\n".join(_output(model, returned)),
        lines=LINES + ("" if model.polynomial is None else POLYNOMIAL_LINES),
        words=[
            f"features {' '.join(model.features)}",
            *(f"feature {name} = {FEATURES[name]}" for name in model.features),
            f"taps {model.taps}",
            f"phase {'relative' if model.is_relative else 'absolute'}",
        ],
        numbers=_numbers(model, units),
    )


def _features(model: SignalModel) -> Iterator[str]:
    yield "Features; each is 0 where r = 0"
    if model.is_relative:
        yield "  p_t = v_t / |v_t|, or 1 where v_t = 0"
    last = f" .. {model.taps}" if model.taps else ""
    yield f"  r_k = v_(t-k){' * conj(p_t)' if model.is_relative else ''}, k = 0{last}"
    yield from (f"  {name}(r) = {FEATURES[name]}" for name in model.features)
    values = ", ".join(f"{name}(r_k)" for name in model.features)
    yield f"  x_t = [{values}], each for all k before the next"


def _output(model: SignalModel, returned: str) -> Iterator[str]:
    yield "Output of sample t"
    yield "  [I Q] = scale * (h_t W_out + b_out)"
    yield f"  y_t = {'(I + jQ) * p_t' if model.is_relative else 'I + jQ'}"
    if model.polynomial is not None:
        count = len(model.polynomial.terms)
        yield f"        + the sum over the {count} terms below of c * v_(t-delay) * |v_(t-envelope)|^power"
    yield f"  output_t = unit_out * y_t, {returned}"


def _numbers(model: SignalModel, units: tuple[float, float]) -> dict[str, np.ndarray]:
    path = model.polynomial
    numbers = {"unit_in": np.array(units[0]), "unit_out": np.array(units[1]), "scale": model.scale.numpy()}
    if path is not None:
        numbers["polynomial_terms"] = path.terms.long().numpy()
        numbers["polynomial_coefficients"] = path.coefficients.detach().double().numpy()
    return numbers
