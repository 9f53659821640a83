"""The supernet of blocks: its mixtures, its state, what is read out, and what is derived."""

from __future__ import annotations

import pytest
import torch

from grownas.backbones.blocks import BlocksBackbone
from grownas.blocks import DEFAULT_BLOCKS
from grownas.errors import GenotypeError
from grownas.protocols import Supernet

OPS = ("none", "delay(1)", "fir(3)", "polynomial(3)", "fir(2)-polynomial(3)-fir(2)")


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / 2


@pytest.fixture
def backbone():
    """Two cells of three nodes in float64."""
    made = BlocksBackbone([OPS] * 3, cells=2, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for i, alpha in enumerate(made.alpha):
            alpha.copy_(drawn(len(OPS), seed=i))
    return made


def test_it_is_a_supernet(backbone):
    assert isinstance(backbone, Supernet)
    assert len(backbone.alpha) == 2 + 3 + 4
    assert backbone.op_names(8) == [("block", op) for op in OPS]
    assert backbone.kept == 2 * (2 + 3 + 4) * (1 + 2 + 2)  # in each cell and edge: the delay, fir(3) and two fir(2)


def test_windows_in_a_row_equal_the_whole_sequence(backbone):
    x, parts, hidden = drawn(50, 2, 2), [], None
    for window in x.split((13, 1, 36)):
        out, hidden = backbone(window, hidden)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts), backbone(x)[0], atol=1e-13, rtol=1e-12)


def one_hot(backbone, genotype):
    """Shares of 1 for the ops of a genotype, and of 0 for all others, edge by edge."""
    found = []
    for i, node in enumerate(genotype.nodes):
        kept = {edge.reads: edge.op for edge in node.edges}
        found += [torch.tensor([float(op == kept.get(source)) for op in OPS]).double() for source in range(i + 2)]
    return found


def test_with_shares_of_one_it_is_the_derived_network(backbone):
    network, x = backbone.derive(), drawn(30, 2, 2)
    assert network.genotype == backbone.genotype()
    backbone.set_shares(one_hot(backbone, network.genotype))
    torch.testing.assert_close(backbone(x)[0], network(x)[0], atol=1e-13, rtol=1e-12)
    backbone.set_shares(None)
    assert not torch.allclose(backbone(x)[0], network(x)[0])


def test_a_node_keeps_its_two_strongest_edges_with_their_strongest_op():
    backbone = BlocksBackbone([OPS] * 2)
    shares = [
        [0.9, 0.01, 0.05, 0.02, 0.02], [0.2, 0.2, 0.1, 0.3, 0.2],  # node 0 has no other edges
        [0.1, 0.2, 0.3, 0.2, 0.2], [0.6, 0.04, 0.25, 0.06, 0.05], [0.1, 0.15, 0.2, 0.15, 0.4],
    ]  # fmt: skip
    with torch.no_grad():
        for alpha, own in zip(backbone.alpha, shares, strict=True):
            alpha.copy_(torch.tensor(own).log())
    nodes = [[(edge.reads, edge.op) for edge in node.edges] for node in backbone.genotype().nodes]
    assert nodes == [[(0, OPS[2]), (1, OPS[3])], [(0, OPS[2]), (2, OPS[4])]]


def test_cells_share_alpha_and_have_coefficients_of_their_own(backbone):
    names = [name for name, _ in backbone.named_parameters()]
    assert sum(name.endswith(".alpha") for name in names) == 9
    first, second = ({name[8:] for name in names if name.startswith(f"cells.{i}.")} for i in range(2))
    assert first == second
    own = backbone.op_parameters(4, 2)
    assert {name: one.shape for name, one in own.items()} == {"0.0": (3, 2), "1.0": (3, 2)}
    backbone.load_op_parameters(4, 2, {"1.0": torch.ones(3, 2)})
    assert torch.equal(backbone.op_parameters(4, 2)["1.0"], torch.ones(3, 2).double())
    assert torch.equal(backbone.op_parameters(4, 2)["0.0"], own["0.0"])


def test_a_new_supernet_keeps_the_scale_of_its_input():
    x = drawn(200, 4, 2).float()
    for nodes, cells in ((1, 1), (4, 1), (3, 3)):
        out, _ = BlocksBackbone([DEFAULT_BLOCKS] * nodes, cells=cells, generator=torch.Generator().manual_seed(1))(x)
        assert 0.3 < out.std() / x.std() < 2


def test_a_skip_adds_what_is_read(backbone):
    single = BlocksBackbone([("fir(1)",)]).double()
    x = drawn(9, 1, 2)
    before = single(x)[0]
    single.set_skip(0.25)
    torch.testing.assert_close(single(x)[0], before + 2 * 0.25 * x)
    with pytest.raises(ValueError, match="set_skip"):
        single.derive()


def test_it_does_not_grow(backbone):
    assert backbone.blend == [1.0] * 3
    backbone.blend = [1.0] * 3
    with pytest.raises(ValueError, match=r"blend of blocks must be \[1\.0, 1\.0, 1\.0\], got \[1\.0, 1\.0, 0\.5\]"):
        backbone.blend = [1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ([], "a network of blocks needs nodes, each with an op other than 'none'"),
        ([OPS, ("none",)], "a network of blocks needs nodes"),
        ([("fir(0)",)], r"'fir\(0\)': taps is 0"),
        ([[("gated", "tanh")]], "unknown op gated/'tanh' of a network of blocks; expected block and a name"),
    ],
    ids=["no nodes", "none alone", "size", "another backbone's"],
)
def test_what_cannot_form_a_network_is_quoted(ops, message):
    with pytest.raises(GenotypeError, match=message):
        BlocksBackbone(ops)
