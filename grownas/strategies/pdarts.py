"""P-DARTS: the supernet becomes deeper in stages, while ops of small share are dropped (Chen et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from grownas.backbones.chain import Backbone
from grownas.errors import ConfigError
from grownas.genotype import NONE
from grownas.protocols import Problem, SearchResult
from grownas.strategies.cores import mixtures_of
from grownas.strategies.supernet import SupernetSearch, SupernetStrategy
from grownas.strategies.supernet_options import PDartsOptions
from grownas.training.recipe import Recipe

Ops = list[tuple[str, str]]


class PDarts(SupernetStrategy):
    """The strategy `pdarts` (see `grownas.protocols.Strategy`).

    A search in stages. Each trains a supernet with more nodes than that of the stage before and fewer ops a node:

    - a node keeps its `kept_ops` ops of largest share; in a DAG, whose edges into a node share its weights, those of
      largest mean share over these edges. A new node gets the ops of largest mean share over all nodes. Of equal shares
      the first op stays; one op other than `none` always does.
    - alpha begins anew, from N(0, `alpha_sd`^2), and does not learn in the first part of a stage, `frozen`: shares say
      something only once the weights do.
    - in each step of the weights, an identity op is left out of its mixture with a probability that falls linearly to 0
      over the stage, and the other shares are divided by their sum (`training.perturb`). So the ops that must first
      learn their weights are not left behind by the one that helps at once. Alpha's step and every evaluation see all
      ops.

    The cell is read out of the last stage's supernet and fine-tuned as every other strategy does.

    We differ from the published search in these points:

    - Depth is nodes of the cell. Published, it is how often one cell is repeated: 5, 11, 17 times.
    - Weights are inherited: the nodes and ops that stay keep theirs, and so does what surrounds the cell; those of new
      nodes are drawn. Published, each stage draws all weights anew. Both optimisers begin anew in each stage, as
      published.
    - Dropout acts on an identity op's share as a whole and in the weights' step alone. Published, it acts on entries of
      the op's output, in alpha's step too, and returns to its full rate when alpha begins to learn, from where it falls
      exponentially.
    - Which op counts as the identity: `add/identity` of a chain (it has a matrix, as all ops have) and `identity` of a
      DAG; not `hadamard/identity`, which is a product.
    - Published, the found cell is changed so that it has two skip ops at most. Ours is not.
    - A stage has 60 epochs, of which 24 with frozen alpha; published are 25 and 10, of far more steps.

    Reference:
        Chen, Xie, Wu & Tian (2019), Progressive Differentiable Architecture Search: Bridging the Depth Gap between
        Search and Evaluation; code in chenxin061/pdarts.
    """

    name: ClassVar[str] = "pdarts"
    section = PDartsOptions
    backbones = ("chain", "dag")

    def __init__(self, options: PDartsOptions) -> None:
        """Take the options.

        Raises:
            ConfigError: they name different numbers of stages, or a stage has fewer nodes or more ops than one before.
        """
        super().__init__(options)
        nodes, kept = self.stage_nodes, options.kept_ops
        found = {"kept_ops": len(kept), "dropouts": len(options.dropouts), "stage_nodes": len(nodes)}
        if len(set(found.values())) > 1:
            words = ", ".join(f"{count} in strategy.{key}" for key, count in found.items())
            raise ConfigError(f"expected a number for each stage in all of them, got {words}")
        if list(nodes) != sorted(nodes) or nodes[-1] > options.max_nodes:
            raise ConfigError(
                f"strategy.stage_nodes: got {list(nodes)}, expected numbers that do not fall and are at most "
                f"strategy.max_nodes = {options.max_nodes}"
            )
        if list(kept) != sorted(kept, reverse=True):
            raise ConfigError(f"strategy.kept_ops: got {list(kept)}, expected numbers that do not rise")

    @property
    def stage_nodes(self) -> Sequence[int]:
        """How many nodes the supernet of each stage has."""
        stages, most = len(self.options.kept_ops), self.options.max_nodes
        return self.options.stage_nodes or [-(-most * stage // stages) for stage in range(1, stages + 1)]

    def method(self) -> Mapping[str, Any]:
        """Return how long alpha is frozen."""
        return {"alpha_after": round(self.options.frozen * self.options.max_epochs)}

    def stage_recipe(self, stage: int) -> Recipe:
        """Return how the supernet of a stage, counted from 0, is trained."""
        rate = self.options.dropouts[stage]
        return replace(self.recipe(), perturb="identity" if rate else "none", perturb_size=(rate, 0.0))

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Train a supernet in each stage, read the cell out of the last, fine-tune it; yield after each unit."""
        search, options, ops = SupernetSearch(self.name, problem, self.options), self.options, problem.space.ops
        for stage, (nodes, kept) in enumerate(zip(self.stage_nodes, options.kept_ops, strict=True)):
            key = f"{self.name}-stage-{stage + 1}"
            if search.fit is None:
                model = search.supernet([ops] * nodes, key)
            else:
                before = search.fit.model
                count = -(-len(ops) * kept // options.kept_ops[0])  # in proportion, rounded up
                model = search.supernet(next_ops(before.core, ops, nodes, count), key)
                inherit(model, before)
            yield from search.train(model, self.stage_recipe(stage), key=key)
            if search.limit():
                break
        yield from search.finish(self.recipe())


def next_ops(core: Any, ops: Ops, nodes: int, count: int) -> list[Ops]:
    """Return the ops of each node of the next stage, in the order of the space.

    Args:
        core: the supernet of the stage before.
        ops: of the space.
        nodes: how many there will be.
        count: how many ops each keeps.
    """
    before, everywhere = len(core.nodes), range(len(core.alpha))
    return [
        largest(core, mixtures_of(core, node) if node < before else everywhere, ops, count) for node in range(nodes)
    ]


def largest(core: Any, mixtures: Sequence[int], ops: Ops, count: int) -> Ops:
    """Return the `count` ops of largest total share over some mixtures, one other than "none" among them."""
    total = dict.fromkeys(ops, 0.0)
    for mixture in mixtures:
        shares = torch.softmax(core.alpha[mixture].detach().double(), 0).tolist()
        for op, share in zip(core.op_names(mixture), shares, strict=True):
            total[op] += share
    held = {op for mixture in mixtures for op in core.op_names(mixture)}
    ranked = sorted(held, key=lambda op: (-total[op], ops.index(op)))
    first = next(op for op in ranked if op[1] != NONE)
    kept = [first, *(op for op in ranked if op != first)][:count]
    return [op for op in ops if op in kept]


@torch.no_grad()
def inherit(model: Any, before: Any) -> None:
    """Write into a model the weights of the model of the stage before, for the nodes and ops that both have.

    Alpha, and the weights of other nodes, stay as they are.
    """
    own = model.state_dict()
    for name, value in before.state_dict().items():
        if name in own and own[name].shape == value.shape and not name.endswith(".alpha"):
            own[name].copy_(value)
    if not isinstance(model.core, Backbone):
        return  # the ops of a dag's node share its weights
    for node in range(len(before.core.nodes)):
        earlier = before.core.op_names(node)
        for op, name in enumerate(model.core.op_names(node)):
            model.core.load_op_parameters(node, op, before.core.op_parameters(node, earlier.index(name)))
