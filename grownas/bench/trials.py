"""How many workers a search can use: trials with the lengths of a finished search, on simulated workers.

    python -m grownas.bench.trials RUN

A search is asynchronous where a free worker takes the next trial at once: random search, and aging evolution as it was
published. It has rounds where the next trials depend on the last ones: those of SeqNAS, and the batches of a policy.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from grownas.bench.table import markdown
from grownas.runs.trials import AHEAD

TRIALS = 20_000  # of a simulated search, drawn from the measured ones
WORKERS = (1, 4, 16, 64, 256, 1024, 4096)
ROUNDS = (5, 15, 100)  # trials of a round: `per_round` of SeqNAS and its published number; a large batch
COLUMNS = (
    "limit",
    "asynchronous",
    f"{AHEAD} ahead",
    *(f"rounds of {size}" for size in ROUNDS),
    "rounds of all workers",
)


def asynchronous(lengths: Sequence[float], workers: int, *, ahead: int | None = None, each_s: float = 0.0) -> float:
    """Return how long trials take that begin in order, each as soon as a worker is free.

    Args:
        lengths: of the trials, in seconds.
        workers: number of workers.
        ahead: a trial waits until all trials have ended that are so many before it; None: it does not.
        each_s: time in which the search itself handles a trial, one after the other, in seconds.
    """
    free = [0.0] * workers  # times at which workers are free, a heap
    ended: list[float] = []  # times at which a trial and all before it have ended
    search_s = 0.0  # the search is busy until then
    for number, length in enumerate(lengths):
        begin = max(heapq.heappop(free), search_s)
        if ahead is not None and number >= ahead:
            begin = max(begin, ended[number - ahead])
        search_s = begin + each_s
        heapq.heappush(free, search_s + length)
        ended.append(max(search_s + length, ended[-1] if ended else 0.0))
    return ended[-1]


def in_rounds(lengths: Sequence[float], workers: int, size: int, *, each_s: float = 0.0) -> float:
    """Return how long trials take in rounds of `size`, each of which begins when all trials before it have ended."""
    parts = (lengths[first : first + size] for first in range(0, len(lengths), size))
    return sum(asynchronous(part, min(workers, size), each_s=each_s) for part in parts)


def straggler_limit(lengths: Sequence[float], workers: int) -> float:
    """Return a time below which no order of the trials ends: that of equal shares, or of the longest trial."""
    return max(sum(lengths) / workers, max(lengths))


def speed_ups(measured: Sequence[float], *, each_s: float = 0.0) -> list[list[float]]:
    """Return how many times as fast as one worker the `WORKERS` are: a row for each number, with columns `COLUMNS`."""
    lengths = random.Random(1).choices(measured, k=TRIALS)
    rows = list[list[float]]()
    for workers in WORKERS:
        times = [
            straggler_limit(lengths, workers),
            asynchronous(lengths, workers, each_s=each_s),
            asynchronous(lengths, workers, ahead=AHEAD * workers, each_s=each_s),
            *(in_rounds(lengths, workers, size, each_s=each_s) for size in ROUNDS),
            in_rounds(lengths, workers, workers, each_s=each_s),
        ]
        rows.append([sum(lengths) / time for time in times])
    return rows


def main(folder: Path, each_s: float = 0.0) -> None:
    """Print the table for the trials of a run folder; end with an error message if it has none."""
    file = folder / "trials.jsonl"
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    if not lines:
        sys.exit(f"{file}: no trials; give the folder of a search that trains genotypes one by one, such as evolution")
    lengths = [line["seconds"] for line in lines]
    mean, most = sum(lengths) / len(lengths), max(lengths)
    print(
        f"{len(lengths)} trials of {mean:.2f} s on average, {most:.2f} s at most; {1000 * each_s:g} ms each elsewhere"
    )
    rows = zip(WORKERS, speed_ups(lengths, each_s=each_s), strict=True)
    print(markdown(("workers", *COLUMNS), [(str(workers), *(f"{one:,.1f}" for one in row)) for workers, row in rows]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:]))
