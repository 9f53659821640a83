"""A trained model learns on: nothing but the state, a few epochs from where it is, or a growth, each judged."""

from __future__ import annotations

import datetime
from dataclasses import replace

import numpy as np
import pytest
import torch

from grownas.cells.cell import GrownRNN
from grownas.criteria.acceptance import Acceptance
from grownas.errors import ConfigError
from grownas.experiments.updating import Learner, Settings, learn
from grownas.genotype import Genotype, Node, Op
from grownas.protocols import Evaluation
from grownas.runs.journal import Journal, MemoryLog
from grownas.space import SearchSpace
from grownas.strategies.growing.options import Options
from grownas.tasks.index_returns.options import Options as Data
from grownas.tasks.index_returns.reading import Table
from grownas.tasks.index_returns.task import IndexReturns
from grownas.training.recipe import OptimizerRecipe, Recipe

OPS = (("add", "identity"), ("hadamard", "identity"), ("add", "tanh"))
RECIPE = Recipe(weights=OptimizerRecipe(rate=0.01, weight_decay=0.1), clip=0.5)
SPACE = SearchSpace(("add", "hadamard"), ("identity", "tanh"))
ALWAYS = Acceptance("significant", -1e9, guard=False)
NEVER = Acceptance("significant", 1e9, guard=False)


def task_of(values, **options):
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=n) for n in range(len(values))]
    table = Table(days, ["a", "b", "c"], 0.01 * values, "made up", "returns")
    given = {"loss": "squared", "streams": 4, "bptt": 10, "context": 20, "recent": 60, **options}
    return IndexReturns._of_table(table, Data(**given), architecture_share=0.2)


def noise(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 3))


def products(rows, seed=0):
    """Each series follows a product of two others, which the untrained cell does not know."""
    rng, x = np.random.default_rng(seed), np.zeros((rows, 3))
    for t in range(1, rows):
        x[t] = 0.9 * np.tanh(2 * x[t - 1][[1, 2, 0]] * x[t - 1]) + 0.3 * x[t - 1][[2, 0, 1]] + rng.normal(0, 0.3, 3)
    return x


def learner_of(task, units=6, seed=0):
    node = Node(tuple(Op(*op, share=1 / 3) for op in OPS))
    core, generator = GrownRNN(Genotype((node,)), 3, units), torch.Generator().manual_seed(seed)
    core.reset_parameters(generator)
    return Learner(task.model(core, generator=generator).eval(), RECIPE)


def settings(accept=ALWAYS, **given):
    growing = {"max_epochs": 12, "patience": 6, "blend_steps": 10, "max_nodes": 1, "weights": {"rate": 0.02}}
    options = Options(**{**growing, **given.pop("growing", {}), "accept": given.pop("judge", "better"), "guard": False})
    return Settings(growing=options, space=SPACE, accept=accept, **given)


def same(one, other):
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_state_changes_no_weight_and_trains_nothing():
    task = task_of(noise(300))
    before = learner_of(task)
    learned = learn(before, task, "state", settings(), Journal.in_memory())
    assert learned.learner is before
    assert (learned.candidate, learned.verdict, learned.accepted, learned.steps) == (None, None, False, 0)
    np.testing.assert_array_equal(learned.evaluation.losses, task.evaluate(before.model, "val").losses)


def by_hand(model, task, *, epochs, l2_sp, seed, optimizer):
    """AdamW, clipped, and after each step a share of the way back to the first weights; the same windows."""
    parameters = list(model.parameters())
    first = [p.detach().clone() for p in parameters]
    for epoch in range(epochs):
        drawn = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        for window in task.windows("train", seed=drawn):
            if window.burn_in:
                with torch.no_grad():
                    hidden = model.core(window.x)[1]
                continue
            out, hidden = model.core(window.x, hidden)
            optimizer.zero_grad()
            ((model.readout(out) - window.target) ** 2).mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, RECIPE.clip)
            optimizer.step()
            hidden = hidden.detach()
            with torch.no_grad():
                for p, start in zip(parameters, first, strict=True):
                    p.lerp_(start, l2_sp)


def test_continue_is_plain_training_from_the_present_weights_and_moments():
    task = task_of(noise(300))
    before = learner_of(task)
    own = learner_of(task).model
    adam = torch.optim.AdamW(own.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=0.1, fused=True)
    for seed in (3, 4):  # the second time with the moments of the first
        learned = learn(before, task, "continue", settings(epochs=2, l2_sp=0.1, seed=seed), Journal.in_memory())
        by_hand(own, task, epochs=2, l2_sp=0.1, seed=seed, optimizer=adam)
        before = learned.learner
        for name, value in own.state_dict().items():
            # Adam's first steps turn rounding errors of small gradients into steps of up to the rate, 0.01
            torch.testing.assert_close(before.model.state_dict()[name], value, rtol=0, atol=1e-4)
    assert learned.accepted


