"""The model that `predict` uses: the pick of start, grown cell and the same cell trained anew."""

from __future__ import annotations

import pytest

KEPT = ("strategy.accept=significant", "strategy.threshold=1e6")
BETTER = ("retrain.epochs=60", "retrain.patience=20", "baselines.rates=[0.02]")  # the cell trained anew wins
CASES = {"start": KEPT, "grown": (), "grown_retrained": BETTER}


@pytest.mark.parametrize("refit", [False, True], ids=["", "refit"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_chosen_is_scored_saved_and_used(runner, call, read_json, name, refit):
    folder = runner.search(name, *CASES[name], "baselines.use=[zero]", f"refit={str(refit).lower()}")
    summary = read_json(folder / "summary.json")
    scores = {entry["model"]: entry for entry in summary["scores"]}
    chosen = summary["scores"][0]
    assert (chosen["model"], summary["chosen"], chosen["chosen"]["model"]) == ("chosen", name, name)
    won = scores["grown" if name == "start" else name]  # the start as it is saved, its mixture made fixed
    assert [chosen[key] for key in ("val", "test", "params")] == [won[key] for key in ("val", "test", "params")]
    assert [summary[key] for key in ("val", "test", "params")] == [chosen[key] for key in ("val", "test", "params")]
    if name == "start":
        assert chosen["test"] == pytest.approx(scores["start"]["test"], rel=1e-5)
    spent = [scores["grown"], scores["grown_retrained"]]
    assert chosen["steps"] == sum(entry["steps"] for entry in spent)
    evaluated = call("evaluate", folder)
    assert all(repr(summary[part]) in evaluated.out for part in ("val", "test"))


def test_without_a_retrained_cell_the_grown_one_is_chosen(runner, read_json):
    folder = runner.search("alone", "retrain.grown=false", "baselines.use=[zero]")
    assert read_json(folder / "summary.json")["chosen"] == "grown"
