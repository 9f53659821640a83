"""The baselines' wiring, with a tiny task and a scripted journal: what is fitted on what, chosen and counted how."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grownas.baselines.combination import CENTRES, Combination, Part, combine_by_folds, weighted_sum
from grownas.baselines.esn import ESN, SETTINGS, Reservoir, choose
from grownas.baselines.har import fit_har, select_har
from grownas.baselines.table import names
from grownas.baselines.var import VAR, Selection, fit_var_robust, select_by_folds
from grownas.config.loading import check_task, load
from grownas.criteria.acceptance import Acceptance
from grownas.experiments.choosing import Halving
from grownas.experiments.experiment import generator_for
from grownas.experiments.search import run_baseline
from grownas.experiments.series import SeriesExperiment
from grownas.protocols import Evaluation, SeriesTask
from grownas.runs import journal as kept
from grownas.runs.commands import load_task
from grownas.space import SearchSpace
from grownas.strategies.growing.options import Options
from grownas.strategies.growing.strategy import Growing
from grownas.training.loop import Fit
from grownas.training.recipe import Recipe

TRAIN, VAL, ROWS = 120, 30, 180
SERIES = 2
PLAIN = "-rate-0.001-decay-0"  # ends the key of a fit


class Model(nn.Module):
    """Learns nothing. Its core is read by a readout, as a start at a VAR needs it."""

    def __init__(self, core, name="model"):
        super().__init__()
        self.core, self.name = core, name
        self.readout = nn.Linear(getattr(core, "hidden_size", 1), SERIES)


class FakeTask(SeriesTask):
    """Rows of an AR(2), float64; a model's loss and metric are what it says they are, 3 where it says nothing."""

    name, metric, section, input_size = "ar", "mse", Options, SERIES
    names, mean, sd, source, checksum = ["A", "B"], np.zeros(SERIES), np.ones(SERIES), "drawn", "0"
    values = None  # of the instance

    @staticmethod
    def not_called(*_, **__):
        raise AssertionError("nothing is trained here")

    load = windows = loss = tensor = at_origin = not_called

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
        made = Model(core)
        with torch.no_grad():
            made.readout.weight.uniform_(-0.1, 0.1, generator=generator)
            made.readout.bias.zero_()
        return made

    def evaluate(self, model, part):
        says = getattr(model, "says", 3.0)
        losses = np.full(VAL, says if part == "val" else says + 1)
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

    def of_model(self, name):
        return nullcontext()

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


def experiment(journal=None, **changes):
    var = VAR(np.zeros(SERIES), np.zeros((2, SERIES, SERIES)))
    given = {
        "task": FakeTask(),
        "journal": journal or Journal(),
        "selection": Selection(var, {"loss": "squared", "order": 2, "ridge": 0.0}, 180),
        "seconds_before": 7.0,
        "orders": (1, 2),
        "hidden_size": 4,
        "at_var": True,
        "carrier_share": 0.5,
        "strategy": growing(),
        "accept": Acceptance("better"),
        "space": SearchSpace(combine=("add",), activation=("tanh", "relu"), max_nodes=2),
        "recipe": Recipe(epochs=60, patience=6),
        "hidden_sizes": (2, 3),
        "losses": ("squared", "huber"),
        "rates": (0.001,),
        "weight_decays": (0.0,),
        "seed": 4,
    }
    return SeriesExperiment(**{**given, **changes})


def growing(**options):
    """Return growth whose own rate is 0.001, without weight decay."""
    weights = {"rate": 0.001, "weight_decay": 0.0}
    return Growing(Options.model_validate({"max_epochs": 50, "patience": 5, "weights": weights, **options}))


def least_squares(values, end, order):
    """Return the forecasts of rows `order`.. by a VAR fitted to rows before `end`: NumPy's own solver."""
    design = np.stack(
        [np.concatenate([[1.0], *(values[row - lag] for lag in range(1, order + 1))]) for row in range(order, ROWS)]
    )
    beta, *_ = np.linalg.lstsq(design[: end - order], values[order:end], rcond=None)
    return design @ beta


# ---- the table


def test_the_fake_conforms_to_the_protocol():
    check_task(FakeTask())


def test_the_table_is_that_of_series():
    assert list(experiment().baselines) == names("series")


# ---- fitted baselines


def test_zero_scores_the_mean_square():
    score = run_baseline(experiment(), "zero")
    values = FakeTask().values
    assert (score.model, score.params) == ("zero", 0)
    assert score.val.metric == pytest.approx((values[TRAIN : TRAIN + VAL] ** 2).mean(), rel=1e-12)
    assert score.test.metric == pytest.approx((values[TRAIN + VAL :] ** 2).mean(), rel=1e-12)


