"""R-DARTS: DARTS with more weight decay that stops when the loss becomes sharp in alpha (Zela et al. 2020)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from grownas.criteria.alpha_hessian import has_risen
from grownas.protocols import Problem, SearchResult
from grownas.strategies.following import eigenvalue
from grownas.strategies.supernet import SupernetSearch, SupernetStrategy
from grownas.strategies.supernet_options import BACK, RDartsOptions
from grownas.training.loop import Fit


class RDarts(SupernetStrategy):
    """The strategy `rdarts` (see `grownas.protocols.Strategy`).

    After each epoch the dominant eigenvalue of the Hessian of alpha's loss by alpha is computed. When its mean over 5
    epochs has risen by the factor `ratio` within 4 epochs, the search stops and goes back to the supernet of 4 epochs
    earlier (DARTS-ES). The weights have more weight decay (R-DARTS with L2). R-DARTS was published for convolutional
    cells.

    Reference:
        Zela, Elsken, Saikia, Marrakchi, Brox & Hutter (2020), Understanding and Robustifying Differentiable
        Architecture Search.
    """

    name: ClassVar[str] = "rdarts"
    section = RDartsOptions

    def method(self) -> Mapping[str, Any]:
        """Return nothing: the recipe is that of first-order DARTS."""
        return {}

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Train epoch by epoch until the eigenvalue rises, go back, then derive the cell and fine-tune it."""
        search, options = SupernetSearch(self.name, problem, self.options), self.options
        values, recent = list[float](), deque[Fit](maxlen=BACK + 1)

        def stop(fit: Fit) -> str | None:
            recent.append(fit)
            found = eigenvalue(problem, f"{self.name}-eigenvalue-{fit.epochs}", fit, options.hessian_windows)
            search.spent.scores[-1]["gradients"] += found.gradients
            values.append(found.value)
            if not has_risen(values, back=BACK, ratio=options.ratio, first=options.first_epoch):
                return None
            search.fit = recent[0]
            epoch = recent[0].epochs
            return f"the eigenvalue rose {options.ratio:g}-fold in {BACK} epochs; went back to epoch {epoch}"

        yield from search.train(search.supernet(), self.recipe(), stop=stop)
        yield from search.finish(self.recipe())
