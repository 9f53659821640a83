"""The task's options: what they refuse, and paths."""

from __future__ import annotations

import os

import pytest
from pydantic import ValidationError

from grownas.config.loading import load
from grownas.errors import ConfigError
from grownas.tasks.predistortion.options import Options


def test_paths_are_absolute_and_names_are_kept():
    options = Options(data="rec", output="out.csv", job="predistort", amplifier="runs/one")
    assert [options.data, options.output, options.amplifier] == [
        os.path.abspath(one) for one in ("rec", "out.csv", "runs/one")
    ]
    assert (Options().data, Options().output, Options().amplifier) == ("simulated", None, "polynomial")
    assert Options(data="APA_200MHz").data == "APA_200MHz"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"learning": "indirect"}, "applies to task.job=predistort only"),
        ({"amplifier": "runs/one"}, "applies to task.job=predistort only"),
        ({"start_params": 1}, "greater than or equal to 2"),
        ({"taps": 40}, "less than or equal to 39"),
        ({"features": ["i", "i"]}, "'i' is repeated"),
        ({"features": []}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        Options(**given)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("start.use=var", "start.use: unknown 'var', expected some of random, polynomial"),
        ("baselines.use=var", "baselines.use: unknown 'var', expected some of lstm, gru, fir, mp, gmp, dgru"),
    ],
)
def test_its_own_starts_and_baselines_are_known(override, words):
    with pytest.raises(ConfigError, match=words):
        load("predistortion/growing", [override])
    assert load("predistortion/growing", ["baselines.use=[gmp,dgru]", "start.use=random"]).start.use == "random"
    with pytest.raises(ConfigError, match="unknown 'gmp'"):
        load("index_returns/growing", ["baselines.use=gmp"])
