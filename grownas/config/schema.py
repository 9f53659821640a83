"""What the sections of a config are made of: frozen, strict, no unknown keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A section of a config."""

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
