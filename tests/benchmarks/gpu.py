"""What one GPU shows in at most 8 minutes, without a network: `make gpu` runs it.

Three parts, each in the time that it is given: the tests marked `gpu`, the benchmark's rows of the GPU beside cuDNN's
LSTM, and a short `penn_treebank/growing` with its words a second, on a text that is drawn. One JSON and one table are
written, whatever a part came to; the exit status is 1 if one failed, and 2 if there is no GPU.

    python tests/benchmarks/gpu.py FOLDER
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from grownas.bench import results, suite, table

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
        suite_s, search_s: seconds after which a part is stopped.
    """

    device: str
    tests: tuple[str, ...]
    row: str
    words: int
    vocabulary: int
    search: tuple[str, ...]
    suite_s: float
    search_s: float


SHORT = (
    *("strategy.max_epochs=1", "strategy.later_epochs=1", "strategy.max_nodes=2", "strategy.blend_steps=100"),
    *("strategy.weights.optimizer=adam", "strategy.weights.rate=0.001", "strategy.noise=0", "baselines.use=[lstm]"),
    *("retrain.optimizer=adam", "retrain.rate=0.001", "retrain.epochs=1", "quiet=true"),
)
BUDGETS = {
    "gpu": Budget(
        "cuda", ("-m", "gpu", "tests"), "GPU", words=250_000, vocabulary=10_000, search=SHORT, suite_s=210, search_s=150
    ),
    "tiny": Budget(  # on the CPU: shows that the parts fit together, and measures nothing
        "cpu",
        ("tests/gpu", "-k", "refuses"),
        "GPU",
        words=600,
        vocabulary=30,
        search=(*SHORT, "bf16=false", "task.streams=4", "task.bptt=7", "space.hidden_size=6", "task.eval_streams=1"),
        suite_s=200,
        search_s=200,
    ),
}


def run_tests(budget: Budget, folder: Path) -> Found:
    """Run the tests; say how many passed, and which did not."""
    report = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", *budget.tests, f"--junit-xml={report}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=budget.suite_s)
    if not report.is_file():
        raise RuntimeError(f"pytest wrote no report: {(done.stdout + done.stderr)[-500:]}")
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
    path, lines = folder / "rows.json", list[str]()
    suite.run(lines.append, quick=True, only=budget.row, json=path)
    return {"lines": lines, **json.loads(path.read_text("utf-8"))}


def run_search(budget: Budget, folder: Path) -> Found:
    """Search on a text that is drawn; return each fit's steps and words a second, as its logs have them."""
    write_text(folder / "text", budget.words, budget.vocabulary)
    command = [
        *(sys.executable, "-m", "grownas", "search", "penn_treebank/growing", f"device={budget.device}"),
        *(f"task.data={folder / 'text'}", f"runs={folder}", "name=run", *budget.search),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=budget.search_s)
    if done.returncode:
        raise RuntimeError(f"the search ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
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
        return "failed: " + one["error"].replace("\n", " ").replace("|", "/")
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
