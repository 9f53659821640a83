"""The engines as operators of `torch.library`, for compilers and function transforms.

`torch.compile`, `torch.export`, `torch.jit.trace`, `make_fx`, `torch.func` and fake tensors record PyTorch operators
only; they would miss what an engine writes into memory by itself. Under any of them (`is_traced`) an engine runs as one
operator with registered shapes and derivative. Otherwise it runs directly, which is faster.

The reference is no engine: each of its time steps is recorded, so a program that `torch.export` makes of it has a fixed
number of steps, and any batch size. `grownas export` writes ONNX without tracing (see `grownas.export`).

An operator's arguments are all tensors of the engine and a text with everything else, such as the cell's layout. It
returns the output and, with `keep`, the tensors that its backward pass needs. Forward-mode and second derivatives raise
RuntimeError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

PLAIN = frozenset({Tensor, nn.Parameter, nn.Buffer})
NO_SECOND = "the sequence engine has no second derivative; build the model with backend='reference'"
NO_FORWARD_MODE = "the sequence engine has no forward-mode derivative; build the model with backend='reference'"
Operator = Callable[..., list[Tensor]]
Apply = Callable[[Sequence[Tensor], str], Tensor]


class Engine(NamedTuple):
    """The functions of an operator. `inputs` begin with x and h_0; `text` describes everything that is not a tensor.

    Attributes:
        forward: maps `(inputs, text, keep)` to `[out, *kept]`, none a view of another; without `keep` to `[out]`.
        shapes: maps `(inputs, text, keep)` to the shapes of these results.
        backward: maps `(inputs, text, [out, *kept], grad)` to the gradient of each input; may overwrite `kept`.
    """

    forward: Callable[[Sequence[Tensor], str, bool], list[Tensor]]
    shapes: Callable[[Sequence[Tensor], str, bool], list[tuple[int, ...]]]
    backward: Callable[[Sequence[Tensor], str, Sequence[Tensor], Tensor], list[Tensor]]


def is_symbolic(tensors: Sequence[Tensor]) -> bool:
    """Return whether new tensors are fake or parts of a traced graph, so that they must not be cached."""
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or not PLAIN.issuperset(map(type, tensors))  # a fake tensor outside its mode
    )


def is_traced(tensors: Sequence[Tensor]) -> bool:
    """Return whether operators are recorded or a forward-mode derivative is computed: then use the operator."""
    return is_symbolic(tensors) or forward_ad._current_level >= 0


def define(name: str, engine: Engine) -> Apply:
    """Register an engine as `grownas::<name>` and `grownas::<name>_backward`; return a differentiable function."""

    def run_backward(inputs: Sequence[Tensor], text: str, kept: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
        found = engine.backward(inputs, text, [one.clone() for one in kept], grad)
        return [one.clone(memory_format=torch.contiguous_format) for one in found]  # some are views of one tensor

    schema = "(Tensor[] inputs, str text, bool keep) -> Tensor[]"
    forward = torch.library.custom_op(f"grownas::{name}", engine.forward, mutates_args=(), schema=schema)
    schema = "(Tensor[] inputs, str text, Tensor[] kept, Tensor grad) -> Tensor[]"
    backward = torch.library.custom_op(f"grownas::{name}_backward", run_backward, mutates_args=(), schema=schema)

    def fake(inputs: Sequence[Tensor], text: str, keep: bool) -> list[Tensor]:
        return [inputs[0].new_empty(shape) for shape in engine.shapes(inputs, text, keep)]

    def save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        tensors, ctx.text, _ = inputs
        ctx.count = len(tensors)
        ctx.set_materialize_grads(False)  # the kept tensors have no gradients
        ctx.save_for_backward(*tensors, *output)

    def derive(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
        if grads[0] is None:
            return [None] * ctx.count, None, None
        saved = ctx.saved_tensors  # read once: checkpointing computes it again
        inputs, kept = list(saved[: ctx.count]), list(saved[ctx.count :])
        return backward(inputs, ctx.text, kept, grads[0]), None, None

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(NO_SECOND)

    forward.register_fake(fake)
    forward.register_autograd(derive, setup_context=save)
    forward.register_vmap(_one_by_one(forward))
    backward.register_fake(lambda inputs, text, kept, grad: [one.new_empty(one.shape) for one in inputs])
    backward.register_autograd(refuse)
    backward.register_vmap(_one_by_one(backward))

    def apply(inputs: Sequence[Tensor], text: str) -> Tensor:
        if forward_ad._current_level >= 0:
            raise RuntimeError(NO_FORWARD_MODE)
        keep = torch.is_grad_enabled() and any(one.requires_grad for one in inputs)
        if torch.compiler.is_compiling():
            results = forward(list(inputs), text, keep)
        elif torch._C._functorch.peek_interpreter_stack() is not None:
            results = _Transformed.apply(forward, backward, text, *inputs)  # type: ignore[no-untyped-call]
        else:  # `torch.jit.trace` checks its trace without gradients, and the graph must be the same then
            results = forward(list(inputs), text, keep or torch._C._is_tracing())
        out: Tensor = results[0]
        return out

    return apply


def _one_by_one(operator: Operator) -> Callable[..., tuple[list[Tensor], list[int]]]:
    """Return an operator's rule for `torch.func.vmap`: one call per batch entry, since weights may differ too."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[list[Tensor], list[int]]:
        def entry(value: Any, dim: Any, i: int) -> Any:
            if isinstance(value, list | tuple):
                return [entry(one, at, i) for one, at in zip(value, dim, strict=True)]
            return value if dim is None else value.select(dim, i)

        results = [
            operator(*(entry(value, dim, i) for value, dim in zip(arguments, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        stacked = [torch.stack(parts) for parts in zip(*results, strict=True)]
        return stacked, [0] * len(stacked)

    return rule


class _Transformed(torch.autograd.Function):
    """An engine's operator under `torch.func`, which ignores the registered derivatives of operators."""

    generate_vmap_rule = True

    @staticmethod
    def forward(forward: Operator, backward: Operator, text: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(forward(list(inputs), text, True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.operator, ctx.text, *tensors = inputs
        ctx.count = len(tensors)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
        found = _TransformedBack.apply(ctx.operator, ctx.text, ctx.count, grad, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return None, None, None, *found


class _TransformedBack(torch.autograd.Function):
    """The derivative of `_Transformed`; its own derivative raises RuntimeError."""

    generate_vmap_rule = True

    @staticmethod
    def forward(operator: Operator, text: str, count: int, grad: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
        return tuple(operator(list(saved[:count]), text, list(saved[count:]), grad))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save nothing: the backward pass only raises."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(NO_SECOND)
