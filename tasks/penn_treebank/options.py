"""The options of the task, the section `task` of a config.

`task.py` names `Options` as its `section` and hands `data` and `cache` to `sources.read`, the rest to `windows`.
"""

from __future__ import annotations

import os
from typing import Annotated, ClassVar, Literal

from pydantic import field_validator

from grownas.schema import Count, Section, about
from grownas.tasks.penn_treebank.sources import NAMES


class Options(Section):
    """Text and batches."""

    WHERE: ClassVar[tuple[str, ...]] = ("data", "cache")  # the text comes from

    use: Literal["penn_treebank"] = "penn_treebank"
    data: Annotated[
        str, about(f"{', '.join(NAMES)}, or a folder of train.txt, valid.txt and test.txt, plain or .gz")
    ] = "embedded"
    cache: Annotated[str, about("where downloads lie")] = "~/.cache/grownas"
    bptt: Annotated[Count, about("tokens a gradient reaches back")] = 35
    streams: Annotated[Count, about("parallel streams of the training text")] = 32
    random_bptt: Annotated[bool, about("draw each window's length around bptt, the rate scaled with it")] = False
    eval_streams: Annotated[Count, about("parallel streams in evaluation; published perplexities are of 1")] = 1
    context: Annotated[Count, about("tokens each but the first of several evaluation streams reads unscored")] = 200

    @field_validator("data")
    @classmethod
    def _from_anywhere(cls, value: str) -> str:
        """Make a path absolute, so that a run can be resumed from another folder."""
        return value if value in NAMES else os.path.abspath(os.path.expanduser(value))
