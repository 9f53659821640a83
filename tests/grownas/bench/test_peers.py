"""What is timed is what the settings say: every backend, all gradients, and a floor of the same products."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grownas.bench import peers
from grownas.bench.settings import SPEED, SUPERNET
from grownas.cells.backends import BACKENDS, Backend

KINDS = ["supernet", "derived", "no_grad", "inference_mode"]


class Products(TorchDispatchMode):
    """Adds up the operations of matrix products. torch's own counter does not go with `autograd.grad`."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm"):
            left, right = args[-2:]
            self.operations += 2 * left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


def operations(call):
    with Products() as counter:
        call()
    return counter.operations


@pytest.mark.parametrize("kind", KINDS)
def test_the_floor_does_the_chains_products_and_no_others(tiny, kind):
    setting = tiny[kind]
    T, B, I, H = setting[1:5]  # noqa: E741
    ops = sum(map(len, setting.ops))
    forward = 2 * T * B * I * H * ops + 2 * T * B * H * H * ops
    assert setting.operations == (3 * forward if setting.gradients else forward)
    assert operations(peers.make_floor(setting)) == setting.operations


def test_the_floor_counts_what_plain_autograd_multiplies(tiny):
    """The eager loop does the same products, one op at a time; its first state needs no gradient."""
    setting = tiny["derived"]
    left_out = 2 * setting.B * setting.H**2  # through node 1 at the first step
    assert operations(peers.make_peers(setting)["reference"]) == setting.operations - left_out


@pytest.mark.parametrize("kind", KINDS)
def test_every_backend_is_a_peer(tiny, kind):
    made = peers.make_peers(tiny[kind])
    assert list(made) == [*peers.usable(tiny[kind]), "nn.LSTM", "nn.GRU", "floor"]
    assert {"reference", "torch"} <= set(made)


@pytest.mark.parametrize("kind", ["supernet", "derived"])
def test_all_gradients_are_part_of_it(tiny, kind):
    setting = tiny[kind]
    for name, call in peers.make_peers(setting).items():
        if name == "floor":
            continue
        x, *weights = call()
        assert x.shape == (setting.T, setting.B, setting.I)
        assert len(weights) == (4 if name.startswith("nn.") else 4 * 3 + 3 * (setting.ops == SUPERNET))
        assert all(one is not None for one in weights if name != "reference")


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_a_stream_carries_its_state_and_needs_no_gradients(tiny, mode):
    setting = tiny[mode]
    for name, call in peers.make_peers(setting).items():
        if name == "floor":
            continue
        first, second = call(), call()
        assert first.shape == ((1,) if name.startswith("nn.") else ()) + (setting.B, setting.H)
        assert not torch.equal(first, second), name
        assert not first.requires_grad
        assert first.is_inference() == (mode == "inference_mode")


def test_a_backend_that_cannot_run_here_is_no_peer(tiny, monkeypatch):
    monkeypatch.setitem(BACKENDS, "other", Backend(BACKENDS["torch"].run, lambda device, dtype, used: "no such device"))
    assert "other" not in peers.usable(tiny["derived"])
    monkeypatch.setitem(BACKENDS, "other", BACKENDS["torch"])
    assert "other" in peers.make_peers(tiny["derived"])


def test_doubling_doubles_the_products_that_grow(tiny):
    setting = tiny["supernet"]
    doubled = setting.doubled()
    assert list(doubled) == ["2 T", "2 B", "2 nodes", "2 ops"]
    assert {one.operations for one in doubled.values()} == {2 * setting.operations}
    assert [len(node) for node in doubled["2 ops"].ops] == [16] * 3
    for one in doubled.values():
        peers.make_call(peers.make_chain(one), one)()


def test_cudnn_computes_in_float32_and_as_before_afterwards():
    before = torch.backends.cudnn.allow_tf32
    assert peers.in_float32(lambda: torch.backends.cudnn.allow_tf32)() is False
    assert torch.backends.cudnn.allow_tf32 == before


def test_settings_are_told_apart_by_name():
    assert len({str(setting) for setting in SPEED}) == len(SPEED)
