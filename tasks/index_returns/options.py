"""The options of the task, the section `task` of a config."""

from __future__ import annotations

import difflib
import os
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from grownas.schema import Count, OneOrMore, Section, Share, Whole
from grownas.tasks.index_returns.losses import LOSSES
from grownas.tasks.index_returns.sources import NAMES, TICKERS


class Options(Section):
    """Data, parts, loss and batches."""

    WHERE: ClassVar[tuple[str, ...]] = ("data", "tickers", "start", "end", "cache", "data_seed")  # data come from

    use: Literal["index_returns"] = "index_returns"
    data: str = "bundled"  # bundled, yfinance, a synthetic panel's name, or the path of a CSV of closes
    tickers: Annotated[tuple[str, ...], OneOrMore, Field(min_length=1)] = TICKERS  # of yfinance
    start: str = "2010-01-01"  # first day asked of yfinance, ISO
    end: str | None = None  # the day after the last; None: today
    cache: str = "~/.cache/grownas"  # where downloads lie
    data_seed: Whole = 1  # of synthetic panels
    difference: Annotated[tuple[str, ...], OneOrMore] = ()  # series to difference; `ranges`: all range series
    train: Share = 0.70  # parts by time; the rest is the test part
    val: Share = 0.15
    loss: str = "auto"  # squared, huber, volatility; auto: that of the start
    batches: Literal["streams", "windows"] = "streams"
    streams: Count = 16  # parallel streams, or windows in a batch
    bptt: Annotated[int, Field(strict=True, ge=2)] = 20  # days a gradient reaches back, or the length of a window
    context: Count = 100  # days read before the one that the first forecast is made from

    @field_validator("data")
    @classmethod
    def _from_anywhere(cls, value: str) -> str:
        """Make a path absolute, so that a run can be resumed from another folder."""
        return value if value in NAMES else os.path.abspath(os.path.expanduser(value))

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
    def _leaves_a_test_part(cls, value: float, info: object) -> float:
        train = getattr(info, "data", {}).get("train", 0.0)
        if train + value >= 1:
            raise ValueError(f"expected train + val below 1, so that a test part is left, with train = {train}")
        return value
