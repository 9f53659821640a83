"""Measures all rows. `settings.py` defines sizes and limits."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grownas.bench import first, memory, results, settings, table, timing
from grownas.bench.dag_peers import make_dag_peers, our_dag
from grownas.bench.figures import CHOSEN, Figure, Must, Row
from grownas.bench.peers import Call, make_call, make_chain, make_peers, ours, usable
from grownas.bench.picture import choose_drawer
from grownas.bench.results import Results
from grownas.bench.settings import FLOOR, LSTM, DagSetting, Setting
from grownas.bench.timing import Effort, measure, threads
from grownas.errors import DataError

NO_GPU = "torch sees no GPU"
ONE, TWO = "1 thread", "2 threads"
PROBE, WORTH = 512, 1.5  # two free processors multiply matrices of this size at least 1.5 times as fast as one
LATER = "later"


def plan(*, quick: bool = False) -> dict[str, Callable[[], Row]]:
    """Return the functions that measure the rows, by row name, in the order of the table."""
    effort = timing.QUICK if quick else timing.FULL
    processes = 1 if quick else 3
    growths = settings.GROWTH_QUICK if quick else settings.GROWTH
    dags = settings.DAGS_QUICK if quick else settings.DAGS
    todo: list[tuple[str, Callable[..., Row], Setting | DagSetting, Any]] = [
        *(("", speed, one, effort) for one in settings.SPEED),
        *(("", dag_speed, one, effort) for one in dags),
        *(("growth of cost, ", growth, one, effort) for one in growths),
        *(("threads, ", two_threads, one, effort) for one in settings.THREADS),
        *(("first call, ", first_call, one, processes) for one in settings.FIRST),
        ("peak memory, ", peak_memory, settings.MEMORY, processes),
        *(("", speed, one, effort) for one in settings.GPU),
    ]
    return {f"{what}{one}": partial(make, f"{what}{one}", one, how) for what, make, one, how in todo}


def rows(*, quick: bool = False, only: str = "") -> Iterator[Row]:
    """Measure and yield the rows whose name contains `only`, on one thread except the rows for two threads.

    Raises:
        DataError: no row name contains `only`.
    """
    chosen = {name: make for name, make in plan(quick=quick).items() if only in name}
    if not chosen:
        raise DataError(f"no row of the benchmark has {only!r} in its name; it has {'; '.join(plan())}")
    with threads(1):
        for make in chosen.values():
            yield make()


def run(
    say: Callable[[str], object],
    *,
    quick: bool = False,
    only: str = "",
    json: Path | None = None,
    picture: Path | None = None,
    against: Path | None = None,
) -> bool:
    """Measure the rows and report each when it is done.

    Args:
        say: called with each line of output.
        quick: take few samples and skip slow rows.
        only: measure the rows whose name contains this text.
        json: path of the results to write.
        picture: path of the picture to draw, `.svg` or `.png`.
        against: path of earlier results to compare with; read before anything is written, so it may equal `json`.

    Returns:
        False if a ratio is worse than the earlier one by more than noise, on a machine of the same kind.

    Raises:
        DataError: `against` cannot be read, `picture` has another suffix, or no row name contains `only`.
    """
    before = None if against is None else Results.load(against)
    draw = None if picture is None else choose_drawer(picture)
    machine = results.describe_machine()
    say(table.in_words(machine))
    say(table.head())
    measured = []
    for row in rows(quick=quick, only=only):
        for line in table.lines(row):
            say(line)
        measured.append(row)
    after = Results(results.now(), quick, machine, tuple(measured))
    if json is not None:
        after.save(json)
    if draw is not None:
        draw(after)
    return before is None or compare(say, before, after)


def compare(say: Callable[[str], object], before: Results, after: Results) -> bool:
    """Report ratios that are worse than in earlier results; return False if any is, on a machine of the same kind."""
    found = list(results.changes(before, after))
    slower, differences = [one for one in found if one.slower], results.differences(before, after)
    say(f"against {before.date}: {len(found)} ratios compared, {len(slower)} worse by more than noise")
    for one in slower:
        say(f"  slower: {one}")
    if differences:
        say(f"  the machines differ, so the ratios may differ too: {'; '.join(differences)}")
    return not slower or bool(differences)


def speed(name: str, setting: Setting, effort: Effort) -> Row:
    """Time the backends, nn.LSTM, nn.GRU and the floor in a setting."""
    if setting.device == "cuda" and not torch.cuda.is_available():
        return skipped(name, NO_GPU)
    figures = measure(make_peers(setting), effort, timing.CLOCKS[setting.device])
    return Row(name, "ms", figures, FLOOR, named(setting.musts, ours(setting)), setting.operations)


def dag_speed(name: str, setting: DagSetting, effort: Effort) -> Row:
    """Time a DAG supernet's backends beside the published code's way and the floor."""
    figures = measure(make_dag_peers(setting), effort, timing.CLOCKS["cpu"])
    return Row(name, "ms", figures, FLOOR, named(setting.musts, our_dag(setting)), setting.operations)


def growth(name: str, setting: Setting, effort: Effort) -> Row:
    """Time our backend in a setting and with each of its sizes doubled."""
    base = "as it is"
    peers = {base: setting} | setting.doubled()
    figures = measure({peer: _ours(one) for peer, one in peers.items()}, effort, timing.processor_seconds)
    musts = tuple(Must(base, settings.GROWTH_BAR, peer) for peer in figures if peer != base)
    return Row(name, "ms", figures, base, musts)


def two_threads(name: str, setting: Setting, effort: Effort) -> Row:
    """Time our backend on two threads and on one."""
    figures: dict[str, Figure] = {}
    reason = reason_against_two()
    if reason is None:
        figures = measure(_on_threads(_ours(setting)), effort, timing.wall_seconds)
        reason = reason_against_two()  # another process may have started meanwhile
    if reason is not None:
        return skipped(name, reason)
    return Row(name, "ms", figures, "", (Must(ONE, settings.THREADS_BAR, TWO),))


def reason_against_two() -> str | None:
    """Return why two threads cannot be compared with one on this machine; None if they can.

    If the second thread's processor is busy, the first thread waits for it at thousands of barriers.
    """
    if (os.cpu_count() or 1) < 2:
        return "the machine has one processor only"
    square = torch.randn(PROBE, PROBE)
    figures = measure(_on_threads(lambda: square @ square), timing.QUICK, timing.wall_seconds)
    gain = figures[ONE].median / figures[TWO].median
    if gain < WORTH:
        return f"the second processor is busy: a {PROBE} x {PROBE} matrix product is only {gain:.2f} x as fast on two"
    return None


def _on_threads(call: Call) -> dict[str, Call]:
    def on(number: int) -> object:
        with threads(number):
            return call()

    return {name: partial(on, number) for name, number in ((ONE, 1), (TWO, 2))}


def first_call(name: str, setting: Setting, processes: int) -> Row:
    """Time first calls of new cells on our backend, in fresh processes."""
    found = [in_process(first.first_calls, setting, ours(setting)) for _ in range(processes)]
    figures = {peer: Figure.of([ms for one in found for ms in one[peer]]) for peer in (LATER, "first", "new")}
    allowed = f"{LATER} + {settings.FIRST_BAR_MS:g} ms"
    figures[allowed] = figures[LATER].plus(settings.FIRST_BAR_MS)
    return Row(name, "ms", figures, "", tuple(Must(allowed, 1.0, peer) for peer in ("first", "new")))


def peak_memory(name: str, setting: Setting, processes: int) -> Row:
    """Measure the peak memory of each backend and nn.LSTM, without the memory of the module and the input."""
    outputs = "T B J K H x 4 bytes"
    reason = memory.reason_against()
    if reason:
        return skipped(name, reason)
    figures = {outputs: Figure.of([memory.outputs_mib(setting)])}
    for peer in [*usable(setting), LSTM]:
        figures[peer] = Figure.of([in_process(memory.peak_mib, setting, peer) for _ in range(processes)])
    musts = named((Must(outputs, settings.MEMORY_BAR),), ours(setting))
    return Row(name, "MiB", figures, outputs, musts)


def skipped(name: str, reason: str) -> Row:
    """Return a row that cannot be measured on this machine."""
    return Row(name, "", {}, "", skipped=reason)


def named(musts: tuple[Must, ...], backend: str) -> tuple[Must, ...]:
    """Return limits with `CHOSEN` replaced by a backend's name."""
    return tuple(must._replace(of=backend) if must.of == CHOSEN else must for must in musts)


def in_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a fresh process and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _ours(setting: Setting) -> Call:
    return make_call(make_chain(setting), setting)
