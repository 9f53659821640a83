"""The regularisers of AWD-LSTM (Merity et al., 2018), and DARTS' dropout of states, for grown cells, LSTM and GRU.

Every mask is drawn once per window from PyTorch's global generator of its device, so restoring that generator
reproduces the masks exactly. A rate of 0 draws nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor, nn

from grownas.errors import ConfigError
from grownas.modules import with_parameters

AnyModule = TypeVar("AnyModule", bound=nn.Module)

PENALTIES = ("activation", "temporal")
RECURRENT = re.compile(  # matches the last part of the name of a matrix that multiplies a state
    r"weight_hh_l\d+"  # nn.LSTM, nn.GRU: all gates
    r"|W_h|gate_h"  # chain: ops and highway gate of a node; DAG: W_h holds all matrices, gates included
)


@dataclass(frozen=True)
class Regularisation:
    """Regularisation of a language model in training. All rates and weights are 0 by default.

    Attributes:
        dropout_embedding: rate at which words lose their whole embedding for a window; other words are scaled up.
        dropout_input: rate of locked dropout on the core's input.
        dropout_hidden: rate of locked dropout between the layers of a `Stack`.
        dropout_output: rate of locked dropout on the core's output.
        dropout_state: rate of locked dropout on the state where a recurrent matrix reads it, see `state_dropout`.
        weight_drop: rate at which single weights of the recurrent matrices are dropped; other weights are scaled up.
        activation: weight of the mean square of the output after dropout in the loss, AWD-LSTM's alpha.
        temporal: weight of the mean square of the output's change from step to step in the loss, AWD-LSTM's beta.
    """

    dropout_embedding: float = 0.0
    dropout_input: float = 0.0
    dropout_hidden: float = 0.0
    dropout_output: float = 0.0
    dropout_state: float = 0.0
    weight_drop: float = 0.0
    activation: float = 0.0
    temporal: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: a rate is not in [0, 1), or a weight is negative.
        """
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name in PENALTIES and not 0 <= value < float("inf"):
                raise ConfigError(f"{name} is a weight in the loss, expected a number of 0 or more, got {value!r}")
            if name not in PENALTIES and not 0 <= value < 1:
                raise ConfigError(f"{name} is a dropout rate, expected 0 or more and less than 1, got {value!r}")


def locked_dropout(x: Tensor, rate: float) -> Tensor:
    """Drop units of `(T, B, H)` with one mask for all time steps; other units are scaled by 1 / (1 - rate).

    Reference:
        Gal & Ghahramani (2016), A Theoretically Grounded Application of Dropout in Recurrent Neural Networks.
    """
    return x * nn.functional.dropout(torch.ones_like(x[:1]), rate) if rate else x


def word_dropout(weight: Tensor, rate: float) -> Tensor:
    """Return a factor for each row of an embedding `(V, E)`, shape `(V, 1)`: 0 or 1 / (1 - rate)."""
    return nn.functional.dropout(torch.ones_like(weight[:, :1]), rate)


def weight_drop(core: AnyModule, rate: float) -> AnyModule:
    """Return a copy of a core with some recurrent weights dropped; the core itself is unchanged.

    Gradients reach the core's own parameters through the mask. Dropout applies to every matrix that multiplies a state
    (`RECURRENT`). In a chain these are the matrices of all nodes, because all lie on the path from h_(t-1) to h_t. So
    inserting a node does not change the dropout of other nodes, and a grown cell's gate is treated like an LSTM's.
    (AWD-LSTM drops weights in the hidden-to-hidden matrices of all gates. In a chain of N nodes the noise adds up, so
    the best rate is probably lower.)

    Raises:
        ConfigError: the core has no recurrent matrix with a known name.
    """
    if not rate:
        return core
    _check_recurrent(core, "weight_drop", rate)
    return _twin(core, lambda _, weight: nn.functional.dropout(weight, rate))


def state_dropout(core: AnyModule, rate: float) -> AnyModule:
    """Return a copy of a core that drops units of the state wherever a recurrent matrix reads it.

    Each layer has one mask m for all time steps, nodes and streams of a window. Since (s * m) W = s (diag(m) W), the
    mask multiplies the rows of the matrices, before any backend reads them. The part of the state that a gate passes on
    without a matrix is not dropped. The core itself is unchanged; gradients reach its own parameters through the mask.

    Raises:
        ConfigError: the core has no recurrent matrix with a known name.

    Reference:
        Gal & Ghahramani (2016), A Theoretically Grounded Application of Dropout in Recurrent Neural Networks;
        `dropouth` of the published code of DARTS, which draws a mask for each stream.
    """
    if not rate:
        return core
    _check_recurrent(core, "dropout_state", rate)
    layers = core._modules.get("layers")
    if layers is not None:
        parts = {name: state_dropout(layer, rate) for name, layer in layers.named_children()}
        return with_parameters(core, {}, {"layers": with_parameters(layers, {}, parts)})
    module, weight = next((module, weight) for module in core.modules() for weight in _recurrent(module).values())
    mask = nn.functional.dropout(weight.new_ones(weight.shape[_state_axis(module)]), rate)

    def masked(part: nn.Module, weight: Tensor) -> Tensor:
        shape = [1] * weight.dim()
        shape[_state_axis(part)] = -1
        return weight * mask.view(shape)

    return _twin(core, masked)


def _state_axis(module: nn.Module) -> int:
    """Return the axis of a module's recurrent matrices that belongs to the units of the state that they read.

    It is the second of PyTorch's layers, which multiply from the left, and `state_axis` of a module that has one. For
    all others it is the first.
    """
    axis: int = 1 if isinstance(module, nn.RNNBase) else getattr(module, "state_axis", 0)
    return axis


def _recurrent(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's own recurrent matrices by name, without those of its parts."""
    own = module._parameters.items()
    return {name: weight for name, weight in own if weight is not None and RECURRENT.fullmatch(name)}


def _check_recurrent(core: nn.Module, option: str, rate: float) -> None:
    if not any(map(_recurrent, core.modules())):
        raise ConfigError(
            f"{option} = {rate} finds no recurrent matrix in {type(core).__name__}: no parameter name matches "
            f"{RECURRENT.pattern}. Add the name to RECURRENT, or set {option} to 0"
        )


def _twin(module: AnyModule, change: Callable[[nn.Module, Tensor], Tensor]) -> AnyModule:
    own = {name: one for name, one in module._parameters.items() if one is not None}
    replaced = {name: change(module, one) for name, one in _recurrent(module).items()}
    if isinstance(module, nn.RNNBase):  # on CUDA cuDNN flattens the weights in place, so the copy needs its own
        replaced |= {name: one.clone() for name, one in own.items() if name not in replaced}
    parts = {name: None if one is None else _twin(one, change) for name, one in module._modules.items()}
    return with_parameters(module, replaced, parts)
