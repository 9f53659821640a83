"""All that a search does with either task: on a fake GPU, where tensors must lie together, and on real devices."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.criteria import splitting
from grownas.criteria.curvature import CURVATURE
from grownas.criteria.early_stop import ACCEPT
from grownas.criteria.first_order import blend_gains, first_order_gain
from grownas.evaluation.scoring import free_running
from grownas.protocols import Verdict
from grownas.strategies.growing.batches import Batches
from grownas.strategies.growing.context import Context
from grownas.strategies.growing.moves import (
    _split_randomly,
    add_node_at,
    duplicate_at,
    prune_at,
    replace_at,
)
from grownas.strategies.growing.state import Candidate, apply
from grownas.tasks.index_returns.cleaning import Panel
from grownas.tasks.index_returns.options import Options as SeriesOptions
from grownas.tasks.index_returns.task import IndexReturns
from grownas.tasks.penn_treebank.corpus import Corpus
from grownas.tasks.penn_treebank.options import Options as TextOptions
from grownas.tasks.penn_treebank.sources import Text
from grownas.tasks.penn_treebank.task import PennTreebank
from grownas.training.loop import Silent, Trainer, fit
from grownas.training.recipe import AveragedSGD, OptimizerRecipe, Recipe, make_optimizers
from support.growing import but, grow, growing, problem_of, replay

OPS = [("add", "identity"), ("add", "tanh"), ("add", "relu"), ("hadamard", "sigmoid")]
RECIPE = Recipe(epochs=1, patience=None, l2_sp=1.0, warm_up=3, decay="linear", average=0.5)
GROWTH = growing(
    recipe=replace(RECIPE, l2_sp=0.0), first_epochs=None, l2_sp=(1.0,), mode="nodes_and_ops", accept="better",
    origins=1, max_nodes=2, max_ops=5, trial_epochs=1, fine_tune_epochs=1, restarts=1, max_params=100000, blend_steps=2,
    prune="at_end", top_k=1, readout="ablation", choice="random", guard=False,
)  # fmt: skip
DROPPED = {
    "samples": 4, "dropout_embedding": 0.1, "dropout_input": 0.2, "dropout_output": 0.3, "weight_drop": 0.2,
    "activation": 0.5, "temporal": 0.5,
}  # fmt: skip


def series(device, **options):
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(50)]
    panel = Panel(days, ["A", "B"], np.random.default_rng(0).normal(size=(50, 2)), {})
    chosen = SeriesOptions(**{"bptt": 4, "streams": 3, "context": 5, "loss": "volatility", **options})
    return IndexReturns(chosen, panel, "made up", 40, 5, chosen.loss, 0.5, device=device)


def text(device, **options):
    words = [f"w{i % 7}" for i in range(26)]
    corpus = Corpus.of(Text(words, words[:6], words[:6], "made up", "text", ""))
    return PennTreebank(TextOptions(streams=2, bptt=4, **options), corpus, 0.5, device=device)


TASKS = {"series": series, "text": text}


@pytest.fixture(params=TASKS)
def task(request, fake_gpu):
    return TASKS[request.param](fake_gpu, **(DROPPED if request.param == "text" else {}))


def model_of(task, **switches):
    return task.model(Backbone(task.input_size or 4, 4, ops=OPS, **switches))


def places(tree):
    """Where the tensors of a model, an optimiser's state or a tree of them lie; a count of steps may lie anywhere."""
    if isinstance(tree, nn.Module):
        return {one.device.type for one in itertools.chain(tree.parameters(), tree.buffers())}
    if isinstance(tree, torch.optim.Optimizer):
        return places([one for state in tree.state.values() for one in state.values() if np.ndim(one)])
    if isinstance(tree, torch.Tensor):
        return {tree.device.type}
    return set().union(*map(places, tree)) if isinstance(tree, list | tuple) else set()


