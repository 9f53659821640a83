"""SDARTS: DARTS whose weights learn under perturbed shares (Chen & Hsieh 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from grownas.config.schema import NonNegative, about
from grownas.strategies.supernet import SupernetSection, SupernetStrategy


class Perturbed(SupernetSection):
    """What governs both kinds of SDARTS."""

    perturb_from: Annotated[NonNegative, about("largest change of a share in the first step")] = 0.03
    perturb_to: Annotated[NonNegative, about("and in the last of `max_epochs`; linear in between")] = 0.3


class RandomOptions(Perturbed):
    """What governs SDARTS-RS."""

    use: Literal["sdarts_rs"] = "sdarts_rs"


class AdversarialOptions(Perturbed):
    """What governs SDARTS-ADV."""

    use: Literal["sdarts_adv"] = "sdarts_adv"


class SdartsRandom(SupernetStrategy):
    """The strategy `sdarts_rs`: each step of the weights sees shares moved at random (`grownas.protocols.Strategy`).

    See `training.perturb`. Alpha's own step sees the unperturbed shares, and so does every evaluation. We project on
    the simplex in the Euclidean norm. Published for convolutional cells.

    Reference:
        Chen & Hsieh (2020), Stabilizing Differentiable Architecture Search via Perturbation-based Regularization.
    """

    name: ClassVar[str] = "sdarts_rs"
    section: ClassVar[type] = RandomOptions

    def method(self) -> Mapping[str, Any]:
        """Return the perturbation and its size."""
        return perturbation(self.options, "random")


class SdartsAdversarial(SupernetStrategy):
    """The strategy `sdarts_adv`: each step of the weights sees the shares that raise the loss most, nearly.

    See `SdartsRandom` and `training.perturb`: an attack takes 7 gradients a step.
    """

    name: ClassVar[str] = "sdarts_adv"
    section: ClassVar[type] = AdversarialOptions

    def method(self) -> Mapping[str, Any]:
        """Return the perturbation and its size."""
        return perturbation(self.options, "adversarial")


def perturbation(options: Perturbed, kind: str) -> Mapping[str, Any]:
    """Return the fields of a recipe for a kind of perturbation."""
    return {"perturb": kind, "perturb_size": (options.perturb_from, options.perturb_to)}
