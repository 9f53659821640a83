"""What all cores of baselines promise: they read only the past, carry their state, and can be trained."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.baselines.dlinear import DLinear
from grownas.baselines.lru import LRU
from grownas.baselines.min_gru import MinGRU
from grownas.baselines.tsmixer import TSMixer

CORES = {"min_gru": MinGRU, "lru": LRU, "tsmixer": TSMixer, "dlinear": DLinear}
SERIES, SIZE = 3, 5


def made(name, seed=0):
    return CORES[name](SERIES, SIZE, generator=torch.Generator().manual_seed(seed))


def sequence(steps, batch=2, seed=1):
    return torch.randn(steps, batch, SERIES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", CORES)
def test_shapes_are_those_of_a_recurrent(name):
    core = made(name)
    x = sequence(7).float()
    out, state = core(x)
    assert out.shape == (7, 2, core.hidden_size)
    assert core(x, state)[0].shape == out.shape
    assert core.input_size == SERIES


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(CORES)), cuts=st.lists(st.integers(1, 39), max_size=5, unique=True))
def test_the_state_carried_over_windows_equals_one_pass(name, cuts):
    core, x = made(name).double(), sequence(40)
    whole, last = core(x)
    pieces, state = [], None
    for piece in x.tensor_split(sorted(cuts)):
        out, state = core(piece, state)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("cut", [1, 7, 39])
def test_the_future_changes_nothing_before_it(name, cut):
    core, x = made(name).double(), sequence(40)
    before, after = (core(torch.cat([x[:cut], x[cut:] + change]))[0] for change in (0, torch.tensor([1.0, -2.0, 0.3])))
    assert torch.equal(before[:cut], after[:cut])
    assert (before[cut] != after[cut]).any()


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("steps", [1, 20, 500])
def test_all_parameters_have_finite_gradients(name, steps):
    core = made(name)
    out, _ = core(10 * sequence(steps).float())
    out.square().mean().backward()
    for key, parameter in core.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", CORES)
def test_weights_depend_on_the_generator_alone(name):
    state = torch.get_rng_state()
    one, same, other = made(name), made(name), made(name, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[key]), key
    assert any(not torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("name", CORES)
def test_a_copy_computes_the_same_and_streams_do_not_mix(name):
    core, x = made(name).double(), sequence(30)
    assert torch.equal(copy.deepcopy(core)(x)[0], core(x)[0])
    torch.testing.assert_close(core(x[:, 1:])[0], core(x)[0][:, 1:], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", CORES)
def test_it_runs_under_autocast_in_bfloat16(name):
    core, x = made(name), sequence(40).float()
    with torch.autocast("cpu", torch.bfloat16):
        first, state = core(x[:20])
        second, _ = core(x[20:], state)
    torch.testing.assert_close(torch.cat([first, second]).float(), core(x)[0], rtol=0.05, atol=0.05)
