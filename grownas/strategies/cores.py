"""Copies of a task's model with another core: a derived cell, a core with noise, a core on another device."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.criteria.readout import AnyBackbone, Core
from grownas.genotype import AnyGenotype
from grownas.protocols import AnyModel, Model, Recurrent
from grownas.training.recipe import device_of


def with_core(model: AnyModel, core: Recurrent) -> AnyModel:
    """Return a copy of a model with another core; `core` is moved to the model's device."""
    return copy.deepcopy(model, {id(model.core): core.to(device_of(model))})  # the memo replaces the core


def supernet_of(model: Model) -> AnyBackbone:
    """Return a model's core as the supernet that `Problem.build` creates."""
    core = model.core
    assert isinstance(core, AnyBackbone), f"the model's core is a {type(core).__name__}, expected a backbone"
    return core


def mixtures_of(core: AnyBackbone, node: int) -> range:
    """Return the numbers of a node's mixtures; nodes are counted from 0. In a chain it has one, in a DAG its edges."""
    if isinstance(core, DagBackbone):
        return range(node * (node + 1) // 2, (node + 1) * (node + 2) // 2)
    return range(node, node + 1)


def on_cpu(core: Core) -> Core:
    """Return the core if it is on the CPU, otherwise a copy on the CPU: morphisms draw random numbers on the CPU."""
    if device_of(core).type == "cpu":
        return core
    moved = copy.deepcopy(core)
    moved.cpu()  # in place
    return moved


def derived(model: AnyModel) -> AnyModel:
    """Return a copy of a model with the derived cell in place of the supernet; the model itself if it has none.

    A chain becomes the cell that it computes, with fixed shares; others become the cell that is read out of them.
    """
    return with_core(model, model.core.derive()) if isinstance(model.core, AnyBackbone) else model


def genotype_of(model: Model) -> AnyGenotype:
    """Return the genotype of a model's core with all of its ops; a supernet's is read out."""
    core: Any = model.core  # `genotype` is a method of a supernet and an attribute of a derived cell
    genotype: AnyGenotype = core.genotype(None) if callable(core.genotype) else core.genotype
    return genotype


def noise_for(noise: float, l2_sp: float, hidden_size: int) -> float:
    """Return a noise in units of 1 / sqrt(H) as a standard deviation, at most 1 / l2_sp."""
    scaled = noise / math.sqrt(hidden_size)
    return min(scaled, 1 / l2_sp) if l2_sp else scaled


def with_noise(start: AnyModel, noise: float, l2_sp: float = 0.0, *, seed: int) -> AnyModel:
    """Return a copy of a start with noise on the ops that have no effect, so that they can be trained.

    Only supernets of chains have such ops. In a DAG all ops of a node share its drawn weights, and blocks begin near
    the identity, so every op has an effect. The copy of any other model has no noise.
    """
    core = start.core
    if not isinstance(core, Backbone):
        return copy.deepcopy(start)
    sd = noise_for(noise, l2_sp, core.hidden_size)
    return with_core(start, morphisms.add_noise(on_cpu(core), sd, torch.Generator().manual_seed(seed)))
