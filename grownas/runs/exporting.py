"""Writes the model of a finished run as ONNX, with notes on what it is, what it reads and how well it scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grownas.errors import ConfigError
from grownas.export import FORMS
from grownas.export.ends import Exporting
from grownas.genotype import Genotype
from grownas.runs.commands import threads_kept
from grownas.runs.reload import Reloaded, reload
from grownas.runs.rundir import write_file
from grownas.runs.saved import summary_of


class Exported(NamedTuple):
    """What `export` wrote.

    Attributes:
        path: path of the file.
        inputs, outputs: name, dtype and axes of each input and output, as text.
    """

    path: Path
    inputs: list[str]
    outputs: list[str]


def export(path: Path, out: Path, overrides: Sequence[str] = (), *, form: str = FORMS[0], data: Any = None) -> Exported:
    """Write a run's model as ONNX, with scaling and readout, or embedding and decoder; see `export.model.onnx_model`.

    Args:
        path: a finished run folder.
        out: the file; its name ends in `.onnx`.
        overrides: see `reload.evaluate`.
        form: `sequence` or `step`.
        data: the run's own data, if the run read a data frame.

    Raises:
        ConfigError: the form or the file's name is wrong, the package onnx is missing, or the model has no ONNX form.
        RunError: the run cannot be used, or the file cannot be written.
        GrownasError: as `reload.evaluate`.
    """
    if form not in FORMS:
        raise ConfigError(f"form={form}: expected {' or '.join(FORMS)}")
    if out.suffix != ".onnx":
        raise ConfigError(f"{out}: the name of an ONNX file ends in .onnx; give {out.with_suffix('.onnx')}")
    try:
        from grownas.export.graph import in_words
        from grownas.export.model import onnx_model
    except ImportError as error:
        raise ConfigError(f"export needs onnx ({error}); install it with `pip install 'grownas[onnx]'`") from error
    with threads_kept():
        used = reload(path, overrides, data)
        ends = used.task.ends(used.model) if isinstance(used.task, Exporting) else None
        found = onnx_model(used.model, form, _notes(path, used), ends)
    write_file(out, found.SerializeToString())
    return Exported(out, in_words(found.graph.input), in_words(found.graph.output))


def _notes(path: Path, used: Reloaded) -> dict[str, str]:
    summary = summary_of(path)
    return {
        "task": used.task.name,
        "model": summary.get("chosen", summary["scores"][0]["model"]),  # `train` has a single model
        "names": json.dumps(used.names),
        **({"targets": json.dumps(used.task.target_names)} if used.task.kind == "series" else {}),
        **({"units": used.task.own_units} if hasattr(used.task, "own_units") else {}),  # words have none
        **{key: str(summary[key]) for key in ("metric", "val", "test", "seed")},
        "genotype": json.dumps(Genotype.load(path / "genotype.json").to_dict()),
    }
