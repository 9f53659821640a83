"""Times peers in turn, sample by sample, so that other load on the machine affects all peers equally."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

from grownas.bench.figures import Figure

SAMPLE_S = 0.005  # least seconds per sample: a sample of a shorter call consists of several calls
Call = Callable[[], object]


class Effort(NamedTuple):
    """How long to measure: each peer takes samples for `seconds`, at least `least` and at most `most` samples."""

    seconds: float
    least: int
    most: int

    def done(self, samples: list[float]) -> float:
        """Return the fraction of its samples that a peer has taken; at least 1 when it is finished."""
        return min(len(samples) / self.least, max(len(samples) / self.most, sum(samples) / self.seconds))


FULL, QUICK = Effort(3.0, 5, 51), Effort(0.2, 2, 15)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Set torch's number of threads inside the context; restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(peers: Mapping[str, Call], effort: Effort, clock: Callable[[Call, int], float]) -> dict[str, Figure]:
    """Return each peer's milliseconds per call, after a warm-up, with torch's present number of threads.

    The next sample is always taken from the peer with the smallest fraction done, so that slow peers, which take fewer
    samples, and fast peers are sampled over the same period. Of several, one is drawn: in a fixed order a peer that
    follows one with much memory would always find the processor's cache without its data.

    Args:
        peers: the functions to time, by name.
        effort: how long to measure.
        clock: returns the seconds of a number of calls of a peer.
    """
    calls: dict[str, int] = {}
    samples: dict[str, list[float]] = {}  # seconds each
    for name, peer in peers.items():
        peer()  # warm-up: first calls allocate and choose kernels; too short samples also serve as warm-up
        calls[name] = 1
        while (taken := clock(peer, calls[name])) < SAMPLE_S:
            calls[name] *= 2
        samples[name] = [taken]

    draw = random.Random(0)

    def done(name: str) -> tuple[float, float]:
        return effort.done(samples[name]), draw.random()

    while done(least := min(samples, key=done))[0] < 1:
        samples[least].append(clock(peers[least], calls[least]))
    return {name: Figure.of([1e3 * taken / calls[name] for taken in samples[name]]) for name in samples}


def wall_seconds(call: Call, calls: int) -> float:
    """Return the wall time of some calls, in seconds."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def processor_seconds(call: Call, calls: int) -> float:
    """Return the processor time of some calls in seconds, of all threads.

    On one thread it is the wall time without the time in which other processes used the processor.
    """
    start = time.process_time()
    for _ in range(calls):
        call()
    return time.process_time() - start


def cuda_seconds(call: Call, calls: int) -> float:
    """Return the GPU time of some calls in seconds, from the launch of the first to the end of the last."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


CLOCKS: dict[str, Callable[[Call, int], float]] = {"cpu": processor_seconds, "cuda": cuda_seconds}  # by device
