"""A table from the command line, and searches and a study on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import grownas
from grownas.errors import ConfigError, RunError
from grownas.genotype_table import GenotypeTable

SHORT = "max_nodes: 2, max_epochs: 2, patience: 2, weights: {rate: 0.01}, rates: []"
RANDOM, EVOLUTION = (
    f"{{use: random, genotypes: 6, {SHORT}}}",
    f"{{use: evolution, {SHORT}, population: 2, tournament: 2}}",
)
SEQNAS = f"{{use: seqnas, {SHORT}, initial: 3, per_round: 2, candidates: 4, predictors: 2}}"


def options(runs, *overrides):
    fixed = ("space.hidden_size=4", "task.context=20", "task.streams=4", "task.bptt=8", "start={use: random}")
    return ["index_returns/growing", f"task.data={runs.data}", f"runs={runs.folder}", *fixed, "quiet=true", *overrides]


@pytest.fixture(scope="module")
def path(runs, call) -> Path:
    """The file of a table of six genotypes with two seeds each; do not write to it."""
    path = runs.folder / "table.jsonl"
    runs.folder.mkdir(exist_ok=True)
    ended = call("tabulate", *options(runs, f"strategy={RANDOM}", "seeds=[1,2]", f"out={path}"))
    assert ended.code == 0, ended.err
    assert ended.out.strip() == str(path)
    return path


def test_a_table_holds_what_the_same_training_gives_again(path, runs, call):
    table = GenotypeTable.read(path)
    assert len(table.entries) == 6
    assert table.seeds == [1, 2]
    assert f"strategy={RANDOM}" in table.about["command"]
    again = path.with_name("again.jsonl")
    ended = call("tabulate", *options(runs, f"strategy={RANDOM.replace('6', '2')}", "seeds=[2]", f"out={again}"))
    assert ended.code == 0, ended.err
    for one, other in zip(GenotypeTable.read(again).entries, table.entries, strict=False):
        assert (one.genotype, one.params, one.trainings) == (other.genotype, other.params, other.trainings[1:])


def test_a_search_is_replayed(path, runs, call, read_json, read_lines):
    ended = call(
        "search", *options(runs, f"strategy={EVOLUTION}", f"task.replay={path}", "budget.genotypes=5", "name=again")
    )
    assert ended.code == 0, ended.err
    folder, table = runs.folder / "again", GenotypeTable.read(path)
    summary, trials = read_json(folder / "summary.json"), read_lines(folder / "trials.jsonl")
    known = {(one.val, one.test) for entry in table.entries for one in entry.trainings}
    assert (summary["val"], summary["test"]) in known
    assert summary["val"] == min(line["val"] for line in trials)
    assert len(trials) == 5
    assert summary["verdict"].startswith("A replay: nothing was trained. evolution looked up 5 trainings in the table")
    assert 1 <= summary["replay"]["rank"] <= 6
    assert "A replay: nothing was trained" in (folder / "report.html").read_text()
    assert not (folder / "weights.safetensors").exists()
    before = (folder / "summary.json").read_bytes()
    assert call("resume", folder).code == 0
    assert (folder / "summary.json").read_bytes() == before
    with pytest.raises(RunError, match="a replay on a table keeps no model"):
        grownas.load(folder)


def test_a_study_compares_strategies(path, runs, call, read_json):
    ended = call(
        "compare", *options(
            runs, f"strategy={RANDOM}", f"strategies=[random,{EVOLUTION},{SEQNAS}]", f"task.replay={path}",
            "budget.genotypes=5", "study.repeats=4", "workers=2", "name=replays", "quiet=false",
        ),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    result = read_json(runs.folder / "replays" / "study.json")
    assert [one["strategy"] for one in result["strategies"]] == ["random", "evolution", "seqnas"]
    assert result["at"] == [1, 2, 3, 5]
    assert result["space"]["genotypes"] == 6
    assert "beats random" in ended.out
    page = (runs.folder / "replays" / "report.html").read_text("utf-8")
    for words in ("The spread of the space", "rank by mean test", "seqnas"):
        assert words in page


REFUSED = {
    "no file": ("tabulate", (f"strategy={RANDOM}",), "tabulate needs the file to write"),
    "no folder": ("tabulate", (f"strategy={RANDOM}", "out=no/such/table.jsonl"), "there is no folder"),
    "growing": ("tabulate", ("out=table.jsonl",), "set strategy.use=random"),
    "rates": ("tabulate", ("strategy={use: random}", "out=table.jsonl"), "set strategy.rates=[]"),
    "var": ("tabulate", (f"strategy={RANDOM}", "start={use: var}", "out=table.jsonl"), "set space.backbone=chain"),
    "few": (
        "tabulate",
        (f"strategy={RANDOM}", "space={combine: add, activation: tanh}", "out=table.jsonl"),
        "lower it",
    ),
    "train": ("train", ("genotype=gru", "task.replay=planted"), "a replay trains no model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_a_table_is_refused(runs, call, tmp_path, monkeypatch, name):
    command, changes, words = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    ended = call(command, *options(runs, *changes))
    assert ended.code == 2
    assert words in ended.err
    assert list(tmp_path.iterdir()) == []


def test_python_refuses_a_table():
    for function in (grownas.search, grownas.compare):
        with pytest.raises(ConfigError, match="replay"):
            function("index_returns/evolution", overrides={"task.replay": "planted"}, quiet=True)


def test_a_damaged_study_is_refused(call, tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({"kind": "replay", "metric": "mse"}))
    ended = call("report", tmp_path)
    assert ended.code == 2
    assert "at is missing" in ended.err