def test_continue_carries_the_moments_and_leaves_its_input_alone():
    task = task_of(noise(300))
    first = learn(learner_of(task), task, "continue", settings(), Journal.in_memory()).learner
    kept = {name: value.clone() for name, value in first.moments.items()}
    names, keys = [name for name, _ in first.model.named_parameters()], ("step", "exp_avg", "exp_avg_sq")
    assert set(kept) == {f"{name}/{key}" for name in names for key in keys}
    weights = {name: value.clone() for name, value in first.model.state_dict().items()}
    carried = learn(first, task, "continue", settings(), Journal.in_memory()).learner
    fresh = learn(first._replace(moments={}), task, "continue", settings(), Journal.in_memory()).learner
    assert not same(carried.model, fresh.model)
    assert carried.moments["readout.weight/step"] == 2 * kept["readout.weight/step"]
    assert all(torch.equal(value, first.moments[name]) for name, value in kept.items())
    assert all(torch.equal(value, first.model.state_dict()[name]) for name, value in weights.items())


def test_l2_sp_holds_the_weights_near_those_before():
    task = task_of(noise(300))
    before = learner_of(task)

    def moved(l2_sp):
        after = learn(before, task, "continue", settings(l2_sp=l2_sp), Journal.in_memory()).learner.model
        pairs = zip(after.parameters(), before.model.parameters(), strict=True)
        return sum(float((p - q).detach().pow(2).sum()) for p, q in pairs)

    assert 0 < moved(0.5) < 0.25 * moved(0.0)


@pytest.mark.parametrize("how", ["continue", "grow"])
def test_what_the_judge_rejects_leaves_the_learner_as_it_was(how):
    task = task_of(noise(300))
    before = learner_of(task)
    learned = learn(before, task, how, settings(NEVER), Journal.in_memory())
    assert learned.learner is before
    assert not learned.accepted
    assert not same(learned.candidate, before.model)  # it was trained
    assert learned.steps > 0


def test_a_growth_is_accepted_where_it_helps_and_computes_what_was_judged():
    task = task_of(products(600))
    growth = MemoryLog()
    learned = learn(
        learner_of(task),
        task,
        "grow",
        settings(Acceptance("significant", guard=False)),
        Journal.in_memory(growth=growth),
    )
    assert learned.accepted
    assert len(learned.learner.model.core.genotype.nodes) == 2  # one more than it had, although max_nodes is 1
    assert [line["kind"] for line in growth if line["accepted"]] == ["add_node"]
    again = task.evaluate(learned.learner.model, "val")
    np.testing.assert_allclose(again.losses, learned.evaluation.losses, rtol=1e-4)
    further = learn(learned.learner, task, "continue", settings(), Journal.in_memory())  # its moments fit it
    assert further.learner.moments["core.layers.0.1.W_x/step"] > learned.learner.moments["core.layers.0.1.W_x/step"]


def test_on_noise_a_significant_judge_refuses_to_grow():
    task = task_of(noise(500, seed=1))
    strict = Acceptance("significant", guard=True)
    learned = learn(learner_of(task), task, "continue", settings(ALWAYS, epochs=10), Journal.in_memory())  # near zero
    growth = MemoryLog()
    grown = learn(
        learned.learner, task, "grow", settings(strict, judge="significant"), Journal.in_memory(growth=growth)
    )
    assert [line["accepted"] for line in growth] == [False] * len(growth)
    assert growth
    assert len(grown.learner.model.core.genotype.nodes) == 1
    assert "not accepted" in grown.reason


def test_only_a_chain_of_one_layer_grows_on():
    task = task_of(noise(300))
    dag = task.model(GrownRNN("darts_v2", 3, 6))
    with pytest.raises(ConfigError, match="only a chain with one layer can grow on; set how=continue"):
        learn(Learner(dag.eval(), RECIPE), task, "grow", settings(), Journal.in_memory())
    gru = task.model(torch.nn.GRU(3, 6))
    assert learn(Learner(gru.eval(), RECIPE), task, "continue", settings(), Journal.in_memory()).accepted


def test_losses_are_compared_in_one_scaling():
    from grownas.experiments.updating import in_scaling_of

    task = task_of(noise(300))
    other = replace(task, scaled_by=(task.mean + 0.01, 3 * task.sd))
    forecasts = np.random.default_rng(0).normal(size=(60, 3))
    before = other.evaluate_forecasts(forecasts, "val")
    after = in_scaling_of(task, other, before, "val")
    assert isinstance(after, Evaluation)
    np.testing.assert_allclose(after.losses, 9 * before.losses, rtol=1e-9)
