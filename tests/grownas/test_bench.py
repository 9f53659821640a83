"""What is timed, and what the table says of it; the machine's own times are for tests/benchmarks/."""

from __future__ import annotations

import time

import pytest
import torch
from click.testing import CliRunner
from torch.utils._python_dispatch import TorchDispatchMode

from grownas import bench, cli
from grownas.cells.chain import BACKENDS

T, B, I, H = 4, 3, 2, 5  # noqa: E741 - the field's names
TINY = [
    bench.Setting("supernet", T, B, I, H, bench.SUPERNET),
    bench.Setting("derived", T, B, I, H, bench.DERIVED),
    bench.Setting("derived, forward", T, B, I, H, bench.DERIVED, backward=False),
]


class Products(TorchDispatchMode):
    """Adds up the operations of matrix products, by name. torch's own counter does not go with `autograd.grad`."""

    def __init__(self):
        super().__init__()
        self.flops = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm"):
            left, right = args[-2:]
            self.flops[name] = self.flops.get(name, 0) + 2 * left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


def flops(call):
    with Products() as counter:
        call()
    return counter.flops


@pytest.mark.parametrize("setting", TINY, ids=str)
def test_the_floor_does_the_chains_products_and_no_others(setting):
    ops = [len(node) for node in setting.ops]
    hoisted, stepped = 2 * T * B * I * H * sum(ops), 2 * T * B * H * H * sum(ops)
    wanted = 3 * (hoisted + stepped) if setting.backward else hoisted + stepped
    assert flops(bench.make_floor(setting)) == {"mm": wanted}
    engine = flops(bench.make_peers(setting)["torch"])
    assert engine["mm"] + engine["addmm"] == wanted  # the rest is its mixture


@pytest.mark.parametrize("setting", TINY, ids=str)
def test_every_backend_is_a_peer_and_all_gradients_are_part_of_it(setting):
    peers = bench.make_peers(setting)
    assert list(peers) == [*BACKENDS, "nn.LSTM", "nn.GRU", "floor"]
    for name in [*BACKENDS, "nn.LSTM", "nn.GRU"]:
        result = peers[name]()
        if setting.backward:
            x, *weights = result
            assert x.shape == (T, B, I)
            assert len(weights) == (4 if name.startswith("nn.") else 4 * 3 + 3 * (setting.ops == bench.SUPERNET))
            assert all(one is not None for one in weights if name != "reference")
        else:
            assert result[0].shape == (T, B, H)
            assert not result[0].requires_grad


def test_a_time_is_the_median_over_interleaved_repeats(monkeypatch):
    """On a clock that only peers move: short calls are read off several, and one slow repeat does not count."""
    clock, order = [0.0], []

    def peer(name, seconds):
        def call():
            order.append(name)
            clock[0] += seconds.pop(0) if len(seconds) > 1 else seconds[0]

        return call

    # slow: warm-up, finding the calls, then three repeats, of which the second is a hundred times as long
    peers = {"slow": peer("slow", [9.0, 0.02, 0.02, 2.0, 0.02]), "short": peer("short", [9.0, 0.002])}
    monkeypatch.setattr(bench, "make_peers", lambda setting: peers)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    times = bench.measure(TINY[0], repeats=3)
    assert times == {"slow": pytest.approx(20), "short": pytest.approx(2)}  # milliseconds a call
    assert order[-15:] == ["slow", *["short"] * 4] * 3  # 4 x 2 ms are the first above 5 ms


def test_a_line_gives_the_ratios_to_plain_autograd_lstm_and_floor():
    times = {"reference": 8.0, "torch": 2.0, "nn.LSTM": 4.0, "floor": 0.5}
    first, second, *_ = bench.rows(TINY[0], times)
    assert first.split() == ["supernet", "T4", "B3", "I2", "H5", "J3", "reference", "8.000", "1.00", "2.00", "16.00"]
    assert second.split() == ["torch", "2.000", "0.25", "0.50", "4.00"]
    assert len(first) == len(second)


@pytest.mark.parametrize(("arguments", "repeats"), [([], bench.FULL), (["--quick"], bench.QUICK)])
def test_the_command_prints_the_machine_and_a_line_for_every_peer(monkeypatch, arguments, repeats):
    asked = []

    def measure(setting, *, repeats):
        asked.append((setting, repeats, torch.get_num_threads()))
        return {"reference": 8.0, "torch": 2.0, "nn.LSTM": 4.0, "nn.GRU": 3.0, "floor": 0.5}

    monkeypatch.setattr(bench, "measure", measure)
    torch.set_num_threads(2)
    try:
        result = CliRunner().invoke(cli.cli, ["bench", *arguments], catch_exceptions=False)
        assert torch.get_num_threads() == 2  # as it was before
    finally:
        torch.set_num_threads(1)
    machine, _, head, *lines = result.output.splitlines()
    assert "backends reference, torch; float32, 1 thread(s); torch " + torch.__version__ in machine
    assert head.split() == ["setting", "peer", "ms", "/", "eager", "/", "LSTM", "/", "floor"]
    assert asked == [(setting, repeats, 1) for setting in bench.SETTINGS]
    assert len(lines) == 5 * len(bench.SETTINGS)
    assert {len(line) for line in lines} == {len(head)}
    assert bench.QUICK < bench.FULL
