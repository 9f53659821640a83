"""The files of a saved forecaster beside its run folders: `forecaster.json` and `forecaster.safetensors`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from grownas.errors import RunError
from grownas.evaluation.past_errors import PastErrors
from grownas.observations import Form, index_from_numbers, index_to_numbers, units_of

if TYPE_CHECKING:
    import pandas as pd

FORMAT = {"format": "grownas.forecaster", "version": 1}
FILE = "forecaster"


class Saved(NamedTuple):
    """What a forecaster keeps beside its runs.

    Attributes:
        params: the arguments of its constructor.
        y: all rows, float64.
        X: the exogenous series in these rows; None if there are none.
        fh: steps ahead of the horizon that `fit` was given, or None.
        form: the type of y, as the user gave it.
        errors: the errors of past forecasts.
    """

    params: dict[str, Any]
    y: pd.DataFrame
    X: pd.DataFrame | None
    fh: list[int] | None
    form: Form
    errors: PastErrors


def write(folder: Path, saved: Saved) -> None:
    """Write the two files to an existing folder.

    Raises:
        RunError: a parameter or a column name has no form in JSON.
    """
    import torch

    from grownas.runs.rundir import RunDir

    errors, (numbers, about) = saved.errors, index_to_numbers(saved.y.index)
    tree = {
        **FORMAT,
        "params": saved.params,
        "index": about,
        "columns": list(saved.y.columns),
        "inputs": [] if saved.X is None else list(saved.X.columns),
        "form": saved.form._asdict(),
        "fh": saved.fh,
        "first": errors.first,
    }
    arrays = {"y": saved.y.to_numpy(), "index": numbers, "one_step": errors.one_step, "ahead": errors.ahead}
    arrays |= {} if saved.X is None else {"X": saved.X.to_numpy()}
    rundir = RunDir(folder)
    try:
        rundir.write_json(f"{FILE}.json", json.loads(json.dumps(tree, default=_plain)))
    except TypeError as error:
        raise RunError(f"the forecaster cannot be saved: {error}; expected numbers, text, lists and paths") from error
    rundir.write_tensors(f"{FILE}.safetensors", {key: torch.tensor(one) for key, one in arrays.items()})


def _plain(value: Any) -> Any:
    """Return a NumPy number or array, or a path, as plain values; raise a TypeError for anything else."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else os.fspath(value)


def read(folder: Path) -> Saved:
    """Read the two files.

    Raises:
        RunError: a file is missing or damaged.
    """
    import pandas as pd
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tree = json.loads((folder / f"{FILE}.json").read_text("utf-8"))
        if (found := {key: tree[key] for key in FORMAT}) != FORMAT:
            raise ValueError(f"expected {FORMAT}, got {found}")
        arrays, params = load_file(folder / f"{FILE}.safetensors"), dict(tree["params"])
        index = index_from_numbers(arrays["index"], tree["index"])
        y = pd.DataFrame(arrays["y"], index=index, columns=tree["columns"])
        inputs = tree.get("inputs", [])  # files of earlier versions have none
        X = pd.DataFrame(arrays["X"], index=index, columns=inputs) if inputs else None
        summed = units_of(params["values"]).differenced
        errors = PastErrors(tree["first"], summed, arrays["one_step"], arrays["ahead"])
        return Saved(params, y, X, tree["fh"], Form(**tree["form"]), errors)
    except FileNotFoundError as error:
        raise RunError(f"{folder}: no saved forecaster: {error.filename} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"{folder}: damaged: {error!r}") from error
