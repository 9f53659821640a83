"""The main job's seconds, by part. `make bench` shows them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grownas.bench import table
from grownas.bench.figures import Figure, Must, Row

PARTS = Path(__file__).with_name("search_parts.py")
BAR = "2 minutes"
FAST = (
    *("strategy.max_epochs=1", "strategy.max_nodes=1", "strategy.l2_sp=[0]", "start.max_order=1", "retrain.epochs=1"),
    *("baselines.use=[var,gru]", "baselines.compare=[]", "baselines.hidden_sizes=[4]", "baselines.losses=[squared]"),
    *("baselines.rates=[0.001]", "baselines.weight_decays=[0]"),
)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell children's processor time")


def search_row(name: str, runs: Path, *overrides: str) -> Row:
    """Run the search in a process of its own."""
    import resource  # not on Windows, where the tests below are skipped

    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, PARTS, runs, *overrides], stdout=subprocess.PIPE, text=True, check=True)
    whole = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = json.loads(done.stdout.splitlines()[-1])  # the line before names the report
    seconds["the rest"] = whole - sum(seconds.values())
    seconds["whole"] = whole
    seconds["whole, processor time"] = sum(
        getattr(after, one) - getattr(before, one) for one in ("ru_utime", "ru_stime")
    )
    seconds[BAR] = 120.0
    figures = {part: Figure.of([figure]) for part, figure in seconds.items()}
    return Row(name, "s", figures, "", (Must(BAR, 1.0, "whole"),))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_search_takes_less_than_two_minutes(measured, search_name, tmp_path):
    row = search_row(search_name, tmp_path)
    measured.append(row)
    print()
    for line in table.lines(row):
        print(line)
    assert all(check.holds for check in row.checks())


def test_every_part_of_a_search_is_counted(tmp_path):
    row = search_row("search", tmp_path, *FAST)
    assert list(row.figures) == [
        "imports", "data", "folds of the start", "growth", "retraining", "baseline var", "baseline gru", "report",
        "the rest", "whole", "whole, processor time", BAR,
    ]  # fmt: skip
    seconds = {part: figure.median for part, figure in row.figures.items()}
    whole = seconds.pop("whole")
    assert all(one > 0 for part, one in seconds.items())
    assert sum(one for part, one in seconds.items() if part not in ("whole, processor time", BAR)) == pytest.approx(
        whole
    )
    assert seconds["whole, processor time"] < 3 * whole
    assert seconds["the rest"] < 0.5 * whole
    assert list(tmp_path.glob("*/report.html")) != []
