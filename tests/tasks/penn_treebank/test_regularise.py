"""The regularisers, each against a few lines; weight drop on every backend against weights masked by hand."""

from __future__ import annotations

import copy
import importlib.util
import math
import os
from functools import partial

import pytest
import torch
from torch import nn

from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.cells import triton_loop
from grownas.cells.cell import GrownRNN
from grownas.errors import ConfigError
from grownas.genotype import Genotype, Node, Op
from grownas.ops import ACTIVATION
from grownas.tasks.penn_treebank.model import Stack
from grownas.tasks.penn_treebank.regularise import (
    PENALTIES,
    RECURRENT,
    Regularisation,
    locked_dropout,
    state_dropout,
    weight_drop,
    word_dropout,
)

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON and not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the backend first imports triton

RATES = sorted(set(Regularisation.__dataclass_fields__) - set(PENALTIES))

# ------------------------------------------------------------------------------------------------------- numbers ----


def test_all_is_off_unless_switched_on():
    assert {getattr(Regularisation(), name) for name in Regularisation.__dataclass_fields__} == {0.0}
    assert len(RATES) == 6


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_a_rate_that_cannot_be(name, value):
    with pytest.raises(ConfigError, match=f"{name} is a dropout rate, .* got {value}"):
        Regularisation(**{name: value})


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_a_penalty_that_cannot_be(name, value):
    with pytest.raises(ConfigError, match=f"{name} is a weight .* got {value}"):
        Regularisation(**{name: value})
    assert getattr(Regularisation(**{name: 2.0}), name) == 2.0  # as AWD-LSTM's alpha


# ------------------------------------------------------------------------------------------------------- dropout ----


def test_locked_dropout_has_one_mask_for_all_steps():
    torch.manual_seed(0)
    dropped = locked_dropout(torch.ones(5, 40, 50), 0.2)
    assert torch.equal(dropped, dropped[:1].expand(5, 40, 50))
    assert {round(value, 6) for value in dropped.unique().tolist()} == {0.0, 1.25}
    # 2000 draws: the mean of the factor is 1, its standard deviation 0.5
    assert float(dropped[0].mean()) == pytest.approx(1, abs=4 * 0.5 / math.sqrt(2000))
    assert not torch.equal(dropped[:, 0], dropped[:, 1])  # each stream has a mask of its own


def test_locked_dropout_multiplies_and_derives_by_its_mask():
    x = torch.randn(4, 2, 6, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    mask = (torch.empty(1, 2, 6, dtype=torch.float64).bernoulli_(0.7) / 0.7).expand(4, 2, 6)
    torch.manual_seed(3)
    out = locked_dropout(x, 0.3)
    torch.testing.assert_close(out, x * mask, rtol=1e-15, atol=0)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), x)[0], mask, rtol=1e-15, atol=0)


def test_words_lose_their_whole_row():
    torch.manual_seed(0)
    factor = word_dropout(torch.randn(3000, 4), 0.1)
    assert factor.shape == (3000, 1)
    assert {round(value, 5) for value in factor.unique().tolist()} == {0.0, round(1 / 0.9, 5)}
    assert float((factor == 0).float().mean()) == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / 3000))


def test_what_is_off_draws_nothing():
    state, x, core = torch.get_rng_state(), torch.randn(2, 2, 2), nn.GRU(2, 2)
    state = torch.get_rng_state()
    assert locked_dropout(x, 0.0) is x
    assert weight_drop(core, 0.0) is core is state_dropout(core, 0.0)
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------------- dropout of the state and weight drop ----

MIXED = [[("add", "identity"), ("hadamard", "tanh"), ("add", "sigmoid"), ("hadamard", "relu")], [("add", "tanh")]]
GENOTYPE = Genotype((Node((Op("add", "tanh", 0.4), Op("hadamard", "sigmoid", 0.6))), Node((Op("add", "relu", 1.0),))))


def backbone(backend, *, highway=True, share_projection=True, inputs=3, hidden=5):
    return Backbone.from_ops(
        inputs,
        hidden,
        MIXED,
        highway=highway,
        share_projection=share_projection,
        generator=torch.Generator().manual_seed(1),
        backend=backend,
    )


def seeded(make):
    torch.manual_seed(1)
    return make()


