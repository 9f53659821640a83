"""A fit in pieces is one fit: the same bits, each line once, each second once, wherever it is broken off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grownas.runs.journal import Journal
from grownas.training.recipe import OptimizerRecipe, Recipe
from support.journals import Folder, Killed

RECIPE = Recipe(
    epochs=5, patience=None, bilevel="first", weights=OptimizerRecipe(rate=0.02), alpha=OptimizerRecipe(rate=0.05)
)
IMPATIENT = replace(RECIPE, epochs=30, patience=2, weights=OptimizerRecipe(rate=0.1))  # ends long before 30 epochs
KINDS = {
    "all epochs": RECIPE,
    "patience": IMPATIENT,
    "second order": replace(RECIPE, bilevel="second", epochs=3),
    "decay": replace(RECIPE, decay="linear", warm_up=5),
    "momentum": replace(RECIPE, weights=OptimizerRecipe("sgd", 0.05)),
    "averaged": replace(RECIPE, average=0.9),
    "averaged by need": replace(RECIPE, weights=OptimizerRecipe("nt_asgd", 0.3), non_monotone=1),
    "skip": replace(RECIPE, skip=1.0),
    "random shares": replace(RECIPE, perturb="random"),
    "adversarial shares": replace(RECIPE, perturb="adversarial", epochs=3),
    "alpha later": replace(RECIPE, alpha_after=3),
    "gradients of shares": replace(RECIPE, alpha=OptimizerRecipe("exponentiated", 0.1)),
}


def untimed(log):
    return [{key: value for key, value in line.items() if key not in ("wall_s", "part")} for line in log]


@pytest.fixture
def pieces(copy_task, make_model):
    """Return the fits of a training in pieces, and those of one fit where `every` is None."""

    def train(journal, recipe, every):
        task = copy_task(dropout=0.2)
        model = make_model(task, seed=2)
        if every is None:
            return [journal.fit("whole", model, task, recipe, seed=4)]
        return list(journal.fit_in_pieces("whole", model, task, recipe, seed=4, every=every))

    return train


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_end_as_one_fit_does(pieces, outcome, assert_equal, kind):
    recipe, journal = KINDS[kind], Journal.in_memory()
    (whole,) = pieces(journal, recipe, None)
    for every in (1, 3, 9) if kind in ("all epochs", "patience") else (2,):
        broken = Journal.in_memory()
        found = pieces(broken, recipe, every)
        assert_equal(outcome(found[-1]), outcome(whole))
        assert found[-1].gradients == whole.gradients
        assert [fit.epochs for fit in found[:-1]] == list(range(every, whole.epochs, every))
        assert untimed(broken.metrics) == untimed(journal.metrics)
        assert untimed(broken.shares) == untimed(journal.shares)
        assert broken.elapsed == pytest.approx(found[-1].seconds, rel=1e-12)
        assert broken.cpu_seconds == pytest.approx(found[-1].cpu_seconds, rel=1e-12)


def test_patience_ends_in_the_middle_of_a_piece(pieces):
    (whole,) = pieces(Journal.in_memory(), IMPATIENT, None)
    assert 2 < whole.epochs < 20
    assert whole.reason == "no lower validation loss for 2 epochs"
    every = whole.epochs - 1  # its second piece has one epoch of those it might have
    found = pieces(Journal.in_memory(), IMPATIENT, every)
    assert [fit.epochs for fit in found] == [every, whole.epochs]
    assert found[-1].is_over(IMPATIENT)
    assert not found[0].is_over(IMPATIENT)


class Killing:
    """A store that is killed after a number of snapshots."""

    def __init__(self, store, snapshots):
        self.store, self.left = store, snapshots
        self.load, self.remove = store.load, store.remove

    def save(self, name, tree):
        self.store.save(name, tree)
        self.left -= name.endswith(".part")
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("kind", ["all epochs", "random shares"])
def test_pieces_that_are_killed_anywhere_go_on_to_the_same_bits(pieces, outcome, assert_equal, tmp_path, kind):
    recipe, logs, folder = KINDS[kind], Journal.in_memory(), Folder(tmp_path)
    unbroken = [outcome(fit) for fit in pieces(logs, recipe, 2)]
    for snapshots in (3, 6, 7, 5):  # one a step, of which an epoch has 6: kills within an epoch and at ends of pieces
        journal = folder.journal()
        journal.store = Killing(journal.store, snapshots)
        with pytest.raises(Killed):
            pieces(journal, recipe, 2)
    assert {"whole-epoch-2.done", "whole-epoch-4.part"} <= set(folder.names())
    for _ in range(2):
        journal = folder.journal()
        found = pieces(journal, recipe, 2)
        assert_equal([outcome(fit) for fit in found], unbroken)
        assert untimed(folder.metrics) == untimed(logs.metrics)
        assert untimed(folder.shares) == untimed(logs.shares)
        assert journal.elapsed == pytest.approx(found[-1].seconds, rel=1e-12)


def test_only_the_last_piece_keeps_what_a_longer_fit_needs(pieces):
    journal = Journal.in_memory()
    pieces(journal, RECIPE, 2)
    kept = {key: tree["end"] is not None for key, tree in journal.store.trees.items()}
    assert kept == {f"whole-epoch-{epochs}.done": epochs == 5 for epochs in (2, 4, 5)}


def test_what_others_draw_between_pieces_does_not_matter(copy_task, make_model, outcome, assert_equal):
    task, found = copy_task(dropout=0.2), []
    for disturbed in (False, True):
        fits = []
        for fit in Journal.in_memory().fit_in_pieces("key", make_model(task), task, RECIPE, seed=4, every=2):
            fits.append(outcome(fit))
            if disturbed:
                torch.manual_seed(len(fits))
                fit.model.train()
        found.append(fits[-1])
    assert_equal(*found)
