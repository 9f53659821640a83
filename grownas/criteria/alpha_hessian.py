"""The dominant eigenvalue of the Hessian by alpha, and a stopping criterion on its rise (Zela et al. 2020)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas.criteria.lanczos import LowestEigenpairs
from grownas.protocols import Task, Window
from grownas.training.bilevel import window_loss
from grownas.training.recipe import device_of, split_parameters

WINDOW = 5  # epochs over which an eigenvalue is averaged
DISTANCE = 1e-4  # step of the central difference, in float64; the relative error of the eigenvalue is about 1e-8


class Eigenvalue(NamedTuple):
    """An eigenvalue, and the number of forward and backward passes on a window that it took."""

    value: float
    gradients: int


def dominant_eigenvalue(model: Any, task: Task, *, windows: int = 4, seed: int = 0) -> float:
    """Return the value of `counted_eigenvalue`."""
    return counted_eigenvalue(model, task, windows=windows, seed=seed).value


def counted_eigenvalue(model: Any, task: Task, *, windows: int = 4, seed: int = 0) -> Eigenvalue:
    """Return the largest eigenvalue of the mean loss's Hessian by alpha, computed in float64 without dropout.

    A product with the Hessian is a central difference of two gradients, so any backend can compute it.

    Args:
        model: its core is a supernet; left as it is.
        task: data and loss.
        windows: how many windows of the part `architecture`, from its first on, the loss is the mean of; each begins at
            the state that the model has there.
        seed: of the order of the windows.
    """
    twin = copy.deepcopy(model).double().eval()
    _, alphas = split_parameters(twin)
    learned = _windows_and_states(twin, task, windows, seed)
    origin = torch.cat([alpha.detach().clone() for alpha in alphas])
    sizes = [len(alpha) for alpha in alphas]
    gradients = 0

    def gradient(at: Tensor) -> Tensor:
        nonlocal gradients
        gradients += len(learned)
        with torch.no_grad():
            for alpha, values in zip(alphas, torch.split(at, sizes), strict=True):
                alpha.copy_(values)
        losses = [window_loss(twin, task, window, hidden)[0] for window, hidden in learned]
        return torch.cat(torch.autograd.grad(torch.stack(losses).mean(), alphas))

    pairs = LowestEigenpairs(1, len(origin), block=1, tolerance=1e-4, device=origin.device)
    while not pairs.is_done:
        steps = [DISTANCE * column for column in pairs.block[0].T]
        columns = [(gradient(origin - step) - gradient(origin + step)) / (2 * DISTANCE) for step in steps]
        pairs.take(torch.stack(columns, 1).unsqueeze(0))  # products with -H: its lowest is minus the largest of H
    return Eigenvalue(-float(pairs.eigenvalues[0]), gradients)


@torch.no_grad()
def _windows_and_states(model: Any, task: Task, count: int, seed: int) -> list[tuple[Window, Any]]:
    """Return the first windows of the part `architecture` that are learned from, each with the state before it.

    The states are computed once: bptt ends at a window, so a loss whose state moved with alpha would have another
    derivative than the gradient of training, and that gradient's derivative would not be symmetric.
    """
    hidden, found = None, list[tuple[Window, Any]]()
    for window in task.windows("architecture", seed=seed):
        window = window.to(device_of(model))
        hidden = None if window.fresh else hidden
        if not window.burn_in:
            found.append((window, hidden))
        if len(found) == count:
            break
        _, hidden = model.states(window.x, hidden)
    return found


def has_risen(values: Sequence[float], *, back: int = 4, ratio: float = 1.3, first: int = 10) -> bool:
    """Return whether the mean eigenvalue of the last `WINDOW` epochs is more than `ratio` times an earlier mean.

    Args:
        values: the eigenvalue of each epoch so far.
        back: how many epochs earlier the other mean is.
        ratio: the ratio of the means that counts as a rise.
        first: the first epoch at which a rise counts.

    Reference:
        Zela et al. (2020), Understanding and Robustifying Differentiable Architecture Search, section 5.1: a window of
        5 epochs, 4 epochs back, from epoch 10; they stop when the earlier value divided by the present is below 0.75.
    """
    if len(values) < max(first, WINDOW + back):
        return False
    now, before = (sum(values[end - WINDOW : end]) / WINDOW for end in (len(values), len(values) - back))
    return before > 0 and now / before > ratio
