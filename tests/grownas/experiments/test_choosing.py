"""Choosing a setting: successive halving over scripted fits, and the epoch limit."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.errors import TrainingError
from grownas.experiments.choosing import Halving, Setting, choose
from grownas.experiments.experiment import Experiment
from grownas.protocols import Evaluation
from grownas.training.recipe import Recipe

RECIPE = Recipe(epochs=100, patience=3)


class Model:
    """Says its validation metric."""

    def __init__(self, says: float) -> None:
        self.says = says

    def parameters(self):
        return []


class Task:
    unit = None

    def evaluate(self, model, part):
        return Evaluation(model.says, [model.says])


class Journal:
    """Trains along scripted curves: setting -> validation metric after each epoch from 1 on, nan where it diverges.

    An epoch has 10 steps and takes a second. Each epoch may be trained only once.
    """

    def __init__(self, curves):
        self.curves, self.asked, self.trained = curves, [], {}

    def fit(self, key, model, task, recipe, *, seed, after=None, extendable=False):
        name = key.partition("-to-")[0]
        self.asked.append(key)
        begun = 0 if after is None else self.trained[after]
        assert (after or name).partition("-to-")[0] == name
        curve = self.curves[name]
        best, at, epoch = math.inf, 0, 0
        for epoch, value in enumerate(curve[: recipe.epochs], 1):
            if math.isnan(value):
                assert epoch > begun
                raise TrainingError(f"{name} diverged", seconds=float(epoch), steps=10 * epoch)
            best, at = (value, epoch) if value < best else (best, at)
            if recipe.patience is not None and epoch - at >= recipe.patience:
                break
        assert epoch > begun, f"{key} has nothing to train"
        if extendable:
            self.trained[key] = epoch
        return SimpleNamespace(
            model=Model(best),
            evaluation=Evaluation(best, [best]),
            epochs=epoch,
            best_epoch=at,
            steps=10 * epoch,
            seconds=float(epoch),
            speed=None,
        )


TASK, HALVING = Task(), Halving(2, 2, 1)


def falling(to, epochs=20):
    """Fall to a value within some epochs, then stay."""
    return [to + max(0, epochs - epoch) for epoch in range(60)]


def settings(keys, recipe=RECIPE):
    """Return a candidate for each key, or several keys with a space between."""
    return [[Setting(key, {"key": key}, lambda: None, TASK, recipe) for key in each.split()] for each in keys]


def run(curves, halving=HALVING):
    journal = Journal(curves)
    return choose(settings(curves), journal=journal, seed=1, halving=halving), journal


# ---- the plan


@given(st.integers(1, 200), st.integers(1, 50), st.integers(2, 5), st.integers(1, 4))
def test_rungs_keep_one_in_so_many_until_the_finalists_are_left(count, first, factor, finalists):
    rungs = list(Halving(first, factor, finalists).rungs(count))
    counts = [number for number, _ in rungs]
    assert counts[0] == count
    assert counts[-1] == min(count, finalists)
    assert all(after == max(finalists, -(-before // factor)) for before, after in itertools.pairwise(counts))
    assert [epochs for _, epochs in rungs] == [first * factor**i for i in range(len(rungs) - 1)] + [None]


def test_without_halving_every_setting_is_trained_to_the_end():
    assert list(Halving().rungs(7)) == [(7, None)]


# ---- the choice


def test_the_best_goes_on_and_none_begins_again():
    curves = {"a": falling(4), "b": falling(1), "c": falling(3), "d": falling(2)}
    choice, journal = run(curves)
    assert journal.asked == ["a-to-2", "b-to-2", "c-to-2", "d-to-2", "b-to-4", "d-to-4", "b"]
    assert (choice.setting.key, choice.tried, choice.fit.evaluation.metric) == ("b", 4, 1)
    # a and c 2 epochs, d 4, b until 3 epochs after its lowest, at 21
    assert (choice.steps, choice.seconds) == (320, 32.0)
    assert not choice.capped


def test_of_equals_the_first_wins():
    choice, _ = run({key: falling(1) for key in "abcde"})
    assert choice.setting.key == "a"


def test_the_order_after_few_epochs_is_not_that_of_the_end():
    curves = {"fast": falling(5, epochs=2), "slow": falling(1, epochs=30)}
    assert run(curves)[0].setting.key == "fast"
    assert run(curves, halving=Halving(2, 2, 2))[0].setting.key == "slow"  # both are finalists
    assert run(curves, halving=Halving())[0].setting.key == "slow"


def test_a_setting_whose_patience_has_run_out_is_not_trained_again():
    curves = {"a": [1.0] * 50, "b": falling(5, epochs=40), "c": falling(6, epochs=40)}
    choice, journal = run(curves, halving=Halving(8, 3, 2))
    assert journal.asked == ["a-to-8", "b-to-8", "c-to-8", "b"]
    assert (choice.setting.key, choice.fit.epochs) == ("a", 4)


def test_a_rung_that_reaches_the_limit_is_the_end():
    curves = {"a": [9.0 - i for i in range(9)], "b": [9.5 - i for i in range(9)]}
    journal = Journal(curves)
    choice = choose(settings(curves, replace(RECIPE, epochs=5)), journal=journal, seed=1, halving=Halving(5, 2, 1))
    assert journal.asked == ["a", "b"]
    assert choice.capped


@pytest.mark.parametrize(
    ("at", "asked", "steps"),
    [
        (1, ["a-to-2", "b-to-2", "c-to-2", "d-to-2", "d-to-4", "b-to-4", "d"], 10 + 40 + 20 + 240),
        (3, ["a-to-2", "b-to-2", "c-to-2", "d-to-2", "a-to-4", "d-to-4", "b-to-4", "d"], 30 + 40 + 20 + 240),
        (9, ["a-to-2", "b-to-2", "c-to-2", "d-to-2", "a-to-4", "d-to-4", "a", "d"], 90 + 20 + 20 + 240),
    ],
)
def test_a_setting_that_diverges_at_a_rung_gives_way_to_the_next_best(at, asked, steps):
    best = [*falling(1)[: at - 1], math.nan]
    curves = {"a": best, "b": falling(3), "c": falling(4), "d": falling(2)}
    journal = Journal(curves)
    with pytest.warns(UserWarning, match="skipped a setting: a diverged"):
        choice = choose(settings(curves), journal=journal, seed=1, halving=HALVING)
    assert journal.asked == asked
    assert (choice.setting.key, choice.tried, choice.steps) == ("d", 4, steps)  # what was spent in vain counts


def test_where_all_diverge_the_error_says_what_was_spent():
    curves = {"a": [2.0, math.nan], "b": [math.nan]}
    with (
        pytest.warns(UserWarning, match="skipped a setting: a diverged"),
        pytest.raises(TrainingError, match="b diverged") as caught,
    ):
        run(curves)
    assert (caught.value.seconds, caught.value.steps) == (3.0, 30)


# ---- rates


def test_candidates_compete_with_one_rate_and_finalists_have_all():
    curves = {
        "a-high": falling(3, epochs=5),
        "a-low": falling(1, epochs=40),
        "b-high": falling(4, epochs=5),
        "b-low": falling(0, epochs=40),
    }
    journal = Journal(curves)
    choice = choose(settings(["a-high a-low", "b-high b-low"]), journal=journal, seed=1, halving=HALVING)
    assert journal.asked == ["a-high-to-2", "b-high-to-2", "a-high", "a-low"]
    assert (choice.setting.key, choice.tried, choice.steps) == ("a-low", 3, 20 + 90 + 440)
    both = choose(settings(["a-high a-low", "b-high b-low"]), journal=Journal(curves), seed=1, halving=Halving(2, 2, 2))
    assert both.setting.key == "b-low"


@pytest.mark.parametrize("at", [1, 2, 3, 30])
def test_where_one_rate_diverges_the_next_takes_its_place(at):
    curves = {
        "a-high": [*falling(1)[: at - 1], math.nan],
        "a-low": falling(1, epochs=30),
        "b-high": falling(50, epochs=5),
        "b-low": falling(50, epochs=40),
    }
    journal = Journal(curves)
    curves["a-high"] = [value - i / 100 for i, value in enumerate(curves["a-high"])]  # patience does not run out
    with pytest.warns(UserWarning, match="skipped a setting: a-high diverged"):
        choice = choose(settings(["a-high a-low", "b-high b-low"]), journal=journal, seed=1, halving=HALVING)
    assert choice.setting.key == "a-low"
    assert choice.steps == 10 * at + 340 + 20
    assert ("a-low-to-2" in journal.asked) == (at <= 2)


# ---- the epoch limit


@pytest.mark.parametrize(
    ("changes", "epochs", "best_epoch", "capped"),
    [
        ({}, 100, 100, True),
        ({}, 100, 98, True),
        ({}, 100, 97, False),
        ({}, 40, 37, False),
        ({"patience": None}, 100, 100, False),
        ({"decay": "linear"}, 100, 100, False),
    ],
)
def test_a_fit_is_capped_if_patience_has_not_run_out(changes, epochs, best_epoch, capped):
    assert replace(RECIPE, **changes).is_capped(epochs, best_epoch) == capped


def test_the_score_says_that_the_limit_was_reached():
    def score_of(curves, recipe):
        given = {"task": TASK, "strategy": None, "space": None, "recipe": recipe, "seed": 1, "hidden_size": 1}
        experiment = Experiment(journal=Journal(curves), halving=HALVING, **given)
        return experiment.train_and_score("mine", settings(curves, recipe))[0]

    curves = {"a": [60.0 - i for i in range(60)]}
    score = score_of(curves, replace(RECIPE, epochs=50))
    task = SimpleNamespace(score=lambda evaluation, part: {}, unit=None)
    assert (score.entry(task)["capped"], score.entry(task)["steps"]) == (True, 500)
    score = score_of({"a": falling(1)}, RECIPE)
    assert (score.entry(task)["capped"], score.entry(task)["steps"]) == (False, 240)
