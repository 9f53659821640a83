"""The task: model a power amplifier sample by sample, or drive one so that it amplifies linearly.

Signals are scaled by the largest input and the largest output of the training part, or as `Options.scales` says, so
that both reach magnitude 1 and the linear gain at which a predistorter aims is 1. All scores are of signals in their
own units.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Generator, Tensor

from grownas.errors import ConfigError, DataError
from grownas.evaluation.scoring import evaluating
from grownas.export.ends import Ends
from grownas.protocols import Evaluation, Figure, Formulas, Joined, Model, Recurrent, Task, Window
from grownas.tasks.predistortion import metrics
from grownas.tasks.predistortion.amplifier import Amplifier, amplifier_of, amplifier_of_run
from grownas.tasks.predistortion.equations import formulas_of
from grownas.tasks.predistortion.export import ends_of
from grownas.tasks.predistortion.model import SignalModel, as_complex, as_pairs, delayed, rebuild, start_at
from grownas.tasks.predistortion.options import MEMORY, POLYNOMIAL, Options
from grownas.tasks.predistortion.polynomial_fit import choose
from grownas.tasks.predistortion.polynomial_path import path_of
from grownas.tasks.predistortion.reading import PAIR, PARTS, SPEC, Recording, as_csv, read_csv
from grownas.tasks.predistortion.shown import figures_of
from grownas.tasks.predistortion.sources import read
from grownas.tasks.predistortion.updating import check_options, check_recording, joined

Array = np.ndarray[Any, np.dtype[Any]]
UNIT = 1e-4  # of the loss, -40 dB: near what good models reach, so that losses and gradients are near 1
LEAST = 4 * MEMORY  # samples of a part: half of it fills memories
LEAD = 3 * MEMORY  # samples before a repeated frame: they fill the memory, the state, and the memory of an amplifier


@dataclass(frozen=True)
class Predistortion(Task):
    """A recording of an amplifier, and what is learned from it.

    Attributes:
        options: see `Options`.
        recording: input and output of the amplifier, by part.
        architecture_share: share of the training part, at its end, that trains alpha in bilevel training.
        amplifier: the frozen amplifier that predistorters drive; None for `job=model`.
        refitting: whether the training part includes the validation part; the scaling and the amplifier do not.
    """

    options: Options
    recording: Recording
    architecture_share: float = 0.2
    amplifier: Amplifier | None = None
    refitting: bool = False

    name: ClassVar[str] = "predistortion"
    metric: ClassVar[str] = "nmse_db"
    section: ClassVar[type] = Options
    losses: ClassVar[tuple[str, ...]] = Options.LOSSES
    unit: ClassVar[str | None] = None
    loss_name: str = "squared"

    @classmethod
    def load(cls, options: Options, *, architecture_share: float = 0.2) -> Predistortion:
        """Read the recording; for a predistorter fit or load the amplifier.

        Raises:
            DataError: the recording or the amplifier cannot be used, or a part is too short.
        """
        task = cls(options, cls._read(options), architecture_share)
        return task if options.job == "model" else task._with_amplifier()

    @staticmethod
    def _read(options: Options) -> Recording:
        """Read and check the recording."""
        given = {field: getattr(options, field) for field in SPEC.values()}
        recording = read(options.data, output=options.output, data_seed=options.data_seed, **given)
        for part in PARTS:
            _check_part(recording, part, repeats=options.repeats)
        if not 0 <= (delay := recording.delay) <= MEMORY:
            warnings.warn(
                f"{recording.source}: the output is {abs(delay)} samples {'behind' if delay > 0 else 'ahead of'} the "
                f"input, but models read at most {MEMORY} earlier samples and no later ones; align both",
                stacklevel=2,
            )
        return recording

    def _with_amplifier(self) -> Predistortion:
        """Return the task with the amplifier that predistorters drive.

        Raises:
            DataError: see `amplifier_of_run`; or no sample of a window is left to learn from.
        """
        options = self.options
        if options.amplifier == POLYNOMIAL:
            amplifier = amplifier_of(*self.scaled("train"), self.compared("train"))
        else:
            amplifier = amplifier_of_run(options.amplifier, self.recording, self.scales)
        if options.learning == "direct" and options.bptt <= amplifier.memory:
            raise DataError(
                f"task.bptt={options.bptt}: the first {amplifier.memory} samples of a window fill the amplifier's "
                "memory, so none is left to learn from; raise task.bptt or set task.learning=indirect"
            )
        return replace(self, amplifier=amplifier)

    @cached_property
    def amplifier_nmse(self) -> float:
        """NMSE in dB of the frozen amplifier on the test part of the recording; nan without one."""
        if self.amplifier is None:
            return math.nan
        x, y = self.scaled("test")
        with torch.no_grad():
            output = as_complex(self.amplifier(as_pairs(x)[:, None])[:, 0].double().numpy())
        scored = self.scored("test")
        return metrics.nmse(output[scored[-len(output) :]], y[scored])

    @cached_property
    def _recorded_aclr(self) -> tuple[float, float]:
        """Leakage of the recorded output, of the samples that are scored, in dBc."""
        return metrics.aclr(self.signals("test")[1][self.scored("test")], self.recording.band)

    @property
    def caution(self) -> str:
        """Of a predistorter: how well its amplifier is known."""
        if self.amplifier is None:
            return ""
        left, right = self._recorded_aclr
        return (
            f"All scores are of the output of a frozen model of the amplifier, {self.amplifier.words}, whose own test "
            f"NMSE is {self.amplifier_nmse:.2f} dB: what the amplifier does below that is not known. Without a "
            f"predistorter the recorded output has an ACPR of {left:.2f} dBc on the left and {right:.2f} on the right."
        )

    @property
    def source(self) -> str:
        """Where the recording comes from."""
        return self.recording.source

    @property
    def checksum(self) -> str:
        """Checksum of the recording, and of the amplifier's weights if a finished run gives it."""
        return self.recording.checksum + ("" if self.amplifier is None else self.amplifier.checksum)

    @property
    def input_size(self) -> int:
        """Number of features that a core reads."""
        return len(self.options.features) * (self.options.taps + 1)

    @property
    def reads_samples(self) -> bool:
        """Whether a core reads I and Q of the present sample alone, see `protocols.OnSamples`."""
        options = self.options
        return (options.features, options.taps, options.phase) == (("i", "q"), 0, "absolute")

    @cached_property
    def scales(self) -> tuple[float, float]:
        """What a scaled 1 is at the input and at the output of the amplifier, in their own units."""
        return self.options.scales or self.recording.scales

    @property
    def units(self) -> tuple[float, float]:
        """What a scaled 1 is at a model's input and output; the output of a predistorter is an amplifier's input."""
        return self.scales if self.options.job == "model" else (self.scales[0], self.scales[0])

    def signals(self, part: str) -> tuple[Array, Array]:
        """Return the input and output of a part in their own units, complex128, shape `(n,)`.

        With `repeats` each frame comes after a lead-in: its own last `LEAD` samples.
        """
        sides, parts = (self.recording.x, self.recording.y), self._whole(part)
        x, y = (np.concatenate([side[one] for one in parts]) for side in sides)
        if not self.options.repeats:
            return x, y
        size = self.recording.nperseg
        places = np.arange(0, len(x), size)[:, None] + np.arange(-LEAD, size) % size
        return x[places.ravel()], y[places.ravel()]

    def scaled(self, part: str) -> tuple[Array, Array]:
        """Return the `signals` of a part, scaled."""
        x, y = self.signals(part)
        return x / self.scales[0], y / self.scales[1]

    def compared(self, part: str) -> Array | None:
        """Return to which samples of a part models are fitted, bool, shape `(n,)`; None: all that have enough before.

        They are all but the first `MEMORY` of each lead-in, before which the end of another frame is read; likewise of
        the validation part, if that is learned, too.
        """
        return self._places(part) >= MEMORY if self.options.repeats or len(self._whole(part)) > 1 else None

    def scored(self, part: str) -> Array:
        """Return which samples of a part are scored, bool, shape `(n,)`: those behind full memories, no lead-in."""
        memory = MEMORY if self.amplifier is None else MEMORY + self.amplifier.memory
        return self._places(part) >= (LEAD if self.options.repeats else memory)

    def _places(self, part: str) -> Array:
        """Return the place of each sample of a part in its frame, or without `repeats` in its recorded part."""
        size, counts = self.recording.nperseg, [len(self.recording.x[one]) for one in self._whole(part)]
        if self.options.repeats:
            return np.tile(np.arange(LEAD + size), sum(counts) // size)
        return np.concatenate([np.arange(count) for count in counts])

    def _whole(self, part: str) -> Sequence[str]:
        """Return the parts of the recording that make up a part."""
        return ("train", "val") if part == "train" and self.refitting else (part,)

    def learned(self, part: str) -> tuple[Array, Array]:
        """Return what a fitted model of a part reads and what it returns, scaled, complex128, shape `(n,)`.

        A fitted predistorter is the amplifier's inverse: it reads the output and returns the input.
        """
        x, y = self.scaled(part)
        return (x, y) if self.options.job == "model" else (y, x)

    def model(self, core: Recurrent, /, *, generator: Generator | None = None) -> SignalModel:
        """Return a model around a core, without a polynomial."""
        options = self.options
        is_relative = options.phase == "relative"
        return SignalModel(core, options.features, options.taps, is_relative=is_relative, generator=generator)

    def started(self, model: Model, name: str) -> SignalModel:
        """Return a copy of a model that computes the polynomial chosen by blocked folds, see `protocols.Starting`."""
        assert isinstance(model, SignalModel)
        given, wanted = self.learned("train")
        used = self.compared("train")
        chosen = choose(given, wanted, self.options.start_family, used=used, most=self.options.start_params)
        return start_at(copy.deepcopy(model), *path_of(chosen, given, wanted, used))

    def rebuilt(self, core: Recurrent, tensors: Mapping[str, Tensor]) -> SignalModel:
        """Build the model of a finished run, see `protocols.Starting`."""
        return rebuild(self.model(core), tensors)

    def predict(self, model: Model) -> Any:
        """Refuse: see `filtered`.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{self.name} makes no forecasts; a model filters the columns I and Q of a CSV: give input=FILE.csv, or in "
            "Python run.filter(signal)"
        )

    def filtered(self, model: Model, signal: Array) -> Array:
        """Return a model's output for an input, complex128, shape `(n,)`; see `protocols.Filtering`.

        Both are in their own units. Silence is assumed before the first sample.

        Raises:
            DataError: the signal is no complex one of finite numbers, or the output is not finite.
        """
        try:
            signal = np.asarray(signal, dtype=complex)
        except (TypeError, ValueError) as error:
            raise DataError(f"the signal is no array of complex numbers: {error}") from error
        if signal.ndim != 1 or not len(signal):
            raise DataError(f"the signal has shape {signal.shape}; expected complex samples, (n,)")
        if not np.isfinite(signal).all():
            raise DataError(
                f"sample {int(np.argmin(np.isfinite(signal)))} of the signal, counted from 0, is not finite"
            )
        with torch.no_grad(), evaluating(model):
            output, _ = model(self.delayed(np.concatenate([np.zeros(MEMORY), signal / self.units[0]])))
        if not output.isfinite().all():
            times = np.abs(signal).max() / self.units[0]
            raise DataError(
                f"the output is not finite; the largest sample is {times:g} times that of the training part; scale the "
                "signal to the units of the recording"
            )
        return as_complex(output[:, 0].double().numpy() * self.units[1])

    def filtered_file(self, model: Model, path: Path) -> str:
        """Return a model's output for the input in a CSV, as the text of a CSV; both have the columns I and Q.

        Raises:
            DataError: the file cannot be read, or as `filtered`.
        """
        signal = read_csv(path, PAIR)[:, 0]
        try:
            return as_csv(self.filtered(model, signal))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def ends(self, model: SignalModel) -> Ends:
        """Return what comes before and after the cell in an ONNX file, see `export.ends.Exporting`."""
        return ends_of(model, self.units, self.recording.x["train"])

    def formulas(self, model: SignalModel) -> Formulas:
        """Return how a model is written around its core, see `protocols.Written`."""
        return formulas_of(model, self.units, self.options.job)

    # --- learning on ---

    def with_refit(self) -> Self:
        """Return the same task with a training part that includes the validation part."""
        return replace(self, refitting=True)

    def joined(self, options: Options, *, frame: None = None, block: int | None = None) -> Joined:
        """Return a new recording, which takes the place of the run's, see `updating`.

        Args:
            options: `data` and the other keys in `WHERE` name the new recording.
            frame: not for recordings.
            block: not for recordings, whose parts are those of a search.

        Raises:
            ConfigError: an option may not change, or `block` is given.
            DataError: the new recording cannot be used, does not fit that of the run, or was learned.
        """
        if frame is not None:
            raise ConfigError("data: a data frame; a recording is read from files: give a path")
        if block is not None:
            raise ConfigError(f"update.block={block}: a recording has its own parts train, val and test; leave it out")
        check_options(self.options, options)
        new = self._read(options)
        check_recording(self.recording, new)
        return joined(new, self.scales)

    # --- training ---

    def windows(self, part: str, *, seed: int) -> Iterator[Window]:
        """Yield an epoch of windows: parallel streams that carry the state, whose begin is drawn anew in each epoch.

        Each stream first reads the `bptt` samples before its own as burn-in.

        Raises:
            DataError: the part is too short for a window.
        """
        x, target = self._learned
        cut = round(len(x) * (1 - self.architecture_share))
        first, stop = {"train": (0, len(x)), "weights": (0, cut), "architecture": (cut, len(x))}[part]
        bptt = self.options.bptt
        room = stop - first - 2 * bptt  # after the first stream's burn-in and the largest shift
        if room < bptt:
            raise DataError(
                f"{self.source}: the part {part} has {stop - first} samples, but windows of {bptt} need at least "
                f"{3 * bptt}; give a longer recording or lower task.bptt"
            )
        return self._streams(x[first:stop], target[first:stop], room, np.random.default_rng(seed))

    def _streams(self, x: Tensor, target: Tensor, room: int, rng: np.random.Generator) -> Iterator[Window]:
        bptt = self.options.bptt
        streams = min(self.options.streams, room // bptt)
        length = room // streams
        starts = int(rng.integers(bptt)) + length * np.arange(streams)
        index = torch.from_numpy(np.arange(bptt + length)[:, None] + starts)  # (T, B)
        epoch = Window(x[index], target[index])  # of which windows are views
        yield epoch.cut(0, bptt)._replace(fresh=True, burn_in=True)
        for begin in range(bptt, bptt + length - length % bptt, bptt):
            yield epoch.cut(begin, bptt)

    @cached_property
    def _learned(self) -> tuple[Tensor, Tensor]:
        """The delayed input and the target of the training part, float32, shapes `(n, 2 * L)` and `(n, 2)`."""
        given, wanted = self.learned("train")
        if self.is_direct:  # learns from the output behind the amplifier, which is to be the input
            given, wanted = wanted, wanted
        x, target = self.delayed(given)[:, 0], as_pairs(wanted)[MEMORY:]
        if (used := self.compared("train")) is not None:
            x, target = x[used[MEMORY:]], target[used[MEMORY:]]
        return x, target

    @property
    def is_direct(self) -> bool:
        """Whether models are trained through the amplifier."""
        return self.options.job == "predistort" and self.options.learning == "direct"

    def delayed(self, signal: Array) -> Tensor:
        """Return a scaled signal as a model reads it, float32, shape `(n - MEMORY, 1, 2 * L)`."""
        return delayed(as_pairs(signal)[:, None], MEMORY)

    @cached_property
    def _power(self) -> float:
        """Mean power of the target over the training part, scaled."""
        x, y = self.scaled("train")
        wanted = y if self.options.job == "model" else x
        return float(np.mean(np.abs(wanted) ** 2))

    def loss(self, model: Model, out: Tensor, window: Window) -> Tensor:
        """Return the mean squared error of a window over the target's mean power, in units of `UNIT`."""
        assert isinstance(model, SignalModel)
        predicted, target = model.predictions(out, window.x), window.target
        if self.is_direct:
            assert self.amplifier is not None
            predicted, target = self.amplifier(predicted), target[self.amplifier.memory :]
        return (predicted - target).square().sum(-1).mean() / (UNIT * self._power)

    # --- scores ---

    def evaluate(self, model: Model, part: str) -> Evaluation:
        """Score a model on a part; it reads the samples that are not scored, too, and carries its state through all."""
        x = self.delayed(np.concatenate([np.zeros(MEMORY), self.scaled(part)[0]]))
        with torch.no_grad(), evaluating(model):
            output, _ = model(x)
        return self.evaluate_signal(output[MEMORY:], part)

    def evaluate_signal(self, output: Tensor, part: str) -> Evaluation:
        """Score predictions of a part from sample `MEMORY` on, scaled, shape `(n - MEMORY, 1, 2)`; see `scored`.

        Those of a predistorter drive the amplifier, whose output is scored once its memory is full.
        """
        if self.amplifier is not None:
            with torch.no_grad():
                output = self.amplifier(output)
        found = output[:, 0].double().numpy()[self.scored(part)[-len(output) :]]
        wanted = self._wanted(part)
        error = np.abs(as_complex(found) - wanted) ** 2
        return Evaluation(
            float(metrics.decibels(error.sum() / np.sum(np.abs(wanted) ** 2))),
            error / (UNIT * self._power),
            found * self.scales[1],
        )

    def _wanted(self, part: str) -> Array:
        """Return the scored samples of the signal with which predictions of a part are compared, scaled."""
        x, y = self.scaled(part)
        return (y if self.amplifier is None else x)[self.scored(part)]

    def score(self, evaluation: Evaluation, part: str) -> dict[str, Any]:
        """Return EVM, leakage into the adjacent channels, and NMSE as mean over frames, all in dB."""
        assert evaluation.forecasts is not None
        found, wanted = as_complex(evaluation.forecasts), self._wanted(part) * self.scales[1]
        band = self.recording.band
        left, right = metrics.aclr(found, band)
        return {
            "evm_db": metrics.evm(found, wanted, band),
            "acpr_left_db": left,
            "acpr_right_db": right,
            "nmse_frames_db": metrics.nmse(found, wanted, band.nperseg),
        }

    def figures(self, model: Model, scores: Sequence[Mapping[str, Any]]) -> Sequence[Figure]:
        """Return the figures of a run for its report, see `shown.figures_of`."""
        return figures_of(self, model, scores)

    def describe(self) -> dict[str, Any]:
        """Return the facts about the data: plain values."""
        one = self.recording
        leak = self._recorded_aclr
        return {
            "source": self.source,
            "checksum": self.checksum,
            "job": self.options.job,
            "samples": {part: len(signal) for part, signal in one.x.items()},
            "sample_rate": one.sample_rate,
            "bandwidth": one.bandwidth,
            "scales": list(self.scales),
            "output_acpr_left_db": leak[0],
            "output_acpr_right_db": leak[1],
            **({} if self.amplifier is None else self._about_amplifier(self.amplifier)),
        }

    def _about_amplifier(self, amplifier: Amplifier) -> dict[str, Any]:
        gain = 20 * math.log10(self.scales[1] / self.scales[0])
        return {"amplifier": amplifier.words, "amplifier_nmse_db": self.amplifier_nmse, "target_gain_db": gain}


def _check_part(recording: Recording, part: str, *, repeats: bool) -> None:
    """Check that a part of a recording is long enough, holds a signal, and with `repeats` whole frames.

    Raises:
        DataError: it is not so.
    """
    x, y, size = recording.x[part], recording.y[part], recording.nperseg
    least = max(LEAST, size)
    if len(x) < least:
        raise DataError(
            f"{recording.source}: the part {part} has {len(x)} samples, but at least {least} are needed: {LEAST}, and "
            f"a frame of nperseg={size}; give a longer recording or a lower nperseg"
        )
    if not (x[2 * MEMORY :].any() and y[2 * MEMORY :].any()):
        raise DataError(
            f"{recording.source}: the part {part} is 0 from sample {2 * MEMORY} on, after those that fill memories; "
            "give a recording with a signal there"
        )
    if repeats and len(x) % size:
        raise DataError(
            f"{recording.source}: the part {part} has {len(x)} samples, which is no whole number of frames of "
            f"nperseg={size}; set task.nperseg to the length of a repeated frame, or task.repeats=false"
        )
