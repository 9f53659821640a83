"""The backends that run a cell, chain or DAG, and what each supports.

    reference   plain autograd, step by step: defines the correct result; has second derivatives
    native      the engine's loop in C: float32 and float64 on the CPU
    triton      the engine's loop in kernels for CUDA devices, replayed as a CUDA graph: chains only
    torch       the engine's loop in PyTorch calls: any device, always available; has a loop for chains with bit widths

`QUANTISES` lists who runs cells with bit widths: chains on `torch`, to the bits of `reference` at one width; DAGs on
`reference` alone.

`auto` chooses the first backend of `AUTO`, or of `QUANTISES`, that supports the cell. It warns once if that is not the
fastest backend of the device.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from grownas.cells import (
    dag_native_loop,
    dag_sequence,
    dag_supernet_native_loop,
    dag_supernet_sequence,
    dag_supernet_torch_loop,
    dag_torch_loop,
    native_loop,
    native_pass,
    quantised_sequence,
    reference,
    sequence,
    torch_loop,
    triton_loop,
)
from grownas.cells.dag_plan import NONE, DagPlan, DagTensors
from grownas.cells.node import Node, Tracer
from grownas.errors import BackendError
from grownas.genotype import DagGenotype

Run = Callable[[Sequence[Node], Sequence[Tensor], Tensor, Tensor], Tensor]
RunDag = Callable[..., Tensor]
RunDagSupernet = Callable[[DagPlan, DagTensors, Tensor, Tensor], tuple[Tensor, Tensor | None]]
MakeTracer = Callable[[Sequence[Node], Sequence[Tensor]], Tracer]
MakeVJP = Callable[[Sequence[Node], Sequence[Tensor], Tensor, Tensor], tuple[Tensor, sequence.Pullback] | None]
MakePass = Callable[[Sequence[Node], int, int], native_pass.Pass | None]
Multiply = Callable[[Tensor, Tensor, Tensor], object]


class Backend(NamedTuple):
    """A way to run a cell.

    Attributes:
        run: returns the states; see `reference.run`.
        unsupported: from device, dtype and activations, returns why the backend cannot run; None if it can.
        tracer: returns the function that computes the nodes' inputs and the loss's gradients at the nodes; see
            `reference.tracer`.
        multiply: see `sequence.Loop`.
        run_dag: returns the states of a derived DAG; see `reference.run_dag`. None if it runs chains only.
        run_dag_supernet: returns the states of a DAG supernet and the moments seen; see `reference.run_dag_supernet`.
            None likewise.
        vjp: returns the states and the function of their gradient without autograd, see `sequence.vjp`; None if only
            autograd can.
        prepare: returns what `vjp` computes, for windows of one shape, see `native_pass.prepare`; None if it cannot.
        run_quantised: as `run`, for chains with bit widths; None if it has no quantised products.
    """

    run: Run
    unsupported: Callable[[torch.device, torch.dtype, set[str]], str | None]
    tracer: MakeTracer = reference.tracer
    multiply: Multiply = torch_loop.multiply
    run_dag: RunDag | None = None
    run_dag_supernet: RunDagSupernet | None = None
    vjp: MakeVJP | None = None
    prepare: MakePass | None = None
    run_quantised: Run | None = None


def _always(device: torch.device, dtype: torch.dtype, activations: set[str]) -> None:
    return None


def _tracer(loop: sequence.Loop, nodes: Sequence[Node], shares: Sequence[Tensor]) -> Tracer:
    make = reference.tracer if is_quantised(nodes) else functools.partial(sequence.tracer, loop)
    return make(nodes, shares)


def is_quantised(nodes: Sequence[Node]) -> bool:
    """Return whether a chain has bit widths."""
    return any(node.is_quantised for node in nodes)


def _engine(
    loop: sequence.Loop,
    unsupported: Callable[[torch.device, torch.dtype, set[str]], str | None],
    dag: dag_sequence.DagLoop | None = None,
    supernet: dag_supernet_sequence.SupernetLoop | None = None,
    prepare: MakePass | None = None,
) -> Backend:
    sequence.LOOPS[loop.name] = loop
    if dag is not None:
        dag_sequence.LOOPS[dag.name] = dag
    if supernet is not None:
        dag_supernet_sequence.LOOPS[supernet.name] = supernet
    run, tracer = functools.partial(sequence.run, loop), functools.partial(_tracer, loop)
    return Backend(
        run,
        unsupported,
        tracer,
        loop.multiply,
        dag and functools.partial(dag_sequence.run, dag),
        supernet and functools.partial(dag_supernet_sequence.run, supernet),
        functools.partial(sequence.vjp, loop),
        prepare,
    )


BACKENDS: dict[str, Backend] = {
    "reference": Backend(
        reference.run,
        _always,
        run_dag=reference.run_dag,
        run_dag_supernet=reference.run_dag_supernet,
        run_quantised=reference.run,
    ),
    "torch": _engine(torch_loop.LOOP, _always, dag_torch_loop.LOOP, dag_supernet_torch_loop.LOOP)._replace(
        run_quantised=quantised_sequence.run
    ),
    "native": _engine(
        native_loop.LOOP,
        native_loop.unsupported,
        dag_native_loop.LOOP,
        dag_supernet_native_loop.LOOP,
        native_pass.prepare,
    ),
    "triton": _engine(triton_loop.LOOP, triton_loop.unsupported),
}
AUTO = {"cpu": ("native", "torch"), "cuda": ("triton", "torch")}  # by device, fastest first; torch on other devices
QUANTISES = {"chain": ("torch", "reference"), "dag": ("reference",)}  # with bit widths, fastest first, on any device


def check_name(name: str) -> str:
    """Return the name if it is a backend's name or `auto`.

    Raises:
        ValueError: the name is unknown.
    """
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose auto, {', '.join(BACKENDS)}")
    return name


def choose(name: str, nodes: Sequence[Node]) -> str:
    """Return the name of the backend for a chain on its present device; `auto` is resolved.

    Raises:
        BackendError: the named backend cannot run this chain.
    """
    return _choose_chain(name, nodes, is_quantised(nodes))


def _choose_chain(name: str, nodes: Sequence[Node], quantised: bool) -> str:
    weight = nodes[0].W_x
    pick = _choose.__wrapped__ if torch.compiler.is_compiling() else _choose  # a compiler warns of caches
    activations = tuple([node.plan.activations for node in nodes])
    return pick(name, weight.device, weight.dtype, activations, "chain", quantised)


def runner(name: str, nodes: Sequence[Node]) -> Run:
    """Return the function that runs a chain, with or without bit widths, on the backend of a name; see `choose`.

    Raises:
        BackendError: the named backend cannot run this chain.
    """
    quantised = is_quantised(nodes)
    backend = BACKENDS[_choose_chain(name, nodes, quantised)]
    run = backend.run_quantised if quantised else backend.run
    assert run is not None  # `_choose` refuses the others
    return run


def choose_dag(name: str, genotype: DagGenotype, weight: Tensor, *, quantised: bool = False) -> str:
    """Return the name of the backend for a DAG, on the device of one of its weights; `auto` is resolved.

    Raises:
        BackendError: the named backend cannot run this DAG.
    """
    used = ("tanh", "sigmoid", *(node.activation for node in genotype.nodes))  # tanh: the input node; sigmoid: gates
    pick = _choose.__wrapped__ if torch.compiler.is_compiling() else _choose  # a compiler warns of caches
    return pick(name, weight.device, weight.dtype, (used,), "dag", quantised)


def choose_dag_supernet(name: str, plan: DagPlan, weight: Tensor) -> str:
    """Return the backend for a DAG supernet on the device of `weight`; `auto` is resolved.

    Raises:
        BackendError: the named backend cannot run this supernet.
    """
    used = ("tanh", "sigmoid", *sorted({op for ops in plan.ops for op in ops} - {NONE}))  # the input node's, the gates'
    pick = _choose.__wrapped__ if torch.compiler.is_compiling() else _choose  # a compiler warns of caches
    return pick(name, weight.device, weight.dtype, (used,), "dag")


@functools.lru_cache
def _choose(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    activations: tuple[tuple[str, ...], ...],
    kind: Literal["chain", "dag"] = "chain",
    quantised: bool = False,
) -> str:
    used = {activation for node in activations for activation in node}

    def unsupported(backend: str) -> str | None:
        if kind == "dag" and BACKENDS[backend].run_dag is None:
            return "it has no loop for the DAG backbone"
        if quantised and backend not in QUANTISES[kind]:
            return "it has no quantised products"
        return BACKENDS[backend].unsupported(device, dtype, used)

    if name != "auto":
        reason = unsupported(name)
        if reason is not None:
            raise BackendError(f"backend {name!r} cannot run this {kind}: {reason}; backend='auto' finds one that can")
        return name
    best, *others = QUANTISES[kind] if quantised else AUTO.get(device.type, ("torch",))
    reason = unsupported(best)
    if reason is None:
        return best
    found = next(other for other in others if unsupported(other) is None)
    warnings.warn(f"backend {best!r} cannot run this {kind}: {reason}; {found!r} runs it, more slowly", stacklevel=2)
    return found
