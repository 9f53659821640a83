"""Criteria and growth on a tiny language model, whose core reads embedded ids, with gates and shared projections."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.criteria import splitting
from grownas.criteria.curvature import has_curvature
from grownas.criteria.early_stop import ACCEPT
from grownas.criteria.first_order import first_order_gain
from grownas.criteria.threshold import Thresholds
from grownas.strategies.cores import with_core
from grownas.strategies.growing.batches import Batches
from grownas.strategies.growing.moves import add_nodes, duplicate_at, split_at
from grownas.strategies.growing.options import MODES
from grownas.strategies.growing.state import apply
from grownas.tasks.penn_treebank.options import Options
from grownas.tasks.penn_treebank.task import PennTreebank
from grownas.training.loop import fit
from grownas.training.recipe import OptimizerRecipe, Recipe
from support.growing import (
    TrainingJournal,
    but,
    context_of,
    grow,
    growing,
    timeless,
    verdicts,
)
from support.journals import NEVER, Folder, Killed
from support.slow import mostly_slow

WORDS, H = ["the", "cat", "dog", "sat", "ran", "on", "mat", "road", "<unk>"], 5
OPS = [("add", "identity"), ("add", "tanh"), ("add", "sigmoid"), ("hadamard", "tanh"), ("hadamard", "identity")]
SWITCHES = list(itertools.product((False, True), repeat=2))  # highway, share_projection
DROPPED = {
    "samples": 4, "dropout_embedding": 0.1, "dropout_input": 0.2, "dropout_output": 0.3, "weight_drop": 0.2,
}  # fmt: skip
PENALISED = {"activation": 0.5, "temporal": 0.5}
RECIPE = Recipe(
    epochs=2, patience=None, clip=0.5, warm_up=5, decay="linear", non_monotone=1,
    weights=OptimizerRecipe(rate=0.02), alpha=OptimizerRecipe(rate=0.05),
)  # fmt: skip
GROWTH = growing(
    recipe=RECIPE, later_epochs=3, l2_sp=(0.0,), accept="better", prune="none", restarts=0, noise=0.0, trial_epochs=1,
    max_nodes=3, max_ops=9, position="best", new_rate=2.0, old_rate=0.5,
    first_epochs=None, guard=False, birth="carrier", blend_steps=0, nodes_at_once=1,
    thresholds=Thresholds(min_age=1, grow_threshold=0.1, prune_threshold=0.01),  # every op may be duplicated
    splitting={"count": 2},
)  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder of lines in which each word follows from the one before it, mostly."""
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(1)
    for name, count in (("train", 25), ("valid", 8), ("test", 8)):
        lines = []
        for _ in range(count):
            words = [draw.randrange(len(WORDS))]
            while len(words) < 6:
                words.append((2 * words[-1] + draw.choice([1, 1, 1, 2])) % len(WORDS))
            lines.append(" ".join(WORDS[word] for word in words))
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def task_of(text):
    def load(**options):
        return PennTreebank.load(Options(data=str(text), streams=3, bptt=7, gain=3.0, **options))

    return load


