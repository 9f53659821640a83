"""The peak memory of a call, beyond the memory in use before it, measured in a separate process.

The kernel's high-water mark of resident memory counts all allocations: of torch, BLAS and an extension's malloc. To
make it exact, malloc is set to map larger blocks separately, so that freed blocks return to the system at once, and the
mark is reset right before the call. Only Linux supports this.
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
WARM_UP_STEPS = 2  # loads libraries and starts threads, but leaves no buffer of the measured size


def reason_against() -> str | None:
    """Return why peak memory cannot be measured on this system; None if it can."""
    if RESET.exists() and hasattr(ctypes.CDLL(None), "mallopt"):
        return None
    return "only Linux with glibc can report and reset a process's peak memory"


def give_back_at_once() -> None:
    """Make malloc return freed memory to the system at once, except small blocks."""
    libc = ctypes.CDLL(None)
    for parameter, value in ((MMAP_THRESHOLD, 1 << 16), (TRIM_THRESHOLD, 0), (TOP_PAD, 0)):
        if libc.mallopt(parameter, value) != 1:
            raise OSError(f"mallopt({parameter}, {value}) failed")


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the peak resident memory of a call in bytes, minus the resident memory before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")  # resets the peak to the present resident memory: proc(5)
    before = _status_bytes("VmRSS")
    result = call()  # kept alive, so that its gradients count
    peak = _status_bytes("VmHWM")
    del result
    return peak - before


def peak_mib(setting: Setting, peer: str) -> float:
    """Return the peak memory in MiB of a backend or nn.LSTM in a setting, with gradients of weights and input."""
    torch.set_num_threads(1)
    give_back_at_once()
    model = torch.nn.LSTM(setting.I, setting.H) if peer == LSTM else make_chain(setting, peer)
    make_call(model, setting._replace(T=WARM_UP_STEPS))()
    return peak_bytes(make_call(model, setting)) / 2**20


def outputs_mib(setting: Setting) -> float:
    """Return the size in MiB of the outputs of all ops at all steps: T B H values per op, 4 bytes each."""
    return setting.T * setting.B * setting.H * sum(map(len, setting.ops)) * 4 / 2**20


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text("ascii"), re.MULTILINE)
    if found is None:
        raise OSError(f"{STATUS} has no line {name}")
    return 1024 * int(found[1])
