"""The task's options: what they refuse (how configs say it is tested with the configs)."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from grownas.tasks.penn_treebank.options import Options
from grownas.tasks.penn_treebank.sources import NAMES


def test_defaults_work_offline():
    options = Options()
    assert (options.use, options.data) == ("penn_treebank", "embedded")
    assert (options.bptt, options.streams, options.random_bptt, options.eval_streams) == (35, 32, False, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_sources_name_stays_a_name(name):
    assert Options(data=name).data == name


def test_a_path_means_the_same_folder_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Options(data="ptb").data == str(tmp_path / "ptb")
    assert Options(data="~/ptb").data == str(tmp_path / "home" / "ptb")
    again = Options(data="ptb").data
    assert Options(data=again).data == again


def test_only_where_the_text_comes_from_may_change_on_a_finished_run():
    assert set(Options.WHERE) == {"data", "cache"}
    assert set(Options.WHERE) < set(Options.model_fields)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"use": "index_returns"}, "'penn_treebank'"),
        ({"bptt": 0}, "greater than or equal to 1"),
        ({"bptt": 35.0}, "valid integer"),
        ({"streams": 0}, "greater than or equal to 1"),
        ({"eval_streams": 0}, "greater than or equal to 1"),
        ({"context": 0}, "greater than or equal to 1"),
        ({"random_bptt": "sometimes"}, "valid boolean"),
        ({"dat": "x"}, "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        Options(**given)
