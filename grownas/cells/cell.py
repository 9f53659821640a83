"""`GrownRNN`: a genotype as a module that can replace `nn.GRU`."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from grownas.cells import backends, chain, packed
from grownas.cells.chain import ChainLayer
from grownas.cells.dag import DagLayer
from grownas.genotype import AnyGenotype, DagGenotype, Genotype

Layer = ChainLayer | DagLayer
LAYERS: dict[type[AnyGenotype], Callable[..., Layer]] = {Genotype: ChainLayer.of, DagGenotype: DagLayer}


class GrownRNN(nn.Module):
    """A stack of derived cells with the interface and the options of `nn.GRU`.

    Args:
        genotype: the cell, a chain or a DAG; or the path of its file or run folder, or the name of a published cell.
        input_size: I.
        hidden_size: H.
        num_layers: L; all layers have the same genotype and separate weights.
        batch_first: inputs and outputs are `(B, T, .)`; states are still `(D L, B, H)`.
        dropout: dropout probability of the outputs of all layers but the last, in training.
        backend: `auto`, or a name of `backends.BACKENDS`; only `reference` has second derivatives.
        bias: False is allowed for a DAG only; its cells have no biases in any case.
        bidirectional: each layer has a second cell that reads the sequence backwards, D = 2; otherwise D = 1. The
            output concatenates both cells' outputs, `(T, B, 2H)`; the next layer reads both.
        device: device of the parameters.
        dtype: dtype of the parameters, a real floating-point type.

    Raises:
        TypeError: `genotype` has another type.
        ValueError: an option is wrong.
    """

    def __init__(
        self,
        genotype: AnyGenotype | str | os.PathLike[str],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_first: bool = False,
        dropout: float = 0.0,
        backend: str = "auto",
        *,
        bias: bool = True,
        bidirectional: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        if isinstance(genotype, str | os.PathLike):
            genotype = Genotype.load(genotype)
        if type(genotype) not in LAYERS:
            raise TypeError(
                f"genotype is a {type(genotype).__name__}, expected a Genotype, a DagGenotype, a path or a name"
            )
        chain.check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie between 0 and 1, got {dropout!r}")
        for name, switch in (("batch_first", batch_first), ("bias", bias), ("bidirectional", bidirectional)):
            if not isinstance(switch, bool):
                raise ValueError(f"{name} must be True or False, got {switch!r}")
        if not bias and isinstance(genotype, Genotype):
            raise ValueError(
                "bias=False: without biases a chain's Hadamard ops keep a zero state at zero; use bias=True"
            )
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be a real floating-point type, got {dtype}")
        if dropout and num_layers == 1:
            warnings.warn("dropout acts between layers: it has no effect with num_layers=1", stacklevel=2)
        self.genotype, self.input_size, self.hidden_size = genotype, input_size, hidden_size
        self.num_layers, self.batch_first, self.dropout = num_layers, batch_first, dropout
        self.bias, self.bidirectional = bias, bidirectional
        self._state_count = num_layers * (1 + bidirectional)  # D L
        self.backend = backends.check_name(backend)
        make, later = LAYERS[type(genotype)], hidden_size * (1 + bidirectional)

        def stack() -> nn.ModuleList:
            sizes = [input_size, *[later] * (num_layers - 1)]
            return nn.ModuleList(make(genotype, size, hidden_size, device=device, dtype=dtype) for size in sizes)

        self.layers = stack()
        self.reverse_layers = stack() if bidirectional else nn.ModuleList()

    def with_genotype(self, genotype: AnyGenotype) -> GrownRNN:
        """Return a new cell of another genotype with the same options.

        The backend is `auto`, unless it is `reference`, which alone has second derivatives: not every backend can run
        another genotype.
        """
        return GrownRNN(
            genotype,
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.batch_first,
            self.dropout,
            self.backend if self.backend == "reference" else "auto",
            bias=self.bias,
            bidirectional=self.bidirectional,
        )

    def forward(self, x: Tensor | PackedSequence, h_0: Tensor | None = None) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the cells over a sequence.

        Args:
            x: `(T, B, I)`, or `(B, T, I)` with `batch_first`, or `(T, I)` without a batch; or a `PackedSequence`.
            h_0: `(D L, B, H)`, or `(D L, H)` without a batch; zeros if None. For a `PackedSequence` in the original
                order of the sequences, before sorting.

        Returns:
            Outputs of the last layer, `(T, B, D H)` or in the layout of the input (packed if `x` is packed), and the
            last states in the shape of `h_0`: layer 0 forward, layer 0 reverse if bidirectional, layer 1 and so on.
            Both have the weights' dtype; under CUDA autocast they have autocast's dtype, see `chain.run`.

        Raises:
            TypeError: `x` or `h_0` is not a tensor.
            ValueError: a shape does not fit.
        """
        if isinstance(x, PackedSequence):
            return self._run_packed(x, h_0)
        chain.check_types(x, h_0)
        states = chain.check_input(
            x,
            h_0,
            input_size=self.input_size,
            layers=self._state_count,
            hidden_size=self.hidden_size,
            batch_first=self.batch_first,
            unbatched=True,
        )
        if x.dim() == 2:
            out, h_n = self._run(x.unsqueeze(1), states)
            return out.squeeze(1), h_n.squeeze(1)
        if self.batch_first:
            out, h_n = self._run(x.transpose(0, 1), states)
            return out.transpose(0, 1), h_n
        return self._run(x, states)

    @torch.no_grad()
    def vjp(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor, Callable[[Tensor], None]] | None:
        """Return the outputs and the last state of `forward`, without autograd, and a function of their gradient.

        It sets the gradients of all parameters from the loss's gradient by the outputs, `(T, B, H)`; call it once.
        None if only autograd can, see `sequence.vjp`: all but one layer of a chain, T first, in one direction.
        """
        layer = self.layer(0)
        if self._state_count > 1 or self.batch_first or isinstance(layer, DagLayer):
            return None
        state = chain.check_input(x, h_0, input_size=self.input_size, layers=1, hidden_size=self.hidden_size)
        nodes = layer.nodes()
        found = chain.vjp(self.backend, nodes, [node.shares for node in nodes], x, state[0])
        if found is None:
            return None
        out, pull = found

        def set_gradients(grad: Tensor) -> None:
            for node, gradients in zip(nodes, pull(grad), strict=True):
                chain.set_gradients(node, gradients)

        return out, out[-1:].clone(), set_gradients

    def prepare(self, T: int, B: int) -> Callable[..., tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]] | None:
        """Return `vjp` for windows of T steps and B streams, with buffers that each call overwrites.

        It is for training: the parameters must stay at their addresses, without autograd. The function of the gradient
        also returns a tensor that holds all gradients, and more. None if nothing can be prepared, see `chain.prepare`.
        """
        layer = self.layer(0)
        if self._state_count > 1 or self.batch_first or isinstance(layer, DagLayer):
            return None
        prepared = chain.prepare(self.backend, layer.nodes(), T, B)
        if prepared is None:
            return None
        for node, shares in zip(layer.nodes(), prepared.shares, strict=True):
            shares.copy_(node.shares)

        def vjp(x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
            out = prepared.forward(x, h_0)
            return out, prepared.last.clone(), prepared.backward

        return vjp

    def _run(self, x: Tensor, states: Tensor, batch_sizes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Run all layers over `(T, B, I)` or over packed rows; return outputs and last states."""
        last, first = [], iter(states)
        for number, layer in enumerate(cast("Iterable[Layer]", self.layers)):
            if number and self.dropout:
                x = nn.functional.dropout(x, self.dropout, self.training)
            out, h = _run_layer(layer, self.backend, x, next(first), batch_sizes)
            last.append(h)
            if self.bidirectional:
                layer = self.layer(number, reverse=True)
                back, h = _run_layer(layer, self.backend, x, next(first), batch_sizes, reverse=True)
                last.append(h)
                out = torch.cat([out, back], -1)
            x = out
        return x, torch.stack(last)

    def _run_packed(self, x: PackedSequence, h_0: Tensor | None) -> tuple[PackedSequence, Tensor]:
        data, batch_sizes, order, back = x
        chain.check_types(data, h_0)
        if data.dim() != 2 or data.shape[1] != self.input_size:
            raise ValueError(
                f"x.data has shape {tuple(data.shape)}, expected (rows, {self.input_size}) of packed steps"
            )
        wanted = (self._state_count, int(batch_sizes[0]), self.hidden_size)
        if h_0 is None:
            h_0 = data.new_zeros(wanted)
        elif h_0.shape != wanted:
            raise ValueError(f"h_0 has shape {tuple(h_0.shape)}, expected {wanted}")
        out, h_n = self._run(data, h_0 if order is None else h_0.index_select(1, order), batch_sizes.tolist())
        return PackedSequence(out, batch_sizes, order, back), h_n if back is None else h_n.index_select(1, back)

    def step(self, x_t: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Do one time step, for streaming: `(B, I), (L, B, H) -> (B, H), (L, B, H)`; also without B.

        Raises:
            TypeError: `x_t` or `h` is not a tensor.
            ValueError: a shape does not fit; or the cell is bidirectional, which needs the whole sequence.
        """
        if self.bidirectional:
            raise ValueError("a bidirectional cell also reads sequences backwards; it has no single steps")
        chain.check_types(x_t, h)
        if x_t.dim() not in (1, 2) or x_t.shape[-1] != self.input_size:
            expected = f"(B, {self.input_size}), or ({self.input_size},) without a batch"
            raise ValueError(f"x_t has shape {tuple(x_t.shape)}, expected {expected}")
        time = 1 if self.batch_first and x_t.dim() == 2 else 0
        out, h = self(x_t.unsqueeze(time), h)
        return out.squeeze(time), h

    def layer(self, number: int, *, reverse: bool = False) -> Layer:
        """Return a layer, counted from 0; with `reverse` the layer of the backward direction."""
        return (self.reverse_layers if reverse else self.layers)[number]  # type: ignore[return-value]  # Modules to mypy

    def op_parameters(self, layer: int, node: int, op: int, *, reverse: bool = False) -> dict[str, Tensor]:
        """Return live views of an op's parameters.

        For a chain: W_x (I, H), b_x (H,), W_h (H, H); b_h (H,) if Hadamard. For a DAG, where node 0 is the input node
        and `op` is 0: gate_h, W_h (H, H); the input node also has gate_x, W_x (I, H).
        """
        return self.layer(layer, reverse=reverse).op_parameters(node, op)

    def load_op_parameters(
        self, layer: int, node: int, op: int, values: Mapping[str, Tensor], *, reverse: bool = False
    ) -> None:
        """Write some or all of an op's parameters."""
        self.layer(layer, reverse=reverse).load_op_parameters(node, op, values)

    @property
    def chosen_backend(self) -> str:
        """Name of the backend that runs this cell on its present device and in its dtype."""
        return self.layer(0).choose(self.backend)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw all parameters again."""
        for reverse in range(1 + self.bidirectional):
            for layer in range(self.num_layers):
                self.layer(layer, reverse=bool(reverse)).draw_parameters(generator)

    def extra_repr(self) -> str:
        """Return the sizes for `repr`."""
        both = ", bidirectional=True" if self.bidirectional else ""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}{both}, backend={self.backend}"


def _run_layer(
    layer: Layer, backend: str, x: Tensor, h_0: Tensor, batch_sizes: Sequence[int] | None, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Run a layer in one direction; return its states and the last state."""
    if batch_sizes is not None:
        return packed.run(functools.partial(layer.run, backend), x, batch_sizes, h_0, reverse=reverse)
    if reverse:
        out = layer.run(backend, x.flip(0), h_0)
        return out.flip(0), out[-1]
    out = layer.run(backend, x, h_0)
    return out, out[-1]
