"""What it costs to judge ops for a split, in weight steps on the same windows. `make bench` shows it."""

from __future__ import annotations

import pytest
import torch

from grownas.backbones.chain import Backbone
from grownas.bench import table, timing
from grownas.bench.figures import Must, Row
from grownas.criteria.splitting import judge_ops, lowest_eigenpairs
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.task import IndexReturns
from grownas.training import loop as train
from grownas.training.recipe import Recipe, clip_gradients, make_optimizers, split_parameters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, NODE = "weight steps", "whole node"
ONE_BAR, NODE_BAR = 10.0, 20.0
JUDGED = (1, 5)  # add/tanh and hadamard/tanh of the default ops


def prepare(panel, part, hidden_size, nodes):
    """Return a task, a supernet that was trained for some epochs, and a part's windows with their first states."""
    task = IndexReturns.load(Options(data=panel)).with_loss("squared")
    core = Backbone(task.input_size, hidden_size, nodes, generator=torch.Generator().manual_seed(0))
    model = task.model(core, generator=torch.Generator().manual_seed(1))
    model = train.fit(model, task, Recipe(epochs=5), seed=0).model
    h_0, batches = torch.zeros(1, 16, hidden_size), []
    for window in task.windows(part, seed=1):
        assert window.x.shape[1] == h_0.shape[1]
        if not window.burn_in:
            batches.append((window.x, window, h_0))
        with torch.no_grad():
            h_0 = model.core(window.x, h_0)[1]
    return task, model, batches


def weight_steps(task, model, batches):
    """Return a function that takes a weight step on each batch, of no length, so that the model stays as it is."""
    optimizers = make_optimizers(model, Recipe())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    weights, _ = split_parameters(model)

    def steps():
        for x, window, h_0 in batches:
            for optimizer in optimizers:
                optimizer.zero_grad()
            task.loss(model, model.core(x, h_0)[0], window).backward()
            clip_gradients(weights, 1.0)
            for optimizer in optimizers:
                optimizer.step()

    return steps


def measure(name, panel, part, hidden_size, nodes):
    task, model, batches = prepare(panel, part, hidden_size, nodes)
    core = model.core

    def loss(out, window):
        return task.loss(model, out, window)

    peers = {STEPS: weight_steps(task, model, batches)}
    for op in JUDGED:
        label = "/".join(core.op_names(0)[op])
        peers[label] = lambda op=op: judge_ops(core, loss, batches, [(0, op)])
        peers[f"{label} to 1e-6"] = lambda op=op: lowest_eigenpairs(core, loss, batches, 0, op)
    peers[NODE] = lambda: judge_ops(core, loss, batches, [(0, op) for op in range(8)])
    with timing.threads(1):
        figures = timing.measure(peers, timing.FULL, timing.processor_seconds)
    musts = [Must(STEPS, NODE_BAR if peer == NODE else ONE_BAR, peer) for peer in peers if peer != STEPS]
    return Row(name, "ms", figures, STEPS, tuple(musts))


def test_judging_ops_costs_few_weight_steps(splitting_row, measured):
    row = measure(*splitting_row)
    measured.append(row)
    print()
    for line in table.lines(row):
        print(line, flush=True)
    assert [f"{table.in_symbols(check)}: {check.ratio:.3g}" for check in row.checks() if not check.holds] == []