BACKENDS = [
    "reference",
    "torch",
    "native",
    pytest.param("triton", marks=pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")),
]
CORES = {
    "lstm": (lambda: nn.LSTM(3, 5), {"weight_hh_l0"}),
    "gru": (lambda: nn.GRU(3, 5), {"weight_hh_l0"}),
    "derived": (lambda: GrownRNN(GENOTYPE, 3, 5), {f"layers.0.{node}.W_h" for node in (0, 1)}),
    "dag": (lambda: GrownRNN(Genotype.load("darts_v2"), 3, 5), {"layers.0.W_h"}),
    "dag supernet": (lambda: DagBackbone(3, 5, 2), {"W_h", "nodes.0.W_h", "nodes.1.W_h"}),
    "stack": (
        lambda: Stack([nn.LSTM(3, 4), backbone("auto", inputs=4), nn.GRU(5, 2)]),
        {"layers.0.weight_hh_l0", "layers.2.weight_hh_l0"}
        | {f"layers.1.nodes.{node}.{matrix}" for node in (0, 1) for matrix in ("W_h", "gate_h")},
    ),
}


def check(core, dropped, rate=0.4):
    """Compare a twin with a copy whose weights are masked by hand: values and gradients, both with the same masks."""
    core = core.double()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 4, 3, dtype=torch.float64, generator=generator)
    before = {name: one.clone() for name, one in core.state_dict().items()}
    plain, _ = core(x)
    torch.manual_seed(9)
    out, _ = weight_drop(core, rate)(x)
    factor = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    found = dict(
        zip(
            dict(core.named_parameters()),
            torch.autograd.grad((factor * out).sum(), core.parameters(), materialize_grads=True),
            strict=True,
        )
    )

    masked, masks = copy.deepcopy(core), {}
    torch.manual_seed(9)
    with torch.no_grad():
        for name, one in masked.named_parameters():
            if name in dropped:
                masks[name] = torch.empty(one.shape, dtype=one.dtype).bernoulli_(1 - rate) / (1 - rate)
                one *= masks[name]
    wanted, _ = masked(x)
    raw = torch.autograd.grad((factor * wanted).sum(), masked.parameters(), materialize_grads=True)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-14)
    for (name, _), gradient in zip(masked.named_parameters(), raw, strict=True):
        torch.testing.assert_close(found[name], gradient * masks.get(name, 1.0), rtol=1e-11, atol=1e-13)
    assert set(masks) == dropped
    assert all((masks[name] == 0).any() and (found[name] != 0).any() for name in dropped)

    # the core is as it was: its parameters, their names, what it computes, and that it can be copied
    assert not torch.equal(out, plain)
    assert torch.equal(core(x)[0], plain)
    assert torch.equal(copy.deepcopy(core)(x)[0], plain)
    after = core.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", CORES)
def test_weight_drop_of_any_core(name):
    make, dropped = CORES[name]
    check(seeded(make), dropped)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("switches", [{}, {"highway": False, "share_projection": False}], ids=["both", "neither"])
def test_weight_drop_is_honoured_by_every_backend(backend, switches):
    if backend == "triton" and not triton_loop._kernels().INTERPRETED:
        pytest.skip("kernels are interpreted on the CPU with TRITON_INTERPRET=1")
    core = backbone(backend, **switches)
    matrices = ("W_h",) if switches else ("W_h", "gate_h")
    check(core, {f"nodes.{node}.{matrix}" for node in (0, 1) for matrix in matrices})
    assert core.chosen_backend == backend


def test_of_a_nodes_parameters_those_that_multiply_a_state_are_dropped():
    names = {name for name, _ in backbone("auto").nodes[0].named_parameters()}
    assert names == {"W_x", "b_x", "W_h", "b_h", "gate_x", "gate_h", "alpha"}  # a new one is to be thought of
    assert {name for name in names if RECURRENT.fullmatch(name)} == {"W_h", "gate_h"}


def gated(s, read, W, function):
    c, z = (read @ W).chunk(2, -1)
    return s + torch.sigmoid(c) * (function(z) - s)


def supernet_by_hand(core, x, h, mask):
    """DARTS' search cell: the states that the matrices read are masked, those that pass the gates are not."""
    c, z = (x @ core.W_x + (h * mask) @ core.W_h).chunk(2, -1)
    states, shares = [h + torch.sigmoid(c) * (torch.tanh(z) - h)], iter(core.shares)
    for node in core.nodes:
        s = 0
        for source, edge in zip(list(states), node.edges, strict=True):
            for op, share in zip(edge.ops, next(shares), strict=True):
                s = s if op == "none" else s + share * gated(source, source * mask, node.W_h, ACTIVATION[op].f)
        states.append(s)
    return torch.stack(states[1:]).mean(0)


def derived_by_hand(core, x, h, mask):
    (layer,) = core.layers
    c, z = (x @ layer.W_x + (h * mask) @ layer.W_h[0]).chunk(2, -1)
    states = [h + torch.sigmoid(c) * (torch.tanh(z) - h)]
    for node, W in zip(core.genotype.nodes, layer.W_h[1:], strict=True):
        s = states[node.reads]
        states.append(gated(s, s * mask, W, ACTIVATION[node.activation].f))
    return torch.stack([states[i] for i in core.genotype.concat]).mean(0)


