"""What the sections of a config are made of: frozen, strict, no unknown keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A section of a config."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")  # pydantic would take true as 1
    return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, BeforeValidator(_no_flag)]
Positive = Annotated[float, BeforeValidator(_no_flag), Field(gt=0)]
NonNegative = Annotated[float, BeforeValidator(_no_flag), Field(ge=0)]
Share = Annotated[float, BeforeValidator(_no_flag), Field(gt=0, lt=1)]
OneOrMore = BeforeValidator(_listed)  # one value stands for a list of one
