"""One search for each of several learning rates, of which validation chooses."""

from __future__ import annotations

import pytest

from grownas.runs.journal import Journal, MemoryStore

DARTS = (
    "strategy={use: darts, max_nodes: 2, max_epochs: 2, patience: 3, unit_epochs: 1, accept: better, guard: false, "
    "fine_tune_epochs: 1, architecture_share: 0.4}",
    "task.bptt=10",
    "start.use=random",
    "baselines.use=[zero]",
    "retrain.grown=false",
)
TIMES = ("wall_s", "seconds")


def timeless(lines):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def found(read_json, folder):
    return {entry["model"]: entry for entry in read_json(folder / "summary.json")["scores"]}["darts"]


def test_the_search_with_the_lowest_validation_loss_is_logged_and_all_are_counted(
    runs, read_json, read_lines, evaluates_to_summary
):
    alone = {rate: runs.search(f"rate-{rate}", *DARTS, f"strategy.weights.rate={rate}") for rate in (0.0001, 0.02)}
    both = runs.search("rates", *DARTS, "search_rates=[0.0001,0.02]")
    scores = {rate: found(read_json, folder) for rate, folder in alone.items()}
    best = min(scores, key=lambda rate: scores[rate]["val"])
    ours = found(read_json, both)
    assert scores[best]["val"] < max(one["val"] for one in scores.values())
    assert (ours["val"], ours["test"]) == (scores[best]["val"], scores[best]["test"])
    assert ours["chosen"]["rate"] == best
    for key in ("steps", "gradients"):
        assert ours[key] == sum(one[key] for one in scores.values()) > 0
    assert read_json(both / "summary.json")["search_steps"] == ours["steps"] // 2  # the budget of one search
    assert (both / "weights.safetensors").read_bytes() == (alone[best] / "weights.safetensors").read_bytes()
    assert timeless(read_lines(both / "metrics.jsonl")) == timeless(read_lines(alone[best] / "metrics.jsonl"))
    evaluates_to_summary(both)


def test_a_rate_with_which_training_diverges_is_skipped(runs, read_json, recwarn):
    folder = runs.search("diverging", *DARTS, "search_rates=[1e30,0.02]")
    assert found(read_json, folder)["chosen"]["rate"] == 0.02
    assert any("skipped the learning rate 1e+30" in str(one.message) for one in recwarn)


def test_if_training_diverges_with_every_rate_the_run_says_so(runner, call):
    with pytest.warns(UserWarning, match="skipped the learning rate"):
        ended = call("search", *runner.options("name=lost", *DARTS, "search_rates=[1e30]"))
    assert ended.code == 1
    assert "Lower the learning rate" in ended.err


def test_a_branch_has_its_own_keys_times_and_logs():
    journal = Journal.in_memory()
    journal.store = MemoryStore()
    branches = [journal.branch(name, logs=name == "b") for name in ("a", "b")]
    values = [
        branch.remember("work", lambda number=number: {"value": number}) for number, branch in enumerate(branches)
    ]
    assert [one["value"] for one in values] == [0, 1]
    assert branches[0].remember("work", lambda: {"value": 9})["value"] == 0
    assert set(journal.store.trees) == {"a-work.done", "b-work.done"}
    assert journal.elapsed == 0 < branches[0].elapsed
    for branch in branches:
        branch.log_morphism({"stage": 1})
    assert len(journal.growth) == 1  # of b
    journal.interrupt()
    assert all(branch.is_interrupted for branch in branches)
