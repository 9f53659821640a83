"""First-order gain of a new node: from the loss's gradients while the node has no effect on the output."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch

from grownas.backbones.chain import Backbone
from grownas.criteria.splitting import Batch, LossFn


def first_order_gain(backbone: Backbone, loss_fn: LossFn, batches: Iterable[Batch], node: int) -> float:
    """Return the norm of the loss's gradient by a node's parameters: the first-order gain per unit of step length.

    After `morphisms.add_node` without noise the loss equals that of the cell without the node, so that gains at
    different positions are comparable.

    Args:
        backbone: left untouched.
        loss_fn: maps `(out, target)` to the mean loss, a scalar; out `(T, B, H)`.
        batches: batches `(x, target, h_0)`, see `splitting.lowest_eigenpairs`; read once.
        node: number of the node; its weights and its alpha are used.
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
    """Return -dL/dm of each node with a blend m below 1, in order: how fast the loss falls as m grows.

    At m = 0 the nodes do not change each other's inputs, so that one backward pass gives the gains of any number of
    nodes.

    Args:
        backbone: left untouched.
        loss_fn: see `first_order_gain`.
        batches: see `first_order_gain`.

    Raises:
        ValueError: no node has a blend below 1, or `batches` is empty.
    """
    core = copy.deepcopy(backbone)
    scalars = [node.blend for node in core.mixed_nodes() if node.blend is not None]
    if not scalars:
        raise ValueError("every node has blend 1; a gain is defined for nodes with a blend below 1")
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
