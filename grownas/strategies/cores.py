"""A task's model around another core: derived, with noise, on another device."""

from __future__ import annotations

import copy
import math

import torch

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.protocols import AnyModel, Model, Recurrent
from grownas.training.recipe import device_of


def with_core(model: AnyModel, core: Recurrent) -> AnyModel:
    """Return a copy of a model around another core, which comes to where the model is."""
    return copy.deepcopy(model, {id(model.core): core.to(device_of(model))})  # the copy of the one core is the other


def supernet_of(model: Model) -> Backbone:
    """Return a model's core, a supernet as `Problem.build` makes it."""
    core = model.core
    assert isinstance(core, Backbone), f"the model's core is a {type(core).__name__}, expected a Backbone"
    return core


def on_cpu(core: Backbone) -> Backbone:
    """Return a core as morphisms take it, which draw on the CPU: itself if it lies there, else a copy."""
    return core if device_of(core).type == "cpu" else copy.deepcopy(core).cpu()


def derived(model: AnyModel) -> AnyModel:
    """Return a copy of a model whose supernet has become the cell that it computes: alpha is fixed."""
    return with_core(model, model.core.derive()) if isinstance(model.core, Backbone) else model


def noise_for(noise: float, l2_sp: float, hidden_size: int) -> float:
    """Return the noise in units of 1 / sqrt(H) as a standard deviation, at most the distance that L2-SP allows."""
    scaled = noise / math.sqrt(hidden_size)
    return min(scaled, 1 / l2_sp) if l2_sp else scaled


def with_noise(start: AnyModel, noise: float, l2_sp: float = 0.0, *, seed: int) -> AnyModel:
    """Return a copy of a start that is ready to be trained: the new weights of ops without effect get some noise."""
    core = supernet_of(start)
    sd = noise_for(noise, l2_sp, core.hidden_size)
    return with_core(start, morphisms.add_noise(on_cpu(core), sd, torch.Generator().manual_seed(seed)))
