"""What `make gpu` runs, on the CPU with a tiny budget: its parts fit together, and what it writes can be read."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("gpu_runner", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_all_parts_run_and_are_written(runner, tmp_path, capsys):
    assert runner.main([str(tmp_path), "--budget", "tiny"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found["parts"]) == ["tests", "rows", "search"] == list(runner.PARTS)
    assert found["parts"]["tests"]["passed"] == 1
    search = found["parts"]["search"]
    assert [one["kind"] for one in search["changes"]] == ["add_node"]
    assert {"stage-2", "lstm"} < set(search["words_per_s"])
    assert all(speed > 0 for speed in search["words_per_s"].values())
    text = (tmp_path / "gpu.md").read_text()
    assert text in capsys.readouterr().out
    for line in ("| tests |", "| rows |", "| search |", "torch sees no GPU" if not torch.cuda.is_available() else ""):
        assert line in text


def test_a_part_that_fails_is_written_and_the_others_run(runner, tmp_path):
    def fail(budget, folder):
        raise RuntimeError("two\nlines")

    parts = {"search": fail, "tests": lambda budget, folder: {"passed": 3, "skipped": 1}}
    assert not runner.run(runner.BUDGETS["tiny"], tmp_path, parts)
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert found["search"]["error"] == "RuntimeError: two\nlines"
    text = (tmp_path / "gpu.md").read_text()
    assert "failed: RuntimeError: two lines" in text
    assert "3 passed, 1 skipped" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_runs_and_it_says_so(runner, tmp_path, capsys):
    assert runner.main([str(tmp_path / "out")]) == 2
    assert "no GPU: PyTorch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


SLEEPS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])  # it holds the pipe open
print("row 1 |", child.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("part", ["tests", "rows", "search"])
def test_a_part_that_runs_out_of_time_is_stopped_and_written(runner, tmp_path, monkeypatch, part):
    """Each is replaced by a process that sleeps, and whose child sleeps, too."""
    call = runner.call
    monkeypatch.setattr(
        runner, "call", lambda command, **given: call([sys.executable, "-c", SLEEPS], **{**given, "seconds": 2.0})
    )
    began = time.monotonic()
    assert not runner.run(runner.BUDGETS["tiny"], tmp_path, {part: runner.PARTS[part]})
    assert time.monotonic() - began < 30
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"][part]
    (line,) = found["lines"]
    assert (found["ok"], found["out_of_time"], line[:7]) == (False, True, "row 1 |")
    text = (tmp_path / "gpu.md").read_text()
    assert "ran out of time: stopped after 2 s; it ended with: row 1 /" in text
    assert _ends(Path(f"/proc/{line.split()[-1]}/stat"))


def _ends(stat: Path) -> bool:
    """True once the process is gone, or a zombie that nobody waits for; a signal takes some time to work."""
    for _ in range(200):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_the_parts_are_given_the_seconds_of_the_budget(runner, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(runner, "call", lambda command, cwd, seconds: given.append(seconds) or (1, "no"))
    budget = runner.BUDGETS["gpu"]._replace(words=600, vocabulary=30)
    assert not runner.run(budget, tmp_path)
    assert given == [budget.tests_s, budget.rows_s, budget.search_s]


def test_the_budget_of_the_target_ends_within_eight_minutes(runner):
    budget = runner.BUDGETS["gpu"]
    assert budget.tests_s + budget.rows_s + budget.search_s <= 8 * 60 - 10  # what is left writes text and tables
