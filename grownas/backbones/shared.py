"""Supernets without mixtures: all genotypes share weights, and one genotype at a time is computed.

A genotype costs what its derived cell costs: the cell's layer is built from the weights that it uses, and the engine
runs that. Every op has parameters of its own, so that the ops that a batch does not use have no gradient, and an
optimiser leaves both them and their moments as they are.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from grownas.cells import backends, chain
from grownas.cells.cell import GrownRNN, Layer
from grownas.cells.dag import DagLayer
from grownas.cells.node import FixedNode
from grownas.genotype import AnyGenotype, DagGenotype, Genotype, Op
from grownas.modules import with_parameters
from grownas.ops import COMBINE

Draw = Callable[[], AnyGenotype]
Pairs = Sequence[tuple[str, str]]
BIASES = ("b_x", "b_h")


class SharedCore(nn.Module):
    """A core that draws a genotype for each batch in training, and computes the chosen genotype in evaluation.

    A genotype may have fewer nodes than the core: it uses the first ones.

    Attributes:
        input_size: I.
        hidden_size: H.
        chosen: the genotype of evaluation, of `genotype` and of `derive`. It is not saved with the weights.
        draw: returns the genotype of a batch. It should use PyTorch's global generator, as dropout does: then a
            training that is resumed draws the same genotypes.
        backend: see `GrownRNN`.
    """

    def __init__(
        self, input_size: int, hidden_size: int, nodes: Sequence[nn.Module], draw: Draw, backend: str = "auto"
    ) -> None:
        """Store the nodes; the chosen genotype must be set before the first evaluation."""
        super().__init__()
        self.input_size, self.hidden_size, self.draw = input_size, hidden_size, draw
        self.backend = backends.check_name(backend)
        self.chosen: AnyGenotype | None = None
        self.nodes = nn.ModuleList(nodes)

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map x `(T, B, I)` and a state `(1, B, H)`, zeros if None, to states `(T, B, H)` and the last one `(1, B, H)`.

        Raises:
            TypeError: `x` or `h_0` is not a tensor.
            ValueError: a shape does not fit.
        """
        chain.check_types(x, h_0)
        state = chain.check_input(x, h_0, input_size=self.input_size, layers=1, hidden_size=self.hidden_size)
        genotype = self.draw() if self.training else self.genotype()
        out = self.layer(genotype).run(self.backend, x, state[0])
        return out, out[-1:].clone()  # a copy: a kept last state does not keep all steps in memory

    @abstractmethod
    def layer(self, genotype: Any) -> Layer:
        """Return the layer of a genotype's derived cell; it computes with this core's weights, not with copies."""
        ...

    def genotype(self, top_k: int | None = None) -> AnyGenotype:
        """Return the chosen genotype; `top_k` is ignored: a genotype says itself how many ops a node has."""
        assert self.chosen is not None, "set `chosen` before evaluation"
        return self.chosen

    def derive(self, top_k: int | None = None) -> GrownRNN:
        """Return the derived cell of the chosen genotype with copies of the weights."""
        genotype = self.genotype(top_k)
        cell = GrownRNN(genotype, self.input_size, self.hidden_size, backend=self.backend)
        cell.to(next(self.parameters()))
        cell.layer(0).load_state_dict(self.layer(genotype).state_dict())
        return cell

    @property
    def chosen_backend(self) -> str:
        """Name of the backend that runs the chosen genotype where the core lies now."""
        return self.layer(self.genotype()).choose(self.backend)

    def extra_repr(self) -> str:
        """Return the sizes for `repr`."""
        return f"{self.input_size}, {self.hidden_size}, backend={self.backend}"


class Weights(nn.Module):
    """Parameters by name, drawn from U(-1/sqrt(H), 1/sqrt(H)) as those of all cells are."""

    def __init__(
        self, hidden_size: int, shapes: Mapping[str, tuple[int, ...]], generator: Generator | None = None
    ) -> None:
        """Draw the parameters in the order of the shapes; H is the hidden size."""
        super().__init__()
        bound = 1 / math.sqrt(hidden_size)
        for name, shape in shapes.items():
            drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
            self.register_parameter(name, nn.Parameter(drawn))

    def __getitem__(self, name: str) -> Tensor:
        """Return a parameter."""
        return cast("Tensor", self._parameters[name])  # weight drop replaces it by a plain tensor


