"""A run that is cut off and resumed equals the unbroken one, bit for bit but for times."""

from __future__ import annotations

import json
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest

from support.slow import mostly_slow

UNTIL = {  # what must exist when the kill comes
    "at the start": "config.yaml",
    "in the first fit": "checkpoint/stage-1-l2_sp-10.part",
    "after the first fit": "checkpoint/stage-1-l2_sp-10.done",
    "in growth": "checkpoint/stage-2.part",
    "after growth": "checkpoint/stage-2.done",
    "in a baseline": "checkpoint/gru-4-squared-rate-0.001-decay-0.part",
    "while the results are written": "weights.safetensors",
    "in the report": "summary.json",
}


@pytest.mark.parametrize(
    "moment", mostly_slow(UNTIL, keep=("in the first fit", "in growth", "in a baseline", "in the report"))
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(broken_off, call, finished, assert_same_run, moment):
    folder = broken_off(UNTIL[moment])
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert ended.err == ""  # no file refused, no warning
    assert_same_run(finished, folder)
    left = [path.name for path in folder.rglob("*") if path.suffix in (".part", ".tmp", ".old")]
    assert left == []


@pytest.mark.parametrize("rung", [1, 2])
def test_a_kill_amid_the_choice_of_settings_changes_nothing(broken_off, runner, call, assert_same_run, read_json, rung):
    overrides = (
        *("baselines.use=[gru]", "baselines.rates=[0.01,0.02]", "baselines.weight_decays=[0,1]"),
        *("strategy.max_epochs=1", "retrain.epochs=6", "retrain.patience=6", "retrain.grown=false"),
        *("baselines.halving.first_epochs=1", "baselines.halving.reduction_factor=2"),
    )
    whole = runner.search("whole", *overrides)
    entry = next(one for one in read_json(whole / "summary.json")["scores"] if one["model"] == "gru")
    assert (entry["settings"], entry["capped"]) == (
        5,
        True,
    )  # of sizes, decays, rates; no patience ends
    moment = next((whole / "checkpoint").glob(f"gru-*-to-{rung}.done")).with_suffix(".part").name
    folder = broken_off(f"checkpoint/{moment}", *overrides)
    assert call("resume", folder).code == 0
    assert_same_run(whole, folder)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_a_run_killed_again_and_again_at_random_moments_ends_the_same(
    broken_off, fork, call, finished, assert_same_run, seed
):
    draw = random.Random(seed)
    folder = broken_off("checkpoint")
    for _ in range(6):
        process = fork("resume", folder)
        process.join(draw.uniform(0.05, 0.9))
        process.kill()
        process.join()
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(finished, folder)


@pytest.mark.parametrize("backend", ["torch", "reference"])  # the other runs here take the one in C
def test_every_backend_repeats_and_resumes_to_the_last_bit(
    broken_off, runner, call, assert_same_run, read_json, backend
):
    overrides = f"backend={backend}", "baselines.use=[zero]", "strategy.max_epochs=3"
    whole = runner.search("whole", *overrides)
    assert read_json(whole / "summary.json")["backend"] == backend
    folder = broken_off("checkpoint/stage-2.part", *overrides)
    assert call("resume", folder).code == 0
    assert_same_run(whole, folder)
    evaluated = call("evaluate", folder)
    summary = read_json(whole / "summary.json")
    assert all(repr(summary[part]) in evaluated.out for part in ("val", "test"))


BLENDED = (
    *("strategy.birth=blend", "strategy.blend_steps=12", "strategy.new_rate=1", "strategy.old_rate=1"),
    *("strategy.first_epochs=2", "strategy.origins=3", "strategy.l2_sp=[0]", "baselines.use=[zero]"),
)


@pytest.mark.parametrize("fit", ["stage-1-l2_sp-0-origin-2", "stage-2", "stage-1-l2_sp-0-on-1"])
def test_growth_resumes_at_an_earlier_origin_while_a_node_is_mixed_in_and_in_the_rest_of_its_first_stage(
    broken_off, runner, call, assert_same_run, read_lines, fit
):
    whole = runner.search("whole", *BLENDED)
    blends = {line.get("blend") for line in read_lines(whole / "metrics.jsonl") if line["part"] == "stage-2"}
    assert blends > {None, 0.0}
    folder = broken_off(f"checkpoint/{fit}.part", *BLENDED)
    assert call("resume", folder).code == 0
    assert_same_run(whole, folder)


def test_a_bilevel_search_with_pruning_resumes_too(broken_off, runner, call, assert_same_run, read_lines):
    overrides = (
        "strategy.bilevel=second",
        "task.bptt=10",
        "strategy.prune=each_stage",
        "strategy.top_k=3",
        "strategy.fine_tune_epochs=6",
        "baselines.use=[zero]",
    )
    whole = runner.search("whole", *overrides)
    growth = read_lines(whole / "growth.jsonl")
    assert {line["kind"] for line in growth} == {"add_node", "prune_op"}
    assert any(line["accepted"] for line in growth if line["kind"] == "prune_op")  # growth goes on from the pruned
    folder = broken_off("checkpoint/stage-2.part", *overrides)
    assert call("resume", folder).code == 0
    assert_same_run(whole, folder)


def test_a_search_by_all_kinds_that_replaces_small_ops_resumes_too(
    broken_off, runner, call, assert_same_run, read_lines
):
    overrides = (
        "space.activation=[identity,tanh]", "strategy.mode=nodes_and_ops", "strategy.position=best",
        "strategy.trial_epochs=1", "strategy.max_ops=5", "strategy.prune=each_stage", "strategy.replace=missing",
        "strategy.grow_threshold=0.4", "strategy.prune_threshold=0.17", "strategy.hysteresis=0",
        "strategy.smoothing=1", "strategy.min_age=1", "strategy.l2_sp=10", "strategy.alpha.rate=0.1",
        "baselines.use=[zero]", "retrain.grown=false",
    )  # fmt: skip
    whole = runner.search("whole", *overrides)
    growth = read_lines(whole / "growth.jsonl")
    assert {line["kind"] for line in growth} >= {"add_node", "split_op", "replace_op"}
    folder = broken_off("checkpoint/stage-2-try-add_node.part", *overrides)  # what criteria found is there already
    assert not (folder / "summary.json").exists()
    assert call("resume", folder).code == 0
    assert_same_run(whole, folder)


DAMAGE = {
    "emptied": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "one bit turned": lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
    "foreign": lambda content: b"PK\x03\x04 something else",
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param("stage-2.part", "emptied", marks=pytest.mark.slow),
        ("stage-2.part", "one bit turned"),
        pytest.param("stage-1-l2_sp-10.done", "cut off", marks=pytest.mark.slow),
        ("stage-1-l2_sp-0.done", "foreign"),
        pytest.param("selection.done", "one bit turned", marks=pytest.mark.slow),
    ],
)
def test_damaged_checkpoints_are_refused_and_the_run_ends_the_same(
    broken_off, call, finished, assert_same_run, damage, name
):
    folder = broken_off("checkpoint/stage-2.part")
    path = folder / "checkpoint" / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.warns(UserWarning, match=rf"{name}: checkpoint refused"):
        ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(finished, folder)


