"""SDARTS: DARTS whose weights are trained with perturbed shares (Chen & Hsieh 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from grownas.strategies.supernet import SupernetStrategy
from grownas.strategies.supernet_options import PerturbedSection, SdartsAdversarialOptions, SdartsRandomOptions


class SdartsRandom(SupernetStrategy):
    """The strategy `sdarts_rs`: the weights' step uses randomly perturbed shares (`grownas.protocols.Strategy`).

    See `training.perturb`. Alpha's step and all evaluations use the unperturbed shares. We project onto the simplex in
    the Euclidean norm. SDARTS was published for convolutional cells.

    Reference:
        Chen & Hsieh (2020), Stabilizing Differentiable Architecture Search via Perturbation-based Regularization.
    """

    name: ClassVar[str] = "sdarts_rs"
    section: ClassVar[type] = SdartsRandomOptions

    def method(self) -> Mapping[str, Any]:
        """Return the perturbation and its size."""
        return perturbation(self.options, "random")


class SdartsAdversarial(SupernetStrategy):
    """The strategy `sdarts_adv`: the weights' step uses shares that approximately maximise the loss.

    See `SdartsRandom` and `training.perturb`: the attack computes 7 gradients per step.
    """

    name: ClassVar[str] = "sdarts_adv"
    section: ClassVar[type] = SdartsAdversarialOptions

    def method(self) -> Mapping[str, Any]:
        """Return the perturbation and its size."""
        return perturbation(self.options, "adversarial")


def perturbation(options: PerturbedSection, kind: str) -> Mapping[str, Any]:
    """Return the recipe's fields for a kind of perturbation."""
    return {"perturb": kind, "perturb_size": (options.perturb_from, options.perturb_to)}
