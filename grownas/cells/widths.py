"""Bit widths for a trained cell: grids fitted to what its products read, given widths, or a mixture to choose from."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from grownas.bits import multiplications, units
from grownas.cells.derived import Derived
from grownas.cells.observers import Observer, owners_in
from grownas.cells.quantised_blocks import Fit
from grownas.cells.quantiser import Grid, Mixture, largest
from grownas.errors import ConfigError
from grownas.genotype_bits import Bits
from grownas.modules import as_module
from grownas.protocols import Model, Window

Per = Literal["op", "node"]
PERCENTILES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 0.995, 0.999, 1.0)
Sample = list[Observer]  # what each reader read: nodes, FIRs or polynomials, layer after layer or cell after cell


@torch.no_grad()
def observe(model: Model, windows: Iterable[Window]) -> Sample:
    """Return what each product of a model's cell reads on some windows of data.

    Args:
        model: a task's model; its core is a derived cell of real numbers.
        windows: consecutive windows.
    """
    cell = derived_core(model)
    observed = [one for own, owner in owners_in(cell) for one in owner.observers(own)]
    core = _with_units(cell, (), observed)
    core.backend = "reference"  # of a chain or DAG: calls each product at each step
    watched: Any = copy.deepcopy(model, {id(model.core): core}).eval()
    hidden = None
    for window in windows:
        _, hidden = watched.states(window.x, None if window.fresh else hidden)
    return observed


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


def _fit(bits: Sequence[Sequence[Sequence[int]]], mixtures: Any = ((), ())) -> Fit:
    """Return what fits grids of a reader; `bits` and `mixtures` hold those of weights and of inputs, for each unit."""
    return lambda which, values: _fitted(values, bits[which], mixtures[which])


def _by_reader(each: Sequence[Any], sample: Sample) -> Iterator[Sequence[Any]]:
    """Yield the part of each reader of what is given for each unit of a layer; all layers are given the same."""
    at = 0
    for seen in sample:
        yield each[at : at + seen.count]
        at = (at + seen.count) % len(each)


def quantised(cell: Derived, bits: Sequence[Bits], sample: Sample) -> Derived:
    """Return a cell with given widths and the same weights, its grids fitted to a sample (post-training quantisation).

    Args:
        cell: a derived cell of real numbers; left untouched.
        bits: widths of weights and inputs of each unit, see `bits.units`.
        sample: what the cell's products read, see `observe`.
    """
    made = [
        seen.fitted(_fit([[one[:1] for one in own], [one[1:] for one in own]]))
        for seen, own in zip(sample, _by_reader(bits, sample), strict=True)
    ]
    return _with_units(cell, bits, made)


class MixedCell(nn.Module):
    """A derived cell in which each matrix and each input of a product is a mixture over widths, with learnt shares.

    Attributes:
        cell: the cell with mixed products.
        mixtures: shares of the widths, all the search chooses.
        names: what each mixture is of, such as `node 1 op 2`.
        done: finished fraction of the search, which its training sets.
    """

    def __init__(self, cell: Derived, widths: Sequence[int], sample: Sample, *, per: Per = "op", tie: bool = True):
        """Build the mixture of a cell, with equal shares.

        Args:
            cell: a derived cell of real numbers; left untouched.
            widths: the widths to choose from, ascending.
            sample: what the cell's products read, see `observe`.
            per: whether each unit has widths of its own, see `bits`, or each node.
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
            mixed.append(seen.fitted(_fit([[one.widths for one in each] for each in mixtures], mixtures)))
        self.cell = _with_units(cell, (), mixed)
        counts = multiplications(cell.genotype, cell.input_size, cell.hidden_size).values()
        total = sum(map(sum, counts))
        self.shares_of_cost = [(count.weighted / total, count.powers / total) for count in counts]

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map inputs `(T, B, I)` and a state to outputs `(T, B, H)` and the last state, as the cell does."""
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
        for (weighted, powers), (weights, inputs) in zip(self.shares_of_cost, self.pairs, strict=True):
            widths = weights.shares.new_tensor(weights.widths)
            squared = (inputs.shares * widths**2).sum()
            mean = squared
            if weights is not inputs:
                mean = (weights.shares * widths).sum() * (inputs.shares * widths).sum()
            total = total + (weighted * mean + powers * squared) / max(weights.widths) ** 2
        return total

    def entropy(self) -> Tensor:
        """Return the mean entropy of the shares over the mixtures in nats, a scalar."""
        each = [torch.special.entr(mixture.shares).sum() for mixture in self._all()]
        return torch.stack(each).mean()

    @property
    def bits(self) -> list[Bits]:
        """Widths of largest share, of weights and inputs of each unit."""
        return [(weights.widths[weights.chosen], inputs.widths[inputs.chosen]) for weights, inputs in self.pairs]

    def read_out(self) -> Derived:
        """Return the cell at the widths of largest share, with weights and step sizes as they are."""
        made: list[Any] = [one for own, owner in owners_in(self.cell) for one in owner.units(own)]
        return _with_units(self.cell, self.bits, [one.chosen() for one in made])

    def _all(self) -> list[Any]:
        return list(self.mixtures)


def derived_core(model: Model) -> Derived:
    """Return a model's derived cell.

    Raises:
        ConfigError: its core is another one.
    """
    core = as_module(model.core)
    if not isinstance(core, Derived):
        raise ConfigError(f"a {type(core).__name__} has no bit widths; expected one derived cell")
    return core


def _with_units(cell: Derived, bits: Sequence[Bits], made: Iterable[nn.Module]) -> Derived:
    """Return a copy of a cell with these widths in its genotype, and with other units, those of each reader."""
    genotype: Any = cell.genotype.with_bits(bits)  # of the cell's own backbone
    copied = cell.with_genotype(genotype).to(_weight(cell))
    weights = {name: one for name, one in cell.state_dict().items() if ".quantised." not in name}
    copied.load_state_dict(weights, strict=False)
    waiting = iter(made)
    for own, owner in owners_in(copied):
        owner.install(own, waiting)
    return copied.to(_weight(cell))


def _weight(cell: nn.Module) -> Tensor:
    return next(cell.parameters())
