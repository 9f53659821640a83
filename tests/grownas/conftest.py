"""A small task for all tests of training: say the value of the step before. It needs memory and is learned fast."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from grownas.backbones.chain import Backbone
from grownas.config.schema import Section
from grownas.protocols import Evaluation, Task, Window

BOUNDS = {"train": (0, 80), "weights": (0, 48), "architecture": (48, 80), "val": (80, 104), "test": (104, 128)}
BPTT = 4
STREAMS = 2


class CopyModel(nn.Module):
    def __init__(self, core: nn.Module, readout: nn.Linear, dropout: float) -> None:
        super().__init__()
        self.core, self.readout, self.dropout = core, readout, dropout

    def encode(self, x):
        return x.to(self.readout.weight)

    def states(self, x, hidden=None):
        return self.core(self.encode(x), hidden)

    def predictions(self, out, x):
        return self.readout(nn.functional.dropout(out, self.dropout, self.training))

    def forward(self, x, hidden=None):
        out, hidden = self.states(x, hidden)
        return self.predictions(out, x), hidden


class CopyTask(Task):
    """Each epoch begins with a short warm-up window of a length that varies."""

    name, metric, loss_name, input_size = "copy", "mse", "squared", 2
    section, losses, source, checksum = Section, ("squared",), "drawn from seed 3", "3"

    def __init__(self, *, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(3)
        self.values = torch.randn(128, self.input_size, generator=generator, dtype=torch.float64).to(dtype)
        self.dropout, self.dtype = dropout, dtype

    @classmethod
    def load(cls, options, *, architecture_share=0.2):
        return cls()

    def model(self, core, *, generator):
        readout = nn.Linear(core.hidden_size, self.input_size)
        with torch.no_grad():
            for parameter in readout.parameters():
                parameter.uniform_(-0.3, 0.3, generator=generator)
        return CopyModel(core, readout, self.dropout).to(self.dtype)

    def windows(self, part, *, seed):
        first, last = BOUNDS[part]
        length = (last - first) // STREAMS
        x = self.values[first:last].reshape(STREAMS, length, -1).transpose(0, 1)
        target = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
        burn_in = 1 + seed % 3
        yield Window(x[:burn_in], target[:burn_in], fresh=True, burn_in=True)
        for start in range(burn_in, length, BPTT):
            yield Window(x[start : start + BPTT], target[start : start + BPTT])

    def loss(self, model, out, window):
        return (model.predictions(out, window.x) - window.target).square().mean()

    @torch.no_grad()
    def evaluate(self, model, part):
        first, last = max(1, BOUNDS[part][0]), BOUNDS[part][1]  # the first step of all has none before it
        x, target = self.values[first:last].unsqueeze(1), self.values[first - 1 : last - 1].unsqueeze(1)
        output, _ = model.eval()(x)
        losses = (output - target).square().mean((1, 2)).double().numpy()
        return Evaluation(float(losses.mean()), losses, output[:, 0].double().numpy())


def build_model(task: CopyTask, *, seed: int = 0, nodes: int = 1, hidden: int = 3, **options):
    ops = [("add", "identity"), ("add", "tanh"), ("hadamard", "sigmoid")]
    generator = torch.Generator().manual_seed(seed)
    return task.model(
        Backbone(task.input_size, hidden, nodes, ops, generator=generator, **options), generator=generator
    )


def assert_equal_trees(a, b) -> None:
    """Same types, same values, to the last bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal_trees(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal_trees(one, other)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if a.numel():  # bits, so that nan equals nan
            assert torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b or (a != a and b != b)


@pytest.fixture(scope="session")
def copy_task():
    return CopyTask


@pytest.fixture(scope="session")
def make_model():
    return build_model


@pytest.fixture(scope="session")
def assert_equal():
    return assert_equal_trees


def outcome_of(done) -> dict:
    """All of a fit but its seconds, as a tree."""
    return {
        "model": dict(done.model.state_dict()),
        "optimizers": [optimizer.state_dict() for optimizer in done.optimizers],
        "evaluation": [done.evaluation.metric, done.evaluation.losses, done.evaluation.forecasts],
        "rest": [done.epochs, done.best_epoch, done.steps, done.reason],
        "shares": done.shares,
    }


@pytest.fixture(scope="session")
def outcome():
    return outcome_of