def model_of(task, *, highway=True, share_projection=True, nodes=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    switches = {"highway": highway, "share_projection": share_projection}
    core = Backbone(H, H, nodes, OPS, **switches, generator=generator)
    return task.model(core, generator=generator).to(dtype)


def trained(task, **options):
    """A model after some training: what it could still learn is not zero anywhere."""
    return fit(model_of(task, **options), task, RECIPE, seed=0).model


def stepwise(model, task, core=None):
    """Yield each training window's ids, target, state before it (the model's), and a core's output; no dropout."""
    hidden = None
    model = model.eval()
    for window in task.windows("train", seed=0):
        x = functional.embedding(window.x, model.embedding.weight)
        yield window, hidden, (core or model.core)(x, hidden)[0]
        hidden = model.core(x, hidden)[1].detach()


def plain_loss(model, out, window):
    """The nll over the whole vocabulary and the penalties, written plainly."""
    logits = 3.0 * out @ model.embedding.weight.T + model.bias
    nll = functional.cross_entropy(logits.flatten(0, 1), window.target.flatten())
    options, change = model.regularisation, out.diff(dim=0).square()
    temporal = change.mean() if len(change) else 0.0  # the last window may be one step long
    return nll + options.activation * out.square().mean() + options.temporal * temporal


def mean_loss(model, task, core=None):
    losses = [plain_loss(model, out, window) for window, _, out in stepwise(model, task, core)]
    return torch.stack(losses).mean()


def logits(model, task, part="val"):
    """The model's logits on a part, read in one go."""
    return model.eval()(task._ids(part).unsqueeze(1))[0].detach()


# --- criteria ---


@pytest.mark.parametrize(("highway", "share_projection"), SWITCHES)
def test_criteria_read_embedded_words_and_nothing_is_dropped(task_of, highway, share_projection):
    task = task_of(**DROPPED, **PENALISED)
    model = trained(task, highway=highway, share_projection=share_projection)
    batches = Batches(model.train(), task, "train")
    expected = list(stepwise(model, task))
    assert len(expected) > 5
    for (x, window, h_0), (wanted, hidden, out) in zip(batches, expected, strict=True):
        assert torch.equal(window.x, wanted.x)
        assert torch.equal(x, model.embedding.weight[wanted.x])
        assert h_0 is hidden is None or torch.equal(h_0, hidden)
        found = batches.loss(model.core(x, h_0)[0], window)
        torch.testing.assert_close(found, plain_loss(model, out, wanted), rtol=1e-12, atol=0)
    assert batches.mean_loss(model.core) == pytest.approx(mean_loss(model, task).item(), rel=1e-12)


@pytest.mark.parametrize(("highway", "share_projection"), SWITCHES)
def test_the_gain_of_a_new_node_is_the_norm_of_its_gradient(task_of, highway, share_projection):
    task = task_of(**DROPPED)
    model = trained(task, highway=highway, share_projection=share_projection)
    options = but(GROWTH, mode="nodes")
    context, gains = context_of(model, task, options), []
    for position in (0, 1):
        grown = morphisms.add_node(model.core, position, generator=context.generator(context.source)).backbone
        parameters = list(grown.nodes[position].parameters())
        slopes = torch.autograd.grad(mean_loss(model, task, grown), parameters, materialize_grads=True)
        gains.append(math.sqrt(sum(float(slope.square().sum()) for slope in slopes)))
        batches = Batches(model, task, "train")
        assert first_order_gain(grown, batches.loss, batches, position) == pytest.approx(gains[-1], rel=1e-9)
    assert min(gains) > 1e-3
    best = gains.index(max(gains))
    assert [proposal.places for proposal in add_nodes(context).proposals] == [((best, None),), ((1 - best, None),)]


@pytest.mark.parametrize("penalties", [{}, PENALISED], ids=["nll", "penalties"])
@pytest.mark.parametrize(("highway", "share_projection"), SWITCHES)
def test_a_split_changes_the_loss_of_a_language_model_as_predicted(task_of, highway, share_projection, penalties):
    task, step = task_of(**DROPPED, **penalties), 1e-3
    model = trained(task, highway=highway, share_projection=share_projection, nodes=2)
    batches = Batches(model, task, "train")
    places = [(node, op) for node in range(2) for op in range(len(OPS))]
    found = splitting.judge_ops(model.core, batches.loss, batches, places)
    curved = [place for place in places if has_curvature(model.core.nodes[place[0]].ops[place[1]], "exact")]
    assert len(curved) == 8
    before, told = mean_loss(model, task).item(), 0
    for place in curved:
        predicted = splitting.predicted_change(found[place].eigenvalues, step)
        if predicted > -1e-12:  # next to nothing to gain: lost in rounding
            continue
        core = morphisms.split_op(model.core, *place, found[place], step).backbone
        for after in (mean_loss(model, task, core).item(), batches.mean_loss(core)):
            assert (after - before) / predicted == pytest.approx(1, abs=0.01), place
        told += 1
    assert told >= 6


# --- morphisms and growth ---


@pytest.mark.parametrize(("highway", "share_projection"), SWITCHES)
@pytest.mark.parametrize("learn_gain", [False, True])
def test_every_move_keeps_the_logits(task_of, highway, share_projection, learn_gain):
    """Nodes and copies exactly; the halves of a split that do not move, and those that move a little, accordingly."""
    task = task_of(learn_gain=learn_gain)
    model = trained(task, highway=highway, share_projection=share_projection)
    context, before = context_of(model, task, GROWTH), logits(model, task)
    changes = [proposal.make() for proposal in add_nodes(context).proposals]
    changes += [[duplicate_at(context, 0, op)] for op in range(len(OPS))]
    batches = Batches(model, task, "train")
    found = splitting.judge_ops(model.core, batches.loss, batches)
    changes += [[split_at(context, *place, one, 0.0)] for place, one in found.items()]
    for (change,) in changes:
        after, line = apply(context.best, change, task, GROWTH, stage=2, step=0)
        torch.testing.assert_close(logits(after.model, task), before, rtol=0, atol=1e-10)
        assert line["drift"] < 1e-10
        assert line["loss_after"] == pytest.approx(line["loss_before"], rel=1e-12)
        assert after.model.embedding.weight is not model.embedding.weight
        assert torch.equal(after.model.embedding.weight, model.embedding.weight)
    steps = (1e-2, 1e-3)
    for place, one in found.items():
        moved = [with_core(model, morphisms.split_op(model.core, *place, one, step).backbone) for step in steps]
        drifts = [float((logits(each, task) - before).abs().max()) for each in moved]
        assert drifts[1] <= max(drifts[0] / 80, 1e-13), place  # the square of the step


@pytest.mark.parametrize("optimizer", ["adam", "nt_asgd"])
@pytest.mark.parametrize("mode", MODES)
def test_growth_in_every_mode_begins_each_stage_where_the_best_one_ended(task_of, monkeypatch, mode, optimizer):
    """With dropout, a sampled softmax, schedules, and moments or means that are carried."""
    monkeypatch.setitem(ACCEPT, "better", verdicts(True, True, False, True, False))
    task, journal = task_of(**DROPPED, **PENALISED), TrainingJournal()
    options = but(GROWTH, mode=mode, outer_patience=2)
    rate = {"adam": 0.02, "nt_asgd": 0.5}[optimizer]
    options = but(options, recipe=replace(RECIPE, epochs=4, weights=OptimizerRecipe(optimizer, rate)))
    grown = grow(model_of(task), task, journal, options, seed=1)
    accepted = [line["stage"] for line in grown.path()]
    assert accepted == [1, 2, 4]
    keys = {1: "stage-1-l2_sp-0", **{line["stage"]: f"stage-{line['stage']}" for line in grown.stages[1:]}}
    ended = {number: journal.fits[key]["done"].model for number, key in keys.items()}
    for key, lines in itertools.groupby(journal.lines, lambda line: line["trial"] or line["part"]):
        lines = list(lines)
        best = ended[max(stage for stage in accepted if stage < lines[0]["stage"])]
        if lines[0]["kind"] == "split_op":
            assert all(0 < line["drift"] < 1 for line in lines)
            predicted = sum(line["predicted_change"] for line in lines)
            assert sum(line["measured_change"] for line in lines) <= 0.5 * predicted < 0
            continue
        (line,) = lines
        assert line["drift"] < 1e-10
        assert abs(line["measured_change"]) < 1e-12
        begun = journal.fits[key]["model"]
        torch.testing.assert_close(logits(begun, task), logits(best, task), rtol=0, atol=1e-10)
    means = [list(asked["done"].optimizers[0].means()) for asked in journal.fits.values() if optimizer == "nt_asgd"]
    assert any(means) == (optimizer == "nt_asgd")
    assert {line["kind"] for line in journal.lines} == set(MODES[mode])


class Stopping:
    """A task that is killed at one of its losses."""

    def __init__(self, task, at):
        self.task, self.left = task, at

    def __getattr__(self, name):
        return getattr(self.task, name)

    def loss(self, model, out, window):
        self.left -= 1
        if self.left == 0:
            raise Killed
        return self.task.loss(model, out, window)


@pytest.mark.parametrize("optimizer", ["adam", "nt_asgd"])
@pytest.mark.parametrize("mode", mostly_slow(MODES, keep=("nodes_and_ops",)))
def test_growth_killed_again_and_again_equals_an_unbroken_one(task_of, tmp_path, monkeypatch, mode, optimizer):
    """In single precision; snapshots after every step, kills anywhere."""
    task = task_of(**DROPPED, **PENALISED)
    recipe = replace(RECIPE, weights=OptimizerRecipe(optimizer, {"adam": 0.02, "nt_asgd": 0.5}[optimizer]))
    options = but(GROWTH, mode=mode, noise=0.1, recipe=replace(recipe, epochs=4), later_epochs=4, max_nodes=2)

    def search(journal, task):
        monkeypatch.setitem(ACCEPT, "better", verdicts(True, True, False))
        return grow(model_of(task, dtype=torch.float32), task, journal, options, seed=1)

    folders = [Folder(tmp_path / name) for name in ("whole", "broken")]
    whole, kills = search(folders[0].journal(every_s=NEVER), task), 0
    while True:
        try:
            again = search(folders[1].journal(), Stopping(task, 23 + 6 * kills))
            break
        except Killed:
            kills += 1
    assert kills >= 3
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert [timeless(line) for line in again.stages] == [timeless(line) for line in whole.stages]
    assert without_speed(folders[1].metrics) == without_speed(folders[0].metrics)
    assert folders[1].growth.timeless == folders[0].growth.timeless


def without_speed(log):
    return [line for line in log.timeless if not line["metric"].endswith("_per_s")]
