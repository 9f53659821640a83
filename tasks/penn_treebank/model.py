"""The language model around a recurrent core: embedding, core, output gain, decoder; and its training loss.

    ids (T, B) -> encode -> (T, B, E) -> states -> (T, B, H) -> features -> (T, B, H) -> logits -> (T, B, V)

A grown cell, an LSTM and a GRU are treated in the same way. The model applies the dropout of its `Regularisation` only
in training mode.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from grownas.errors import ConfigError
from grownas.modules import as_module
from grownas.protocols import Recurrent, Window
from grownas.tasks.penn_treebank.regularise import (
    Regularisation,
    locked_dropout,
    state_dropout,
    weight_drop,
    word_dropout,
)
from grownas.tasks.penn_treebank.softmax import SampledSoftmax, cross_entropy

BOUND = 0.1  # initial weights of embedding and decoder are in [-BOUND, BOUND], as in AWD-LSTM


class Stack(nn.Module):
    """A stack of single-layer cores; its state is the tuple of their states.

    Attributes:
        input_size: input size of the first core.
        hidden_size: hidden size of the last core.
    """

    def __init__(self, cores: Sequence[Recurrent]) -> None:
        """Stack the cores, the first at the bottom.

        Raises:
            ConfigError: there are no cores, or the sizes of two adjacent cores do not match.
        """
        super().__init__()
        if not cores:
            raise ConfigError("a stack needs at least one core, got none")
        for number, (below, above) in enumerate(itertools.pairwise(cores)):
            if below.hidden_size != above.input_size:
                raise ConfigError(
                    f"layer {number} has {below.hidden_size} units, but layer {number + 1} reads {above.input_size} "
                    "inputs; make them equal"
                )
        self.layers = nn.ModuleList(map(as_module, cores))
        self.input_size, self.hidden_size = cores[0].input_size, cores[-1].hidden_size

    def forward(
        self, x: Tensor, hidden: tuple[Any, ...] | None = None, *, dropout: float = 0.0
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Map `(T, B, E)` and a state to `(T, B, H)` and the last state, with locked dropout between layers."""
        last = []
        for number, (core, state) in enumerate(zip(self.layers, hidden or [None] * len(self.layers), strict=True)):
            x, state = core(locked_dropout(x, dropout) if number else x, state)
            last.append(state)
        return x, tuple(last)


