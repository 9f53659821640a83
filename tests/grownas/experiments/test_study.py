"""The combinations of a study: their optimisers, rates and checks."""

from __future__ import annotations

import pytest

from grownas.config.loading import load, strategy_class
from grownas.errors import ConfigError
from grownas.experiments import study
from grownas.runs import sweep

ON = ("study.momentum=[0,0.9]", "task.data=planted")
DARTS = "strategy={use: darts, patience: null, follow_cell_epochs: 1, follow_hessian_windows: 2}"


def loaded(*overrides):
    return load("index_returns/growing", [*ON, *overrides])


def test_a_study_has_every_pair_at_every_momentum():
    found = list(study.combinations(loaded(DARTS).study))
    assert len(found) == len(set(found)) == 2 * 2 * 2
    assert study.Combination("sgd", "adam", 0.9) in found


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_steps_are_as_long_with_momentum_as_without(momentum):
    config = loaded(DARTS, "study.sgd_alpha_rate=2", "study.adam_alpha_rate=0.25")
    section = study._section(config, study.Combination("sgd", "adam", momentum), 0.5)
    recipe = strategy_class("darts")(section).recipe()
    assert (recipe.weights.optimizer, recipe.weights.momentum) == ("sgd", momentum)
    assert recipe.weights.rate / (1 - momentum) == pytest.approx(0.5)  # the length of many steps along one gradient
    assert (recipe.alpha.optimizer, recipe.alpha.momentum, recipe.alpha.rate) == ("adam", momentum, 0.25)
    other = study._section(config, study.Combination("adam", "sgd", momentum), 0.5)
    assert (other.weights.rate, other.alpha.rate) == (0.5, pytest.approx(2 * (1 - momentum)))
    assert section.follow_cell_epochs == 1


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("strategy={use: random}", "strategy random has no supernet"),
        ("strategy.use=growing", "strategy growing has no supernet"),
        (
            "strategy={use: darts, follow_cell_epochs: 1}",
            "darts does not measure the cell or the eigenvalue; set follow_",
        ),
        (
            "strategy={use: gaea, patience: null, follow_cell_epochs: 1, follow_hessian_windows: 2}",
            "gaea has an optimiser of alpha of its own",
        ),
    ],
)
def test_a_strategy_that_cannot_be_studied_is_refused(strategy, words):
    with pytest.raises(ConfigError, match=words):
        study.check(loaded(strategy))


def test_a_budget_would_end_trainings_at_different_epochs():
    study.check(loaded(DARTS))
    with pytest.raises(ConfigError, match="no budget"):
        study.check(loaded(DARTS, "budget.seconds=5"))


def test_both_optimisers_get_as_many_rates():
    with pytest.raises(ConfigError, match=r"study.adam_rates: expected 3 rates, as many as study.sgd_rates"):
        loaded("study.sgd_rates=[1,2,3]")


def test_the_parts_of_a_study_are_backbones_strategies_and_seeds():
    other = "{use: sdarts_rs, follow_cell_epochs: 2, follow_hessian_windows: 2}"
    config = loaded(
        DARTS, f"strategies=[darts,{other}]", "seeds=[1,2]", "space.activation=[tanh]", "space.highway=true"
    )
    parts, rest = sweep.members(config)
    assert rest == {}
    assert list(parts) == [
        f"{backbone}-{name}-seed-{seed}"
        for backbone in ("chain", "dag") for name in ("darts", "sdarts_rs") for seed in (1, 2)
    ]  # fmt: skip
    assert parts["chain-darts-seed-2"]["space"] == config.space
    dag = parts["dag-sdarts_rs-seed-1"]
    assert (dag["seed"], dag["strategy"].follow_cell_epochs) == (1, 2)
    assert (dag["space"].backbone, dag["space"].highway) == ("dag", True)
    assert dag["space"].activation == ("none", "tanh", "relu", "sigmoid", "identity")  # its defaults
    with pytest.raises(ConfigError, match="panels=4: a study runs on one panel"):
        sweep.members(config.model_copy(update={"panels": 4}))