@pytest.mark.parametrize(("refit", "end"), [(False, TRAIN), (True, TRAIN + VAL)])
def test_var1_is_numpys_least_squares_on_what_may_be_known(refit, end):
    task = FakeTask()
    score = run_baseline(experiment(refit=refit), "var1")
    ahead = least_squares(task.values, TRAIN if not refit else end, 1)
    np.testing.assert_allclose(score.forecasts(), ahead[TRAIN - 1 :], rtol=0, atol=1e-10)
    assert (score.params, score.settings, score.chosen, score.seconds) == (SERIES + SERIES**2, 1, {}, 0.5)


@pytest.mark.parametrize("refit", [False, True])
def test_var_takes_the_order_of_the_lowest_validation_error(refit):
    task, journal = FakeTask(), Journal()
    score = run_baseline(experiment(journal, refit=refit), "var")
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
    short = experiment()
    short.task.rows = lambda part: {"train": slice(0, 20), "val": slice(20, 60), "test": slice(60, ROWS)}[part]
    assert run_baseline(short, "var").settings == 6  # 20 - p > 1 + 2 p ends at 6


def test_var_robust_is_the_best_huber_setting_whatever_the_start_is():
    tried = ("squared", 2, 0.0, 0.8), ("huber", 1, 0.3, 0.9), ("huber", 3, 1.0, 1.1)
    start = VAR(np.zeros(SERIES), np.zeros((2, SERIES, SERIES)))
    selection = Selection(start, {"loss": "squared"}, 180, tried=tried)
    score = run_baseline(experiment(selection=selection), "var_robust")
    fitted = fit_var_robust(FakeTask().values[:TRAIN], 1, ridge=0.3)
    ahead = fitted.forecast(FakeTask().values)
    np.testing.assert_allclose(score.forecasts(), ahead[TRAIN - 1 : -1], rtol=0, atol=1e-10)
    assert (score.seconds, score.settings) == (7.0, 2)
    assert score.chosen == {"loss": "huber", "order": 1, "ridge": 0.3}


def test_var_robust_has_folds_of_its_own_where_the_start_is_a_combination():
    values = FakeTask().values
    journal = Journal()
    score = run_baseline(
        experiment(journal, selection=combine_by_folds(values[:TRAIN]), orders=(1, 2, 3)), "var_robust"
    )
    judge = select_by_folds(values[:TRAIN], orders=(1, 2, 3)).robust(values[:TRAIN])
    np.testing.assert_array_equal(score.forecasts(), judge.var.forecast(values)[TRAIN - 1 : -1])
    assert (score.chosen, score.settings) == (judge.chosen, 3 * 9)
    assert (score.seconds, journal.remembered) == (0.5, ["var_robust"])  # the choice is a part of what is timed


@pytest.mark.parametrize("refit", [False, True])
def test_har_chooses_its_ridge_on_the_training_part_and_learns_from_what_may_be_known(refit):
    values, journal = FakeTask().values, Journal()
    score = run_baseline(experiment(journal, refit=refit), "har")
    chosen = select_har(values[:TRAIN]).chosen
    judge = fit_har(values[: TRAIN + VAL if refit else TRAIN], ridge=chosen["ridge"])
    np.testing.assert_array_equal(score.forecasts(), judge.forecast(values)[TRAIN - 1 : -1])
    assert (score.chosen, score.settings, score.params) == (chosen, 9, SERIES + 3 * SERIES**2)
    assert (score.seconds, journal.remembered) == (0.5, ["har"])


@pytest.mark.parametrize("refit", [False, True])
def test_esn_chooses_its_reservoir_on_the_training_part_and_learns_from_what_may_be_known(refit, monkeypatch):
    two_settings = partial(choose, settings=SETTINGS[:2], ridges=(0.01, 0.1))
    monkeypatch.setattr("grownas.baselines.series.choose", two_settings)
    values, journal = FakeTask().values, Journal()
    score = run_baseline(experiment(journal, refit=refit), "esn")
    reservoir = Reservoir.draw(SERIES, seed=4)
    found = two_settings(reservoir, values[:TRAIN])
    judge = ESN.fit(reservoir, found.setting, values[: TRAIN + VAL if refit else TRAIN], ridge=found.ridge)
    np.testing.assert_array_equal(score.forecasts(), judge.forecast(values)[TRAIN - 1 : -1])
    assert (score.chosen, score.settings) == ({**found.setting._asdict(), "ridge": found.ridge}, 4)
    assert (score.params, score.seconds, journal.remembered) == ((1 + SERIES + 200) * SERIES, 0.5, ["esn"])
    assert journal.notes[0] == "esn: reservoir 1 of 2, fold 1 of 10"
    other = run_baseline(experiment(refit=refit, seed=5), "esn")
    assert (other.forecasts() != score.forecasts()).any()


