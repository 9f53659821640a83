"""The tasks that come with grownas, and the small one of its tests, offer what their protocols ask for."""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

from grownas.backbones.chain import Backbone
from grownas.baselines.recurrent import GRUOnVAR
from grownas.cells.cell import GrownRNN
from grownas.config.loading import (
    KINDS,
    check_task,
    load,
    members,
    outline,
    plugin_names,
    strategy_class,
    task_class,
)
from grownas.errors import ConfigError
from grownas.genotype import Genotype, Node, Op
from grownas.protocols import Budget, Journal, Model, Recurrent, Strategy
from grownas.runs import journal
from grownas.runs.commands import load_task
from support.growing import ScriptedJournal, TrainingJournal, model_of

TASKS = {"index_returns/growing": "task.data=white_noise", "penn_treebank/growing_cpu": "task.data=embedded"}

CORES = {
    "supernet": Backbone(3, 4),
    "cell": GrownRNN(Genotype((Node((Op("add", "tanh", 1.0),)),)), 3, 4),
    "lstm": nn.LSTM(3, 4),
    "gru": nn.GRU(3, 4),
    "gru_var": GRUOnVAR(3, 4, order=1, generator=torch.Generator()),
}


def lacking(found, protocol):
    """What a protocol promises and an object lacks: members, and methods that do not take what the protocol's takes."""
    lacks = [name for name in members(protocol) if not hasattr(found, name)]
    for name in set(members(protocol)) - set(lacks):
        if callable(promised := getattr(protocol, name, None)):
            _, *asked = inspect.signature(promised).parameters.values()
            by_name = {one.name: None for one in asked if one.kind is one.KEYWORD_ONLY}
            try:
                inspect.signature(getattr(found, name)).bind(*[None] * (len(asked) - len(by_name)), **by_name)
            except TypeError as error:
                lacks.append(f"{name}: {error}")
    return lacks


@pytest.mark.parametrize("core", CORES.values(), ids=CORES)
def test_a_core_offers_all_of_its_protocol(core):
    assert lacking(core, Recurrent) == []


@pytest.mark.parametrize("name", TASKS)
def test_a_model_of_a_shipped_task_offers_all_of_its_protocol(name):
    task = load_task(load(name, [TASKS[name]]))
    size = task.input_size or 4
    model = task.model(Backbone(size, size))
    assert lacking(model, Model) == []
    assert lacking(model.core, Recurrent) == []


def test_the_small_model_of_the_tests_conforms(copy_task):
    model = model_of(copy_task(), [("add", "tanh")])
    assert lacking(model, Model) == []
    assert lacking(model.core, Recurrent) == []


@pytest.mark.parametrize(
    "made", [journal.Journal.in_memory(), ScriptedJournal({}), TrainingJournal()], ids=lambda made: type(made).__name__
)
def test_a_journal_and_those_of_the_tests_offer_all_of_its_protocol(made):
    assert lacking(made, Journal) == []


def test_what_is_lacking_is_found():
    class Short(ScriptedJournal):
        note = property()

        def fit(self, key, model, task, recipe, *, seed):
            raise AssertionError("not called")

    assert sorted(lacking(Short({}), Journal)) == ["fit: got an unexpected keyword argument 'optimizers'", "note"]
    assert "core" in lacking(nn.GRU(3, 4), Model)
    assert lacking(nn.Linear(3, 4), Recurrent) == ["input_size", "hidden_size"]


@pytest.mark.parametrize("name", TASKS)
def test_a_loaded_task_offers_all_of_its_protocol(name):
    task = load_task(load(name, [TASKS[name]]))
    check_task(task)
    assert isinstance(task, KINDS[task.kind])
    assert not isinstance(task, next(one for kind, one in KINDS.items() if kind not in (task.kind, "plain")))


def test_the_small_task_of_the_tests_conforms(copy_task):
    check_task(copy_task())


@pytest.mark.parametrize("name", ["windows", "evaluate", "with_refit"])
def test_a_task_that_lacks_a_member_is_told_of_it(copy_task, name):
    class Half:
        """Has all members but one, without being a subclass."""

    for member in members(type(copy_task()).__mro__[1]):
        if member != name:
            setattr(Half, member, None)
    Half.kind, Half.name = "plain", "half"
    with pytest.raises(ConfigError, match=f"task.use=half: .*Half lacks {name}, which grownas.protocols.Task requires"):
        check_task(Half())


@pytest.mark.parametrize("name", ["growing", "random"])
def test_a_strategy_offers_all_of_its_protocol(name):
    found = strategy_class(name)
    made = found(found.section())
    asked = [member for member in members(Strategy) if member != "backbones"]  # who leaves it out searches chains
    assert [member for member in asked if not hasattr(made, member)] == []
    assert made.options.use == name
    assert found(made.with_rate(0.125).options).recipe() is not None


@pytest.mark.parametrize("kind", ["task", "strategy"])
def test_the_options_that_stand_beside_a_class_are_its_own(kind):
    own = {
        entry.name: entry.load()
        for entry in entry_points(group=f"grownas.{'tasks' if kind == 'task' else 'strategies'}.options")
    }
    assert {"growing", "random"} <= set(own) if kind == "strategy" else sorted(own) == plugin_names(kind)
    for name, section in own.items():
        found = task_class(name) if kind == "task" else strategy_class(name)
        assert found.section is section
        if kind == "task":
            assert outline(name) == (found.section, found.kind, found.losses)


NOTHING = {"steps": 0, "seconds": 0.0, "cpu_seconds": 0.0, "genotypes": 0}


@pytest.mark.parametrize(
    ("budget", "spent", "words"),
    [
        (Budget(), {"steps": 9, "seconds": 9.0, "cpu_seconds": 9.0, "genotypes": 9}, None),
        (Budget(steps=10), {"steps": 9, "seconds": 99.0, "cpu_seconds": 99.0, "genotypes": 99}, None),
        (Budget(steps=10), {**NOTHING, "steps": 10}, "budget.steps = 10 reached"),
        (Budget(seconds=1.5), {**NOTHING, "seconds": 1.5}, "budget.seconds = 1.5 reached"),
        (Budget(seconds=1.5), {**NOTHING, "cpu_seconds": 9.0}, None),
        (Budget(cpu_seconds=1.5), {**NOTHING, "cpu_seconds": 1.5}, "budget.cpu_seconds = 1.5 reached"),
        (Budget(cpu_seconds=1.5), {**NOTHING, "seconds": 9.0}, None),
        (Budget(genotypes=2), {**NOTHING, "genotypes": 3}, "budget.genotypes = 2 reached"),
        (Budget(1_234_567), {**NOTHING, "steps": 1_234_567}, "budget.steps = 1234567 reached"),
    ],
)
def test_a_budget_says_which_limit_is_reached(budget, spent, words):
    assert budget.spent(**spent) == words
