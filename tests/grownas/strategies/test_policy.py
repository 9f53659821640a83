"""The policy against enumeration: probabilities, entropy, the gradient of REINFORCE; and what it learns."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from grownas.runs import checkpoint
from grownas.space import SearchSpace
from grownas.strategies.policy import Learner, Policy, reinforce
from grownas.strategies.policy_options import PolicySection

CHAIN = SearchSpace(("add", "hadamard"), ("identity", "tanh"), max_nodes=2)  # 4^2 = 16 genotypes
DAG = SearchSpace((), ("none", "tanh", "relu", "identity"), max_nodes=2, backbone="dag")  # 1 * 3 * 2 * 3 = 18
SPACES = {"chain": CHAIN, "dag": DAG}
CHOICES = {"chain": [4, 4], "dag": [1, 3, 2, 3]}


def policy_of(kind, *, init=1.0, seed=0, **options):
    """A policy in float64, far from uniform unless `init` is small."""
    section = PolicySection(units=7, init=init, temperature=0.7, **options)
    return Policy(SPACES[kind], section, generator=torch.Generator().manual_seed(seed)).double()


def all_picks(kind):
    return torch.tensor(list(itertools.product(*map(range, CHOICES[kind]))))


def rewards_of(count):
    return torch.rand(count, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def by_hand(policy, kind, picks):
    """The log-probability of one genotype, in numpy."""
    p = {name: value.detach().numpy() for name, value in policy.named_parameters()}
    h = c = np.zeros(7)
    x, outputs, total = p["first"][0], [np.zeros(7)], 0.0
    for number, pick in enumerate(picks):
        i, f, g, o = np.split(p["lstm.weight_ih"] @ x + p["lstm.weight_hh"] @ h, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        if kind == "dag" and number % 2 == 0:
            logits = np.array([p["attention"] @ np.tanh(one @ p["key"] + h @ p["query"]) for one in outputs])
            x = outputs[pick] / (0.1 + len(outputs) - pick)
            outputs.append(h)
        else:
            logits = p["embedding"] @ h
            x = p["embedding"][pick]
        powers = np.exp(2.25 * np.tanh(logits / 0.7))
        total += np.log(powers[pick] / powers.sum())
    return total


@pytest.mark.parametrize("kind", SPACES)
def test_log_probabilities_are_those_of_the_formulas_and_sum_to_1(kind):
    policy, picks = policy_of(kind), all_picks(kind)
    found = policy.log_prob(picks)[0].detach()
    expected = torch.tensor([by_hand(policy, kind, row.tolist()) for row in picks], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.exp().sum() == pytest.approx(1, abs=1e-12)
    assert found.exp().max() > 3 * found.exp().min()  # the policy prefers something


@pytest.mark.parametrize("kind", SPACES)
def test_every_genotype_has_decisions_of_its_own(kind):
    policy, space = policy_of(kind), SPACES[kind]
    genotypes = [policy.genotype(row) for row in all_picks(kind)]
    assert len(set(genotypes)) == {"chain": 16, "dag": 18}[kind]
    assert all(space.contains(one) and len(one.nodes) == one.op_count == space.max_nodes for one in genotypes)


@pytest.mark.parametrize("kind", SPACES)
def test_samples_come_as_often_as_their_probability_says(kind):
    policy, picks = policy_of(kind), all_picks(kind)
    drawn = policy.sample(4000, torch.Generator().manual_seed(3))
    counts = torch.stack([(drawn == row).all(1).sum() for row in picks])
    expected = 4000 * policy.log_prob(picks)[0].detach().exp()
    assert counts.sum() == 4000
    assert ((counts - expected).square() / expected).sum() < 50  # chi-squared with 15 or 17 degrees: p < 1e-4


def test_samples_come_from_the_given_generator_or_from_the_global_one():
    policy = policy_of("chain")
    one = policy.sample(20, torch.Generator().manual_seed(1))
    torch.manual_seed(1)
    assert torch.equal(policy.sample(20), one)
    assert not torch.equal(policy.sample(20, torch.Generator().manual_seed(2)), one)


@pytest.mark.parametrize("kind", SPACES)
def test_the_likeliest_decisions_are_taken_one_after_the_other(kind):
    policy, picks = policy_of(kind), all_picks(kind)
    probabilities = policy.log_prob(picks)[0].detach().exp()
    left = torch.ones(len(picks), dtype=torch.bool)
    for number in range(policy.decisions):
        sums = [probabilities[left & (picks[:, number] == choice)].sum() for choice in range(CHOICES[kind][number])]
        left &= picks[:, number] == int(torch.stack(sums).argmax())
    assert torch.equal(policy.likeliest(), picks[left])


# ---- entropy


@pytest.mark.parametrize("kind", SPACES)
def test_the_entropy_of_equal_choices_is_the_sum_of_their_logarithms(kind):
    policy, picks = policy_of(kind, init=1e-9), all_picks(kind)
    log_prob, entropy = policy.log_prob(picks)
    expected = sum(math.log(count) for count in CHOICES[kind])
    torch.testing.assert_close(entropy.detach(), torch.full_like(entropy, expected).detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(log_prob.detach(), -entropy.detach(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", SPACES)
def test_the_mean_entropy_of_the_decisions_is_that_of_the_genotypes(kind):
    log_prob, entropy = (one.detach() for one in policy_of(kind).log_prob(all_picks(kind)))
    p = log_prob.exp()
    assert float((p * entropy).sum()) == pytest.approx(-float((p * p.log()).sum()), abs=1e-12)


# ---- the gradient


def gradients(policy, scalar):
    found = torch.autograd.grad(scalar, list(policy.parameters()), materialize_grads=True)
    return torch.cat([one.flatten() for one in found])


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("baseline", [0.0, 0.7, -5.0])
def test_the_mean_gradient_of_reinforce_is_the_exact_gradient(kind, weight, baseline):
    policy, picks = policy_of(kind), all_picks(kind)
    rewards = rewards_of(len(picks))
    p = policy.log_prob(picks)[0].exp()
    exact = gradients(policy, (p * rewards).sum() - weight * (p * p.log()).sum())
    mean = torch.zeros_like(exact)
    for number, share in enumerate(p.detach()):
        one = slice(number, number + 1)
        loss = reinforce(policy, picks[one], rewards[one], baseline=baseline, entropy=weight)
        mean -= share * gradients(policy, loss)
    torch.testing.assert_close(mean, exact, rtol=1e-9, atol=1e-12)
    assert exact.abs().max() > 1e-3


def test_a_batch_gives_the_mean_of_its_samples_gradients():
    policy, picks = policy_of("dag"), all_picks("dag")[[3, 3, 7, 11]]
    rewards = rewards_of(4)
    whole = gradients(policy, reinforce(policy, picks, rewards, baseline=0.2, entropy=0.1))
    each = [reinforce(policy, picks[[i]], rewards[[i]], baseline=0.2, entropy=0.1) for i in range(4)]
    torch.testing.assert_close(whole, torch.stack([gradients(policy, one) for one in each]).mean(0))


# ---- learning


def learner_of(kind, **options):
    return Learner(SPACES[kind], PolicySection(**options), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("best", [2, 13])
def test_the_best_genotype_of_a_rigged_space_is_found(kind, best):
    picks = all_picks(kind)
    losses = 1 + torch.rand(len(picks), generator=torch.Generator().manual_seed(8))
    losses[best] = 0.5
    learner = learner_of(kind, rate=0.01, baseline_decay=0.9)
    table = {tuple(row): float(loss) for row, loss in zip(picks.tolist(), losses, strict=True)}
    before = float(learner.policy.log_prob(picks[[best]])[0].detach().exp())
    assert before == pytest.approx(1 / len(picks), rel=0.1)
    for _ in range(100):
        drawn = learner.sample(10)
        learner.learn(drawn, [table[tuple(row)] for row in drawn.tolist()])
    assert torch.equal(learner.policy.likeliest()[0], picks[best])
    assert float(learner.policy.log_prob(picks[[best]])[0].detach().exp()) > 0.7


def test_rewards_are_relative_to_the_lowest_loss_and_the_baseline_is_that_of_updates_before(monkeypatch):
    seen = []

    def noting(policy, picks, rewards, *, baseline, entropy):
        seen.append((rewards.tolist(), baseline, entropy))
        return reinforce(policy, picks, rewards, baseline=baseline, entropy=entropy)

    monkeypatch.setattr("grownas.strategies.policy.reinforce", noting)
    learner = learner_of("chain", baseline_decay=0.75, entropy=0.125)
    for losses in ([2.0, 4.0], [1.0, math.inf], [4.0, 2.0]):
        learner.learn(learner.sample(2), losses)
    assert seen == [([1.0, 0.5], 0.75, 0.125), ([1.0, 0.0], 0.75, 0.125), ([0.25, 0.5], 0.6875, 0.125)]


def test_a_learner_goes_on_from_its_saved_state_to_the_bit(tmp_path, assert_equal):
    losses = [3.0, 1.0, 2.0]
    whole = learner_of("dag", rate=0.05)
    for number in range(6):
        if number == 3:
            checkpoint.save(tmp_path / "policy", whole.state(), "config")
        whole.learn(whole.sample(3), losses)
    again = learner_of("dag", rate=0.05)
    again.restore(checkpoint.load(tmp_path / "policy", "config"))
    for _ in range(3):
        again.learn(again.sample(3), losses)
    assert_equal(again.state(), whole.state())


def test_a_kept_state_does_not_move_with_the_learner(assert_equal):
    learner = learner_of("chain", rate=0.05)
    learner.learn(learner.sample(2), [1.0, 2.0])
    state, same = learner.state(), learner.state()
    other = learner_of("chain", rate=0.05)
    other.restore(state)
    other.learn(other.sample(2), [1.0, 2.0])
    assert_equal(state, same)
