"""How far runs are, from hand-made folders."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from grownas import cli
from grownas.config import loading as configs
from grownas.errors import RunError
from grownas.runs import status
from grownas.runs.rundir import RunDir


def line(part, step, value, **changes):
    fixed = {"stage": 1, "part": part, "model": "search", "epoch": 1, "step": step, "wall_s": 1.0}
    return {**fixed, "split": "val", "metric": "mse", "value": value, **changes}


METRICS = [
    line("stage-1", 0, 0.9),
    line("stage-1", 10, 0.5),
    line("stage-1", 10, 0.1, metric="loss"),
    line("stage-1", 20, 0.2, blend=0.5),
    line("stage-1", 20, 0.3, split="train"),
    line("stage-2", 7, 0.6),
    line("stage-2", 7, None),  # not finite
    line("gru", 5, 0.01, model="gru"),
]


def write_metrics(folder, lines=METRICS):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


@pytest.fixture
def comparison(tmp_path):
    """A comparison of five seeds: done, running, failed, stopped, and one without a folder."""
    rundir = RunDir.create(tmp_path, "compared", "compare")
    config = configs.load("index_returns/growing", [f"runs={tmp_path}", "seeds=[1,2,3,4,5]", "strategies=growing"])
    rundir.write_text("config.yaml", config.dump({}))
    for seed in (1, 2, 3, 4):
        write_metrics(rundir.path / f"seed-{seed}")
    (rundir.path / "seed-1" / "summary.json").write_text("{}")
    log = rundir.log("runs.jsonl")
    log.append({"time": 1000.0, "run": "seed-1", "event": "started"})
    log.append({"time": 1010.0, "run": "seed-3", "event": "started"})
    log.append({"time": 1020.0, "run": "seed-3", "event": "failed", "status": 1, "words": "on host a"})
    log.append({"time": 1100.0, "run": "seed-1", "event": "finished"})
    log.append({"time": 1100.0, "run": "seed-2", "event": "started"})
    return rundir.path


def test_best_and_steps_are_those_of_the_log(tmp_path):
    found = status.of_run(write_metrics(tmp_path / "run"))
    assert (found.state, found.best, found.steps) == ("stopped", 0.5, 20 + 7 + 5)
    assert found.seen == (tmp_path / "run" / "metrics.jsonl").stat().st_mtime


@pytest.mark.parametrize("piece", ["epoch", "to"])
def test_the_pieces_of_a_fit_count_its_steps_once(tmp_path, piece):
    lines = [line(f"darts-{piece}-5", 45, 0.5), line(f"darts-{piece}-10", 90, 0.4), line("darts-fine-tune", 30, 0.3)]
    assert status.of_run(write_metrics(tmp_path / "run", lines)).steps == 120


@pytest.mark.parametrize("rest", [b'{"stage": 1', b'{"stage": 1{}\n', b"\0\0\0\n", b"\xff\n", b"{}\n", b"[]\n"])
def test_a_line_that_was_cut_off_or_damaged_is_left_out(tmp_path, rest):
    folder = write_metrics(tmp_path / "run")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(rest)
    assert status.of_run(folder).best == 0.5


def test_each_run_has_its_state(comparison):
    with RunDir(comparison / "seed-2").lock():
        text = status.text(comparison, now=1130.0)
    head, _, *rows = text.splitlines()
    # three unfinished runs of 100 s, 30 s of the first are over; the failed one is not waited for
    assert head == f"{comparison}: 1 of 5 runs done, 1 running, 1 failed, 1 stopped, 1 waiting, about 270 s left"
    assert [row.split()[:2] for row in rows[:5]] == [
        ["seed-1", "done"], ["seed-2", "running"], ["seed-3", "failed"], ["seed-4", "stopped"], ["seed-5", "waiting"],
    ]  # fmt: skip
    assert rows[0].split()[2:4] == ["0.50000", "32"]
    assert rows[5] == f"seed-3 failed: status 1, on host a; see {comparison / 'seed-3' / 'log.txt'}"


def test_without_a_running_or_a_finished_run_no_time_is_told(comparison):
    assert "left" not in status.text(comparison)
    (comparison / "runs.jsonl").unlink()
    with RunDir(comparison / "seed-2").lock():
        assert "left" not in status.text(comparison)


def test_looking_does_not_keep_a_run_from_its_folder(comparison):
    """`is_locked` holds the lock for a moment: whoever wants to write waits for it."""
    import threading

    begun, free = threading.Event(), threading.Event()

    def look():
        with RunDir(comparison / "seed-4").lock():
            begun.set()
            free.wait(0.2)

    thread = threading.Thread(target=look)
    thread.start()
    begun.wait(5)
    with RunDir(comparison / "seed-4").lock():
        pass
    thread.join()


def test_the_command_prints_a_run_and_refuses_another_folder(tmp_path):
    rundir = RunDir.create(tmp_path, "run", "search")
    rundir.write_text("config.yaml", configs.load("index_returns/growing").dump({}))
    ended = CliRunner().invoke(cli.cli, ["status", str(rundir.path)])
    assert ended.exit_code == 0
    assert ended.output.splitlines()[1].split()[:3] == ["run", "interrupted", "0"]
    with pytest.raises(RunError, match="not a run folder"):
        status.text(tmp_path)