class Memory:
    """A journal that does every fit, and keeps what is said of each change."""

    elapsed = cpu_seconds = 0.0
    gradients = 0

    def __init__(self):
        self.lines, self.fits = [], []

    def fit(self, key, model, task, recipe, *, seed, optimizers=None, stage=0):
        assert places(model) == places(optimizers or model)
        self.fits.append(fit(model, task, recipe, seed=seed, optimizers=optimizers))
        return self.fits[-1]

    def remember(self, key, work):
        return work()

    def log_morphism(self, line):
        self.lines.append(line)


def test_the_device_refuses_others(fake_gpu):
    here, there = torch.ones(3), torch.ones(3, device=fake_gpu)
    with pytest.raises(RuntimeError, match="two devices"):
        here + there
    with pytest.raises(RuntimeError, match="two devices"):
        nn.Linear(3, 2).to(fake_gpu)(here)
    with pytest.raises(RuntimeError, match="two devices"):
        nn.Embedding(3, 2).to(fake_gpu)(torch.tensor([1]))
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="generator"):
        there.uniform_(generator=torch.Generator())
    assert there.cpu().numpy().shape == (3,)


@pytest.mark.parametrize(("bilevel", "optimizer"), [("joint", "adam"), ("first", "nt_asgd"), ("second", "sgd")])
def test_a_fit_learns_and_goes_on_where_the_model_is(task, fake_gpu, bilevel, optimizer):
    recipe = replace(RECIPE, bilevel=bilevel, weights=OptimizerRecipe(optimizer))
    start = model_of(task)
    done = fit(start, task, recipe, seed=0, extendable=True)
    assert done.steps > 0
    assert places(done.model) == {fake_gpu}
    assert all(places(one) <= {fake_gpu} for one in done.optimizers)
    trainer = Trainer(start, task, replace(recipe, epochs=2), seed=0, monitor=Silent())
    trainer.restore(done.end)
    assert trainer.run().epochs == 2


def test_evaluations_of_texts(fake_gpu):
    for options in ({"dynamic_rate": 1e-4, "eval_streams": 1}, {"cache_size": 5}, {"eval_streams": 2, "context": 2}):
        task = text(fake_gpu, **options)
        assert task.evaluate(model_of(task), "val").losses.ndim == 1


def test_forecasts_of_series(fake_gpu):
    task = series(fake_gpu)
    model = model_of(task)
    assert task.day_ahead(model).shape == (2,)
    assert free_running(model, task.tensor("val").to(fake_gpu), steps=3)["steps"] == 3


CHANGES = {
    **{f"add_node by {birth}": partial(add_node_at, position=1) for birth in ("blend", "drawn", "carrier")},
    "duplicate_op": partial(duplicate_at, node=0, op=1),
    "split_op": lambda context: _split_randomly(context, (0, 3))[0],
    "prune_op": lambda context: prune_at(0, 2),
    "replace_op": lambda context: replace_at(context, context.core, 0, 2),
}


@pytest.mark.parametrize(("kind", "optimizer"), list(zip(CHANGES, itertools.cycle(["adam", "nt_asgd"]))))
def test_every_change_its_drift_and_its_optimiser(task, fake_gpu, kind, optimizer):
    recipe = replace(RECIPE, weights=OptimizerRecipe(optimizer))
    options = growing(recipe=replace(recipe, l2_sp=0.0), l2_sp=(1.0,), birth=kind.partition(" by ")[2] or "blend")
    model = model_of(task, highway=True, share_projection=True)
    best = Candidate.start(model, task.evaluate(model, "val"))._replace(optimizers=stepped(model, task, recipe))
    context = Context(best, problem_of(model, task, Memory(), seed=1), options, 1.0, number=2, source=1)
    after, line = apply(best, CHANGES[kind](context), task, options, stage=2, step=1)
    assert line["drift"] == 1.0  # all that is read from this device
    assert places(after.model) == {fake_gpu}
    for optimizer_after in after.optimizers:
        assert places(optimizer_after) == {fake_gpu}
        assert {p.device.type for group in optimizer_after.param_groups for p in group["params"]} == {fake_gpu}


