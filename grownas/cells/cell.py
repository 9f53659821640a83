"""`GrownRNN`: a genotype as a module that can stand where `nn.GRU` stood."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor, nn

from grownas.cells import backends, chain
from grownas.cells.chain import ChainLayer
from grownas.cells.dag import DagLayer
from grownas.genotype import AnyGenotype, DagGenotype, Genotype

Layer = ChainLayer | DagLayer
LAYERS: dict[type[AnyGenotype], Callable[..., Layer]] = {Genotype: ChainLayer.of, DagGenotype: DagLayer}


class GrownRNN(nn.Module):
    """A derived cell, stacked; behaves as `nn.GRU`.

    Args:
        genotype: the cell, a chain or a DAG.
        input_size: I.
        hidden_size: H.
        num_layers: L; every layer has the same genotype and weights of its own.
        batch_first: inputs and outputs are `(B, T, .)`; states stay `(L, B, H)`.
        dropout: probability of dropping an output of any layer but the last, in training.
        backend: `auto`, or a name of `backends.BACKENDS`; `reference` alone has second derivatives.
    """

    def __init__(
        self,
        genotype: AnyGenotype,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_first: bool = False,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        """See the class."""
        super().__init__()
        if type(genotype) not in LAYERS:
            raise TypeError(f"genotype is a {type(genotype).__name__}, expected one that Genotype.load returns")
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number above 0, got {value!r}")
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie between 0 and 1, got {dropout!r}")
        if dropout and num_layers == 1:
            warnings.warn("dropout acts between layers: it has no effect with num_layers=1", stacklevel=2)
        self.genotype, self.input_size, self.hidden_size = genotype, input_size, hidden_size
        self.num_layers, self.batch_first, self.dropout = num_layers, batch_first, dropout
        self.backend = backends.check_name(backend)
        make = LAYERS[type(genotype)]
        self.layers = nn.ModuleList(
            make(genotype, input_size if layer == 0 else hidden_size, hidden_size) for layer in range(num_layers)
        )

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over a sequence.

        Args:
            x: `(T, B, I)`, or `(B, T, I)` with `batch_first`, or `(T, I)` without a batch.
            h_0: `(L, B, H)`, or `(L, H)` without a batch; zeros if left out.

        Returns:
            Outputs of the last layer `(T, B, H)` (or as the input is laid out), last states as `h_0`. Both have the
            weights' dtype, under `torch.autocast` too but on CUDA: there they have autocast's, see `chain.run`.

        Raises:
            TypeError: `x` or `h_0` is not a tensor; a `PackedSequence` is to be padded first.
            ValueError: a shape does not fit.
        """
        chain.check_types(x, h_0)
        batched = x.dim() == 3
        if x.dim() == 2:
            x, h_0 = x.unsqueeze(1), None if h_0 is None else h_0.unsqueeze(1)
        elif batched and self.batch_first:
            x = x.transpose(0, 1)
        states = chain.check_input(
            x, h_0, input_size=self.input_size, layers=self.num_layers, hidden_size=self.hidden_size
        )
        last = []
        for number, state in enumerate(states):
            if number and self.dropout:
                x = nn.functional.dropout(x, self.dropout, self.training)
            x = self.layer(number).run(self.backend, x, state)
            last.append(x[-1])
        h_n = torch.stack(last)
        if not batched:
            return x.squeeze(1), h_n.squeeze(1)
        return (x.transpose(0, 1) if self.batch_first else x), h_n

    def step(self, x_t: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take one time step, for streams: `(B, I), (L, B, H) -> (B, H), (L, B, H)`; without a batch too."""
        if self.batch_first and x_t.dim() == 2:
            out, h = self(x_t.unsqueeze(1), h)
            return out.squeeze(1), h
        out, h = self(x_t.unsqueeze(0), h)
        return out.squeeze(0), h

    def layer(self, number: int) -> Layer:
        """Return a layer, counted from 0."""
        return self.layers[number]  # type: ignore[return-value]  # a ModuleList's members are Modules to mypy

    def op_parameters(self, layer: int, node: int, op: int) -> dict[str, Tensor]:
        """Return live views of an op's parameters.

        Of a chain: W_x (I, H), b_x (H,), W_h (H, H); b_h (H,) if Hadamard. Of a DAG, whose node 0 is the input node and
        whose op is 0: gate_h, W_h (H, H); gate_x, W_x (I, H) of the input node.
        """
        return self.layer(layer).op_parameters(node, op)

    def load_op_parameters(self, layer: int, node: int, op: int, values: Mapping[str, Tensor]) -> None:
        """Write some or all of an op's parameters."""
        self.layer(layer).load_op_parameters(node, op, values)

    @property
    def chosen_backend(self) -> str:
        """Name of the backend that runs this cell where it lies now: what `auto` stands for."""
        return self.layer(0).choose(self.backend)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw all parameters anew."""
        for layer in range(self.num_layers):
            self.layer(layer).draw_parameters(generator)

    def extra_repr(self) -> str:
        """Return sizes for printing."""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, backend={self.backend}"
