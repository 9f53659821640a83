"""Trials of one search at several workers: the same bits, whatever their number, their order and their deaths."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import sys
import time
import warnings
from dataclasses import replace

import pytest

from grownas.errors import Interrupted, RunError
from grownas.protocols import FitRequest
from grownas.runs import requests, trial_processes
from grownas.runs.trial_processes import LocalWorkers, Worker, WorkerOptions, handle
from grownas.runs.trial_worker import Trials
from grownas.runs.trials import REQUEST, Answer, Pool
from grownas.space import SearchSpace
from grownas.strategies.evolution import Evolution
from grownas.strategies.nas_rl import NasRl
from grownas.strategies.random_search import RandomSearch
from grownas.strategies.seqnas import SeqNas
from grownas.training.distil import Distilled, MeanOf
from grownas.training.loop import fit
from support.growing import dag_model_of, model_of, problem_of
from support.journals import NEVER, Folder

SPACES = {
    "chain": SearchSpace(("add", "hadamard"), ("identity", "tanh"), max_nodes=2),
    "dag": SearchSpace((), ("none", "tanh", "relu", "identity"), max_nodes=2, backbone="dag"),
}
RULES = {
    "accept": "better", "guard": False, "max_nodes": 2, "max_epochs": 2, "patience": 2, "genotypes": 7, "rates": [0.02],
}  # fmt: skip
HALVING = {"candidates": 4, "first_epochs": 1, "reduction_factor": 2}
SEARCHES = {
    "random": (RandomSearch, {"trial_epochs": 1}),
    "halving": (RandomSearch, {"halving": HALVING}),
    "evolution": (Evolution, {"population": 3, "tournament": 2, "batch": 2}),
    "seqnas": (SeqNas, {"initial": 3, "candidates": 6, "per_round": 2, "predictors": 2, "teachers": 2}),
    "nas_rl": (NasRl, {"batch": 3}),
}


class Here:
    """Workers that are no processes: a random one of the running trials ends first.

    Args:
        folder: of the store, with `journal`.
        problem: what a worker would read from config and data.
        loses: takes a trial's name and how often it was tried; returns whether it is lost this time.
    """

    def __init__(self, folder, problem, count, loses=lambda name, tries: False):
        own = Folder(folder.path)  # the same store; logs of its own
        self.trials = Trials(own.journal(every_s=NEVER), own.metrics, problem)
        self.count, self.loses, self.rng = count, loses, random.Random(count)
        self.running, self.tried, self.most = {}, [], 0

    def submit(self, name, order):
        assert len(self.running) < self.count
        assert name not in self.running
        self.running[name] = json.loads(json.dumps(order))
        self.most = max(self.most, len(self.running))

    def wait(self, seconds):
        name = self.rng.choice(list(self.running))
        order = self.running.pop(name)
        self.tried.append(name)
        if self.loses(name, self.tried.count(name)):
            return [Answer(name, lost="died")]
        return [Answer(name, json.loads(json.dumps(self.trials.train(json.loads(order)))))]

    def drop(self, names):
        for name in names:
            del self.running[name]


@pytest.fixture
def problem(request, copy_task):
    kind = getattr(request, "param", "chain")
    task, space = copy_task(dropout=0.1), SPACES[kind]
    start = (dag_model_of if kind == "dag" else model_of)(task, [space.ops[-1]], seed=5)
    return problem_of(start, task, None, space=space)


@pytest.fixture
def search(tmp_path, problem):
    """Return a function that searches; it returns the results, the folder and the workers."""

    def run(name, count, loses=lambda name, tries: False, *, problem=problem, folder=None, **options):
        kind, own = SEARCHES[name]
        folder = folder or Folder(tmp_path / f"{count}-{len(list(tmp_path.iterdir()))}")
        journal, workers = folder.journal(every_s=NEVER), Here(folder, problem, count, loses)
        if count > 1:
            journal.pool = Pool(workers)
        strategy = kind(kind.section.model_validate({**RULES, **own, **options}))
        return list(strategy.search(replace(problem, journal=journal))), folder, workers

    return run


@pytest.fixture
def assert_same(assert_equal):
    def check(one, other):
        results, folder, _ = one
        for mine, yours in zip(results, other[0], strict=True):
            assert_equal(dict(mine.model.state_dict()), dict(yours.model.state_dict()))
            assert (mine.steps, mine.reason) == (yours.steps, yours.reason)
        for name in ("metrics", "shares", "trials"):
            mine, yours = ([_timeless(line) for line in getattr(each, name)] for each in (folder, other[1]))
            assert mine == yours

    return check


def _timeless(line):
    times = ("seconds", "wall_s")
    kept = {key: value for key, value in line.items() if key not in times}
    return None if str(line.get("metric")).endswith("_per_s") else kept


@pytest.mark.parametrize(
    ("name", "problem"), [*((name, "chain") for name in SEARCHES), ("nas_rl", "dag")], indirect=["problem"]
)
def test_the_number_of_workers_changes_nothing(search, assert_same, name):
    whole = search(name, 1)
    for count in (2, 4, 16):
        found = search(name, count)
        assert_same(whole, found)
        assert found[2].most == min(count, {"random": 16, "halving": 4, "evolution": 3, "seqnas": 3, "nas_rl": 3}[name])
        assert not [file for file in found[1].names() if file.endswith(REQUEST)]


def test_a_trial_that_is_lost_twice_is_trained_by_a_third_worker(search, assert_same):
    lossy = search("evolution", 4, lambda name, tries: tries < 3)
    assert_same(search("evolution", 1), lossy)
    assert lossy[2].tried.count("evolution-0") == 3


def test_a_trial_that_is_lost_three_times_is_reported_and_the_search_goes_on(search):
    with pytest.warns(UserWarning, match="skipped: evolution-2: its worker failed 3 times, the last time it died"):
        results, folder, _ = search("evolution", 2, lambda name, tries: name == "evolution-2")
    assert [line["number"] for line in folder.trials] == list(range(7))
    assert [line["reason"] == "diverged" for line in folder.trials] == [number == 2 for number in range(7)]
    assert results[-1].settings == 7


def test_a_training_that_diverges_at_a_worker_is_counted_as_here(search, problem, assert_same, copy_task):
    class Diverging(copy_task):
        def loss(self, model, out, window):
            return super().loss(model, out, window) * (float("nan") if len(model.core.nodes) > 1 else 1.0)

    diverging = replace(problem, task=Diverging(dropout=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, found = (search("evolution", count, problem=diverging) for count in (1, 3))
    assert_same(whole, found)
    assert 0 < sum(line["reason"] == "diverged" for line in whole[1].trials) < 7


def test_a_finished_trial_is_not_given_to_a_worker_again(search, assert_same):
    whole = search("evolution", 2)
    for log in ("metrics", "shares", "trials"):
        getattr(whole[1], log).truncate()
    again = search("evolution", 2, folder=whole[1])
    assert again[2].tried == []
    assert_same(search("evolution", 1), again)


def test_ctrl_c_ends_the_wait_for_workers(search, problem, tmp_path):
    folder = Folder(tmp_path / "stopped")
    journal = folder.journal(every_s=NEVER)

    class Stopping(Here):
        def wait(self, seconds):
            journal.interrupt()
            return []

    journal.pool = Pool(Stopping(folder, problem, 2))
    with pytest.raises(Interrupted):
        list(RandomSearch(RandomSearch.section.model_validate(RULES)).search(replace(problem, journal=journal)))
    assert folder.names() == []


@pytest.mark.parametrize("problem", SPACES, indirect=True)
def test_a_saved_request_is_the_same_request(problem, copy_task, assert_equal, outcome, tmp_path):
    space, rng = problem.space, random.Random(2)
    genotype = space.sample(rng)
    model = (
        problem.build_cell(genotype, "one")
        if space.backbone == "dag"
        else problem.build([[(op.combine, op.activation) for op in node.ops] for node in genotype.nodes], "one")
    )
    task = Distilled(problem.task, "train", weight=0.3, temperature=2.0, teacher=MeanOf([model]))
    recipe = RandomSearch(RandomSearch.section.model_validate(RULES)).recipe()
    request = FitRequest(key="a", model=model, task=task, recipe=recipe, seed=4)
    folder = Folder(tmp_path / "store")
    folder.journal().store.save("a", requests.to_tree(request))
    read = requests.from_tree(folder.journal().store.load("a"), problem)
    assert (read.key, read.recipe, read.seed, read.after, read.extendable) == ("a", recipe, 4, None, False)
    results = [fit(one.model, one.task, one.recipe, seed=one.seed) for one in (request, read)]
    assert_equal(*map(outcome, results))


# --- processes, with another program than that of grownas


READY = 'say({"versions": {"torch": "2"}, "host": "h"})\n'
ECHO = READY + 'for line in sys.stdin: say({"ended": json.loads(line).get("error")})\n'
BEGIN = "import json, os, sys, time\ndef say(line): print(json.dumps(line), flush=True)\n"


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Return a function that has workers run other code; it returns the options of workers."""

    def use(code, timeout_s=60.0):
        monkeypatch.setattr(trial_processes, "COMMAND", (sys.executable, "-c", BEGIN + code))
        return WorkerOptions({"torch": "2"}, 1, timeout_s)

    return use


