"""The first stage cut short, the guard, and judging at earlier origins: driven by scripted losses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from grownas.criteria.acceptance import GUARD
from grownas.protocols import Evaluation, Origin
from grownas.strategies.growing.strategy import NOTHING_FOUND
from grownas.training.recipe import Recipe
from support.growing import (
    BEST,
    CHANGED,
    DAYS,
    EPOCHS,
    ONE_STRENGTH,
    PLAIN,
    START,
    STEPS,
    ScriptedJournal,
    but,
    grow,
    growing,
)

FIRST, ON, AGAIN = "stage-1-l2_sp-0", "stage-1-l2_sp-0-on-1", "stage-1-l2_sp-0-on-2"
MOST = 2 * EPOCHS + 10  # epochs of a first stage: twice as many as are given at a time, and some more
SHORT = but(ONE_STRENGTH, first_epochs=EPOCHS, recipe=Recipe(epochs=MOST), max_nodes=2)


# --- cut short ---


def test_a_short_first_stage_that_is_accepted_grows_on(search):
    grown, journal, _ = search({FIRST: 0.9, "stage-2": 0.8}, SHORT)
    assert list(journal.fits) == [FIRST, "stage-2"]
    assert [journal.fits[key]["recipe"].epochs for key in (FIRST, "stage-2")] == [EPOCHS, MOST]
    assert [line["accepted"] for line in grown.stages] == [True, True]
    assert grown.first_stage is journal.fits[FIRST]["done"].model


@pytest.mark.parametrize(
    ("losses", "accepted"), [((1.01, 0.9), True), ((1.01, 1.005, 0.9), True), ((1.01,) * 3, False)]
)
def test_a_short_first_stage_that_is_rejected_is_trained_on_until_it_is_accepted(search, losses, accepted):
    keys = [FIRST, ON, AGAIN][: len(losses)]
    grown, journal, start = search({**dict(zip(keys, losses, strict=True)), "stage-2": 0.8}, SHORT)
    assert list(journal.fits) == [*keys, *(["stage-2"] if accepted else [])]
    for (before, after), epochs in zip(pairwise(keys), (EPOCHS, 10), strict=False):
        first, rest = journal.fits[before], journal.fits[after]
        assert rest["model"] is first["done"].model
        assert rest["optimizers"] is first["done"].optimizers
        begin = first["recipe"].decay_span[1]
        span = (pytest.approx(begin), pytest.approx(begin + epochs / MOST))
        assert rest["recipe"] == replace(first["recipe"], epochs=epochs, decay_span=rest["recipe"].decay_span)
        assert rest["recipe"].decay_span == span
    line, fits = grown.stages[0], len(keys)
    assert [one["stage"] for one in grown.stages] == ([1, 2] if accepted else [1])  # one line for all judgements
    assert (line["accepted"], line["part"], line["fits"]) == (accepted, FIRST, fits)
    assert line["loss_after"] == pytest.approx(losses[-1])
    assert (line["epochs"], line["best_epoch"]) == (fits * EPOCHS, fits * BEST)
    assert (line["steps"], line["seconds"]) == (fits * STEPS, fits)
    assert grown.first_stage is journal.fits[keys[-1]]["done"].model
    if not accepted:
        assert (grown.model, grown.reason) == (start, NOTHING_FOUND)


def test_a_first_stage_that_no_longer_learns_is_not_trained_on(search):
    _, journal, _ = search({FIRST: 1.01, ON: 1.01}, SHORT, best_epoch=0)
    assert list(journal.fits) == [FIRST, ON]  # the second brought no lower validation loss


@pytest.mark.parametrize("changes", [{"max_nodes": 1}, {"max_nodes": 2}])
def test_the_first_stage_is_trained_on_in_the_end_if_nothing_was_accepted_after_it(search, changes):
    losses = {FIRST: 0.9, ON: 0.7, "stage-2": 0.95}
    grown, journal, _ = search(losses, but(SHORT, **changes))
    tried = ["stage-2"] if changes == {"max_nodes": 2} else []
    assert list(journal.fits) == [FIRST, *tried, ON]
    assert grown.model is grown.first_stage is journal.fits[ON]["done"].model
    line = grown.stages[0]
    assert (line["accepted"], line["loss_before"], line["loss_after"]) == (True, START, pytest.approx(0.7))
    assert (line["epochs"], line["best_epoch"], line["steps"]) == (2 * EPOCHS, 2 * BEST, 2 * STEPS)
    assert (grown.path(), grown.first_line) == ([line], line)
    assert grown.evaluation.metric == pytest.approx(0.7)
    assert grown.steps == (2 + len(tried)) * STEPS


def test_nothing_is_trained_on_when_the_time_is_over(search):
    grown, journal, _ = search({FIRST: 0.9}, SHORT, limit=1.0)
    assert list(journal.fits) == [FIRST]
    assert grown.model is grown.first_stage is journal.fits[FIRST]["done"].model


def test_a_rejected_strength_is_trained_on_before_the_next_is_tried(search):
    on = {f"stage-1-l2_sp-100-on-{number}": 1.1 for number in (1, 2)}
    losses = {"stage-1-l2_sp-100": 1.2, **on, FIRST: 0.9, "stage-2": 0.8}
    grown, journal, _ = search(losses, but(SHORT, l2_sp=(100.0, 0.0)))
    assert list(journal.fits) == list(losses)
    assert [(line["l2_sp"], line["accepted"]) for line in grown.stages] == [(100.0, False), (0.0, True), (0.0, True)]


@pytest.mark.parametrize("epochs", [EPOCHS, EPOCHS + 1, None])
def test_a_first_stage_that_was_given_all_epochs_is_not_cut_short(search, epochs):
    recipe = Recipe(epochs=EPOCHS)
    _, journal, _ = search({FIRST: 1.01}, but(SHORT, first_epochs=epochs, recipe=recipe))
    assert {key: asked["recipe"].epochs for key, asked in journal.fits.items()} == {FIRST: EPOCHS}


def test_a_first_stage_whose_patience_ended_is_not_cut_short(search):
    """The script's fits end after 20 epochs, here before the 30 that were allowed."""
    _, journal, _ = search({FIRST: 1.01}, but(SHORT, first_epochs=30))
    assert list(journal.fits) == [FIRST]


