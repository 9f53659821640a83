"""Experiments on texts: sizes that match, one grid for all, and the setting that growth takes from it."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from grownas.baselines.recurrent import recurrent_core
from grownas.config.loading import check_task, load
from grownas.errors import ConfigError, TrainingError
from grownas.experiments.search import run_baseline
from grownas.experiments.text import TextExperiment, named
from grownas.genotype import Genotype, Node, Op, published
from grownas.protocols import Evaluation, TextTask
from grownas.tasks.penn_treebank.model import LanguageModel, Stack
from grownas.tasks.penn_treebank.options import Options
from grownas.training.recipe import count_parameters

WORDS = 50


class Task(TextTask):
    """Builds real models; what a fit reaches is told by the journal."""

    name, metric, section, unit = "text", "perplexity", Options, "words"
    words, source, checksum, input_size = [f"w{number}" for number in range(WORDS)], "drawn", "0", None

    @staticmethod
    def not_called(*_, **__):
        raise AssertionError("nothing is trained here")

    load = windows = loss = not_called

    def __init__(self, **options):
        self.options = options

    def model(self, *cores, generator):
        core = cores[0] if len(cores) == 1 else Stack(cores)
        return LanguageModel(core, WORDS, gain=self.options.get("gain", 1.0), generator=generator)

    def with_options(self, values):
        return Task(**{**self.options, **values})

    def evaluate(self, model, part):
        return Evaluation(model.reached, torch.zeros(4).numpy())


class Journal:
    def __init__(self, reached):
        self.reached, self.fits = reached, {}

    def of_model(self, name):
        return nullcontext()

    def fit(self, key, model, task, recipe, *, seed, optimizers=None, stage=0, after=None, extendable=False):
        assert (after, extendable) == (None, False)  # every setting of a text is trained to the end
        assert key not in self.fits
        model.reached = self.reached(key)
        if model.reached is None:
            raise TrainingError(f"{key} diverged", seconds=2.0, steps=7)
        self.fits[key] = (model, task, recipe)
        return SimpleNamespace(
            model=model,
            evaluation=task.evaluate(model, "val"),
            steps=10,
            seconds=1.0,
            speed=5.0,
            epochs=4,
            best_epoch=1,
        )


def experiment(journal=None, *overrides, **changes):
    config = load("penn_treebank/compare_cpu", ["space.hidden_size=9", "baselines.grid={}", "seed=3", *overrides])
    return replace(TextExperiment.of(config, journal or Journal(lambda key: 1.0), Task()), **changes)


def cores(experiment):
    node = Node((Op("add", "tanh", 0.5), Op("hadamard", "relu", 0.25), Op("hadamard", "tanh", 0.25)))
    cells = [Genotype((node,), highway=True), Genotype((node, node), share_projection=True), Genotype.load("darts_v2")]
    yield from ((kind, lambda H, g, kind=kind: recurrent_core(kind, H, H, generator=g)) for kind in ("lstm", "gru"))
    for genotype in cells:
        yield "grown", experiment.settings_of(genotype)[0][0].build.args[0]


def test_the_fake_conforms_to_the_protocol():
    check_task(Task())


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("params", [700, 2_345, 9_999])
def test_every_kind_is_given_the_size_that_comes_nearest_to_the_parameters(params, layers):
    made, g = experiment(params=params), torch.Generator()
    for _, core in cores(made):

        def count(units, core=core):
            return count_parameters(Task().model(*(core(units, g) for _ in range(layers)), generator=g))

        found = made.units(core, layers)
        nearest = min(range(1, 60), key=lambda units: abs(count(units) - params))
        assert abs(count(found) - params) == abs(count(nearest) - params)


def test_all_models_are_tried_with_the_same_grid():
    journal = Journal(lambda key: 1.0)
    made = experiment(journal, "baselines.grid.rate=[0.1,0.2]", "baselines.grid.gain=[1,3]", params=3_000)
    for name in ("lstm", "gru"):
        assert run_baseline(made, name).settings == 4
    settings = [(recipe.weights.rate, task.options["gain"]) for _, task, recipe in journal.fits.values()]
    assert settings == 2 * list(itertools.product([0.1, 0.2], [1.0, 3.0]))
    for model, task, _ in journal.fits.values():
        assert float(model.gain) == task.options["gain"]
    kinds = {key.partition("-")[0]: model for key, (model, *_) in journal.fits.items()}
    again = replace(made, journal=Journal(lambda key: 0.5 if "rate-0.2-gain-3" in key else 1.0))
    for name, model in kinds.items():
        assert run_baseline(again, name).chosen == {"rate": 0.2, "gain": 3.0, "hidden_size": model.core.hidden_size}
    genotype = Genotype((Node((Op("add", "tanh"),)),))
    assert len({one.key for (one,) in made.settings_of(genotype)}) == 4


def test_layers_are_of_the_models_trained_from_random_weights_alone():
    journal = Journal(lambda key: 1.0)
    made = experiment(journal, "retrain.layers=2", params=3_000)
    for name in ("lstm", "enas"):
        run_baseline(made, name)
    counts = {key: len(getattr(model.core, "layers", [1])) for key, (model, *_) in journal.fits.items()}
    assert set(counts.values()) == {2}
    chosen = run_baseline(made, "gru").chosen
    assert (chosen["layers"], chosen["hidden_size"]) == (2, made.units(dict(cores(made))["gru"], 2))
    assert len(made.start([made.space.ops], "start").core.nodes) == 1  # a backbone


def test_a_published_cell_is_a_baseline_of_the_same_size():
    journal = Journal(lambda key: 1.0)
    made = experiment(journal, "baselines.grid.rate=[0.1,0.2]", params=3_000)
    assert run_baseline(made, "darts_v1").settings == 2
    assert set(journal.fits) == {"darts_v1-rate-0.1", "darts_v1-rate-0.2"}
    for model, *_ in journal.fits.values():
        assert model.core.genotype == Genotype.load("darts_v1")
        assert count_parameters(model) == pytest.approx(3_000, rel=0.1)


def test_a_setting_with_which_training_diverges_is_passed_over_and_its_seconds_count():
    made = experiment(
        Journal(lambda key: None if "rate-0.2" in key else 1.0), "baselines.grid.rate=[0.1,0.2]", params=3_000
    )
    with pytest.warns(UserWarning, match=r"skipped a setting: lstm-rate-0\.2 diverged"):
        score = run_baseline(made, "lstm")
    assert (score.settings, score.seconds, score.steps, score.chosen["rate"]) == (2, 3.0, 17, 0.1)
    with pytest.warns(UserWarning, match=r"tune-rate-0\.2"):
        tuned = made.tuned([made.space.ops])
    assert (tuned.strategy.recipe().weights.rate, tuned.seconds_before, tuned.steps_before) == (0.1, 3.0, 17)


def test_a_file_of_a_published_cells_name_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "enas").mkdir()
    monkeypatch.chdir(tmp_path)
    journal = Journal(lambda key: 1.0)
    run_baseline(experiment(journal, params=3_000), "enas")
    assert journal.fits["enas"][0].core.genotype == Genotype.load(published()["enas"])


def test_where_every_setting_diverges_the_last_error_is_raised():
    made = experiment(Journal(lambda key: None), "baselines.grid.rate=[0.1,0.2]", params=3_000)
    with pytest.warns(UserWarning, match=r"rate-0\.1"), pytest.raises(TrainingError, match=r"gru-rate-0\.2"):
        run_baseline(made, "gru")
    with pytest.raises(TrainingError, match=r"^gru diverged"):
        run_baseline(experiment(Journal(lambda key: None), "baselines.grid={}", params=3_000), "gru")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("task.cache_size=500", r"task\.cache_size=500 .* `grownas evaluate RUN task\.cache_size=500`"),
        ("task.dynamic_rate=0.0001", r"task\.dynamic_rate=0\.0001 .* `grownas evaluate RUN task\.dynamic_rate"),
        ("task.dropout_hidden=0.2", r"task\.dropout_hidden=0\.2 .* retrain\.layers=1"),
        ("refit=true", "refit=true"),
        ("space.hidden_size=auto", "space.hidden_size=auto"),
    ],
)
def test_what_a_search_of_a_text_cannot_use_is_refused(override, words):
    task = SimpleNamespace(name="text", section=Options)
    TextExperiment.check(load("penn_treebank/compare_cpu"), task)
    with pytest.raises(ConfigError, match=words):
        TextExperiment.check(load("penn_treebank/compare_cpu", [override]), task)


def test_growth_takes_the_setting_whose_first_stage_is_best():
    grid = "baselines.grid.rate=[0.1,0.2]", "baselines.grid.gain=[1,3]"
    best = named({"rate": 0.2, "gain": 1.0})
    journal = Journal(lambda key: 0.5 if key == f"tune-{best}" else 1.0)
    made = experiment(journal, *grid)
    tuned = made.tuned([made.space.ops])
    assert list(journal.fits) == [f"tune-rate-{rate}-gain-{gain}" for rate in ("0.1", "0.2") for gain in ("1", "3")]
    first_stage = made.strategy.options.stage_recipe(1, 0.0)
    assert {recipe.epochs for *_, recipe in journal.fits.values()} == {first_stage.epochs}
    assert tuned.strategy.recipe().weights.rate == tuned.recipe.weights.rate == 0.2
    assert (tuned.task.options["gain"], tuned.seconds_before) == (1.0, 4.0)
    assert (tuned.setting, tuned.tried) == ({"rate": 0.2, "gain": 1.0}, 4)
    starts = [model for model, *_ in journal.fits.values()]
    assert all(torch.equal(one.embedding.weight, starts[0].embedding.weight) for one in starts)  # the same start
    assert isinstance(starts[0], nn.Module)


def test_without_a_grid_nothing_is_tuned():
    journal = Journal(lambda key: 1.0)
    made = experiment(journal, "baselines.grid={}")
    tuned = made.tuned([made.space.ops])
    assert (journal.fits, tuned.seconds_before, tuned.grid) == ({}, 0.0, ({},))
