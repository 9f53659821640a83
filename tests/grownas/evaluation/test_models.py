"""Each name of a model means one thing, and that table alone says which."""

from __future__ import annotations

import pytest

from grownas.baselines.table import BASELINES
from grownas.evaluation.models import FITTED, MODELS, is_text, lowest, main_of, model_of_fit, named, rivals_of
from grownas.genotype import published


def test_every_baseline_is_in_the_table():
    names = set(BASELINES) | set(published())
    assert {MODELS[name].kind for name in names} == {"fitted", "trained"}
    assert all(model.words for model in MODELS.values())


@pytest.mark.parametrize(
    ("name", "strategies", "kind"),
    [
        ("chosen", [], "found"),
        ("grown_retrained", ["growing"], "found"),
        ("start", ["growing"], "start"),
        ("var_robust", ["growing"], "fitted"),
        ("gru", ["growing"], "trained"),
        ("random", ["growing"], "trained"),
        ("random", ["growing", "random"], "found"),
        ("random_retrained", ["random"], "found"),
        ("mine", ["growing"], "trained"),
        ("mine", ["mine"], "found"),
    ],
)
def test_a_name_says_what_a_model_is(name, strategies, kind):
    assert named(name, strategies).kind == kind


def test_fitted_models_are_those_that_do_not_depend_on_the_seed():
    assert FITTED == ("zero", "var1", "var", "var_robust", "har")


def test_a_run_is_about_the_chosen_or_the_grown_or_its_only_model():
    assert main_of(["start", "grown", "chosen"]) == "chosen"
    assert main_of(["start", "grown"]) == "grown"
    assert main_of(["gru"]) == "gru"
    assert main_of([]) is None


def test_a_model_is_compared_with_the_start_baselines_and_what_others_found():
    names = ["chosen", "grown", "first_stage", "start", "zero", "gru", "random", "random_retrained"]
    assert rivals_of("chosen", names, ["growing"]) == ["start", "zero", "gru", "random", "random_retrained"]
    assert rivals_of("chosen", names, ["growing", "random"]) == ["start", "zero", "gru", "random", "random_retrained"]
    assert rivals_of("chosen", names, ["random"]) == ["start", "zero", "gru"]
    assert rivals_of("gru", ["gru"]) == []


@pytest.mark.parametrize(
    ("part", "model"),
    [
        ("gru-27-huber-rate-0.01", "gru"),
        ("gru", "gru"),
        ("gru_var-pull-0-rate-0.01", "gru_var"),
        ("retrained-huber-rate-0.01-decay-0", "grown_retrained"),
        ("my-own-rate-0.1", "my-own"),
        ("grunt-1", None),
        ("stage-2", None),
    ],
)
def test_a_fit_is_of_the_model_whose_name_it_begins_with(part, model):
    assert model_of_fit(part, ["gru", "gru_var", "my", "my-own"]) == model


def test_the_lowest_of_nothing_is_none():
    assert lowest({"a": 2.0, "b": 1.0, "c": None, "d": float("nan")}) == "b"
    assert lowest({"c": None}) is lowest({}) is None


@pytest.mark.parametrize(
    ("data", "said"),
    [({"kind": "language"}, True), ({"kind": "series", "words": 1}, False), ({}, False), ({"words": 9}, True)],
)
def test_data_say_their_kind(data, said):
    assert is_text(data) == said
