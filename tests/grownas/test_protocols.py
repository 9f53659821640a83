"""The tasks that come with grownas, and the small one of its tests, offer what their protocols ask for."""

from __future__ import annotations

import pytest

from grownas.config.loading import KINDS, check_task, load, members, strategy_class
from grownas.errors import ConfigError
from grownas.protocols import Budget, Strategy
from grownas.runs.commands import load_task

TASKS = {"index_returns/growing": "task.data=white_noise", "penn_treebank/growing_cpu": "task.data=embedded"}


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
    with pytest.raises(ConfigError, match=f"task.use=half: .*Half lacks {name}, which grownas.protocols.Task asks"):
        check_task(Half())


@pytest.mark.parametrize("name", ["growing", "random"])
def test_a_strategy_offers_all_of_its_protocol(name):
    found = strategy_class(name)
    made = found(found.section())
    asked = [member for member in members(Strategy) if member != "backbones"]  # who leaves it out searches chains
    assert [member for member in asked if not hasattr(made, member)] == []
    assert made.options.use == name
    assert found(made.with_rate(0.125).options).recipe() is not None


@pytest.mark.parametrize(
    ("budget", "spent", "words"),
    [
        (Budget(), {"steps": 9, "seconds": 9.0, "genotypes": 9}, None),
        (Budget(steps=10), {"steps": 9, "seconds": 99.0, "genotypes": 99}, None),
        (Budget(steps=10), {"steps": 10, "seconds": 0.0, "genotypes": 0}, "budget.steps = 10 reached"),
        (Budget(seconds=1.5), {"steps": 0, "seconds": 1.5, "genotypes": 0}, "budget.seconds = 1.5 reached"),
        (Budget(genotypes=2), {"steps": 0, "seconds": 0.0, "genotypes": 3}, "budget.genotypes = 2 reached"),
        (Budget(1_234_567), {"steps": 1_234_567, "seconds": 0.0, "genotypes": 0}, "budget.steps = 1234567 reached"),
    ],
)
def test_a_budget_says_which_limit_is_reached(budget, spent, words):
    assert budget.spent(**spent) == words
