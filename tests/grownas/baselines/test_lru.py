"""The LRU block against its equations, and its first weights against the propositions of its paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erf
from scipy.stats import kstest

from grownas.baselines.lru import LRU


def made(series, units, seed=0, **ring):
    return LRU(series, units, generator=torch.Generator().manual_seed(seed), **ring).double()


def layer_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def test_it_is_the_papers_block():
    core, x = made(3, 4), np.random.default_rng(0).normal(size=(25, 2, 3))
    w = {name: value.numpy() for name, value in core.state_dict().items()}
    eigenvalues = np.exp(-np.exp(w["nu"]) + 1j * np.exp(w["theta"]))
    b, c = w["drive"][:4] + 1j * w["drive"][4:], w["read"][:, :4] - 1j * w["read"][:, 4:]
    state, wanted = np.zeros((2, 4), complex), []
    for now in x:
        encoded = now @ w["encoder.weight"].T + w["encoder.bias"]
        inner = layer_norm(encoded)
        state = eigenvalues * state + np.exp(w["gamma"]) * (inner @ b.T)
        y = (state @ c.T).real + w["skip"] * inner
        y = 0.5 * y * (1 + erf(y / math.sqrt(2)))
        value, gate = np.split(y @ w["gated.weight"].T + w["gated.bias"], 2, axis=-1)
        wanted.append(encoded + value / (1 + np.exp(-gate)))
    out, last = core(torch.from_numpy(x))
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(torch.view_as_complex(last)[0].detach().numpy(), state, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("r_min", "r_max"), [(0.0, 0.99), (0.5, 0.9), (0.9, 0.999)])
def test_eigenvalues_begin_uniformly_on_the_ring(r_min, r_max):
    """Lemma 3.2: their squared moduli and their phases are uniform."""
    found = made(1, 500, r_min=r_min, r_max=r_max).eigenvalues.detach().numpy()
    assert kstest((np.abs(found) ** 2 - r_min**2) / (r_max**2 - r_min**2), "uniform").pvalue > 0.01
    assert kstest(np.angle(found) % (2 * np.pi) / (2 * np.pi), "uniform").pvalue > 0.01


@pytest.mark.parametrize(("r_min", "r_max"), [(0.0, 0.99), (0.5, 0.9)])
def test_white_noise_grows_as_the_paper_says_and_gamma_undoes_it(r_min, r_max):
    """Proposition 3.3: the energy's mean gain is log((1 - r_min^2) / (1 - r_max^2)) / (r_max^2 - r_min^2)."""
    cores = [made(1, 300, seed, r_min=r_min, r_max=r_max) for seed in range(20)]
    gain = 1 / (1 - torch.cat([core.eigenvalues.detach() for core in cores]).abs() ** 2)  # of each state
    wanted = math.log((1 - r_min**2) / (1 - r_max**2)) / (r_max**2 - r_min**2)
    assert float(gain.mean()) == pytest.approx(wanted, rel=0.08)  # four standard errors
    undone = torch.exp(2 * torch.cat([core.gamma.detach() for core in cores]))
    torch.testing.assert_close(gain * undone, torch.ones_like(gain), rtol=1e-4, atol=0)


def test_the_number_of_parameters_is_the_sum_over_the_parts():
    """Encoder, norm, nu and theta and gamma, B and C, D, gated unit."""
    series, units = 3, 7
    wanted = units * (series + 1) + 2 * units + 3 * units + 4 * units**2 + units + 2 * units * (units + 1)
    assert sum(parameter.numel() for parameter in made(series, units).parameters()) == wanted


def test_no_training_makes_it_explode():
    core = made(2, 4)
    with torch.no_grad():
        core.nu.fill_(-20)
    assert float(core.eigenvalues.detach().abs().max()) < 1
