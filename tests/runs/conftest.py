"""A tiny panel, a fast config and real processes, for tests of whole runs.

The panel's returns follow a nonlinear recurrence that a VAR cannot hold, so that a search accepts its first stage and
nodes are appended.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from grownas import cli
from grownas.errors import RunError
from grownas.report import backtest, front, growth_plots, plots
from grownas.runs import launchers, reload
from grownas.tasks.predistortion.simulated import simulated
from support.following_signals import FollowedSignal

NAMES = ("A", "B", "C")
DAYS = 300
FAST = (
    "space.hidden_size=8",
    "space.activation=[identity,tanh]",
    "start.rule=single",  # what growth finds on the tiny panel, and so what these tests see, begins at its VAR
    "start.max_order=2",
    "task.context=20",
    "task.streams=4",
    "strategy.max_epochs=6",
    "strategy.patience=3",
    "strategy.max_nodes=2",
    "strategy.mode=nodes",
    "strategy.gated=false",  # one search, so that its logs are those of one growth; see test_second_start.py
    "strategy.prune=none",
    "strategy.restarts=0",
    "strategy.accept=better",
    "strategy.guard=false",
    "strategy.origins=1",
    "strategy.birth=carrier",  # with which a node is accepted here within a few epochs
    "strategy.new_rate=3",
    "strategy.old_rate=0.3",
    "strategy.l2_sp=[10,0]",
    "strategy.weights.rate=0.01",
    "strategy.alpha.rate=0.01",
    "strategy.fine_tune_epochs=2",
    "retrain.epochs=2",
    "retrain.patience=2",
    "baselines.use=[zero,var1,gru]",
    "baselines.compare=[]",
    "baselines.hidden_sizes=[4]",
    "baselines.losses=[squared]",
    "baselines.rates=[0.001]",
    "baselines.weight_decays=[0]",
    "checkpoint_seconds=1000",
    "quiet=true",
)
SAME = (
    *("genotype.json", "weights.safetensors", "forecasts.safetensors", "losses.safetensors"),
    *("equations.txt", "data.json"),
)
TIMES = (  # the only fields that may differ
    *("seconds", "cpu_seconds", "wall_s", "search_seconds", "retrain_seconds"),
    "words_per_s",
)


def returns(days: int, seed: int = 0) -> np.ndarray:
    """Returns of the three series, `(days, 3)`, in decimals."""
    rng = np.random.default_rng(seed)
    x = np.zeros((days, 3))
    for t in range(1, days):
        before = x[t - 1]
        x[t] = 0.9 * np.tanh(2 * before[[1, 2, 0]] * before) + 0.3 * before[[2, 0, 1]] + rng.normal(0, 0.6, 3)
    return 0.01 * x


def closes(path: Path, days: int = DAYS, *, seed: int = 0, names=NAMES, first="2020-01-01") -> Path:
    """Write a CSV of closes on weekdays."""
    values = 100 * np.exp(np.cumsum(returns(days, seed)[:, : len(names)], axis=0))
    day, lines = datetime.date.fromisoformat(first), [",".join(["date", *names])]
    for row in values:
        lines.append(",".join([day.isoformat(), *map(repr, row.tolist())]))
        day += datetime.timedelta(days={4: 3}.get(day.weekday(), 1))
    path.write_text("\n".join(lines) + "\n")
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


class Ended:
    """What a command gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def start(*args) -> subprocess.Popen:
    """Start `grownas` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "grownas", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def finish(process: subprocess.Popen, timeout: float = 120) -> Ended:
    out, err = process.communicate(timeout=timeout)
    return Ended(process.returncode, out, err)


def wait_for(true, process: subprocess.Popen | None = None, timeout: float = 60) -> None:
    """Wait until something holds; fail if the process ends before."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, "nothing happened in time"
        assert process is None or process.poll() is None, f"the process ended with {process.returncode}"
        time.sleep(0.01)


def has_begun(fit: Path) -> bool:
    """Return whether a file of a checkpoint is there; a fit's `.part` is there for a moment only, then its `.done`.

    While a new version takes its place, only the one before is there.
    """
    return any(fit.with_suffix(end).exists() for end in (fit.suffix, ".done", f"{fit.suffix}.old"))


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def without_times(tree):
    if isinstance(tree, dict):
        return {key: without_times(value) for key, value in tree.items() if key not in TIMES}
    return [without_times(value) for value in tree] if isinstance(tree, list) else tree