# ---- the start


def entered(*overrides, journal=None):
    """Return the experiment of a config with the fake task."""
    config = load("index_returns/growing", ["baselines.hidden_sizes=[2]", *overrides])
    return SeriesExperiment.of(config, journal or Journal(), FakeTask(loss="auto"))


def test_growth_starts_at_a_combination_by_default():
    found, judge = entered(), combine_by_folds(FakeTask().values[:TRAIN])
    assert isinstance(found.selection, Combination)
    np.testing.assert_array_equal(found.selection.var.coefficients, judge.var.coefficients)
    assert found.selection.chosen == judge.chosen
    assert found.task.loss_name == judge.var.loss
    assert (found.hidden_size, found.seconds_before) == (16, 0.5)


def on_noise(*overrides):
    """Return the experiment of a config with white noise."""
    config = load("index_returns/growing", ["task.data=white_noise", *overrides])
    return SeriesExperiment.of(config, Journal(), load_task(config))


def test_origins_are_starts_fitted_to_what_was_known_then():
    """Each has its own linear model; the sizes of the parts are those of `IndexReturns.at_origin`."""
    made = on_noise()
    origins = made.origins([made.space.ops], 2)
    for number, (start, task) in enumerate(origins, 1):
        assert task.n_train == made.task.n_train - number * made.task.n_val
        var = made.selection.refit(made.task.values[: task.n_train])
        wanted = var.forecast(task.values)[task.rows("val").start - 1 : task.rows("val").stop - 1]
        np.testing.assert_allclose(task.evaluate(start, "val").forecasts, wanted, rtol=0, atol=1e-4)  # float32
    assert len(origins) == 2
    assert made.origins([made.space.ops], 0) == []


def test_a_random_start_is_the_same_at_every_origin():
    made = on_noise("start.use=random")
    (origin,) = made.origins([made.space.ops], 1)
    start = made.start([made.space.ops], "start")
    for one, other in zip(origin.start.parameters(), start.parameters(), strict=True):
        assert torch.equal(one, other)


def test_where_rows_are_few_fewer_origins_judge_with_a_warning():
    made = on_noise("task.train=0.3", "task.val=0.2")
    with pytest.warns(UserWarning, match="a cell is tested at 2 of 5 origins: .* 2 earlier validation parts of"):
        assert len(made.origins([made.space.ops], 4)) == 1


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

    given = experiment(Watched(), selection=selection, refit=refit)
    run_baseline(given, "gru_var")
    start, rows = seen[-1 if refit else 0], TRAIN + VAL if refit else TRAIN
    with torch.no_grad():
        ahead = start.double().readout(start.core(torch.from_numpy(values)[:, None])[0])[:, 0]
    np.testing.assert_allclose(ahead, selection.refit(values[:rows]).forecast(values), rtol=0, atol=1e-5)


# ---- trained baselines


@pytest.mark.parametrize("kind", ["lstm", "gru", "min_gru", "lru"])
def test_every_size_is_trained_with_every_loss_and_the_lowest_metric_wins(kind):
    journal = Journal(lambda key: {f"{kind}-3-squared{PLAIN}": 0.5}.get(key, 1.0))
    score = run_baseline(experiment(journal), kind)
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
    run_baseline(experiment(journal, params=147), "gru")
    assert [model.core.hidden_size for _, model, *_ in journal.asked] == [2, 2, 3, 3, 5, 5]
    again = Journal()
    run_baseline(experiment(again, params=147, hidden_sizes=(5,)), "gru")
    assert again.keys == [f"gru-5-squared{PLAIN}", f"gru-5-huber{PLAIN}"]  # not twice


@pytest.mark.parametrize(
    ("kind", "word", "sizes"), [("tsmixer", "units", [16, 32, 64, 128]), ("dlinear", "lookback", [10, 20, 40, 80])]
)
def test_models_of_windows_try_as_many_sizes_of_their_own_as_an_lstm(kind, word, sizes):
    journal = Journal(lambda key: 0.5 if key.startswith(f"{kind}-{sizes[2]}-huber") else 1.0)
    score = run_baseline(experiment(journal, params=147), kind)
    assert journal.keys == [f"{kind}-{size}-{loss}{PLAIN}" for size in sizes for loss in ("squared", "huber")]
    assert score.chosen == {word: sizes[2], "loss": "huber", "rate": 0.001, "weight_decay": 0.0}


