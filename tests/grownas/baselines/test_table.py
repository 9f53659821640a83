"""The table of baselines: each line is a function that there is, for kinds of tasks that there are."""

from __future__ import annotations

import pytest

from grownas.baselines.table import BASELINES, names
from grownas.config.loading import load
from grownas.config.sections import Baselines
from grownas.errors import ConfigError
from grownas.evaluation.models import FITTED
from grownas.genotype import published
from grownas.protocols import KINDS


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, one in BASELINES.items() for kind in sorted(one.functions)]
)
def test_every_line_names_a_function_for_a_kind_that_there_is(name, kind):
    assert kind in KINDS
    assert callable(BASELINES[name].function(kind))
    assert name in names(kind)


def test_every_kind_has_baselines_and_no_other_has_any():
    assert all(names(kind) for kind in KINDS)
    assert names("another") == []


def test_every_published_cell_is_a_baseline_of_texts():
    assert set(published()) <= set(names("language"))


@pytest.mark.parametrize("name", ["min_gru", "lru", "tsmixer", "dlinear", "esn"])
def test_models_of_series_are_refused_on_texts_and_no_shipped_config_pays_for_them(name):
    assert name not in {*Baselines().use, *Baselines().compare}
    assert load("index_returns/growing", [f"baselines.compare=[{name}]"]).baselines.compare == (name,)
    with pytest.raises(ConfigError, match=f"baselines.use: unknown '{name}', expected some of lstm, gru, darts_v1"):
        load("penn_treebank/growing_cpu", [f"baselines.use=[{name}]"])


def test_what_is_fitted_is_what_a_comparison_takes_for_fitted():
    fitted = {name for name, one in BASELINES.items() if one.fitted}
    assert fitted == set(FITTED)