@pytest.mark.parametrize("first", [None, 3, 10, 40, 90])
@pytest.mark.parametrize("later", [None, 30])
def test_a_linear_decay_has_no_jump(first, later):
    """The rates fall from the start on, and where a stage goes on they are what they were before."""
    growth = growing(recipe=Recipe(epochs=40, decay="linear"), first_epochs=first, later_epochs=later)
    begun, then = growth.stage_recipe(1, 0.0), growth.stage_recipe(2, 0.0)
    rest, half = growth.rest_recipe(0.0, begun.epochs), (begun.epochs + 40) // 2
    late = growth.rest_recipe(0.0, half)
    first_part = rest.first(half - begun.epochs) if begun.epochs < 40 else rest
    assert (late.epochs, late.decay_span[1]) == (40 - half, 1.0)
    assert late.decay_span[0] == pytest.approx(first_part.decay_span[1])
    assert begun.epochs == min(40, first or 40)
    assert begun.epochs + rest.epochs == 40
    assert begun.decay_span[0] == 0
    assert rest.decay_span == (pytest.approx(begun.decay_span[1] if begun.epochs < 40 else 1.0), 1.0)
    slopes = [(one.decay_span[1] - one.decay_span[0]) / one.epochs for one in (begun, then)]
    if later is None:
        assert then == replace(growth.recipe, blend_steps=growth.blend_steps)
        assert begun.decay_span[1] == pytest.approx(begun.epochs / 40)
    else:
        assert then.decay_span == (begun.decay_span[1], 1.0)
        assert slopes[0] == pytest.approx(slopes[1])
    for epochs in (1, begun.epochs, 40):
        again = growth.first_refit(0.0, epochs)
        assert (again.epochs, again.patience) == (epochs, None)
        if later is None:
            assert again.decay_span == pytest.approx((0, epochs / 40))


# --- the guard ---