def stepped(model, task, recipe):
    """Optimisers that have done a step, with means where they keep some."""
    optimizers = make_optimizers(model, recipe)
    window = next(iter(task.windows("train", seed=0))).to(next(model.parameters()).device)
    task.loss(model, model.states(window.x)[0], window).backward()
    for optimizer in optimizers:
        optimizer.step()
        if isinstance(optimizer, AveragedSGD):
            optimizer.set_averaging(True)
            optimizer.average()
    return optimizers


@pytest.mark.parametrize("curvature", CURVATURE)
def test_criteria_judge_where_the_model_is(task, fake_gpu, curvature):
    model = model_of(task, nodes=1)
    batches = Batches(model, task, "train")
    found = splitting.judge_ops(model.core, batches.loss, batches, passes=1, curvature=curvature)
    assert {places(list(one)).pop() for one in found.values()} == {fake_gpu}
    core = morphisms.split_op(model.core, 0, 3, found[0, 3], 0.5).backbone
    assert batches.mean_loss(core) == 1.0
    blended = morphisms.blend_node(model.core, 1, torch.Generator()).backbone
    assert blend_gains(blended, batches.loss, batches) == [1.0]
    assert first_order_gain(morphisms.add_node(model.core, 1).backbone, batches.loss, batches, 1) == 1.0


def test_a_growth_from_its_start_to_its_repetition(task, fake_gpu, monkeypatch):
    """With restarts and prunings; each stage is accepted."""
    monkeypatch.setitem(ACCEPT, "better", lambda *losses, threshold: Verdict(True, 0.1, "always", threshold))
    journal, options = Memory(), but(GROWTH, mode="nodes")
    start = model_of(task)
    grown = grow(start, task, journal, options, seed=1)
    assert places(grown.model) == {fake_gpu}
    assert {line["kind"] for line in journal.lines} >= {"add_node", "replace_op", "prune_op"}
    again = replay(start, task.with_refit(), Memory(), options, grown.path(), seed=1)
    assert places(again) == {fake_gpu}


# --- with numbers: on the CPU, and on a GPU where there is one ---


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


@pytest.fixture(params=TASKS)
def real_task(request, device):
    return TASKS[request.param](device, **(DROPPED if request.param == "text" else {}))


def drawn_model(task):
    generator = torch.Generator().manual_seed(0)
    core = Backbone(task.input_size or 4, 4, ops=OPS, generator=generator)
    return task.model(core, generator=generator)


def test_a_growth_by_every_move_with_numbers(real_task, monkeypatch):
    monkeypatch.setitem(ACCEPT, "better", lambda *losses, threshold: Verdict(True, 0.1, "always", threshold))
    for choice in ("random", "criteria"):
        journal = Memory()
        grown = grow(drawn_model(real_task), real_task, journal, but(GROWTH, choice=choice), seed=1)
        assert all(torch.isfinite(one).all() for one in grown.model.parameters())
        assert {line["kind"] for line in journal.lines} >= {"add_node", "prune_op"}
        assert all(line["drift"] == 0.0 for line in journal.lines if line["kind"] == "add_node" and not line["draw"])


@pytest.mark.parametrize("bf16", [False, True])
def test_a_fit_that_breaks_off_goes_on_to_the_same_end(real_task, bf16):
    """To the last bit on the CPU; a GPU adds in no fixed order."""
    recipe = replace(RECIPE, epochs=3, bf16=bf16)
    start = drawn_model(real_task)
    begun = fit(start, real_task, replace(recipe.first(2)), seed=0, extendable=True)
    again, whole = (fit(start, real_task, recipe, seed=0, resume=tree) for tree in (begun.end, None))
    limit = {"cpu": 0.0, "cuda": 1e-2 if bf16 else 1e-4}[real_task.device]
    for one, other in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=limit, atol=limit)
    assert np.isfinite(whole.loss)


@pytest.mark.gpu
@pytest.mark.parametrize("task_name", TASKS)
def test_a_model_says_the_same_on_both_devices(task_name):
    found = []
    for device in ("cpu", "cuda"):
        task = TASKS[task_name](device)
        found.append(task.evaluate(drawn_model(task), "val").losses)
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
