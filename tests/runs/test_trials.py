"""Whole searches whose genotypes are trained by several processes: the same bits, also where processes are killed."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

import grownas
from grownas.errors import ConfigError, DataError
from grownas.runs.trial_worker import Trials

SHORT = "max_nodes: 2, max_epochs: 3, patience: 3, accept: better, guard: false, rates: [0.01]"
EVOLUTION = f"strategy={{use: evolution, {SHORT}, population: 4, tournament: 2, batch: 4}}"
SEQNAS = f"strategy={{use: seqnas, {SHORT}, initial: 4, candidates: 8, per_round: 3, predictors: 2}}"
OTHERS = ("baselines.use=[zero]", "retrain.grown=false")


@pytest.fixture(scope="module")
def alone(runs) -> Path:
    """A search in one process; do not write to it."""
    return runs.search("alone", SEQNAS, *OTHERS, "budget.genotypes=6", "search_rates=[0.01]")


def workers_of(folder: Path) -> list[int]:
    """The ids of the processes that train trials of a run folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_text().split("\0")
        except OSError:  # it has just ended
            continue
        if "grownas.runs.trial_worker" in words and str(folder) in words:
            found.append(int(place.name))
    return found


def test_two_workers_give_the_same_bits(alone, runs, assert_same_run):
    folder = runs.search("two", SEQNAS, *OTHERS, "budget.genotypes=6", "search_rates=[0.01]", "trial_workers=2")
    assert_same_run(alone, folder)
    assert workers_of(folder) == []
    assert not list((folder / "checkpoint").glob("*.request"))


def test_a_worker_refuses_data_that_are_not_those_of_the_search(alone, tmp_path):
    notes = alone.joinpath("config.yaml").read_text().partition("data_checksum: ")
    (tmp_path / "config.yaml").write_text(f"{notes[0]}data_checksum: {'0' * 64}\n")
    with pytest.raises(DataError, match="reads other data than the search"):
        Trials.of(tmp_path, print)


def test_a_search_without_a_folder_has_no_workers(data):
    with pytest.raises(ConfigError, match="trial_workers=2: the workers read and write a run folder"):
        grownas.search("index_returns/growing", data=data, overrides={"trial_workers": 2}, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 16])
def test_many_workers_give_the_same_bits(alone, runs, assert_same_run, count):
    options = ("budget.genotypes=6", "search_rates=[0.01]", f"trial_workers={count}")
    assert_same_run(alone, runs.search(f"many-{count}", SEQNAS, *OTHERS, *options))


@pytest.mark.slow
def test_a_killed_search_ends_its_workers_and_goes_on(alone, runner, fork, wait_for, call, assert_same_run):
    options = (SEQNAS, *OTHERS, "budget.genotypes=6", "search_rates=[0.01]", "trial_workers=2", "name=killed")
    process, folder = fork("search", *runner.options(*options)), runner.folder / "killed"
    wait_for(lambda: list(folder.glob("checkpoint/*seqnas-1.done")))
    process.kill()
    process.join()
    wait_for(lambda: workers_of(folder) == [])
    ended = call("resume", folder, "trial_workers=1")
    assert ended.code == 0, ended.err
    assert_same_run(alone, folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_lose_none_of_300_trials(runner, runs, finish, assert_same_run):
    options = (EVOLUTION, *OTHERS, "budget.genotypes=300")
    whole = runs.search("whole", *options)
    process = runner.start("search", *options, "trial_workers=2", "name=shot")
    folder, rng, kills, after = runner.folder / "shot", random.Random(1), 0, 3
    while process.poll() is None and kills < 50:
        if len(list(folder.glob("checkpoint/*.done"))) > after and (found := workers_of(folder)):
            time.sleep(rng.uniform(0, 0.5))
            with suppress(ProcessLookupError):  # one that the search has just ended
                os.kill(rng.choice(found), signal.SIGKILL)
                kills, after = kills + 1, after + rng.randint(1, 9)
        time.sleep(0.01)
    ended = finish(process, timeout=1200)
    assert ended.code == 0, ended.err
    assert kills == 50
    assert_same_run(whole, folder)


def memory_of(process: int) -> float:
    """The resident memory of a process, in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def cpu_of(process: int) -> float:
    """The processor time of a process so far, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_2000_trials_leave_memory_flat(runner, finish, wait_for, read_lines, capsys):
    tiny = "strategy={use: random, max_nodes: 1, max_epochs: 1, accept: better, guard: false, rates: [0.01]}"
    process = runner.start("search", tiny, *OTHERS, "budget.genotypes=2000", "trial_workers=2", "name=soak")
    log = runner.folder / "soak" / "trials.jsonl"

    def at(trial: int) -> list[tuple[float, float]]:
        """Memory and processor time of the search and its workers, when so many trials have ended."""
        wait_for(lambda: log.exists() and log.read_bytes().count(b"\n") >= trial, process, timeout=3000)
        return [(memory_of(one), cpu_of(one)) for one in (process.pid, *sorted(workers_of(log.parent)))]

    begin, end = at(200), at(1990)
    ended = finish(process, timeout=600)
    assert ended.code == 0, ended.err
    trained = sum(line["seconds"] for line in read_lines(log)[200:1990])
    with capsys.disabled():
        for name, (before, cpu), (after, later) in zip(("search", "worker", "worker"), begin, end, strict=True):
            print(
                f"{name}: {before:.0f} -> {after:.0f} MB, {1000 * (later - cpu) / 1790:.1f} ms of processor per trial"
            )
        print(f"trainings: {1000 * trained / 1790:.1f} ms per trial")
    for (before, _), (after, _) in zip(begin, end, strict=True):
        assert after - before < 40, (begin, end)  # MB; a leak of one model per trial would be more
