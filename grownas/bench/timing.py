"""Times peers in turn, repeat by repeat, so that whatever else the machine does meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

from grownas.bench.figures import Figure

SAMPLE_S = 0.005  # seconds that one sample takes at least: shorter ones are read off several calls
Call = Callable[[], object]


class Effort(NamedTuple):
    """How long is measured: each peer takes samples for some seconds, but at least `least` and at most `most`."""

    seconds: float
    least: int
    most: int

    def done(self, samples: list[float]) -> float:
        """Return the share of its samples that a peer has taken; above 1 when it needs no more."""
        return min(len(samples) / self.least, max(len(samples) / self.most, sum(samples) / self.seconds))


FULL, QUICK = Effort(3.0, 5, 51), Effort(0.2, 2, 15)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use a number of threads, and what it used before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(peers: Mapping[str, Call], effort: Effort, clock: Callable[[Call, int], float]) -> dict[str, Figure]:
    """Return each peer's milliseconds a call, after a warm-up, with as many threads as torch uses now.

    The next sample is always of the peer that is least far, so that a slow one, which takes fewer, and a quick one
    spread theirs over the same time.

    Args:
        peers: what is timed, by name.
        effort: how long.
        clock: returns the seconds that some calls of a peer take.
    """
    calls: dict[str, int] = {}
    samples: dict[str, list[float]] = {}  # seconds each
    for name, peer in peers.items():
        peer()  # warm-up, as are samples that are too short: first calls allocate and choose kernels
        calls[name] = 1
        while (taken := clock(peer, calls[name])) < SAMPLE_S:
            calls[name] *= 2
        samples[name] = [taken]

    def done(name: str) -> float:
        return effort.done(samples[name])

    while done(least := min(samples, key=done)) < 1:
        samples[least].append(clock(peers[least], calls[least]))
    return {name: Figure.of([1e3 * taken / calls[name] for taken in samples[name]]) for name in samples}


def wall_seconds(call: Call, calls: int) -> float:
    """Return the seconds that some calls take."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def processor_seconds(call: Call, calls: int) -> float:
    """Return the seconds of processor time that some calls take, of all threads.

    On one thread that is how long they take, less the time in which other processes had the processor.
    """
    start = time.process_time()
    for _ in range(calls):
        call()
    return time.process_time() - start


def cuda_seconds(call: Call, calls: int) -> float:
    """Return the seconds that some calls take on the GPU, from the first's launch to the last's end."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


CLOCKS: dict[str, Callable[[Call, int], float]] = {"cpu": processor_seconds, "cuda": cuda_seconds}  # by device
