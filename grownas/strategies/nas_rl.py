"""NAS-RL: a policy samples genotypes, each is trained on its own, its loss is the reward (Zoph & Le 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch

from grownas.protocols import Problem, SearchResult
from grownas.strategies.policy import Learner
from grownas.strategies.policy_options import NasRlOptions
from grownas.strategies.sampling import Sampling, SamplingStrategy


class NasRl(SamplingStrategy):
    """The strategy `nas_rl` (see `grownas.protocols.Strategy`).

    The policy samples a genotype of `max_nodes` nodes with one op each; it is trained from new weights as in random
    search; then the policy is updated by REINFORCE with a moving-average baseline (`policy.Learner`). A genotype whose
    training diverged has the reward 0. Each trial is logged with the `log_prob` of its genotype when it was sampled.
    With `batch`, an update averages over so many children of one policy, which may be trained at once.

    The policy's state is not saved: a resumed search repeats its updates from the saved trainings, to the last bit.

    We differ from the published search in these points:

    - The policy is that of ENAS (`policy.Policy`). Published for recurrent cells is an LSTM of two layers with 35
      units, which emits a combination and an activation for each node of a tree, and how the memory cell is attached.
    - Published are 15,000 children on 400 processors, of 100 policies that send their gradients to servers when
      8 children are trained, and Adam with a rate of 5e-4. Ours is one policy that waits for its `batch`, by default 1
      child. It trains few: the rate is 1e-2, and the baseline forgets faster.
    - The reward is the lowest loss so far divided by the loss; published, a constant divided by the squared perplexity.
    - The policy's entropy, weighted by `policy.entropy`, is added to the reward.

    Reference:
        Zoph & Le (2017), Neural Architecture Search with Reinforcement Learning, sections 3.2 and 4.2.
    """

    name: ClassVar[str] = "nas_rl"
    section = NasRlOptions
    backbones = ("chain", "dag")

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Sample and train one genotype after the other; yield the best result so far after each.

        Raises:
            TrainingError: the training of five genotypes in a row diverged.
        """
        sampling = Sampling(self.name, problem, self.options)
        learner = Learner(problem.space, self.options.policy, torch.Generator().manual_seed(problem.seed))
        while not sampling.limit:
            picks = learner.sample(self.options.batch)
            log_probs = learner.policy.log_prob(picks)[0].tolist()
            children = [
                sampling.begin(learner.policy.genotype(pick), notes={"log_prob": log_prob})
                for pick, log_prob in zip(picks, log_probs, strict=True)
            ]
            losses = list[float]()
            for trial in sampling.train_all(children):
                losses.append(trial.loss)
                yield sampling.result()
            learner.learn(picks[: len(losses)], losses)
        yield from sampling.finish()
