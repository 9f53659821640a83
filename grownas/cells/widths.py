"""Bit widths for a trained cell: grids fitted to what its products read, given widths, or a mixture to choose from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from grownas.bits import multiplications, units
from grownas.cells.cell import GrownRNN
from grownas.cells.chain import ChainLayer
from grownas.cells.quantiser import Grid, Mixture, Product, Times, Units, largest, times
from grownas.errors import ConfigError
from grownas.genotype_bits import Bits
from grownas.modules import as_module
from grownas.protocols import Model, Window

Per = Literal["op", "node"]
PERCENTILES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 0.995, 0.999, 1.0)
MOST_SEEN = 50_000  # values of a tensor to which a grid is fitted


class Seen(NamedTuple):
    """The matrices of some units, `(U, I, H)`, and a sample of the inputs that they were multiplied with, flat."""

    weights: Tensor
    inputs: Tensor


Sample = list[dict[str, Seen]]  # of each reader, a node, layer after layer: its products by name, `x` and `h`
Make = Callable[[Mapping[str, Tensor]], nn.Module]  # makes a reader's units, from their matrices by name


class _Observer(nn.Module):
    """Stands in for a product: multiplies real numbers and keeps the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def times(self, weights: Tensor) -> Times:
        multiply = times(list(weights))

        def observed(x: Tensor) -> Sequence[Tensor]:
            self.seen.append(x.flatten())
            return multiply(x)

        return observed


