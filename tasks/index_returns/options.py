"""The options of the task, the section `task` of a config."""

from __future__ import annotations

import datetime
import difflib
import os
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from grownas.config.schema import Count, OneOrMore, Section, Share, Whole, about
from grownas.protocols import FRAME
from grownas.tasks.index_returns import synthetic
from grownas.tasks.index_returns.cleaning import LONGEST_STILL
from grownas.tasks.index_returns.losses import LOSSES
from grownas.tasks.index_returns.reading import Kind
from grownas.tasks.index_returns.sources import KINDS, NAMES, TICKERS, utc_today

Tickers = Annotated[tuple[str, ...], OneOrMore, Field(min_length=1)]
Series = Annotated[tuple[str, ...], OneOrMore]
Nodes = Annotated[int, Field(strict=True, ge=1, le=8)]
Units = Annotated[int, Field(strict=True, ge=2, le=256)]  # a cell of 256 takes minutes to find
Days = Annotated[int, Field(strict=True, ge=2)]
PLANTED = ("planted_nodes", "planted_units")


class Options(Section):
    """Data, parts, loss and batches."""

    KIND: ClassVar[str] = "series"
    LOSSES: ClassVar[tuple[str, ...]] = tuple(LOSSES)
    EVALUATION: ClassVar[tuple[str, ...]] = ("units",)  # how a finished model may be scored otherwise
    WHERE: ClassVar[tuple[str, ...]] = (
        "data",
        "values",
        "tickers",
        "start",
        "end",
        "cache",
        "data_seed",
        "subpanel",
        *PLANTED,
    )  # data come from

    use: Literal["index_returns"] = "index_returns"
    data: Annotated[str, about(f"{', '.join(NAMES)}, or the path of a CSV, parquet file or spreadsheet")] = "bundled"
    values: Annotated[
        Kind, about("of a file: prices; returns, used as they are; or levels such as yields, which are differenced")
    ] = "prices"
    tickers: Annotated[
        Tickers | None, Field(validate_default=True), about("of yfinance; null: the indices of G7 and BRICS")
    ] = None
    start: Annotated[str, about("first day asked of yfinance, ISO")] = "2010-01-01"
    end: Annotated[
        str | None,
        Field(validate_default=True),
        about("the day after the last; null: today in UTC, whose closes are not final yet"),
    ] = None
    cache: Annotated[str, about("where downloads lie")] = "~/.cache/grownas"
    data_seed: Annotated[Whole, about("of synthetic panels")] = 1
    planted_nodes: Annotated[Nodes, about("of the cell that makes the panel planted")] = synthetic.NODES
    planted_units: Annotated[Units, about("its hidden size")] = synthetic.UNITS
    subpanel: Annotated[Whole | None, about("number of a sub-panel that is drawn from the data; null: all of them")] = (
        None
    )
    difference: Annotated[Series, about("series to difference; `ranges`: all range series")] = ()
    units: Annotated[
        Literal["returns", "prices"], about("of forecasts that are written: what is forecast, or prices or levels")
    ] = "returns"
    longest_still: Annotated[
        Count, about("rows in a row that a series may not move; one that stands still for longer is dropped")
    ] = LONGEST_STILL
    train: Annotated[Share, about("parts by time; the rest is the test part")] = 0.70
    val: Annotated[Share, about("likewise")] = 0.15
    loss: Annotated[str, about(f"{', '.join(LOSSES)}; auto: that of the start")] = "auto"
    batches: Literal["streams", "windows"] = "streams"
    streams: Annotated[Count, about("parallel streams, or windows in a batch")] = 16
    bptt: Annotated[Days, about("days a gradient reaches back, or the length of a window")] = 20
    context: Annotated[Count, about("days read before the one that the first forecast is made from")] = 100

    @field_validator("data")
    @classmethod
    def _from_anywhere(cls, value: str) -> str:
        """Make a path absolute, so that a run can be resumed from another folder."""
        return value if value in (*NAMES, FRAME) else os.path.abspath(os.path.expanduser(value))

    @field_validator("values")
    @classmethod
    def _of_a_file_alone(cls, value: Kind, info: ValidationInfo) -> Kind:
        data = info.data.get("data", FRAME)  # else `data` itself was refused
        known = KINDS.get(data, value)
        if value not in ("prices", known):
            raise ValueError(f"says what a file holds, but task.data is {data}, which holds {known}; leave it out")
        return value

    @field_validator("tickers")
    @classmethod
    def _spelled_out(cls, value: Tickers | None, info: ValidationInfo) -> Tickers | None:
        """Spell the default out where it is used, so that the config of such a run says what was downloaded."""
        return TICKERS if value is None and info.data.get("data") == "yfinance" else value

    @field_validator("start", "end")
    @classmethod
    def _day(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Write today out where it ends a download: a run's config then names the panel, on any later day too."""
        if value is None:
            return utc_today().isoformat() if info.data.get("data") == "yfinance" else None
        try:
            return datetime.date.fromisoformat(value).isoformat()
        except ValueError as error:
            raise ValueError("expected a day such as 2024-12-31") from error

    @field_validator(*PLANTED)
    @classmethod
    def _of_planted_alone(cls, value: int, info: ValidationInfo) -> int:
        default = cls.model_fields[str(info.field_name)].default
        data = info.data.get("data", "planted")  # else `data` itself was refused
        if value != default and data != "planted":
            raise ValueError(f"shapes task.data=planted alone, but task.data is {data}; leave it out or at {default}")
        return value

    @field_validator("loss")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "auto" and value not in LOSSES:
            near = difflib.get_close_matches(value, ["auto", *LOSSES], n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"expected auto, {', '.join(LOSSES)}{hint}")
        return value

    @field_validator("val")
    @classmethod
    def _leaves_a_test_part(cls, value: float, info: ValidationInfo) -> float:
        train = info.data.get("train", 0.0)
        if train + value >= 1:
            raise ValueError(f"expected train + val below 1, so that a test part is left, with train = {train}")
        return value
