"""The model of a signal: a core that reads features of each sample, a linear readout, and a polynomial beside them.

A signal is a tensor `(T, B, 2)`, I and Q of each sample. Models read it through `delayed`: each sample together with
the samples before it, newest first, as `(T, B, 2 * L)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn

from grownas.protocols import Recurrent
from grownas.readout import drawn_linear
from grownas.tasks.predistortion.options import MEMORY
from grownas.tasks.predistortion.polynomial_path import PolynomialPath

FEATURES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {  # of I, Q and |x|; those of Wu et al. (2024)
    "i": lambda i, q, size: i,
    "q": lambda i, q, size: q,
    "abs": lambda i, q, size: size,
    "abs3": lambda i, q, size: size**3,
    "cos": lambda i, q, size: _over_size(i, size),
    "sin": lambda i, q, size: _over_size(q, size),
}


def _over_size(part: Tensor, size: Tensor) -> Tensor:
    """Return I or Q over |x|; a sample of 0 has the feature 0 and the gradient 0, where cosine and sine jump."""
    return torch.where(size > 0, part / size.where(size > 0, 1.0), 0.0)


def delayed(signal: Tensor, memory: int) -> Tensor:
    """Return each sample from number `memory` on, followed by the `memory` samples before it, newest first.

    Args:
        signal: shape `(T, B, 2)`.
        memory: number of earlier samples.

    Returns:
        Shape `(T - memory, B, 2 * (memory + 1))`.
    """
    return signal.unfold(0, memory + 1, 1).flip(-1).transpose(-1, -2).flatten(-2)


def as_pairs(signal: np.ndarray[Any, Any]) -> Tensor:
    """Return a complex signal `(n,)` as float32 pairs `(n, 2)`."""
    return torch.from_numpy(np.stack([signal.real, signal.imag], axis=1)).float()


def as_complex(pairs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return pairs `(n, 2)` as a complex signal `(n,)`."""
    signal: np.ndarray[Any, Any] = pairs[:, 0] + 1j * pairs[:, 1]
    return signal


def features_of(x: Tensor, names: Sequence[str], taps: int, *, is_relative: bool = False) -> Tensor:
    """Return features of a sample and of `taps` samples before it, `(T, B, len(names) * (taps + 1))`.

    Args:
        x: shape `(T, B, 2 * L)`, see `delayed`.
        names: keys of `FEATURES`.
        taps: number of earlier samples, below L.
        is_relative: measure phases from that of the present sample.
    """
    samples = x[..., : 2 * (taps + 1)].reshape(*x.shape[:-1], -1, 2)
    if is_relative:
        samples = rotated(samples, (phase_of(x) * x.new_tensor([1, -1])).unsqueeze(-2))
    (i, q), size = samples.unbind(-1), torch.linalg.vector_norm(samples, dim=-1)
    return torch.cat([FEATURES[name](i, q, size) for name in names], dim=-1)


def phase_of(x: Tensor) -> Tensor:
    """Return the present sample over its magnitude, `(T, B, 2)`; 1 if the sample is 0. `x`: see `delayed`."""
    sample = x[..., :2]
    size = torch.linalg.vector_norm(sample, dim=-1, keepdim=True)
    return torch.where(size > 0, sample / size.where(size > 0, 1.0), x.new_tensor([1, 0]))


def rotated(samples: Tensor, phase: Tensor) -> Tensor:
    """Rotate samples by phases of magnitude 1, both `(.., 2)`: the complex product, elementwise."""
    (i, q), (cos, sin) = samples.unbind(-1), phase.unbind(-1)
    return torch.stack([i * cos - q * sin, i * sin + q * cos], dim=-1)


class Streamed(NamedTuple):
    """The state of a model between two samples.

    Attributes:
        register: the samples before the next one, newest first, `(B, 2 * memory)`.
        hidden: state of the core.
    """

    register: Tensor
    hidden: Any


