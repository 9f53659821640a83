"""The time loop of a chain on a GPU: per node and step one matrix product and one kernel. `sequence` explains the data.

    forward    u = s W_h; kernel: A += u, Q = u, all ops, their mixture, the gate               per node and step
    backward   kernel: the ops again, A and Q become gradients, D = [A | Q]; g = D W_h^T        in reverse order

The launches of so many small calls would take most of the time. A loop that runs a second time with the same plans and
sizes is therefore recorded as a CUDA graph with its own buffers, and replayed from then on with one launch: its inputs
are copied into the buffers, its results out of them. If recording fails, a warning says so once, and the loop runs call
by call.

Triton is installed with PyTorch for CUDA, and imported at the first use of this backend. Triton's interpreter runs the
kernels on the CPU. With it the tests check the values and gradients of the loops and the copying around a recorded
loop; they also compile the kernels for GPUs, which needs no GPU. The compiled kernels and `_capture` have never run on
a GPU, and no speed was measured.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas.cells.plan import Plan, make_plan
from grownas.cells.sequence import Buffers, Loop, NodeGradients, Packed, columns
from grownas.cells.torch_loop import multiply
from grownas.genotype import Op
from grownas.ops import kernel_codes, without_kernel

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HEIGHT, WIDTH = 4, 32  # streams and units of a kernel's program
GRAPHS_KEPT = 8  # most recorded loops, each with its own buffers; the least recently used one is removed
KEYS_KEPT = 64  # most keys of loops that ran before


def unsupported(device: torch.device, dtype: torch.dtype, activations: set[str]) -> str | None:
    """Return why this backend cannot run a chain; None if it can."""
    try:
        kernels = _kernels()
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    runs_on = "cpu" if kernels.INTERPRETED else "cuda"
    if device.type != runs_on:
        why = ", where triton interprets its kernels" if kernels.INTERPRETED else ""
        return f"it runs on {runs_on}{why}, not on {device.type}"
    if dtype not in DTYPES:
        return f"it has no kernel for {str(dtype).removeprefix('torch.')}"
    unknown = without_kernel(activations, kernels.CODES)
    if unknown:
        return f"it has no kernel for {', '.join(unknown)}"
    return None if runs_on == "cpu" else _try_out(device, dtype)


def forward(plans: Sequence[Plan], packed: Sequence[Packed], buffers: Buffers, h_0: Tensor) -> None:
    """Run the loop forward; see `Loop`."""
    _run(_forward, plans, Arguments(packed, buffers, h_0))


def backward(
    plans: Sequence[Plan], packed: Sequence[Packed], buffers: Buffers, h_0: Tensor, grad: Tensor
) -> tuple[Tensor, list[NodeGradients]]:
    """Run the loop backward; see `Loop`."""
    dh_0, *sums = _run(_backward, plans, Arguments(packed, buffers, h_0, grad))
    return dh_0, [NodeGradients(*sums[i : i + 3]) for i in range(0, len(sums), 3)]


LOOP = Loop("triton", forward, backward, multiply)


class Arguments(NamedTuple):
    """The arguments of a loop; `grad` for the backward loop only."""

    packed: Sequence[Packed]
    buffers: Buffers
    h_0: Tensor
    grad: Tensor | None = None

    def reads(self) -> list[Tensor]:
        """Tensors that the loop reads: all weights except W_x, h_0, and A; the backward loop reads all buffers."""
        own = [tensor for node in self.packed for tensor in node[1:]] + [self.h_0, self.buffers.A]
        return own if self.grad is None else [*own, self.grad, *self._filled()]

    def writes(self) -> list[Tensor]:
        """Tensors that the loop writes."""
        filled = self._filled()
        return [self.buffers.A, *(filled if self.grad is None else filled[:1])]

    def _filled(self) -> list[Tensor]:
        """Return the tensors that the forward loop fills, Q first."""
        _, Q, states, mixed = self.buffers
        return [tensor for tensor in (Q, *states, *mixed) if tensor is not None]

    def like(self) -> Arguments:
        """Return arguments of the same shapes in new memory, contiguous and uninitialised; W_x is empty."""

        def new(tensor: Tensor | None) -> Any:
            return None if tensor is None else torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)

        packed = [Packed(node.W_x.new_empty(0), *map(new, node[1:])) for node in self.packed]
        A, Q, states, mixed = self.buffers
        buffers = Buffers(new(A), new(Q), [new(one) for one in states], [new(one) for one in mixed])
        return Arguments(packed, buffers, new(self.h_0), new(self.grad))


Body = Callable[[Sequence[Plan], Arguments], list[Tensor]]  # returns the results that are not in the buffers


# ------------------------------------------------------------------------------------------------------ the loops ----


class _Node(NamedTuple):
    """Arguments of a node's kernels that are the same at every step."""

    W_h: Tensor  # (H, blocks*H)
    u: Tensor  # (B, blocks*H), scratch
    mixture: tuple[Tensor, ...]  # biases and shares
    sizes: tuple[int, ...]
    constants: dict[str, Any]


