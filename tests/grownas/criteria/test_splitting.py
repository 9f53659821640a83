"""Splitting matrices' eigenpairs, against matrices formed by automatic second derivatives and against real splits."""

from __future__ import annotations

import gc
import itertools
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import hessian, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from grownas.backbones.chain import Backbone
from grownas.criteria import splitting
from grownas.criteria.splitting import (
    RULES,
    Splitting,
    choose_ops,
    find_step,
    judge_ops,
    lowest_eigenpairs,
    neg_count,
    neg_sum,
    predicted_change,
)
from grownas.errors import TrainingError
from grownas.morphisms import split_op
from grownas.ops import DEFAULT_OPS

# torch's own, where vmap is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

PHI = {"identity": lambda z: 1 * z, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}
FLAT = [("add", "identity"), ("add", "relu")]
CURVED = [op for op in DEFAULT_OPS if op not in FLAT]
SMOOTH = [("add", "tanh"), ("add", "sigmoid"), *(("hadamard", phi) for phi in ("identity", "tanh", "sigmoid"))]
SWITCHES = [{}, {"highway": True}, {"share_projection": True}, {"highway": True, "share_projection": True}]
NETS = {  # node and op of the op that is judged, and all nodes' ops
    "alone": lambda op: ((0, 0), [[op]]),
    "first of two": lambda op: ((0, 8), [[*DEFAULT_OPS, op], [("add", "tanh"), ("hadamard", "sigmoid")]]),
    "in the midst of three": lambda op: ((1, 1), [[("add", "identity")], [("add", "relu"), op, op], DEFAULT_OPS]),
    "last of three": lambda op: ((2, 0), [DEFAULT_OPS, [("hadamard", "tanh")], [op, ("add", "identity")]]),
}


def make(ops, *, inputs=3, hidden=4, seed=0, **switches):
    generator = torch.Generator().manual_seed(seed)
    backbone = Backbone.from_ops(inputs, hidden, ops, generator=generator, **switches).double()
    with torch.no_grad():
        for alpha in backbone.alpha:
            alpha.copy_(torch.randn(alpha.shape, generator=generator))
    return backbone