class SignalModel(nn.Module):
    """A core, its linear readout, and perhaps a polynomial whose output is added (see `grownas.protocols.Model`).

    With `is_relative` the core sees a signal rotated so that the present sample has phase 0, and its output is rotated
    back. An amplifier rotates its output with its input, so the model need not learn that.

    Reference:
        Wang, Aziz, Helaoui & Ghannouchi (2019), Augmented Real-Valued Time-Delay Neural Network, for magnitudes of
        delayed samples as inputs. Phases from the present sample as in vector-decomposed networks (Zhang et al., 2019).

    Attributes:
        core: reads `features_of` each sample.
        readout: maps the core's output to I and Q, in units of `scale`.
        scale: 1; with a polynomial the root mean square of what the polynomial leaves on the training part.
        polynomial: None if the model has none.
    """

    scale: Tensor

    def __init__(
        self,
        core: Recurrent,
        features: Sequence[str],
        taps: int,
        *,
        is_relative: bool = False,
        generator: Generator | None = None,
    ) -> None:
        """Draw the readout from `generator`; the model has no polynomial. For the other arguments see `features_of`."""
        super().__init__()
        self.features, self.taps, self.is_relative = tuple(features), taps, is_relative
        self.core = core
        self.readout = drawn_linear(core.hidden_size, 2, generator=generator)
        self.register_buffer("scale", torch.ones(()))
        self.polynomial: PolynomialPath | None = None

    def encode(self, x: Tensor) -> Tensor:
        """Return the features that the core reads, `(T, B, I)`, in the dtype of the weights."""
        return features_of(x.to(self.readout.weight), self.features, self.taps, is_relative=self.is_relative)

    def states(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Return the core's output `(T, B, H)` and last state."""
        return self.core(self.encode(x), hidden)

    def predictions(self, out: Tensor, x: Tensor) -> Tensor:
        """Map the core's output `(T, B, H)` and the `x` from which it comes to I and Q, `(T, B, 2)`."""
        found: Tensor = self.scale * self.readout(out)
        if self.is_relative:
            found = rotated(found, phase_of(x.to(found)))
        return found if self.polynomial is None else self.polynomial(x) + found

    def forward(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map delayed samples `(T, B, 2 * L)` to I and Q `(T, B, 2)` and the last state."""
        out, hidden = self.states(x, hidden)
        return self.predictions(out, x), hidden

    @property
    def memory(self) -> int:
        """Number of samples before the present one that the features and the polynomial read."""
        return max(self.taps, 0 if self.polynomial is None else int(self.polynomial.terms[:, :2].max()))

    def step(self, sample: Tensor, state: Streamed | None = None) -> tuple[Tensor, Streamed]:
        """Do one time step, for streaming.

        Args:
            sample: I and Q, `(B, 2)`.
            state: the state that the step before returned; None: silence before, and the core's first state.

        Returns:
            I and Q, `(B, 2)`, and the next state.
        """
        if state is None:
            state = Streamed(sample.new_zeros(len(sample), 2 * self.memory), None)
        x = torch.cat([sample, state.register], dim=-1)
        found, hidden = self(x.unsqueeze(0), state.hidden)
        return found[0], Streamed(x[:, : 2 * self.memory], hidden)


@torch.no_grad()
def start_at(model: SignalModel, polynomial: PolynomialPath, scale: float) -> SignalModel:
    """Set a new model, in place, to compute a polynomial: the readout becomes zero. Return it.

    Args:
        model: its other weights stay as they are.
        polynomial: in any dtype.
        scale: see `SignalModel`.
    """
    model.polynomial = polynomial.to(model.readout.weight)
    model.readout.weight.zero_()
    model.readout.bias.zero_()
    model.scale.fill_(scale)
    return model


def rebuild(model: SignalModel, tensors: Mapping[str, Tensor]) -> SignalModel:
    """Give a new model a polynomial, in place, if saved weights have one; its numbers are zero until they are loaded.

    Raises:
        ValueError: the terms of the polynomial read other samples than `delayed` has.
        KeyError: they are missing.
    """
    if any(name.startswith("polynomial.") for name in tensors):
        terms = tensors["polynomial.terms"]
        if not ((terms >= 0) & (terms <= MEMORY) & (terms == terms.round())).all() or not terms.numel():
            raise ValueError(f"polynomial.terms needs whole numbers from 0 to {MEMORY}")
        count = len(terms)
        model.polynomial = PolynomialPath(*(torch.zeros(count, *rest) for rest in ((3,), (2,), (count, 2))))
    return model
