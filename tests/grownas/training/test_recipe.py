"""A recipe checks itself: a misspelt name must not mean something else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from grownas.errors import ConfigError
from grownas.training.recipe import BILEVEL, OPTIMIZERS, OptimizerRecipe, Recipe


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(bilevel="frist"), "unknown bilevel 'frist'; choose one of joint, first, second"),
        (lambda: Recipe(decay="cosine"), "unknown decay 'cosine'; choose one of none, linear"),
        (lambda: OptimizerRecipe("adamw"), "unknown optimizer 'adamw'; choose one of adam, sgd, nt_asgd"),
        (lambda: OptimizerRecipe(rate=-0.1), "rate must be a number from 0 on, got -0.1"),
        (lambda: OptimizerRecipe(weight_decay=math.nan), "weight_decay must be a number from 0 on, got nan"),
        (lambda: Recipe(l2_sp=-1.0), "l2_sp must be a number from 0 on, got -1.0"),
        (lambda: Recipe(average=2.0), "average must be a number from 0 to 1, got 2.0"),
        (lambda: Recipe(patience=-1), "patience must be a number from 0 on, got -1"),
        (lambda: Recipe(decay_span=(0.5, 0.2)), r"decay_span .* got \(0.5, 0.2\)"),
        (lambda: replace(Recipe(), bilevel=""), "unknown bilevel ''"),
    ],
)
def test_what_cannot_be_used_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_every_name_of_the_tables_is_taken():
    for bilevel in BILEVEL:
        assert Recipe(bilevel=bilevel).bilevel == bilevel
    for optimizer in OPTIMIZERS:
        assert OptimizerRecipe(optimizer).optimizer == optimizer