def _forward(plans: Sequence[Plan], arguments: Arguments) -> list[Tensor]:
    (A, Q, states, mixed), h_0 = arguments.buffers, arguments.h_0.contiguous()
    nodes, kernel = _nodes(plans, arguments), _kernels().node_forward[_grid(h_0)]
    for t in range(len(A)):
        for j, node in enumerate(nodes):
            s, t_s = _before(states, h_0, j, t)
            torch.mm(s[t_s], node.W_h, out=node.u)
            kernel(A, Q, node.u, s, states[j], mixed[j], *node.mixture, t, t_s, *node.sizes, **node.constants)
    return []


def _backward(plans: Sequence[Plan], arguments: Arguments) -> list[Tensor]:
    (A, Q, states, mixed), h_0 = arguments.buffers, arguments.h_0.contiguous()
    assert arguments.grad is not None
    grad, carried, J, H = arguments.grad.contiguous(), torch.zeros_like(h_0), len(plans), h_0.shape[1]
    nodes, grid = _nodes(plans, arguments), _grid(h_0)
    kernel, real = _kernels().node_backward[grid], torch.promote_types(h_0.dtype, torch.float32)
    rows = [[len(node.b_x), len(node.b_h), len(node.shares)] for node in arguments.packed]
    sums = [torch.zeros(grid[0], sum(one), H, dtype=real, device=h_0.device) for one in rows]
    for t in range(len(A) - 1, -1, -1):
        for j in range(J - 1, -1, -1):
            node, (s, t_s) = nodes[j], _before(states, h_0, j, t)
            of_step = grad if j == J - 1 else None
            tensors = (A, Q, node.u, carried, of_step, s, mixed[j], *node.mixture, sums[j])
            kernel(*tensors, t, t_s, *node.sizes, **node.constants)
            if plans[j].gate:
                carried.addmm_(node.u, node.W_h.t())
            else:
                torch.mm(node.u, node.W_h.t(), out=carried)
    results = [carried]
    for own, split in zip(sums, rows, strict=True):
        b_x, b_h, shares = torch.split(own.sum(0).to(h_0.dtype), split)
        results += [b_x, b_h, shares.sum(1)]
    return results


def _before(states: Sequence[Tensor], h_0: Tensor, j: int, t: int) -> tuple[Tensor, int]:
    """Return the states that node j reads at step t: a tensor, and the step in it."""
    if j:
        return states[j - 1], t
    return (states[-1], t - 1) if t else (h_0.unsqueeze(0), 0)


def _nodes(plans: Sequence[Plan], arguments: Arguments) -> list[_Node]:
    (A, Q, _, _), (B, H) = arguments.buffers, arguments.h_0.shape
    # One warp: several warps might repeat each other's reads after a write, and no sum crosses warps.
    launch = {"BLOCK_B": _height(B), "BLOCK_H": WIDTH, "num_warps": 1, "enable_fp_fusion": True}
    rows = A.shape[2], 0 if Q is None else Q.shape[2]
    found = []
    for plan, node, (in_A, in_Q) in zip(plans, arguments.packed, columns(plans, H), strict=True):
        W_h, *mixture = (tensor.contiguous() for tensor in node[1:])
        u, sizes = W_h.new_empty(B, plan.blocks * H), (B, H, *rows, in_A.start, in_Q.start)
        found.append(_Node(W_h.flatten(1), u, tuple(mixture), sizes, {**_constants(plan), **launch}))
    return found


def _constants(plan: Plan) -> dict[str, Any]:
    """Return the compile-time constants of a node's kernels; see `triton_pointwise`."""
    ops, projection = range(len(plan.order)), plan.projection
    return {
        "OPS": len(ops),
        "ACTIVATIONS": tuple(kernel_codes(plan.activations)),
        "PROJECTION": projection,
        "NEW": (*(k in (0, plan.additive) or projection[k] != projection[k - 1] for k in ops), True),
        "ADDITIVE": plan.additive,
        "GATE": plan.gate,
        "SUMMED": plan.summed,
        "BLOCKS": plan.blocks,
    }


def _height(B: int) -> int:
    """Return the number of streams per kernel program, a power of two."""
    return min(HEIGHT, 1 << (B - 1).bit_length()) if B else 1


