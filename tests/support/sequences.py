"""What the suites of every backend share: backbones and data, the comparison with plain autograd, errors in ulp."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from grownas.backbones.chain import Backbone
from grownas.cells.backends import BACKENDS
from grownas.ops import DEFAULT_OPS

ENGINES = ["torch", "native"]
TIGHT = {"rtol": 1e-10, "atol": 1e-11}
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}  # sums of 7 steps' rounding in another order
REAL = {torch.float32: (np.float32, np.int32), torch.float64: (np.float64, np.int64)}
ops_lists = st.lists(
    st.lists(st.sampled_from(DEFAULT_OPS), min_size=1, max_size=6), min_size=1, max_size=5
)  # an ordered multiset for each node


def make(ops, *, highway=False, share=False, seed=0, inputs=3, hidden=5, dtype=torch.float64):
    """A backbone with drawn weights and uneven shares."""
    generator = torch.Generator().manual_seed(seed)
    backbone = Backbone.from_ops(inputs, hidden, ops, highway=highway, share_projection=share, generator=generator).to(
        dtype
    )
    with torch.no_grad():
        for alpha in backbone.alpha:
            alpha.copy_(torch.randn(alpha.shape, generator=generator))
    return backbone


def data(T, B, inputs, hidden, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(T, B, inputs, generator=generator, dtype=dtype)
    return x.requires_grad_(), torch.randn(B, hidden, generator=generator, dtype=dtype).requires_grad_()


def compare(backbone, x, h_0, tolerance=TIGHT):
    """Compare the engines with the reference; return the gradients."""
    nodes = backbone.mixed_nodes()
    names = [name for name, _ in backbone.named_parameters()]
    wanted = [x, h_0, *backbone.parameters()]
    weight = torch.randn(*x.shape[:2], backbone.hidden_size, dtype=x.dtype, generator=torch.Generator().manual_seed(7))
    weight = weight.to(x.device)
    found = []
    for backend in ("reference", *ENGINES):
        out = BACKENDS[backend].run(nodes, [node.shares for node in nodes], x, h_0)
        loss = (weight * out).sum() + out.square().mean()
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        found.append([out.detach(), *gradients])
    for name, truth, *values in zip(["out", "x", "h_0", *names], *found, strict=True):
        for engine, value in zip(ENGINES, values, strict=True):
            wanted = torch.zeros_like(value) if truth is None else truth
            place = f"{engine}, {name}: "
            torch.testing.assert_close(value, wanted, **tolerance, msg=lambda message, place=place: place + message)
    return dict(zip(["out", "x", "h_0", *names], found[1], strict=True))


def ulps(found, truth):
    """How many representable numbers lie between two arrays of one sign."""
    steps = REAL[found.dtype][1]
    return np.abs(found.numpy().view(steps).astype(object) - truth.view(steps).astype(object)).astype(float)


def exact(name, z):
    """The value in a precision in which it is correctly rounded but for one case in some thousands."""
    z = z.numpy().astype(np.longdouble)
    if name == "tanh":
        return np.tanh(z)
    return np.where(z < 0, np.exp(np.minimum(z, 0)), 1) / (1 + np.exp(-np.abs(z)))