@pytest.fixture
def guarded(copy_task, make_model):
    """Grow with scripted losses on the training part, by the key of the fit; return what was found and was asked."""

    def run(losses, train, options):
        journal, asked = ScriptedJournal(losses), []

        def key_of(model):
            return next(
                (key for key, one in journal.fits.items() if one.get("done") and one["done"].model is model), ""
            )

        class Judged(copy_task):
            def evaluate(self, model, part):
                if part == "val":
                    loss = CHANGED if journal.fits else START
                else:
                    asked.append(key_of(model))
                    loss = train[key_of(model)]
                return Evaluation(loss, np.full(DAYS, loss))

        task = Judged()
        return grow(make_model(task), task, journal, options, seed=0), journal, asked

    return run


GUARDED = but(ONE_STRENGTH, guard=True, max_nodes=2)


@pytest.mark.parametrize(("after", "accepted"), [(0.49, True), (0.5, True), (0.51, False)])
def test_a_model_whose_training_loss_rose_is_refused(guarded, after, accepted):
    grown, journal, _ = guarded({FIRST: 0.9, "stage-2": 0.8}, {"": 0.6, FIRST: 0.5, "stage-2": after}, GUARDED)
    assert [line["accepted"] for line in grown.stages] == [True, accepted]
    (line,) = journal.lines
    assert line["accepted"] == accepted
    if accepted:
        assert line["judge"]["rule"] == "better"
        assert grown.model is journal.fits["stage-2"]["done"].model
    else:
        assert GUARD == "training loss"
        assert line["judge"] == {"rule": GUARD, "figure": pytest.approx(0.5 - after), "threshold": 0.0}
        assert grown.stages[1]["judge"] == line["judge"]
        assert grown.model is journal.fits[FIRST]["done"].model


def test_the_first_stage_is_guarded_too(guarded):
    grown, _, _ = guarded({FIRST: 0.9}, {"": 0.5, FIRST: 0.6}, GUARDED)
    assert grown.reason == NOTHING_FOUND
    assert grown.stages[0]["judge"]["rule"] == GUARD


def test_what_validation_refuses_is_not_read_on_the_training_part(guarded):
    _, _, asked = guarded({FIRST: 0.9, "stage-2": 0.95}, {"": 0.6, FIRST: 0.5}, GUARDED)
    assert asked == ["", FIRST]


def test_without_a_guard_the_training_loss_is_not_read(guarded):
    grown, _, asked = guarded({FIRST: 0.9, "stage-2": 0.8}, {}, but(GUARDED, guard=False))
    assert asked == []
    assert len(grown.path()) == 2


# --- origins ---


@pytest.fixture
def judged_at(copy_task, make_model):
    """Grow with scripted losses, also at earlier origins, whose starts have a loss of their own."""

    class Judged(copy_task):
        def __init__(self, loss):
            super().__init__()
            self.loss_before = loss

        def evaluate(self, model, part):
            assert part == "val"
            return Evaluation(self.loss_before, np.full(DAYS, self.loss_before))

    def run(losses, options, *starts):
        task, journal = Judged(START), ScriptedJournal(losses)
        origins = [Origin(make_model(copy_task(), seed=number), Judged(loss)) for number, loss in enumerate(starts, 1)]
        return grow(make_model(copy_task()), task, journal, options, seed=0, origins=origins), journal, origins

    return run


SIGNIFICANT = but(ONE_STRENGTH, accept="significant", threshold=1.645, max_nodes=1)
NAMES = [f"{FIRST}-origin-1", f"{FIRST}-origin-2"]


@pytest.mark.parametrize(("earlier", "accepted"), [((1.9, 2.8), True), ((2.2, 3.1), False), ((2.05, 3.05), False)])
def test_the_losses_at_all_origins_are_judged_together(judged_at, earlier, accepted):
    """The first is better everywhere, the others at the validation part alone: by .1 against -.2 or -.05 earlier."""
    losses = dict(zip((FIRST, *NAMES), (0.9, *earlier), strict=True))
    grown, journal, _ = judged_at(losses, SIGNIFICANT, 2.0, 3.0)
    assert list(journal.fits) == [FIRST, *NAMES]
    (line,) = grown.stages
    assert line["accepted"] == accepted
    assert line["judge"]["rule"] == "significant at 3 origins"
    assert (line["judge"]["figure"] > 1.645) == accepted
    gain = np.mean([START - 0.9, 2.0 - earlier[0], 3.0 - earlier[1]])
    assert (line["judge"]["figure"] > 0) == (gain > 0)
    assert (line["loss_before"], line["loss_after"]) == (START, pytest.approx(0.9))  # of the validation part
    assert (grown.l2_sp is None) == (not accepted)


