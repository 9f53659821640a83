"""A study of optimisers from the command line: real processes, killed and resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import grownas
from grownas.errors import ConfigError

STUDY = (
    "strategy={use: darts, max_nodes: 1, max_epochs: 2, patience: null, unit_epochs: 1, fine_tune_epochs: 0, "
    "follow_cell_epochs: 1, follow_hessian_windows: 1, accept: better, guard: false}",
    "strategies=[darts]", "start={use: random}", "study.momentum=[0,0.9]", "study.weights=[adam]",
    "study.sgd_rates=0.1", "study.adam_rates=[0.01]", "study.backbones=[dag,chain]", "seeds=[1]",
    "workers=2", "quiet=false", "retrain.epochs=1", "checkpoint_seconds=1000",
)  # fmt: skip


def options(runs):
    from_file = ["index_returns/growing", f"task.data={runs.data}", f"runs={runs.folder}"]
    return [*from_file, "space.hidden_size=4", "task.context=20", "task.streams=4", "task.bptt=8", "name=study", *STUDY]


@pytest.fixture(scope="module")
def studied(runs, call) -> Path:
    """A finished study; do not write to it."""
    ended = call("compare", *options(runs))
    assert ended.code == 0, ended.err
    assert "adam + adam - best other pair" in ended.out
    return runs.folder / "study"


def test_a_study_has_a_row_for_each_combination_and_a_page(studied, read_json):
    result = read_json(studied / "study.json")
    assert len(result["rows"]) == 2 * 2 * 2
    for row in result["rows"]:
        assert row["epochs"] == [1, 2]
        assert set(row["curves"]) == {"supernet", "eigenvalue", "cell", "anew"}
        assert all(len(seed) == 2 for each in row["curves"].values() for seed in each)
    page = (studied / "report.html").read_text("utf-8")
    for words in ("Answers", "Over epochs: dag", "All combinations", "darts"):
        assert words in page


def test_only_the_results_of_finished_searches_are_kept(studied):
    names = {path.name.split("-")[0] for path in (studied / "chain-darts-seed-1" / "checkpoint").iterdir()}
    assert names == {"units", "cell", "selection.done"}  # a resumed study repeats none of them
    assert len(list(studied.glob("*/checkpoint/units-*.done"))) == 2 * 2 * 2


def test_a_study_that_lost_work_goes_on_to_the_same_bytes(studied, tmp_path, call, forked_seeds):
    folder = Path(shutil.copytree(studied, tmp_path / "again"))
    whole = {path.relative_to(studied): path.read_bytes() for path in studied.rglob("s*y.json")}
    assert len(whole) == 3
    for path in whole:
        (folder / path).unlink()
    for path in sorted((folder / "chain-darts-seed-1" / "checkpoint").iterdir())[::2]:
        path.unlink()  # what had not been saved yet
    shutil.rmtree(folder / "dag-darts-seed-1")
    ended = call("resume", folder, "quiet=true")
    assert ended.code == 0, ended.err
    assert {path: (folder / path).read_bytes() for path in whole} == whole


@pytest.mark.parametrize(
    ("command", "where", "words"),
    [
        ("report", "chain-darts-seed-1", "a part of a study has no report"),
        ("evaluate", "chain-darts-seed-1", "a study keeps no model"),
        ("predict", ".", "a study keeps no model"),
    ],
)
def test_what_a_study_does_not_have_is_said(studied, call, command, where, words):
    ended = call(command, studied / where)
    assert ended.code == 2
    assert words in ended.err


def test_a_strategy_that_cannot_be_studied_is_refused_before_work(runner, call):
    ended = call("compare", *options(runner), "strategy.follow_cell_epochs=0")
    assert ended.code == 2
    assert "set follow_cell_epochs" in ended.err
    assert not runner.folder.exists()
    with pytest.raises(ConfigError, match="run a study with `grownas compare`"):
        grownas.compare("index_returns/studies/optimisers")