def test_checkpoints_of_another_run_are_refused(broken_off, runner, call, finished, assert_same_run):
    folder = broken_off("checkpoint/stage-2.part")
    other = runner.search("other", "seed=2")
    for path in (other / "checkpoint").glob("*.done"):
        shutil.copy(path, folder / "checkpoint")
    with pytest.warns(UserWarning, match="it belongs to"):
        assert call("resume", folder).code == 0
    assert_same_run(finished, folder)


def test_a_lost_checkpoint_folder_means_starting_again(broken_off, call, finished, assert_same_run):
    folder = broken_off("checkpoint/stage-2.part")
    shutil.rmtree(folder / "checkpoint")
    assert call("resume", folder).code == 0
    assert_same_run(finished, folder)


def test_a_finished_run_comes_out_the_same(copied, call, finished, assert_same_run):
    before = (copied / "summary.json").read_bytes()
    ended = call("resume", copied)
    assert (ended.code, ended.out, ended.err) == (0, "", "")  # the run is quiet
    assert (copied / "summary.json").read_bytes() == before  # seconds too: they are remembered
    assert (copied / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert_same_run(finished, copied)


def test_a_damaged_summary_is_written_anew(copied, call, finished, assert_same_run):
    (copied / "summary.json").write_text("{")
    (copied / "metrics.jsonl").write_text("{not json\n")
    assert call("resume", copied).code == 0
    assert_same_run(finished, copied)


def test_changed_data_are_refused(broken_off, call, data, tmp_path, write_closes):
    mine = Path(shutil.copy(data, tmp_path / "mine.csv"))
    folder = broken_off("checkpoint/stage-2.part", f"task.data={mine}")
    lines = mine.read_text().splitlines()
    lines[50] = lines[50].replace(lines[50].split(",")[1], "123.4")
    mine.write_text("\n".join(lines))
    before = (folder / "metrics.jsonl").read_bytes()
    ended = call("resume", folder)
    assert ended.code == 2
    assert "the data have changed since the run began (mine.csv)" in ended.err
    assert (folder / "metrics.jsonl").read_bytes() == before  # nothing is touched
    mine.unlink()
    ended = call("resume", folder)
    assert ended.code == 2
    assert "no such file" in ended.err


@pytest.mark.parametrize("change", ["seed=2", "strategy.patience=4", "task.bptt=19", "refit=true"])
def test_changes_of_the_result_are_refused(copied, call, change):
    before = (copied / "summary.json").read_bytes()
    ended = call("resume", copied, change)
    assert ended.code == 2
    assert "may change on resuming" in ended.err
    assert (copied / "summary.json").read_bytes() == before


@pytest.mark.parametrize("change", ["quiet=false", "checkpoint_seconds=5", "workers=2", "strategy.patience=3"])
def test_other_changes_are_allowed(copied, call, finished, assert_same_run, change):
    assert call("resume", copied, change).code == 0
    assert_same_run(finished, copied)


def test_other_versions_are_told(copied, call, finished, assert_same_run):
    path = copied / "config.yaml"
    path.write_text(path.read_text().replace("versions:\n", "versions:\n  scipy: 0\n").replace("torch: ", "torch: 0"))
    with pytest.warns(UserWarning, match=r"versions have changed.*torch was 0\d"):
        assert call("resume", copied).code == 0
    assert_same_run(finished, copied)


def test_a_second_writer_is_refused_while_the_first_goes_on(runner, fork, call, wait_for):
    process = fork("search", *runner.options("name=busy", "checkpoint_seconds=0"))
    folder = runner.folder / "busy"
    wait_for(lambda: (folder / "checkpoint/stage-1-l2_sp-10.part").exists())
    before = (folder / "metrics.jsonl").stat().st_size
    ended = call("resume", folder)
    assert process.exitcode is None
    process.join()
    assert ended.code == 2
    assert f"{folder}: another process is writing to this run" in ended.err
    assert process.exitcode == 0
    assert (folder / "metrics.jsonl").stat().st_size > before > 0
    assert call("resume", folder).code == 0  # the lock fell with the process


class TestRealProcesses:
    def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
        self, runner, finish, wait_for, finished, assert_same_run
    ):
        process = runner.start("search", "name=stopped", "checkpoint_seconds=1000", "quiet=false")
        folder = runner.folder / "stopped"
        wait_for(lambda: (folder / "checkpoint/selection.done").exists(), process)
        wait_for(lambda: "stage-1-l2_sp-10" in (folder / "metrics.jsonl").read_text(), process)
        process.send_signal(signal.SIGINT)
        ended = finish(process)
        assert ended.code == 130
        plan = "choose a linear start by folds; search with growing; retrain; fit zero, var1, gru"
        assert ended.err.startswith(f"index_returns: reading the data\n{folder}: {plan}\n")
        assert f"`grownas resume {folder}`" in ended.err
        assert "Traceback" not in ended.err
        assert not (folder / "summary.json").exists()
        saved = [path.name for path in (folder / "checkpoint").iterdir()]
        assert len([name for name in saved if name.endswith(".part")]) <= 1
        assert len(saved) >= 2  # the selection, and a fit or a part of it
        again = finish(runner.start_plain("resume", folder))
        assert again.code == 0, again.err
        assert f"report: {folder / 'report.html'}" in again.out
        assert_same_run(finished, folder)


def test_a_run_in_a_thread_takes_no_signals_and_gives_the_same(runner, finished, assert_same_run):
    thread = threading.Thread(target=runner.search, args=("thread",))
    thread.start()
    thread.join()
    assert_same_run(finished, runner.folder / "thread")


def test_each_line_of_a_log_of_a_run_that_goes_on_is_whole(broken_off, call):
    folder = broken_off("checkpoint/stage-2.part")
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    assert all(json.loads(line) for line in text.splitlines())
    ended = call("report", folder)
    assert ended.code == 0, ended.err
    assert (folder / "report.html").exists()
