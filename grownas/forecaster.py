"""A forecaster with the names and the order of calls of scikit-learn and sktime, without a dependency on either."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np

from grownas import api, saved_forecaster
from grownas.config import loading
from grownas.config.sections import How
from grownas.errors import ConfigError, DataError, RunError
from grownas.evaluation.past_errors import PastErrors
from grownas.observations import (
    Form,
    as_frame,
    check_continues,
    dated,
    from_path,
    inputs_of,
    labels_after,
    path_of,
    steps_of,
    to_returns,
    units_of,
    wide,
)
from grownas.saved_forecaster import Saved

if TYPE_CHECKING:
    import pandas as pd

    from grownas.genotype import AnyGenotype
    from grownas.observations import Kind
    from grownas.report.forecaster import ForecasterSummary

Array = np.ndarray[Any, np.dtype[np.float64]]

LONGEST = 20  # steps ahead for which errors are kept, so that intervals can be computed
OWN_KEYS = {  # config key -> the argument that sets it
    "task.data": "y",
    "task.values": "values",
    "task.inputs": "X",
    "seed": "seed",
}


class GrownForecaster:
    """Grows a recurrent cell on one or several related series, and forecasts all of them.

    `fit` runs `grownas.search` on y: the first 70 % of the rows train, the next 15 % choose, the last 15 % compare the
    model with the baselines. `task.train` and `task.val` in `overrides` change these shares, `refit` trains on the
    validation rows too. A forecast reads the last row and the `task.context` rows before it.

    Exogenous series X are inputs that are not forecast, used as they are whatever `values` is. A forecast of a row
    reads X up to the row before it: one step ahead needs no X of the future. Step k reads X of the k - 1 rows between,
    too, and `predict` must be given them.

    Args:
        config: a path, or the name of a shipped config of a task on series.
        seed: seed of weights, noise and data order.
        seeds: number of searches, with the seeds `seed`, `seed` + 1, ..; their forecasts are averaged.
        values: what y holds: `returns`, any values that are forecast as they are; `levels`, whose changes are modelled;
            or `prices`, whose log returns are modelled. Forecasts have y's own units in each case.
        how: how `update` learns: `state` (only the state moves on), `continue`, `grow` or `refit`; see `Run.update`.
        joint: whether an interval covers all series together with the given probability, not each series by itself.
        overrides: config values by dotted key, such as `{"strategy.max_nodes": 2}`.
        quiet: print no progress and no table.

    Attributes:
        y_: all rows seen so far, float64.
        X_: the exogenous series in these rows; None if `fit` got none.
        runs_: the finished searches, one per seed, with scores, growth and model.
        fh_: the horizon that `fit` was given.

    Example:
        >>> import numpy, pandas
        >>> steps = numpy.random.default_rng(0).normal(0, 0.01, (300, 2))
        >>> days = pandas.bdate_range("2024-01-01", periods=300)
        >>> prices = pandas.DataFrame(100 * numpy.exp(steps.cumsum(0)), index=days, columns=["a", "b"])

        >>> from grownas import GrownForecaster
        >>> quick = {"baselines.use": ["var1"], "retrain.grown": False, "strategy.first_epochs": 2}
        >>> forecaster = GrownForecaster(values="prices", overrides=quick).fit(prices)
        >>> [str(day.date()) for day in forecaster.predict(fh=[1, 2]).index]
        ['2025-02-24', '2025-02-25']
        >>> interval = forecaster.predict_interval(fh=1, coverage=0.9)["a"][0.9]
        >>> bool((interval["lower"] < forecaster.predict(fh=1)["a"]).all())
        True
    """

    def __init__(
        self,
        config: str | os.PathLike[str] = "index_returns/growing",
        *,
        seed: int = 1,
        seeds: int = 1,
        values: Kind = "returns",
        how: str = "continue",
        joint: bool = False,
        overrides: Mapping[str, Any] | None = None,
        quiet: bool = True,
    ) -> None:
        """Store the arguments; `fit` and `update` check them."""
        self.config = config
        self.seed = seed
        self.seeds = seeds
        self.values = values
        self.how = how
        self.joint = joint
        self.overrides = overrides
        self.quiet = quiet

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor; `deep` has no effect, because no argument has parameters."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor.

        Raises:
            ConfigError: the constructor has no such argument.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ConfigError(f"{name}: no such parameter; GrownForecaster has {', '.join(known)}")
            setattr(self, name, value)
        return self

    def fit(self, y: Any, X: Any = None, fh: Any = None) -> Self:
        """Search for a cell on the rows of y.

        Args:
            y: a Series, a DataFrame with one column per series, or an array `(n,)` or `(n, I)`. The index holds dates,
                periods or whole numbers.
            X: exogenous series: a Series or DataFrame with a row for each label of y (further rows are ignored), or an
                array with as many rows.
            fh: the horizon of later forecasts that name none; see `predict`.

        Raises:
            DataError: y or X cannot be used, or y has too few rows; the message says how many are needed.
            ConfigError: config, arguments or overrides are wrong.
            TrainingError: training diverged.
        """
        units_of(self.values)
        overrides, frame = self._overrides(), as_frame(y)
        if not frame.size:
            raise DataError(f"y: {len(frame)} rows and {frame.shape[1]} columns; expected values")
        inputs = None if X is None else inputs_of(X, frame.index, frame.columns)
        rows, names = self._joined(frame, inputs)
        data, own = dated(frame.index, rows, names), names[frame.shape[1] :]
        overrides = {"task.longest_still": len(frame), **({"task.inputs": own} if own else {}), **overrides}
        runs = [
            api.search(self.config, data, seed=self.seed + number, overrides=overrides, quiet=self.quiet)
            for number in range(self.seeds)
        ]
        about = runs[0].about_data
        if lost := [name for name in frame.columns if name not in about["names"]]:
            raise DataError(f"y: {', '.join(lost)} does not move in a whole part of the rows; remove this column")
        first = about["n_train"] + (about["n_val"] if runs[0].config.refit else 0)
        forecasts, summed = _ahead(runs, rows, 0, LONGEST), units_of(self.values).differenced
        self._errors = PastErrors.of(forecasts, rows[:, : frame.shape[1]], first, summed=summed)
        self.runs_, self.y_, self.X_, self.fh_, self._form, self._rows = runs, frame, inputs, fh, Form.of(y), rows
        return self

    def _joined(self, y: pd.DataFrame, X: pd.DataFrame | None) -> tuple[Array, list[str]]:
        """Return the rows that a model reads, returns and exogenous values, shape `(n, I)`, and their names."""
        returns, names = to_returns(y, self.values), [str(name) for name in y.columns]
        if X is None:
            return returns, names
        known = X.to_numpy()[len(X) - len(returns) :]
        return np.concatenate([returns, known], axis=1), [*names, *X.columns]

    def _overrides(self) -> dict[str, Any]:
        """Check the arguments that `grownas.search` does not check, and return the overrides for it."""
        if not isinstance(self.seeds, int) or self.seeds < 1:
            raise ConfigError(f"seeds={self.seeds!r}: expected the number of searches, 1 or more")
        if not isinstance(self.seed, int):
            raise ConfigError(f"seed={self.seed!r}: expected a whole number")
        if not isinstance(self.overrides, Mapping | None):
            raise ConfigError(f"overrides={self.overrides!r}: expected a dict from keys of the config to values")
        self._check_how()
        given = dict(self.overrides or {})
        if clash := [f"{key} (set {OWN_KEYS[key]})" for key in given if key in OWN_KEYS]:
            raise ConfigError(f"overrides: an argument of the forecaster sets {', '.join(clash)}; leave it out")
        task = loading.load(self.config, given).task
        if loading.outline(task.use).kind != "series":
            raise ConfigError(
                f"config={self.config!r}: its task, {task.use}, is not on series; choose a config that is"
            )
        if changes := getattr(task, "difference", ()):
            raise ConfigError(
                f"task.difference={list(changes)}: the forecaster reads rows as they are given; leave it out, and give "
                "the changes, such as X.diff(), or for y set values='levels'"
            )
        return {**given, "task.values": "returns"}

    def _check_how(self) -> None:
        if self.how not in get_args(How):
            raise ConfigError(f"how={self.how!r}: expected {', '.join(get_args(How))}")

    def update(self, y: Any, X: Any = None, update_params: bool = True) -> Self:
        """Take further rows, and learn from them as `how` says.

        The rows are forecast before they are learned, so they count in later intervals. Rows up to `cutoff_` are
        ignored.

        Args:
            y: rows of the same series, in the same type as in `fit`. Rows of an array follow the last row.
            X: exogenous series in the rows of y after `cutoff_`, as in `fit`; an array has as many rows as y. None if
                `fit` got none.
            update_params: whether to learn; False: only the state moves on, as with `how="state"`.

        Raises:
            DataError: y or X lacks a series or a row, or cannot be used.
            ConfigError: `how` is wrong, or X is given though `fit` got none.
        """
        self._check_fitted()
        self._check_how()
        frame = self._given(y)
        later = frame.index > self.y_.index[-1]
        if not later.any():
            return self
        inputs = self._inputs(X, frame.index if isinstance(X, np.ndarray) else frame.index[later])
        frame = frame.loc[later]
        known, exogenous = _followed_by(self.y_, frame), None
        if self.X_ is not None:
            exogenous = _followed_by(self.X_, inputs.loc[frame.index])
        rows, names = self._joined(known, exogenous)
        runs, start = self.runs_, self._errors.first_open
        errors = self._errors.extended(_ahead(runs, rows, start, LONGEST), rows[start:, : known.shape[1]])
        if update_params and self.how != "state":
            new = dated(known.index, rows, names).iloc[_rows_read(runs[0]) :]
            runs = [run.update(new, how=self.how) for run in runs]
        self.runs_, self.y_, self.X_, self._rows, self._errors = runs, known, exogenous, rows, errors
        return self

    def _given(self, y: Any) -> pd.DataFrame:
        """Return the rows of y, with the columns in the order of `fit`; rows of an array follow the last known row."""
        frame: pd.DataFrame = as_frame(y)
        if self._form.is_array and frame.shape[1] != self.y_.shape[1]:
            raise DataError(f"y: {frame.shape[1]} columns, but fit got {self.y_.shape[1]}")
        if missing := [name for name in self.y_.columns if name not in frame.columns]:
            raise DataError(f"y: {', '.join(missing)} missing; its columns are {', '.join(frame.columns)}")
        frame = frame[list(self.y_.columns)]
        if self._form.is_array:
            frame.index = frame.index + len(self.y_)
        check_continues(frame.index, self.y_.index)
        return frame

    def _inputs(self, X: Any, index: pd.Index[Any]) -> Any:
        """Return the rows of X with these labels and the columns of `fit`; an array has them in this order.

        Raises:
            ConfigError: X is given though `fit` got none.
            DataError: X is missing, or lacks a series or a row.
        """
        if self.X_ is None:
            if X is not None:
                raise ConfigError("X: fit got no exogenous series, so the model reads none; leave X out, or fit again")
            return None
        if X is None:
            raise DataError(f"X: missing; the model reads {', '.join(self.X_.columns)}, at {index[0]} and later")
        frame = inputs_of(X, index, self.y_.columns)
        if missing := [name for name in self.X_.columns if name not in frame.columns]:
            raise DataError(f"X: {', '.join(missing)} missing; its columns are {', '.join(frame.columns)}")
        return frame[list(self.X_.columns)]

    def predict(self, fh: Any = None, X: Any = None) -> Any:
        """Forecast the next rows.

        Steps after the first are computed by feeding the forecasts back as if they were actual values. The model
        is trained on one step, so check a longer horizon: where the noise is large and the model nonlinear, its
        forecasts may be worse than the mean (`tasks/index_returns/RESULTS.md`).

        Args:
            fh: steps ahead, a whole number or several; 1 is the next row. None: `fh` of `fit`, else 1.
            X: exogenous series in the rows before the last of `fh`, as in `fit`; later rows are not read. None if `fh`
                is 1, or if `fit` got none.

        Returns:
            Forecasts in the units and the type of y; their index continues the index of y.

        Raises:
            DataError: a step is not a whole number of 1 or more, or X lacks a series or a row.
            ConfigError: X is given though `fit` got none.
        """
        steps = self._steps(fh)
        path = self._path(max(steps), X)[np.array(steps) - 1]
        return self._form.shape(self._from_path(path), self._labels(steps))

    def predict_interval(self, fh: Any = None, X: Any = None, coverage: float | Sequence[float] = 0.9) -> pd.DataFrame:
        """Return adaptive conformal prediction intervals, scaled by the current volatility of each series.

        The errors are those of rows that the model has not learned from when it forecast them: the validation part
        (which chose the epochs), the test part, and the rows of updates. The intervals are wider if those before held
        fewer of these rows than they should, and narrower if they held more (Gibbs & Candes 2021); each coverage and
        number of steps is adapted by itself. Many misses in a row make an interval infinite.

        Args:
            fh: see `predict`; at most 20 steps ahead.
            X: see `predict`.
            coverage: probability that an interval holds the value, or several probabilities.

        Returns:
            Columns `(series, coverage, lower or upper)`, as in sktime.

        Raises:
            DataError: there are too few errors for this coverage, or `fh` is out of range.
        """
        steps, levels = self._steps(fh), _probabilities("coverage", coverage)
        names = [(name, level, side) for name in self._form.labels for level in levels for side in ("lower", "upper")]
        return wide(self._bounds(steps, levels, X).reshape(len(steps), -1), self._labels(steps), names)

    def predict_quantiles(
        self, fh: Any = None, X: Any = None, alpha: float | Sequence[float] = (0.05, 0.95)
    ) -> pd.DataFrame:
        """Return quantiles: the bounds of the intervals whose coverage is `abs(2 alpha - 1)`.

        Args:
            fh: see `predict_interval`.
            X: see `predict`.
            alpha: probability of a value below the quantile, or several probabilities.

        Returns:
            Columns `(series, alpha)`, as in sktime.

        Raises:
            DataError: see `predict_interval`.
        """
        steps, alphas = self._steps(fh), _probabilities("alpha", alpha)
        bounds = self._bounds(steps, [abs(2 * one - 1) for one in alphas], X)
        values = np.stack([bounds[:, :, i, int(one > 0.5)] for i, one in enumerate(alphas)], axis=-1)
        names = [(name, one) for name in self._form.labels for one in alphas]
        return wide(values.reshape(len(steps), -1), self._labels(steps), names)

    def _bounds(self, steps: Sequence[int], coverages: Sequence[float], X: Any = None) -> Array:
        """Return lower and upper bounds in the units of y, shape `(k, O, C, 2)`."""
        path = self._path(max(steps), X)
        half = [[self._errors.half_widths(k, c, joint=self.joint) for k in steps] for c in coverages]
        sides = np.stack([-np.array(half), np.array(half)], axis=-2)  # (C, k, 2, O)
        bounds = self._from_path(path[np.array(steps) - 1][:, None] + sides)
        return bounds.transpose(1, 3, 0, 2)

    def _steps(self, fh: Any) -> list[int]:
        """Return a horizon as whole numbers."""
        self._check_fitted()
        return steps_of(fh if fh is not None else self.fh_ if self.fh_ is not None else 1)

    def _path(self, steps: int, X: Any = None) -> Array:
        """Return forecasts from the last row as `path_of` does, shape `(h, O)`."""
        between = self._labels(range(1, steps)) if steps > 1 else self.y_.index[:0]
        needed = X[: len(between)] if isinstance(X, np.ndarray) else X
        future = None if X is None and steps == 1 else self._inputs(needed, between)
        return path_of(_ahead(self.runs_, self._rows, len(self._rows) - 1, steps, future)[0], self.values)

    def _labels(self, steps: Sequence[int]) -> pd.Index[Any]:
        task: Any = loading.task_class(self.run_.config.task.use)  # only tasks on series have `following`
        return labels_after(self.y_.index, max(steps), task.following)[np.array(steps) - 1]

    def _from_path(self, path: Array) -> Array:
        return from_path(path, self.y_.to_numpy()[-1], self.values)

    @property
    def run_(self) -> api.Run:
        """The finished search of the first seed."""
        self._check_fitted()
        return self.runs_[0]

    @property
    def genotype_(self) -> AnyGenotype:
        """The cell of the first seed."""
        return self.run_.genotype

    @property
    def cutoff_(self) -> Any:
        """Label of the last row."""
        self._check_fitted()
        return self.y_.index[-1]

    def summary(self, coverage: float = 0.9) -> ForecasterSummary:
        """Return the data, the models, their growth, tests against the baselines, and the next forecast.

        `print` shows it as text, a notebook as HTML.

        Args:
            coverage: coverage of the intervals of the next forecast.
        """
        from grownas.report.forecaster import Ahead, Fitted, ForecasterSummary

        self._check_fitted()
        ahead = self._from_path(self._path(1)[0])
        bounds = self._bounds([1], [coverage])[0, :, 0]
        return ForecasterSummary.of(
            [Fitted(run.summary, run.about_data, run.test_forecasts, run.genotype) for run in self.runs_],
            Ahead(self._labels([1])[0], ahead.tolist(), bounds.tolist(), coverage),
            rows=(self.y_.index[0], self.y_.index[-1], len(self.y_)),
            values=self.values,
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the forecaster to a new folder: a run folder for each seed, and two files beside them.

        Returns:
            The path of the folder.

        Raises:
            RunError: the folder exists, or an argument or a column name has no form in JSON.
        """
        from grownas.runs.rundir import whole_folder

        self._check_fitted()
        fh = None if self.fh_ is None else self._steps(self.fh_)
        place = Path(os.path.abspath(os.path.expanduser(folder)))
        with whole_folder(place) as whole:
            for number, run in enumerate(self.runs_):
                run.save(whole / f"seed-{self.seed + number}")
            saved = Saved(self.get_params(), self.y_, self.X_, fh, self._form, self._errors)
            saved_forecaster.write(whole, saved)
        return place

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a forecaster that `save` wrote.

        Raises:
            RunError: the folder holds no forecaster, or is damaged.
        """
        path = Path(os.path.expanduser(folder))
        saved = saved_forecaster.read(path)
        made = cls().set_params(**saved.params)
        made.y_, made.X_, made.fh_, made._form, made._errors = saved.y, saved.X, saved.fh, saved.form, saved.errors
        made._rows, names = made._joined(made.y_, made.X_)
        data = dated(made.y_.index, made._rows, names)
        folders = [path / f"seed-{made.seed + number}" for number in range(made.seeds)]
        made.runs_ = [api.load_run(folder, data.iloc[: _rows_read(api.load_run(folder))]) for folder in folders]
        return made

    def _check_fitted(self) -> None:
        if not hasattr(self, "runs_"):
            raise RunError("this forecaster is not fitted; call fit(y) first")

    def __repr__(self) -> str:
        defaults = {name: one.default for name, one in inspect.signature(type(self)).parameters.items()}
        changed = [f"{name}={value!r}" for name, value in self.get_params().items() if value != defaults[name]]
        return f"{type(self).__name__}({', '.join(changed)})"


def _probabilities(name: str, values: Any) -> list[float]:
    """Return one probability or several as a list; `name` is the argument that gave them."""
    try:
        found: list[float] = np.atleast_1d(np.asarray(values, dtype=float)).tolist()
    except (TypeError, ValueError):
        found = []
    if not found or not all(0 < one < 1 for one in found):
        raise DataError(f"{name}={values!r}: expected a probability above 0 and below 1, or several")
    return found


def _followed_by(known: pd.DataFrame, later: pd.DataFrame) -> pd.DataFrame:
    """Return known rows and later rows in one data frame, with the index of the first as far as it can be kept."""
    values = np.concatenate([known.to_numpy(), later.to_numpy()])
    return type(known)(values, index=known.index.union(later.index), columns=known.columns)


def _rows_read(run: api.Run) -> int:
    """Return how many rows of returns a run has read; further rows have only moved the state on."""
    about = run.about_data
    return sum(about[f"n_{part}"] for part in ("train", "val", "test"))


def _ahead(runs: Sequence[api.Run], rows: Array, start: int, steps: int, future: Any = None) -> Array:
    """Forecast the returns after each row from `start` on, mean over the runs, shape `(n - start, h, O)`.

    `future` holds the exogenous series in the rows after the last; None: they are unknown, and what needs them is nan.
    """
    from grownas.evaluation.horizons import returns_ahead

    models: list[Any] = [run.model for run in runs]
    later = None if future is None else future.to_numpy()
    return returns_ahead(models, rows, steps, start=start, context=runs[0].config.task.context, future=later)
