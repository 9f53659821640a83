"""The task: forecast the next day's returns of all series from the returns up to today."""

from __future__ import annotations

import datetime
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from grownas.errors import DataError
from grownas.evaluation.scoring import evaluating
from grownas.protocols import Evaluation, Joined, Model, Recurrent, Window
from grownas.readout import LinearReadout, readout_of
from grownas.tasks.index_returns import metrics, sources, synthetic
from grownas.tasks.index_returns.cleaning import Panel, clean_moving, only_series, returns_for
from grownas.tasks.index_returns.frequency import Moment, Step, frequencies_apart, next_step
from grownas.tasks.index_returns.losses import LOSSES, calmness, with_slope
from grownas.tasks.index_returns.merging import merged
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.reading import Table, days_if_midnight
from grownas.tasks.index_returns.subpanel import draw_subpanel

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, np.dtype[np.float64]]
LEAST_BLOCK = 60  # rows of an update's validation part, where the model has not learned from so many; three months


class Forecaster(LinearReadout):
    """A core with a linear readout of its state; buffers hold the scaling, so that the weights file is complete."""

    mean: Tensor
    sd: Tensor

    def __init__(
        self,
        core: Recurrent,
        mean: Array,
        sd: Array,
        outputs: int | None = None,
        *,
        generator: Generator | None = None,
    ) -> None:
        """Draw the readout from `generator`; it forecasts the first `outputs` of the series (None: all)."""
        super().__init__(core, len(mean) if outputs is None else outputs, generator=generator)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("sd", torch.tensor(sd, dtype=torch.float64))