def draw_batches(count=2, *, T=7, B=3, inputs=3, hidden=4, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [(draw(T, B, inputs), draw(T, B, 2), draw(1, B, hidden)) for _ in range(count)]


READOUT = torch.tensor([[0.7, -1.1, 0.4, 0.9, -0.3, 0.8], [-0.5, 0.3, 1.2, -0.8, 0.6, 0.2]], dtype=torch.float64)


def loss_fn(out, target):
    """A loss with curvature of its own."""
    readout = READOUT[:, torch.arange(out.shape[2]) % 6].to(out.dtype)
    return (out @ readout.T - target).square().mean() + 0.1 * out.pow(4).mean()


def mean_loss(backbone, batches):
    with torch.no_grad():
        return sum(float(loss_fn(backbone(x, h_0)[0], target)) for x, target, h_0 in batches) / len(batches)


def follow(backbone, x, target, h_0, node, op):
    """Return what a node reads, `(T*B, I + H)`, and the loss's gradient in an op's outputs, `(T*B, H)`.

    The cell is computed here anew, so that the op's outputs are within reach of autograd.
    """
    states, s, outputs, inputs = [], h_0[0], [], []
    for x_t in x:
        for number, mixed in enumerate(backbone.mixed_nodes()):
            values = []
            for k, (combine, activation) in enumerate(backbone.op_names(number)):
                own = backbone.op_parameters(number, k)
                p, q = x_t @ own["W_x"] + own["b_x"], s @ own["W_h"]
                values.append(PHI[activation](p + q if combine == "add" else p * (q + own["b_h"])))
            if number == node:
                outputs.append(values[op])
                inputs.append(torch.cat([x_t, s], 1).detach())
            new = sum(share * value for share, value in zip(torch.softmax(mixed.alpha, 0), values, strict=True))
            if mixed.highway:
                gate = torch.sigmoid(x_t @ mixed.gate_x + s @ mixed.gate_h)
                new = (1 - gate) * s + gate * new
            s = new
        states.append(s)
    return torch.cat(inputs), torch.cat(torch.autograd.grad(loss_fn(torch.stack(states), target), outputs))


def thetas(backbone, node, op):
    """Return the units' own parameters, `(H, D)`."""
    own = backbone.op_parameters(node, op)
    names = ["W_x", "b_x", "W_h", "b_h"][: len(own)]
    return torch.cat([own[name].detach().reshape(-1, backbone.hidden_size) for name in names]).T


def output_of(backbone, node, op, phi):
    """Return an op's unit as a function of its own parameters and of what it reads."""
    inputs, combine = backbone.input_size, backbone.op_names(node)[op][0]

    def output(theta, sample):
        x, s = sample[:inputs], sample[inputs:]
        p = theta[:inputs] @ x + theta[inputs]
        return phi(p + theta[inputs + 1 :] @ s if combine == "add" else p * (theta[inputs + 1 : -1] @ s + theta[-1]))

    return output


def form(backbone, samples, g, node, op, phi):
    """Return all units' sums of their output's Hessian times g, `(H, D, D)`."""
    output = output_of(backbone, node, op, phi)
    hessians = [vmap(hessian(output), (None, 0))(theta, samples) for theta in thetas(backbone, node, op)]
    return torch.stack([torch.einsum("n,nab->ab", g[:, i], one) for i, one in enumerate(hessians)])


def brute_force(backbone, batches, node, op):
    """Return S of all units `(H, D, D)`."""
    phi = PHI[backbone.op_names(node)[op][1]]
    return sum(form(backbone, *follow(backbone, *one, node, op), node, op, phi) for one in batches) / len(batches)


def softened(backbone, batches, node, op):
    """Return S with softplus's curvature in place of relu's: softplus's own S, less what the slopes differ by."""
    total = 0
    for one in batches:
        samples, g = follow(backbone, *one, node, op)
        read = vmap(vmap(output_of(backbone, node, op, PHI["identity"]), (None, 0)), (0, None))
        z = read(thetas(backbone, node, op), samples).T
        excess = g * (torch.sigmoid(z) - (z > 0).double())
        total = total + form(backbone, samples, g, node, op, torch.nn.functional.softplus)
        total = total - form(backbone, samples, excess, node, op, PHI["identity"])
    return total / len(batches)


def check(found, matrices):
    """Eigenvalues to 1e-6 relative, and vectors of length 1 that belong to them."""
    every = torch.linalg.eigvalsh(matrices)
    scale = every.abs().amax(1)
    assert found.eigenvalues.dtype == found.eigenvectors.dtype == torch.float64
    assert found.eigenvectors.shape == matrices.shape[:2]
    assert ((found.eigenvalues - every[:, 0]).abs() <= 1e-6 * every[:, 0].abs() + 1e-13 * scale).all()
    vectors = found.eigenvectors.unsqueeze(2)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones_like(vectors[:, 0]), rtol=0, atol=1e-12)
    residual = (matrices @ vectors).squeeze(2) - found.eigenvalues.unsqueeze(1) * found.eigenvectors
    assert (residual.norm(dim=1) <= 1e-3 * scale).all()


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("op", CURVED, ids="/".join)
def test_eigenvalues_are_those_of_the_matrices(op, net):
    (node, number), ops = NETS[net](op)
    backbone, batches = make(ops), draw_batches()
    matrices = brute_force(backbone, batches, node, number)
    assert (torch.linalg.eigvalsh(matrices)[:, 0] < 0).any()
    check(lowest_eigenpairs(backbone, loss_fn, batches, node, number), matrices)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("op", CURVED, ids="/".join)
@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_eigenvalues_under_the_switches(op, switches, backend):
    (node, number), ops = NETS["in the midst of three"](op)
    backbone, batches = make(ops, backend=backend, **switches), draw_batches()
    check(lowest_eigenpairs(backbone, loss_fn, batches, node, number), brute_force(backbone, batches, node, number))


@pytest.mark.parametrize("op", CURVED, ids="/".join)
def test_eigenvalues_where_blocks_do_not_span_the_space(op):
    backbone, batches = make([[op, ("add", "identity")]] * 2, inputs=9, hidden=21), draw_batches(inputs=9, hidden=21)
    assert splitting.VECTORS < 9 + 1 + 21
    for node in range(2):
        check(lowest_eigenpairs(backbone, loss_fn, batches, node, 0), brute_force(backbone, batches, node, 0))


