"""The baselines' wiring, with a tiny task and a scripted journal: what is fitted on what, chosen and counted how."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grownas.baselines import NAMES
from grownas.baselines.combination import CENTRES, Combination, Part, combine_by_folds, weighted_sum
from grownas.baselines.har import fit_har, select_har
from grownas.baselines.var import VAR, Selection, fit_var_robust, select_by_folds
from grownas.config.loading import load
from grownas.errors import TrainingError
from grownas.experiments.common import Halving, generator_for, train_and_choose
from grownas.experiments.programs import growth_of, retrain_recipe, space_of
from grownas.experiments.series import BASELINES, SeriesContest, random_search, refit_by_pull, train_by_pulls
from grownas.protocols import Evaluation
from grownas.runs import checkpoint
from grownas.runs import journal as kept
from grownas.runs.commands import load_task
from grownas.space import SearchSpace
from grownas.strategies.growing.state import Growth
from grownas.training.loop import Fit
from grownas.training.recipe import Recipe

TRAIN, VAL, ROWS = 120, 30, 180
SERIES = 2
PLAIN = "-rate-0.001-decay-0"  # ends the key of a fit


class Model(nn.Module):
    """Forecasts a constant; learns nothing."""

    def __init__(self, core, name="model"):
        super().__init__()
        self.core, self.readout, self.name = core, nn.Linear(1, 1), name


class FakeTask:
    """Rows of an AR(2), float64; a model's loss and metric are what it says they are."""

    input_size, unit = SERIES, None

    def __init__(self, *, refitting=False, loss="squared"):
        rng = np.random.default_rng(0)
        self.values = rng.normal(size=(ROWS, SERIES))
        for row in range(2, ROWS):
            self.values[row] += 0.7 * self.values[row - 2, ::-1]
        self.refitting, self.loss_name = refitting, loss

    def rows(self, part):
        end = TRAIN + (VAL if self.refitting else 0)
        return {"train": slice(0, end), "val": slice(TRAIN, TRAIN + VAL), "test": slice(TRAIN + VAL, ROWS)}[part]

    def with_loss(self, name):
        return FakeTask(refitting=self.refitting, loss=name)

    def with_refit(self):
        return FakeTask(refitting=True, loss=self.loss_name)

    def model(self, core, *, generator):
        return Model(core)

    def evaluate(self, model, part):
        losses = np.full(VAL, model.says if part == "val" else model.says + 1)
        return Evaluation(float(losses.mean()), losses, np.zeros((VAL, SERIES)))

    def evaluate_forecasts(self, forecasts, part):
        errors = (forecasts - self.values[self.rows(part)]) ** 2
        return Evaluation(float(errors.mean()), errors.mean(1), forecasts)


class Journal:
    """Gives each fit a model with a scripted validation loss and writes down what was asked."""

    def __init__(self, says=lambda key: 1.0):
        self.says, self.asked, self.remembered, self.notes = says, [], [], []

    def note(self, words):
        self.notes.append(words)

    def remember(self, key, work):
        self.remembered.append(key)
        return {"seconds": 0.5, **work()}

    def fit(self, key, model, task, recipe, *, seed, optimizers=None, stage=0, after=None, extendable=False):
        self.asked.append((key, model, task, recipe, seed))
        trained = named(self.says(key), key)
        return Fit(trained, [], task.evaluate(trained, "val"), 9, 4, 10, 2.0, "patience", [])

    @property
    def keys(self):
        return [key for key, *_ in self.asked]


def named(says, name="start"):
    model = Model(nn.Identity(), name)
    model.says = says
    return model


def contest(journal=None, **changes):
    task = FakeTask()
    var = VAR(np.zeros(SERIES), np.zeros((2, SERIES, SERIES)))
    given = {
        "task": task,
        "journal": journal or Journal(),
        "selection": Selection(var, {"loss": "squared", "order": 2, "ridge": 0.0}, 180),
        "selection_seconds": 7.0,
        "orders": (1, 2),
        "build": lambda nodes, var, generator: named(3.0),
        "hidden_size": 4,
        "at_var": True,
        "growth": Growth(recipe=Recipe(epochs=50, patience=5), pulls=(100.0, 0.0), judge="better"),
        "space": SearchSpace(combine=("add",), activation=("tanh", "relu"), max_nodes=2),
        "recipe": Recipe(epochs=60, patience=6),
        "hidden_sizes": (2, 3),
        "losses": ("squared", "huber"),
        "rates": (0.001,),
        "weight_decays": (0.0,),
        "seed": 4,
    }
    return SeriesContest(**{**given, **changes})


