"""Says how far a run or a comparison is, from its files alone: it also works while they run, on any machine."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grownas.config import loading as configs
from grownas.errors import RunError
from grownas.runs import sweep
from grownas.runs.launchers import LOG, newest_change
from grownas.runs.rundir import FINISHED, RunDir

STATES = ("done", "running", "failed", "stopped", "waiting", "unknown")  # unknown: the folder's lock cannot be read
PIECE = re.compile(r"-(epoch|to)-\d+$")  # of a part that goes on with a fit, whose steps it counts on
METRIC, EVENT = {"part", "model", "step", "split", "metric", "value"}, {"time", "run", "event"}  # keys of log lines


class Status(NamedTuple):
    """How far a run is.

    Attributes:
        name: name of the run folder.
        state: one of `STATES`; `stopped` runs have begun, `waiting` ones have not.
        best: lowest validation metric of the search so far; None before the first.
        steps: weight steps of all fits so far.
        seen: time of the last change of a file, in seconds since 1970; 0 if there are no files.
        words: how a failed run ended.
    """

    name: str
    state: str
    best: float | None
    steps: int
    seen: float
    words: str = ""


def text(path: Path, *, now: float | None = None) -> str:
    """Return the status of a run or comparison as text: one row per run.

    Args:
        path: the folder.
        now: seconds since 1970; None: the clock.

    Raises:
        RunError: the folder is not a run folder.
    """
    now = time.time() if now is None else now
    if RunDir.open(path).command != "compare":
        run = of_run(path)  # nothing else would begin it
        return _table([run._replace(state="interrupted") if run.state in ("stopped", "waiting") else run], now)
    events = _lines(path / sweep.LOG_OF_RUNS, EVENT)
    last = {line["run"]: line for line in events}
    names = [name for group in sweep.members(configs.load(path / "config.yaml")) for name in group]
    runs = [of_run(path / name, last.get(name)) for name in names]
    counts = Counter(run.state for run in runs)
    head = [f"{counts['done']} of {len(runs)} runs done"]
    head += [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
    left_s = time_left(runs, events, now)
    head += [] if left_s is None else [f"about {left_s:.0f} s left"]
    failed = [f"{run.name} failed: {run.words}; see {path / run.name / LOG}" for run in runs if run.state == "failed"]
    return "\n".join([f"{path}: {', '.join(head)}", _table(runs, now), *failed])


def of_run(path: Path, last: Mapping[str, Any] | None = None) -> Status:
    """Return how far the run of a folder is.

    Args:
        path: the run folder; it need not exist.
        last: the last line about this run in the comparison's `runs.jsonl`.
    """
    if not path.is_dir():
        return Status(path.name, "waiting", None, 0, 0.0)
    lines = _lines(path / "metrics.jsonl", METRIC)
    values = [
        line["value"]
        for line in lines
        if line["split"] == "val" and line["model"] == "search" and line["metric"] != "loss" and "blend" not in line
    ]
    steps: dict[str, int] = {}
    for line in lines:
        fit = PIECE.sub("", line["part"])
        steps[fit] = max(line["step"], steps.get(fit, 0))
    best = min((value for value in values if value is not None), default=None)
    words = ""
    if any((path / name).exists() for name in FINISHED):
        state = "done"
    elif (state := _lock_of(path)) == "free":
        state = "stopped" if lines else "waiting"
        if last is not None and last["event"] == "failed":
            state, words = "failed", f"status {last['status']}" + (f", {last['words']}" if last["words"] else "")
    return Status(path.name, state, best, sum(steps.values()), newest_change(path), words)


def time_left(runs: Sequence[Status], events: Sequence[Mapping[str, Any]], now: float) -> float | None:
    """Return about how many seconds a comparison still takes; None if nothing runs or no run has finished.

    Each unfinished run is taken to need the mean time of the finished ones.
    """
    began: dict[str, float] = {}
    took: list[float] = []
    for line in events:
        if line["event"] == "started":
            began[line["run"]] = line["time"]
        elif line["event"] == "finished":
            took.append(line["time"] - began[line["run"]])
    running = [run.name for run in runs if run.state == "running"]
    if not took or not running:
        return None
    mean = sum(took) / len(took)
    open_runs = sum(run.state in ("running", "stopped", "waiting") for run in runs)
    spent = sum(min(mean, now - began.get(name, now)) for name in running)
    return max(0.0, open_runs * mean - spent) / len(running)


def _lock_of(path: Path) -> str:
    try:
        return "running" if RunDir(path).is_locked() else "free"
    except RunError:  # it cannot be written to, so its lock cannot be tried
        return "unknown"


def _table(runs: Sequence[Status], now: float) -> str:
    rows = [("run", "state", "best validation", "steps", "last sign of life")]
    rows += [
        (
            run.name,
            run.state,
            "" if run.best is None else f"{run.best:.5f}",
            f"{run.steps}",
            f"{max(0.0, now - run.seen):.0f} s ago" if run.seen else "",
        )
        for run in runs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _lines(path: Path, keys: set[str]) -> list[dict[str, Any]]:
    """Return the lines of a log; without those that a crash or a full disk cut off or damaged."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            tree = json.loads(line)
        except ValueError:
            continue
        if isinstance(tree, dict) and keys <= tree.keys():
            found.append(tree)
    return found
