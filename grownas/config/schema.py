"""Building blocks of config sections: the base class (frozen, no unknown keys) and field types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator


class Section(BaseModel):
    """A section of a config.

    Attributes:
        WHERE: keys of a task that say where the data come from; they may change when a finished run is reused.
        EVALUATION: keys of a task that say how its model is scored; they may change too.
        FITTED: keys of a task that follow from its data where they are null. `Task.describe` gives their values; a
            finished run keeps them when it is used on other data.
        KIND, LOSSES: a task's `kind` and `losses`; read if the entry-point group `grownas.tasks.options` has the task.
        BASELINES: baselines that a task brings beside those of its kind, by name, see `grownas.baselines.table`.
        STARTS: names of the starts that a task of the kind `plain` offers beside `random`, see `protocols.Starting`.
    """

    WHERE: ClassVar[tuple[str, ...]] = ()
    EVALUATION: ClassVar[tuple[str, ...]] = ()
    FITTED: ClassVar[tuple[str, ...]] = ()
    KIND: ClassVar[str] = "plain"
    LOSSES: ClassVar[tuple[str, ...]] = ("loss",)
    BASELINES: ClassVar[Mapping[str, Any]] = {}
    STARTS: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of_frame(cls, frame: Any) -> Mapping[str, Any]:
        """Of a task that reads data frames: return the keys that follow from a data frame; none by default."""
        return {}

    @property
    def table(self) -> Path | None:
        """Of a task: file of trained genotypes on which searches are replayed, see `genotype_table`; None: train."""
        return None

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")  # pydantic would take true as 1
    return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values; raise a ValueError if a value is repeated."""
    twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if twice:
        raise ValueError(f"expected each value once, but {', '.join(map(repr, twice))} is repeated")
    return values


def about(words: str, names: Sequence[str] = ()) -> Any:
    """Return type metadata with a field's meaning, which `listing` prints, and names that completion offers."""
    return Field(description=words, examples=list(names) or None)


Count = Annotated[int, Field(strict=True, ge=1)]
Several = Annotated[int, Field(strict=True, ge=2)]
Whole = Annotated[int, Field(strict=True, ge=0, lt=2**63)]  # random generators accept no larger seed
Number = Annotated[float, BeforeValidator(_no_flag)]
Positive = Annotated[float, BeforeValidator(_no_flag), Field(gt=0)]
NonNegative = Annotated[float, BeforeValidator(_no_flag), Field(ge=0)]
Share = Annotated[float, BeforeValidator(_no_flag), Field(gt=0, lt=1)]
Rate = Annotated[Number, Field(ge=0, lt=1)]  # dropout rate: share that is dropped
OneOrMore = BeforeValidator(_listed)  # a single value becomes a list of one
Distinct = AfterValidator(distinct)
Names = Annotated[tuple[str, ...], OneOrMore, Distinct]


class Optimizer(Section):
    """An optimiser and its settings."""

    optimizer: Annotated[
        Literal["adam", "sgd", "nt_asgd"],
        about("nt_asgd: SGD that averages the weights once the validation loss stops falling"),
    ] = "adam"
    rate: Positive = 1e-3
    momentum: Annotated[Number, Field(ge=0, lt=1), about("momentum of sgd; beta1 of adam")] = 0.9
    weight_decay: Annotated[NonNegative, about("decoupled for adam; an L2 penalty otherwise")] = 0.0


class WeightOptimizer(Optimizer):
    """The optimiser of the network weights."""

    clip: Annotated[Positive, about("largest gradient norm; longer gradients are scaled down")] = 1.0
    warm_up: Annotated[Whole, about("steps over which the learning rates rise to their full values")] = 0
    decay: Annotated[Literal["none", "linear"], about("linear: the learning rates fall to 0 by the last epoch")] = (
        "none"
    )
    average: Annotated[
        Number,
        Field(ge=0, lt=1),
        about("decay per step of a moving average of the weights, which is evaluated and saved; 0: no average"),
    ] = 0.0
    non_monotone: Annotated[
        Count, about("nt_asgd averages once the validation loss exceeds its minimum of more than so many epochs ago")
    ] = 5


class SearchWeights(WeightOptimizer):
    """The weights' optimiser in a search; every strategy has the same defaults."""

    rate: Positive = 5e-3
    weight_decay: Annotated[NonNegative, about("decoupled for adam, else L2")] = 0.5


class StrategySection(Section):
    """The options that every strategy has; a strategy's own section is a subclass.

    `accept`, `threshold` and `guard` also decide whether the final model replaces the start.
    """

    use: Annotated[str, about("name of the strategy: an entry point of the group grownas.strategies")]
    name: Annotated[
        str | None, about("name of its rows and run folders, to compare one strategy with several options; null: `use`")
    ] = None
    max_nodes: Annotated[Count, about("largest number of nodes in a cell")] = 3
    accept: Annotated[
        Literal["significant", "better"],
        about(
            "when a candidate replaces the best model: if a one-sided t-test finds its validation losses lower, or if "
            "their mean is lower"
        ),
    ] = "significant"
    threshold: Annotated[NonNegative, about("smallest t-value that `significant` accepts")] = 1.645
    guard: Annotated[bool, about("reject a candidate whose mean training loss is higher")] = True
    architecture_share: Annotated[
        Share, about("share of the training part, at its end, that trains the architecture weights in bilevel training")
    ] = 0.2

    @field_validator("name")
    @classmethod
    def _is_plain(cls, name: str | None) -> str | None:
        if name is not None and not (name.isascii() and name.isidentifier()):
            raise ValueError("expected letters, digits and _, beginning with a letter, such as darts_second")
        return name

    @property
    def row(self) -> str:
        """The name of the strategy in tables and folders: `name`, or `use` if there is none."""
        return self.name or self.use
