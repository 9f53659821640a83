"""What one GPU shows in at most 8 minutes, without a network: `make gpu` runs it.

Three parts: the tests marked `gpu`, the benchmark's rows of the GPU beside cuDNN's LSTM, and a short
`penn_treebank/growing` with its words a second, on a text that is drawn. A part that runs out of its time is stopped,
with all processes that it started. One JSON and one table are written, whatever a part came to; the exit status is 1 if
one failed or ran out of time, and 2 if there is no GPU.

    python tests/benchmarks/gpu.py FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from grownas.bench import results, table

ROOT = Path(__file__).parents[2]
Found = dict[str, Any]


class Budget(NamedTuple):
    """How much is done.

    Attributes:
        device: on which the search runs.
        tests: what pytest is asked for.
        row: part of the names of the benchmark's rows.
        words: number of words of the training text that is drawn.
        vocabulary: of it.
        search: overrides of the search's config.
        tests_s, rows_s, search_s: seconds after which a part is stopped.
    """

    device: str
    tests: tuple[str, ...]
    row: str
    words: int
    vocabulary: int
    search: tuple[str, ...]
    tests_s: float
    rows_s: float
    search_s: float


SHORT = (
    *("strategy.max_epochs=1", "strategy.later_epochs=1", "strategy.max_nodes=2", "strategy.blend_steps=100"),
    *("strategy.weights.optimizer=adam", "strategy.weights.rate=0.001", "strategy.noise=0", "baselines.use=[lstm]"),
    *("retrain.optimizer=adam", "retrain.rate=0.001", "retrain.epochs=1", "quiet=true"),
)
BUDGETS = {
    "gpu": Budget(
        "cuda",
        ("-m", "gpu", "tests"),
        "GPU",
        words=250_000,
        vocabulary=10_000,
        search=SHORT,
        tests_s=200,
        rows_s=120,
        search_s=150,
    ),
    "tiny": Budget(  # on the CPU: shows that the parts fit together, and measures nothing
        "cpu",
        ("tests/gpu", "-k", "refuses"),
        "GPU",
        words=600,
        vocabulary=30,
        search=(*SHORT, "bf16=false", "task.streams=4", "task.bptt=7", "space.hidden_size=6", "task.eval_streams=1"),
        tests_s=200,
        rows_s=200,
        search_s=200,
    ),
}


class OutOfTimeError(RuntimeError):
    """A part was stopped at its limit; `said` is what it had printed by then."""

    def __init__(self, seconds: float, said: str) -> None:
        """Say after how many seconds."""
        super().__init__(f"stopped after {seconds:g} s; it ended with: {said[-500:].strip() or 'nothing'}")
        self.said = said


def call(command: Sequence[str], *, cwd: Path, seconds: float) -> tuple[int, str]:
    """Run a command; return its exit status and what it printed. At its limit all processes of its group are killed.

    Raises:
        OutOfTimeError: it was stopped.
    """
    with subprocess.Popen(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except BaseException as error:  # also Ctrl-C, which does not reach another session
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise OutOfTimeError(seconds, said) from None
            raise
    return process.returncode, said


def run_tests(budget: Budget, folder: Path) -> Found:
    """Run the tests; say how many passed, and which did not."""
    report = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", *budget.tests, f"--junit-xml={report}"]
    _, said = call(command, cwd=ROOT, seconds=budget.tests_s)
    if not report.is_file():
        raise RuntimeError(f"pytest wrote no report: {said[-500:]}")
    cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    outcomes = [{part.tag for part in case} & {"failure", "error", "skipped"} for case in cases]
    bad = [
        f"{one.get('classname')}::{one.get('name')}"
        for one, how in zip(cases, outcomes, strict=True)
        if how - {"skipped"}
    ]
    passed = sum(not how for how in outcomes)
    if bad or not passed:
        raise RuntimeError(f"{passed} tests passed, {len(bad)} did not: {'; '.join(bad)}")
    return {"passed": passed, "skipped": sum("skipped" in how for how in outcomes)}


def run_rows(budget: Budget, folder: Path) -> Found:
    """Measure the rows, on few samples; the table's lines are those of `grownas bench`."""
    path = folder / "rows.json"
    command = [sys.executable, "-m", "grownas", "bench", "--quick", "--only", budget.row, "--json", str(path)]
    status, said = call(command, cwd=folder, seconds=budget.rows_s)
    if status:
        raise RuntimeError(f"the benchmark ended with {status}: {said[-500:]}")
    return {"lines": said.splitlines(), **json.loads(path.read_text("utf-8"))}


