"""The model that most tasks use: a core and a linear readout of its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from grownas.protocols import AnyModel, Model, Recurrent

LossAndSlope = Callable[[Tensor], tuple[Tensor, Tensor]]


def drawn_linear(inputs: int, outputs: int, *, generator: Generator | None = None) -> nn.Linear:
    """Return an `nn.Linear` initialised from `generator` with PyTorch's distribution."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer


class LinearReadout(nn.Module):
    """A core and a linear readout (see `grownas.protocols.Model`).

    Attributes:
        core: maps `(T, B, I)` to `(T, B, H)`; has `hidden_size`.
        readout: maps the core's output to predictions.
        prepared: computes the core's states inside `Backpropagation.in_use`; None outside.
    """

    prepared: Backpropagation | None = None

    def __init__(self, core: Recurrent, outputs: int, *, generator: Generator | None = None) -> None:
        """Initialise the readout as PyTorch initialises `nn.Linear`, from `generator`.

        Args:
            core: a supernet, a derived cell, `nn.LSTM` or `nn.GRU`.
            outputs: O, the number of predictions per time step.
            generator: draws the readout's weights.
        """
        super().__init__()
        self.core = core
        self.readout = drawn_linear(core.hidden_size, outputs, generator=generator)

    def encode(self, x: Tensor) -> Tensor:
        """Return the inputs `(T, B, I)` in the dtype and on the device of the weights."""
        return x.to(self.readout.weight)

    def states(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Return the core's output `(T, B, H)` and last state."""
        x = self.encode(x)
        found = None if self.prepared is None else self.prepared.states(x, hidden)
        return self.core(x, hidden) if found is None else found

    def backpropagation(self) -> Backpropagation:
        """Return a function that sets the gradients of all parameters without autograd."""
        return Backpropagation(self)

    def predictions(self, out: Tensor, x: Tensor) -> Tensor:
        """Map the core's output `(T, B, H)` to predictions `(T, B, O)`; the inputs `x` do not matter."""
        predictions: Tensor = self.readout(out)
        return predictions

    def forward(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map inputs `(T, B, I)` to predictions `(T, B, O)` and the last state."""
        out, hidden = self.states(x, hidden)
        return self.predictions(out, x), hidden


@torch.no_grad()
def begin_at_core(model: AnyModel) -> AnyModel:
    """Set the readout to the identity, in place, if the core's output is a prediction itself; return the model.

    Cores of blocks say so by their attribute `predicts`.
    """
    if getattr(model.core, "predicts", False):
        readout = readout_of(model)
        nn.init.eye_(readout.weight)
        nn.init.zeros_(readout.bias)
    return model


class Backpropagated(NamedTuple):
    """The result of a `Backpropagation`.

    Attributes:
        loss: a scalar.
        hidden: the core's last state.
        together: tensors that hold the gradients of all weights, and more: their norm is not below that of the
            gradients. Empty if the gradients lie apart.
    """

    loss: Tensor
    hidden: Any
    together: tuple[Tensor, ...] = ()


class Backpropagation:
    """Sets the gradients of a model's parameters without autograd, which on small models takes longer than the rest.

    It is for training: the parameters stay at their addresses. What the core prepares for windows of a shape is kept.
    """

    def __init__(self, model: LinearReadout) -> None:
        """Take the model; nothing is prepared yet."""
        self.model, self.core = model, model.core
        self.weight, self.bias = model.readout.weight, model.readout.bias
        self.transposed = self.weight.detach().t()  # a view, which follows the weight
        self._prepared: dict[torch.Size, Any] = {}  # shape of x -> `prepare` of the core; None if it has none

    @torch.no_grad()
    def __call__(self, x: Tensor, hidden: Any, loss: LossAndSlope) -> Backpropagated | None:
        """Set the gradients.

        Args:
            x: inputs, `(T, B, I)`.
            hidden: the core's state, or None.
            loss: maps predictions `(T, B, O)` to the loss, a scalar, and its gradient by the predictions.

        Returns:
            What has the bits of autograd's results; None if the core needs autograd: nothing is set then.
        """
        weight, bias, vjp = self.weight, self.bias, self._vjp(x.shape)
        found = None if vjp is None else vjp(x.to(weight), hidden)
        if found is None:
            return None
        out, last, set_gradients = found
        flat = out.flatten(0, 1)
        value, slope = loss(torch.addmm(bias, flat, self.transposed).view(*x.shape[:2], -1))
        slope = slope.flatten(0, 1)
        bias.grad, weight.grad = slope.sum(0), slope.t() @ flat
        memory = set_gradients((slope @ weight).view_as(out))
        return Backpropagated(value, last, () if memory is None else (memory, weight.grad, bias.grad))

    @torch.no_grad()
    def last_state(self, x: Tensor, hidden: Any) -> Any:
        """Return the core's state after x alone; None if the core needs autograd."""
        vjp = self._vjp(x.shape)
        found = None if vjp is None else vjp(x.to(self.weight), hidden)
        return None if found is None else found[1]

    @torch.no_grad()
    def states(self, x: Tensor, hidden: Any) -> tuple[Tensor, Any] | None:
        """Return a copy of the core's output `(T, B, H)` and its last state; None if no pass is prepared for `x`."""
        prepared = self._prepare(x.shape)
        if prepared is None:
            return None
        out, last, _ = prepared(x, hidden)
        return out.clone(), last

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the model compute its states by prepared passes inside this context, as for an evaluation."""
        self.model.prepared = self
        try:
            yield
        finally:
            self.model.prepared = None

    def _vjp(self, shape: torch.Size) -> Any:
        return self._prepare(shape) or getattr(self.core, "vjp", None)

    def _prepare(self, shape: torch.Size) -> Any:
        if shape not in self._prepared:
            prepare = getattr(self.core, "prepare", None)
            self._prepared[shape] = None if prepare is None else prepare(*shape[:2])
        return self._prepared[shape]


def readout_of(model: Model) -> nn.Linear:
    """Return `model.readout`, the linear readout of a model."""
    readout = getattr(model, "readout", None)
    assert isinstance(readout, nn.Linear), f"{type(model).__name__} needs an nn.Linear `readout`, got {readout!r}"
    return readout