@pytest.fixture
def answer(program, tmp_path):
    """Return a function that has a worker with this code train a trial; it returns the answer."""

    def run(code, order="{}", **options):
        events = queue.SimpleQueue()
        worker = Worker(tmp_path, events, program(code, **options))
        worker.submit("one", order)
        try:
            while True:
                found = handle(events, 0.05)
                found += [one for one in [worker.check()] if one is not None]
                if found:
                    return found
        finally:
            worker.end()

    return run


def test_a_worker_answers_when_its_trial_has_ended(answer):
    assert answer(ECHO) == [Answer("one")]
    assert answer(ECHO, '{"error": {"message": "nan", "steps": 3}}') == [Answer("one", {"message": "nan", "steps": 3})]


def test_a_worker_that_dies_loses_its_trial(answer, tmp_path):
    assert answer(READY + "sys.stdin.readline(); raise ValueError('odd')") == [
        Answer("one", lost=f"ended with status 1; see {tmp_path / 'log.txt'}")
    ]
    assert "ValueError: odd" in (tmp_path / "log.txt").read_text()


ODD = """
from pathlib import Path
from grownas.runs import trial_worker
class Odd:
    def train(self, order): raise ValueError("odd")
trial_worker.Trials.of = lambda *_: Odd()
trial_worker.commands.versions = lambda: {"torch": "2"}
trial_worker.main(Path())
"""