@dataclass(frozen=True)
class IndexReturns:
    """A panel of daily returns, split by time into training, validation and test part.

    Attributes:
        options: see `Options`.
        panel: dates, names, returns in their own units, and the report of cleaning.
        source: where the data came from.
        n_train, n_val: number of rows of the training and validation part; the remaining rows are the test part.
        loss_name: the training loss.
        architecture_share: share of the training part, at its end, that trains alpha in bilevel training.
        refitting: whether the training part includes the validation part.
        scaled_by: mean and sd for standardising; None: mean and sd of the training part.
        device: device of new models.
        table: the table that was read, including series that cleaning dropped.
        run_dates: dates of a finished run's own data, if these data are other data for its model.
        seen: number of rows dated up to the last of `run_dates`.
        scored_from: index of the first row that is scored; earlier rows serve as context.
    """

    options: Options
    panel: Panel
    source: str
    n_train: int
    n_val: int
    loss_name: str
    architecture_share: float = 0.2
    refitting: bool = False
    scaled_by: tuple[Array, Array] | None = None
    device: str = "cpu"
    table: Table | None = None
    run_dates: tuple[Moment, ...] = ()
    seen: int = 0
    scored_from: int = 0

    name = "index_returns"
    kind = Options.KIND
    metric = "mse"
    section = Options  # the config section `task`
    losses = Options.LOSSES  # names that `with_loss` accepts
    unit = None  # unit of the training speed; None: not shown
    reads_samples = False

    @classmethod
    def load(
        cls, options: Options, *, architecture_share: float = 0.2, frame: pd.DataFrame | None = None
    ) -> IndexReturns:
        """Read, clean and split the data.

        Args:
            options: see `Options`.
            architecture_share: see the class.
            frame: a data frame to use instead of `options.data`, see `sources.from_frame`.

        Raises:
            DataError: the data cannot be used; the message says where and why.
        """
        return cls._of_table(cls._read(options, frame), options, architecture_share=architecture_share)

    @classmethod
    def load_for(
        cls, options: Options, names: Sequence[str], *, frame: pd.DataFrame | None = None, run_dates: Sequence[str] = ()
    ) -> IndexReturns:
        """Read data for a finished run's model: any number of rows, no training part; `restored` scales them.

        Args:
            options: see `Options`.
            names: names of the series that the model reads; the data may have more series, in any order.
            frame: a data frame to use instead of `options.data`, see `sources.from_frame`.
            run_dates: dates of the run's own rows, ISO, ascending. Rows dated up to the last of them form the part
                `seen`, even if the run did not have them; later rows form the part `new`. All rows of a synthetic panel
                are `new`, because its dates have no meaning.

        Raises:
            DataError: the data cannot be used; the message says where and why.
        """
        if options.subpanel is not None:  # a sub-panel is drawn from the whole data
            task = cls.load(options, frame=frame)
        else:
            table = cls._read(options, frame, only=names)
            panel = returns_for(table, options.difference, longest_still=options.longest_still)
            task = cls(options, panel, table.source, 0, 0, options.loss)
        if frame is None and options.data in synthetic.NAMES:
            return task
        dates = tuple(_moment(day) for day in run_dates)
        if apart := frequencies_apart(task.panel.dates, dates):
            warnings.warn(
                f"{task.source}: the frequency of the rows is {apart[0]}, that of the run {apart[1]}; the model treats "
                "each row as one step",
                stacklevel=2,
            )
        return replace(task, run_dates=dates, seen=task._count_until(dates[-1]) if dates else 0)

    @staticmethod
    def _read(options: Options, frame: pd.DataFrame | None, only: Sequence[str] | None = None) -> Table:
        if frame is not None:
            return sources.from_frame(frame, options.values, only, options.inputs, options.zone)
        return sources.read(
            options.data,
            options.values,
            only,
            options.inputs,
            zone=options.zone,
            tickers=options.tickers,
            start=options.start,
            end=options.end,
            cache=Path(os.path.expanduser(options.cache)),  # unchanged if `~USER` names no user
            data_seed=options.data_seed,
            planted_nodes=options.planted_nodes,
            planted_units=options.planted_units,
        )

    @classmethod
    def _of_table(
        cls, table: Table, options: Options, *, architecture_share: float, only: Sequence[str] | None = None
    ) -> IndexReturns:
        """Clean a table and split it into parts; `only` names the series that a fitted model reads."""
        cut = partial(_cut, options=options, source=table.source)
        panel = clean_moving(
            table, options.difference, cut=cut, least=options.least_rows, longest_still=options.longest_still, only=only
        )
        if options.subpanel is not None:
            panel = draw_subpanel(panel, options.subpanel)
        task = cls(options, panel, table.source, 0, 0, options.loss, architecture_share, table=table).with_parts()
        flat = [name for name, sd in zip(panel.names, task.sd, strict=True) if not sd > 0]
        if flat:  # only in a sub-panel: `clean_moving` has checked the whole panel
            raise DataError(f"{table.source}: constant over the training part: {', '.join(flat)}; remove the column")
        return task

    def with_parts(self) -> IndexReturns:
        """Return the task with all rows split into training, validation and test part, like a run's own data.

        Raises:
            DataError: there are too few rows.
        """
        val = _cut(len(self.panel.returns), options=self.options, source=self.source)["val"]
        return replace(self, n_train=val.start, n_val=val.stop - val.start, run_dates=(), seen=0)

    def joined(self, options: Options, *, frame: pd.DataFrame | None = None, block: int | None = None) -> Joined:
        """Return the rows of this task and those that came since, for the task of an update.

        The last `block` rows become the test part, the `block` rows before them the validation part, all earlier rows
        the training part. None: a quarter of the new rows; or 60 if that is more, as far as the model has not learned
        from so many rows before the new ones. So at least as many rows are learned as are new.

        Args:
            options: `data` names the new rows, `values` is ignored: the new rows are of the kind that the run read.
            frame: a data frame with the new rows instead of `options.data`.
            block: see above.

        Raises:
            DataError: see `merging.merged`; or the model has learned from a row of these two parts.
        """
        if self.options.subpanel is not None or self.table is None:
            raise DataError(f"{self.source}: a sub-panel cannot be updated; set task.subpanel=null in a new search")
        known = only_series(self.table, self.names)
        asked = options.model_copy(update={"values": known.kind})
        table = merged(known, self._read(asked, frame, only=self.names))
        added, unread = len(table.dates) - len(known.dates), len(self.values) - self.rows("train").stop
        chosen = max(2, added // 4, min(LEAST_BLOCK, unread // 2)) if block is None else block
        if 2 * chosen > unread + added:
            last = self.panel.dates[self.rows("train").stop - 1]
            raise DataError(
                f"update.block={chosen}: the validation and the test part would take {2 * chosen} rows, but the model "
                f"has learned from the rows up to {last}, after which there are {unread + added}; lower update.block"
            )
        changes = {
            "values": known.kind,
            "difference": tuple(self.panel.report["differenced"]),
            "recent": chosen,
        }
        whole = sources.frame_of(table)
        text = whole.to_csv(index=False, lineterminator="\n")
        return Joined("data.csv", {"data.csv": text}, changes, whole)

    @property
    def input_size(self) -> int:
        """Number of series I that a model reads."""
        return len(self.panel.names)

    @property
    def names(self) -> list[str]:
        """Names of the series that a model reads; the last may be inputs only."""
        return list(self.panel.names)

    @property
    def target_names(self) -> list[str]:
        """Names of the O series that are forecast, the first ones."""
        return self.names[: self.panel.outputs]

    @cached_property
    def mean(self) -> Array:
        """Mean of each series over the training part, shape `(I,)`, in its own units."""
        return self._scaling[0]

    @cached_property
    def sd(self) -> Array:
        """Standard deviation of each series over the training part, shape `(I,)`, in its own units."""
        return self._scaling[1]

    @cached_property
    def _scaling(self) -> tuple[Array, Array]:
        train = self.panel.returns[: self.n_train]
        return self.scaled_by or (train.mean(0), train.std(0))

    @cached_property
    def values(self) -> Array:
        """Standardised returns, float64, shape `(n, I)`."""
        return (self.panel.returns - self.mean) / self.sd

    @property
    def targets(self) -> Array:
        """Standardised returns of the series that are forecast, float64, shape `(n, O)`."""
        return self.values[:, : self.panel.outputs]

    @cached_property
    def _tensor(self) -> Tensor:
        return torch.from_numpy(self.values).float()

    @cached_property
    def _weights(self) -> Tensor | None:
        if self.loss_name != "volatility" or not self.n_train:  # without a training part the mean variance is unknown
            return None
        return torch.from_numpy(calmness(self.targets, self.n_train)).float()

    def rows(self, part: str) -> slice:
        """Return the rows of a part: `train`, its pieces `weights` and `architecture`, `val`, `test`, or `all`.

        Data loaded for the model of a finished run also have `seen` and `new`. The rows of a part are the days that are
        forecast; models also read earlier days as context.
        """
        end = self.n_train + (self.n_val if self.refitting else 0)
        held_out = round(end * (1 - self.architecture_share))
        after, count = self.n_train + self.n_val, len(self.panel.returns)
        learned = {"train": (0, end), "weights": (0, held_out), "architecture": (held_out, end)}
        if part in learned:
            return slice(*learned[part])
        first, stop = {
            "val": (self.n_train, after),
            "test": (after, count),
            "all": (1, count),
            "seen": (1, self.seen),
            "new": (max(1, self.seen), count),
        }[part]
        return slice(min(max(first, self.scored_from), stop), stop) if self.scored_from else slice(first, stop)

    def scored_parts(self, parts: Sequence[str]) -> tuple[str, ...]:
        """Return the parts that have rows to score.

        Raises:
            DataError: no part has rows after the date given by `since`.
        """
        found = tuple(part for part in parts if self.rows(part).stop > self.rows(part).start)
        if not found and self.scored_from:
            raise DataError(
                f"{self.source}: no row is dated after since=; the last row is {self.panel.dates[-1]}; give an "
                "earlier date"
            )
        return found

    def tensor(self, part: str) -> Tensor:
        """Return a part's standardised returns, float32, shape `(n, 1, I)`."""
        return self._tensor[self.rows(part)].unsqueeze(1)

    def model(self, core: Recurrent, *, generator: Generator | None = None) -> Forecaster:
        """Return a model around a core."""
        return Forecaster(core, self.mean, self.sd, self.panel.outputs, generator=generator).to(self.device)

    def windows(self, part: str, *, seed: int) -> Iterator[Window]:
        """Yield an epoch of training windows; see `Window`.

        Raises:
            DataError: the part is too short for a window.
        """
        rows, bptt = self.rows(part), self.options.bptt
        least = 3 * bptt if self.options.batches == "streams" else bptt + 1  # burn-in, shift and one window
        if rows.stop - rows.start < least:
            raise DataError(
                f"{self.source}: the part {part} has {rows.stop - rows.start} rows, but {self.options.batches} of "
                f"{bptt} days need at least {least}; give more rows, lower task.bptt or change "
                "strategy.architecture_share"
            )
        rng = np.random.default_rng(seed)
        make = self._streams if self.options.batches == "streams" else self._sliding
        return make(rows, rng)

    def _streams(self, rows: slice, rng: np.random.Generator) -> Iterator[Window]:
        """Cut the rows into parallel streams; the state is carried from window to window.

        Each stream first reads the `bptt` days before its own days as burn-in. The start of the streams is drawn anew
        in each epoch.
        """
        bptt = self.options.bptt
        room = rows.stop - rows.start - 2 * bptt  # after the first stream's burn-in and the largest shift
        streams = min(self.options.streams, room // bptt)
        length = room // streams
        first = rows.start + 1 + bptt + int(rng.integers(bptt))  # row 0 has no day before it
        starts = first + length * np.arange(streams)  # first forecast day of each stream
        epoch = self._days(starts - bptt, bptt + length)  # of which windows are views
        yield epoch.cut(0, bptt)._replace(fresh=True, burn_in=True)
        for begin in range(bptt, bptt + length, bptt):
            yield epoch.cut(begin, bptt)

    def _sliding(self, rows: slice, rng: np.random.Generator) -> Iterator[Window]:
        """Yield windows in random order, each from a zero state; only the last day of a window counts in the loss."""
        bptt = self.options.bptt
        order = rng.permutation(np.arange(rows.start + bptt, rows.stop))  # last day of each window
        for begin in range(0, len(order), self.options.streams):
            last = order[begin : begin + self.options.streams]
            window = self._days(last - bptt + 1, bptt)
            only_last = torch.zeros(bptt, 1, 1)
            only_last[-1] = bptt  # the mean over the window is then the loss of its last day
            weight = only_last if window.weight is None else only_last * window.weight
            yield window._replace(weight=weight.expand(bptt, len(last), 1), fresh=True)

    def _days(self, starts: np.ndarray[Any, Any], length: int) -> Window:
        """Return a window whose targets are the days from `starts` on; each input is the day before its target."""
        index = torch.from_numpy(np.arange(-1, length)[:, None] + starts)  # (1 + T, B)
        days = self._tensor.index_select(0, index.flatten()).view(*index.shape, -1)  # faster than indexing
        weight = None if self._weights is None else self._weights[index[1:]]
        return Window(days[:-1], days[1:, :, : self.panel.outputs], weight)

    def loss(self, model: Model, out: Tensor, window: Window) -> Tensor:
        """Return a window's mean training loss from the core's output `(T, B, H)`."""
        losses = LOSSES[self.loss_name](readout_of(model)(out), window.target)
        return (losses if window.weight is None else losses * window.weight).mean()

    def loss_and_slope(self, window: Window, predictions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of predictions `(T, B, I)` and its gradient by them, without autograd."""
        losses, slope = with_slope(self.loss_name, predictions, window.target)
        each = 1 / losses.numel()
        if window.weight is None:
            return losses.mean(), slope * each
        return (losses * window.weight).mean(), slope * (torch.full_like(losses, each) * window.weight)

    def evaluate(self, model: Model, part: str) -> Evaluation:
        """Score a model on a part, after it has read `context` days and the day before the part, from a zero state.

        The first day of the data is not scored, because it has no day before it.
        """
        rows = self._scored(part)
        first = max(0, rows.start - 1 - self.options.context)
        x = self._tensor[first : rows.stop - 1].unsqueeze(1)
        with torch.no_grad(), evaluating(model):
            output, _ = model(x.to(self.device))
        forecasts = output[rows.start - 1 - first :, 0].double().cpu().numpy()
        return self.evaluate_forecasts(forecasts, part)

    def _scored(self, part: str) -> slice:
        rows = self.rows(part)
        return slice(max(1, rows.start), rows.stop)

    def evaluate_forecasts(self, forecasts: Array, part: str) -> Evaluation:
        """Score given forecasts of a part's days, standardised, shape `(n, O)`."""
        rows = self._scored(part)
        actual = self.targets[rows]
        assert forecasts.shape == actual.shape, (forecasts.shape, part)  # guard against broadcasting
        losses = LOSSES[self.loss_name](torch.from_numpy(forecasts), torch.from_numpy(actual)).mean(1).numpy()
        if self._weights is not None:
            losses = losses * self._weights[rows, 0].double().numpy()
        error = float(((forecasts - actual) ** 2).mean())
        return Evaluation(error, losses, forecasts)

    def score(self, evaluation: Evaluation, part: str) -> dict[str, Any]:
        """Return all scores of a part's forecasts, overall and per series."""
        assert evaluation.forecasts is not None
        return metrics.score(self.targets[self.rows(part)], evaluation.forecasts, self.target_names)

    def predict(self, model: Model, parts: Sequence[str] = ("val", "test")) -> pd.DataFrame:
        """Return forecasts of the parts and of the next step, in `units`, see `protocols.Task.predict`."""
        rows: list[tuple[str, str, float, float | None]] = []
        for part in parts:
            found = self.evaluate(model, part).forecasts
            assert found is not None
            forecasts = self.written(found, part)
            for date, *values in zip(self.dates(part), forecasts.tolist(), self.actual(part).tolist(), strict=True):
                rows += zip([date] * len(values[0]), self.target_names, *values, strict=True)
        ahead = self.written(self.day_ahead(model)[None], None)[0].tolist()
        rows += [(self.next_day, series, value, None) for series, value in zip(self.target_names, ahead, strict=True)]
        return sources.forecast_frame(rows)

    def day_ahead(self, model: Model) -> Array:
        """Forecast the day after the last, standardised, shape `(O,)`."""
        x = self._tensor[-self.options.context - 1 :].unsqueeze(1)
        with torch.no_grad(), evaluating(model):
            output, _ = model(x.to(self.device))
        ahead: Array = output[-1, 0].double().cpu().numpy()
        return ahead

    @property
    def zone(self) -> str | None:
        """Name of the time zone of the dates; None if they have none, or only offsets from UTC."""
        return self.options.zone

    @cached_property
    def next_step(self) -> Step:
        """Predicted date of the row after the last; see `frequency.next_step`."""
        return next_step(self.panel.dates, self.run_dates, self.zone)

    @staticmethod
    def following(dates: Sequence[Moment], steps: int) -> list[Moment]:
        """Predict the dates of the next rows, one after the other; see `frequency.next_step`.

        Args:
            dates: dates of the rows, ascending, at least one; datetimes at midnight only count as days.
            steps: number of rows.
        """
        known = days_if_midnight(dates)
        for _ in range(steps):
            known.append(next_step(known).when)
        return known[len(dates) :]

    @property
    def next_day(self) -> str:
        """Date of the row after the last, ISO, with a time of day if rows have one."""
        return str(self.next_step.when)

    def after(self, moment: str) -> IndexReturns:
        """Return the same task, scored only on rows dated after a day or a time.

        Raises:
            DataError: `moment` is not a date.
        """
        return replace(self, scored_from=max(1, self._count_until(_given_moment(moment, f"since={moment}"))))

    def _count_until(self, moment: Moment) -> int:
        """Return the number of rows dated up to the end of a day, or up to a time."""
        return sum(not _is_after(day, moment) for day in self.panel.dates)

    def short_past(self, part: str) -> int:
        """Return how many of a part's first forecasts have fewer earlier rows than `context` asks for."""
        rows = self._scored(part)
        return max(0, int(min(rows.stop, self.options.context + 1) - rows.start))

    def written(self, forecasts: Array, part: str | None) -> Array:
        """Return standardised forecasts in the units that `options.units` names.

        A price forecast is the previous price times the exponential of the forecast log return, without a correction
        for its variance. A level forecast is the previous level plus the forecast change.

        Args:
            forecasts: standardised forecasts, shape `(n, O)`.
            part: the part that is forecast; None for the row after the last, `(1, O)`.

        Raises:
            DataError: `options.units` is prices, but the data are returns.
        """
        own = self.in_own_units(forecasts)
        if self.options.units == "returns":
            return own
        known = self._known
        before = known[-1:] if part is None else known[self._scored(part)]  # row t follows known[t]
        values: Array = before * np.exp(own) if self.panel.report["kind"] == "prices" else before + own
        return values

    def actual(self, part: str) -> Array:
        """Return the actual values of a part's rows, shape `(n, O)`, in the units that `options.units` names."""
        rows = self._scored(part)
        if self.options.units == "returns":
            return self.in_own_units(self.targets[rows])
        return self._known[rows.start + 1 : rows.stop + 1]

    @property
    def _known(self) -> Array:
        if self.panel.known is None:
            raise DataError(
                f"{self.source}: task.units=prices, but the data are returns, so prices are unknown; set "
                "task.units=returns"
            )
        if set(self.panel.report["differenced"]) & set(self.target_names):
            raise DataError(
                "task.units=prices: prices cannot be computed from differenced returns; set task.units=returns"
            )
        return self.panel.known

    @property
    def units(self) -> str:
        """Units of the written forecasts, as text."""
        kind = self.panel.report["kind"]
        if self.options.units == "prices":
            self._known  # noqa: B018, raises if prices are unknown
            return {"prices": "prices", "levels": "levels"}[kind]
        more = {"prices": "; task.units=prices gives prices", "levels": "; task.units=prices gives levels"}
        return self.own_units + more.get(kind, "")

    @property
    def own_units(self) -> str:
        """Units of the rows that a model reads and forecasts, as text."""
        words = {"prices": "log returns in decimals", "levels": "changes of the levels"}
        return words.get(self.panel.report["kind"], "the data's own units")

    def in_own_units(self, forecasts: Array) -> Array:
        """Convert standardised forecasts, shape `(n, O)`, to the units of each series."""
        outputs = self.panel.outputs
        own: Array = self.mean[:outputs] + self.sd[:outputs] * forecasts
        return own

    def dates(self, part: str) -> list[str]:
        """Return the dates of a part, ISO, with a time of day if rows have one."""
        return [str(day) for day in self.panel.dates[self.rows(part)]]

    def with_device(self, device: str) -> IndexReturns:
        """Return the same task with new models on another device."""
        return replace(self, device=device)

    def with_loss(self, name: str) -> IndexReturns:
        """Return the same task with another training loss."""
        return replace(self, loss_name=name)

    def with_refit(self) -> IndexReturns:
        """Return the same task with a training part that includes the validation part."""
        return replace(self, refitting=True)

    def at_origin(self, number: int) -> IndexReturns:
        """Return the same data and scaling at an earlier origin: training ends `number` validation parts earlier.

        Raises:
            DataError: too few training rows are left.
        """
        rows, least = self.n_train - number * self.n_val, 4 * self.options.bptt
        if rows < least:
            raise DataError(
                f"{self.source}: {number} earlier validation part{'s' * (number > 1)} of {self.n_val} rows "
                f"leave{'s' * (number == 1)} {rows} of {self.n_train} training rows; at least {least} are needed. "
                "Lower strategy.origins"
            )
        return replace(self, n_train=rows, scaled_by=self._scaling)

    def until(self, train: int, val: int, end: int, *, since: int = 0) -> IndexReturns:
        """Return the data as they were after `end` rows; the three parts end at the rows `train`, `val` and `end`.

        The training part begins at the row `since`, and the rows before it are left out. The scaling stays that of
        `with_scaling`; without one it is computed from the new training part.

        Raises:
            DataError: the training part has too few rows, or the validation part fewer than 2.
        """
        least = 4 * self.options.bptt
        if train - since < least or val - train < 2:
            raise DataError(
                f"{self.source}: after {val} rows, {train - since} training and {val - train} validation rows are too "
                f"few; at least {least} and 2 are needed. Choose a later origin or lower task.bptt"
            )
        known = None if self.panel.known is None else self.panel.known[since : end + 1]
        panel = replace(
            self.panel, dates=self.panel.dates[since:end], returns=self.panel.returns[since:end], known=known
        )
        return replace(self, panel=panel, n_train=train - since, n_val=val - train, table=None)

    def first_after(self, moment: str) -> int:
        """Return the index of the first row dated at or after a day or a time; the number of rows if there is none.

        Raises:
            DataError: `moment` is not a date.
        """
        since = _given_moment(moment, moment)
        return sum(_is_after(since, day) for day in self.panel.dates)

    def restored(self, tensors: Mapping[str, Tensor], names: Sequence[str]) -> tuple[IndexReturns, int, int]:
        """Return the data with a saved model's scaling, and the input and hidden size of its core.

        Raises:
            DataError: the columns differ.
            KeyError: a tensor is missing.
            ValueError: a tensor does not fit a model of these series.
        """
        mean, sd, readout = tensors["mean"], tensors["sd"], tensors["readout.weight"]
        for name, one in (("mean", mean), ("sd", sd)):
            if one.shape != (len(names),):
                raise ValueError(
                    f"{name} has shape {tuple(one.shape)}, expected ({len(names)},), one number per series"
                )
        if not (sd > 0).all():
            raise ValueError("sd has numbers that are not above 0")
        if readout.dim() != 2 or not readout.numel():
            raise ValueError(f"readout.weight has shape {tuple(readout.shape)}, expected two axes")
        task = self.with_scaling(mean.numpy(), sd.numpy(), names)
        return task, task.input_size, readout.shape[1]

    def with_scaling(self, mean: Array, sd: Array, names: Sequence[str]) -> IndexReturns:
        """Return the same data with the mean and standard deviation of another panel.

        If the model was fitted to a series that cleaning dropped because it does not move, the series is taken back
        with a warning, because the model needs it.

        Raises:
            DataError: the columns differ.
        """
        task = self
        if self.table is not None and set(self.names) < set(names):
            wanted = [name for name in self.table.names if name in names]  # in the order of the table
            if wanted == list(names):
                task = self._with_columns(wanted)
        if list(names) != task.names:
            dropped = [one["series"] for one in self.panel.report["dropped"]]
            without = f" ({', '.join(dropped)} was dropped because it does not move)" if dropped else ""
            raise DataError(
                f"{self.source}: its columns are {', '.join(self.names)}{without}; the model was fitted to "
                f"{', '.join(names)}. Give the same columns in the same order"
            )
        return replace(task, scaled_by=(mean, sd))

    def _with_columns(self, names: Sequence[str]) -> IndexReturns:
        """Return the task with all the given series, even if they do not move in some rows."""
        assert self.table is not None
        again = IndexReturns._of_table(self.table, self.options, architecture_share=self.architecture_share, only=names)
        return replace(again, loss_name=self.loss_name, refitting=self.refitting, device=self.device)

    @property
    def checksum(self) -> str:
        """Checksum of the data that were read and of the series that are differenced."""
        return self.panel.checksum

    def describe(self) -> dict[str, Any]:
        """Return the description of the data for `data.json`: plain values."""
        outputs = self.panel.outputs
        return {
            "names": self.target_names,
            "inputs": list(self.panel.inputs),
            "kinds": ["range" if name.endswith("_range") else "return" for name in self.target_names],
            "dates": self.dates("val") + self.dates("test"),
            "n_train": self.n_train,
            "n_val": self.n_val,
            "n_test": len(self.values) - self.n_train - self.n_val,
            "mean": self.mean[:outputs].tolist(),
            "sd": self.sd[:outputs].tolist(),
            "cleaning": self.panel.report,
            "next": {**self.next_step._asdict(), "when": self.next_day},
            "source": self.source,
            "checksum": self.checksum,
        }


def _cut(rows: int, *, options: Options, source: str) -> dict[str, slice]:
    """Return the rows of each part; raise a DataError if a part has too few rows."""
    val, test = int(rows * options.train), int(rows * (options.train + options.val))  # first rows of the two parts
    if options.recent is not None:
        val, test = rows - 2 * options.recent, rows - options.recent
    least = 4 * options.bptt  # room for burn-in, shift and a window
    if val < least or test - val < 2 or rows - test < 2:
        raise DataError(
            f"{source}: {rows} rows make {val} training, {test - val} validation and {rows - test} test rows; at "
            f"least {least}, 2 and 2 are needed. Give more rows or lower task.bptt"
        )
    return {"train": slice(0, val), "val": slice(val, test), "test": slice(test, rows)}


def _moment(text: str) -> Moment:
    """Parse ISO text to a day, or to a datetime if it has a time."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return datetime.datetime.fromisoformat(text)


def _given_moment(text: str, where: str) -> Moment:
    """Parse a day or a time that the user gave; `where` begins the message of the error.

    Raises:
        DataError: it is not a date.
    """
    try:
        return _moment(text)
    except ValueError as error:
        raise DataError(f"{where}: not a date such as 2024-12-31 or 2024-12-31 15:30") from error


def _is_after(one: Moment, other: Moment) -> bool:
    """Return whether a row's date is after a day or a time; a day ends at midnight."""
    if not isinstance(other, datetime.datetime):
        return (one.date() if isinstance(one, datetime.datetime) else one) > other
    if not isinstance(one, datetime.datetime):
        return one > other.date()
    if (one.tzinfo is None) != (other.tzinfo is None):  # compare local times
        one, other = one.replace(tzinfo=None), other.replace(tzinfo=None)
    return one > other
