"""How much a new node would bring at first: by the gradient in its parameters where it has no effect yet."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch

from grownas.backbones.chain import Backbone
from grownas.criteria.splitting import Batch, LossFn


def first_order_gain(backbone: Backbone, loss_fn: LossFn, batches: Iterable[Batch], node: int) -> float:
    """Return the norm of the loss's gradient in a node's parameters: the fall of the loss for a first step of length 1.

    For a node that `morphisms.add_node` has just added without noise the loss is that of the cell without it, so that
    gains at several positions compare like with like.

    Args:
        backbone: left untouched.
        loss_fn: `(out, target)` to the mean loss, a scalar; out `(T, B, H)`.
        batches: of `(x, target, h_0)`, see `splitting.lowest_eigenpairs`; gone through once.
        node: number of the node; its weights and its alpha count.
    """
    parameters = list(backbone.mixed_nodes()[node].parameters())
    total = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    count = 0
    for x, target, h_0 in batches:
        gradients = torch.autograd.grad(loss_fn(backbone(x, h_0)[0], target), parameters, materialize_grads=True)
        total = [one + gradient for one, gradient in zip(total, gradients, strict=True)]
        count += 1
    if not count:
        raise ValueError("batches is empty; a gain is a mean over at least one batch")
    return float(torch.cat([(one / count).flatten() for one in total]).norm())


def blend_gains(backbone: Backbone, loss_fn: LossFn, batches: Iterable[Batch]) -> list[float]:
    """Return -dL/dm of each node that is blended in part, in order: how fast the loss falls as the node is mixed in.

    The gradient is exact for the nodes as they were drawn, whatever m is; at m = 0 one pass backward judges any number
    of nodes, for none of them changes what the others read.

    Args:
        backbone: left untouched.
        loss_fn: see `first_order_gain`.
        batches: likewise.

    Raises:
        ValueError: no node is blended in part, or batches is empty.
    """
    core = copy.deepcopy(backbone)
    scalars = [node.blend for node in core.mixed_nodes() if node.blend is not None]
    if not scalars:
        raise ValueError("every node has blend 1; a gain is of nodes that are not mixed in fully")
    for scalar in scalars:
        scalar.requires_grad_(True)
    total, count = torch.zeros(len(scalars), dtype=torch.float64), 0
    for x, target, h_0 in batches:
        gradients = torch.autograd.grad(loss_fn(core(x, h_0)[0], target), scalars)
        total += torch.stack(gradients).double().cpu()
        count += 1
    if not count:
        raise ValueError("batches is empty; a gain is a mean over at least one batch")
    gains: list[float] = (-total / count).tolist()
    return gains
