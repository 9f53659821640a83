"""SDARTS: DARTS whose weights are trained with perturbed shares (Chen & Hsieh 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from grownas.config.schema import NonNegative, about
from grownas.strategies.supernet import ScheduledSection, SupernetStrategy


class Perturbed(ScheduledSection):
    """The options of both kinds of SDARTS."""

    perturb_from: Annotated[NonNegative, about("largest change of a share in the first step")] = 0.03
    perturb_to: Annotated[NonNegative, about("largest change of a share after `max_epochs`; linear in between")] = 0.3


class RandomOptions(Perturbed):
    """The options of SDARTS-RS."""

    use: Literal["sdarts_rs"] = "sdarts_rs"


class AdversarialOptions(Perturbed):
    """The options of SDARTS-ADV."""

    use: Literal["sdarts_adv"] = "sdarts_adv"


class SdartsRandom(SupernetStrategy):
    """The strategy `sdarts_rs`: the weights' step uses randomly perturbed shares (`grownas.protocols.Strategy`).

    See `training.perturb`. Alpha's step and all evaluations use the unperturbed shares. We project onto the simplex in
    the Euclidean norm. SDARTS was published for convolutional cells.

    Reference:
        Chen & Hsieh (2020), Stabilizing Differentiable Architecture Search via Perturbation-based Regularization.
    """

    name: ClassVar[str] = "sdarts_rs"
    section: ClassVar[type] = RandomOptions

    def method(self) -> Mapping[str, Any]:
        """Return the perturbation and its size."""
        return perturbation(self.options, "random")


class SdartsAdversarial(SupernetStrategy):
    """The strategy `sdarts_adv`: the weights' step uses shares that approximately maximise the loss.

    See `SdartsRandom` and `training.perturb`: the attack computes 7 gradients per step.
    """

    name: ClassVar[str] = "sdarts_adv"
    section: ClassVar[type] = AdversarialOptions

    def method(self) -> Mapping[str, Any]:
        """Return the perturbation and its size."""
        return perturbation(self.options, "adversarial")


def perturbation(options: Perturbed, kind: str) -> Mapping[str, Any]:
    """Return the recipe's fields for a kind of perturbation."""
    return {"perturb": kind, "perturb_size": (options.perturb_from, options.perturb_to)}