def least_squares(values, end, order):
    """Return the forecasts of rows `order`.. by a VAR fitted to rows before `end`: NumPy's own solver."""
    design = np.stack(
        [np.concatenate([[1.0], *(values[row - lag] for lag in range(1, order + 1))]) for row in range(order, ROWS)]
    )
    beta, *_ = np.linalg.lstsq(design[: end - order], values[order:end], rcond=None)
    return design @ beta


# ---- the table


def test_configs_know_the_names_of_the_table():
    assert tuple(BASELINES) == NAMES["series"]


# ---- fitted baselines


def test_zero_scores_the_mean_square():
    score = BASELINES["zero"](contest())
    values = FakeTask().values
    assert (score.model, score.params) == ("zero", 0)
    assert score.val.metric == pytest.approx((values[TRAIN : TRAIN + VAL] ** 2).mean(), rel=1e-12)
    assert score.test.metric == pytest.approx((values[TRAIN + VAL :] ** 2).mean(), rel=1e-12)


@pytest.mark.parametrize(("refit", "end"), [(False, TRAIN), (True, TRAIN + VAL)])
def test_var1_is_numpys_least_squares_on_what_may_be_known(refit, end):
    task = FakeTask()
    score = BASELINES["var1"](contest(refit=refit))
    ahead = least_squares(task.values, TRAIN if not refit else end, 1)
    np.testing.assert_allclose(score.forecasts(), ahead[TRAIN - 1 :], rtol=0, atol=1e-10)
    assert (score.params, score.settings, score.chosen, score.seconds) == (SERIES + SERIES**2, 1, {}, 0.5)


@pytest.mark.parametrize("refit", [False, True])
def test_var_takes_the_order_of_the_lowest_validation_error(refit):
    task, journal = FakeTask(), Journal()
    score = BASELINES["var"](contest(journal, refit=refit))
    errors = {}
    for order in range(1, 23):
        ahead = least_squares(task.values, TRAIN, order)[TRAIN - order :][:VAL]
        errors[order] = ((ahead - task.values[TRAIN : TRAIN + VAL]) ** 2).mean()
    order = min(errors, key=errors.get)
    assert order > 1  # the rows are those of an AR(2)
    assert score.chosen == {"order": order}
    ahead = least_squares(task.values, TRAIN + VAL if refit else TRAIN, order)
    np.testing.assert_allclose(score.forecasts(), ahead[TRAIN - order :], rtol=0, atol=1e-9)
    assert score.settings == 22
    assert score.seconds == 0.5  # the choice is a part of what is timed and remembered
    assert journal.remembered == ["var"]


def test_var_counts_the_orders_that_were_tried():
    short = contest()
    short.task.rows = lambda part: {"train": slice(0, 20), "val": slice(20, 60), "test": slice(60, ROWS)}[part]
    assert BASELINES["var"](short).settings == 6  # 20 - p > 1 + 2 p ends at 6


def test_var_robust_is_the_best_huber_setting_whatever_the_start_is():
    scores = {"squared p=2 ridge=0": 0.8, "huber p=1 ridge=0.3": 0.9, "huber p=3 ridge=1": 1.1}
    selection = Selection(VAR(np.zeros(SERIES), np.zeros((2, SERIES, SERIES))), {"loss": "squared"}, 180, scores)
    score = BASELINES["var_robust"](contest(selection=selection))
    fitted = fit_var_robust(FakeTask().values[:TRAIN], 1, ridge=0.3)
    ahead = fitted.forecast(FakeTask().values)
    np.testing.assert_allclose(score.forecasts(), ahead[TRAIN - 1 : -1], rtol=0, atol=1e-10)
    assert (score.seconds, score.settings) == (7.0, 2)
    assert score.chosen == {"loss": "huber", "order": 1, "ridge": 0.3}