@pytest.mark.parametrize("kind", ["tsmixer", "dlinear"])
def test_the_output_of_a_model_of_windows_is_the_forecast(kind):
    journal = Journal()
    run_baseline(experiment(journal), kind)
    for _, model, *_ in journal.asked:
        assert torch.equal(model.readout.weight, torch.eye(SERIES))
        assert not any(parameter.requires_grad for parameter in model.readout.parameters())
        assert all(parameter.requires_grad for parameter in model.core.parameters())


@pytest.mark.parametrize(
    ("kind", "size", "count"), [("min_gru", 7, 2 * 7 * 3 + 2 * 8), ("lru", 4, 6 * 16 + 11 * 4 + 10)]
)
def test_the_size_of_linear_recurrences_matches_the_grown_cells_parameters(kind, size, count):
    """Core and readout of 2 series; `test_lru` has the sum for the block, 6 H^2 + (I + 9) H."""
    journal = Journal()
    run_baseline(experiment(journal, params=count, hidden_sizes=(2,)), kind)
    assert [model.core.hidden_size for _, model, *_ in journal.asked] == [2, 2, size, size]


def test_both_losses_begin_with_the_same_weights():
    journal = Journal()
    run_baseline(experiment(journal), "gru")
    (_, first, *_), (_, second, *_), (_, other, *_), _ = journal.asked
    assert first is not second
    for a, b in zip(first.core.parameters(), second.core.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.core.hidden_size != other.core.hidden_size


def test_a_refit_trains_the_winner_anew_for_its_best_number_of_epochs():
    journal = Journal(lambda key: {f"b-huber{PLAIN}": 0.5}.get(key, 1.0))
    given = experiment(journal, refit=True)
    settings = [
        one for key in ("a", "b") for one in given.settings(key, {"key": key}, lambda key=key: named(9.0, f"new {key}"))
    ]
    score, model = given.train_and_score("mine", settings)
    key, start, task, recipe, _ = journal.asked[-1]
    assert (key, start.name) == ("mine-refit", "new b")
    assert (task.refitting, task.loss_name) == (True, "huber")
    assert (recipe.epochs, recipe.patience) == (4, None)
    assert model.name == "mine-refit"
    chosen = {"key": "b", "loss": "huber", "rate": 0.001, "weight_decay": 0.0}
    assert (score.settings, score.seconds, score.steps, score.chosen) == (4, 10.0, 50, chosen)


# ---- rates, weight decays and halving


def test_rates_and_weight_decays_are_tried_with_the_same_weights():
    journal = Journal()
    given = experiment(journal, rates=(0.003, 0.01), weight_decays=(0.0, 1.0), losses=("huber",), hidden_sizes=(2,))
    assert run_baseline(given, "lstm").settings == 4
    tried = [(recipe.weights.rate, recipe.weights.weight_decay) for *_, recipe, _ in journal.asked]
    assert tried == [(0.01, 0.0), (0.01, 1.0), (0.003, 0.0), (0.003, 1.0)]
    weights = [torch.cat([p.flatten() for p in model.core.parameters()]) for _, model, *_ in journal.asked]
    assert all(torch.equal(one, weights[0]) for one in weights)


def test_sizes_and_decays_compete_at_the_highest_rate_and_the_best_is_trained_with_all():
    best = "lstm-3-squared-rate-0.003-decay-0"
    journal = Journal(lambda key: {best: 0.2}.get(key, 0.5 if key.startswith("lstm-3") else 1.0))
    given = experiment(journal, losses=("squared",), rates=(0.003, 0.01), halving=Halving(3, 2, 1))
    score = run_baseline(given, "lstm")
    assert journal.keys == [
        *("lstm-2-squared-rate-0.01-decay-0-to-3", "lstm-3-squared-rate-0.01-decay-0-to-3"),
        *("lstm-3-squared-rate-0.01-decay-0", best),
    ]
    assert (score.chosen["hidden_size"], score.chosen["rate"], score.settings) == (3, 0.003, 3)


def test_the_gru_beside_the_var_is_tuned():
    journal = Journal(lambda key: 0.5 if key == "gru_var-rate-0.01-decay-1" else 1.0)
    given = experiment(journal, rates=(0.003, 0.01), weight_decays=(0.0, 1.0), strategy=growing(l2_sp=[9.0]))
    score = run_baseline(given, "gru_var")
    assert (score.settings, score.steps, score.seconds, score.val.metric) == (4, 40, 8.0, 0.5)
    assert score.chosen == {"units": 3, "rate": 0.01, "weight_decay": 1.0}
    for *_, recipe, _ in journal.asked:
        assert (recipe.epochs, recipe.patience, recipe.l2_sp) == (60, 5, 0.0)  # trained as the search trains


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize(("loss", "accepted"), [(2.0, True), (3.0, False), (5.0, False)])  # equal is not better
def test_the_gru_beside_the_var_replaces_it_only_where_it_is_accepted(loss, accepted, refit):
    journal = Journal(lambda key: loss)
    score = run_baseline(experiment(journal, refit=refit), "gru_var")
    again = refit and accepted  # what was not accepted is not trained again
    assert journal.keys == [f"gru_var{PLAIN}", *["gru_var-refit"] * again]
    assert (score.steps, score.seconds) == ((20, 4.0) if again else (10, 2.0))
    assert score.val.metric == (loss if accepted else 3.0)
    assert ("rate" in score.chosen) == accepted
    if again:
        _, model, task, recipe, _ = journal.asked[-1]
        assert (task.refitting, recipe.patience, recipe.epochs) == (True, None, 4)
        assert model is not journal.asked[0][1]


# ---- controls of growth


def test_the_fixed_size_is_the_largest_cell_from_random_weights():
    journal = Journal(lambda key: 0.5 if "0.01" in key else 1.0)
    space = SearchSpace(combine=("add",), activation=("tanh", "relu"), max_nodes=4)
    given = experiment(journal, strategy=growing(l2_sp=[9.0]), space=space, rates=(0.003, 0.01))
    score = run_baseline(given, "fixed_size_random")
    assert journal.keys == ["fixed_size_random-rate-0.01-decay-0", "fixed_size_random-rate-0.003-decay-0"]
    for _, model, _, recipe, _ in journal.asked:
        assert [model.core.op_names(node) for node in range(4)] == [list(space.ops)] * 4  # without a carrier
        assert (model.readout.weight != 0).all()
        assert (recipe.epochs, recipe.patience, recipe.l2_sp) == (60, 6, 0.0)  # the baselines', in one stage
    assert score.chosen == {"nodes": 4, "rate": 0.01, "weight_decay": 0.0}
    assert (score.settings, score.steps, score.val.metric) == (2, 20, 0.5)


@pytest.mark.parametrize(
    ("losses", "nodes"),
    [([1.0, 1.0, 1.0], 1), ([1.0, 0.9, 0.8], 3), ([1.0, 0.9, 0.95], 2), ([1.0, 1.1, 0.9], 3), ([0.5, 0.6, 0.7], 1)],
)
def test_sizes_are_all_trained_and_the_judge_chooses(losses, nodes):
    journal = Journal(lambda key: losses[int(key.split("-")[1]) - 1])
    space = SearchSpace(combine=("add",), activation=("tanh", "relu"), max_nodes=3)
    score = run_baseline(experiment(journal, space=space, rates=(0.003, 0.01)), "sizes")
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
    journal = kept.Journal.in_memory()
    given = SeriesExperiment.of(config, journal, load_task(config))
    seen = []
    fit = journal.fit
    journal.fit = lambda key, *args, **options: (seen.append((key, fit(key, *args, **options))), seen[-1][1])[1]
    score = run_baseline(given, "sizes")
    assert score.chosen["nodes"] == 1
    assert [key.split("-rate")[0] for key, _ in seen] == ["sizes-1", "sizes-2", "sizes-3"]
    steps = [one.steps for _, one in seen]
    assert score.steps == sum(steps) > max(steps) > 0


@pytest.mark.parametrize("at_var", [True, False])
def test_the_start_is_built_at_the_var_of_the_rows_it_may_know(at_var):
    values = FakeTask().values
    selection = select_by_folds(values[:TRAIN], orders=(2,))
    given = experiment(at_var=at_var, refit=True, selection=selection)
    ops, made = [[("add", "tanh")]], {}
    for refitted in (False, True):
        start = given.start(ops, "x", refitted=refitted).double()
        with torch.no_grad():
            made[refitted] = start.readout(start.core(torch.from_numpy(values)[:, None])[0])[:, 0].numpy()
        assert (start.core.op_names(0) == ops[0]) == (not at_var)  # without a carrier
    if not at_var:
        np.testing.assert_array_equal(made[False], made[True])
        return
    np.testing.assert_allclose(made[False], selection.var.forecast(values), rtol=0, atol=1e-5)
    np.testing.assert_allclose(made[True], selection.refit(values[: TRAIN + VAL]).forecast(values), rtol=0, atol=1e-5)


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
        run_baseline(found, name)
        assert journal.notes[0].startswith(f"{name}: ")
