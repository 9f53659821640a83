"""CDARTS: the supernet and the cell that is read out of it teach each other in turn (Yu et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from grownas.protocols import Problem, SearchResult
from grownas.strategies.cores import supernet_of, with_core
from grownas.strategies.supernet import SupernetSearch, SupernetStrategy, closing
from grownas.strategies.supernet_options import CDartsOptions
from grownas.training.distil import Distilled
from grownas.training.loop import Fit


class CDarts(SupernetStrategy):
    """The strategy `cdarts` (see `grownas.protocols.Strategy`).

    It trains two networks, in rounds:

    (a) the supernet, for `unit_epochs`: its weights on the task's loss, alpha on the task's loss on data of its own and
        `distillation` times the distance of the supernet's predictions from those of the evaluation network;
    (b) the evaluation network, for `evaluation_epochs`: the cell is read out of the supernet with the weights that it
        inherits, and trains on the task's loss and `distillation` times the distance from the supernet's predictions.

    So alpha learns to make the supernet predict what the cell that is read out of it predicts. In the first round there
    is no evaluation network yet: alpha learns as in DARTS. The supernet's training is one training, whose optimisers,
    schedule and order of data go on from round to round; its best epoch so far is read out and teaches. After the last
    round the cell is read out and fine-tuned as in every other strategy; the evaluation networks only teach. The
    distance is the squared error between predictions; for texts it is KL(teacher || student) of words at a temperature
    (`training.distil`).

    We differ from the published search in these points:

    - Published, (b) and alpha's step are one step on the same data, and the distance moves both at once. Ours alternate
      by epochs, and who teaches stands still.
    - Published, the networks compare logits of an ensemble of feature maps, taken at several depths of an image network
      through heads of their own. A recurrent cell has no such depths: ours compare the predictions.
    - Published, both optimisers begin anew in each round, the supernet's weights first train alone (5 epochs), and so
      does the evaluation network (5 epochs). Ours go on, and alpha learns from the first step.
    - The published code can add an L1 penalty, which fades, on alpha of skip and pooling ops. Ours cannot.
    - The divergence is summed over words; PyTorch's default, which the published code takes, divides it by their
      number.
    - As in our `darts`, training ends by early stopping on the validation part unless `patience` is null; published are
      5 rounds of 5 epochs.

    The rate of alpha, the weight and the temperature are those of the published code. The teacher's forward passes are
    not counted as gradients.

    Reference:
        Yu, Peng, Huang, Fu, Du, Wang & Ling (2022), Cyclic Differentiable Architecture Search, IEEE TPAMI; code in
        microsoft/Cream.
    """

    name: ClassVar[str] = "cdarts"
    section = CDartsOptions

    def method(self) -> Mapping[str, Any]:
        """Return nothing: the recipe is that of first-order DARTS, its task has a further loss."""
        return {}

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Train the two networks round by round, read the cell out, fine-tune it; yield what is found after each."""
        search, options, recipe = SupernetSearch(self.name, problem, self.options), self.options, self.recipe()
        settings = {"weight": options.distillation, "temperature": options.temperature}
        task = Distilled(problem.task, "architecture", **settings)
        evaluation_recipe = replace(closing(recipe, options.evaluation_epochs), bf16=problem.bf16)

        def next_teacher(fit: Fit) -> None:
            if fit.is_over(recipe):
                return
            begin = with_core(fit.model, supernet_of(fit.model).derive(options.top_k))
            own: Any = Distilled(problem.task, "train", teacher=fit.model, **settings)  # what training needs of a task
            key = f"{self.name}-evaluation-{fit.epochs}"
            trained = problem.journal.fit(key, begin, own, evaluation_recipe, seed=problem.seed)
            search.count(trained)
            search.spent.scores[-1]["evaluation_val"] = trained.evaluation.metric
            task.learn_from(trained.model)

        yield from search.train(search.supernet(), recipe, task=task, stop=next_teacher)
        yield from search.finish(recipe)
