"""The forecaster as an estimator of sktime, for its pipelines, tuning and evaluation. Needs the extra `sktime`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pandas as pd

try:
    from sktime.forecasting.base import BaseForecaster
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install the extra: pip install 'grownas[sktime]'", name=error.name) from error

from grownas import forecaster
from grownas.observations import Kind


class GrownForecaster(BaseForecaster):
    """Grows a recurrent cell on one or several related series, and forecasts all of them.

    `grownas.GrownForecaster` does the work. Series with missing values are refused. A forecast of a row reads X up to
    the row before it; rows of X that lie beyond are not read.

    Args:
        config: see `grownas.GrownForecaster`, as for all further arguments.
        seed: seed of weights, noise and data order.
        seeds: number of searches; their forecasts are averaged.
        values: what y holds: `returns`, `levels` or `prices`.
        how: how `update` learns: `state`, `continue`, `grow` or `refit`.
        joint: whether an interval covers all series together with the given probability.
        overrides: config values by dotted key.
        quiet: print no progress and no table.

    Attributes:
        forecaster_: the fitted `grownas.GrownForecaster`, with `summary()`, `run_` and `genotype_`.

    Example:
        >>> from sktime.datasets import load_airline
        >>> from grownas.sktime import GrownForecaster
        >>> tiny = GrownForecaster.get_test_params()[0]
        >>> forecaster = GrownForecaster(values="prices", **tiny).fit(load_airline())
        >>> forecaster.predict(fh=[1, 2]).index.astype(str).tolist()
        ['1961-01', '1961-02']
    """

    _tags: ClassVar[dict[str, Any]] = {
        "authors": ["grownas"],
        "maintainers": ["grownas"],
        "python_dependencies": ["torch", "statsmodels"],
        "y_inner_mtype": "pd.DataFrame",
        "X_inner_mtype": "pd.DataFrame",
        "capability:multivariate": True,
        "capability:exogenous": True,
        "capability:non_contiguous_X": False,  # step k reads X of all rows before it
        "capability:missing_values": False,
        "capability:insample": False,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "capability:update": True,
        "requires-fh-in-fit": False,
    }

    def __init__(
        self,
        config: str | os.PathLike[str] = "index_returns/growing",
        seed: int = 1,
        seeds: int = 1,
        values: Kind = "returns",
        how: str = "continue",
        joint: bool = False,
        overrides: Mapping[str, Any] | None = None,
        quiet: bool = True,
    ) -> None:
        self.config = config
        self.seed = seed
        self.seeds = seeds
        self.values = values
        self.how = how
        self.joint = joint
        self.overrides = overrides
        self.quiet = quiet
        super().__init__()

    def _fit(self, y: pd.DataFrame, X: Any, fh: Any) -> Self:
        self.forecaster_ = forecaster.GrownForecaster(**self.get_params(deep=False)).fit(y, X=_apart(X))
        return self

    def _update(self, y: pd.DataFrame, X: Any = None, update_params: bool = True) -> Self:
        self.forecaster_.update(y, X=_apart(X), update_params=update_params)
        return self

    def _predict(self, fh: Any, X: Any) -> pd.DataFrame:
        return self._indexed(self.forecaster_.predict(self._steps(fh), X=_apart(X)), fh)

    def _predict_interval(self, fh: Any, X: Any, coverage: Sequence[float]) -> pd.DataFrame:
        return self._named(self.forecaster_.predict_interval(self._steps(fh), X=_apart(X), coverage=coverage), fh)

    def _predict_quantiles(self, fh: Any, X: Any, alpha: Sequence[float]) -> pd.DataFrame:
        return self._named(self.forecaster_.predict_quantiles(self._steps(fh), X=_apart(X), alpha=alpha), fh)

    def _steps(self, fh: Any) -> list[int]:
        return [int(one) for one in fh.to_relative(self.cutoff).to_numpy()]

    def _indexed(self, frame: pd.DataFrame, fh: Any) -> pd.DataFrame:
        """Give forecasts the index that sktime expects."""
        return frame.set_axis(fh.to_absolute_index(self.cutoff))

    def _named(self, frame: pd.DataFrame, fh: Any) -> pd.DataFrame:
        """Give intervals or quantiles the index and the names of variables that sktime expects."""
        each = frame.shape[1] // len(self._get_varnames())
        names = [name for name in self._get_varnames() for _ in range(each)]
        inner = zip(names, *(frame.columns.get_level_values(i) for i in range(1, frame.columns.nlevels)), strict=True)
        return self._indexed(frame.set_axis(pd.MultiIndex.from_tuples(inner), axis=1), fh)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Return arguments for searches that take well under a second, on 15 rows or more."""
        tiny = {
            "task.least_rows": 10,
            "task.train": 0.54,
            "task.val": 0.23,
            "task.bptt": 2,
            "task.context": 5,
            "space.hidden_size": 8,
            "space.activation": ["identity", "tanh"],
            "start.rule": "single",
            "start.max_order": 1,
            "strategy.max_epochs": 1,
            "strategy.first_epochs": 1,
            "strategy.max_nodes": 1,
            "strategy.origins": 1,
            "strategy.prune": "none",
            "retrain.grown": False,
            "baselines.use": [],
        }
        return [{"overrides": tiny}, {"overrides": tiny, "seed": 2, "joint": True, "how": "state"}]


def _apart(X: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return exogenous series under names that differ from those of y, which sktime does not ask for."""
    return None if X is None else X.rename(columns=lambda name: f"X {name}")