class SharedNode(nn.Module):
    """A node of a chain. Each op owns its matrices and biases; under `share_projection` a combine owns the matrices.

    Attributes:
        projections: W_x (I, H) and W_h (H, H), by op or by combine.
        biases: b_x (H,), and b_h (H,) of a Hadamard op, by op.
        gate: gate_x (I, H) and gate_h (H, H) under `highway`; otherwise empty.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        ops: Pairs,
        *,
        highway: bool = False,
        share_projection: bool = False,
        generator: Generator | None = None,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        self.share_projection = share_projection
        made = [Op(*op) for op in ops]
        x, h = (input_size, hidden_size), (hidden_size, hidden_size)
        keys = dict.fromkeys(self.key(op) for op in made)
        self.projections = nn.ModuleDict({key: Weights(hidden_size, {"W_x": x, "W_h": h}, generator) for key in keys})
        biases = {op.name: [name for name in COMBINE[op.combine].parameters if name in BIASES] for op in made}
        self.biases = nn.ModuleDict(
            {op: Weights(hidden_size, dict.fromkeys(names, (hidden_size,)), generator) for op, names in biases.items()}
        )
        self.gate = Weights(hidden_size, {"gate_x": x, "gate_h": h} if highway else {}, generator)

    def key(self, op: Op) -> str:
        """Return the key of an op's projection."""
        return op.combine if self.share_projection else op.name

    def values(self, ops: Sequence[Op], template: FixedNode) -> dict[str, Tensor]:
        """Return the parameters of a derived node with these ops, in the layout of `cells.node.Node`."""
        first = [template.projection.index(column) for column in range(max(template.projection) + 1)]
        matrices = [cast("Weights", self.projections[self.key(ops[number])]) for number in first]
        biases = [cast("Weights", self.biases[op.name]) for op in ops]
        own = {name: _stacked([one[name] for one in matrices], 1) for name in ("W_x", "W_h")}
        own["b_x"] = _stacked([one["b_x"] for one in biases], 0)
        second = [biases[number]["b_h"] for number in template.bias]
        own["b_h"] = _stacked(second, 0) if second else own["b_x"].new_empty(0, own["b_x"].shape[1])
        return {**own, **{name: self.gate[name] for name in self.gate._parameters}}


class SharedChain(SharedCore):
    """A chain of nodes whose ops have weights of their own; it computes genotypes with any of these ops.

    Args:
        input_size: I.
        hidden_size: H.
        ops: of each node, `(combine, activation)`.
        draw: see `SharedCore`.
        highway, share_projection: see `Genotype`.
        generator: draws the weights.
        backend: see `GrownRNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        ops: Sequence[Pairs],
        draw: Draw,
        *,
        highway: bool = False,
        share_projection: bool = False,
        generator: Generator | None = None,
        backend: str = "auto",
    ) -> None:
        """See the class."""
        switches = {"highway": highway, "share_projection": share_projection}
        nodes = [SharedNode(input_size, hidden_size, own, **switches, generator=generator) for own in ops]
        super().__init__(input_size, hidden_size, nodes, draw, backend)

    def layer(self, genotype: Genotype) -> chain.ChainLayer:
        """See `SharedCore.layer`."""
        layer = chain.ChainLayer()
        for own, node in zip(genotype.nodes, self.nodes, strict=False):
            template = _node(self.input_size, self.hidden_size, own.ops, genotype.highway, genotype.share_projection)
            values = cast("SharedNode", node).values(own.ops, template)
            layer.append(with_parameters(template, values))
        return layer


class SharedDag(SharedCore):
    """A DAG in which each op of each edge has weights of its own, as in ENAS; it has an op a node, as derived cells.

    Args:
        input_size: I.
        hidden_size: H.
        nodes: number of nodes without the input node.
        activations: of the ops.
        draw: see `SharedCore`.
        generator: draws the weights.
        backend: see `GrownRNN`.

    Attributes:
        input: W_x (I, 2H) and W_h (H, 2H) of the input node, which every genotype has; columns as in `DagLayer`.
        nodes: for each node W_h (H, 2H) by `source/activation`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        nodes: int,
        activations: Sequence[str],
        draw: Draw,
        *,
        generator: Generator | None = None,
        backend: str = "auto",
    ) -> None:
        """See the class."""
        h = (hidden_size, 2 * hidden_size)
        first = Weights(hidden_size, {"W_x": (input_size, 2 * hidden_size), "W_h": h}, generator)
        made = [
            nn.ModuleDict(
                {f"{i}/{op}": Weights(hidden_size, {"W_h": h}, generator) for i in range(number) for op in activations}
            )
            for number in range(1, nodes + 1)
        ]
        super().__init__(input_size, hidden_size, made, draw, backend)
        self.input = first

    def layer(self, genotype: DagGenotype) -> DagLayer:
        """See `SharedCore.layer`."""
        keys = [f"{node.reads}/{node.activation}" for node in genotype.nodes]
        nodes = zip(keys, cast("list[nn.ModuleDict]", list(self.nodes)), strict=False)
        used = [self.input, *(cast("Weights", node[key]) for key, node in nodes)]
        values = {"W_x": self.input["W_x"], "W_h": torch.stack([one["W_h"] for one in used])}
        return with_parameters(_dag(genotype, self.input_size, self.hidden_size), values)


def _stacked(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Return the tensors side by side; a view if there is one."""
    return torch.stack(list(tensors), dim) if len(tensors) > 1 else tensors[0].unsqueeze(dim)


@functools.lru_cache(maxsize=4096)
def _node(input_size: int, hidden_size: int, ops: tuple[Op, ...], highway: bool, share_projection: bool) -> FixedNode:
    """Return a node without memory, to be given parameters: it takes a third of a small training step to build one."""
    return FixedNode(input_size, hidden_size, ops, highway=highway, share_projection=share_projection, device="meta")


@functools.lru_cache(maxsize=4096)
def _dag(genotype: DagGenotype, input_size: int, hidden_size: int) -> DagLayer:
    """Return a layer without memory, to be given parameters."""
    return DagLayer(genotype, input_size, hidden_size, device="meta")
