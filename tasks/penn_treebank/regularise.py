"""The regularisers of AWD-LSTM (Merity et al., 2018), in one form for a grown cell, an LSTM and a GRU.

Every mask is drawn once a window from PyTorch's global generator (of the device where it acts), so that whoever
restores that generator repeats them to the bit. A rate of 0 draws nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor, nn

from grownas.errors import ConfigError
from grownas.modules import with_parameters

AnyModule = TypeVar("AnyModule", bound=nn.Module)

PENALTIES = ("activation", "temporal")
RECURRENT = re.compile(  # the last part of the name of a matrix that multiplies a state
    r"weight_hh_l\d+"  # nn.LSTM, nn.GRU: all gates
    r"|W_h|gate_h"  # a node of a chain: its ops, its highway gate; W_h is all of a DAG's, gates too
)


@dataclass(frozen=True)
class Regularisation:
    """How a language model is held back in training. All off by default.

    Attributes:
        dropout_embedding: rate at which words lose their whole row of the embedding for a window, the others scaled up.
        dropout_input: of locked dropout on what the core reads.
        dropout_hidden: of locked dropout between the layers of a `Stack`.
        dropout_output: of locked dropout on what the core gives.
        weight_drop: rate at which single weights of the recurrent matrices are dropped, the others scaled up.
        activation: weight of the mean square of the dropped output in the loss, AWD-LSTM's alpha.
        temporal: weight of the mean square of the output's steps through time in the loss, AWD-LSTM's beta.
    """

    dropout_embedding: float = 0.0
    dropout_input: float = 0.0
    dropout_hidden: float = 0.0
    dropout_output: float = 0.0
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
                raise ConfigError(f"{name} is a weight in the loss, expected a number from 0 on, got {value!r}")
            if name not in PENALTIES and not 0 <= value < 1:
                raise ConfigError(f"{name} is a rate of dropping, expected 0 or more and less than 1, got {value!r}")


def locked_dropout(x: Tensor, rate: float) -> Tensor:
    """Drop units of `(T, B, H)` for all of a window, the others scaled by 1 / (1 - rate).

    Reference:
        Gal & Ghahramani (2016), A Theoretically Grounded Application of Dropout in Recurrent Neural Networks.
    """
    return x * nn.functional.dropout(torch.ones_like(x[:1]), rate) if rate else x


def word_dropout(weight: Tensor, rate: float) -> Tensor:
    """Return a factor for each row of an embedding `(V, E)`, shape `(V, 1)`: 0 or 1 / (1 - rate)."""
    return nn.functional.dropout(torch.ones_like(weight[:, :1]), rate)


def weight_drop(core: AnyModule, rate: float) -> AnyModule:
    """Return a twin of a core that computes with some of its recurrent weights dropped; the core stays as it is.

    Gradients reach the core's own parameters through the mask; no state of the twin outlives it. Dropped is every
    matrix that multiplies a state, see `RECURRENT`: of a chain not only the first node's, which reads h_(t-1), but also
    the later ones', for in a chain all of them lie on the way from h_(t-1) to h_t. So a node that is inserted anywhere
    changes nothing about the others, and a grown cell's gate is treated as an LSTM's. (AWD-LSTM drops the hidden-to-
    hidden matrices of all of its gates. The noise of a chain of N nodes adds up: expect a lower rate to be best.)

    Raises:
        ConfigError: nothing would be dropped, for the core's recurrent matrices have other names.
    """
    if not rate:
        return core
    if not any(RECURRENT.fullmatch(name.rpartition(".")[2]) for name, _ in core.named_parameters()):
        raise ConfigError(
            f"weight_drop = {rate} finds no recurrent matrix in {type(core).__name__}: no parameter is called "
            f"{RECURRENT.pattern}. Name it in RECURRENT, or set weight_drop to 0"
        )
    return _twin(core, rate)


def _twin(module: AnyModule, rate: float) -> AnyModule:
    own = {name: one for name, one in module._parameters.items() if one is not None}
    replaced = {name: nn.functional.dropout(one, rate) for name, one in own.items() if RECURRENT.fullmatch(name)}
    if isinstance(module, nn.RNNBase):  # on CUDA it moves its weights into one piece, which must not be the module's
        replaced |= {name: one.clone() for name, one in own.items() if name not in replaced}
    parts = {name: None if one is None else _twin(one, rate) for name, one in module._modules.items()}
    return with_parameters(module, replaced, parts)
