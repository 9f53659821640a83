"""What given shares and a skip promise of both supernets."""

from __future__ import annotations

import torch


def assert_given_shares_and_skip_leave_no_trace(backbone, x):
    """Both change the output and nothing that is saved; without them it is as before to the last bit."""
    before, saved = backbone(x)[0], set(backbone.state_dict())
    backbone.set_shares([torch.full_like(alpha, 0.1) for alpha in backbone.alpha])
    backbone.set_skip(0.5)
    assert not torch.equal(backbone(x)[0], before)
    assert set(backbone.state_dict()) == saved
    backbone.set_shares([torch.softmax(alpha.detach(), 0) for alpha in backbone.alpha])
    backbone.set_skip(0)
    assert torch.equal(backbone(x)[0], before)
    backbone.set_shares(None)
    assert torch.equal(backbone(x)[0], before)
