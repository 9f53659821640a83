"""Uses the model of a finished run: scores it again, forecasts with it, prints its cell.

Everywhere, `data` is a data frame, a path, or a name that the task knows, such as `bundled`. None: the run's own data.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from grownas.config import loading as configs
from grownas.config.sections import COMPUTING, Config
from grownas.errors import ConfigError, DataError, RunError
from grownas.genotype import Genotype
from grownas.observations import stamps
from grownas.protocols import FRAME, Filtering, Model
from grownas.runs.commands import kept_notes, load_task, threads_kept
from grownas.runs.rundir import RunDir, write_file
from grownas.runs.saved import layers_of, model_from, summary_of, weights_of

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("date", "series", "forecast", "actual")
MADE_FROM = "forecasts.json"  # in a run folder: file of forecasts -> the data that it was computed from
OWN = "the run's own data"


class Written(NamedTuple):
    """What `write_forecasts` wrote.

    Attributes:
        path: path of the file.
        units: units of forecasts and actual values, as text.
        date: date of the next step, ISO, or the task's own label for it.
        frequency: frequency of the data, from which the date is computed, as text; empty if the task has none.
        ahead: forecast of the next step, by series.
    """

    path: Path
    units: str
    date: str
    frequency: str
    ahead: dict[str, float]


def evaluate(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    data: pd.DataFrame | str | os.PathLike[str] | None = None,
    since: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Score the saved model again.

    Args:
        path: a finished run folder.
        overrides: `task.data=NEW` scores the model on other data: series with the same columns, standardised with the
            run's means and standard deviations, a text, read with the run's vocabulary, or a recording of an amplifier,
            in the run's scaling. The keys in the task's `EVALUATION` change how the model is scored, the keys in
            `COMPUTING` the hardware.
        data: other data, see the module.
        since: for series: score only rows dated after this day or time; earlier rows serve as context.

    Returns:
        Scores by part. The run's own data have the parts `val` and `test`. Other series have `seen`, the rows dated up
        to the end of the run's own data, and `new`, the later rows; empty parts are left out. Another text has `all`,
        another recording `val` and `test`.

    Raises:
        GrownasError: folder, data or override cannot be used; the message says why and what to do.
    """
    with threads_kept():
        model, task, parts, *_ = reload(path, overrides, data, since)
        if not parts:
            raise DataError(
                f"{task.source}: no row can be scored, because the first row has no row before it; add a row"
            )
        scores = {}
        for part in parts:
            found = task.evaluate(model, part)
            scores[part] = {task.metric: found.metric, **task.score(found, part)}
            if part in ("seen", "new") or since is not None:
                dates = task.dates(part)
                scores[part] |= {"first": dates[0], "last": dates[-1]}
        return scores


