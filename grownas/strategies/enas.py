"""ENAS: weights that all genotypes share and a policy that samples genotypes learn in turn (Pham et al. 2018)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

from grownas.genotype import AnyGenotype
from grownas.protocols import Evaluation, Problem, SearchResult, Task, Window
from grownas.strategies.policy import Learner
from grownas.strategies.policy_options import EnasOptions
from grownas.strategies.shared import SharedSearch, SharedStrategy, generator_for, mean_loss
from grownas.training.loop import Fit


class Enas(SharedStrategy):
    """The strategy `enas` (see `grownas.protocols.Strategy`).

    In turn, for each unit of `unit_epochs`:

    (a) the shared weights learn, one genotype per batch, which the policy samples (`backbones.shared`);
    (b) the policy learns by REINFORCE, `policy_updates` times from `policy_samples` genotypes: with the shared weights,
        the lower a genotype's loss on held-out training data, the higher its reward (`policy.Learner`).

    After the last unit, samples of the policy are scored with the shared weights as in `random_shared`; the best cell
    is fine-tuned and accepted, or the start is kept.

    Genotypes have `max_nodes` nodes with one op each, as published. In a DAG each op of each edge has weights of its
    own. Temperature, tanh constant, entropy weight, decay of the baseline and the policy's size are those of the
    published code for the Penn Treebank.

    We differ from the published search in these points:

    - Published are 150 epochs and more, each followed by 25 updates of 10 genotypes with a rate of 5e-5; a search of
      ours has 20 units by default. The rate is 1e-3, so that the policy can move as far.
    - The reward is the lowest loss so far divided by the loss; published, 80 divided by the perplexity.
    - The policy learns from a part of the training data that the weights do not see (`architecture_share`), so that the
      validation part can choose; published, from the validation data. All genotypes of an update see the same window.
    - The baseline begins at the first reward, and is that of earlier updates (`policy.Learner`).
    - The entropy is rewarded by -log p, whose mean is the entropy; published, by the sum of -p log p of the decisions.
    - No state of a DAG is less likely because it is far away (`policy.Policy`).
    - In a chain the policy chooses an op per node, a combine and an activation; a chain has no states to choose from.
    - The best cell is fine-tuned, then retrained from new weights as those of all other strategies; published, it is
      retrained only. A DAG's states are not normalised, whatever `space.norm` is.

    Reference:
        Pham, Guan, Zoph, Le & Dean (2018), Efficient Neural Architecture Search via Parameter Sharing; code in
        google-research/enas_lm.
    """

    name: ClassVar[str] = "enas"
    section: ClassVar[type] = EnasOptions

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Train weights and policy in turn, rank samples, fine-tune the best; yield the result after each unit.

        Raises:
            DataError: a part of the data is too short.
        """
        problem.task.windows("architecture", seed=0)  # checked before the weights are trained
        options, recipe = self.options, self.recipe()
        learner = Learner(problem.space, options.policy, generator_for(problem.seed, f"{self.name} policy"))
        policy = learner.policy

        def teach(fit: Fit) -> AnyGenotype:
            key = f"{self.name}-policy-{fit.epochs}"
            learner.restore(problem.journal.remember(key, lambda: teach_policy(learner, fit, problem, options)))
            return policy.genotype(policy.likeliest()[0])

        search = SharedSearch(
            self.name, problem, options, lambda generator: policy.genotype(policy.sample(1, generator)[0])
        )
        yield from search.train(recipe, task=OnWeights(problem.task), learn=teach)
        yield from search.finish(recipe)


def teach_policy(learner: Learner, fit: Fit, problem: Problem, options: EnasOptions) -> dict[str, Any]:
    """Update the policy with the weights of a training; return its state."""
    windows = held_out(problem.task, seed=problem.seed + fit.epochs)
    for window in itertools.islice(windows, options.policy_updates):
        picks = learner.sample(options.policy_samples)
        genotypes = [learner.policy.genotype(row) for row in picks]
        losses = {one: mean_loss(fit.model, problem.task, [window], one) for one in dict.fromkeys(genotypes)}
        learner.learn(picks, [losses[one] for one in genotypes])
    return learner.state()


def held_out(task: Task, *, seed: int) -> Iterator[Window]:
    """Yield the windows of the part `architecture` that are learned from, epoch after epoch without end."""
    for epoch in itertools.count():
        yield from (one for one in task.windows("architecture", seed=seed + epoch) if not one.burn_in)


class OnWeights:
    """A task for `training.loop` whose models learn from the part `weights` of the training part alone."""

    def __init__(self, task: Task) -> None:
        """Take a task."""
        self.task, self.metric, self.unit = task, task.metric, task.unit

    def windows(self, part: str, *, seed: int) -> Iterator[Window]:
        """Yield an epoch of a part, `weights` in place of `train`."""
        return self.task.windows("weights" if part == "train" else part, seed=seed)

    def loss(self, model: Any, out: Any, window: Window) -> Any:
        """Return a window's mean loss, as the task does."""
        return self.task.loss(model, out, window)

    def evaluate(self, model: Any, part: str) -> Evaluation:
        """Score a model on a part, as the task does."""
        return self.task.evaluate(model, part)