def chain_by_hand(core, x, s, mask):
    for node, shares in enumerate(core.shares):
        read, mixed = s * mask, 0
        for op, ((combine, activation), share) in enumerate(zip(core.op_names(node), shares, strict=True)):
            own = core.op_parameters(node, op)
            a, b = x @ own["W_x"] + own["b_x"], read @ own["W_h"]
            z = a + b if combine == "add" else a * (b + own["b_h"])
            mixed = mixed + share * ACTIVATION[activation].f(z)
        s = mixed
    return s


def gru_by_hand(core, x, h, mask):
    a = x @ core.weight_ih_l0.T + core.bias_ih_l0
    b = (h * mask) @ core.weight_hh_l0.T + core.bias_hh_l0
    (a_r, a_z, a_n), (b_r, b_z, b_n) = a.chunk(3, -1), b.chunk(3, -1)
    z = torch.sigmoid(a_z + b_z)
    return (1 - z) * torch.tanh(a_n + torch.sigmoid(a_r + b_r) * b_n) + z * h


@pytest.mark.parametrize(
    ("make", "by_hand"),
    [
        *((partial(DagBackbone, 3, 5, 3, backend=backend), supernet_by_hand) for backend in BACKENDS[:3]),
        *((partial(backbone, backend, highway=False), chain_by_hand) for backend in BACKENDS[:3]),
        (partial(GrownRNN, Genotype.load("darts_v2"), 3, 5), derived_by_hand),
        (partial(nn.GRU, 3, 5), gru_by_hand),
    ],
    ids=[f"{kind}-{backend}" for kind in ("dag", "chain") for backend in BACKENDS[:3]] + ["derived dag", "gru"],
)
def test_units_of_the_state_are_dropped_where_matrices_read_it(make, by_hand):
    core, rate = seeded(make).double(), 0.4
    x = torch.randn(6, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(9)
    out, _ = state_dropout(core, rate)(x)
    torch.manual_seed(9)
    mask = torch.empty(5, dtype=torch.float64).bernoulli_(1 - rate) / (1 - rate)
    assert 0 < (mask == 0).sum() < 5
    h, wanted = torch.zeros(4, 5, dtype=torch.float64), []
    for x_t in x:
        h = by_hand(core, x_t, h, mask)
        wanted.append(h)
    torch.testing.assert_close(out, torch.stack(wanted), rtol=1e-11, atol=1e-13)
    weights = list(core.parameters())
    losses = [states.square().sum() for states in (out, torch.stack(wanted))]
    found, true = (torch.autograd.grad(loss, weights, materialize_grads=True) for loss in losses)
    for one, other in zip(found, true, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_each_layer_draws_a_mask_of_its_own():
    core = seeded(lambda: Stack([nn.GRU(3, 40), GrownRNN(GENOTYPE, 40, 40)]))
    dropped = state_dropout(core, 0.5)
    rows = [(one.layers[0].weight_hh_l0 == 0).all(0) for one in (core, dropped)]
    below = [(node.W_h == 0).flatten(1).all(1) for node in dropped.layers[1].layers[0]]
    assert not rows[0].any()
    assert all(10 < one.sum() < 30 for one in (rows[1], *below))
    assert torch.equal(*below)
    assert not torch.equal(rows[1], below[0])


def test_an_optimizer_moves_the_raw_weights():
    """A dropped weight has no gradient; the others are those that the optimiser and a checkpoint know."""
    core = seeded(lambda: nn.LSTM(3, 5))
    optimizer = torch.optim.SGD(core.parameters(), lr=1.0)
    before = core.weight_hh_l0.detach().clone()
    torch.manual_seed(4)
    out, _ = weight_drop(core, 0.5)(torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0)))
    out.sum().backward()
    optimizer.step()
    torch.manual_seed(4)
    kept = torch.empty(before.shape).bernoulli_(0.5).bool()
    assert torch.equal(core.weight_hh_l0[~kept], before[~kept])
    assert (core.weight_hh_l0[kept] != before[kept]).all()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_pytorchs_layers_get_memory_of_their_own(kind):
    """On CUDA they lay their weights together in it; the core's must stay where they are."""
    core = kind(3, 5)
    twin = weight_drop(core, 0.5)
    assert not {one.data_ptr() for one in twin.parameters()} & {one.data_ptr() for one in core.parameters()}
    assert len(list(twin.parameters())) == len(list(core.parameters())) == 4


def test_a_core_without_recurrent_matrices_is_refused():
    for name, drop in (("weight_drop", weight_drop), ("dropout_state", state_dropout)):
        with pytest.raises(ConfigError, match=rf"{name} = 0\.5 finds no recurrent matrix in Linear"):
            drop(nn.Linear(3, 3), 0.5)
