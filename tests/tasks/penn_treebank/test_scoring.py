"""Perplexity against closed forms; dynamic evaluation and the cache each against a few lines."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from grownas.backbones.chain import Backbone
from grownas.errors import ConfigError
from grownas.protocols import Window
from grownas.tasks.penn_treebank.model import LanguageModel, Stack
from grownas.tasks.penn_treebank.regularise import Regularisation
from grownas.tasks.penn_treebank.scoring import (
    Cache,
    Dynamics,
    cache_losses,
    dynamic_losses,
    mean_squared_gradients,
    perplexity,
    token_losses,
)

V, E = 9, 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def grown():
    return Backbone(E, E, highway=True, share_projection=True, generator=seeded())


CORES = {"lstm": lambda: nn.LSTM(E, E), "gru": lambda: nn.GRU(E, E), "grown": grown}
each_core = pytest.mark.parametrize("core", CORES)


def made(core="gru", **options):
    """A model whose predictions differ: a wide embedding and a bias."""
    torch.manual_seed(0)
    model = LanguageModel(CORES[core](), V, generator=seeded(1), **options)
    with torch.no_grad():
        model.embedding.weight *= 10
        model.bias.normal_(generator=seeded(2))
    return model


def text(n=121, seed=3):
    """Words with runs in them, so that there is something to adapt to."""
    return torch.randint(V, (n,), generator=seeded(seed)) * torch.arange(n).div(25, rounding_mode="floor") % V


def cut(ids, bptt, streams=1, context=0):
    """Equal streams one after another, each begun by a warm-up of `context` tokens."""
    length = (len(ids) - 1 - context) // streams
    starts = context + length * torch.arange(streams)
    spans = [(-context, 0)] if context else []
    spans += [(first, min(first + bptt, length)) for first in range(0, length, bptt)]
    for number, (first, last) in enumerate(spans):
        places = torch.arange(first, last)[:, None] + starts
        yield Window(ids[places], ids[places + 1], fresh=number == 0, burn_in=first < 0)


def snapshot(model):
    return {name: one.clone() for name, one in model.state_dict().items()}, model.training, torch.get_rng_state()


def is_as(model, before):
    weights, training, random = before
    after = model.state_dict()
    return (
        all(torch.equal(after[name], weights[name]) for name in weights)
        and model.training == training
        and all(one.training == training for one in model.modules())
        and torch.equal(torch.get_rng_state(), random)
        and all(one.grad is None for one in model.parameters())
    )


# --------------------------------------------------------------------------------------------------- perplexity ----


@each_core
def test_a_unigram_model_has_the_unigrams_perplexity(core):
    """No embedding, the bias log p: every word costs -log p, whatever the cell."""
    model = made(core, gain=3.0).double()
    p = torch.rand(V, dtype=torch.float64, generator=seeded(4))
    p = p / p.sum()
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.bias.copy_(p.log())
    ids = text()
    losses = token_losses(model, cut(ids, 7))
    torch.testing.assert_close(losses[:, 0], -p.log()[ids[1:]], rtol=1e-12, atol=0)
    share = torch.bincount(ids[1:], minlength=V) / 120
    assert perplexity(losses) == pytest.approx(math.exp(-float((share * p.log()).sum())), rel=1e-6)
    with torch.no_grad():
        model.bias.zero_()
    assert perplexity(token_losses(model, cut(ids, 7))) == pytest.approx(V, rel=1e-12)


class Passing(nn.Module):
    """A core that gives what it reads."""

    input_size = hidden_size = V

    def forward(self, x, hidden=None):
        return x, hidden


def test_a_bigram_model_has_the_bigrams_perplexity():
    """Words as unit vectors, a decoder that holds log p(next | word)."""
    p = torch.rand(V, V, dtype=torch.float64, generator=seeded(5))
    p = p / p.sum(1, keepdim=True)
    model = LanguageModel(Passing(), V, tied=False).double()
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(V))
        model.decoder.copy_(p.log().T)
    ids = text()
    mean = -sum(math.log(p[one, other]) for one, other in itertools.pairwise(ids.tolist())) / 120
    losses = token_losses(model, cut(ids, 50))
    assert losses.dtype == torch.float64
    assert perplexity(losses) == pytest.approx(math.exp(mean), rel=1e-12)


def test_a_mean_too_large_for_a_float_gives_an_infinite_perplexity():
    assert perplexity(torch.tensor([1e3], dtype=torch.float64)) == math.inf
    assert math.isnan(perplexity(torch.tensor([1.0, math.nan], dtype=torch.float64)))
    assert perplexity(torch.tensor([700.0, 702.0], dtype=torch.float64)) == pytest.approx(math.exp(701))


@each_core
@pytest.mark.parametrize("bptt", [1, 7, 120, 1000])
def test_perplexity_does_not_depend_on_the_windows(core, bptt):
    model = made(core)
    whole, ids = token_losses(model, cut(text(), 35)), text()
    losses = token_losses(model, cut(ids, bptt))
    assert losses.shape == (120, 1)
    assert perplexity(losses) == pytest.approx(perplexity(whole), rel=1e-5)
    torch.testing.assert_close(losses, whole, rtol=1e-5, atol=1e-5)


@each_core
def test_nor_on_the_streams_where_a_cell_forgets_within_their_context(core):
    model = made(core)
    with torch.no_grad():
        for name, one in model.core.named_parameters():
            if one.dim() > 1 and name.rpartition(".")[2] not in {"weight_ih_l0", "W_x", "gate_x"}:
                one *= 0.2  # contracting
            if name.rpartition(".")[2] in {"W_x", "gate_x"}:
                one *= 0.3  # and so are products with the input
    ids = text(40 + 240 + 1)
    one = token_losses(model, cut(ids, 35, context=40))
    several = token_losses(model, cut(ids, 16, streams=4, context=40))
    assert several.shape == (60, 4)
    torch.testing.assert_close(several.t().flatten(), one.flatten(), rtol=1e-5, atol=1e-5)
    assert perplexity(several) == pytest.approx(perplexity(one), rel=1e-5)
    short = token_losses(model, cut(ids[36:], 16, streams=4, context=4))
    assert float((short.t().flatten() - one.flatten()).abs().max()) > 1e-5  # the context is what makes them equal


def test_a_fresh_window_starts_from_zero():
    model, (first, second) = made(), cut(text(21), 10)
    carried, parted = (token_losses(model, [first, second._replace(fresh=fresh)]) for fresh in (False, True))
    torch.testing.assert_close(parted[10:], token_losses(model, [second]))
    assert not torch.allclose(parted[10:], carried[10:], rtol=1e-3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("core", [*CORES, "stack"])
def test_scoring_drops_nothing_and_leaves_the_model_as_it_was(core, training):
    rates = dict.fromkeys(("dropout_embedding", "dropout_input", "dropout_output", "dropout_state", "weight_drop"), 0.3)
    everything = Regularisation(**rates, activation=2.0, temporal=1.0)
    model = (
        made(core, regularisation=everything) if core in CORES else LanguageModel(Stack([grown(), nn.LSTM(E, E)]), V)
    )
    model.train(training)
    before = snapshot(model)
    plain = token_losses(copy.deepcopy(model).eval(), cut(text(), 10))
    torch.testing.assert_close(token_losses(model, cut(text(), 10)), plain, rtol=0, atol=0)
    scale = mean_squared_gradients(model, cut(text(), 5))
    for losses in (
        dynamic_losses(model, cut(text(), 10), Dynamics(0.0)),
        dynamic_losses(model, cut(text(), 10), Dynamics(0.0, 0.1, scale)),
        cache_losses(model, cut(text(), 10), Cache(20, 1.0, 0.0)),
    ):
        torch.testing.assert_close(losses, plain, rtol=1e-6, atol=1e-6)
    dynamic_losses(model, cut(text(), 10), Dynamics(1e-3, 0.1, scale))
    cache_losses(model, cut(text(), 10), Cache(20, 1.0, 0.2))
    assert is_as(model, before)


# ------------------------------------------------------------------------------------------- dynamic evaluation ----


def gradient_of(model, window, hidden):
    logits, hidden = model(window.x, hidden)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), window.target.flatten(), reduction="none")
    model.zero_grad()
    loss.mean().backward()
    hidden = tuple(one.detach() for one in hidden) if isinstance(hidden, tuple) else hidden.detach()
    return loss.detach(), hidden, {name: one.grad for name, one in model.named_parameters()}


@each_core
@pytest.mark.parametrize("form", ["sgd", "rms"])
def test_dynamic_evaluation_is_the_papers_update(core, form):
    model = made(core, learn_gain=True).double()
    rate, decay, epsilon = (0.05, 0.3, 2e-5) if form == "sgd" else (0.01, 0.3, 0.02)
    scale = mean_squared_gradients(model, cut(text(seed=8), 10, streams=2)) if form == "rms" else None
    losses = dynamic_losses(model, cut(text(), 5), Dynamics(rate, decay, scale, epsilon))

    judge, hidden, wanted = copy.deepcopy(model), None, []
    if form == "rms":
        MS = {name: one.sqrt() for name, one in scale.items()}
        mean = sum(float(one.mean()) for one in MS.values()) / len(MS)
    clipped = 0
    for window in cut(text(), 5):
        loss, hidden, gradient = gradient_of(judge, window, hidden)
        wanted.append(loss)
        with torch.no_grad():
            for (name, p), p_0 in zip(judge.named_parameters(), model.parameters(), strict=True):
                if form == "sgd":
                    p += decay * (p_0 - p) - rate * gradient[name]
                else:
                    factor = torch.minimum(MS[name] / mean, torch.tensor(1 / decay, dtype=torch.float64))
                    clipped += int((MS[name] / mean > 1 / decay).sum())
                    p += decay * factor * (p_0 - p) - rate * gradient[name] / (MS[name] + epsilon)
    torch.testing.assert_close(losses.flatten(), torch.cat(wanted), rtol=1e-9, atol=1e-12)
    assert (clipped > 0) == (form == "rms")  # else the clipping is not tried
    assert not torch.allclose(losses, token_losses(model, cut(text(), 5)), rtol=1e-3)


@each_core
def test_mean_squared_gradients_are_those_of_the_windows(core):
    model = made(core, regularisation=Regularisation(dropout_output=0.5)).double()
    windows = list(cut(text(), 10, streams=2, context=10))
    found = mean_squared_gradients(model.train(), windows)
    judge, hidden, sums, count = copy.deepcopy(model).eval(), None, {}, 0
    for window in windows:
        _, hidden, gradient = gradient_of(judge, window, hidden)
        if not window.burn_in:
            count += 1
            for name, one in gradient.items():
                sums[name] = sums.get(name, 0) + one**2
    assert set(found) == set(sums)
    for name in sums:
        torch.testing.assert_close(found[name], sums[name] / count, rtol=1e-9, atol=1e-15)


@each_core
def test_a_text_that_repeats_itself_is_learned_on_the_way(core):
    ids = torch.tensor([1, 4, 2, 7, 7, 3]).repeat(60)
    model = made(core)
    still = token_losses(model, cut(ids, 5))
    losses = dynamic_losses(model, cut(ids, 5), Dynamics(0.5))
    torch.testing.assert_close(losses[:5], still[:5], rtol=1e-5, atol=0)  # a window is scored before it is learned from
    assert losses[-30:].mean() < 0.3 * still[-30:].mean()


def test_dynamic_evaluation_learns_from_a_burn_in_too():
    windows = list(cut(text(), 5, context=20))
    model = made()
    losses = dynamic_losses(model, windows, Dynamics(0.1))
    scored = dynamic_losses(model, [one._replace(burn_in=False) for one in windows], Dynamics(0.1))
    torch.testing.assert_close(losses, scored[20:])


def test_dynamic_evaluation_refuses_several_streams():
    with pytest.raises(ConfigError, match="one stream, got 3"):
        dynamic_losses(made(), cut(text(), 5, streams=3), Dynamics(0.1))


@pytest.mark.parametrize("numbers", [(-1.0, 0.0), (math.nan, 0.0), (0.1, -0.1), (0.1, 1.1), (0.1, 0.0, None, 0.0)])
def test_dynamics_that_cannot_be(numbers):
    with pytest.raises(ConfigError, match=f"rate {numbers[0]}, decay {numbers[1]}, epsilon"):
        Dynamics(*numbers)


# ------------------------------------------------------------------------------------------------- neural cache ----


def cached_by_hand(model, ids, cache):
    """One stream, one word after the other."""
    out, _ = model.states(ids[:-1, None])
    p = torch.softmax(model.logits(model.features(out)), 2)[:, 0]
    losses = []
    for t, target in enumerate(ids[1:].tolist()):
        past = range(max(0, t - cache.size), t)
        weights = [math.exp(cache.flatness * float(out[t, 0] @ out[i, 0])) for i in past]
        right = sum(w for w, i in zip(weights, past, strict=True) if ids[i + 1] == target)
        q = (
            (1 - cache.share) * float(p[t, target]) + cache.share * right / sum(weights)
            if past
            else float(p[t, target])
        )
        losses.append(-math.log(q))
    return torch.tensor(losses, dtype=torch.float64)


@each_core
@pytest.mark.parametrize("cache", [Cache(10, 0.0, 0.3), Cache(17, 2.0, 0.1), Cache(1, 0.5, 0.9), Cache(1000, 1.0, 0.2)])
@pytest.mark.parametrize("bptt", [1, 12, 200])
def test_the_cache_is_the_papers_whatever_the_windows(core, cache, bptt):
    model = made(core, gain=2.0).double()
    with torch.no_grad():
        wanted = cached_by_hand(model.eval(), text(), cache)
    losses = cache_losses(model, cut(text(), bptt), cache)
    torch.testing.assert_close(losses[:, 0], wanted, rtol=1e-9, atol=1e-12)


def test_each_stream_has_a_cache_of_its_own():
    model, cache = made().double(), Cache(10, 1.0, 0.3)
    losses = cache_losses(model, cut(text(), 7, streams=3), cache)
    with torch.no_grad():
        alone = [cached_by_hand(model.eval(), text()[first : first + 41], cache) for first in (0, 40, 80)]
    torch.testing.assert_close(losses, torch.stack(alone, 1), rtol=1e-9, atol=1e-12)


def test_a_cache_remembers_a_burn_in_and_is_emptied_where_the_text_begins_anew():
    model, cache = made().double(), Cache(30, 1.0, 0.3)
    windows = list(cut(text(), 10, context=20))
    whole = cache_losses(model, [one._replace(burn_in=False) for one in windows], cache)
    torch.testing.assert_close(cache_losses(model, windows, cache), whole[20:])
    anew = cache_losses(model, [*windows, windows[1]._replace(fresh=True)], cache)
    torch.testing.assert_close(anew[-10:], cache_losses(model, [windows[1]], cache))


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_a_size_that_cannot_be(size):
    with pytest.raises(ConfigError, match=f"size .* got {size}"):
        Cache(size, 1.0, 0.1)


@pytest.mark.parametrize(
    ("flatness", "share"), [(-1.0, 0.1), (math.inf, 0.1), (1.0, -0.1), (1.0, 1.0), (1.0, math.nan)]
)
def test_a_cache_that_cannot_be(flatness, share):
    with pytest.raises(ConfigError, match=f"flatness {flatness} and share {share}"):
        Cache(10, flatness, share)