@pytest.mark.parametrize("sizes", [{"hidden": 1}, {"inputs": 1}, {"inputs": 1, "hidden": 1}], ids=str)
@pytest.mark.parametrize("op", CURVED, ids="/".join)
def test_the_smallest_sizes(op, sizes):
    backbone = make([[op], [("add", "tanh"), op]], **sizes)
    batches = draw_batches(1, T=1, B=1, **sizes)
    for node, number in ((0, 0), (1, 1)):
        found = lowest_eigenpairs(backbone, loss_fn, batches, node, number)
        check(found, brute_force(backbone, batches, node, number))


@pytest.mark.parametrize("op", FLAT, ids="/".join)
def test_what_is_linear_is_not_worked_on(op):
    def never(out, target):
        raise AssertionError

    found = lowest_eigenpairs(make([[op, op]]), never, draw_batches(), 0, 1)
    assert torch.equal(found.eigenvalues, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(found.eigenvectors.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert predicted_change(found.eigenvalues, 1.0) == 0
    assert brute_force(make([[op, op]]), draw_batches(), 0, 1).abs().max() == 0


@pytest.mark.parametrize("combine", ["add", "hadamard"])
def test_relu_can_be_given_the_curvature_of_softplus(combine):
    backbone, batches = make([[(combine, "relu"), ("add", "tanh")]] * 2), draw_batches()
    for node in range(2):
        matrices = softened(backbone, batches, node, 0)
        check(lowest_eigenpairs(backbone, loss_fn, batches, node, 0, curvature="softplus"), matrices)
        assert (matrices - brute_force(backbone, batches, node, 0)).abs().max() > 1e-3
    exact, soft = (lowest_eigenpairs(backbone, loss_fn, batches, 0, 1, curvature=one) for one in splitting.CURVATURE)
    assert torch.equal(exact.eigenvalues, soft.eigenvalues)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("op", SMOOTH, ids="/".join)
def test_a_split_changes_the_loss_as_predicted(op, net, switches):
    (node, number), ops = NETS[net](op)
    backbone, batches = make(ops, **switches), draw_batches()
    found = lowest_eigenpairs(backbone, loss_fn, batches, node, number)
    before, step = mean_loss(backbone, batches), 1e-3
    assert mean_loss(split_op(backbone, node, number, found, 0.0).backbone, batches) == pytest.approx(before, abs=1e-14)
    predicted = predicted_change(found.eigenvalues, step)
    assert predicted == pytest.approx(step**2 / 2 * found.eigenvalues[found.eigenvalues < 0].sum().item())
    measured = mean_loss(split_op(backbone, node, number, found, step).backbone, batches) - before
    assert predicted < -1e-10
    assert measured / predicted == pytest.approx(1, abs=0.01)


def test_a_loose_tolerance_predicts_its_own_split_as_well():
    backbone, batches = make([[("hadamard", "tanh")]], inputs=9, hidden=21), draw_batches(inputs=9, hidden=21)
    exact = lowest_eigenpairs(backbone, loss_fn, batches, 0, 0)
    loose = judge_ops(backbone, loss_fn, batches, tolerance=0.3)[0, 0]
    assert neg_sum(exact.eigenvalues) < 1.0001 * neg_sum(loose.eigenvalues)
    measured = mean_loss(split_op(backbone, 0, 0, loose, 1e-3).backbone, batches) - mean_loss(backbone, batches)
    assert measured / predicted_change(loose.eigenvalues, 1e-3) == pytest.approx(1, abs=0.01)


def test_few_passes_bound_the_cost():
    backbone, batches = make([DEFAULT_OPS], inputs=30, hidden=30), Drawn(2, inputs=30, hidden=30)
    found = judge_ops(backbone, loss_fn, batches, tolerance=0.0, passes=2)
    assert batches.passes == 2
    better = judge_ops(backbone, loss_fn, batches)
    assert batches.passes <= 2 + splitting.PASSES_TO_RANK
    assert all(neg_sum(better[place].eigenvalues) <= neg_sum(one.eigenvalues) for place, one in found.items())


def test_what_is_not_known_after_very_many_passes_is_told(monkeypatch):
    monkeypatch.setattr(splitting, "PASSES", 1)
    backbone, batches = make([[("add", "tanh")]], inputs=30, hidden=6), draw_batches(inputs=30, hidden=6)
    with pytest.warns(
        RuntimeWarning, match="6 lowest eigenvalues of node 0, op 0 have not reached the tolerance 1e-07 after 1 passes"
    ):
        lowest_eigenpairs(backbone, loss_fn, batches, 0, 0)


def test_splits_of_several_ops_add_up():
    backbone, batches = make([[("add", "tanh"), ("hadamard", "sigmoid")], [("hadamard", "tanh")]]), draw_batches()
    found = judge_ops(backbone, loss_fn, batches)
    grown, step = backbone, 1e-3
    for (node, op), one in found.items():
        grown = split_op(grown, node, op, one, step).backbone
    predicted = sum(predicted_change(one.eigenvalues, step) for one in found.values())
    assert mean_loss(grown, batches) - mean_loss(backbone, batches) == pytest.approx(predicted, rel=0.01)


def same(one, other, tolerance=1e-9):
    torch.testing.assert_close(one.eigenvalues, other.eigenvalues, rtol=tolerance, atol=1e-14)
    aligned = (one.eigenvectors * other.eigenvectors).sum(1).abs()
    torch.testing.assert_close(aligned, torch.ones_like(aligned), rtol=0, atol=1e-6)


@pytest.mark.parametrize("op", CURVED, ids="/".join)
def test_many_batches_are_one_with_all_sequences(op):
    backbone, many = make([[op, ("add", "tanh")]] * 2), draw_batches(5)
    one = [tuple(torch.cat(parts, 1) for parts in zip(*many, strict=True))]
    same(*(lowest_eigenpairs(backbone, mean_square, batches, 1, 0) for batches in (many, one)))


def mean_square(out, target):
    return (out @ READOUT[:, :4].T - target).square().mean()


def test_all_ops_together_are_each_alone():
    backbone, batches = make([DEFAULT_OPS] * 2), draw_batches()
    together = judge_ops(backbone, loss_fn, batches, tolerance=1e-9, passes=9)
    assert list(together) == [(node, op) for node in range(2) for op in range(8)]
    for (node, op), found in together.items():
        alone = lowest_eigenpairs(backbone, loss_fn, batches, node, op)
        torch.testing.assert_close(found.eigenvalues, alone.eigenvalues, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize(("op", "lowest"), [(("hadamard", "identity"), -2.0), (("add", "tanh"), None)])
def test_an_eigenvalue_that_is_there_twice(op, lowest):
    """Two samples that are orthogonal in what units read, with the same weight: the matrix has rank 2 or 4."""
    backbone = make([[op]])
    for name, value in backbone.op_parameters(0, 0).items():
        backbone.load_op_parameters(0, 0, {name: torch.full_like(value, 0.5 if name == "b_x" else 0.0)})
    x, h_0 = torch.zeros(1, 2, 3, dtype=torch.float64), torch.zeros(1, 2, 4, dtype=torch.float64)
    x[0, :, 0] = torch.tensor([1.0, -1.0])  # orthogonal together with the 1 of the bias
    h_0[0, 0, 0] = 1
    h_0[0, 1] = torch.tensor([0.0, 1, 0, 0]) if op[0] == "add" else torch.tensor([-1.0, 0, 0, 0])
    if lowest is None:  # phi''(0.5) times |[x; 1; s]|^2
        lowest = 3 * -2 * math.tanh(0.5) * (1 - math.tanh(0.5) ** 2)
    batches = [(x, None, h_0)]
    found = lowest_eigenpairs(backbone, lambda out, target: out.sum(), batches, 0, 0)
    torch.testing.assert_close(found.eigenvalues, torch.full((4,), lowest, dtype=torch.float64), rtol=1e-12, atol=0)
    samples = torch.cat([x[0], h_0[0]], 1)
    matrices = form(backbone, samples, torch.ones(2, 4, dtype=torch.float64), 0, 0, PHI[op[1]])
    assert (torch.linalg.eigvalsh(matrices)[:, 1] - lowest).abs().max() < 1e-12
    check(found, matrices)


def test_units_that_do_not_matter_have_nothing_to_gain():
    backbone, batches = make([[("hadamard", "tanh"), ("add", "identity")]]), draw_batches()
    for number in range(2):
        backbone.load_op_parameters(0, number, {"W_h": torch.zeros(4, 4)})

    def of_the_first_unit(out, target):
        return (out[..., 0] - target[..., 0]).square().mean()

    found = lowest_eigenpairs(backbone, of_the_first_unit, batches, 0, 0)
    assert found.eigenvalues[0] < 0
    assert found.eigenvalues[1:].tolist() == [0, 0, 0]


def test_h_0_may_be_left_out_and_batches_may_be_an_iterator():
    backbone, batches = make([[("add", "tanh")]]), draw_batches(3)
    zeros = [(x, target, torch.zeros_like(h_0)) for x, target, h_0 in batches]
    left_out = ((x, target, None) for x, target, _ in batches)
    same(*(lowest_eigenpairs(backbone, loss_fn, one, 0, 0) for one in (zeros, left_out)))


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_nothing_is_left_behind(switches):
    backbone, batches = make([DEFAULT_OPS], **switches), draw_batches()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)  # as a readout's weight would
    before, state = {name: one.clone() for name, one in backbone.state_dict().items()}, torch.get_rng_state()
    judge_ops(backbone, lambda out, target: loss_fn(scale * out, target), batches)
    assert torch.equal(torch.get_rng_state(), state)
    assert scale.grad is None
    assert all(parameter.requires_grad and parameter.grad is None for parameter in backbone.parameters())
    assert all(torch.equal(one, before[name]) for name, one in backbone.state_dict().items())
    with torch.no_grad():
        judge_ops(backbone, loss_fn, batches)


def test_float32_weights_are_judged_in_float64():
    backbone, batches = make([[("add", "tanh"), ("hadamard", "tanh")]] * 2).float(), draw_batches()
    rounded = [(x.float(), target.float(), h_0.float()) for x, target, h_0 in batches]

    def of_float32(out, target):
        assert out.dtype == torch.float32
        return loss_fn(out, target)

    found = lowest_eigenpairs(backbone, of_float32, rounded, 0, 1)
    exact = [(x.double(), target.double(), h_0.double()) for x, target, h_0 in rounded]
    matrices = brute_force(backbone.double(), exact, 0, 1)
    every = torch.linalg.eigvalsh(matrices)
    assert ((found.eigenvalues - every[:, 0]).abs() < 1e-6 * every.abs().amax(1)).all()


class Live(TorchDispatchMode):
    """Follows the bytes of all tensors that are alive, of those that are made under it."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in {
                arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)
            }:
                size = one.numel() * one.element_size()
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(one.untyped_storage(), self.forget, size)
        return made

    def forget(self, size):
        self.now -= size


class Drawn:
    """Batches that are drawn when they are asked for, the same each time."""

    def __init__(self, count, **sizes):
        self.count, self.sizes, self.passes = count, sizes, 0

    def __iter__(self):
        self.passes += 1
        for seed in range(self.count):
            yield draw_batches(1, T=20, B=16, seed=seed, **self.sizes)[0]


def test_memory_does_not_grow_with_the_number_of_batches():
    backbone, most = make([DEFAULT_OPS] * 2), []
    for count in (2, 20):
        gc.collect()
        batches = Drawn(count)
        with Live() as live:
            judge_ops(backbone, loss_fn, batches)
        assert 2 <= batches.passes <= splitting.PASSES_TO_RANK
        most.append(live.most)
    batch = 8 * 20 * 16 * (3 + 2 * 4)  # of x, and of what one node reads and where it is pulled
    assert most[0] > batch
    assert most[1] - most[0] < 3 * batch


def test_what_is_wrong_is_said():
    backbone, batches = make([[("add", "tanh")]]), draw_batches()
    for place, words in (((1, 0), "nodes 0..0, got 1"), ((0, 1), "ops 0..0, got 1"), ((0, -1), "ops 0..0, got -1")):
        with pytest.raises(ValueError, match=words):
            lowest_eigenpairs(backbone, loss_fn, batches, *place)
    with pytest.raises(ValueError, match="unknown curvature 'soft'; choose exact, softplus"):
        lowest_eigenpairs(backbone, loss_fn, batches, 0, 0, curvature="soft")
    with pytest.raises(ValueError, match="passes must be at least 1, got 0"):
        judge_ops(backbone, loss_fn, batches, passes=0)
    with pytest.raises(ValueError, match="batches is empty"):
        lowest_eigenpairs(backbone, loss_fn, [], 0, 0)
    broken = [batches[0], (batches[1][0], batches[1][1] * math.nan, batches[1][2])]
    with pytest.raises(TrainingError, match="batch 1: the loss's gradient is not finite"):
        lowest_eigenpairs(backbone, loss_fn, broken, 0, 0)


def of(*eigenvalues):
    return Splitting(torch.tensor(eigenvalues, dtype=torch.float64), torch.zeros(len(eigenvalues), 1))


def test_rules():
    few_large, many_small, none = of(-9.0, 1.0, 1.0), of(-1.0, -1.0, 0.0), of(0.0, 1.0, 0.0)
    found = {(0, 1): few_large, (0, 0): many_small, (1, 0): none}
    assert [neg_count(one.eigenvalues) for one in found.values()] == [1, 2, 0]
    assert [neg_sum(one.eigenvalues) for one in found.values()] == [-9, -2, 0]
    assert choose_ops(found, "neg_count") == [(0, 0)]
    assert choose_ops(found, "neg_sum") == [(0, 1)]
    assert choose_ops(found, "neg_sum", count=3) == [(0, 1), (0, 0)]
    assert choose_ops({(1, 0): none}, "neg_sum") == []
    assert predicted_change(few_large.eigenvalues, 0.1) == pytest.approx(-0.045)
    with pytest.raises(ValueError, match="unknown rule 'sum'; choose neg_count, neg_sum"):
        choose_ops(found, "sum")


def test_equal_counts_are_told_apart_by_their_sums_and_equal_ops_by_their_places():
    assert choose_ops({(0, 0): of(-1.0, -1.0), (0, 1): of(-1.0, -2.0)}, "neg_count") == [(0, 1)]
    for rule, order in itertools.product(RULES, itertools.permutations([(1, 0), (0, 1), (0, 2)])):
        assert choose_ops({place: of(-1.0) for place in order}, rule, count=2) == [(0, 1), (0, 2)]


@given(st.floats(0.01, 100), st.floats(0.1, 100), st.floats(0.01, 10), st.floats(1e-4, 0.1))
def test_a_step_is_found_by_backtracking(curvature, higher, first, shortest):
    def loss_at(step):
        return 3 - curvature * step**2 / 2 + higher * step**4

    def predicted(step):
        return -curvature * step**2 / 2

    found = find_step(loss_at, predicted, first, least=0.5, shortest=shortest)
    enough = math.sqrt(curvature / higher) / 2  # the largest step that brings half of its prediction
    if found is None:
        assert first < shortest or shortest * 2 > enough * (1 - 1e-6)  # no halving of the first lies between the two
    else:
        assert found.step >= shortest
        assert found.step <= enough * (1 + 1e-6)
        assert found.step == first or 2 * found.step > enough * (1 - 1e-6)
        assert found.predicted == predicted(found.step)
        assert found.measured == loss_at(found.step) - 3


def test_no_step_is_found_where_none_brings_anything():
    assert find_step(lambda step: 1 + step, lambda step: -(step**2)) is None
    assert find_step(lambda step: 1.0, lambda step: 0.0) is None
    tried = []
    assert find_step(lambda step: tried.append(step) or math.nan, lambda step: -1.0, 1.0, shortest=0.25) is None
    assert tried == [0.0, 1.0, 0.5, 0.25]


def test_a_step_that_is_not_finite_is_passed_over():
    found = find_step(lambda step: math.nan if step > 0.3 else -(step**2), lambda step: -(step**2))
    assert found.step == 0.25


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_a_step_found_on_a_cell_lowers_its_loss(seed):
    backbone, batches = make([[("hadamard", "tanh"), ("add", "tanh")]], seed=seed), draw_batches(seed=seed)
    found = judge_ops(backbone, loss_fn, batches)
    (place,) = choose_ops(found)
    step = find_step(
        lambda step: mean_loss(split_op(backbone, *place, found[place], step).backbone, batches),
        lambda step: predicted_change(found[place].eigenvalues, step),
    )
    assert step.measured <= step.predicted / 2 < 0
