# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"
"""The kernels of `triton_loop`: one node at one step, except the matrix product. `sequence` explains the data.

A program computes all ops of a node for a tile of the batch and the units. The number, kinds, activations and
projections of the ops are compile-time constants, so the loop over ops is unrolled, and one source serves all nodes. To
add an activation, add its code to `CODES` and a branch to `activate` and `activate_back`.

Half-precision tensors are computed in float32. A sum over the batch is taken within a tile, and each tile has its own
row of sums: there are no atomics, and the results are the same in every run. A new step needs no new compilation.
"""

from __future__ import annotations

import triton
import triton.language as tl

CODES = frozenset({0, 1, 2, 3, 4, 5})  # codes of `ops.ACTIVATION`: identity, tanh, sigmoid, relu, silu, softsign


@triton.jit
def widen(value):
    """Return a value in the dtype of the computation: float64, otherwise float32."""
    return value if value.dtype == tl.float64 else value.to(tl.float32)


@triton.jit
def read(at, inside):
    """Load a tile, with zeros outside of the tensor."""
    return widen(tl.load(at, inside, other=0))


@triton.jit
def tanh(z):
    """Return tanh, accurate to the last digits in float32 and float64; Cephes' rational function (Moshier, tanh.c)."""
    a, square = tl.abs(z), z * z
    over = (-9.64399179425052238628e-1 * square - 9.92877231001918586564e1) * square - 1.61468768441708447952e3
    under = (
        (square + 1.12811678491632931402e2) * square + 2.23548839060100448583e3
    ) * square + 4.84406305325125486048e3
    e = tl.exp(-2 * a)
    far = (1 - e) / (1 + e)
    return tl.where(a < 0.625, z + z * square * (over / under), tl.where(z < 0, -far, far))


@triton.jit
def sigmoid(z):
    """Return the sigmoid, without overflow."""
    e = tl.exp(-tl.abs(z))
    return tl.where(z < 0, e, 1.0) / (1 + e)


@triton.jit
def activate(z, CODE: tl.constexpr):
    """Return an activation's value."""
    if CODE == 1:
        y = tanh(z)
    elif CODE == 2:
        y = sigmoid(z)
    elif CODE == 3:
        y = tl.where(z < 0, 0.0, z)
    elif CODE == 4:
        y = z * sigmoid(z)
    elif CODE == 5:
        y = z / (1 + tl.abs(z))
    else:
        y = z
    return y


@triton.jit
def activate_back(grad, z, y, CODE: tl.constexpr):
    """Return the gradient by an activation's input z, from the gradient by its output y, z and y."""
    if CODE == 1:
        d = grad * (1 - y * y)
    elif CODE == 2:
        d = grad * (y * (1 - y))
    elif CODE == 3:
        d = tl.where(y > 0, grad, 0.0)
    elif CODE == 4:
        gate = sigmoid(z)
        d = grad * (gate + y * (1 - gate))
    elif CODE == 5:
        rest = 1 - tl.abs(y)
        d = grad * (rest * rest)
    else:
        d = grad
    return d


@triton.jit
def add_up(sums, d, inside):
    """Add a tile's sums over the batch to the tile's own row."""
    tl.store(sums, tl.load(sums, inside, other=0) + tl.sum(d, 0, keep_dims=True), inside)


