"""`grownas update`: a finished run learns from the rows that came since, and its folder is a run as any other."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import grownas
from grownas import errors

DAYS, MORE, LATER = 300, 360, 400
HOWS = ("state", "continue", "grow", "refit")
EASY = ("update.block=20", "strategy.accept=better")


@pytest.fixture(scope="session")
def longer(tmp_path_factory, write_closes):
    """The panel of `finished` with later rows; the first rows are the same."""
    folder = tmp_path_factory.mktemp("longer")
    return {days: write_closes(folder / f"closes-{days}.csv", days) for days in (MORE, LATER)}


@pytest.fixture(scope="session")
def later_rows(longer, tmp_path_factory):
    """Only the rows that came since."""
    path = tmp_path_factory.mktemp("later") / "later.csv"
    lines = longer[MORE].read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[1 + DAYS :]]))
    return path


@pytest.fixture(scope="session")
def updated(finished, longer, call, tmp_path_factory):
    """An update of each kind of the finished search; do not write to them."""
    folder = tmp_path_factory.mktemp("updated")
    for how in HOWS:
        ended = call(
            "update", finished, f"task.data={longer[MORE]}", f"how={how}", f"runs={folder}", f"name={how}", *EASY
        )
        assert ended.code == 0, ended.err
        assert f"Update ({how}):" in ended.out
    return {how: folder / how for how in HOWS}


def weights_of(folder):
    return load_file(folder / "weights.safetensors")


def same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def without_bytes_of(folder, read_json, without_times):
    """What two updates with the same result share, whatever their places are called."""
    summary = without_times(read_json(folder / "summary.json"))
    summary["parent"].pop("folder")
    return summary


@pytest.mark.parametrize("how", HOWS)
def test_an_update_is_a_run_that_can_be_used(updated, how, call, evaluates_to_summary, read_json, tmp_path):
    folder = Path(shutil.copytree(updated[how], tmp_path / how))
    assert read_json(folder / "run.json")["command"] == "update"
    evaluates_to_summary(folder)
    for command in ("predict", "report", "show", "status"):
        ended = call(command, folder)
        assert ended.code == 0, ended.err
    page = (folder / "report.html").read_text()
    assert f"rm -r {how}/checkpoint &amp;&amp; grownas resume {how}" in page
    rows = (folder / "forecasts.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * (20 + 20 + 1)  # validation part, test part, next step
    assert rows[-1].endswith(",")


def test_the_summary_says_what_was_decided_and_by_what(updated, read_json, finished):
    for how, folder in updated.items():
        told = read_json(folder / "summary.json")["update"]
        assert told["how"] == how
        assert (told["judge"] is None) == (how == "state")
        assert (told["judge"] or {}).get("rule", "better") == "better"
        assert told["accepted"] or how == "refit" or same_weights(folder, finished)
    chosen = {how: read_json(folder / "summary.json")["chosen"] for how, folder in updated.items()}
    assert chosen["state"] == "not_updated"
    names = [one["model"] for one in read_json(updated["continue"] / "summary.json")["scores"]]
    assert names == ["chosen", "updated", "not_updated"]


def test_the_parent_is_recorded_with_the_checksum_of_its_weights(updated, finished, read_json):
    digest = hashlib.sha256((finished / "weights.safetensors").read_bytes()).hexdigest()
    for folder in updated.values():
        assert read_json(folder / "summary.json")["parent"] == {"folder": str(finished), "weights": f"sha256:{digest}"}
        assert (folder / "parent" / "weights.safetensors").read_bytes() == (
            finished / "weights.safetensors"
        ).read_bytes()


def test_state_leaves_every_weight_and_moment_as_it_was(updated, finished):
    assert same_weights(updated["state"], finished)
    one, other = (load_file(folder / "optimizer.safetensors") for folder in (updated["state"], finished))
    assert one.keys() == other.keys()
    assert one
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_continue_and_grow_change_the_weights_and_grow_logs_its_moves(updated, finished, read_json, read_lines):
    for how in ("continue", "grow"):
        assert read_json(updated[how] / "summary.json")["chosen"] == "updated"
        assert not same_weights(updated[how], finished)
    nodes = [read_json(folder / "summary.json")["nodes"] for folder in (finished, updated["grow"])]
    lines = read_lines(updated["grow"] / "growth.jsonl")
    assert nodes[1] - nodes[0] == sum(line["kind"] == "add_node" and line["accepted"] for line in lines) == 1


def test_the_scaling_stays_that_of_the_first_fit(updated, finished, read_json):
    before = weights_of(finished)
    for how in ("state", "continue", "grow"):
        assert all(torch.equal(weights_of(updated[how])[key], before[key]) for key in ("mean", "sd"))
        assert read_json(updated[how] / "data.json")["mean"] == before["mean"].tolist()


def test_an_accepted_refit_is_a_new_search_with_a_new_scaling(updated, finished, read_json):
    summary = read_json(updated["refit"] / "summary.json")
    assert summary["update"]["accepted"]
    assert not torch.equal(weights_of(updated["refit"])["mean"], weights_of(finished)["mean"])
    assert {"start", "var1", "gru"} <= {one["model"] for one in summary["scores"]}


def test_a_rejected_refit_keeps_the_weights_and_the_scaling(finished, longer, call, read_json, tmp_path):
    never = ("strategy.accept=significant", "strategy.threshold=1000", "update.block=20")
    places = (f"task.data={longer[MORE]}", f"runs={tmp_path}", "name=refit")
    ended = call("update", finished, *places, "how=refit", *never)
    assert ended.code == 0, ended.err
    assert "rejected, so the old weights stay" in ended.out
    summary = read_json(tmp_path / "refit" / "summary.json")
    assert summary["chosen"] == "not_updated"
    refitted, kept = (one for one in summary["scores"] if one["model"] in ("updated", "not_updated"))
    assert refitted["params"] > 0
    assert 0.5 < refitted["val"] / kept["val"] < 2  # in the same scaling
    assert refitted["val"] != kept["val"]
    assert same_weights(tmp_path / "refit", finished)
    assert (tmp_path / "refit" / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()


def test_later_rows_alone_give_the_same_bits(updated, finished, later_rows, call, tmp_path, read_json, without_times):
    ended = call("update", finished, f"task.data={later_rows}", f"runs={tmp_path}", "name=alone", *EASY)
    assert ended.code == 0, ended.err
    one, other = tmp_path / "alone", updated["continue"]
    assert same_weights(one, other)
    assert (one / "data.csv").read_bytes() == (other / "data.csv").read_bytes()
    assert without_bytes_of(one, read_json, without_times) == without_bytes_of(other, read_json, without_times)


@pytest.mark.parametrize("how", HOWS)
def test_python_finds_the_same_in_memory_to_the_last_bit(updated, finished, longer, how, read_json, without_times):
    frame = pd.read_csv(longer[MORE], parse_dates=["date"]).set_index("date").iloc[DAYS:]
    run = grownas.load(finished)
    overrides = {"update.block": 20, "strategy.accept": "better"}
    made = run.update(frame, how, overrides=overrides)
    assert made.folder is None
    other = grownas.load(updated[how])
    assert [(one["model"], one["val"], one["test"]) for one in made.summary["scores"]] == [
        (one["model"], one["val"], one["test"]) for one in other.summary["scores"]
    ]
    state, wanted = made.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    pd.testing.assert_frame_equal(made.predict(), other.predict())
    assert made.evaluate() == other.evaluate()
    assert len(made.growth) == len(other.growth)
    assert run.summary == grownas.load(finished).summary  # left untouched


def test_an_update_can_be_updated(updated, longer, call, read_json, tmp_path, evaluates_to_summary):
    before = updated["continue"]
    ended = call("update", before, f"task.data={longer[LATER]}", "how=grow", f"runs={tmp_path}", "name=second")
    assert ended.code == 0, ended.err
    second = tmp_path / "second"
    evaluates_to_summary(second)
    assert read_json(second / "summary.json")["parent"]["folder"] == str(before)
    parts = [read_json(folder / "data.json") for folder in (before, second)]
    assert [one["n_val"] for one in parts] == [20, 20]
    assert parts[1]["n_train"] - parts[0]["n_train"] == LATER - MORE  # as many rows are learned as are new
    in_memory = grownas.load(before).update(longer[LATER], "continue").update(_later(LATER, 30), "state")
    assert in_memory.summary["parent"]["folder"] is None
    assert in_memory.predict()["date"].iloc[-1] > pd.Timestamp("2021-01-01")


def _later(after, rows):
    """Closes after a panel of `after` rows, on weekdays."""
    days = pd.bdate_range("2020-01-01", periods=after + rows)[after:]
    steps = np.random.default_rng(0).normal(0, 0.01, (rows, 3))
    return pd.DataFrame(100 * np.exp(steps.cumsum(0)), index=days, columns=list("ABC"))


@pytest.mark.parametrize(("how", "until"), [("grow", "continue.done"), ("refit", "selection.done")])
def test_a_killed_update_is_resumed_to_the_same_bits(
    finished, longer, updated, how, until, fork, wait_for, call, tmp_path, assert_same_run, read_json
):
    folder = tmp_path / how
    process = fork(
        "update", finished, f"task.data={longer[MORE]}", f"how={how}", f"runs={tmp_path}", f"name={how}", *EASY,
        "checkpoint_seconds=0",
    )  # fmt: skip
    wait_for(lambda: (folder / "checkpoint" / until).exists() or process.exitcode is not None)
    process.kill()
    process.join()
    assert not (folder / "summary.json").exists()
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(folder, updated[how])


def test_a_backtest_like_loop_leaves_no_trace(finished, longer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grownas.load(finished).update(longer[MORE], "continue")
    assert list(tmp_path.iterdir()) == []


def closes_with(longer, tmp_path, change):
    frame = pd.read_csv(longer[MORE])
    path = tmp_path / "changed.csv"
    change(frame).to_csv(path, index=False)
    return path


def _other_value(frame):
    frame.loc[DAYS - 5, "B"] += 1
    return frame


ERRORS = {
    "other columns": (lambda frame: frame.rename(columns={"C": "D"}), "C missing; its columns are A, B, D"),
    "no new rows": (lambda frame: frame.iloc[:DAYS], "there are no new rows to learn from"),
    "a row that disagrees": (
        _other_value,
        "column B: .*, but the run read .*; give only later rows, or start a new search",
    ),
    "a row that is missing": (
        lambda frame: frame.drop(index=DAYS - 5),
        "has no row 20.*disagree; give only later rows",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_data_that_do_not_fit_are_refused_in_words(case, finished, longer, tmp_path):
    change, words = ERRORS[case]
    with pytest.raises(errors.DataError, match=words):
        grownas.load(finished).update(closes_with(longer, tmp_path, change))


def test_what_cannot_be_updated_is_refused_and_leaves_no_folder(finished, longer, call, tmp_path, runs):
    def told(*items):
        ended = call("update", *items, f"runs={tmp_path}")
        assert ended.code == 2
        assert list(tmp_path.iterdir()) == []
        return ended.err

    data = f"task.data={longer[MORE]}"
    assert "give task.data=NEW" in told(finished)
    assert "update.how: expected 'state'" in told(finished, data, "how=never")
    assert "leave refit= out" in told(finished, data, "refit=true")
    assert "no such folder" in told(tmp_path / "nowhere", data)
    assert "the model has learned from the rows up to" in told(finished, data, "update.block=100")
    assert "lower task.bptt" in told(finished, data, "task.bptt=120")  # found when the joined data are read again
    baseline = runs.folder / "a-gru"
    if not baseline.exists():
        assert call("train", *runs.options("name=a-gru", "genotype=gru")).code == 0
    assert "trained a baseline, which cannot be updated" in told(baseline, data)


@pytest.fixture(scope="module")
def text_run(small_text, tmp_path_factory, call):
    folder = tmp_path_factory.mktemp("text-runs")
    ended = call(
        "search", "penn_treebank/growing_cpu", f"task.data={small_text}", f"runs={folder}", "name=text", "quiet=true",
        "space.hidden_size=8", "task.bptt=8", "task.streams=4", "task.samples=null", "retrain.epochs=1",
        "baselines.use=[]", "strategy.max_epochs=1", "strategy.later_epochs=1",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return folder / "text"


@pytest.mark.parametrize("how", ["state", "continue", "refit"])
def test_a_text_is_read_on_with_the_runs_vocabulary(text_run, how, call, tmp_path, read_json):
    more = tmp_path / "more.txt"
    more.write_text("cat sat on the zebra\n" * 60)
    ended = call("update", text_run, f"task.data={more}", f"how={how}", f"runs={tmp_path}", f"name={how}", "quiet=true")
    assert ended.code == 0, ended.err
    folder, summary = tmp_path / how, read_json(tmp_path / how / "summary.json")
    assert read_json(folder / "data.json")["n_val"] == 6 * 15
    assert same_weights(folder, text_run) != summary["update"]["accepted"]
    assert summary["update"]["accepted"] == (how != "state")  # one sentence, again and again
    printed = [line.split() for line in call("evaluate", folder).out.splitlines() if not line.startswith(" ")]
    assert printed == [[part, "perplexity", repr(summary[part])] for part in ("val", "test")]
    if how == "continue":
        again = call("update", folder, f"task.data={more}", f"runs={tmp_path}", "name=again", "quiet=true")
        assert again.code == 0, again.err
        grown = [read_json(path / "data.json")["n_train"] for path in (folder, tmp_path / "again")]
        assert grown[1] - grown[0] == 6 * (15 + 15 + 30)  # what was held out, and half of the new text


def test_a_text_needs_a_folder(text_run, small_text):
    with pytest.raises(errors.ConfigError, match="keeps its data in a folder; give folder="):
        grownas.load(text_run).update(small_text)
