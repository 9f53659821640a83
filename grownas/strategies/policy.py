"""A policy that samples genotypes: an LSTM that takes one decision after the other, trained by REINFORCE.

    in a chain: the op of each node                       K choices each
    in a DAG: the state that each node reads, then its op     1, 2, .. N choices; K choices

Every genotype has `max_nodes` nodes with one op each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from grownas.genotype import NONE, AnyGenotype, DagGenotype, DagNode, Genotype, Node, Op
from grownas.space import SearchSpace
from grownas.strategies.policy_options import PolicySection

Choose = Callable[[int, Tensor], Tensor]  # from a decision's number and its log-probabilities (B, n), choices (B,)


class Policy(nn.Module):
    """The policy of ENAS, over the genotypes of a space with `max_nodes` nodes and one op per node.

    An LSTM reads the previous decision and emits the logits of the next one. Those of an op are the products of the
    LSTM's output with each op's embedding; those of a state compare, by attention, the outputs at which the earlier
    nodes chose their states. Logits are `tanh_constant * tanh(logits / temperature)`.

    The published code also subtracts the squared distance to an earlier state, divided by 6, from its logit. Here all
    states begin equally likely.

    Attributes:
        decisions: number of decisions, S.
        ops: the ops to choose from, K.

    Reference:
        Pham, Guan, Zoph, Le & Dean (2018), Efficient Neural Architecture Search via Parameter Sharing; google-research,
        enas_lm.
    """

    def __init__(self, space: SearchSpace, options: PolicySection, *, generator: Generator | None = None) -> None:
        """Draw the weights from U(-init, init)."""
        super().__init__()
        self.space, self.temperature, self.tanh_constant = space, options.temperature, options.tanh_constant
        self.ops = [op for op in space.ops if op[1] != NONE]
        self.chooses_states = space.backbone == "dag"
        self.decisions = space.max_nodes * (2 if self.chooses_states else 1)
        units = options.units
        self.lstm = nn.LSTMCell(units, units, bias=False)
        self.first = nn.Parameter(torch.empty(1, units))  # what the LSTM reads before the first decision
        self.embedding = nn.Parameter(torch.empty(len(self.ops), units))
        if self.chooses_states:
            self.key, self.query = (nn.Parameter(torch.empty(units, units)) for _ in range(2))
            self.attention = nn.Parameter(torch.empty(units))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-options.init, options.init, generator=generator)

    @torch.no_grad()
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        """Draw the decisions of some genotypes, shape `(count, S)`; from PyTorch's global generator if None."""
        return self._walk(count, lambda number, logs: torch.multinomial(logs.exp(), 1, generator=generator).squeeze(1))[
            0
        ]

    @torch.no_grad()
    def likeliest(self) -> Tensor:
        """Return the decisions of which each is the likeliest after those before it, shape `(1, S)`."""
        return self._walk(1, lambda number, logs: logs.argmax(1))[0]

    def log_prob(self, picks: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies of genotypes, both of shape `(B,)`.

        Args:
            picks: decisions, shape `(B, S)`.

        Returns:
            The genotypes' log-probabilities, and the sums of the entropies of their decisions, each after those before
            it. The mean of these sums over samples is an unbiased estimate of the policy's entropy, in nats.
        """
        _, log_prob, entropy = self._walk(len(picks), lambda number, logs: picks[:, number])
        return log_prob, entropy

    def genotype(self, picks: Sequence[int] | Tensor) -> AnyGenotype:
        """Return the genotype of some decisions, shape `(S,)`."""
        numbers = [int(pick) for pick in picks]
        if self.chooses_states:
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            return DagGenotype(tuple(DagNode(reads, self.ops[op][1]) for reads, op in pairs))
        nodes = tuple(Node((Op(*self.ops[op]),)) for op in numbers)
        return Genotype(nodes, self.space.highway, self.space.share_projection)

    def _walk(self, count: int, choose: Choose) -> tuple[Tensor, Tensor, Tensor]:
        """Take all decisions; return them, their log-probabilities and the sums of their entropies."""
        rows = torch.arange(count)
        read = self.first.expand(count, -1)
        state = (torch.zeros_like(read), torch.zeros_like(read))
        earlier = [state[0]]  # the LSTM's outputs at which nodes chose what they read; zeros for the input node
        picks: list[Tensor] = []
        log_prob = entropy = read.new_zeros(count)
        for number in range(self.decisions):
            state = self.lstm(read, state)
            of_state = self.chooses_states and number % 2 == 0
            if of_state:
                keys = torch.stack(earlier, 1)  # (B, states, units)
                logits = torch.tanh(keys @ self.key + (state[0] @ self.query).unsqueeze(1)) @ self.attention
            else:
                logits = state[0] @ self.embedding.T
            logs = torch.log_softmax(self.tanh_constant * torch.tanh(logits / self.temperature), 1)
            pick = choose(number, logs)
            picks.append(pick)
            log_prob = log_prob + logs[rows, pick]
            entropy = entropy - (logs.exp() * logs).sum(1)
            if of_state:
                distance = (len(earlier) - pick).to(read).unsqueeze(1)
                read = keys[rows, pick] / (0.1 + distance)
                earlier.append(state[0])
            else:
                read = self.embedding[pick]
        return torch.stack(picks, 1), log_prob, entropy


def reinforce(policy: Policy, picks: Tensor, rewards: Tensor, *, baseline: float, entropy: float) -> Tensor:
    """Return a scalar whose gradient estimates, up to its sign, that of the expected reward plus weighted entropy.

    The gradient's mean over samples of the policy is that of -(E[reward] + entropy * H), whatever the baseline is:
    H = E[-log p], so that the entropy is a reward of -log p.

    Args:
        policy: samples genotypes.
        picks: sampled decisions, shape `(B, S)`.
        rewards: of the genotypes, shape `(B,)`.
        baseline: a constant; near the mean reward it makes the estimate's variance small.
        entropy: weight of the policy's entropy H, in nats.

    Reference:
        Williams (1992), Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning.
    """
    log_prob, _ = policy.log_prob(picks)
    advantage = rewards - entropy * log_prob.detach() - baseline
    return -(advantage * log_prob).mean()


class Learner:
    """A policy that learns from the losses of the genotypes that it samples.

    The reward of a genotype is the lowest loss so far divided by its loss, so that it lies in (0, 1]; 0 for an infinite
    loss. The baseline is the moving average of the mean rewards before; it begins at the first one. (Published, it
    begins at 0, which takes thousands of updates to forget, and includes the present reward, which biases the update.)

    Attributes:
        policy: the policy.
        generator: draws its samples.
        baseline: the moving average of rewards; None before the first update.
        lowest: lowest loss so far.
    """

    def __init__(self, space: SearchSpace, options: PolicySection, generator: Generator) -> None:
        """Draw the policy's weights, and later its samples, from a generator."""
        self.options, self.generator = options, generator
        self.policy = Policy(space, options, generator=generator)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=options.rate)
        self.baseline: float | None = None
        self.lowest = math.inf

    def sample(self, count: int) -> Tensor:
        """Draw the decisions of some genotypes, shape `(count, S)`."""
        return self.policy.sample(count, self.generator)

    def learn(self, picks: Tensor, losses: Sequence[float]) -> None:
        """Update the policy once from the losses, above 0, of sampled decisions `(B, S)`."""
        self.lowest = min(self.lowest, *losses)
        rewards = torch.tensor([self.lowest / loss if math.isfinite(loss) else 0.0 for loss in losses])
        mean, decay = float(rewards.mean()), self.options.baseline_decay
        baseline = mean if self.baseline is None else self.baseline
        self.optimizer.zero_grad()
        loss = reinforce(self.policy, picks, rewards, baseline=baseline, entropy=self.options.entropy)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.baseline = decay * baseline + (1 - decay) * mean

    def state(self) -> dict[str, Any]:
        """Return a copy of the whole state, for `restore`: a tree of tensors and plain values."""
        tree = {
            "policy": dict(self.policy.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "baseline": self.baseline,
            "lowest": self.lowest,
        }
        return copy.deepcopy(tree)

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Restore a state."""
        self.policy.load_state_dict(tree["policy"])
        self.optimizer.load_state_dict(copy.deepcopy(tree["optimizer"]))  # torch keeps these tensors
        self.generator.set_state(tree["generator"])
        self.baseline, self.lowest = tree["baseline"], tree["lowest"]