def test_var_robust_has_folds_of_its_own_where_the_start_is_a_combination():
    values = FakeTask().values
    journal = Journal()
    score = BASELINES["var_robust"](contest(journal, selection=combine_by_folds(values[:TRAIN]), orders=(1, 2, 3)))
    judge = select_by_folds(values[:TRAIN], orders=(1, 2, 3)).robust(values[:TRAIN])
    np.testing.assert_array_equal(score.forecasts(), judge.var.forecast(values)[TRAIN - 1 : -1])
    assert (score.chosen, score.settings) == (judge.chosen, 3 * 9)
    assert (score.seconds, journal.remembered) == (0.5, ["var_robust"])  # the choice is a part of what is timed


@pytest.mark.parametrize("refit", [False, True])
def test_har_chooses_its_ridge_on_the_training_part_and_learns_from_what_may_be_known(refit):
    values, journal = FakeTask().values, Journal()
    score = BASELINES["har"](contest(journal, refit=refit))
    chosen = select_har(values[:TRAIN]).chosen
    judge = fit_har(values[: TRAIN + VAL if refit else TRAIN], ridge=chosen["ridge"])
    np.testing.assert_array_equal(score.forecasts(), judge.forecast(values)[TRAIN - 1 : -1])
    assert (score.chosen, score.settings, score.params) == (chosen, 9, SERIES + 3 * SERIES**2)
    assert (score.seconds, journal.remembered) == (0.5, ["har"])


# ---- the start


def entered(*overrides, journal=None):
    """Enter the contest of a config with the fake task."""
    config = load("index_returns/growing", ["baselines.hidden_sizes=[2]", *overrides])
    given = {name: getattr(contest(), name) for name in ("growth", "space", "recipe", "seed")}
    task = FakeTask(loss="auto")
    return SeriesContest.enter(config, journal or Journal(), task, **given)


def test_growth_starts_at_a_combination_by_default():
    found, judge = entered(), combine_by_folds(FakeTask().values[:TRAIN])
    assert isinstance(found.selection, Combination)
    np.testing.assert_array_equal(found.selection.var.coefficients, judge.var.coefficients)
    assert found.selection.chosen == judge.chosen
    assert found.task.loss_name == judge.var.loss
    assert (found.hidden_size, found.selection_seconds) == (16, 0.5)


def on_noise(*overrides):
    """Enter the contest of a config with white noise."""
    config = load("index_returns/growing", ["task.data=white_noise", *overrides])
    space, task = space_of(config), load_task(config)
    given = {"growth": growth_of(config, space), "space": space, "recipe": retrain_recipe(config), "seed": 1}
    return SeriesContest.enter(config, Journal(), task, **given)


def test_origins_are_starts_fitted_to_what_was_known_then():
    """Each has its own linear model; the sizes of the parts are those of `IndexReturns.at_origin`."""
    made = on_noise("strategy.origins=3")
    origins = made.origins([made.space.ops])
    for number, (start, task) in enumerate(origins, 1):
        assert task.n_train == made.task.n_train - number * made.task.n_val
        var = made.selection.refit(made.task.values[: task.n_train])
        wanted = var.forecast(task.values)[task.rows("val").start - 1 : task.rows("val").stop - 1]
        np.testing.assert_allclose(task.evaluate(start, "val").forecasts, wanted, rtol=0, atol=1e-4)  # float32
    assert len(origins) == 2
    assert on_noise("strategy.origins=1").origins([made.space.ops]) == []


def test_where_rows_are_few_fewer_origins_judge_with_a_warning():
    made = on_noise("strategy.origins=5", "task.train=0.3", "task.val=0.2")
    with pytest.warns(UserWarning, match="the first stage is judged at 2 of 5 origins: .* 2 validation parts of"):
        assert len(made.origins([made.space.ops])) == 1


def test_the_control_starts_at_a_single_var():
    found = entered("start.rule=single", "start.max_order=3")
    judge = select_by_folds(FakeTask().values[:TRAIN], orders=(1, 2, 3))
    assert isinstance(found.selection, Selection)
    assert found.selection.chosen == judge.chosen
    assert found.task.loss_name == judge.var.loss
    assert found.orders == (1, 2, 3)


@pytest.mark.parametrize(("hidden", "blocks"), [(2, 1), (5, 2), (7, 3), (8, 4)])
def test_the_start_fits_into_a_hidden_size_that_is_given(hidden, blocks):
    found = entered(f"space.hidden_size={hidden}")
    assert found.selection.var.blocks <= blocks
    assert found.hidden_size == hidden
    assert max(found.orders) == blocks


