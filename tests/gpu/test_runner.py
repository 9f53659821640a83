"""What `make gpu` runs, on the CPU with a tiny budget: its parts fit together, and what it writes can be read."""

from __future__ import annotations

import importlib.util
import json
import sys
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


def test_the_budget_of_the_target_ends_within_eight_minutes(runner):
    budget = runner.BUDGETS["gpu"]
    assert budget.suite_s + budget.search_s <= 8 * 60 - 90  # the rows take what is left