def test_the_log_names_the_trial_that_an_unexpected_error_ended(answer, tmp_path):
    (found,) = answer(ODD, '{"key": "random-3"}')
    assert found.lost.startswith("ended with status 1; see ")
    assert (tmp_path / "log.txt").read_text().endswith("ValueError: odd\nThis error ended the training of random-3.\n")


def test_a_worker_that_hangs_is_killed(answer, tmp_path):
    (found,) = answer(READY + "time.sleep(60)", timeout_s=0.5)
    words = "was killed: it ended no epoch for worker_timeout=0.5 s"
    assert found == Answer("one", lost=f"{words}; see {tmp_path / 'log.txt'}")


def test_a_worker_that_ends_epochs_does_not_hang(answer):
    code = READY + 'for _ in range(8): time.sleep(0.2); say({"alive": 1})\nsay({"ended": None}); time.sleep(60)'
    assert answer(code, timeout_s=1.0) == [Answer("one")]


def test_a_process_that_dies_before_it_is_ready_loses_nothing(answer, tmp_path):
    code = f"path = {str(tmp_path / 'tries')!r}\nopen(path, 'a').write('x')\n"
    assert answer(code + "if len(open(path).read()) < 4: os.kill(os.getpid(), 9)\n" + ECHO) == [Answer("one")]


def test_a_process_that_never_gets_ready_ends_the_search_in_words(answer, tmp_path):
    with pytest.raises(
        RunError, match=rf"status 3 before it was ready, {trial_processes.STARTS} times .*log.txt says why"
    ):
        answer("raise SystemExit(3)")


def test_what_a_worker_refuses_ends_the_search_in_words(answer):
    with pytest.raises(RunError, match="other data"):
        answer('say({"refused": "other data"})')


def test_other_versions_are_refused(answer):
    with pytest.raises(RunError, match=r"the worker on far has torch 3, the search torch 2: install the same"):
        answer('say({"versions": {"torch": "3"}, "host": "far"}); time.sleep(60)')


def test_killed_processes_lose_no_trial(program, tmp_path):
    """Two processes are killed at random ten times while they train sixty trials."""
    rng, waiting, done = random.Random(3), [str(number) for number in range(60)], []
    slow_echo = READY + 'for line in sys.stdin: time.sleep(0.02); say({"ended": None})\n'
    with LocalWorkers(tmp_path, 2, program(slow_echo)) as workers:
        kills, running = 0, set()
        end = time.monotonic() + 60
        while (waiting or running) and time.monotonic() < end:
            while waiting and len(running) < 2:
                running.add(name := waiting.pop(0))
                workers.submit(name, "{}")
            victim = rng.choice(workers.workers)
            if kills < 10 and victim.is_ready and rng.random() < 0.3:
                os.kill(victim.process.pid, signal.SIGKILL)
                kills += 1
            for one in workers.wait(0.05):
                running.remove(one.name)
                (waiting if one.lost else done).append(one.name)
    assert sorted(done, key=int) == [str(number) for number in range(60)]
    assert kills == 10


def test_workers_end_with_the_search(program, tmp_path):
    with LocalWorkers(tmp_path, 1, program(ECHO)) as workers:
        workers.submit("one", "{}")
        while not workers.wait(0.05):
            pass
        process = workers.workers[0].process
    assert process.poll() == -signal.SIGKILL