def predict(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    data: pd.DataFrame | str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Return one-step-ahead forecasts of the validation and test rows; for other data, of all rows but the first.

    Args:
        path: a finished run folder.
        overrides: `task.data=NEW` forecasts other data; `task.units=prices` gives prices instead of returns, or levels
            instead of their changes; the keys in `COMPUTING` set the hardware.
        data: other data, see the module. Any number of rows; older rows serve as context. Columns in any order;
            columns that the model does not read are ignored.

    Returns:
        Columns date, series, forecast and actual, in the units that `task.units` names. The last rows forecast the next
        step: actual is nan, and the date follows the data's own frequency.

    Raises:
        GrownasError: folder, data or override cannot be used; the message says why and what to do.
    """
    import pandas as pd

    rows, used = _forecasts(path, overrides, data)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    if used.task.kind == "series":
        frame["date"] = stamps(frame["date"], used.task.zone)
    return frame.astype({"forecast": float, "actual": float})


def write_forecasts(path: Path, overrides: Sequence[str] = (), *, out: Path | None = None) -> Written:
    """Write forecasts to a CSV file with the columns date, series, forecast and actual; see `predict`.

    Args:
        path: a finished run folder.
        overrides: see `predict`.
        out: the file. None: a file in the run folder, `forecasts.csv` for the run's own data and `forecasts-NAME.csv`
            for the file NAME.csv; `-prices` is appended to the name if `task.units=prices` is given. A file with
            forecasts of other data of the same name is not overwritten.

    Raises:
        RunError: the file cannot be written, or it exists in the run folder with forecasts of other data.
        GrownasError: as `predict`.
    """
    rows, used = _forecasts(path, overrides)
    task = used.task
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for date, series, forecast, actual in rows:
        writer.writerow([date, series, repr(forecast), "" if actual is None else repr(actual)])
    if out is None:
        out, rundir = path / used.file_name, RunDir.open(path)
        rundir.write_json(MADE_FROM, _made_from(path, used))
        rundir.write_text(used.file_name, text.getvalue())
    else:
        try:
            out.write_text(text.getvalue(), encoding="utf-8")
        except OSError as error:
            raise RunError(f"out={out}: cannot be written: {error.strerror}") from error
    next_step = {series: forecast for _, series, forecast, actual in rows if actual is None}
    if task.kind != "series":
        return Written(out, "the task's own", rows[-1][0], "", next_step)
    return Written(out, task.units, task.next_day, task.next_step.frequency, next_step)


def write_filtered(path: Path, given: Path, overrides: Sequence[str] = (), *, out: Path | None = None) -> Path:
    """Write the output of a run's model for the signal in a CSV to another CSV with the same columns.

    Args:
        path: a finished run folder.
        given: the CSV of the input.
        overrides: see `evaluate`.
        out: the file. None: `NAME-output.csv` in the working folder, for an input NAME.csv.

    Returns:
        The file.

    Raises:
        ConfigError: the task's models filter no signal.
        RunError: the file cannot be written.
        GrownasError: as `evaluate`.
    """
    with threads_kept():
        task, model = _filtering(path, overrides)
        text = task.filtered_file(model, given)
    out = out or Path(f"{given.name.removesuffix('.gz').removesuffix('.csv')}-output.csv")
    write_file(out, text.encode())
    return out


def filtered(path: Path, signal: Any) -> Any:
    """Return the output of a run's model for a signal, see `api.Run.filter`.

    Raises:
        ConfigError: the task's models filter no signal.
        DataError: the signal cannot be used.
        GrownasError: as `evaluate`.
    """
    with threads_kept():
        task, model = _filtering(path, ())
        return task.filtered(model, signal)


def _filtering(path: Path, overrides: Sequence[str]) -> tuple[Filtering, Model]:
    used = reload(path, overrides)
    if not isinstance(used.task, Filtering):
        raise ConfigError(f"{path}: {used.task.name} filters no signals; forecast a table instead")
    return used.task, used.model


def _made_from(path: Path, used: Reloaded) -> dict[str, str]:
    """Return the data that each file of forecasts in a run folder was computed from, including the new file.

    Raises:
        RunError: a file of this name exists and holds forecasts of other data.
    """
    name, note = used.file_name, path / MADE_FROM
    try:
        made: dict[str, str] = json.loads(note.read_text("utf-8")) if note.exists() else {}
        before = made.get(name, OWN if name == "forecasts.csv" else "data that an earlier version did not record")
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{note}: damaged: {error}; remove it") from error
    if (path / name).exists() and before != used.data:
        raise RunError(
            f"{path / name} holds forecasts of {before}; to forecast {used.data}, give out=FILE or move this file"
        )
    return {**made, name: used.data}


def _forecasts(
    path: Path, overrides: Sequence[str], data: Any = None
) -> tuple[list[tuple[str, str, float, float | None]], Reloaded]:
    """Return rows of `COLUMNS`, and the model and data they were computed from."""
    try:
        with threads_kept():
            used = reload(path, overrides, data)
            model, task, parts = used.model, used.task, used.parts
            frame = task.predict(model, parts) if task.kind == "series" else task.predict(model)
    except NotImplementedError as error:
        where = "" if task.kind == "plain" else f"{path}: "
        raise ConfigError(f"{where}{error}; `grownas evaluate` scores its model") from error
    if missing := [column for column in COLUMNS if column not in frame.columns]:
        raise ConfigError(f"{task.name}: predict gives no {', '.join(missing)}; expected the columns {COLUMNS}")
    rows = [
        (str(date), str(series), float(forecast), None if actual != actual else float(actual))  # nan: the next step
        for date, series, forecast, actual in frame[list(COLUMNS)].itertuples(index=False)
    ]
    if task.kind == "series" and task.next_step.doubt:
        warnings.warn(
            f"{task.source}: the next step's date, {task.next_day}, is a guess: {task.next_step.doubt}", stacklevel=3
        )
    return rows, used


def model(path: Path, *, data: Any = None) -> Model:
    """Return a run's model with its trained weights, in evaluation mode.

    Args:
        path: a finished run folder.
        data: the run's own data, if the run read a data frame.
    """
    with threads_kept():
        return reload(path, (), data).model


def show(path: Path) -> str:
    """Describe a cell as text: nodes, ops, parameters. `path`: a run folder, a genotype.json or a published name."""
    params = None
    if path.is_dir():
        RunDir.open(path)
        summary = summary_of(path)
        params, path = summary["params"], path / "genotype.json"
        if not path.exists():
            raise RunError(f"{path.parent}: this run trained a baseline, which has no cell")
    genotype = Genotype.load(path)
    count = f", {params:,} parameters with the readout" if params is not None else ""
    return "\n".join([f"{len(genotype.nodes)} node(s), {genotype.op_count} op(s){count}", *genotype.in_words()])


class Reloaded(NamedTuple):
    """A run's model and the data on which it is used.

    Attributes:
        model: the model with its trained weights.
        task: the data.
        parts: parts of the data that can be scored.
        file_name: name of the file for forecasts.
        data: path or name of the data, or `OWN`.
        names: names of the series or words that the model reads, in order; empty for a task of another kind.
    """

    model: Model
    task: Any  # also has dates, units and earlier rows, which are not part of `SeriesTask`
    parts: tuple[str, ...]
    file_name: str
    data: str
    names: list[str]


def reload(path: Path, overrides: Sequence[str], data: Any = None, since: str | None = None) -> Reloaded:
    """Load a run's model and the data on which it is used; set the number of PyTorch threads to the run's.

    Args:
        path: a finished run folder.
        overrides: see `evaluate`.
        data: see the module.
        since: see `evaluate`.
    """
    summary, notes = summary_of(path), kept_notes(path)
    frame = None if data is None or isinstance(data, str | os.PathLike) else data
    kept = configs.load(path / "config.yaml")
    if data is not None:
        overrides = [*overrides, f"task.data={json.dumps(FRAME if frame is not None else os.fspath(data))}"]
    if frame is not None:
        own = [f"task.{key}={json.dumps(value)}" for key, value in kept.task.of_frame(frame).items()]
        overrides = [*own, *overrides]
    config = configs.load(path / "config.yaml", overrides)
    _check_overrides(kept, config)
    torch.set_num_threads(config.threads)
    if not (path / "weights.safetensors").exists():
        raise RunError(f"{path}: no saved model; this run trained a baseline, whose scores are in summary.json")
    tensors, names, sizes = weights_of(path / "weights.safetensors")
    is_named = any(item.partition("=")[0] in [f"task.{key}" for key in kept.task.WHERE] for item in overrides)
    task, parts, is_own = _data_for(path, config, names, frame, notes["data_checksum"], is_named=is_named)
    if summary["loss"] not in task.losses:
        raise RunError(f"{path / 'summary.json'}: damaged: unknown loss {summary['loss']!r}")
    task = task.with_loss(summary["loss"])
    model, task = model_from(path, task, tensors, names, sizes, layers_of(path, config), config.backend)
    if since is not None:
        if task.kind != "series":
            raise ConfigError(f"since={since}: {task.name} has no dates; leave since= out")
        task = task.after(since)
    if task.kind == "series":
        parts = task.scored_parts(parts)
    if task.kind == "series" and "all" not in parts and not is_own:
        _tell_short_past(task, parts)
    data_name = OWN if is_own else str(config.task.data)
    return Reloaded(model, task, parts, _file_name(kept, config, is_own=is_own), data_name, names)


def _data_for(
    path: Path, config: Config, names: Sequence[str], frame: Any, checksum: str, *, is_named: bool
) -> tuple[Any, tuple[str, ...], bool]:
    """Load the data on which a run's model is used.

    Args:
        path: the run folder.
        config: the run's config with the overrides.
        names: names of the series or words that the model reads.
        frame: a data frame to read instead of `task.data`; None: none.
        checksum: checksum of the run's own data.
        is_named: an override names the data.

    Returns:
        The task, the parts that can be scored, and whether the data are the run's own.

    Raises:
        DataError: no override names the data, and the run's own data have changed.
    """
    if is_named and hasattr(configs.task_class(config.task.use), "load_for"):
        parts: tuple[str, ...] = ("seen", "new")
        task: Any = load_task(config, frame=frame, names=names, run_dates=_run_dates(path))
    else:
        parts = ("all",)
        task = load_task(_fitted(path, config) if is_named else config, frame=frame)
    is_own = bool(checksum == task.checksum)
    if not is_own and not is_named:
        raise DataError(
            f"{path}: the data have changed since the run ({task.source}); give task.data= to use the model on the "
            "changed data"
        )
    if task.kind == "plain":
        parts = ("val", "test")
    elif is_own:
        task, parts = task.with_parts() if "new" in parts else task, ("val", "test")
    return task, parts, is_own


def _file_name(kept: Config, config: Config, *, is_own: bool) -> str:
    """Return the name of the file for forecasts: it names other data, and changed options of the scoring."""
    words = [] if is_own else [Path(config.task.data).stem]
    words += [str(new) for key in kept.task.EVALUATION if (new := getattr(config.task, key)) != getattr(kept.task, key)]
    return f"{'-'.join(['forecasts', *words])}.csv"


def _tell_short_past(task: Any, parts: Sequence[str]) -> None:
    """Warn about forecasts with fewer earlier rows as context than the forecasts of a run's own data have."""
    context = task.options.context
    count = sum(task.short_past(part) for part in parts[-1:])  # of the last part, `new` if it has rows
    if count or len(task.values) <= context:
        what = f"{count} forecast{'s are' if count > 1 else ' is'}" if count else "the next step's forecast is"
        warnings.warn(
            f"{task.source}: {what} computed from a zero state and fewer than task.context={context} earlier rows; put "
            "older rows before the new rows",
            stacklevel=4,
        )


def _run_dates(path: Path) -> list[str]:
    """Return the ISO dates of a run's validation and test rows."""
    with _about_data(path, "the dates of the run's rows") as about:
        for date in about["dates"]:
            datetime.datetime.fromisoformat(date)
        return list(about["dates"])


def _fitted(path: Path, config: Config) -> Config:
    """Return the config with the options that a run took from its data, see `Section.FITTED`."""
    keys = config.task.FITTED
    if not keys:
        return config
    with _about_data(path, ", ".join(keys)) as about:
        fitted = {key: about[key] for key in keys}
        return config.model_copy(update={"task": type(config.task)(**{**config.task.model_dump(), **fitted})})


@contextmanager
def _about_data(path: Path, content: str) -> Iterator[dict[str, Any]]:
    """Yield a run's facts about its data; name the file if they are not as expected."""
    file = path / "data.json"
    try:
        yield json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: damaged: {error!r}; this file holds {content}") from error


def _check_overrides(kept: Config, config: Config) -> None:
    """Raise a ConfigError if an override changes more than the data, the scoring or the hardware."""
    free = {*kept.task.WHERE, *kept.task.EVALUATION}
    before = {"task": kept.task, **{key: getattr(kept, key) for key in COMPUTING}}
    same_rest = config.model_copy(update=before).fingerprint() == kept.fingerprint()
    if not same_rest or config.task.model_dump(exclude=free) != kept.task.model_dump(exclude=free):
        where, how = (", ".join(f"task.{key}" for key in keys) for keys in (kept.task.WHERE, kept.task.EVALUATION))
        other = f"{how} (scoring), " if how else ""
        data = f"{where} (data), {other}" if where else ""
        raise ConfigError(
            f"only {data}{', '.join(COMPUTING)} (hardware) may change on a finished run; start a new run for anything "
            "else"
        )
