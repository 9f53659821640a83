"""The options of the task: the section `task` of a config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from grownas.baselines.table import Baseline
from grownas.config.schema import Count, Distinct, OneOrMore, Positive, Section, Several, Whole, about
from grownas.tasks.predistortion.sources import NAMES

Job = Literal["model", "predistort"]
Feature = Literal["i", "q", "abs", "abs3", "cos", "sin"]
FEATURES: tuple[Feature, ...] = ("i", "q", "abs", "abs3", "cos", "sin")
MEMORY = 39  # samples before the present one that the largest polynomial reads, see `polynomial_fit.GRIDS`
POLYNOMIAL = "polynomial"  # value of `start.use` and of `task.amplifier`


def _own(function: str) -> dict[str, str]:
    return {"plain": f"grownas.tasks.predistortion.baselines:{function}"}


class Options(Section):
    """Data, job, inputs of the models, and batches."""

    LOSSES: ClassVar[tuple[str, ...]] = ("squared",)
    BASELINES: ClassVar[Mapping[str, Baseline]] = {
        "fir": Baseline("complex FIR filter; ridge and taps chosen by blocked folds", _own("fir"), fitted=True),
        "mp": Baseline("memory polynomial; ridge, order and taps chosen by blocked folds", _own("mp"), fitted=True),
        "gmp": Baseline("generalised memory polynomial, chosen by blocked folds", _own("gmp"), fitted=True),
        "dgru": Baseline("DGRU of OpenDPD: a GRU, a hidden layer and a shortcut", _own("dgru"), tuned=True),
    }
    STARTS: ClassVar[tuple[str, ...]] = (POLYNOMIAL,)
    WHERE: ClassVar[tuple[str, ...]] = (
        "data",
        "output",
        "data_seed",
        "sample_rate",
        "bandwidth",
        "channels",
        "nperseg",
        "repeats",
    )

    EVALUATION: ClassVar[tuple[str, ...]] = ("amplifier",)
    FITTED: ClassVar[tuple[str, ...]] = ("scales",)

    use: Literal["predistortion"] = "predistortion"
    data: Annotated[
        str,
        about(
            f"{', '.join(NAMES)} (measured; extra `dpd`); or the path of a folder with train_input.csv, "
            "train_output.csv and so on, or of a CSV",
            NAMES,
        ),
    ] = "simulated"
    output: Annotated[str | None, about("CSV of the output, if `data` is the CSV of the input")] = None
    data_seed: Annotated[Whole, about("seed of the simulated recording")] = 1
    sample_rate: Annotated[Positive | None, about("of a folder or CSV, in Hz; null: that of its spec.json")] = None
    bandwidth: Annotated[Positive | None, about("of the main channel, in Hz; null: that of spec.json")] = None
    channels: Annotated[Count | None, about("sub-channels of the main channel; null: those of spec.json")] = None
    nperseg: Annotated[Several | None, about("samples in a frame of a spectrum; null: those of spec.json")] = None
    repeats: Annotated[
        bool,
        about("each frame of nperseg samples was played again and again while it was measured: its end precedes it"),
    ] = False
    scales: Annotated[
        tuple[Positive, Positive] | None,
        about(
            "magnitudes of input and output that become 1, in their own units; null: the largest of the training part. "
            "A predistorter aims at their ratio as linear gain"
        ),
    ] = None
    job: Annotated[
        Job, about("model: predict the amplifier's output; predistort: drive an amplifier so that it is linear")
    ] = "model"
    learning: Annotated[
        Literal["direct", "indirect"],
        about("of a predistorter: through a frozen model of the amplifier, or as the amplifier's inverse"),
    ] = "direct"
    amplifier: Annotated[
        str,
        about("model that a predistorter drives: the generalised memory polynomial, or the folder of a finished run"),
    ] = POLYNOMIAL
    features: Annotated[
        tuple[Feature, ...],
        OneOrMore,
        Field(min_length=1),
        Distinct,
        about("inputs of every trained model: I, Q, |x|, |x|^3, cosine and sine of the phase"),
    ] = FEATURES
    taps: Annotated[
        int, Field(strict=True, ge=0, le=MEMORY), about("register: earlier samples whose features are inputs too")
    ] = 0
    phase: Annotated[
        Literal["absolute", "relative"],
        about(
            "phases of every trained model's features and output; relative: measured from that of the present sample"
        ),
    ] = "absolute"
    start_family: Annotated[
        Literal["mp", "gmp"], about("of the start `polynomial`: the memory polynomial, or the generalised one")
    ] = "gmp"
    start_params: Annotated[Several | None, about("most parameters of the start `polynomial`; null: no limit")] = 200
    polynomial_params: Annotated[
        Several | None, about("most parameters of the baselines `fir`, `mp` and `gmp`; null: no limit")
    ] = None
    streams: Annotated[Count, about("parallel streams of the training part, which carry the state")] = 16
    bptt: Annotated[Several, about("samples after which the gradient is cut")] = 50

    @field_validator("data", "output", "amplifier")
    @classmethod
    def _from_anywhere(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Make a path absolute, so that a run can be resumed from another working folder."""
        words = {"data": NAMES, "output": (None,), "amplifier": (POLYNOMIAL,)}[str(info.field_name)]
        return value if value is None or value in words else os.path.abspath(os.path.expanduser(value))

    @field_validator("learning", "amplifier")
    @classmethod
    def _of_a_predistorter(cls, value: str, info: ValidationInfo) -> str:
        if value not in ("direct", POLYNOMIAL) and info.data.get("job") == "model":
            raise ValueError("applies to task.job=predistort only; leave it out")
        return value
