"""The options of the task, the section `task` of a config.

`task.py` names `Options` as its `section` and hands `data` and `cache` to `sources.read`, the rest to `windows`.
"""

from __future__ import annotations

import os
from typing import Annotated, ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from grownas.config.schema import Count, NonNegative, Positive, Rate, Section, Whole, about
from grownas.tasks.penn_treebank.sources import NAMES


class Options(Section):
    """Text, batches, model and evaluation."""

    KIND: ClassVar[str] = "language"
    LOSSES: ClassVar[tuple[str, ...]] = ("nll",)
    WHERE: ClassVar[tuple[str, ...]] = ("data", "cache")  # the text comes from
    EVALUATION: ClassVar[tuple[str, ...]] = (  # how a finished model may be scored otherwise
        "eval_streams", "context", "dynamic_rate", "dynamic_decay", "cache_size", "cache_flatness", "cache_share",
    )  # fmt: skip
    FINISHED: ClassVar[tuple[str, ...]] = ("dynamic_rate", "cache_size")  # of those, what no training may go by

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
    tied: Annotated[bool, about("the decoder is the embedding")] = True
    gain: Annotated[Positive, about("of the core's output before the decoder")] = 1.0
    learn_gain: Annotated[bool, about("learn the gain, from there on")] = False
    samples: Annotated[
        Count | None, about("words that estimate the softmax in training; null: the whole vocabulary")
    ] = None
    dropout_embedding: Annotated[Rate, about("of whole words")] = 0.0
    dropout_input: Annotated[Rate, about("locked, of what the core reads")] = 0.0
    dropout_hidden: Annotated[Rate, about("locked, between the layers of a core that has several")] = 0.0
    dropout_output: Annotated[Rate, about("locked, of what the core gives")] = 0.0
    weight_drop: Annotated[Rate, about("of recurrent weights")] = 0.0
    activation: Annotated[NonNegative, about("weight of the mean square of the core's output in the loss")] = 0.0
    temporal: Annotated[NonNegative, about("weight of the mean square of its change from step to step")] = 0.0
    dynamic_rate: Annotated[NonNegative, about("of dynamic evaluation; 0: the weights stay as they are")] = 0.0
    dynamic_decay: Annotated[NonNegative, about("of dynamic evaluation, towards the trained weights")] = 0.02
    cache_size: Annotated[Whole, about("steps that a neural cache remembers in evaluation; 0: there is none")] = 0
    cache_flatness: Annotated[NonNegative, about("of the neural cache, theta")] = 0.3
    cache_share: Annotated[Rate, about("of the neural cache in the mixture, lambda")] = 0.1

    @field_validator("dynamic_rate")
    @classmethod
    def _reads_one_stream(cls, rate: float, info: ValidationInfo) -> float:
        """Refuse dynamic evaluation of several streams: the weights would learn what lies ahead in another."""
        streams = info.data.get("eval_streams", 1)
        if rate and streams > 1:
            raise ValueError(f"expected 0, or eval_streams=1 instead of {streams}: dynamic evaluation reads one stream")
        return rate

    @field_validator("cache_size")
    @classmethod
    def _is_scored_one_way(cls, size: int, info: ValidationInfo) -> int:
        """Refuse a cache beside dynamic evaluation: no figure is of both."""
        rate = info.data.get("dynamic_rate", 0)
        if size and rate:
            raise ValueError(f"expected 0, or dynamic_rate=0 instead of {rate:g}: a text is scored by one or the other")
        return size

    @field_validator("data")
    @classmethod
    def _from_anywhere(cls, value: str) -> str:
        """Make a path absolute, so that a run can be resumed from another folder."""
        return value if value in NAMES else os.path.abspath(os.path.expanduser(value))