@triton.jit(do_not_specialize=["t", "t_s"])
def node_forward(
    A, Q, u, s, out, mixed, b_x, b_h, shares, t, t_s, B, H, A_row, Q_row, A_start, Q_start,
    OPS: tl.constexpr, ACTIVATIONS: tl.constexpr, PROJECTION: tl.constexpr, NEW: tl.constexpr, ADDITIVE: tl.constexpr,
    GATE: tl.constexpr, SUMMED: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Compute a node at step t from u = s W_h `(B, BLOCKS*H)`, with s at step t_s. Q and mixed are not written if None.

    A_row and Q_row are the row lengths of A and Q; the node's columns begin at A_start and Q_start.
    """
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[None, :]
    units, inside = h < H, (b < B) & (h < H)
    row = tl.cast(t, tl.int64) * B + b
    A += row * A_row + A_start + h
    u += b * (BLOCKS * H) + h
    for k in tl.static_range(OPS):
        share, bias = widen(tl.load(shares + k)), read(b_x + k * H + h, units)
        if k < ADDITIVE:
            if NEW[k]:
                from_s = read(A + PROJECTION[k] * H, inside) + read(u + PROJECTION[k] * H, inside)
                tl.store(A + PROJECTION[k] * H, from_s, inside)
            z = from_s + bias
        else:
            if NEW[k]:
                from_x = read(A + (SUMMED + PROJECTION[k]) * H, inside)
                from_s = read(u + (SUMMED + PROJECTION[k]) * H, inside)
                if Q is not None:
                    tl.store(Q + row * Q_row + Q_start + PROJECTION[k] * H + h, from_s, inside)
            z = (from_x + bias) * (from_s + read(b_h + (k - ADDITIVE) * H + h, units))
        y = share * activate(z, ACTIVATIONS[k])
        if k == 0:
            mixture = y
        else:
            mixture += y
    if GATE:
        gate = read(A + (SUMMED - 1) * H, inside) + read(u + (SUMMED - 1) * H, inside)
        tl.store(A + (SUMMED - 1) * H, gate, inside)
        if mixed is not None:
            tl.store(mixed + row * H + h, mixture, inside)
        before = read(s + (tl.cast(t_s, tl.int64) * B + b) * H + h, inside)
        mixture = before + sigmoid(gate) * (mixture - before)
    tl.store(out + row * H + h, mixture, inside)


@triton.jit(do_not_specialize=["t", "t_s"])
def node_backward(
    A, Q, D, carried, grad, s, mixed, b_x, b_h, shares, sums, t, t_s, B, H, A_row, Q_row, A_start, Q_start,
    OPS: tl.constexpr, ACTIVATIONS: tl.constexpr, PROJECTION: tl.constexpr, NEW: tl.constexpr, ADDITIVE: tl.constexpr,
    GATE: tl.constexpr, SUMMED: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Compute a node's backward pass at step t: A and Q become their gradients, D `(B, BLOCKS*H)` the gradient of u.

    The gradient of the node's output is `carried (B, H)`, plus grad at step t unless grad is None. With a gate the part
    of the gradient that passes by the ops remains in `carried`. The gradients of b_x, of b_h, and of the shares by unit
    are added to `sums (tiles of the batch, ops + Hadamard ops + ops, H)`.
    """
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[None, :]
    units, inside = h < H, (b < B) & (h < H)
    row = tl.cast(t, tl.int64) * B + b
    A += row * A_row + A_start + h
    Q += row * Q_row + Q_start + h
    D += b * (BLOCKS * H) + h
    carried += b * H + h
    sums += tl.program_id(0) * ((3 * OPS - ADDITIVE) * H) + h
    g = read(carried, inside)
    if grad is not None:
        g += read(grad + row * H + h, inside)
    if GATE:
        gate = sigmoid(read(A + (SUMMED - 1) * H, inside))
        before = read(s + (tl.cast(t_s, tl.int64) * B + b) * H + h, inside)
        to_gate = g * (read(mixed + row * H + h, inside) - before) * (gate * (1 - gate))
        tl.store(A + (SUMMED - 1) * H, to_gate, inside)
        tl.store(D + (SUMMED - 1) * H, to_gate, inside)
        tl.store(carried, g * (1 - gate), inside)
        g *= gate
    for k in tl.static_range(OPS):
        share, bias = widen(tl.load(shares + k)), read(b_x + k * H + h, units)
        if k < ADDITIVE:
            block = PROJECTION[k] * H
            if NEW[k]:
                from_s = read(A + block, inside)
            z = from_s + bias
            y = activate(z, ACTIVATIONS[k])
            to_x = activate_back(g * share, z, y, ACTIVATIONS[k])
            to_s = to_x
        else:
            block = (SUMMED + PROJECTION[k]) * H
            if NEW[k]:
                from_x = read(A + block, inside)
                from_s = read(Q + PROJECTION[k] * H, inside)
            p, q = from_x + bias, from_s + read(b_h + (k - ADDITIVE) * H + h, units)
            z = p * q
            y = activate(z, ACTIVATIONS[k])
            d = activate_back(g * share, z, y, ACTIVATIONS[k])
            to_x, to_s = d * q, d * p
            add_up(sums + (OPS + k - ADDITIVE) * H, to_s, units)
        add_up(sums + k * H, to_x, units)
        add_up(sums + (2 * OPS - ADDITIVE + k) * H, g * y, units)
        if NEW[k]:
            all_x, all_s = to_x, to_s
        else:
            all_x += to_x
            all_s += to_s
        if NEW[k + 1]:
            tl.store(A + block, all_x, inside)
            tl.store(D + block, all_s, inside)
            if k >= ADDITIVE:
                tl.store(Q + PROJECTION[k] * H, all_s, inside)


INTERPRETED = not isinstance(node_forward, triton.JITFunction)  # Triton's interpreter is on: kernels run on the CPU
