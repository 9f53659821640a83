"""A comparison over seeds: real processes, one a seed."""

from __future__ import annotations

import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from grownas.runs.rundir import RunDir

SEEDS = ("seeds=[1,2]", "workers=2", "strategies=growing", "baselines.use=[zero,var1]", "baselines.compare=[gru_var]")
MODELS = ["chosen", "grown", "first_stage", "start", "grown_retrained", "zero", "var1", "gru_var"]


@pytest.fixture(scope="session")
def compared(runs, call) -> Path:
    ended = call("compare", *runs.options("name=compared", *SEEDS))
    assert ended.code == 0, ended.err
    return runs.folder / "compared"


@pytest.fixture
def seeds_processes():
    """Return the processes that run the seeds of a folder: those that hold its path on their command line."""

    def find(folder: Path) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "resume" in words and any(word.startswith(f"{folder}/seed-") for word in words):
                found.append(int(process.name))
        return found

    return find


@pytest.fixture
def assert_same_comparison(compared, read_json, assert_same_run, without_times):
    def check(folder: Path) -> None:
        for seed in ("seed-1", "seed-2"):
            assert_same_run(compared / seed, folder / seed)
        one, other = (without_times(read_json(path / "comparison.json")) for path in (compared, folder))
        assert one == other

    return check


def test_the_folder_holds_a_run_a_seed_and_the_comparison(compared, read_json):
    for seed in (1, 2):
        summary = read_json(compared / f"seed-{seed}" / "summary.json")
        assert summary["seed"] == seed
        assert [entry["model"] for entry in summary["scores"]] == MODELS
    assert {path.name for path in compared.iterdir()} >= {"config.yaml", "comparison.json", "report.html"}
    assert "seed" in (compared / "report.html").read_text()


def test_the_figures_are_those_of_the_seeds(compared, read_json):
    result = read_json(compared / "comparison.json")
    summaries = [read_json(compared / f"seed-{seed}" / "summary.json") for seed in (1, 2)]
    assert result["seeds"] == [1, 2]
    assert [model["model"] for model in result["models"]] == MODELS
    for model in result["models"]:
        tests = [next(e["test"] for e in s["scores"] if e["model"] == model["model"]) for s in summaries]
        assert model["n"] == 2
        assert model["test"]["each"] == tests
        assert model["test"]["mean"] == pytest.approx(sum(tests) / 2, rel=1e-12)
        assert model["test"]["sd"] == pytest.approx(abs(tests[0] - tests[1]) / math.sqrt(2), abs=1e-12)
        assert {"params", "seconds"} <= set(model)
    forecasts = [load_file(compared / f"seed-{seed}" / "forecasts.safetensors") for seed in (1, 2)]
    first = read_json(compared / "seed-1" / "data.json")["n_val"]
    mean = np.mean([f["chosen"][first:] for f in forecasts], axis=0)
    chosen = result["models"][0]
    assert chosen["averaged_test"] == pytest.approx(((forecasts[0]["actual"][first:] - mean) ** 2).mean(), rel=1e-12)
    assert [test["baseline"] for test in result["tests"]] == MODELS[1:]
    for test in result["tests"]:
        assert 0 <= test["p_value"] <= 1
        assert math.isfinite(test["statistic"])
        assert 0 <= test["days_and_seeds"]["p_value"] <= 1
        assert test["finding"] in ("better", "worse", "not told apart", "same")
    assert result["mcs"]["untested"] == []
    assert "at the 5% level, chosen is" in result["verdict"]
    assert set(result["mcs"]["members"]) <= set(MODELS)
    assert result["mcs"]["members"]


def test_a_seeds_run_is_the_search_alone(compared, runner, assert_same_run):
    alone = runner.search("alone", "seed=2", "baselines.use=[zero,var1,gru_var]", "baselines.compare=[gru_var]")
    assert_same_run(compared / "seed-2", alone)


