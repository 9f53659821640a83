"""The scan against its recurrence, one step after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.baselines.scan import scan


def drawn(steps, seed, dtype, smallest=0.0):
    """Return decays of modulus at most 1, drives and a first state."""
    generator = torch.Generator().manual_seed(seed)
    drive, first = (torch.randn(*shape, 3, generator=generator, dtype=dtype) for shape in ((steps, 2), (2,)))
    modulus = smallest + (1 - smallest) * torch.rand(steps, 2, 3, generator=generator, dtype=torch.float64)
    decay = torch.polar(modulus, 9 * modulus) if dtype.is_complex else modulus
    return decay, drive, first


def stepwise(decay, drive, first):
    states, state = [], first.numpy()
    for a, b in zip(decay.numpy(), drive.numpy(), strict=True):
        state = a * state + b
        states.append(state)
    return np.stack(states)


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 130), seed=st.integers(0, 999), is_complex=st.booleans())
def test_it_is_the_recurrence(steps, seed, is_complex):
    given = drawn(steps, seed, torch.complex128 if is_complex else torch.float64)
    np.testing.assert_allclose(scan(*given).numpy(), stepwise(*given), rtol=0, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_decays_at_both_ends_are_exact(decay):
    """A quotient of products, the other way to sum such a recurrence, fails at 0."""
    drive = torch.arange(1.0, 101.0)[:, None]
    states = scan(torch.full_like(drive, decay), drive, torch.ones(1))
    wanted = drive.cumsum(0) + 1 if decay else drive
    assert torch.equal(states, wanted)


def test_gradients_are_those_of_the_recurrence():
    given = [one.requires_grad_() for one in drawn(11, 0, torch.float64, smallest=0.2)]
    assert torch.autograd.gradcheck(scan, given)
