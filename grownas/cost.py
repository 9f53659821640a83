"""What one time step of a model costs: multiplications, additions and activations, as a table with a row per unit.

A unit is an op or the gate of a chain's node, a node of a DAG, or what joins them. Counted is the arithmetic of the
formulas in `cells.reference`, for one stream; biases that are added together count as one. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from grownas.blocks import INPUTS, Block
from grownas.combine import COMBINE
from grownas.genotype import AnyGenotype, BlocksGenotype, DagGenotype, Genotype, Node, projections

FREE = "identity"  # the activation that computes nothing


class Cost(NamedTuple):
    """Numbers of real operations.

    Attributes:
        products: multiplications by weights, in matrix products.
        pointwise: multiplications of single numbers: shares, gates, Hadamard products.
        additions: additions and subtractions.
        activations: evaluations of activations other than the identity.
    """

    products: int = 0
    pointwise: int = 0
    additions: int = 0
    activations: int = 0

    @property
    def multiplications(self) -> int:
        """All multiplications."""
        return self.products + self.pointwise


Costs = dict[tuple[str, str], Cost]  # name of the node and of the unit in it


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs."""
    return Cost(*(sum(column) for column in zip(*costs, strict=True)))


def linear(inputs: int, outputs: int) -> Cost:
    """Return the cost of a matrix product with a bias."""
    return Cost(products=inputs * outputs, additions=inputs * outputs)


def lstm(input_size: int, hidden_size: int) -> Cost:
    """Return the cost of a step of an LSTM: c' = f c + i g and h' = o tanh(c')."""
    gates, H = linear(input_size + hidden_size, 4 * hidden_size), hidden_size
    return total([gates, Cost(pointwise=3 * H, additions=H, activations=5 * H)])


def gru(input_size: int, hidden_size: int) -> Cost:
    """Return the cost of a step of a GRU: n = tanh(x W + b + r (h U + c)) and h' = n + z (h - n)."""
    gates, H = linear(input_size + hidden_size, 3 * hidden_size), hidden_size
    return total([gates, Cost(pointwise=2 * H, additions=3 * H, activations=3 * H)])


RECURRENT: dict[str, Callable[[int, int], Cost]] = {"lstm": lstm, "gru": gru}  # name of a baseline -> cost of a step


def costs_of(genotype: AnyGenotype, input_size: int, hidden_size: int) -> Costs:
    """Return the cost of each unit in a step of a derived cell.

    Args:
        genotype: the cell.
        input_size: I.
        hidden_size: H.
    """
    return COSTS[type(genotype)](genotype, input_size, hidden_size)


def _chain(genotype: Genotype, *sizes: int) -> Costs:
    """Return the costs of a chain's nodes."""
    return {
        (f"node {number}", unit): cost
        for number, node in enumerate(genotype.nodes, start=1)
        for unit, cost in _node(node, genotype.highway, genotype.share_projection, *sizes).items()
    }


def _node(node: Node, highway: bool, share_projection: bool, input_size: int, hidden_size: int) -> dict[str, Cost]:
    """Return the costs of a chain's node: its ops, their mixture and its gate."""
    H, width = hidden_size, (input_size + hidden_size) * hidden_size
    seen, found = set[int](), dict[str, Cost]()
    for number, (op, projection) in enumerate(zip(node.ops, projections(node.ops, share_projection), strict=True)):
        joined = Cost(pointwise=H) if COMBINE[op.combine].mixed else Cost(additions=H)
        # each matrix product adds H numbers fewer than it multiplies; a bias makes up for it
        biases = 2 if "b_h" in COMBINE[op.combine].parameters else 1
        product = Cost() if projection in seen else Cost(products=width, additions=width - 2 * H)
        applied = Cost(additions=biases * H, activations=H * (op.activation != FREE))
        seen.add(projection)
        found[f"op {number + 1}"] = total([product, applied, joined])
    if len(node.ops) > 1:
        found["mixture"] = Cost(pointwise=len(node.ops) * H, additions=(len(node.ops) - 1) * H)
    if highway:
        found["gate"] = total([Cost(products=width, additions=width - H), _leaky(H)])
    return found


def _dag(genotype: DagGenotype, input_size: int, hidden_size: int) -> Costs:
    """Return the costs of a DAG's nodes, the input node first, and of the mean of its states."""
    H, found = hidden_size, Costs()
    activations = ["tanh", *(node.activation for node in genotype.nodes)]
    for number, activation in enumerate(activations):
        inputs = H if number else input_size + H
        product = Cost(products=2 * inputs * H, additions=2 * (inputs - 1) * H)
        found[f"node {number}", ""] = total([product, _leaky(H), Cost(activations=H * (activation != FREE))])
    if len(genotype.concat) > 1:
        found["mean", ""] = Cost(pointwise=H, additions=(len(genotype.concat) - 1) * H)
    return found


def _blocks(genotype: BlocksGenotype, *sizes: int) -> Costs:
    """Return the costs of the ops of a network of blocks, of each node's sum and of each cell's mean."""
    found = Costs()
    for cell in range(1, genotype.cells + 1):
        for i, reads in enumerate(genotype.reads, start=INPUTS):
            place = f"cell {cell} state {i}"
            found |= {(place, f"{op.name} of state {source}"): _block(op) for source, op in reads}
            found[place, "sum"] = Cost(additions=2)
        if (count := len(genotype.nodes)) > 1:
            found[f"cell {cell}", "mean"] = Cost(pointwise=2, additions=2 * (count - 1))
    return found


def _block(op: Block) -> Cost:
    """Return the cost of an op on complex samples; a square root counts as an activation."""
    filtered = 4 * sum(part.size for part in op.parts if part.kind == "fir")
    roots = sum(part.kind == "polynomial_all" and part.size > 1 for part in op.parts)
    return Cost(filtered, op.multiplications - filtered, op.additions, roots)


COSTS: dict[type[AnyGenotype], Callable[..., Costs]] = {
    Genotype: _chain,
    DagGenotype: _dag,
    BlocksGenotype: _blocks,
}


def _leaky(hidden_size: int) -> Cost:
    """Return the cost of s + sigmoid(gate) * (y - s)."""
    return Cost(pointwise=hidden_size, additions=2 * hidden_size, activations=hidden_size)