def read_json(path: Path):
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_run(one: Path, other: Path) -> None:
    """Equal to the last bit, but for times."""
    for name in SAME:
        assert (one / name).exists() == (other / name).exists(), name
        if (one / name).exists():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert without_times(read_json(one / "summary.json")) == without_times(read_json(other / "summary.json"))
    for name in ("metrics.jsonl", "growth.jsonl", "shares.jsonl", "trials.jsonl"):
        lines = [
            [line for line in read_lines(folder / name) if not str(line.get("metric")).endswith("_per_s")]
            for folder in (one, other)
        ]
        assert without_times(lines[0]) == without_times(lines[1]), name


class Runner:
    """Runs commands on the tiny panel; `folder` holds the run folders."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data

    def options(self, *overrides) -> list[str]:
        return ["index_returns/growing", f"task.data={self.data}", f"runs={self.folder}", *FAST, *overrides]

    def start(self, command, *overrides):
        return start(command, *self.options(*overrides))

    def start_plain(self, *args):
        return start(*args)

    def search(self, name: str, *overrides) -> Path:
        ended = call("search", *self.options(f"name={name}", *overrides))
        assert ended.code == 0, ended.err
        return self.folder / name


def call(*args) -> Ended:
    """Run the command line in this process."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli._status(lambda **options: cli.cli(list(map(str, args)), **options))
    finally:
        torch.set_num_threads(threads)
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture
def predicts_as_written(tmp_path):
    """Check that `grownas predict RUN input=FILE.csv` gives what `equations.txt` gives on the same raw samples."""

    def check(folder: Path, near: float = 1.0) -> None:
        signal = simulated(1).x["test"][:200]
        given, out = tmp_path / "samples.csv", tmp_path / "samples-output.csv"
        np.savetxt(given, signal.view(float).reshape(-1, 2), delimiter=",", header="I,Q", comments="")
        ended = call("predict", folder, f"input={given}", f"out={out}")
        assert ended.code == 0, ended.err
        wanted = np.loadtxt(out, delimiter=",", skiprows=1) @ [1, 1j]
        found = FollowedSignal((folder / "equations.txt").read_text()).output(signal)
        assert np.isclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max()).mean() >= near

    return check


@pytest.fixture(scope="session")
def fork_server():
    """Starts processes that share the imports, so that many are cheap."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["grownas.runs.commands", "grownas.report.page"])
    return context


@pytest.fixture(scope="session")
def fork(fork_server):
    """Start `grownas` in a process of the fork server."""
    context = fork_server

    def begin(*args) -> multiprocessing.Process:
        process = context.Process(target=runpy.run_module, args=("grownas",), kwargs={"run_name": "__main__"})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["grownas", *map(str, args)])  # what the process is given
            process.start()
        return process

    return begin


@pytest.fixture
def broken_off(runner, fork, wait_for):
    """Begin a run and kill it as soon as a file is there; return its folder."""

    def begin(until: str, *overrides, command: str = "search") -> Path:
        folder = runner.folder / "broken"
        process = fork(command, *runner.options("name=broken", "checkpoint_seconds=0", *overrides))
        wait_for(lambda: has_begun(folder / until) or process.exitcode is not None)
        process.kill()
        process.join()
        return folder

    return begin


@pytest.fixture
def killed_search(runner, fork, wait_for):
    """Begin a search and kill it as soon as a file of its checkpoint is there; return its folder."""

    def begin(name: str, until: str, *options) -> Path:
        folder = runner.folder / name
        process = fork("search", *runner.options(f"name={name}", "checkpoint_seconds=0", *options))
        wait_for(lambda: has_begun(folder / "checkpoint" / until) or process.exitcode is not None)
        process.kill()
        process.join()
        assert has_begun(folder / "checkpoint" / until)
        assert not (folder / "summary.json").exists()
        return folder

    return begin


@pytest.fixture(scope="session")
def small_text(tmp_path_factory) -> Path:
    """A folder of train.txt, valid.txt and test.txt, whose words are drawn."""
    folder, rng = tmp_path_factory.mktemp("text"), random.Random(0)
    for name, lines in (("train", 60), ("valid", 15), ("test", 15)):
        words = [" ".join(rng.choice(["the", "cat", "sat", "on", "<unk>"]) for _ in range(6)) for _ in range(lines)]
        (folder / f"{name}.txt").write_text("".join(f" {line} \n" for line in words))
    return folder


class ForkedSeed:
    """What `launchers.Processes` needs of `subprocess.Popen`, of a process of the fork server."""

    def __init__(self, process: multiprocessing.Process) -> None:
        self.process = process
        process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()


@pytest.fixture
def forked_seeds(fork_server, monkeypatch) -> None:
    """A comparison in this process has the fork server start its seeds."""
    script = str(Path(__file__).with_name("forked_seed.py"))

    def begin(folder: Path, threads: int) -> ForkedSeed:
        kwargs = {"init_globals": {"folder": str(folder)}, "run_name": "__main__"}
        return ForkedSeed(fork_server.Process(target=runpy.run_path, args=(script,), kwargs=kwargs))

    monkeypatch.setattr(launchers, "start", begin)


@pytest.fixture
def drawn() -> None:
    """Asked for by a test that looks at the drawings of a report, see `undrawn`."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch) -> None:
    """A report is written whole, but its drawings are left blank: they take half of the time of a tiny run."""
    if "drawn" not in request.fixturenames:
        for module in (plots, growth_plots, backtest, front):
            monkeypatch.setattr(module, "as_svg", lambda canvas: "<svg></svg>")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return closes(tmp_path_factory.mktemp("data") / "closes.csv")


