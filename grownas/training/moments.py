"""The state of optimisers by name, so that it can be saved without pickle and continued by another optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from grownas.protocols import Module

KEPT = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # of AdamW and SGD; averages of weights are not continued


def moments_of(model: Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return copies of the moments of a model's optimisers, on the CPU.

    Returns:
        `PARAMETER/KEY` -> tensor, such as `readout.weight/exp_avg` of the parameter's shape, or `readout.weight/step`,
        a scalar.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": state[key].detach().cpu().clone()
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key in KEPT
        if isinstance(state.get(key), Tensor)
    }


def load_moments(model: Module, optimizers: Sequence[torch.optim.Optimizer], moments: Mapping[str, Tensor]) -> None:
    """Give optimisers of a model copies of saved moments, in place; parameters without saved moments start without.

    Raises:
        ValueError: a moment has another shape than its parameter.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found = {key: moments[place] for key in KEPT if (place := f"{names[parameter]}/{key}") in moments}
                for key, value in found.items():
                    if value.dim() and value.shape != parameter.shape:
                        raise ValueError(
                            f"{names[parameter]}/{key} has shape {tuple(value.shape)}, expected "
                            f"{tuple(parameter.shape)} as its parameter"
                        )
                if found:
                    optimizer.state[parameter] = {
                        key: value.clone() if key == "step" else value.to(parameter, copy=True)
                        for key, value in found.items()
                    }


def of_derived(moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename moments of a chain's supernet to those of its derived cell with all ops; leave out those of alpha.

    Apart from alpha both have the same parameters: nodes of `Backbone` and of `GrownRNN` have one layout.
    """
    return {
        name.replace("core.nodes.", "core.layers.0.", 1): value
        for name, value in moments.items()
        if not name.partition("/")[0].endswith(".alpha")
    }


def of_supernet(moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `of_derived`; alpha starts without moments."""
    return {name.replace("core.layers.0.", "core.nodes.", 1): value for name, value in moments.items()}