def run_search(budget: Budget, folder: Path) -> Found:
    """Search on a text that is drawn; return each fit's steps and words a second, as its logs have them."""
    write_text(folder / "text", budget.words, budget.vocabulary)
    command = [
        *(sys.executable, "-m", "grownas", "search", "penn_treebank/growing", f"device={budget.device}"),
        *(f"task.data={folder / 'text'}", f"runs={folder}", "name=run", *budget.search),
    ]
    status, said = call(command, cwd=folder, seconds=budget.search_s)
    if status:
        raise RuntimeError(f"the search ended with {status}: {said[-500:]}")
    logged = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    summary = json.loads((folder / "run" / "summary.json").read_text("utf-8"))
    speeds = {line["part"]: line["value"] for line in logged if line["metric"] == "words_per_s"}
    steps = {line["part"]: line["step"] for line in logged}
    changes = [json.loads(line) for line in (folder / "run" / "growth.jsonl").read_text("utf-8").splitlines()]
    return {
        "words_per_s": speeds,
        "steps": {part: steps[part] for part in speeds},
        "changes": [{key: one.get(key) for key in ("kind", "drift", "accepted")} for one in changes],
        "scores": {one["model"]: one["val"] for one in summary["scores"]},
    }


def write_text(folder: Path, words: int, vocabulary: int) -> None:
    """Write a text whose words are drawn by Zipf's law."""
    draw, folder_words = random.Random(0), [f"w{number}" for number in range(vocabulary)]
    weights = [1 / (1 + number) for number in range(vocabulary)]
    folder.mkdir()
    for name, count in (("train", words), ("valid", words // 10), ("test", words // 10)):
        drawn = draw.choices(folder_words, weights, k=count)
        if name == "train":
            drawn[:vocabulary] = folder_words  # every word is known
        lines = [" ".join(drawn[first : first + 20]) for first in range(0, count, 20)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", "utf-8")


PARTS: dict[str, Callable[[Budget, Path], Found]] = {"tests": run_tests, "rows": run_rows, "search": run_search}


def run(budget: Budget, out: Path, parts: Mapping[str, Callable[[Budget, Path], Found]] = PARTS) -> bool:
    """Do all parts, write `gpu.json` and `gpu.md`; return whether each came to an end."""
    out.mkdir(parents=True, exist_ok=True)
    found: Found = {"date": results.now(), "machine": results.describe_machine(), "parts": {}}
    for name, part in parts.items():
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                one = {"ok": True, **part(budget, Path(folder))}
            except OutOfTimeError as error:
                one = {"ok": False, "out_of_time": True, "error": str(error), "lines": error.said.splitlines()}
            except (RuntimeError, OSError, subprocess.SubprocessError, KeyError, ValueError) as error:
                one = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        found["parts"][name] = {**one, "seconds": round(time.perf_counter() - began, 1)}
        (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        (out / "gpu.md").write_text("\n".join(page(found)) + "\n", "utf-8")
    return all(one["ok"] for one in found["parts"].values())


def page(found: Found) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"# One GPU, {found['date']}"
    yield f"\n{table.in_words(found['machine'])}\n"
    yield "| part | seconds | outcome |"
    yield "|---|---|---|"
    for name, one in found["parts"].items():
        yield f"| {name} | {one['seconds']} | {outcome(one)} |"
    rows = found["parts"].get("rows", {}).get("lines")
    if rows:
        yield "\n```"
        yield from rows
        yield "```"
    speeds = found["parts"].get("search", {}).get("words_per_s")
    if speeds:
        yield "\n| fit | steps | words/s |"
        yield "|---|---|---|"
        for part, speed in speeds.items():
            yield f"| {part} | {found['parts']['search']['steps'][part]} | {speed:,.0f} |"


def outcome(one: Found) -> str:
    """Return a part's outcome in words."""
    if not one["ok"]:
        what = "ran out of time: " if one.get("out_of_time") else "failed: "
        return what + one["error"].replace("\n", " ").replace("|", "/")
    if "passed" in one:
        return f"{one['passed']} passed, {one['skipped']} skipped"
    if "rows" in one:
        return f"{sum(not row['skipped'] for row in one['rows'])} of {len(one['rows'])} rows measured"
    return f"{len(one['changes'])} changes of the cell"


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for gpu.json and gpu.md")
    parser.add_argument("--budget", choices=BUDGETS, default="gpu", help="tiny runs on the CPU and measures nothing")
    given = parser.parse_args(arguments)
    budget = BUDGETS[given.budget]
    if budget.device == "cuda" and not torch.cuda.is_available():
        print(f"no GPU: PyTorch {torch.__version__} finds no CUDA device, so nothing was run", file=sys.stderr)
        return 2
    fine = run(budget, given.out)
    print((given.out / "gpu.md").read_text("utf-8"))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