class _Observed(nn.Module):
    """Stands in for the units of a reader, with an observer for each product."""

    def __init__(self, matrices: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.matrices = {name: one.detach() for name, one in matrices.items()}
        self.x, self.h = _Observer(), _Observer()

    def sample(self) -> dict[str, Seen]:
        return {name: Seen(matrix, _thinned(getattr(self, name).seen)) for name, matrix in self.matrices.items()}


@torch.no_grad()
def observe(model: Model, windows: Iterable[Window]) -> Sample:
    """Return what each product of a model's cell reads on some windows of data.

    Args:
        model: a task's model; its core is a derived cell of real numbers.
        windows: consecutive windows.
    """
    observed = list[_Observed]()

    def make(matrices: Mapping[str, Tensor]) -> nn.Module:
        observed.append(_Observed(matrices))
        return observed[-1]

    core = _with_units(_cell_of(model), make)
    core.backend = "reference"  # calls each product at each step
    watched: Any = copy.deepcopy(model, {id(model.core): core}).eval()
    hidden = None
    for window in windows:
        _, hidden = watched.states(window.x, None if window.fresh else hidden)
    return [reader.sample() for reader in observed]


def _thinned(seen: Sequence[Tensor]) -> Tensor:
    """Return at most about `MOST_SEEN` of the values, evenly spaced."""
    values = torch.cat(list(seen))
    if len(values) <= MOST_SEEN:
        return values
    places = torch.linspace(0, len(values) - 1, MOST_SEEN, dtype=torch.float64, device=values.device).long()
    return values[places]  # a whole stride could share a factor with the width, and skip some units always


def best_range(values: Tensor, bits: int) -> float:
    """Return the percentile of |values| that, as the largest value of a grid, gives the least squared error."""
    flat, limit = values.flatten().double(), largest(bits)
    ranges = torch.quantile(flat.abs(), flat.new_tensor(PERCENTILES))
    ranges = ranges[ranges > 0]
    if not len(ranges):
        return 1.0  # all values are 0: on any grid
    step = (ranges / limit).unsqueeze(1)
    errors = (step * (flat / step).round().clamp(-limit, limit) - flat).square().mean(1)
    return float(ranges[errors.argmin()])


def _fitted(values: Sequence[Tensor], bits: Sequence[Sequence[int]], mixtures: Sequence[Mixture] = ()) -> Grid:
    """Return the grids that fit some tensors best, each at each of its widths."""
    grid = Grid(bits, mixtures)
    known: dict[tuple[int, int], float] = {}  # ops of a node read the same inputs

    def step(own: Tensor, width: int) -> float:
        if (key := (id(own), width)) not in known:
            known[key] = best_range(own, width) / largest(width)
        return known[key]

    steps = [[step(own, width) for width in each] for own, each in zip(values, bits, strict=True)]
    grid.log_step.data = torch.tensor(steps, dtype=torch.float64).log2().to(grid.log_step)
    return grid


def _products(seen: Mapping[str, Seen], bits: Sequence[Sequence[Sequence[int]]], mixtures: Any = ((), ())) -> Units:
    """Return a reader's units; `bits` and `mixtures` hold those of the weights and those of the inputs of each unit."""
    made = {
        name: Product(
            _fitted(list(one.weights), bits[0], mixtures[0]),
            _fitted([one.inputs] * len(one.weights), bits[1], mixtures[1]),
        )
        for name, one in seen.items()
    }
    return Units(made.get("x"), made["h"])


def _by_reader(each: Sequence[Any], sample: Sample) -> Iterator[Sequence[Any]]:
    """Yield the part of each reader of what is given for each unit of a layer; all layers are given the same."""
    at = 0
    for seen in sample:
        count = len(seen["h"].weights)
        yield each[at : at + count]
        at = (at + count) % len(each)


def quantised(cell: GrownRNN, bits: Sequence[Bits], sample: Sample) -> GrownRNN:
    """Return a cell with given widths and the same weights, its grids fitted to a sample (post-training quantisation).

    Args:
        cell: a derived cell of real numbers; left untouched.
        bits: widths of weights and inputs of each unit, see `bits.units`.
        sample: what the cell's products read, see `observe`.
    """
    made = [
        _products(seen, [[one[:1] for one in own], [one[1:] for one in own]])
        for seen, own in zip(sample, _by_reader(bits, sample), strict=True)
    ]
    return _rebuilt(cell, bits, made)


class MixedCell(nn.Module):
    """A derived cell in which each matrix and each input of a product is a mixture over widths, with learnt shares.

    Attributes:
        cell: the cell with mixed products.
        mixtures: shares of the widths, all the search chooses.
        names: what each mixture is of, such as `node 1 op 2`.
        done: finished fraction of the search, which its training sets.
    """

    def __init__(self, cell: GrownRNN, widths: Sequence[int], sample: Sample, *, per: Per = "op", tie: bool = True):
        """Build the mixture of a cell, with equal shares.

        Args:
            cell: a derived cell of real numbers; left untouched.
            widths: the widths to choose from, ascending.
            sample: what the cell's products read, see `observe`.
            per: whether each op has widths of its own, or each node.
            tie: use the same width for the weights of a product and for its inputs.
        """
        super().__init__()
        self.input_size, self.hidden_size, self.done = cell.input_size, cell.hidden_size, 0.0
        places = units(cell.genotype)
        keys = [node if per == "node" else f"{node} {unit}".strip() for node, unit in places]
        groups = dict.fromkeys(keys)
        kinds = ("",) if tie else (" weights", " inputs")
        made = {key: [Mixture(widths) for _ in kinds] for key in groups}
        self.names = [key + kind for key in groups for kind in kinds]
        self.mixtures = nn.ModuleList(mixture for each in made.values() for mixture in each).to(_weight(cell))
        self.pairs = [(made[key][0], made[key][-1]) for key in keys]  # of each unit: for weights and for inputs
        mixed = []
        for seen, pairs in zip(sample, _by_reader(self.pairs, sample), strict=True):
            mixtures = tuple(zip(*pairs, strict=True))
            mixed.append(_products(seen, [[one.widths for one in each] for each in mixtures], mixtures))
        waiting = iter(mixed)
        self.cell = _with_units(cell, lambda _: next(waiting))
        counts = multiplications(cell.genotype, cell.input_size, cell.hidden_size).values()
        self.shares_of_cost = [count / sum(counts) for count in counts]

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map inputs `(T, B, I)` and a state to outputs `(T, B, H)` and the last state, as `GrownRNN` does."""
        out, h_n = self.cell(x, h_0)
        return out, h_n

    def op_names(self, mixture: int) -> list[tuple[str, str]]:
        """Return the name of a mixture with each of its widths, for the log of shares."""
        return [(self.names[mixture], f"{bits} bits") for bits in self._all()[mixture].widths]

    def expected_cost(self) -> Tensor:
        """Return the expected bit operations of a step, as a fraction of those at the largest width; a scalar.

        The widths of weights and of inputs are drawn independently, or are the same draw where they are tied.
        """
        total: Tensor = self._all()[0].alpha.new_zeros(())
        for share, (weights, inputs) in zip(self.shares_of_cost, self.pairs, strict=True):
            widths = weights.shares.new_tensor(weights.widths)
            if weights is inputs:
                mean = (weights.shares * widths**2).sum()
            else:
                mean = (weights.shares * widths).sum() * (inputs.shares * widths).sum()
            total = total + share * mean / max(weights.widths) ** 2
        return total

    def entropy(self) -> Tensor:
        """Return the mean entropy of the shares over the mixtures in nats, a scalar."""
        each = [torch.special.entr(mixture.shares).sum() for mixture in self._all()]
        return torch.stack(each).mean()

    @property
    def bits(self) -> list[Bits]:
        """Widths of largest share, of weights and inputs of each unit."""
        return [(weights.widths[weights.chosen], inputs.widths[inputs.chosen]) for weights, inputs in self.pairs]

    def read_out(self) -> GrownRNN:
        """Return the cell at the widths of largest share, with weights and step sizes as they are."""
        made = [own.chosen() for layer in _layers(self.cell) for own in _units_of(layer)]
        return _rebuilt(self.cell, self.bits, made)

    def _all(self) -> list[Any]:
        return list(self.mixtures)


def _cell_of(model: Model) -> GrownRNN:
    core = as_module(model.core)
    if not isinstance(core, GrownRNN):
        raise ConfigError(f"a {type(core).__name__} has no bit widths; expected one derived cell")
    return core


def _layers(cell: GrownRNN) -> list[Any]:
    return [*cell.layers, *cell.reverse_layers]


def _matrices(layer: Any) -> list[dict[str, Tensor]]:
    """Return the matrices of each reader of a layer by name, `x` or `h`; `(U, I, H)`."""
    if isinstance(layer, ChainLayer):
        return [dict(zip(("x", "h"), map(torch.stack, node.matrices()), strict=True)) for node in layer.nodes()]
    first, *rest = layer.W_h.unsqueeze(1)
    return [{"x": layer.W_x.unsqueeze(0), "h": first}, *({"h": own} for own in rest)]


def _units_of(layer: Any) -> list[Any]:
    """Return the units of each reader of a layer."""
    return [node.quantised for node in layer.nodes()] if isinstance(layer, ChainLayer) else list(layer.quantised)


def _install(layer: Any, made: Iterable[nn.Module]) -> None:
    """Give each reader of a layer other units."""
    if isinstance(layer, ChainLayer):
        for node, own in zip(layer.nodes(), made, strict=True):
            node.quantised = own  # type: ignore[assignment]  # or what stands in for them
    else:
        layer.quantised = nn.ModuleList(made)


def _with_units(cell: GrownRNN, make: Make) -> GrownRNN:
    """Return a copy of a cell with other units."""
    made = copy.deepcopy(cell)
    made.backend = _backend(cell)
    for layer in _layers(made):
        _install(layer, [make(matrices) for matrices in _matrices(layer)])
    return made.to(_weight(cell))


def _backend(cell: GrownRNN) -> str:
    """Return the backend of a cell with widths; the reference stays, since it alone has second derivatives."""
    return cell.backend if cell.backend == "reference" else "auto"


def _rebuilt(cell: GrownRNN, bits: Sequence[Bits], made: Sequence[Units]) -> GrownRNN:
    """Return a cell with these widths and units, and the weights of another cell of the same ops."""
    fixed = GrownRNN(
        cell.genotype.with_bits(bits),
        cell.input_size,
        cell.hidden_size,
        cell.num_layers,
        cell.batch_first,
        cell.dropout,
        _backend(cell),
        bias=cell.bias,
        bidirectional=cell.bidirectional,
    )
    waiting = iter(made)
    for layer in _layers(fixed):
        _install(layer, [next(waiting) for _ in _matrices(layer)])
    fixed.to(_weight(cell)).load_state_dict(
        {name: one for name, one in cell.state_dict().items() if ".quantised." not in name}, strict=False
    )
    return fixed


def _weight(cell: GrownRNN) -> Tensor:
    return next(cell.parameters())
