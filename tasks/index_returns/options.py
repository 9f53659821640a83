"""The options of the task: the section `task` of a config."""

from __future__ import annotations

import datetime
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from grownas.config.schema import Count, Names, OneOrMore, Section, Share, Whole, about
from grownas.protocols import FRAME
from grownas.tasks.index_returns import packaged, synthetic
from grownas.tasks.index_returns.cleaning import LEAST_ROWS, LONGEST_STILL
from grownas.tasks.index_returns.losses import LOSSES
from grownas.tasks.index_returns.reading import Kind
from grownas.tasks.index_returns.sources import KINDS, NAMES, TICKERS, utc_today, zone_of
from grownas.tasks.index_returns.zones import zone_named

Tickers = Annotated[tuple[str, ...], OneOrMore, Field(min_length=1)]
Series = Annotated[tuple[str, ...], OneOrMore]
Nodes = Annotated[int, Field(strict=True, ge=1, le=8)]
Units = Annotated[int, Field(strict=True, ge=2, le=256)]  # finding a cell with 256 units takes minutes
Days = Annotated[int, Field(strict=True, ge=2)]
PLANTED = ("planted_nodes", "planted_units")
TABLES = {name: Path(__file__).with_name("tables") / f"{name}.jsonl" for name in ("planted", "nonlinear")}


