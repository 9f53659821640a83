"""Duplicates an op, or splits it: two copies moved apart along the splitting matrices' eigenvectors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from grownas.backbones.chain import Backbone
from grownas.morphisms.origins import Morphed, rebuild_node
from grownas.morphisms.parts import disturb


@torch.no_grad()
def duplicate_op(
    backbone: Backbone, node: int, op: int, noise: float = 0.0, generator: Generator | None = None
) -> Morphed[Backbone]:
    """Append a copy of an op to its node; the op and the copy each get half of the share.

    Promise: with noise 0 the output is unchanged up to rounding. Without noise the two copies receive identical
    gradients and never diverge, unless the original shares its projection with other ops.

    Under `share_projection` the copy has its own projection, since noise on a shared projection would change all ops
    that use it. The original keeps its projection.

    Args:
        backbone: left untouched.
        node: number of the node.
        op: number of the op.
        noise: standard deviation of the noise added to all parameters of the copy.
        generator: draws the noise.

    Raises:
        ValueError: there is no such node or op.

    Reference:
        Jie & Gao (2021), algorithm 4.
    """
    backbone.check_place(node, op)
    ops = backbone.mixed_nodes()[node].ops
    copied = replace(ops[op], own_projection=backbone.share_projection)
    morphed = rebuild_node(backbone, node, [*ops, copied], [*range(len(ops)), op], Generator())
    if noise:
        disturb(morphed.backbone.mixed_nodes()[node], [len(ops)], noise, generator)
    return morphed


@torch.no_grad()
def split_op(
    backbone: Backbone, node: int, op: int, splitting: tuple[Tensor, Tensor], step: float
) -> Morphed[Backbone]:
    """Append a copy of an op to its node, each with half of the share, and move the two copies apart.

    In units with a negative eigenvalue the parameters become theta + step * v in the op and theta - step * v in the
    copy; other units stay equal. Promise: the output changes by O(step^2), or by O(step) where a relu's kink lies
    between the copies. With unit eigenvectors, the loss of the splitting matrices changes by (step^2 / 2) * (sum of the
    negative eigenvalues) + O(step^3).

    Under `share_projection` both copies have their own projections, since they move in opposite directions.

    Args:
        backbone: left untouched.
        node: number of the node.
        op: number of the op.
        splitting: the lowest eigenvalue of each unit's splitting matrix, shape `(H,)`, and its eigenvector, shape
            `(H, D)`, over the unit's own parameters `[W_x[:, i], b_x[i], W_h[:, i]]` and, if Hadamard, `b_h[i]`.
        step: length of the step.

    Raises:
        ValueError: there is no such node or op, or the eigenpairs' shapes or values do not fit.

    Reference:
        Liu, Wu & Wang (2019), Splitting Steepest Descent. Splitting through time and of both kinds of op is ours.
    """
    backbone.check_place(node, op)
    old = backbone.mixed_nodes()[node]
    eigenvalues, eigenvectors = splitting
    sizes = [value[..., 0].numel() for value in old.op_parameters(op).values()]  # numbers per unit
    shapes, wanted = (tuple(eigenvalues.shape), tuple(eigenvectors.shape)), (old.hidden_size, sum(sizes))
    if shapes != (wanted[:1], wanted):
        raise ValueError(
            f"eigenvalues and eigenvectors have shapes {shapes[0]} and {shapes[1]}, expected {wanted[:1]} and {wanted}"
        )
    way = step * torch.where((eigenvalues < 0).unsqueeze(1), eigenvectors, 0)
    if eigenvalues.isnan().any() or not way.isfinite().all():
        raise ValueError("the step, an eigenvalue or the eigenvector of a negative one is not finite")
    own = replace(old.ops[op], own_projection=backbone.share_projection)
    ops = [*old.ops[:op], own, *old.ops[op + 1 :], own]
    morphed = rebuild_node(backbone, node, ops, [*range(len(old.ops)), op], Generator())
    for place, sign in ((op, 1), (len(old.ops), -1)):
        values = morphed.backbone.op_parameters(node, place).values()
        for value, part in zip(values, torch.split(way.to(old.alpha), sizes, 1), strict=True):
            value += sign * part.t().reshape(value.shape)
    return morphed
