"""The figure sees whoever allocates; each measurement has a process of its own, as in the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from grownas.bench import memory
from grownas.bench.settings import SUPERNET, Setting

MIB = 64
ALLOCATIONS = f"""
import ctypes, json, torch
from grownas.bench import memory
memory.give_back_at_once()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
size = {MIB} * 2**20
def by_an_extension():
    ctypes.memset(libc.malloc(size), 1, size)
def by_torch():
    return torch.ones(size // 4)
def for_a_while():
    torch.ones(size // 4)
def one_after_the_other():
    torch.ones(size // 4)
    torch.ones(size // 4)
def at_once():
    return torch.ones(size // 4) + torch.ones(size // 4)
def nothing():
    pass
calls = (by_an_extension, by_torch, for_a_while, one_after_the_other, at_once, nothing)
print(json.dumps({{call.__name__: memory.peak_bytes(call) / 2**20 for call in calls}}))
"""

pytestmark = pytest.mark.skipif(memory.reason_against() is not None, reason=str(memory.reason_against()))


def test_the_peak_is_what_was_allocated():
    done = subprocess.run([sys.executable, "-c", ALLOCATIONS], capture_output=True, text=True, check=True)
    peaks = json.loads(done.stdout)
    wanted = {
        "by_an_extension": 1, "by_torch": 1, "for_a_while": 1, "one_after_the_other": 1, "at_once": 3, "nothing": 0,
    }  # fmt: skip
    assert {name: round(peak / MIB, 1) for name, peak in peaks.items()} == wanted


def test_the_outputs_are_one_float_a_step_sample_unit_and_op():
    assert memory.outputs_mib(Setting("supernet", 70, 64, 300, 300, SUPERNET)) == 70 * 64 * 300 * 24 * 4 / 2**20