@pytest.mark.parametrize("refit", [False, True])
def test_the_gru_starts_where_growth_starts(refit):
    """Its register holds the averages, too."""
    seen = []

    class Watched(Journal):
        def fit(self, key, model, *args, **options):
            seen.append(model)
            return super().fit(key, model, *args, **options)

    values = FakeTask().values
    parts, weights = (Part(1, CENTRES, "squared", 0.1), Part(2, (), "squared", 0.1)), np.array([[0.5] * 2, [0.25] * 2])
    total = weighted_sum([part.fit(values[:TRAIN]) for part in parts], weights)
    selection = Combination(total, parts, weights, (1.0, 1.0), 2)

    def model(core, *, generator):
        made = Model(core)
        made.readout = nn.Linear(core.hidden_size, SERIES)
        made.says = 3.0
        return made

    given = contest(Watched(), selection=selection, refit=refit)
    given.task.model = model
    given.task.with_refit = lambda: given.task
    BASELINES["gru_var"](given)
    start, rows = seen[-1 if refit else 0], TRAIN + VAL if refit else TRAIN
    with torch.no_grad():
        ahead = start.double().readout(start.core(torch.from_numpy(values)[:, None])[0])[:, 0]
    np.testing.assert_allclose(ahead, selection.refit(values[:rows]).forecast(values), rtol=0, atol=1e-5)


# ---- trained baselines


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_every_size_is_trained_with_every_loss_and_the_lowest_metric_wins(kind):
    journal = Journal(lambda key: {f"{kind}-3-squared{PLAIN}": 0.5}.get(key, 1.0))
    score = BASELINES[kind](contest(journal))
    assert journal.keys == [f"{kind}-{size}-{loss}{PLAIN}" for size in (2, 3) for loss in ("squared", "huber")]
    assert [task.loss_name for _, _, task, _, _ in journal.asked] == ["squared", "huber"] * 2
    assert all(recipe == Recipe(epochs=60, patience=6) and seed == 4 for *_, recipe, seed in journal.asked)
    assert score.chosen == {"hidden_size": 3, "loss": "squared", "rate": 0.001, "weight_decay": 0.0}
    assert (score.model, score.val.metric, score.test.metric) == (kind, 0.5, 1.5)
    assert (score.settings, score.seconds, score.steps) == (
        4,
        8.0,
        40,
    )  # all fits are counted, not the chosen one alone


def test_the_size_with_the_grown_cells_parameters_is_tried_too():
    journal = Journal()
    # GRU with H = 5 and a readout of 2: 3 * 5 * (2 + 5 + 2) + 2 * (5 + 1) = 147
    BASELINES["gru"](contest(journal, params=147))
    assert [model.core.hidden_size for _, model, *_ in journal.asked] == [2, 2, 3, 3, 5, 5]
    again = Journal()
    BASELINES["gru"](contest(again, params=147, hidden_sizes=(5,)))
    assert again.keys == [f"gru-5-squared{PLAIN}", f"gru-5-huber{PLAIN}"]  # not twice


