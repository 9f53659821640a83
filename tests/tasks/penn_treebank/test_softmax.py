"""The full cross-entropy against PyTorch's; the sampled one against an enumeration of all samples, and the full one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grownas.errors import ConfigError
from grownas.tasks.penn_treebank.softmax import SampledSoftmax, cross_entropy


def made(V=7, E=4, T=3, B=2, seed=0, spread=1.0):
    """Features, weight, bias, target, in float64."""
    generator = torch.Generator().manual_seed(seed)
    leaves = [
        (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for shape in ((T, B, E), (V, E), (V,))
    ]
    return *leaves, torch.randint(V, (T, B), generator=generator)


def zipf(V):
    return 1000 / torch.arange(1.0, V + 1)


def theirs(features, weight, bias, target):
    return nn.functional.cross_entropy((features @ weight.T + bias).flatten(0, 1), target.flatten(), reduction="none")


def gradients(loss, leaves):
    return torch.autograd.grad(loss, leaves)


# ---------------------------------------------------------------------------------------------------------- full ----


@pytest.mark.parametrize("block", [1, 7, 15, 1000])
def test_values_and_gradients_are_pytorchs_whatever_the_block(block):
    *leaves, target = made()
    ours, judge = cross_entropy(*leaves, target, block=block), theirs(*leaves, target).view(3, 2)
    torch.testing.assert_close(ours, judge, rtol=1e-13, atol=0)
    factor = torch.arange(6.0, dtype=torch.float64).view(3, 2)
    mine, other = gradients((factor * ours).sum(), leaves), gradients((factor * judge).sum(), leaves)
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


def test_only_a_block_of_logits_is_held():
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            largest.extend(one.numel() for one in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(one))
            return out

    *leaves, target = made(V=50, T=40)
    with torch.no_grad(), Watch():
        cross_entropy(*leaves, target, block=200)
    assert max(largest) == 320  # the features; 200 logits, not 4000
    assert 200 in largest


# ------------------------------------------------------------------------------------------------- probabilities ----


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=40), st.integers(1, 50), st.sampled_from([0.0, 0.5, 0.75, 1.0])
)
def test_probabilities_add_up_to_the_samples_and_follow_the_counts(counts, samples, power):
    inclusion = SampledSoftmax.of(torch.tensor(counts), samples, power=power).inclusion.double()
    assert (inclusion > 0).all()
    assert (inclusion <= 1).all()
    assert float(inclusion.sum()) == pytest.approx(min(samples, len(counts)), rel=1e-6)
    wanted = torch.tensor(counts, dtype=torch.float64).clamp_min(1) ** power
    ratio = inclusion / wanted
    below = inclusion < 1 - 1e-6
    if below.any():
        torch.testing.assert_close(ratio[below], ratio[below][:1].expand(int(below.sum())), rtol=1e-5, atol=0)
        assert (ratio[~below] <= ratio[below][0] * (1 + 1e-5)).all()  # those cut off at 1 have no more than their due


def test_words_are_drawn_as_often_as_their_probability_says():
    sampled = SampledSoftmax.of(zipf(30), 10)
    torch.manual_seed(0)
    draws = [sampled.draw() for _ in range(4000)]
    often = torch.zeros(30).index_add(0, torch.cat(draws), torch.ones(sum(map(len, draws)))) / len(draws)
    error = (sampled.inclusion * (1 - sampled.inclusion) / len(draws)).sqrt()
    assert ((often - sampled.inclusion).abs() <= 4 * error + 1e-7).all()
    assert all((draw.diff() > 0).all() for draw in draws)  # without repetition


@pytest.mark.parametrize("samples", [0, -1, 2.5, True])
def test_a_number_of_samples_that_cannot_be(samples):
    with pytest.raises(ConfigError, match=f"samples .* got {samples}"):
        SampledSoftmax.of(zipf(5), samples)


@pytest.mark.parametrize("power", [-0.1, math.inf, math.nan])
def test_a_power_that_cannot_be(power):
    with pytest.raises(ConfigError, match=f"power .* got {power}"):
        SampledSoftmax.of(zipf(5), 2, power=power)


# ------------------------------------------------------------------------------------------------------ estimate ----


def by_hand(features, weight, bias, target, sample, inclusion):
    """Word by word."""
    losses = []
    for h, y in zip(features.flatten(0, 1), target.flatten().tolist(), strict=True):
        total = torch.exp(h @ weight[y] + bias[y])
        for w in sample:
            if w != y:
                total = total + torch.exp(h @ weight[w] + bias[w]) / float(inclusion[w])
        losses.append(torch.log(total) - h @ weight[y] - bias[y])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("sample", [[], [3], [0, 2, 5], [0, 1, 2, 3, 4, 5, 6]])
def test_an_estimate_is_the_sum_written_out(sample):
    *leaves, target = made()
    sampled = SampledSoftmax.of(zipf(7), 3)
    ours = sampled.estimate(*leaves, target, torch.tensor(sample, dtype=torch.long))
    judge = by_hand(*leaves, target, sample, sampled.inclusion)
    torch.testing.assert_close(ours, judge, rtol=1e-6, atol=1e-15)  # the correction is kept in float32
    torch.testing.assert_close(gradients(ours, leaves), gradients(judge, leaves), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_the_sum_over_the_vocabulary_is_estimated_without_bias(power):
    """The mean over all 2^V samples, each with its probability."""
    features, weight, bias, target = (one.detach() for one in made(T=1, B=1, seed=3))
    sampled = SampledSoftmax.of(zipf(7), 3, power=power)
    score = (features @ weight.T + bias).flatten()
    mean, probability = 0.0, 0.0
    for taken in itertools.product([False, True], repeat=7):
        pi = sampled.inclusion.double()
        chance = float(torch.where(torch.tensor(taken), pi, 1 - pi).prod())
        loss = sampled.estimate(features, weight, bias, target, torch.tensor(taken).nonzero().squeeze(1))
        mean += chance * math.exp(float(loss) + float(score[target[0, 0]]))
        probability += chance
    assert probability == pytest.approx(1, abs=1e-12)
    assert mean == pytest.approx(float(score.exp().sum()), rel=1e-6)


@pytest.mark.parametrize("samples", [7, 8, 10**6])
def test_with_all_words_it_is_the_full_softmax(samples):
    *leaves, target = made()
    ours, judge = SampledSoftmax.of(zipf(7), samples).loss(*leaves, target), theirs(*leaves, target).mean()
    torch.testing.assert_close(ours, judge, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradients(ours, leaves), gradients(judge, leaves), rtol=1e-12, atol=1e-15)


def test_the_mean_gradient_comes_near_the_full_ones_and_nearer_with_more_samples():
    """Within bounds that fall with the samples as the bias does; the mean's own spread is small beside them."""
    *leaves, target = made(V=60, E=5, T=4, B=3, seed=1, spread=0.5)
    wanted = torch.cat([one.flatten() for one in gradients(theirs(*leaves, target).mean(), leaves)])
    for samples, bound in ((10, 0.1), (20, 0.05), (40, 0.02), (55, 0.005)):
        sampled = SampledSoftmax.of(zipf(60), samples)
        torch.manual_seed(0)
        losses = [sampled.loss(*leaves, target) for _ in range(1500)]
        mean = torch.cat([one.flatten() for one in gradients(torch.stack(losses).mean(), leaves)])
        assert float((mean - wanted).norm() / wanted.norm()) < bound


def test_the_generator_fixes_the_sample():
    *leaves, target = made(V=60)
    sampled = SampledSoftmax.of(zipf(60), 20)
    state = torch.get_rng_state()
    first, second = sampled.loss(*leaves, target), sampled.loss(*leaves, target)
    torch.set_rng_state(state)
    assert torch.equal(sampled.loss(*leaves, target), first)
    assert not torch.equal(first, second)


def test_under_autocast_the_correction_is_not_rounded():
    features, weight, bias, target = (one.detach().float() if one.is_floating_point() else one for one in made(V=60))
    sampled = SampledSoftmax.of(zipf(60), 20)
    sample = sampled.draw()
    zeros = torch.zeros_like(features)  # the loss is then that of the corrections alone
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = sampled.estimate(zeros, weight, torch.zeros_like(bias), target, sample)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, sampled.estimate(zeros, weight, torch.zeros_like(bias), target, sample))
