"""The options of the task: the section `task` of a config."""

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
    WHERE: ClassVar[tuple[str, ...]] = ("data", "cache")  # keys that say where the text comes from
    EVALUATION: ClassVar[tuple[str, ...]] = (  # keys that may change how a finished model is scored
        "eval_streams", "context", "dynamic_rate", "dynamic_decay", "cache_size", "cache_flatness", "cache_share",
    )  # fmt: skip
    FINISHED: ClassVar[tuple[str, ...]] = (
        "dynamic_rate",
        "cache_size",
    )  # of these, keys that must not be set in training

    use: Literal["penn_treebank"] = "penn_treebank"
    data: Annotated[
        str, about(f"{', '.join(NAMES)}, or a folder of train.txt, valid.txt and test.txt, plain or .gz")
    ] = "embedded"
    cache: Annotated[str, about("folder for downloads")] = "~/.cache/grownas"
    train_words: Annotated[
        Count | None, about("train on so many words from the first on; null: all. The vocabulary is that of all")
    ] = None
    bptt: Annotated[Count, about("tokens after which the gradient is cut")] = 35
    streams: Annotated[Count, about("number of parallel streams of the training text")] = 32
    random_bptt: Annotated[bool, about("draw each window's length around bptt and scale the learning rate with it")] = (
        False
    )
    eval_streams: Annotated[Count, about("parallel streams in evaluation; published perplexities use 1")] = 1
    context: Annotated[
        Count, about("with several evaluation streams: tokens that each stream but the first reads unscored")
    ] = 200
    tied: Annotated[bool, about("use the embedding as decoder")] = True
    gain: Annotated[Positive, about("factor on the core's output before the decoder")] = 1.0
    learn_gain: Annotated[bool, about("learn the gain, starting at `gain`")] = False
    samples: Annotated[
        Count | None, about("words that estimate the softmax in training; null: the whole vocabulary")
    ] = None
    dropout_embedding: Annotated[Rate, about("dropout rate of whole words")] = 0.0
    dropout_input: Annotated[Rate, about("rate of locked dropout on the core's input")] = 0.0
    dropout_hidden: Annotated[Rate, about("rate of locked dropout between layers")] = 0.0
    dropout_output: Annotated[Rate, about("rate of locked dropout on the core's output")] = 0.0
    dropout_state: Annotated[
        Rate, about("rate of locked dropout on the state that recurrent matrices read; all streams share a mask")
    ] = 0.0
    weight_drop: Annotated[Rate, about("dropout rate of recurrent weights")] = 0.0
    activation: Annotated[NonNegative, about("weight of the mean square of the core's output in the loss")] = 0.0
    temporal: Annotated[
        NonNegative, about("weight of the mean square of the output's change from step to step in the loss")
    ] = 0.0
    dynamic_rate: Annotated[NonNegative, about("learning rate of dynamic evaluation; 0: no dynamic evaluation")] = 0.0
    dynamic_decay: Annotated[NonNegative, about("decay of dynamic evaluation towards the trained weights")] = 0.02
    cache_size: Annotated[Whole, about("steps that the neural cache holds in evaluation; 0: no cache")] = 0
    cache_flatness: Annotated[NonNegative, about("flatness (theta) of the neural cache")] = 0.3
    cache_share: Annotated[Rate, about("share (lambda) of the neural cache in the mixture")] = 0.1

    @field_validator("dynamic_rate")
    @classmethod
    def _reads_one_stream(cls, rate: float, info: ValidationInfo) -> float:
        """Allow dynamic evaluation only with one stream: weights would learn from the future of other streams."""
        streams = info.data.get("eval_streams", 1)
        if rate and streams > 1:
            raise ValueError(f"expected 0, or eval_streams=1 instead of {streams}: dynamic evaluation reads one stream")
        return rate

    @field_validator("cache_size")
    @classmethod
    def _is_scored_one_way(cls, size: int, info: ValidationInfo) -> int:
        """Allow either a cache or dynamic evaluation: they cannot be combined."""
        rate = info.data.get("dynamic_rate", 0)
        if size and rate:
            raise ValueError(f"expected 0, or dynamic_rate=0 instead of {rate:g}: the two cannot be combined")
        return size

    @field_validator("data")
    @classmethod
    def _from_anywhere(cls, value: str) -> str:
        """Make a path absolute, so that a run can be resumed from another working folder."""
        return value if value in NAMES else os.path.abspath(os.path.expanduser(value))
