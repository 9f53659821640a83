"""Launchers on this machine; the runs are stand-ins, which write a file, fail or sleep."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time

import pytest

from grownas.config import loading as configs
from grownas.errors import ConfigError, Interrupted, RunError, TrainingError
from grownas.runs import launchers, sweep
from grownas.runs.progress import Progress
from grownas.runs.rundir import RunDir


@pytest.fixture
def ended_of():
    """Return a function that polls a launcher until a run ends."""

    def wait(launcher):
        end = time.monotonic() + 20
        while not (ended := launcher.poll()):
            assert time.monotonic() < end
            time.sleep(0.02)
        (one,) = ended
        return one

    return wait


@pytest.fixture
def run_code(monkeypatch):
    """Have processes run this Python code instead of a run; its first argument is the run folder."""

    def choose(code):
        def begin(folder, threads):
            return subprocess.Popen([sys.executable, "-c", code, str(folder)])

        monkeypatch.setattr(launchers, "start", begin)

    return choose


def processes(**changes):
    return launchers.Processes(**{"workers": 2, "threads": 1, "timeout_s": 60, **changes})


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_process_tells_its_exit_status(run_code, tmp_path, ended_of, status):
    run_code(f"raise SystemExit({status})")
    with processes(workers=1) as launcher:
        launcher.submit(tmp_path)
        assert not launcher.has_room()
        assert ended_of(launcher) == (tmp_path, status, "")
        assert launcher.has_room()


@pytest.mark.parametrize(("locks", "status"), [(True, -signal.SIGINT), (False, -signal.SIGKILL)])
def test_sigint_stops_a_run_that_has_begun_and_another_is_killed(run_code, tmp_path, ended_of, locks, status):
    """Before a run begins, the import of a package may catch the signal."""
    lock = "import filelock; lock = filelock.FileLock(sys.argv[1] + '/.lock'); lock.acquire(); "
    catch = "signal.signal(2, signal.SIG_IGN); "
    begin = "open(sys.argv[1] + '/begun', 'w'); time.sleep(60)"
    run_code("import signal, sys, time; " + (lock if locks else catch) + begin)
    with processes() as launcher:
        launcher.submit(tmp_path)
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        launcher.stop()
        assert ended_of(launcher).status == status


def test_a_process_that_writes_nothing_for_too_long_is_killed(run_code, tmp_path, ended_of):
    run_code("import time; time.sleep(60)")
    with processes(timeout_s=0.3) as launcher:
        launcher.submit(tmp_path)
        ended = ended_of(launcher)
    assert ended.status == -signal.SIGKILL
    assert ended.words == "killed: no sign of life in its folder for worker_timeout=0.3 s"


def test_a_process_that_writes_now_and_then_lives(run_code, tmp_path, ended_of):
    (tmp_path / "checkpoint").mkdir()
    run_code(
        "import sys, time\nfor i in range(15):\n time.sleep(0.1)\n open(f'{sys.argv[1]}/checkpoint/part', 'w').close()"
    )
    with processes(timeout_s=0.8) as launcher:
        launcher.submit(tmp_path)
        assert ended_of(launcher).status == 0


def test_what_was_not_polled_is_killed_at_the_end(run_code, tmp_path):
    run_code("import time; time.sleep(60)")
    with processes() as launcher:
        launcher.submit(tmp_path)
        ((process, _),) = launcher.running.values()
    assert process.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, 0), (TrainingError("diverged"), 1), (ConfigError("wrong"), 2), (ZeroDivisionError("a bug"), 1)],
)
def test_a_run_in_this_process_ends_as_a_process_would(tmp_path, capsys, error, status):
    def resume(folder):
        print("at work")
        if error is not None:
            raise error

    with launchers.InProcess(resume) as launcher:
        launcher.submit(tmp_path)
        assert not launcher.has_room()
        assert launcher.poll() == [(tmp_path, status, "")]
        assert launcher.poll() == []
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("at work\n")
    assert error is None or str(error) in log
    assert ("Traceback" in log) == isinstance(error, ZeroDivisionError)
    assert capsys.readouterr().out == ""


def test_an_interrupt_in_this_process_ends_the_comparison(tmp_path):
    def resume(folder):
        raise Interrupted(folder)

    with launchers.InProcess(resume) as launcher, pytest.raises(Interrupted):
        launcher.submit(tmp_path)


# ---- what the comparison makes of runs that fail


@pytest.fixture
def compare(tmp_path):
    """Return a function that runs a comparison over three seeds in this process; `resume` stands for a run."""

    def run(resume, *overrides):
        config = configs.load(
            "index_returns/growing", [f"runs={tmp_path}", "seeds=[1,2,3]", "strategies=[growing,random]", *overrides]
        )
        rundir = RunDir.create(tmp_path, "compared", "compare")
        rundir.write_text("config.yaml", config.dump({}))
        launcher = launchers.InProcess(resume)
        return sweep.run_all(config, rundir, Progress(stream=io.StringIO()), launcher)

    return run


def finish(folder):
    (folder / "summary.json").write_text('{"search_steps": 7}')


def events_of(path, read_lines):
    return [(line["run"], line["event"]) for line in read_lines(path / "compared" / "runs.jsonl")]


@pytest.fixture
def read_lines():
    import json

    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_that_fails_twice_is_tried_a_third_time(compare, tmp_path, read_lines):
    tried = []

    def resume(folder):
        tried.append(folder.name)
        if folder.name == "seed-2" and tried.count("seed-2") < 3:
            raise OSError("no space left")
        finish(folder)

    assert len(compare(resume, "strategies=growing")) == 3
    assert tried == ["seed-1", "seed-2", "seed-3", "seed-2", "seed-2"]
    events = [event for run, event in events_of(tmp_path, read_lines) if run == "seed-2"]
    assert events == ["started", "tried again", "started", "tried again", "started", "finished"]


def test_a_run_that_fails_three_times_is_left_out_and_named(compare, tmp_path, read_lines):
    tried = []

    def resume(folder):
        tried.append(folder.name)
        if folder.name == "seed-2":
            raise TrainingError("diverged")
        finish(folder)

    with pytest.raises(TrainingError) as caught:
        compare(resume)
    assert tried.count("seed-2") == 3
    assert {"seed-1-random", "seed-3-random"} < set(tried)  # the others go on
    assert "seed-2-random" not in tried  # its budget is the steps of the run that failed
    words = str(caught.value)
    assert words.startswith(f"1 of 6 runs failed: {tmp_path / 'compared' / 'seed-2'} (status 1; see ")
    assert "not run, because they take their number of steps from these: seed-2-random" in words
    assert ("seed-2", "failed") in events_of(tmp_path, read_lines)


def test_with_a_budget_of_its_own_a_further_strategy_runs_all_the_same(compare):
    tried = []

    def resume(folder):
        tried.append(folder.name)
        if folder.name == "seed-2":
            raise TrainingError("diverged")
        finish(folder)

    with pytest.raises(TrainingError, match="1 of 6 runs failed"):
        compare(resume, "budget.steps=9")
    assert "seed-2-random" in tried


def test_wrong_input_is_not_tried_again(compare):
    tried = []

    def resume(folder):
        tried.append(folder.name)
        raise ConfigError("wrong")

    with pytest.raises(RunError, match="3 of 3 seeds failed"):
        compare(resume, "strategies=growing")
    assert tried == ["seed-1", "seed-2", "seed-3"]


@pytest.mark.parametrize("cluster", ["", "here", "tcp:/a", "tcp://a b"])
def test_a_place_that_is_none_is_refused(cluster):
    with pytest.raises(ConfigError, match=r"cluster: .*processes, in_process, or an address such as tcp://"):
        configs.load("index_returns/growing", [f"cluster='{cluster}'"])


def test_signs_of_life_are_the_newest_change_of_a_file(tmp_path):
    assert launchers.newest_change(tmp_path) == 0
    for name, when in (("metrics.jsonl", 50.0), ("checkpoint/stage.part", 70.0), ("log.txt", 60.0), (".lock", 80.0)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (when, when))
    (tmp_path / "checkpoint").touch()
    os.utime(tmp_path / "checkpoint", (40.0, 40.0))
    assert launchers.newest_change(tmp_path) == 70.0
