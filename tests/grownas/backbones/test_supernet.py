"""Both supernets offer what `protocols.Supernet` says, so that a strategy needs to know neither."""

from __future__ import annotations

import inspect

import pytest
import torch

from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.config.loading import members
from grownas.protocols import Supernet

MADE = {
    "chain": lambda: Backbone(3, 4, 2, [("add", "tanh"), ("hadamard", "relu")]),
    "dag": lambda: DagBackbone(3, 4, 2, ["tanh", "none"]),
}


@pytest.mark.parametrize("kind", MADE)
def test_it_has_all_members_with_the_protocols_parameters(kind):
    net = MADE[kind]()
    assert isinstance(net, Supernet)
    for name in [one for one in members(Supernet) if one in vars(Supernet)]:
        ours, theirs = (getattr(one, name, None) for one in (type(net), Supernet))
        if inspect.isfunction(theirs):
            assert len(inspect.signature(ours).parameters) == len(inspect.signature(theirs).parameters), name
        elif isinstance(theirs, property):
            assert (ours.fset is None) == (theirs.fset is None), name


@pytest.mark.parametrize("kind", MADE)
def test_a_strategy_can_use_it_without_knowing_which_it_is(kind):
    net: Supernet = MADE[kind]()
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    before, _ = net(x)
    assert [len(net.op_names(number)) for number in range(len(net.alpha))] == [len(alpha) for alpha in net.alpha]
    shares = [torch.softmax(alpha.detach(), 0).requires_grad_() for alpha in net.alpha]
    net.set_shares(shares)
    net.set_skip(0.5)
    torch.autograd.grad(net(x)[0].square().sum(), shares)  # all of them are used
    net.set_shares(None)
    net.set_skip(0)
    assert torch.equal(net(x)[0], before)
    net.blend[1] = 0.5
    assert not torch.equal(net(x)[0], before)
    net.blend = [1, 1]
    net.load_op_parameters(1, 0, net.op_parameters(1, 0))
    assert net.derive(top_k=1).genotype == net.genotype(top_k=1)
    assert net.derive().genotype == net.genotype(top_k=None)