def test_a_finished_comparison_comes_out_the_same_and_takes_more_seeds(compared, tmp_path, call, read_json):
    folder = Path(shutil.copytree(compared, tmp_path / "compared"))
    before = (folder / "comparison.json").read_bytes()
    ended = call("resume", folder)
    assert (ended.code, ended.out, ended.err) == (0, "", "")  # the comparison is quiet
    assert (folder / "comparison.json").read_bytes() == before
    assert call("resume", folder, "seeds=[1]").code == 0
    assert read_json(folder / "comparison.json")["seeds"] == [1]
    ended = call("resume", folder, "strategy.patience=9")
    assert ended.code == 2
    assert "may change on resuming" in ended.err
    assert call("report", folder).code == 0


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the seeds' processes in /proc")
@pytest.mark.parametrize(
    "orphans",
    [pytest.param(False, id="all killed"), pytest.param(True, id="parent killed", marks=pytest.mark.slow)],
)
def test_a_killed_comparison_goes_on(
    forked_seeds, runner, fork, wait_for, seeds_processes, assert_same_comparison, call, orphans
):
    process = fork("compare", *runner.options("name=compared", "checkpoint_seconds=0", *SEEDS))
    folder = runner.folder / "compared"
    parts = [folder / f"seed-{seed}/checkpoint/stage-1-l2_sp-10.part" for seed in (1, 2)]
    wait_for(lambda: any(part.exists() for part in parts))
    process.kill()
    process.join()
    left = seeds_processes(folder)
    assert left  # else nothing is tested
    if not orphans:
        for number in left:
            os.kill(number, signal.SIGKILL)
        wait_for(lambda: not seeds_processes(folder))
        assert not (folder / "seed-1/summary.json").exists()
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_comparison(folder)


def test_ctrl_c_stops_the_seeds_and_says_how_to_go_on(
    forked_seeds, runner, finish, wait_for, call, assert_same_comparison
):
    process = runner.start("compare", "name=compared", "checkpoint_seconds=0", *SEEDS)
    folder = runner.folder / "compared"
    wait_for(lambda: list(folder.glob("seed-1/checkpoint/stage-1-*")), process)  # a .part is there for a moment only
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert ended.code == 130
    assert f"`grownas resume {folder}` continues the run" in ended.err
    assert "Traceback" not in ended.err
    assert not (folder / "comparison.json").exists()
    assert f"`grownas resume {folder / 'seed-1'}` continues the run" in (folder / "seed-1/log.txt").read_text()
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_comparison(folder)


def test_a_second_writer_is_refused(compared, tmp_path, fork):
    folder = Path(shutil.copytree(compared, tmp_path / "compared"))
    with RunDir(folder).lock():
        process = fork("resume", folder)
        process.join()
    assert process.exitcode == 2


def test_seeds_that_fail_are_named_with_their_logs(forked_seeds, runner, call):
    diverging = ("strategy.weights.optimizer=sgd", "strategy.weights.rate=1e9", "strategy.l2_sp=0")
    ended = call("compare", *runner.options("name=bad", *SEEDS, *diverging))
    assert ended.code == 1
    for seed in (1, 2):
        log = runner.folder / "bad" / f"seed-{seed}" / "log.txt"
        assert str(log) in ended.err
        assert "stage-1-l2_sp-0 (stage 1)" in log.read_text()
    assert "2 of 2 seeds failed" in ended.err


def test_seeds_whose_data_changed_are_refused(forked_seeds, compared, data, tmp_path, runner, call):
    mine = Path(shutil.copy(data, tmp_path / "mine.csv"))
    folder = Path(shutil.copytree(compared, tmp_path / "compared"))
    for config in (folder / "config.yaml", folder / "seed-2/config.yaml"):
        config.write_text(config.read_text().replace(str(data), str(mine)))
    mine.write_text("\n".join(mine.read_text().splitlines()[:-1]))
    (folder / "seed-2/summary.json").unlink()
    ended = call("resume", folder)
    assert ended.code == 2
    assert "the data have changed" in ended.err + (folder / "seed-2/log.txt").read_text()
