"""What the sections of a config are made of: frozen, strict, no unknown keys."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A section of a config.

    Attributes:
        WHERE: of a task's options, those that may change on a finished run because they say where the data come from.
        EVALUATION: likewise, because they say how its model is scored.
        KIND, LOSSES: of a task's options, its `kind` and `losses`, where the group `grownas.tasks.options` names them.
    """

    WHERE: ClassVar[tuple[str, ...]] = ()
    EVALUATION: ClassVar[tuple[str, ...]] = ()
    KIND: ClassVar[str] = "plain"
    LOSSES: ClassVar[tuple[str, ...]] = ("loss",)
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")  # pydantic would take true as 1
    return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if twice:
        raise ValueError(f"expected each once, but {', '.join(map(repr, twice))} stands more than once")
    return values


def about(words: str) -> Any:
    """Return the mark of a field's type that says what the field means and in what unit, see `listing`."""
    return Field(description=words)


Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0, lt=2**63)]  # random generators take no larger seed
Number = Annotated[float, BeforeValidator(_no_flag)]
Positive = Annotated[float, BeforeValidator(_no_flag), Field(gt=0)]
NonNegative = Annotated[float, BeforeValidator(_no_flag), Field(ge=0)]
Share = Annotated[float, BeforeValidator(_no_flag), Field(gt=0, lt=1)]
Rate = Annotated[Number, Field(ge=0, lt=1)]  # of what is dropped
OneOrMore = BeforeValidator(_listed)  # one value stands for a list of one
Distinct = AfterValidator(_distinct)
Names = Annotated[tuple[str, ...], OneOrMore, Distinct]


class Optimizer(Section):
    """One optimiser."""

    optimizer: Annotated[
        Literal["adam", "sgd", "nt_asgd"],
        about("nt_asgd: SGD whose weights are averaged once validation stops falling"),
    ] = "adam"
    rate: Positive = 1e-3
    momentum: Annotated[Number, Field(ge=0, lt=1), about("of sgd")] = 0.9
    weight_decay: Annotated[NonNegative, about("decoupled for adam, else L2")] = 0.0


class WeightOptimizer(Optimizer):
    """The weights' optimiser."""

    clip: Annotated[Positive, about("largest gradient norm")] = 1.0
    warm_up: Annotated[Whole, about("steps over which the rates rise")] = 0
    decay: Annotated[Literal["none", "linear"], about("of the rates, to 0 over all epochs that are allowed")] = "none"
    average: Annotated[
        Number,
        Field(ge=0, lt=1),
        about("decay of a moving average of the weights, which is evaluated and kept; 0: none"),
    ] = 0.0
    non_monotone: Annotated[
        Count, about("of nt_asgd: epochs back, before which a lower validation loss begins the averaging")
    ] = 5


class StrategySection(Section):
    """What the options of every strategy have in common; a strategy's own section is a subclass.

    `accept`, `threshold` and `guard` also govern whether the model that was found is used instead of the start.
    """

    use: Annotated[str, about("the strategy, an entry point of the group grownas.strategies")]
    max_nodes: Annotated[Count, about("of a cell")] = 3
    accept: Annotated[
        Literal["significant", "better"],
        about(
            "when a candidate replaces the best model: by a one-sided t-test on the validation losses, or by their mean"
        ),
    ] = "significant"
    threshold: Annotated[NonNegative, about("least t of `significant`")] = 1.645
    guard: Annotated[bool, about("accept only what does not raise the mean training loss either")] = True
    architecture_share: Annotated[
        Share, about("end of the training part that is held out for the architecture weights in bilevel training")
    ] = 0.2
