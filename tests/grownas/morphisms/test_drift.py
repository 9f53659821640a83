"""How far the output moves by each morphism on random chains: the table in grownas/README.md, and the bounds it keeps.

`pytest -m slow -s tests/grownas/morphisms/test_drift.py` prints the table.
"""

from __future__ import annotations

import math
import random

import pytest
import torch

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.ops import DEFAULT_OPS

I, H, T, B, DRAWS = 4, 8, 20, 4, 300  # noqa: E741 - the field's names
ROUNDING = {torch.float32: 5e-6, torch.float64: 1e-14}  # what an exact morphism may do, in units of the largest output
NOISE = 0.4 / math.sqrt(H)  # the default of a search


def drawn_chain(rng, dtype):
    """One to four nodes of up to eight ops, one of them a carrier; any switches; weights as drawn, uneven shares."""
    generator = torch.Generator().manual_seed(rng.randrange(10**6))
    share = rng.random() < 0.5
    ops = [
        morphisms.with_carrier([rng.choice(DEFAULT_OPS) for _ in range(rng.randint(1, 7))], share)
        for _ in range(rng.randint(1, 4))
    ]
    switches = {"highway": rng.random() < 0.5, "share_projection": share}
    core = Backbone.from_ops(I, H, ops, **switches, generator=generator).to(dtype)
    with torch.no_grad():
        for alpha in core.alpha:
            alpha.copy_(torch.randn(alpha.shape, generator=generator))
    return core, generator


def place(core, rng, but=None):
    """A node and an op, not one whose activation is `but`; every chain has a carrier."""
    return rng.choice(
        [(n, k) for n in range(len(core.nodes)) for k, (_, name) in enumerate(core.op_names(n)) if name != but]
    )


def add_node(core, rng, generator, noise=0.0):
    return morphisms.add_node(core, rng.randint(0, len(core.nodes)), rng.uniform(0.2, 0.8), noise, generator).backbone


def duplicate_op(core, rng, generator, noise=0.0):
    return morphisms.duplicate_op(core, *place(core, rng), noise, generator).backbone


def split_op(core, rng, generator, step, eigenvalue=-1.0):
    """All units go their way, or none. A relu is passed over: where its kink lies between, it moves by O(step)."""
    node, op = place(core, rng, but="relu")
    size = I + 1 + H + (core.op_names(node)[op][0] == "hadamard")
    vectors = torch.randn(H, size, generator=generator, dtype=torch.float64)
    pairs = torch.full((H,), eigenvalue), vectors / vectors.norm(dim=1, keepdim=True)
    return morphisms.split_op(core, node, op, pairs, step).backbone


def silenced(core, rng):
    """Make an op constant, one that neither carries nor shares its projection; return its place, if there is any."""
    able = [
        (number, op)
        for number, node in enumerate(core.mixed_nodes())
        for op, kind in enumerate(node.ops)
        if not morphisms.is_carrier(kind, core.share_projection) and node.projection.count(node.projection[op]) == 1
    ]
    chosen = rng.choice(able) if able else None
    if chosen is not None:
        with torch.no_grad():
            for name in ("W_x", "W_h"):
                core.op_parameters(*chosen)[name].zero_()
    return chosen


def prune_op(core, rng, generator):
    constant = silenced(core, rng)
    return constant and morphisms.prune_op(core, *constant).backbone


def replace_op(core, rng, generator):
    constant = silenced(core, rng)
    return constant and morphisms.replace_op(core, *constant, rng.choice(DEFAULT_OPS), generator).backbone


def thirty(core, rng, generator):
    for _ in range(30):
        core = rng.choice((add_node, duplicate_op) if len(core.nodes) < 8 else (duplicate_op,))(core, rng, generator)
    return core


ROWS = {  # what is done, and the bound in float32 and float64; None: that of rounding
    "add_node": (add_node, None),
    "duplicate_op": (duplicate_op, None),
    "split_op, no unit": (lambda *a: split_op(*a, 0.1, 1.0), None),
    "prune_op, of a constant op": (prune_op, None),
    "replace_op, of a constant op": (replace_op, None),
    "30 of add_node and duplicate_op in a row": (thirty, None),
    "split_op, step 0.001, all units": (lambda *a: split_op(*a, 1e-3), 1e-5),
    "split_op, step 0.1, all units": (lambda *a: split_op(*a, 0.1), 0.1),
    "add_node, noise 0.4 / sqrt(H)": (lambda *a: add_node(*a, NOISE), 1.0),
    "duplicate_op, noise 0.4 / sqrt(H)": (lambda *a: duplicate_op(*a, NOISE), 1.0),
}


@torch.no_grad()
def largest_drift(morph, dtype):
    """Return the largest change of an output over all draws, in units of the chain's largest output, at least of 1."""
    rng, largest, count = random.Random(0), 0.0, 0
    while count < DRAWS:
        core, generator = drawn_chain(rng, dtype)
        after = morph(core, rng, generator)
        if after is None:
            continue
        x, h_0 = (torch.randn(n, B, size, generator=generator).to(dtype) for n, size in ((T, I), (1, H)))
        before = core(x, h_0)[0].double()
        moved = (after(x, h_0)[0].double() - before).abs().max() / before.abs().max().clamp_min(1)
        assert moved.isfinite()
        largest, count = max(largest, moved.item()), count + 1
    return largest


@pytest.mark.slow
def test_each_morphism_moves_the_output_no_farther_than_it_promises(capsys):
    found = {name: [largest_drift(morph, dtype) for dtype in ROUNDING] for name, (morph, _) in ROWS.items()}
    with capsys.disabled():
        print("\n| morphism | float32 | float64 |\n|---|---|---|")
        for name, drifts in found.items():
            print(f"| {name} | " + " | ".join(f"{drift:.1e}" for drift in drifts) + " |")
    for name, (_, bound) in ROWS.items():
        for drift, rounding in zip(found[name], ROUNDING.values(), strict=True):
            assert drift <= (rounding if bound is None else max(bound, rounding)), name
            assert drift > 0 or bound is None