@pytest.fixture(scope="session")
def runs(tmp_path_factory, data) -> Runner:
    """Runs that are shared and not written to."""
    return Runner(tmp_path_factory.mktemp("runs"), data)


@pytest.fixture
def runner(tmp_path, data) -> Runner:
    return Runner(tmp_path / "runs", data)


@pytest.fixture(scope="session")
def finished(runs) -> Path:
    """A finished search; do not write to it."""
    return runs.search("finished")


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished search."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def _evaluates_to_summary(folder: Path) -> None:
    """`evaluate` prints the summary's figures to the last digit."""
    summary, ended = read_json(folder / "summary.json"), call("evaluate", folder)
    assert ended.code == 0, ended.err
    printed = [line.split() for line in ended.out.splitlines() if not line.startswith(" ")]
    assert printed == [[part, summary["metric"], repr(summary[part])] for part in ("val", "test")]


BROKEN_TENSORS = {  # what each does to one tensor; None: it is left out
    "gone": lambda one: None,
    "flat": lambda one: one.reshape(-1) if one.ndim != 1 else one[None],
    "too long": lambda one: np.concatenate([one, one]) if one.ndim else one[None],
    "empty": lambda one: one.reshape(-1)[:0],
    "not a number": lambda one: one * np.float32(np.nan),
    "whole numbers": lambda one: one.astype(np.int64),
}
BROKEN_NAMES = ["null", "3", '{"a": 1}', "[1, 2]", '[["a"], ["b"]]', '"ab"', "[]", '["a", "a"]', "[", None]


def _broken_weights_are_told(folder: Path, copy: Path) -> None:
    """Each tensor of a run broken in each way, and broken names, end in an error that names the file and what is wrong.

    Args:
        folder: of a finished run.
        copy: where a copy goes, which is spoiled.
    """
    path = Path(shutil.copytree(folder, copy)) / "weights.safetensors"
    with safe_open(path, "np") as file:
        notes, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def told(changed: dict[str, np.ndarray], notes: dict[str, str], what: str) -> None:
        save_file({key: np.asarray(one) for key, one in changed.items()}, path, notes)
        with pytest.raises(RunError) as caught:
            reload.evaluate(copy)
        assert str(path) in str(caught.value)
        assert what in str(caught.value)
        assert "\n" not in str(caught.value)

    for key, one in tensors.items():
        for change in BROKEN_TENSORS.values():
            broken = change(one)
            changed = {**tensors, key: broken} if broken is not None else {k: v for k, v in tensors.items() if k != key}
            told(changed, notes, key)
    for key in ("embedding.weight", "readout.weight"):  # of no units
        if key in tensors:
            told({**tensors, key: tensors[key][:, :0]}, notes, key)
    told({**tensors, "another": np.ones(2, np.float32)}, notes, "another")
    for names in BROKEN_NAMES:
        told(tensors, {} if names is None else {"names": names}, "")
    save_file(tensors, path, notes)
    assert reload.evaluate(copy) == reload.evaluate(folder)


_helpers = {
    "broken_weights_are_told": _broken_weights_are_told,
    "call": call,
    "start": start,
    "finish": finish,
    "wait_for": wait_for,
    "kill": kill,
    "read_json": read_json,
    "without_times": without_times,
    "read_lines": read_lines,
    "assert_same_run": assert_same_run,
    "evaluates_to_summary": _evaluates_to_summary,
    "write_closes": closes,
}
for _name, _helper in _helpers.items():  # test files cannot import from here, so each helper is a fixture
    globals()[_name + "_fixture"] = pytest.fixture(scope="session", name=_name)(lambda helper=_helper: helper)
