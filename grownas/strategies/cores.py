"""A task's model around another core: derived, with noise, on another device."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.genotype import AnyGenotype
from grownas.training.recipe import device_of


def with_core(model: Any, core: Any) -> Any:
    """Return a copy of a model around another core, which comes to where the model is."""
    return copy.deepcopy(model, {id(model.core): core.to(device_of(model))})  # the copy of the one core is the other


def on_cpu(core: Backbone) -> Backbone:
    """Return a core as morphisms take it, which draw on the CPU: itself if it lies there, else a copy."""
    return core if device_of(core).type == "cpu" else copy.deepcopy(core).cpu()


def derived(model: Any) -> Any:
    """Return a copy of a model whose supernet has become a cell, itself if it has none.

    A chain becomes the cell that it computes, with alpha fixed; a DAG the cell that is read out of it.
    """
    return with_core(model, model.core.derive()) if isinstance(model.core, Backbone | DagBackbone) else model


def genotype_of(model: Any) -> AnyGenotype:
    """Return the genotype of a model's core, with all ops that it can hold: read out if it is a supernet."""
    genotype: AnyGenotype = model.core.genotype(None) if callable(model.core.genotype) else model.core.genotype
    return genotype


def noise_for(noise: float, l2_sp: float, hidden_size: int) -> float:
    """Return the noise in units of 1 / sqrt(H) as a standard deviation, at most the distance that L2-SP allows."""
    scaled = noise / math.sqrt(hidden_size)
    return min(scaled, 1 / l2_sp) if l2_sp else scaled


def with_noise(start: Any, noise: float, l2_sp: float = 0.0, *, seed: int) -> Any:
    """Return a copy of a start that is ready to be trained: the new weights of ops without effect get some noise."""
    sd = noise_for(noise, l2_sp, start.core.hidden_size)
    return with_core(start, morphisms.add_noise(on_cpu(start.core), sd, torch.Generator().manual_seed(seed)))