class Options(Section):
    """Data, parts, loss and batches."""

    KIND: ClassVar[str] = "series"
    LOSSES: ClassVar[tuple[str, ...]] = tuple(LOSSES)
    EVALUATION: ClassVar[tuple[str, ...]] = ("units",)  # keys that may change when a finished model is used
    WHERE: ClassVar[tuple[str, ...]] = (
        "data",
        "values",
        "tickers",
        "start",
        "end",
        "cache",
        "data_seed",
        "subpanel",
        "zone",
        *PLANTED,
    )  # keys that say where the data come from

    use: Literal["index_returns"] = "index_returns"
    data: Annotated[
        str,
        about(
            f"{', '.join(name for name in NAMES if name not in packaged.PANELS)}; {', '.join(packaged.PANELS)} (extra "
            "`panels`); or the path of a CSV (`.gz` too), parquet file or spreadsheet",
            NAMES,
        ),
    ] = "bundled"
    values: Annotated[
        Kind,
        about("content of a file: prices; returns, used unchanged; or levels such as yields, which are differenced"),
    ] = "prices"
    inputs: Annotated[
        Names,
        about("columns that are inputs only, used as they are (changes of those in `difference`) and not forecast"),
    ] = ()
    zone: Annotated[
        str | None,
        about(
            "time zone to which the times of a file are converted, such as Europe/Berlin; a data frame gives its own; "
            "null: times stay as written"
        ),
    ] = None
    tickers: Annotated[
        Tickers | None, Field(validate_default=True), about("for yfinance; null: the indices of G7 and BRICS")
    ] = None
    start: Annotated[str, about("for yfinance: first day, ISO")] = "2010-01-01"
    end: Annotated[
        str | None,
        Field(validate_default=True),
        about("for yfinance: the day after the last; null: today in UTC, whose closes are not final and not used"),
    ] = None
    cache: Annotated[str, about("folder for downloads")] = "~/.cache/grownas"
    data_seed: Annotated[Whole, about("seed of synthetic panels")] = 1
    planted_nodes: Annotated[Nodes, about("number of nodes of the cell that generates the panel `planted`")] = (
        synthetic.NODES
    )
    planted_units: Annotated[Units, about("hidden size of the cell that generates the panel `planted`")] = (
        synthetic.UNITS
    )
    subpanel: Annotated[Whole | None, about("number of a random sub-panel of the data; null: the whole panel")] = None
    difference: Annotated[Series, about("series to difference; `ranges`: all range series")] = ()
    units: Annotated[
        Literal["returns", "prices"], about("units of written forecasts; prices gives prices, or levels")
    ] = "returns"
    longest_still: Annotated[
        Count, about("a series that does not move for more consecutive rows than this is dropped")
    ] = LONGEST_STILL
    least_rows: Annotated[
        Count, about("fewest rows of returns; with fewer than the default, models and tests mean little")
    ] = LEAST_ROWS
    train: Annotated[Share, about("share of rows in the training part, from the first row on")] = 0.70
    val: Annotated[
        Share,
        Field(validate_default=True),
        about("share of rows in the validation part; the remaining rows are the test part"),
    ] = 0.15
    recent: Annotated[
        Days | None,
        about("rows of the validation part and of the test part each, the last rows; null: by `train` and `val`"),
    ] = None
    loss: Annotated[str, about(f"{', '.join(LOSSES)}; auto: the loss of the start")] = "auto"
    batches: Annotated[
        Literal["streams", "windows"], about("parallel streams that carry the state, or random windows from zero state")
    ] = "streams"
    streams: Annotated[Count, about("number of parallel streams, or of windows per batch")] = 16
    bptt: Annotated[Days, about("days after which the gradient is cut, or length of a window in days")] = 20
    context: Annotated[Count, about("days read from a zero state before the first forecast")] = 100
    replay: Annotated[
        str | None,
        about(
            f"search on a table of trained genotypes without training: {', '.join(TABLES)} (which sets data, too), or "
            "the path of a table that `grownas tabulate` wrote; null: train",
            tuple(TABLES),
        ),
    ] = None

    @classmethod
    def of_frame(cls, frame: Any) -> Mapping[str, Any]:
        """Return the time zone of a data frame's dates, if they have one."""
        zone = zone_of(frame)
        return {} if zone is None else {"zone": zone}

    @property
    def table(self) -> Path | None:
        """The file of `replay`."""
        return None if self.replay is None else TABLES.get(self.replay, Path(self.replay))

    @model_validator(mode="before")
    @classmethod
    def _of_its_table(cls, given: Any) -> Any:
        """Set the data to the panel of a shipped table, which has the same name."""
        is_shipped = isinstance(given, Mapping) and given.get("replay") in TABLES
        return {**given, "data": given["replay"]} if is_shipped else given

    @field_validator("replay")
    @classmethod
    def _from_any_folder(cls, value: str | None) -> str | None:
        """Make a path absolute, as that of `data`."""
        return value if value is None or value in TABLES else os.path.abspath(os.path.expanduser(value))

    @field_validator("data")
    @classmethod
    def _from_anywhere(cls, value: str) -> str:
        """Make a path absolute, so that a run can be resumed from another working folder."""
        return value if value in (*NAMES, FRAME) else os.path.abspath(os.path.expanduser(value))

    @field_validator("values")
    @classmethod
    def _of_a_file_alone(cls, value: Kind, info: ValidationInfo) -> Kind:
        data = info.data.get("data", FRAME)  # the default is used if `data` itself is invalid
        known = KINDS.get(data, value)
        if value not in ("prices", known):
            raise ValueError(f"applies only to files, but task.data is {data}, which holds {known}; leave it out")
        return value

    @field_validator("zone")
    @classmethod
    def _of_the_earth(cls, value: str | None) -> str | None:
        try:
            return value if value is None or zone_named(value) else None
        except ValueError as error:
            raise ValueError("expected a time zone such as Europe/Berlin or UTC+01:00") from error

    @field_validator("tickers")
    @classmethod
    def _spelled_out(cls, value: Tickers | None, info: ValidationInfo) -> Tickers | None:
        """Replace null by the default tickers, so that the config of a run names its data."""
        return TICKERS if value is None and info.data.get("data") == "yfinance" else value

    @field_validator("start", "end")
    @classmethod
    def _day(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Replace null by today's date for a download, so that the config of a run still names its data later."""
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
        data = info.data.get("data", "planted")  # the default is used if `data` itself is invalid
        if value != default and data != "planted":
            raise ValueError(
                f"applies only to task.data=planted, but task.data is {data}; leave it out or at {default}"
            )
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
            raise ValueError(f"expected train + val below 1 (train is {train}), so that rows remain for the test part")
        return value
