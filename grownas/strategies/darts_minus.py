"""DARTS-: DARTS with an auxiliary skip added to each mixture, faded out during the search (Chu et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from grownas.protocols import Problem, SearchResult
from grownas.strategies.supernet import SupernetStrategy
from grownas.strategies.supernet_options import DartsMinusOptions


class DartsMinus(SupernetStrategy):
    """The strategy `darts_minus` (see `grownas.protocols.Strategy`).

    Beta times its input is added to each mixture (of a chain's node, a DAG's edge); beta falls linearly from `skip` to
    0 over `max_epochs`. The identity op then need not carry the gradient, and its share measures its value as an op.
    Evaluations use no skip, since the derived cell has none. With `skip: 0` the strategy equals DARTS.

    Published for convolutional cells, with a first beta of 1. With it a recurrent cell of several nodes adds its whole
    input at every node and step, so that its states grow without bound; our default is 0.5, in a
    DAG divided by the number of nodes.

    Reference:
        Chu, Wang, Zhang, Lu, Wei & Yan (2021), DARTS-: Robustly Stepping out of Performance Collapse Without
        Indicators.
    """

    name: ClassVar[str] = "darts_minus"
    section = DartsMinusOptions

    def method(self) -> Mapping[str, Any]:
        """Return the first value of beta."""
        return {"skip": self.options.skip}

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Search as DARTS does; where a node has several edges, beta is divided by `max_nodes`: their skips add up."""
        options = self.options
        if problem.space.backbone != "chain":
            options = options.model_copy(update={"skip": options.skip / options.max_nodes})
        yield from SupernetStrategy.search(DartsMinus(options), problem)
