"""The most memory that a call takes beyond what was there before it, measured in a process of its own.

The kernel's high-water mark of resident memory sees whoever allocates: torch, BLAS, an extension's own malloc. For it
to be exact, what was freed must go back to the system at once, so malloc is told to map what is larger than some pages
on its own, and the mark is set back right before the call. Only Linux can do that.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

from grownas.bench.peers import make_call, make_chain
from grownas.bench.settings import LSTM, Setting

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2  # names of mallopt's parameters in malloc.h
WARM_UP_STEPS = 2  # libraries are loaded and threads started, but no buffer of the measured size is left over


def reason_against() -> str | None:
    """Return why memory cannot be measured here; None if it can."""
    if RESET.exists() and hasattr(ctypes.CDLL(None), "mallopt"):
        return None
    return "only Linux with glibc tells a process's peak memory and lets it be set back"


def give_back_at_once() -> None:
    """Let malloc return to the system whatever is freed, but for small blocks."""
    libc = ctypes.CDLL(None)
    for parameter, value in ((MMAP_THRESHOLD, 1 << 16), (TRIM_THRESHOLD, 0), (TOP_PAD, 0)):
        if libc.mallopt(parameter, value) != 1:
            raise OSError(f"mallopt({parameter}, {value}) was refused")


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the bytes of resident memory that a call takes at most beyond those resident before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")  # the peak is what is resident now: proc(5)
    before = _status_bytes("VmRSS")
    result = call()  # held, so that its gradients count at their peak
    peak = _status_bytes("VmHWM")
    del result
    return peak - before


def peak_mib(setting: Setting, peer: str) -> float:
    """Return the MiB that a backend or nn.LSTM takes in a setting, gradients of weights and input among them."""
    torch.set_num_threads(1)
    give_back_at_once()
    model = torch.nn.LSTM(setting.I, setting.H) if peer == LSTM else make_chain(setting, peer)
    make_call(model, setting._replace(T=WARM_UP_STEPS))()
    return peak_bytes(make_call(model, setting)) / 2**20


def outputs_mib(setting: Setting) -> float:
    """Return the MiB of the outputs of all ops at all steps: T B H values a node and op, 4 bytes each."""
    return setting.T * setting.B * setting.H * sum(map(len, setting.ops)) * 4 / 2**20


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text("ascii"), re.MULTILINE)
    if found is None:
        raise OSError(f"{STATUS} does not say {name}")
    return 1024 * int(found[1])
