"""The language model around a recurrent core: embedding, core, output gain, decoder; and its training loss.

    ids (T, B) -> encode -> (T, B, E) -> states -> (T, B, H) -> features -> (T, B, H) -> logits -> (T, B, V)

A grown cell, an LSTM and a GRU are treated alike. In training mode, and in it alone, the model drops what its
`Regularisation` says.
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
from grownas.tasks.penn_treebank.regularise import Regularisation, locked_dropout, weight_drop, word_dropout
from grownas.tasks.penn_treebank.softmax import SampledSoftmax, cross_entropy

BOUND = 0.1  # of the embedding's first weights, as in AWD-LSTM


class Stack(nn.Module):
    """Single-layer cores one on another; its state is the tuple of theirs.

    Attributes:
        input_size: of the first.
        hidden_size: of the last.
    """

    def __init__(self, cores: Sequence[Recurrent]) -> None:
        """Put them together.

        Raises:
            ConfigError: there is none, or one does not read what the one below it gives.
        """
        super().__init__()
        if not cores:
            raise ConfigError("a stack needs at least one core, got none")
        for number, (below, above) in enumerate(itertools.pairwise(cores)):
            if below.hidden_size != above.input_size:
                raise ConfigError(
                    f"layer {number} gives {below.hidden_size} units, but layer {number + 1} reads {above.input_size}; "
                    "make them equal"
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
    """A core between an embedding and a decoder, which are one matrix if tied.

    The output gain is a factor before the decoder, learned or constant. An LSTM's or GRU's |h| <= 1 makes logits of
    small spread from small embeddings, where cells with identity or relu choose their own scale: without it a
    comparison of kinds of cells is not on equal terms.

    Attributes:
        core: T first, one layer, or a `Stack`.
        embedding: of words, `(V, E)`; the decoder too if tied, so that it is stored once.
        decoder: `(V, H)`; None if tied.
        bias: of the decoder, `(V,)`.
        gain: a scalar, parameter or buffer.
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
        """Draw embedding and decoder from U(-0.1, 0.1), the bias zero; the core is taken as it is.

        Args:
            core: with `input_size` E and `hidden_size` H.
            words: V.
            tied: the decoder is the embedding.
            gain: output gain, or where it begins.
            learn_gain: make it a parameter.
            regularisation: in training; none if left out.
            generator: draws embedding and decoder.

        Raises:
            ConfigError: the core's sizes or layers do not fit, or the gain is not a number above 0.
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
                f"{type(core).__name__} has num_layers = {layers}, batch_first = {batch_first}; expected one layer, T "
                "first: put single layers into a Stack, whose dropout is locked"
            )
        if not 0 < gain < float("inf"):
            raise ConfigError(f"the output gain must be a number above 0, got {gain!r}")
        self.regularisation = regularisation or Regularisation()
        if self.regularisation.dropout_hidden and not isinstance(core, Stack):
            raise ConfigError(
                f"dropout_hidden = {self.regularisation.dropout_hidden} acts between layers, but the core is a single "
                f"{type(core).__name__}; set it to 0, or give a Stack"
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
        """The decoder's, `(V, H)`."""
        return self.embedding.weight if self.decoder is None else self.decoder

    def encode(self, ids: Tensor) -> Tensor:
        """Map ids `(T, B)` to `(T, B, E)`; in training less whole words, and locked dropout."""
        x: Tensor = self.embedding(ids)
        if not self.training:
            return x
        if self.regularisation.dropout_embedding:
            x = x * word_dropout(self.embedding.weight, self.regularisation.dropout_embedding)[ids]
        return locked_dropout(x, self.regularisation.dropout_input)

    def states(self, ids: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map ids `(T, B)` and a state to the core's output `(T, B, H)` and its last state.

        In training with weight drop, one mask for the window.
        """
        x = self.encode(ids)
        if not self.training:
            return self.core(x, hidden)
        core = weight_drop(as_module(self.core), self.regularisation.weight_drop)
        between = {"dropout": self.regularisation.dropout_hidden} if isinstance(core, Stack) else {}
        return core(x, hidden, **between)  # type: ignore[no-any-return]

    def drop_output(self, out: Tensor) -> Tensor:
        """Return the core's output after locked dropout in training, `(T, B, H)`."""
        return locked_dropout(out, self.regularisation.dropout_output) if self.training else out

    def features(self, out: Tensor) -> Tensor:
        """Map the core's output to what the decoder reads, `(T, B, H)`: dropped in training, times the gain."""
        return self.gain * self.drop_output(out)

    def logits(self, features: Tensor) -> Tensor:
        """Map features to `(T, B, V)`."""
        return nn.functional.linear(features, self.weight, self.bias)

    def decode(self, out: Tensor) -> Tensor:
        """Map the core's output `(T, B, H)` to logits `(T, B, V)`."""
        return self.logits(self.features(out))

    def forward(self, ids: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map ids `(T, B)` and a state to logits `(T, B, V)` and the last state."""
        out, hidden = self.states(ids, hidden)
        return self.decode(out), hidden

    def extra_repr(self) -> str:
        """Return the switches for printing."""
        gain = "learned" if isinstance(self.gain, nn.Parameter) else f"{self.gain.item():g}"
        return f"tied={self.decoder is None}, gain={gain}, {self.regularisation}"


def training_loss(model: LanguageModel, out: Tensor, window: Window, sampled: SampledSoftmax | None = None) -> Tensor:
    """Return a window's mean nll in nats, full or sampled, and the penalties of the regularisation, a scalar.

    As in AWD-LSTM the activation penalty reads the core's output after its dropout, the temporal one before. Both
    read it before the gain, which belongs to the decoder.

    Args:
        model: in training mode its output is dropped here.
        out: the core's output, from `model.states`, `(T, B, H)`.
        window: its target is `(T, B)`.
        sampled: estimates the nll; the full softmax if None.
    """
    dropped = model.drop_output(out)
    decoder = model.gain * dropped, model.weight, model.bias, window.target
    loss = cross_entropy(*decoder).mean() if sampled is None else sampled.loss(*decoder)
    if model.regularisation.activation:
        loss = loss + model.regularisation.activation * dropped.square().mean()
    if model.regularisation.temporal and len(out) > 1:  # one step has no difference
        loss = loss + model.regularisation.temporal * out.diff(dim=0).square().mean()
    return loss


def _drawn(rows: int, columns: int, generator: Generator | None) -> Tensor:
    return torch.empty(rows, columns).uniform_(-BOUND, BOUND, generator=generator)
