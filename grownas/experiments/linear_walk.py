"""The linear models of a backtest: their settings are chosen once, their coefficients are fitted every few rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from grownas.baselines.har import fit_har, select_har
from grownas.baselines.har import parameters as har_parameters
from grownas.baselines.var import VAR, fit_var, fit_var_robust, select_by_folds, usable_orders
from grownas.protocols import Journal

Array = np.ndarray[Any, np.dtype[np.float64]]
Tree = dict[str, Any]


class Fitted(NamedTuple):
    """A linear model whose settings are chosen.

    Attributes:
        fit: fits the coefficients on rows `(n, I)`.
        params: number of fitted coefficients.
    """

    fit: Callable[[Array], VAR]
    params: int


def _zero(rows: Array, outputs: int, orders: range) -> Tree:
    return {}


def _robust(rows: Array, outputs: int, orders: range) -> Tree:
    usable = usable_orders(len(rows), rows.shape[1], orders)
    return select_by_folds(rows, orders=usable, losses=("huber",), outputs=outputs).chosen


def _har(rows: Array, outputs: int, orders: range) -> Tree:
    return select_har(rows, outputs=outputs).chosen


class LinearKind(NamedTuple):
    """How a linear model is fitted.

    Attributes:
        choose: chooses the settings on the rows before the first block, shape `(n, I)`, of which the first O columns
            are forecast, among VAR orders.
        fit: returns the model with these settings, for I columns of which O are forecast.
    """

    choose: Callable[[Array, int, range], Tree]
    fit: Callable[[Tree, int, int], Fitted]


LINEAR = {
    "zero": LinearKind(
        _zero,
        lambda chosen, inputs, outputs: Fitted(lambda rows: VAR(np.zeros(outputs), np.zeros((1, outputs, inputs))), 0),
    ),
    "var1": LinearKind(
        _zero,
        lambda chosen, inputs, outputs: Fitted(lambda rows: fit_var(rows, 1, outputs=outputs), outputs * (1 + inputs)),
    ),
    "var_robust": LinearKind(
        _robust,
        lambda chosen, inputs, outputs: Fitted(
            lambda rows: fit_var_robust(rows, chosen["order"], ridge=chosen["ridge"], outputs=outputs),
            outputs * (1 + chosen["order"] * inputs),
        ),
    ),
    "har": LinearKind(
        _har,
        lambda chosen, inputs, outputs: Fitted(
            lambda rows: fit_har(rows, ridge=chosen["ridge"], outputs=outputs), har_parameters(inputs, outputs)
        ),
    ),
}


@dataclass(frozen=True)
class Linear:
    """A linear model whose coefficients are fitted again every few rows; its settings are chosen once.

    Attributes:
        kind: which one.
        journal: stores the choice of the settings.
        values: all rows, standardised, shape `(n, I)`.
        outputs: number of columns O, the first ones, that are forecast.
        origin: first row that is forecast.
        every: rows between two fits.
        holdout: rows before the first block that a first fit leaves out; its errors on them are known before the walk.
        window: fit on so many latest rows; None: on all rows before.
        orders: VAR orders to choose from.
    """

    kind: str
    journal: Journal
    values: Array
    outputs: int
    origin: int
    every: int
    holdout: int
    window: int | None
    orders: range

    def begin(self) -> Tree:
        """Choose the settings on the rows before the first block."""
        known = self.values[: self.origin]
        chosen = self.journal.remember("settings", lambda: {"chosen": self._choice(known)})
        model = self._model(chosen["chosen"])
        held_out = slice(self.origin - self.holdout, self.origin)
        forecasts = _ahead(self._fitted(model, held_out.start), self.values, held_out)
        errors = self._errors(forecasts, held_out)
        costs = {"gradients": 0, "params": model.params}
        return {**chosen, **costs, "known": None, "errors": errors, "fitted": None, "var": None}

    def _choice(self, known: Array) -> Tree:
        return LINEAR[self.kind].choose(known, self.outputs, self.orders)

    def _model(self, chosen: Tree) -> Fitted:
        return LINEAR[self.kind].fit(chosen, self.values.shape[1], self.outputs)

    def _fitted(self, model: Fitted, end: int) -> VAR:
        return model.fit(self.values[0 if self.window is None else max(0, end - self.window) : end])

    def _errors(self, forecasts: Array, rows: slice) -> Array:
        errors: Array = self.values[rows, : self.outputs] - forecasts
        return errors

    def block(self, number: int, rows: slice, before: Tree, *, learns: bool) -> Tree:
        """Fit the coefficients at each row where a fit is due, and forecast up to the next such row."""
        model, fitted, var = self._model(before["chosen"]), before["fitted"], before["var"]
        forecasts, row = [], rows.start
        while row < rows.stop:
            due = self.origin + (row - self.origin) // self.every * self.every
            if due != fitted:
                fitted, var = due, self._fitted(model, due).to_tree()
            stop = min(rows.stop, due + self.every)
            forecasts.append(_ahead(VAR.from_tree(var), self.values, slice(row, stop)))
            row = stop
        kept = {"chosen": before["chosen"], "fitted": fitted, "var": var, "params": model.params}
        found = np.concatenate(forecasts)
        losses = (self._errors(found, rows) ** 2).mean(axis=1)
        return {**kept, "gradients": 0, "accepted": None, "growth": [], "forecasts": found, "losses": losses}


def _ahead(var: VAR, values: Array, rows: slice) -> Array:
    """Forecast each row from the rows before it."""
    first = max(0, rows.start - var.order)
    return var.forecast(values[first : rows.stop - 1])[rows.start - 1 - first :]