def test_both_losses_begin_with_the_same_weights():
    journal = Journal()
    BASELINES["gru"](contest(journal))
    (_, first, *_), (_, second, *_), (_, other, *_), _ = journal.asked
    assert first is not second
    for a, b in zip(first.core.parameters(), second.core.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.core.hidden_size != other.core.hidden_size


def test_a_refit_trains_the_winner_anew_for_its_best_number_of_epochs():
    journal = Journal(lambda key: {f"b-huber{PLAIN}": 0.5}.get(key, 1.0))
    given = contest(journal, refit=True)
    settings = [
        one for key in ("a", "b") for one in given.settings(key, {"key": key}, lambda key=key: named(9.0, f"new {key}"))
    ]
    score, model = train_and_choose(given, "mine", settings)
    key, start, task, recipe, _ = journal.asked[-1]
    assert (key, start.name) == ("mine-refit", "new b")
    assert (task.refitting, task.loss_name) == (True, "huber")
    assert (recipe.epochs, recipe.patience) == (4, None)
    assert model.name == "mine-refit"
    chosen = {"key": "b", "loss": "huber", "rate": 0.001, "weight_decay": 0.0}
    assert (score.settings, score.seconds, score.steps, score.chosen) == (4, 10.0, 50, chosen)


# ---- pulls


@pytest.mark.parametrize(
    ("losses", "pull", "model", "loss"),
    [
        ({"pull-100": 2.0, "pull-0": 1.0}, 0.0, f"k-pull-0{PLAIN}", 1.0),
        ({"pull-100": 1.0, "pull-0": 2.0}, 100.0, f"k-pull-100{PLAIN}", 1.0),
        ({"pull-100": 4.0, "pull-0": 2.0}, 0.0, f"k-pull-0{PLAIN}", 2.0),
        ({"pull-100": 4.0, "pull-0": 5.0}, None, "start", 3.0),
        ({"pull-100": 3.0, "pull-0": 3.0}, None, "start", 3.0),  # equal is not better
    ],
)
def test_each_pull_is_tried_from_the_same_start_and_accepted_by_the_judge(losses, pull, model, loss):
    journal = Journal(lambda key: losses[key.removeprefix("k-").removesuffix(PLAIN)])
    start = named(3.0)
    found = train_by_pulls(contest(journal), "k", start)
    assert journal.keys == [f"k-pull-100{PLAIN}", f"k-pull-0{PLAIN}"]
    assert all(given is start for _, given, *_ in journal.asked)
    assert [recipe.l2_sp for *_, recipe, _ in journal.asked] == [100.0, 0.0]
    assert all((recipe.epochs, recipe.patience) == (60, 5) for *_, recipe, _ in journal.asked)
    assert (found.pull, found.model.name, found.loss) == (pull, model, loss)
    assert found.epochs == (0 if pull is None else 4)
    assert (found.seconds, found.steps) == (4.0, 20)


def test_a_refit_repeats_the_accepted_pull_and_nothing_if_none_was():
    journal = Journal(lambda key: 1.0 if "100" in key else 2.0)
    given = contest(journal)
    trained = train_by_pulls(given, "k", named(3.0))
    again = named(3.0, "again")
    refitted = refit_by_pull(given, "k", again, trained)
    key, start, task, recipe, _ = journal.asked[-1]
    assert (key, start, refitted.model.name) == ("k-refit", again, "k-refit")
    assert (refitted.seconds, refitted.steps) == (6.0, 30)  # of both pulls and the refit
    assert (task.refitting, recipe.l2_sp, recipe.patience, recipe.epochs) == (True, 100.0, None, 4)
    kept = replace(trained, pull=None, setting=None)
    assert refit_by_pull(given, "k", again, kept) == replace(kept, model=again)
    assert len(journal.asked) == 3


# ---- random search


def test_random_search_takes_as_many_steps_as_the_growth_and_keeps_the_lowest_loss():
    built = []

    def build(nodes, var, generator):
        built.append(nodes)
        return named(3.0)

    journal = Journal(lambda key: {"random-1-pull-100-rate-0.01-decay-0": 0.5}.get(key, 2.0))
    given = contest(journal, build=build, steps=41, rates=(0.003, 0.01))  # 20 steps a genotype: the third begins at 40
    score = random_search(given)
    assert journal.keys == [  # the rates take turns
        f"random-{i}-pull-{pull}-rate-{rate}-decay-0"
        for i, rate in enumerate((0.003, 0.01, 0.003))
        for pull in (100, 0)
    ]
    assert (score.settings, score.seconds, score.steps, score.val.metric) == (3, 12.0, 60, 0.5)
    found = {"nodes": len(built[1]), "ops": sum(map(len, built[1])), "pull": 100.0}
    assert score.chosen == {**found, "rate": 0.01, "weight_decay": 0.0}
    assert len({str(nodes) for nodes in built}) > 1


def test_random_search_repeats_with_its_seed():
    def sampled(seed):
        built = []
        random_search(
            contest(build=lambda nodes, var, generator: (built.append(nodes), named(3.0))[1], steps=61, seed=seed)
        )
        return built

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_a_random_cell_that_diverges_under_one_pull_counts_all_its_steps():
    class Diverging(Journal):
        def fit(self, key, *args, **options):
            if key.startswith("random-0-pull-0"):
                raise TrainingError(f"{key} diverged", seconds=3.0, steps=5)
            return super().fit(key, *args, **options)

    with pytest.warns(UserWarning, match="passed over: random-0-pull-0"):
        score = random_search(contest(Diverging(), steps=16))
    # random-0: 10 steps with pull 100, 5 with pull 0; random-1: 20
    assert (score.steps, score.seconds, score.settings) == (35, 9.0, 2)


# ---- rates, weight decays and halving


def test_rates_and_weight_decays_are_tried_with_the_same_weights():
    journal = Journal()
    given = contest(journal, rates=(0.003, 0.01), weight_decays=(0.0, 1.0), losses=("huber",), hidden_sizes=(2,))
    assert BASELINES["lstm"](given).settings == 4
    tried = [(recipe.weights.rate, recipe.weights.weight_decay) for *_, recipe, _ in journal.asked]
    assert tried == [(0.01, 0.0), (0.01, 1.0), (0.003, 0.0), (0.003, 1.0)]
    weights = [torch.cat([p.flatten() for p in model.core.parameters()]) for _, model, *_ in journal.asked]
    assert all(torch.equal(one, weights[0]) for one in weights)


def test_sizes_and_decays_compete_at_the_highest_rate_and_the_best_is_trained_with_all():
    best = "lstm-3-squared-rate-0.003-decay-0"
    journal = Journal(lambda key: {best: 0.2}.get(key, 0.5 if key.startswith("lstm-3") else 1.0))
    given = contest(journal, losses=("squared",), rates=(0.003, 0.01), halving=Halving(3, 2, 1))
    score = BASELINES["lstm"](given)
    assert journal.keys == [
        *("lstm-2-squared-rate-0.01-decay-0-to-3", "lstm-3-squared-rate-0.01-decay-0-to-3"),
        *("lstm-3-squared-rate-0.01-decay-0", best),
    ]
    assert (score.chosen["hidden_size"], score.chosen["rate"], score.settings) == (3, 0.003, 3)


def test_the_gru_beside_the_var_is_tuned_for_each_pull():
    journal = Journal(lambda key: {"gru_var-pull-0-rate-0.01-decay-1": 0.5}.get(key, 1.0))
    score = BASELINES["gru_var"](with_real_start(journal, rates=(0.003, 0.01), weight_decays=(0.0, 1.0)))
    assert (score.settings, score.steps, score.val.metric) == (8, 80, 0.5)
    assert {key: score.chosen[key] for key in ("pull", "rate", "weight_decay")} == {
        "pull": 0.0,
        "rate": 0.01,
        "weight_decay": 1.0,
    }


def with_real_start(journal, **changes):
    """Return a contest whose task evaluates untrained models, too."""
    given = contest(journal, **changes)
    evaluate = given.task.evaluate
    given.task.evaluate = lambda model, part: evaluate(model if hasattr(model, "says") else named(3.0), part)
    given.task.model = lambda core, *, generator: ReadModel(core)
    return given


class ReadModel(Model):
    """Has a readout of the core's width."""

    def __init__(self, core):
        super().__init__(core)
        self.readout = nn.Linear(core.hidden_size, SERIES)


# ---- controls of growth


def test_the_fixed_size_is_the_largest_cell_from_random_weights():
    built = []

    def build(nodes, var, generator):
        built.append((nodes, var))
        return named(3.0)

    journal = Journal(lambda key: 0.5 if "0.01" in key else 1.0)
    growth = Growth(recipe=Recipe(epochs=50, patience=5, l2_sp=9.0, bilevel="joint"), max_nodes=4)
    score = BASELINES["fixed_size_random"](contest(journal, build=build, growth=growth, rates=(0.003, 0.01)))
    assert journal.keys == ["fixed_size_random-rate-0.01-decay-0", "fixed_size_random-rate-0.003-decay-0"]
    assert built == 2 * [([contest().space.ops] * 4, None)]
    for *_, recipe, _ in journal.asked:
        assert (recipe.epochs, recipe.patience, recipe.l2_sp) == (60, 6, 0.0)  # the baselines', in one stage
    assert score.chosen == {"nodes": 4, "rate": 0.01, "weight_decay": 0.0}
    assert (score.settings, score.steps, score.val.metric) == (2, 20, 0.5)


@pytest.mark.parametrize(
    ("losses", "nodes"),
    [([1.0, 1.0, 1.0], 1), ([1.0, 0.9, 0.8], 3), ([1.0, 0.9, 0.95], 2), ([1.0, 1.1, 0.9], 3), ([0.5, 0.6, 0.7], 1)],
)
def test_sizes_are_all_trained_and_the_judge_chooses(losses, nodes):
    journal = Journal(lambda key: losses[int(key.split("-")[1]) - 1])
    growth = Growth(recipe=Recipe(epochs=50, patience=5), max_nodes=3, judge="better")
    score = BASELINES["sizes"](contest(journal, growth=growth, rates=(0.003, 0.01)))
    assert journal.keys == [f"sizes-{number}{PLAIN}" for number in (1, 2, 3)]  # at growth's rate
    assert (score.chosen["nodes"], score.val.metric) == (nodes, pytest.approx(losses[nodes - 1]))
    assert (score.settings, score.steps, score.seconds) == (3, 30, 6.0)  # of all sizes


def test_on_white_noise_one_node_is_chosen_and_all_steps_are_counted(tmp_path):
    rng, path = np.random.default_rng(1), tmp_path / "closes.csv"
    values = 100 * np.exp(0.01 * rng.normal(size=(300, 2)).cumsum(0))
    days = np.arange("2020-01-01", "2020-10-27", dtype="datetime64[D]")[:300]
    rows = [f"{day},{one},{other}" for day, (one, other) in zip(days, values, strict=True)]
    path.write_text("\n".join(["date,A,B", *rows]) + "\n")
    options = ("space.hidden_size=4", "task.context=20", "task.streams=4", "start.max_order=1", "retrain.patience=3")
    config = load("index_returns/growing", [f"task.data={path}", *options])
    task, space = load_task(config), space_of(config)
    log = SimpleNamespace(truncate=lambda size: None, append=lambda line: None)
    progress = SimpleNamespace(note=lambda words: None, update=lambda **words: None)
    logs = {"metrics": log, "growth": log, "shares": log, "progress": progress}
    journal = kept.Journal(tmp_path / "checkpoint", "config", **logs)
    about = {"growth": growth_of(config, space), "space": space, "recipe": retrain_recipe(config), "seed": 1}
    score = BASELINES["sizes"](SeriesContest.enter(config, journal, task, **about))
    assert score.chosen["nodes"] == 1
    weights = about["growth"].recipe.weights
    ending = f"-rate-{weights.rate:g}-decay-{weights.weight_decay:g}.done"
    steps = [checkpoint.load(journal.folder / f"sizes-{nodes}{ending}", "config")["steps"] for nodes in (1, 2, 3)]
    assert score.steps == sum(steps) > max(steps) > 0


@pytest.mark.parametrize("at_var", [True, False])
def test_the_start_is_built_at_the_var_of_the_rows_it_may_know(at_var):
    seen = []
    given = contest(build=lambda nodes, var, generator: seen.append(var), at_var=at_var, refit=True)
    given.start([[("add", "tanh")]], "x")
    given.start([[("add", "tanh")]], "x", refitted=True)
    if not at_var:
        assert seen == [None, None]
        return
    assert seen[0] is given.selection.var  # fitted on the training part
    values = FakeTask().values
    ahead = least_squares(values, TRAIN + VAL, 2)
    np.testing.assert_allclose(seen[1].forecast(values)[1:-1], ahead, rtol=0, atol=1e-10)


# ---- randomness


@given(st.integers(0, 2**63 - 1), st.text("abc-0", max_size=6), st.text("abc-0", max_size=6))
def test_a_generator_depends_on_seed_and_purpose(seed, one, other):
    def draw(seed, purpose):
        return torch.rand(4, generator=generator_for(seed, purpose), dtype=torch.float64).tolist()

    assert draw(seed, one) == draw(seed, one)
    assert (draw(seed, one) == draw(seed, other)) == (one == other)
    assert draw(seed, one) != draw(seed ^ 1, one)


def test_the_choice_of_the_start_and_of_each_linear_model_is_shown():
    journal = Journal()
    found = entered(journal=journal)
    assert journal.notes[0] == "choosing the linear start: model 1 of 3, fold 1 of 10"
    for name in ("var", "var_robust", "har"):
        journal.notes.clear()
        BASELINES[name](found)
        assert journal.notes[0].startswith(f"{name}: ")
