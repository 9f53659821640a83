"""Random search with weight sharing: one genotype per batch trains the weights that rank samples (Li & Talwalkar)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Generator

from grownas.genotype import AnyGenotype
from grownas.protocols import Problem, SearchResult
from grownas.space import SearchSpace
from grownas.strategies.shared import SharedSearch, SharedStrategy
from grownas.strategies.shared_options import RandomSharedOptions


class RandomShared(SharedStrategy):
    """The strategy `random_shared` (see `grownas.protocols.Strategy`).

    Each step of the weights draws a genotype from the space and trains its ops alone (`backbones.shared`). Other ops
    cost nothing, have no gradient, and keep their weights, moments and weight decay, as in the published code: an Adam
    step with a zero gradient would move them. After training, `samples` genotypes are scored on the
    validation part with the shared weights, in each of `rounds`; with `rank_windows`, only the best `rescored` are,
    after a ranking on a few windows. The best cell is fine-tuned from the shared weights and accepted, or the start is
    kept.

    We differ from the published search in these points:

    - A genotype is drawn from our spaces: of a chain also the number of nodes and of ops, which have equal shares.
    - In a DAG each op of each edge has its own weights, as in ENAS. Published are those of DARTS, where all ops and
      edges of a node share one matrix; but a batch would then train nearly all weights.
    - Published are 1000 samples a round, each ranked on a random batch, of which the best 10 are scored on the whole
      part. Ours are 200, all scored, since a validation part of series is short; with `rank_windows` all samples of a
      round see the same windows.
    - The best cell is fine-tuned, then retrained from new weights as those of all other strategies; published, it is
      retrained only.
    - A DAG's states are not normalised, whatever `space.norm` is.

    Reference:
        Li & Talwalkar (2019), Random Search and Reproducibility for Neural Architecture Search, section 3.2.
    """

    name: ClassVar[str] = "random_shared"
    section: ClassVar[type] = RandomSharedOptions

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Train the shared weights, rank samples, fine-tune the best; yield the result so far after each unit."""
        search = SharedSearch(self.name, problem, self.options, lambda generator: sample(problem.space, generator))
        yield from search.train(self.recipe())
        yield from search.finish(self.recipe())


def sample(space: SearchSpace, generator: Generator | None) -> AnyGenotype:
    """Draw a genotype; the generator, PyTorch's global one if None, seeds the space's."""
    return space.sample(random.Random(int(torch.randint(2**62, (), generator=generator))))
