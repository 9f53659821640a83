"""The acceptance criterion: compares validation losses, and training losses as a guard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from grownas.criteria.early_stop import ACCEPT
from grownas.errors import ConfigError
from grownas.protocols import Evaluation, Model, Task, Verdict

if TYPE_CHECKING:
    from grownas.config.schema import StrategySection

Array = np.ndarray[Any, np.dtype[np.float64]]

GUARD = "training loss"  # the rule that rejects a candidate that is better on the validation part only


class Evaluated(Protocol):
    """A model and its evaluation on the validation part: a `Candidate`, a `Fit`, a `SearchResult`."""

    @property
    def model(self) -> Model:
        """The model."""
        ...

    @property
    def evaluation(self) -> Evaluation:
        """Its evaluation on the validation part."""
        ...


class Untrained(NamedTuple):
    """A model that was not trained, and its evaluation on the validation part."""

    model: Model
    evaluation: Evaluation


@dataclass(frozen=True)
class Acceptance:
    """Accepts or rejects a candidate that may replace the best model.

    Attributes:
        rule: `significant` or `better`, a name of `early_stop.ACCEPT`.
        threshold: `significant` accepts if t is above it.
        guard: also reject a candidate whose mean training loss is higher than that of the best model.

    Raises:
        ConfigError: the rule is unknown.
    """

    rule: str = "significant"
    threshold: float = 1.645
    guard: bool = True

    def __post_init__(self) -> None:
        """Check the rule's name."""
        if self.rule not in ACCEPT:
            raise ConfigError(f"strategy.accept: unknown {self.rule!r}, expected one of {', '.join(ACCEPT)}")

    @classmethod
    def of(cls, section: StrategySection) -> Acceptance:
        """Return the criterion of a strategy's options."""
        return cls(section.accept, section.threshold, section.guard)

    def __call__(self, best: Evaluated, candidate: Evaluated, task: Task) -> Verdict:
        """Accept or reject a candidate by its validation losses, then by its training loss if `guard` is true.

        Args:
            best: the best model so far.
            candidate: the model that may replace it.
            task: data and loss.
        """
        verdict = ACCEPT[self.rule](best.evaluation.losses, candidate.evaluation.losses, threshold=self.threshold)
        if not (verdict.accepted and self.guard):
            return verdict
        before, after = (float(task.evaluate(one.model, "train").losses.mean()) for one in (best, candidate))
        return verdict if after <= before else Verdict(False, before - after, GUARD, 0.0)

    def of_gains(self, gains: Array) -> Verdict:
        """Accept or reject a model by its gains alone: how much lower its loss was on each row, shape `(n,)`."""
        return ACCEPT[self.rule](gains, np.zeros_like(gains), threshold=self.threshold)