class LanguageModel(nn.Module):
    """An embedding, a core and a decoder; a tied decoder shares the matrix of the embedding.

    The output gain is a learned or constant factor before the decoder. LSTM and GRU have |h| <= 1, so with small
    embeddings their logits have a small spread, whereas cells with identity or relu choose their own scale. The gain
    makes the comparison of cells fair.

    Attributes:
        core: one layer with T first, or a `Stack`.
        embedding: embedding of words, `(V, E)`; also the decoder if tied.
        decoder: weight of the decoder, `(V, H)`; None if tied.
        bias: bias of the decoder, `(V,)`.
        gain: output gain, a scalar: a parameter if learned, else a buffer.
        regularisation: see `Regularisation`.
    """

    gain: Tensor

    def __init__(
        self,
        core: Recurrent,
        words: int,
        *,
        tied: bool = True,
        gain: float = 1.0,
        learn_gain: bool = False,
        regularisation: Regularisation | None = None,
        generator: Generator | None = None,
    ) -> None:
        """Draw embedding and decoder from U(-0.1, 0.1) and set the bias to zero; the core keeps its weights.

        Args:
            core: the core, with `input_size` E and `hidden_size` H.
            words: size of the vocabulary, V.
            tied: use the embedding as decoder.
            gain: output gain, or its initial value if learned.
            learn_gain: make the gain a parameter.
            regularisation: regularisation in training; None: no regularisation.
            generator: draws embedding and decoder.

        Raises:
            ConfigError: the core's sizes or layers do not fit, or the gain is not a positive number.
        """
        super().__init__()
        E, H = core.input_size, core.hidden_size
        if tied and E != H:
            raise ConfigError(
                f"a tied decoder reads the core's {H} units with the embedding's {E}; make hidden size and embedding "
                "size equal, or set tied to false"
            )
        layers, batch_first = getattr(core, "num_layers", 1), getattr(core, "batch_first", False)
        if layers != 1 or batch_first:
            raise ConfigError(
                f"{type(core).__name__} has num_layers = {layers}, batch_first = {batch_first}; expected one layer "
                "with T first; put single layers into a Stack, which applies locked dropout"
            )
        if not 0 < gain < float("inf"):
            raise ConfigError(f"the output gain must be a number above 0, got {gain!r}")
        self.regularisation = regularisation or Regularisation()
        if self.regularisation.dropout_hidden and not isinstance(core, Stack):
            raise ConfigError(
                f"dropout_hidden = {self.regularisation.dropout_hidden} acts between layers, but the core is a single "
                f"{type(core).__name__}; set dropout_hidden to 0, or give a Stack"
            )
        self.core = core
        self.embedding = nn.Embedding(words, E, device="meta").to_empty(device="cpu")
        self.embedding.weight = nn.Parameter(_drawn(words, E, generator))
        self.decoder = None if tied else nn.Parameter(_drawn(words, H, generator))
        self.bias = nn.Parameter(torch.zeros(words))
        if learn_gain:
            self.gain = nn.Parameter(torch.tensor(float(gain)))
        else:
            self.register_buffer("gain", torch.tensor(float(gain)))

    @property
    def weight(self) -> Tensor:
        """Weight of the decoder, `(V, H)`."""
        return self.embedding.weight if self.decoder is None else self.decoder

    def encode(self, ids: Tensor) -> Tensor:
        """Map ids `(T, B)` to embeddings `(T, B, E)`; in training with word dropout and locked dropout."""
        x: Tensor = self.embedding(ids)
        if not self.training:
            return x
        if self.regularisation.dropout_embedding:
            x = x * word_dropout(self.embedding.weight, self.regularisation.dropout_embedding)[ids]
        return locked_dropout(x, self.regularisation.dropout_input)

    def states(self, ids: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map ids `(T, B)` and a state to the core's output `(T, B, H)` and its last state.

        In training, weight drop and dropout of the state apply, with one mask each per window.
        """
        x = self.encode(ids)
        if not self.training:
            return self.core(x, hidden)
        core = weight_drop(as_module(self.core), self.regularisation.weight_drop)
        core = state_dropout(core, self.regularisation.dropout_state)
        between = {"dropout": self.regularisation.dropout_hidden} if isinstance(core, Stack) else {}
        return core(x, hidden, **between)  # type: ignore[no-any-return]

    def drop_output(self, out: Tensor) -> Tensor:
        """Apply locked dropout to the core's output `(T, B, H)` in training; unchanged in evaluation."""
        return locked_dropout(out, self.regularisation.dropout_output) if self.training else out

    def features(self, out: Tensor) -> Tensor:
        """Map the core's output to the decoder's input, `(T, B, H)`: dropout in training, then the gain."""
        return self.gain * self.drop_output(out)

    def logits(self, features: Tensor) -> Tensor:
        """Map features to logits `(T, B, V)`."""
        return nn.functional.linear(features, self.weight, self.bias)

    def predictions(self, out: Tensor, ids: Tensor) -> Tensor:
        """Map the core's output `(T, B, H)` to logits `(T, B, V)`; the `ids` before it do not matter."""
        return self.logits(self.features(out))

    def forward(self, ids: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map ids `(T, B)` and a state to logits `(T, B, V)` and the last state."""
        out, hidden = self.states(ids, hidden)
        return self.predictions(out, ids), hidden

    def extra_repr(self) -> str:
        """Return the options for printing."""
        gain = "learned" if isinstance(self.gain, nn.Parameter) else f"{self.gain.item():g}"
        return f"tied={self.decoder is None}, gain={gain}, {self.regularisation}"


def training_loss(model: LanguageModel, out: Tensor, window: Window, sampled: SampledSoftmax | None = None) -> Tensor:
    """Return a window's mean nll in nats, full or sampled, plus the penalties of the regularisation, a scalar.

    As in AWD-LSTM, the activation penalty is computed on the core's output after dropout, the temporal penalty before
    dropout. Both are computed before the gain, which belongs to the decoder.

    Args:
        model: the model; in training mode this function applies its output dropout.
        out: the core's output, from `model.states`, `(T, B, H)`.
        window: window with target `(T, B)`.
        sampled: estimates the nll from a sample of words; None: the full softmax.
    """
    dropped = model.drop_output(out)
    decoder = model.gain * dropped, model.weight, model.bias, window.target
    loss = cross_entropy(*decoder).mean() if sampled is None else sampled.loss(*decoder)
    if model.regularisation.activation:
        loss = loss + model.regularisation.activation * dropped.square().mean()
    if model.regularisation.temporal and len(out) > 1:  # a single step has no difference
        loss = loss + model.regularisation.temporal * out.diff(dim=0).square().mean()
    return loss


def _drawn(rows: int, columns: int, generator: Generator | None) -> Tensor:
    return torch.empty(rows, columns).uniform_(-BOUND, BOUND, generator=generator)