def test_the_order_of_time_is_kept_and_better_means_the_mean(judged_at):
    options = but(ONE_STRENGTH, accept="better", max_nodes=1)
    losses = {FIRST: 0.9, NAMES[0]: 2.05, NAMES[1]: 2.96}
    grown, _, _ = judged_at(losses, options, 2.0, 3.0)
    (line,) = grown.stages
    assert line["judge"] == {
        "rule": "better at 3 origins", "figure": pytest.approx((0.1 - 0.05 + 0.04) / 3), "threshold": 0.0,
    }  # fmt: skip


def test_the_fits_at_origins_are_those_of_the_first_stage_and_count(judged_at):
    grown, journal, origins = judged_at({FIRST: 0.9, NAMES[0]: 1.9, NAMES[1]: 2.9}, SIGNIFICANT, 2.0, 3.0)
    first = journal.fits[FIRST]["recipe"]
    for name, origin in zip(NAMES, origins, strict=True):
        asked = journal.fits[name]
        assert asked["recipe"] == first.refit(BEST)  # as long as was best here: those days choose nothing
        assert (asked["optimizers"], asked["stage"], asked["seed"]) == (None, 1, 0)
        old, new = (one.core.nodes[0].W_h[:, 0] for one in (origin.start, asked["model"]))
        assert bool((old == new).all())  # from the start of its own time, with noise on all but the carrier
    (line,) = grown.stages
    assert (line["steps"], line["seconds"], grown.seconds) == (3 * STEPS, 3.0, 3.0)
    assert line["epochs"] == EPOCHS


def test_no_origin_is_asked_if_the_validation_part_refuses(judged_at):
    grown, journal, _ = judged_at({FIRST: 1.1}, SIGNIFICANT, 2.0, 3.0)
    assert list(journal.fits) == [FIRST]
    assert grown.stages[0]["judge"]["rule"] == "significant"


def test_no_later_stage_is_judged_at_origins(judged_at):
    losses = {FIRST: 0.9, NAMES[0]: 1.9, "stage-2": 0.8}
    grown, journal, _ = judged_at(losses, but(ONE_STRENGTH, max_nodes=2), 2.0)
    assert list(journal.fits) == [FIRST, NAMES[0], "stage-2"]
    assert [line["judge"]["rule"] for line in grown.stages] == ["better at 2 origins", "better"]


def test_a_first_stage_that_was_trained_on_is_judged_at_origins_by_all_its_epochs(judged_at):
    losses = {FIRST: 1.01, ON: 0.9, NAMES[0]: 1.8}
    grown, journal, _ = judged_at(losses, but(SHORT, max_nodes=1, recipe=Recipe(epochs=2 * EPOCHS)), 2.0)
    assert list(journal.fits) == list(losses)
    assert journal.fits[NAMES[0]]["recipe"].epochs == 2 * BEST
    (line,) = grown.stages
    assert (line["accepted"], line["steps"]) == (True, 3 * STEPS)
    assert grown.model is journal.fits[ON]["done"].model


def test_a_first_stage_that_earlier_origins_refuse_is_not_trained_on(judged_at):
    grown, journal, _ = judged_at({FIRST: 0.9, NAMES[0]: 2.9}, SHORT, 2.0)
    assert list(journal.fits) == [FIRST, NAMES[0]]
    assert grown.reason == NOTHING_FOUND


def test_each_strength_is_judged_at_origins(judged_at):
    losses = {"stage-1-l2_sp-100": 0.9, "stage-1-l2_sp-100-origin-1": 1.9, FIRST: 0.8, NAMES[0]: 2.5}
    grown, journal, _ = judged_at(losses, but(PLAIN, max_nodes=1), 2.0)
    assert list(journal.fits) == list(losses)
    assert [line["accepted"] for line in grown.stages] == [True, False]
    assert grown.l2_sp == 100.0
