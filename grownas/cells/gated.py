"""`nn.LSTM` and `nn.GRU` of one layer on the CPU, with time loops in C (`native/gated.h`).

At the sizes of series PyTorch's GRU takes several times longer than its LSTM, and both spend most of their time in
calls. With the gates [i | f | g | o] of an LSTM and [r | z | n] of a GRU, each H columns wide:

    before      A = x W_ih^T                          one product for all steps
    forward     LSTM  A_t = gates of A_t + h W_hh^T + b;  c' = f c + i g;  h' = o tanh(c')
                GRU   Q_t = h W_hn^T + b_hn;  r, z of A_t + h W_hh^T + b;  n = tanh(A_t + b_in + r Q_t);
                      h' = n + z (h - n)
    backward    A_t and Q_t := gradients of what the gates were applied to, in place, and of Q_t
    after       dW_ih = A^T x,  dx = A W_ih,  dW_hh = [A | or A of r and z, and Q]^T S       S: states before all steps

b is the sum of both biases. Kept between forward and backward: A, Q or the cells c, and the states. The loops run in
float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from grownas.cells import native_loop
from grownas.cells.native_loop import address, multiply
from grownas.cells.operators import is_traced
from grownas.cells.sequence import first_only, is_repeatable

NO_SECOND = "LSTM and GRU in C have no second derivative; use those of torch.nn"
State = TypeVar("State")
VJP = tuple[Tensor, State, Callable[[Tensor], None]]


class LSTM(nn.LSTM):
    """`nn.LSTM` of one layer; computed in C on the CPU, and by PyTorch elsewhere, when traced and under autocast.

    Parameters, their names, draws and the results are those of `nn.LSTM`, up to rounding. Second derivatives are not
    available in C: they raise an error.
    """

    def __init__(self, input_size: int, hidden_size: int, device: str | None = None) -> None:
        """Draw the parameters as PyTorch does."""
        super().__init__(input_size, hidden_size, device=device)

    def forward(  # type: ignore[override]  # sequences are not packed here
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map x `(T, B, I)` and a state h, c `(1, B, H)`, zeros if None, to outputs `(T, B, H)` and the last state."""
        if not _runs_in_c(self, x, *(state or ())):
            return super().forward(x, state)
        h_0, c_0 = state or (x.new_zeros(1, x.shape[1], self.hidden_size),) * 2
        out, cell = _Gated.apply(x, h_0[0], c_0[0], *_weights(self))  # type: ignore[no-untyped-call]
        return out, (out[-1:].clone(), cell.unsqueeze(0))

    @torch.no_grad()
    def vjp(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> VJP[tuple[Tensor, Tensor]] | None:
        """Return the results of `forward`, without autograd, and a function of the outputs' gradient `(T, B, H)`.

        It sets the gradients of all parameters; call it once. None if PyTorch computes the results.
        """
        if not _runs_in_c(self, x, *(state or ())):
            return None
        h_0, c_0 = state or (x.new_zeros(1, x.shape[1], self.hidden_size),) * 2
        kept = _forward(x, h_0[0], c_0[0], *_weights(self))
        return kept.out, (kept.out[-1:].clone(), kept.side[-1:].clone()), partial(_set_gradients, self, kept)


class GRU(nn.GRU):
    """`nn.GRU` of one layer; see `LSTM`."""

    def __init__(self, input_size: int, hidden_size: int, device: str | None = None) -> None:
        """Draw the parameters as PyTorch does."""
        super().__init__(input_size, hidden_size, device=device)

    def forward(  # type: ignore[override]  # sequences are not packed here
        self, x: Tensor, h_0: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map x `(T, B, I)` and a state `(1, B, H)`, zeros if None, to outputs `(T, B, H)` and the last state."""
        if not _runs_in_c(self, x, *(() if h_0 is None else (h_0,))):
            return super().forward(x, h_0)
        state = x.new_zeros(x.shape[1], self.hidden_size) if h_0 is None else h_0[0]
        out, _ = _Gated.apply(x, state, None, *_weights(self))  # type: ignore[no-untyped-call]
        return out, out[-1:].clone()

    @torch.no_grad()
    def vjp(self, x: Tensor, h_0: Tensor | None = None) -> VJP[Tensor] | None:
        """See `LSTM.vjp`."""
        if not _runs_in_c(self, x, *(() if h_0 is None else (h_0,))):
            return None
        state = x.new_zeros(x.shape[1], self.hidden_size) if h_0 is None else h_0[0]
        kept = _forward(x, state, None, *_weights(self))
        return kept.out, kept.out[-1:].clone(), partial(_set_gradients, self, kept)


def _weights(core: nn.RNNBase) -> Sequence[Any]:
    return core.weight_ih_l0, core.weight_hh_l0, core.bias_ih_l0, core.bias_hh_l0


def _runs_in_c(core: nn.RNNBase, x: Tensor, *state: Tensor) -> bool:
    """Return whether the loop in C can run; if sizes or dtypes do not fit, PyTorch raises its error."""
    weights = _weights(core)
    return (
        native_loop.unsupported(x.device, x.dtype, {"tanh", "sigmoid"}) is None
        and x.dim() == 3
        and x.shape[2] == core.input_size
        and all(one.shape == (1, x.shape[1], core.hidden_size) for one in state)
        and all((one.dtype, one.device) == (x.dtype, x.device) for one in (*weights, *state))
        and not is_traced([x, *weights])
        and not torch.is_autocast_enabled("cpu")
    )


@torch.no_grad()
def _set_gradients(core: nn.RNNBase, kept: _Kept, grad: Tensor) -> None:
    gradients = _backward(kept, grad, None, needs_dx=False)[3:]
    for parameter, gradient in zip(_weights(core), gradients, strict=True):
        parameter.grad = gradient


class _Gated(torch.autograd.Function):
    """See the module's docstring; an LSTM has a first cell, a GRU has None."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        kept = _forward(*inputs)
        ctx.save_for_backward(*kept)
        return kept.out, kept.last_cell()

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_cell: Tensor | None) -> tuple[Tensor | None, ...]:
        kept = _Kept(*ctx.saved_tensors)
        if is_repeatable():  # otherwise the loop may overwrite what was kept
            kept = kept._replace(A=kept.A.clone(), side=kept.side.clone())
        with torch.no_grad():
            results = list(_backward(kept, grad, grad_cell, needs_dx=ctx.needs_input_grad[0]))
        if torch.is_grad_enabled():  # create_graph
            inputs = [one for one in (grad, grad_cell, *kept) if one is not None]
            results = first_only(results, *inputs, message=NO_SECOND)
        return tuple(results)


class _Kept(NamedTuple):
    """What the backward pass needs: A `(T, B, gates*H)`; side, which is Q or the cells, and out, `(T, B, H)`."""

    x: Tensor
    W_ih: Tensor
    A: Tensor
    side: Tensor
    out: Tensor
    W_hh: Tensor
    bias: Tensor  # (4H,), of a GRU for r, z, n and Q
    h_0: Tensor
    c_0: Tensor | None

    def last_cell(self) -> Tensor | None:
        return None if self.c_0 is None else self.side[-1].clone()


def _forward(
    x: Tensor, h_0: Tensor, c_0: Tensor | None, W_ih: Tensor, W_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> _Kept:
    (T, B, _), H, gates = x.shape, W_hh.shape[1], 3 if c_0 is None else 4
    A, side, out = (x.new_empty(T, B, width) for width in (gates * H, H, H))
    multiply(x.flatten(0, 1), W_ih.t(), A.flatten(0, 1))
    bias = b_ih + b_hh
    if gates == 3:
        bias = torch.cat([bias[: 2 * H], b_ih[2 * H :], b_hh[2 * H :]])
    kept = _Kept(x, W_ih, A, side, out, W_hh, bias, h_0, c_0)
    _loop(kept)
    return kept


def _backward(kept: _Kept, grad: Tensor, grad_cell: Tensor | None, *, needs_dx: bool) -> tuple[Tensor | None, ...]:
    """Return the gradients of all inputs of `_forward`; overwrites A, and Q of a GRU."""
    x, W_ih, A, side, out, W_hh, _, h_0, c_0 = kept
    H, is_gru = W_hh.shape[1], c_0 is None
    dh_0, dc_0 = h_0.new_empty(h_0.shape), None if c_0 is None else c_0.new_zeros(c_0.shape)  # contiguous
    if dc_0 is not None and grad_cell is not None:
        dc_0 += grad_cell
    _loop(kept, grad.contiguous(), dh_0, dc_0)
    A, x_rows, dx = A.flatten(0, 1), x.flatten(0, 1), None
    if needs_dx:
        dx = x.new_empty(x.shape)
        multiply(A, W_ih, dx.flatten(0, 1))
    dW_ih, dW_hh = W_ih.new_empty(W_ih.shape), W_hh.new_empty(W_hh.shape)
    multiply(A.t(), x_rows, dW_ih)
    states = torch.cat([h_0.unsqueeze(0), out[:-1]]).flatten(0, 1)
    own = 2 * H if is_gru else 4 * H  # columns of A that are the gradients of products with the state
    multiply(A[:, :own].t(), states, dW_hh[:own])
    db_ih = A.sum(0)
    if not is_gru:
        return dx, dh_0, dc_0, dW_ih, dW_hh, db_ih, db_ih.clone()  # a copy: clipping scales each gradient in place
    Q = side.flatten(0, 1)
    multiply(Q.t(), states, dW_hh[own:])
    return dx, dh_0, dc_0, dW_ih, dW_hh, db_ih, torch.cat([db_ih[:own], Q.sum(0)])


def _loop(kept: _Kept, grad: Tensor | None = None, dh_0: Tensor | None = None, dc_0: Tensor | None = None) -> None:
    """Run the time loop forward, or backward from `grad`. The contiguous copies must stay alive until the end."""
    W_hh, bias, h_0 = kept.W_hh.contiguous(), kept.bias, kept.h_0.contiguous()
    c_0 = None if kept.c_0 is None else kept.c_0.contiguous()
    native_loop._native.gated(  # type: ignore[attr-defined]  # `native_loop` handles a missing extension
        grad is not None,
        kept.A.dtype == torch.float64,
        3 if c_0 is None else 4,
        *kept.out.shape,
        kept.A.data_ptr(),
        kept.side.data_ptr(),
        kept.out.data_ptr(),
        kept.side.data_ptr(),
        W_hh.data_ptr(),
        bias.data_ptr(),
        h_0.data_ptr(),
        address(c_0),
        address(grad),
        address(dh_0),
        address(dc_0),
    )
