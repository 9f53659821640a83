"""What a training step and an evaluation of a small series model cost, beside the core's forward and backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from grownas.backbones.chain import Backbone
from grownas.baselines.recurrent import recurrent_core
from grownas.bench import table, timing
from grownas.bench.figures import Must, Row
from grownas.cells.cell import GrownRNN
from grownas.genotype import Genotype, Node, Op
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.task import IndexReturns
from grownas.training.loop import Silent, Trainer
from grownas.training.recipe import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PASS, STEP, BY_AUTOGRAD, EVALUATION, FORWARD = (
    "forward and backward pass",
    "training step",
    "training step by autograd",
    "evaluation",
    "forward pass over its rows",
)
GENOTYPE = Genotype((Node((Op("add", "tanh"),)), Node((Op("hadamard", "relu"),)), Node((Op("add", "sigmoid"),))))
CORES = {
    "supernet of 1 node": lambda inputs, hidden, seed: Backbone(inputs, hidden, 1, generator=seed),
    "supernet of 3 nodes": lambda inputs, hidden, seed: Backbone(inputs, hidden, 3, generator=seed),
    "derived cell": lambda inputs, hidden, seed: GrownRNN(GENOTYPE, inputs, hidden),
    "lstm": lambda inputs, hidden, seed: recurrent_core("lstm", inputs, hidden, generator=seed),
    "gru": lambda inputs, hidden, seed: recurrent_core("gru", inputs, hidden, generator=seed),
}
SIZES = [16, 32]
MANY_OPS = ("supernet of 3 nodes", 16)  # a time step of one stream, as in an evaluation, takes a quarter of that of 16


def core_pass(core, x):
    """Return a function that runs a core forward and backward by autograd."""
    with torch.no_grad():
        out, state = core(x)
    grad = torch.randn_like(out)

    def call():
        core(x, state)[0].backward(grad)
        for parameter in core.parameters():
            parameter.grad = None

    return call


def peers(name, hidden):
    """Return the peers, and the number of windows of training that have as many rows as an evaluation reads."""
    task, seed = IndexReturns.load(Options(data="planted")).with_loss("squared"), torch.Generator().manual_seed(1)
    model = task.model(CORES[name](task.input_size, hidden, seed), generator=seed)
    trainer, by_autograd = (Trainer(model, task, Recipe(), seed=1, monitor=Silent()) for _ in range(2))
    by_autograd.direct = None
    _, window, *_ = task.windows("train", seed=1)
    rows = task.n_val + task.options.context
    x = torch.randn(rows, 1, task.input_size)

    def evaluation():
        with trainer.direct.in_use():
            task.evaluate(trainer.model, "val")

    def forward():
        with torch.no_grad():
            trainer.model(x)

    calls = {
        PASS: core_pass(trainer.model.core, window.x),
        STEP: lambda: trainer._train_on(window),
        BY_AUTOGRAD: lambda: by_autograd._train_on(window),
        EVALUATION: evaluation,
        FORWARD: forward,
    }
    return calls, rows / window.x[..., 0].numel()


def print_and_check(row):
    print()
    for line in table.lines(row):
        print(line, flush=True)
    assert all(check.holds for check in row.checks())


@pytest.mark.parametrize("hidden", SIZES)
@pytest.mark.parametrize("name", CORES)
def test_a_step_and_an_evaluation_cost_little_beside_the_cores_passes(name, hidden):
    is_chain = name not in ("lstm", "gru")  # whose passes are prepared
    with timing.threads(1):
        calls, windows = peers(name, hidden)
        figures = timing.measure(calls, timing.FULL, timing.processor_seconds)
    musts = (
        Must(PASS, 1.2 if is_chain else 2.0, STEP),
        Must(BY_AUTOGRAD, 0.7 if is_chain else 0.95, STEP),
        Must(STEP, windows * (1.3 if (name, hidden) == MANY_OPS else 1.0), EVALUATION),
        Must(FORWARD, 2.5, EVALUATION),
    )
    print_and_check(Row(f"training, {name}, H{hidden}", "ms", figures, PASS, musts))


@pytest.mark.parametrize("hidden", SIZES)
@pytest.mark.parametrize(("name", "theirs", "bar"), [("lstm", nn.LSTM, 0.8), ("gru", nn.GRU, 0.3)])
def test_lstm_and_gru_beat_those_of_pytorch(name, theirs, bar, hidden):
    x = torch.randn(20, 16, 5)
    ours, judge = recurrent_core(name, 5, hidden, generator=torch.Generator().manual_seed(1)), theirs(5, hidden)
    with timing.threads(1):
        calls = {"ours": core_pass(ours, x), "PyTorch": core_pass(judge, x)}
        figures = timing.measure(calls, timing.FULL, timing.processor_seconds)
    print_and_check(Row(f"{name}, H{hidden}", "ms", figures, "PyTorch", (Must("PyTorch", bar, "ours"),)))
