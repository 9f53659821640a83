"""Networks of blocks: equal to NumPy, causal, the same in windows and steps as whole, and new near the identity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grownas.blocks_equations import blocks_text
from grownas.blocks_genotype import BlockEdge, BlockNode, BlocksGenotype
from grownas.cells import blocks
from grownas.cells.blocks import BlockOp, BlocksNetwork, fir
from support.blocks import SMALL
from support.following import Followed
from support.following_blocks import from_text, from_weights

T, B = 60, 3


@pytest.fixture
def network():
    """A network in float64 with coefficients that all matter."""
    made = BlocksNetwork(SMALL).double()
    for parameter in made.parameters():
        with torch.no_grad():
            parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(len(parameter)))
    return made


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / 2


def test_it_equals_numpy(network):
    x = drawn(T, B, 2)
    out, _ = network(x)
    tensors = {name: one.numpy() for name, one in network.state_dict().items()}
    wanted = from_weights(SMALL.to_dict(), tensors, x[..., 0].numpy() + 1j * x[..., 1].numpy())
    np.testing.assert_allclose(torch.view_as_complex(out.detach()).numpy(), wanted, atol=1e-12, rtol=1e-12)


def test_another_program_follows_its_equations(network):
    text, x = blocks_text(network, "sample"), drawn(T, B, 2, seed=1)
    read = Followed("\n".join(["begin", "dtype float64", *text.numbers, "end"]))
    found = from_text(read, torch.view_as_complex(x).numpy())
    wanted = torch.view_as_complex(network(x)[0].detach()).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=1e-12)
    shown = "\n".join(text.equations)
    assert "s_2 = fir(s_0, a[2,2,0,1]) + fir(polynomial(fir(s_1, a[2,2,1,1]), a[2,2,1,2]), a[2,2,1,3])" in shown
    assert "s_3 = delay(s_1, 2) + polynomial_all(s_2, a[1,3,2,1])" in shown
    assert "  y = (s_2 + s_3) / 2" in shown


@pytest.mark.parametrize(
    "lengths", [(60,), (25, 35), (1, 2, 3, 54), (20, 1, 1, 30, 1, 7), (8, 8, 8, 8, 28), (1,) * 60], ids=len
)
def test_windows_and_steps_in_a_row_equal_the_whole_sequence(network, lengths):
    x = drawn(T, B, 2)
    whole, last = network(x)
    parts, hidden = [], None
    for window in x.split(lengths):
        if len(window) > 1:
            out, hidden = network(window, hidden)
        else:
            sample, hidden = network.step(window[0], hidden)
            out = sample[None]
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(hidden, last, atol=1e-13, rtol=1e-12)


def test_the_state_holds_the_last_inputs_of_each_delay_line(network):
    x = drawn(T, B, 2)
    last = network(x)[1]
    in_a_cell = 2 + (1 + 3) + 2
    assert last.shape == (network.kept, B, 2) == (2 * in_a_cell, B, 2)
    assert torch.equal(last[:2], x[-2:])  # fir(3) of the input
    assert torch.equal(last[2:3], x[-1:])  # the first FIR of the second edge
    assert torch.equal(last[6:8], x[-2:])  # delay(2)


def test_a_step_computes_no_earlier_sample_again(network, monkeypatch):
    _, hidden = network(drawn(T, B, 2))
    sizes = []
    monkeypatch.setitem(blocks.APPLY, "fir", lambda x, taps: sizes.append(fir(x, taps).shape) or fir(x, taps))
    network.step(drawn(B, 2), hidden)
    assert sizes == [(1, B)] * SMALL.figures["firs"]


def test_a_network_without_memory_has_an_empty_state():
    node = BlockNode((BlockEdge(0, "polynomial(3)"), BlockEdge(1, "delay(0)")))
    out, last = BlocksNetwork(BlocksGenotype((node,)))(drawn(T, B, 2).float())
    assert (out.shape, last.shape) == ((T, B, 2), (0, B, 2))


def test_views_of_larger_tensors_are_read_as_their_copies(network):
    x, h_0 = drawn(T, B, 3)[..., :2], drawn(B, network.kept, 2).transpose(0, 1)
    assert torch.equal(network(x, h_0)[0], network(x.clone(), h_0.contiguous())[0])


def test_an_output_depends_on_as_many_samples_as_the_memory_says(network):
    x = drawn(T, 1, 2).requires_grad_()
    (slope,) = torch.autograd.grad(network(x)[0][40].sum(), x)
    (seen,) = slope.flatten(1).any(1).nonzero(as_tuple=True)
    assert (int(seen[0]), int(seen[-1])) == (40 - SMALL.memory, 40)


def test_a_new_network_is_near_the_identity():
    node = BlockNode((BlockEdge(0, "fir(5)"), BlockEdge(1, "fir(3)-polynomial(5)-fir(3)")))
    network = BlocksNetwork(BlocksGenotype((node, node), 3), generator=torch.Generator().manual_seed(0))
    x = drawn(T, B, 2).float()
    error = (network(x)[0] - x).square().mean() / x.square().mean()
    assert 0 < error < 0.02


def test_the_generator_draws_the_coefficients(network):
    one, other = (BlocksNetwork(SMALL, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    one.reset_parameters(torch.Generator().manual_seed(4))
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_coefficients_are_counted(network):
    in_a_cell = 3 + (2 + 3 + 4) + 0 + 4
    assert sum(one.numel() for one in network.parameters()) == 2 * 2 * in_a_cell


def test_gradients_are_those_of_differences(network):
    x, h_0 = drawn(12, 1, 2), drawn(network.kept, 1, 2, seed=1)
    assert torch.autograd.gradcheck(network, (x.requires_grad_(), h_0.requires_grad_()))
    first = next(one for one in network.modules() if isinstance(one, BlockOp) and len(one.coefficients) == 3)
    for own in first.coefficients.values():
        assert torch.autograd.gradcheck(lambda _: network(x.detach())[0], (own,))


@pytest.mark.parametrize(
    ("x", "h_0", "message"),
    [
        (torch.zeros(4, 2), None, r"x has shape \(4, 2\), expected \(T, B, 2\): I and Q of complex samples"),
        (torch.zeros(4, 1, 3), None, r"x has shape \(4, 1, 3\)"),
        (
            torch.zeros(4, 1, 2),
            torch.zeros(1, 1, 2),
            r"h_0 has shape \(1, 1, 2\), expected \(16, 1, 2\): the 16 samples in the",
        ),
    ],
    ids=["no batch", "features", "state"],
)
def test_wrong_shapes_are_quoted(x, h_0, message):
    with pytest.raises(ValueError, match=message):
        BlocksNetwork(SMALL)(x, h_0)
