"""Validates the files of a run folder before the report reads them; errors name the file and the key.

A form describes a value. It is a type, a tuple of types, a frozenset of words, `[form]` for a list, `Each(form)` for an
object with any keys, or a mapping from keys to forms; a key that ends in `?` may be missing. Other keys are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grownas.errors import RunError


@dataclass(frozen=True)
class Each:
    """An object with any keys whose values have the same form."""

    form: Any


@dataclass(frozen=True)
class Maybe:
    """Null, or a value with a form."""

    form: Any


NONE = type(None)
NAMES = {
    NONE: "null", int: "a whole number", float: "a finite number", bool: "true or false", str: "a text",
    dict: "an object with keys", list: "a list",
}  # fmt: skip
NUMBER = (int, float)
FIGURE = (int, float, NONE)  # null stands for nan and infinity
TEXT = (str, NONE)
COUNT = (int, NONE)

METRICS = {
    "stage": int, "epoch": int, "step": int, "wall_s": NUMBER, "split": str, "metric": str, "value": FIGURE,
    "part?": str, "model?": str,
}  # fmt: skip
SHARES = {"part": str, "epoch": int, "node": int, "ops": [str], "shares": [NUMBER]}
TRIAL = {"number": int, "val": FIGURE, "best": FIGURE, "wall_s": NUMBER, "reason": str}
MOVE = {
    "stage": int, "kind?": str, "node?": COUNT, "op?": (int, str, NONE), "op_name?": TEXT, "new_op?": TEXT,
    "accepted?": (bool, NONE), "part?": TEXT, "trial?": TEXT, "step?": COUNT, "drift?": FIGURE, "loss_before?": FIGURE,
    "loss_after?": FIGURE, "predicted_change?": FIGURE, "measured_change?": FIGURE, "params_before?": COUNT,
    "params_after?": COUNT, "wall_s?": FIGURE, "judge?": (int, float, str, dict, NONE),
    "edges?": [int], "edge?": [int],
}  # fmt: skip
STAGE = {
    **MOVE,
    "accepted": (bool, NONE),
    "l2_sp?": FIGURE,
    "fits?": int,
    "part_pruned?": TEXT,
    "params?": COUNT,
    "seconds?": FIGURE,
}
SCORED = {
    "r2?": FIGURE, "hit_rate?": FIGURE, "per_series?": Each({"r2?": FIGURE, "hit_rate?": FIGURE, "mse?": FIGURE}),
    "evm_db?": FIGURE, "acpr_left_db?": FIGURE, "acpr_right_db?": FIGURE,
}  # fmt: skip
SUMMARY = {
    "metric": str, "val": FIGURE, "test": FIGURE, "params": int, "nodes": COUNT, "ops": COUNT, "task?": str,
    "strategy?": str, "chosen?": str, "stopped?": TEXT, "search_seconds?": FIGURE, "retrain_seconds?": FIGURE,
    "caution?": str, "stage_log?": [STAGE],
    "starts?": [{"start": str, "val": FIGURE, "kept": bool, "judge?": {"rule": str, "figure": NUMBER, "origins": int}}],
    "scores": [
        {
            "model": str, "params": int, "val": FIGURE, "test": FIGURE, "seconds": NUMBER, "settings?": COUNT,
            "words_per_s?": FIGURE, "chosen?": dict, "detail?": {"test?": SCORED},
        }
    ],
    "tests?": [{"baseline": str, "p_value": NUMBER}],
    "free_running?": Maybe({"diverged": bool, "steps": int, "largest": FIGURE}),
    "next_step?": {"date": str, "forecasts": [FIGURE]},
}  # fmt: skip
CLEANING = {
    "rows_read?": int, "rows_used?": int, "first_day_of_all?": str, "differenced?": [str], "note?": str,
    "dropped?": [{"series": str, "words": str}], "carried_forward?": Each(int), "still_share?": Each(FIGURE),
}  # fmt: skip
ROWS = {"n_train": int, "n_val": int, "n_test": int}
DATA = {"kind?": str, "checksum?": str, "source?": str, "cleaning?": CLEANING}
SERIES = {**DATA, **ROWS, "names": [str], "kinds?": [str], "dates": [str], "mean": [NUMBER], "sd": [NUMBER]}
WORDS = {**DATA, **ROWS, "name": str, "words": int}
FINDINGS = frozenset(("better", "worse", "not told apart", "same", "untested"))
RUN = {"command?": str, "what?": TEXT}
CONFIG = {"task?": Maybe({"use?": str}), "strategy?": Maybe({"use?": str}), "versions?": Maybe(dict)}
SPREAD = {"mean": FIGURE, "sd?": FIGURE}
TEST = {
    "baseline": str, "p_value?": FIGURE, "finding?": FINDINGS, "equal?": bool,
    "days_and_seeds?": Maybe({"p_value": FIGURE}), "over_seeds?": Maybe({"p_value": FIGURE}),
}  # fmt: skip
AGAINST = {
    "baseline": str, "reference": str, "p_value": FIGURE, "p_holm": FIGURE, "loss_difference": NUMBER,
    "finding": FINDINGS, "days_and_seeds": Maybe({"p_value": FIGURE}), "over_seeds": Maybe({"p_value": FIGURE}),
}  # fmt: skip
COMPARISON = {
    "metric": str, "seeds": [int], "reference?": str, "strategies?": [str], "kept_starts?": int, "tests": [TEST],
    "tests_against_random?": [AGAINST],
    "models": [
        {
            "model": str, "n": int, "params": NUMBER, "seconds": NUMBER, "steps?": FIGURE, "cpu_seconds?": FIGURE,
            "gradients?": FIGURE, "settings?": COUNT, "words_per_s?": FIGURE, "val": SPREAD,
            "test": {**SPREAD, "each": [FIGURE]}, "averaged_test?": FIGURE, "in_mcs?": (bool, NONE),
        }
    ],
    "steps?": {"count": int, "unit": str},
    "mcs": {"size": NUMBER, "members": [str], "p_values": dict, "untested?": [str]},
    "sizes?": [{"test": str, "nominal": NUMBER, "lowest": NUMBER, "highest": NUMBER, "source": str}],
    "verdict": str,
}  # fmt: skip

OF_A_CELL = {"early": SPREAD, "last": SPREAD}
STUDY = {
    "metric": str, "seeds": [int],
    "rows": [
        {
            "backbone": str, "strategy": str, "weights": str, "alpha": str, "momentum": NUMBER, "rates": [FIGURE],
            "diverged": int, "epochs": [int], "curves": Each([[FIGURE]]), "supernet": SPREAD, "eigenvalue": SPREAD,
            "cell": OF_A_CELL, "anew": OF_A_CELL,
        }
    ],
    "answers": [{"backbone": str, "strategy": str, "question": str}],
}  # fmt: skip

FIGURES = {
    "figures": [
        {
            "title": str, "caption": str, "x_label": str, "y_label": str, "is_log": bool,
            "lines": [{"label": str, "x": [FIGURE], "y": [FIGURE], "is_points": bool}],
            "spans": [{"label": str, "low": NUMBER, "high": NUMBER}],
        }
    ],
}  # fmt: skip

MEAN = {"mean": NUMBER, "low": NUMBER, "high": NUMBER}
OF_A_PART = {"quantiles": [NUMBER], "from_genotypes": MEAN}
REPLAYS = {
    "metric": str, "at": [int],
    "space": {
        "genotypes": int, "seeds": int, "val": OF_A_PART, "test": OF_A_PART, "correlation": MEAN,
        "correlation_best": MEAN, "correlation_single": MEAN, "of_params": MEAN,
    },
    "strategies": [
        {
            "strategy": str, "repeats": int, "val": [MEAN], "test": [MEAN], "rank": [MEAN],
            "beats_random": Maybe([MEAN]),
        }
    ],
}  # fmt: skip
OF_MODELS = {"name": str, "rows": int, "losses": Each(NUMBER)}
BACKTEST = {
    "metric": str, "reference": str, "first": str, "last": str, "rows": int, "every": int,
    "models": [
        {
            "model": str, "loss": NUMBER, "params": int, "seconds": NUMBER, "cpu_seconds": NUMBER,
            "first_seconds": NUMBER, "learned": int, "accepted": int, "drifts": int,
        }
    ],
    "tests": [{"baseline": str, "p_value": NUMBER, "equal": bool}],
    "mcs": Maybe({"members": [str]}),
    "sizes": [{"test": str, "nominal": NUMBER, "lowest": NUMBER, "highest": NUMBER, "source": str}],
    "years": [OF_MODELS], "blocks": [OF_MODELS],
    "events": [{"model": str, "row": int, "kind": str, "date": str}],
    "coverage?": NUMBER, "names?": [str],
    "intervals?": Each(
        {
            "coverages": [NUMBER], "coverage": NUMBER, "width": FIGURE, "joint_coverage": NUMBER, "joint_width": FIGURE,
            "gaussian_coverage": NUMBER, "gaussian_width": NUMBER, "unbounded": NUMBER,
        }
    ),
}  # fmt: skip


def check(value: Any, form: Any, where: str, place: str = "") -> None:
    """Check that a value has a form.

    Args:
        value: a value read from JSON or YAML.
        form: see the module.
        where: the file, and the line number in a log.
        place: dotted keys that lead to the value.

    Raises:
        RunError: the value has another form; the message names the file and the keys.
    """
    if isinstance(form, Maybe):
        if value is not None:
            check(value, form.form, where, place)
    elif isinstance(form, Each):
        for key, inner in _typed(value, dict, where, place).items():
            check(inner, form.form, where, f"{place}.{key}")
    elif isinstance(form, Mapping):
        _typed(value, dict, where, place)
        for key, inner in form.items():
            name = key.removesuffix("?")
            if name in value:
                check(value[name], inner, where, f"{place}.{name}")
            elif name == key:
                raise RunError(f"{where}: damaged: {f'{place}.{name}'.lstrip('.')} is missing")
    elif isinstance(form, frozenset):
        if _typed(value, str, where, place) not in form:
            raise RunError(f"{where}: damaged: {place.lstrip('.')}: expected one of {sorted(form)}, got {value!r}")
    elif isinstance(form, list):
        for number, inner in enumerate(_typed(value, list, where, place)):
            check(inner, form[0], where, f"{place}[{number}]")
    else:
        _typed(value, form, where, place)


def _typed(value: Any, types: Any, where: str, place: str) -> Any:
    """Return a value if it has one of the types, else raise a RunError; a number must be finite."""
    wanted = types if isinstance(types, tuple) else (types,)
    fits = isinstance(value, wanted) and not (isinstance(value, bool) and bool not in wanted)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        names = " or ".join(NAMES[one] for one in wanted)
        what = f"{place.lstrip('.')}: " if place else ""
        raise RunError(f"{where}: damaged: {what}expected {names}, got {str(value)[:40]!r}")
    return value
