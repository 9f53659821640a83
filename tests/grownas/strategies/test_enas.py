"""ENAS: what the weights and the policy learn from, and that the policy finds what is rigged."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import ClassVar

import pytest

from grownas.genotype import Genotype
from grownas.runs.journal import Journal, MemoryLog, MemoryStore
from grownas.runs.progress import Progress
from grownas.space import SearchSpace
from grownas.strategies import enas
from grownas.strategies.enas import Enas
from grownas.strategies.policy import Learner
from support.growing import model_of, problem_of

SPACE = SearchSpace(("add", "hadamard"), ("identity", "tanh"), max_nodes=2)  # 16 genotypes for the policy
SMALL = {
    "max_nodes": 2, "max_epochs": 3, "unit_epochs": 1, "samples": 5, "rescored": 2, "fine_tune_epochs": 1,
    "policy_updates": 5, "policy_samples": 3, "accept": "better", "guard": False, "weights": {"rate": 0.02},
}  # fmt: skip


def search(task, journal=None, **changes):
    start = model_of(task, [("add", "tanh")], seed=5)
    problem = problem_of(start, task, Journal.in_memory() if journal is None else journal, space=SPACE)
    return Enas(Enas.section(**{**SMALL, **changes})).search(problem)


def test_weights_and_policy_learn_from_parts_of_their_own(copy_task):
    class Noting(copy_task):
        read: ClassVar = Counter()
        part: ClassVar = ""

        def windows(self, part, *, seed):
            for window in super().windows(part, seed=seed):
                type(self).part = part
                yield window

        def loss(self, model, out, window):
            self.read[self.part, model.training] += 1
            return super().loss(model, out, window)

    task = Noting()
    units = list(itertools.islice(search(task), 3))
    weights = sum(score["steps"] for score in units[-1].scores)
    assert task.read.pop(("weights", True)) == weights
    assert 3 * 5 <= task.read.pop(("architecture", False)) <= 3 * 5 * 3  # equal genotypes of an update are scored once
    assert not task.read


def test_the_policy_finds_the_genotype_that_is_rigged_to_be_best(copy_task, monkeypatch):
    best = ["hadamard/tanh", "add/identity"]

    def names_of(genotype):
        return [op.name for node in genotype.nodes for op in node.ops]

    def rigged(model, task, windows, genotype):
        return 1.75 - sum(one == other for one, other in zip(names_of(genotype), best, strict=True)) / 2

    monkeypatch.setattr(enas, "mean_loss", rigged)
    policy = {"rate": 0.01, "baseline_decay": 0.9}
    units = search(copy_task(), policy=policy, policy_updates=60, policy_samples=10, rounds=3, samples=1)
    results = list(units)
    evaluated = [Genotype.from_dict(score["genotype"]) for score in results[-1].scores]  # from the second the likeliest
    assert [names_of(genotype) == best for genotype in evaluated] == [False, True, True]
    assert names_of(results[-1].others["enas_supernet"].model.core.genotype()) == best  # all that is sampled
    assert results[-1].settings == 2


@pytest.mark.parametrize("update", [1, 7, 15])
def test_a_policy_that_is_killed_while_it_learns_learns_the_same(copy_task, monkeypatch, assert_equal, update):
    class Killed(BaseException):
        pass

    count, inner = itertools.count(1), Learner.learn

    def mortal(self, picks, losses):
        if next(count) == update:
            raise Killed
        inner(self, picks, losses)

    def journal(store):
        logs = {name: MemoryLog() for name in ("metrics", "growth", "shares", "trials")}
        return Journal(store, **logs, progress=Progress(quiet=True))

    def policies(store):
        trees = {key: tree for key, tree in store.trees.items() if "-policy-" in key}
        return {key: {name: one for name, one in tree.items() if "seconds" not in name} for key, tree in trees.items()}

    whole, store = MemoryStore(), MemoryStore()
    list(search(copy_task(), journal(whole)))
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "learn", mortal)
        with pytest.raises(Killed):
            list(search(copy_task(), journal(store)))
    assert len(policies(store)) == (update - 1) // 5
    list(search(copy_task(), journal(store)))
    assert_equal(policies(store), policies(whole))
    assert len(policies(whole)) == 3