def _grid(h_0: Tensor) -> tuple[int, int]:
    B, H = h_0.shape
    return -(-B // _height(B)), -(-H // WIDTH)


def _kernels() -> Any:
    from grownas.cells import triton_pointwise

    return triton_pointwise


# ---------------------------------------------------------------------------------------------- recorded loops ----


class _Recording:
    """A recorded loop with its own buffers; `play` runs it on arguments with the same plans and sizes."""

    def __init__(self, loop: Body, plans: Sequence[Plan], arguments: Arguments, capture: Capture) -> None:
        # Ordinary tensors even under inference mode: later calls may be outside it.
        with torch.inference_mode(False), torch.no_grad():
            self._own = arguments.like()
            torch._foreach_copy_(self._own.reads(), arguments.reads())
            loop(plans, self._own)  # compiles the kernels, which is impossible while recording
            self._play, self._results = capture(lambda: loop(plans, self._own))

    def play(self, arguments: Arguments) -> list[Tensor]:
        torch._foreach_copy_(self._own.reads(), arguments.reads())
        self._play()
        torch._foreach_copy_(arguments.writes(), self._own.writes())
        return [result.clone() for result in self._results]


class Recorder:
    """Runs loops: directly the first time, from a recording from the second time on.

    Args:
        capture: records a call of a function without arguments; returns a function that replays it, and the tensors
            that the call returned. A replay updates these tensors in place.
    """

    def __init__(self, capture: Capture) -> None:
        """See the class."""
        self._capture, self._lock, self._has_warned = capture, threading.Lock(), False
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._seen: OrderedDict[Hashable, bool] = OrderedDict()  # whether it may be recorded

    def run(self, loop: Body, plans: Sequence[Plan], arguments: Arguments) -> list[Tensor]:
        """Run a loop. A lock serialises threads, since they share the buffers of a recording."""
        key = _key(loop, plans, arguments)
        with self._lock:
            if key not in self._recordings and self._may_record(key):
                self._record(key, loop, plans, arguments)
            if key in self._recordings:
                self._recordings.move_to_end(key)
                return self._recordings[key].play(arguments)
        return loop(plans, arguments)

    def _may_record(self, key: Hashable) -> bool:
        """Return whether a loop ran before and can be recorded; remember that it ran."""
        known = self._seen.get(key)
        self._seen[key] = known is None or known
        self._seen.move_to_end(key)
        if len(self._seen) > KEYS_KEPT:
            self._seen.popitem(last=False)
        return bool(known)

    def _record(self, key: Hashable, loop: Body, plans: Sequence[Plan], arguments: Arguments) -> None:
        try:
            recording = _Recording(loop, plans, arguments, self._capture)
        except RuntimeError as error:  # also out of memory and CUDA errors
            self._seen[key] = False
            if not self._has_warned:
                self._has_warned = True
                what = "backend 'triton' could not record its loop as a CUDA graph"
                warnings.warn(f"{what}: {error}; it runs call by call, more slowly", stacklevel=2)
            return
        del self._seen[key]
        self._recordings[key] = recording
        if len(self._recordings) > GRAPHS_KEPT:
            self._recordings.popitem(last=False)


Capture = Callable[[Callable[[], list[Tensor]]], tuple[Callable[[], None], list[Tensor]]]


def _key(loop: Body, plans: Sequence[Plan], arguments: Arguments) -> Hashable:
    """Return everything that a recording depends on, except the addresses and the values of its tensors."""
    A, Q, _, _ = arguments.buffers
    stream = torch.cuda.current_stream(A.device).cuda_stream if A.is_cuda else 0  # streams do not share buffers
    precision = torch.backends.cuda.matmul.fp32_precision
    return loop, tuple(plans), A.shape, arguments.h_0.shape, A.dtype, A.device, Q is None, stream, precision


def _capture(body: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    """Record as a CUDA graph; see `Recorder`. Other threads, such as a data loader, may use CUDA at the same time."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with (
        torch.cuda.stream(torch.cuda.current_stream()),  # PyTorch does not restore it if a recording fails
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        results = body()
    return graph.replay, results


RECORDER = Recorder(_capture)


def _run(loop: Body, plans: Sequence[Plan], arguments: Arguments) -> list[Tensor]:
    if not arguments.h_0.is_cuda:
        return loop(plans, arguments)
    with torch.cuda.device(arguments.h_0.device):  # Triton and graphs use the current device
        if not arguments.h_0.numel() or torch.cuda.is_current_stream_capturing():  # then part of a larger graph
            return loop(plans, arguments)
        return RECORDER.run(loop, plans, arguments)


@functools.lru_cache
def _try_out(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why no kernel can be compiled and run on a device, such as an old GPU or a missing C compiler."""
    plan = make_plan([Op("add", "tanh")], [0], highway=False)
    one = torch.zeros(1, 1, 1, dtype=dtype, device=device)
    arguments = Arguments([Packed(one, one, one[0], one[0, :0], one[0, 0])], Buffers(one, None, [one], [None]), one[0])
    try:
        _run(_forward, [plan], arguments)
    except Exception as error:  # any failure: another backend can run the chain, and the message gives the reason
        return f"its kernels cannot be compiled for {device} ({error})"
    return None
