"""The Python API: search, compare, load a run, forecast and score with it.

Functions take and return data frames. The same config, data and seed give the same bits as the command line. Nothing
is written to disk unless `folder` is given.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grownas.backtested import Backtest
from grownas.config import loading
from grownas.config.sections import Config
from grownas.errors import ConfigError, RunError
from grownas.genotype import AnyGenotype, Genotype
from grownas.protocols import FRAME

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import nn

    from grownas.cells.cell import GrownRNN
    from grownas.runs.memory import MemoryFolder
    from grownas.runs.rundir import RunDir

    Data = pd.DataFrame | str | os.PathLike[str]


class Run:
    """A finished run, returned by `search` or loaded from a run folder.

    Attributes:
        config: the run's config.
        summary: the content of `summary.json`: the chosen model, all scores, the result of the search.
        folder: the run folder; None if nothing was written.
    """

    def __init__(
        self,
        config: Config,
        summary: dict[str, Any],
        *,
        folder: Path | None,
        files: MemoryFolder | None = None,
        logs: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        data: Any = None,
    ) -> None:
        """Create a run; users call `search` or `load` instead."""
        self.config, self.summary, self.folder = config, summary, folder
        self._files, self._logs, self._data = files, dict(logs or {}), data
        self._model: nn.Module | None = None

    @property
    def scores(self) -> pd.DataFrame:
        """One row per model: validation and test score, parameters, seconds, settings tried.

        The index is `model`. `summary["metric"]` names the metric of the scores; lower is better.
        """
        import pandas as pd

        rows = [{key: value for key, value in entry.items() if key != "detail"} for entry in self.summary["scores"]]
        return pd.DataFrame(rows).set_index("model")

    @property
    def genotype(self) -> AnyGenotype:
        """The cell of the chosen model.

        Raises:
            RunError: the run trained a baseline, and a baseline has no cell.
        """
        with self._path() as path:
            if not (path / "genotype.json").exists():
                raise RunError(f"{self}: the run trained a baseline, and a baseline has no cell")
            return Genotype.load(path / "genotype.json")

    @property
    def growth(self) -> pd.DataFrame:
        """One row per change of the cell that the search tried, accepted or rejected (`growth.jsonl`)."""
        return self._log("growth")

    @property
    def trials(self) -> pd.DataFrame:
        """One row per genotype that the search trained on its own (`trials.jsonl`); empty for other strategies."""
        return self._log("trials")

    def _log(self, name: str) -> pd.DataFrame:
        import pandas as pd

        if name not in self._logs:
            assert self.folder is not None
            file = self.folder / f"{name}.jsonl"
            text = file.read_text("utf-8") if file.exists() else ""  # runs of older versions have no trials.jsonl
            self._logs[name] = [json.loads(line) for line in text.splitlines()]
        return pd.DataFrame(list(self._logs[name]))

    @property
    def about_data(self) -> dict[str, Any]:
        """The content of `data.json`: names of the series, dates, rows of each part, scaling, cleaning."""
        with self._path() as path:
            about: dict[str, Any] = json.loads((path / "data.json").read_text("utf-8"))
        return about

    @property
    def test_forecasts(self) -> dict[str, Any]:
        """Standardised forecasts of the test part by model, and the actual values as `actual`: arrays `(n, I)`.

        Raises:
            RunError: the task is not on series.
        """
        from safetensors.numpy import load_file

        with self._path() as path:
            file, first = path / "forecasts.safetensors", self.about_data.get("n_val")
            if not file.exists():
                raise RunError(f"{self}: only a run on series has forecasts")
            return {name: each[first:] for name, each in load_file(file).items()}

    @property
    def model(self) -> nn.Module:
        """The chosen model, in evaluation mode: the cell with its readout (series) or decoder (text)."""
        if self._model is None:
            from grownas.modules import as_module
            from grownas.runs import reload

            with self._path() as path:
                self._model = as_module(reload.model(path, data=self._data))
        return self._model

    def cell(self) -> GrownRNN:
        """Return a copy of the trained cell, a drop-in for `nn.GRU`.

        Raises:
            RunError: the model is not a single `GrownRNN`, for example because it has several layers.
        """
        from grownas.cells.cell import GrownRNN

        core = self.model.core
        if not isinstance(core, GrownRNN):
            raise RunError(f"{self}: its core is a {type(core).__name__}, not a GrownRNN; use run.model.core")
        return copy.deepcopy(core)

    def predict(self, data: Data | None = None, overrides: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return one-step-ahead forecasts, each computed from the rows before it.

        Args:
            data: a data frame (a `DatetimeIndex` or a column `date`, and one column per series), a path, or a name that
                the task knows, such as `bundled`. Any number of rows; older rows serve as context. None, or the run's
                own data: only the validation and test rows.
            overrides: config values by dotted key, such as `{"task.units": "prices"}`.

        Returns:
            Columns `date`, `series`, `forecast`, `actual`, in the units of the data's returns unless `task.units` says
            otherwise. The last rows forecast the next step; their `actual` is missing.

        Raises:
            DataError: the data lack a series, or cannot be read.
        """
        from grownas.runs import reload

        with self._path() as path:
            return reload.predict(path, _as_items(overrides), data=self._data if data is None else data)

    def filter(self, signal: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the output of a model of an amplifier, or of a predistorter, for a signal.

        Args:
            signal: the input in the units of the recording's input, complex, shape `(n,)`; silence comes before it.

        Returns:
            Complex128, shape `(n,)`, in the units of the amplifier's output, or of its input for a predistorter.

        Raises:
            ConfigError: the run's models filter no signal.
            DataError: the signal has another shape, or a sample that is not finite.
        """
        from grownas.runs import reload

        with self._path() as path:
            output: np.ndarray[Any, Any] = reload.filtered(path, signal)
            return output

    def evaluate(
        self,
        data: Data | None = None,
        since: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Score the chosen model.

        Args:
            data: see `predict`.
            since: score only rows dated after this day; earlier rows serve as context.
            overrides: config values by dotted key, such as `{"task.cache_size": 500}` for a text.

        Returns:
            Scores by part. The run's own data and other recordings of an amplifier have the parts `val` and `test`,
            other series `seen` and `new`, another text `all`.

        Raises:
            DataError: the data lack a series, or cannot be read.
        """
        from grownas.runs import reload

        with self._path() as path:
            return reload.evaluate(path, _as_items(overrides), data=self._data if data is None else data, since=since)

    def export(self, path: str | os.PathLike[str], form: str = "sequence") -> Path:
        """Write the chosen model as ONNX, for programs without Python or PyTorch. Needs the extra `onnx`.

        Args:
            path: the file; its name ends in `.onnx`.
            form: `sequence` reads a whole sequence from a zero state, `step` does one time step with the state as input
                and output; see `grownas.export.model.onnx_model`.

        Returns:
            The path.

        Raises:
            ConfigError: the form or the file's name is wrong, the package onnx is missing, or ONNX cannot express the
                model.
            RunError: the run trained a baseline, or the file cannot be written.
        """
        from grownas.runs import exporting

        with self._path() as folder:
            return exporting.export(folder, Path(os.path.expanduser(path)), form=form, data=self._data).path

    def update(
        self,
        new_rows: Data,
        how: str | None = None,
        *,
        overrides: Mapping[str, Any] | None = None,
        folder: str | os.PathLike[str] | None = None,
        quiet: bool = True,
    ) -> Run:
        """Learn from the rows that came since; return a new run, and leave this one untouched.

        The last rows become the validation and the test part, `update.block` rows each; all earlier rows are learned. A
        changed model is kept only if the acceptance criterion of the run (`strategy.accept`) prefers it on the
        validation part to the model before; otherwise the old weights stay, and `summary["update"]` says so. Means and
        standard deviations stay those of the first fit, except for an accepted `refit`. A recording of an amplifier has
        its own parts, and takes the place of the old one, see `grownas update --help`.

        Args:
            new_rows: a data frame, a path or a name as for `search`, with the same columns: later rows only, or also
                earlier rows, which must agree with the run's own. For a text: a folder or a file of further text. For
                an amplifier: the path of a new recording.
            how: `state`: no weight changes, the model reads the new rows and forecasts from there. `continue`: train
                `update.epochs` epochs from the present weights and moments, with L2-SP towards these weights. `grow`:
                continue, then try to grow and prune. `refit`: search and fit anew on all rows. None: `update.how` of
                the config, by default `continue`.
            overrides: config values by dotted key, such as `{"update.epochs": 10}`.
            folder: the run folder to create; a number is appended if the name is taken. None: nothing is written; a
                text or a recording needs a folder.
            quiet: print no progress and no table.

        Raises:
            ConfigError: an override is wrong, or the cell cannot grow.
            DataError: the data lack a series, have no new rows, or disagree with the run's own.
            RunError: the run has no model.
            TrainingError: training diverged.
        """
        from grownas.runs import updating

        given = {**({} if how is None else {"update.how": how}), "quiet": quiet, **(overrides or {})}
        where = None if self.folder is None else str(self.folder.resolve())
        with self._path() as path:
            if folder is None:
                made = updating.update_in_memory(path, _as_items(given), data=new_rows, own=self._data, where=where)
                config, summary, files, logs, frame = made
                return Run(config, summary, folder=None, files=files, logs=logs, data=frame)
            place = Path(os.path.abspath(os.path.expanduser(folder)))
            done = updating.update(
                path, _as_items(given), data=new_rows, own=self._data, folder=place, where=where or "memory"
            )
        return load_run(done)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write a copy of the run folder, for `load`; return its path.

        A run that read a data frame is saved without it; give it to `load` again.

        Raises:
            RunError: the folder exists.
        """
        from grownas.runs.rundir import whole_folder

        place = Path(os.path.abspath(os.path.expanduser(folder)))
        with self._path() as path, whole_folder(place) as whole:
            shutil.copytree(path, whole, ignore=shutil.ignore_patterns(".lock"), dirs_exist_ok=True)
        return place

    def __getstate__(self) -> dict[str, Any]:
        """Return the bytes of the run folder's files for a pickle: text, JSON and safetensors."""
        with self._path() as path:
            files = {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()}
        logs = {name: [dict(line) for line in lines] for name, lines in self._logs.items()}
        return {"files": files, "logs": logs, "data": self._data}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a run in memory."""
        from grownas.runs.memory import MemoryFolder

        files = MemoryFolder(state["files"])
        with tempfile.TemporaryDirectory(prefix="grownas-") as folder:
            files.dump(Path(folder))
            loaded = load_run(Path(folder))
        self.__init__(loaded.config, loaded.summary, folder=None, files=files, logs=state["logs"], data=state["data"])  # type: ignore[misc]

    @contextmanager
    def _path(self) -> Iterator[Path]:
        """Yield the run's folder; a run in memory is written to a temporary folder first."""
        if self.folder is not None:
            yield self.folder
            return
        assert self._files is not None
        with tempfile.TemporaryDirectory(prefix="grownas-") as folder:
            self._files.dump(Path(folder))
            yield Path(folder)

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else str(self.folder)
        metric = self.summary["metric"]
        return (
            f"<Run {where}: {self.summary.get('chosen', self.summary['task'])}, test {metric} {self.summary['test']:g}>"
        )


class Comparison:
    """A finished comparison over seeds.

    Attributes:
        result: the content of `comparison.json`.
        folder: the comparison's folder, with a run folder for each seed; None if it was not kept.
    """

    def __init__(self, result: dict[str, Any], folder: Path | None) -> None:
        """Create a comparison; users call `compare` or `load` instead."""
        self.result, self.folder = result, folder

    @property
    def scores(self) -> pd.DataFrame:
        """One row per model: means and standard deviations over the seeds. The index is `model`."""
        import pandas as pd

        rows = [
            {
                "model": one["model"],
                "val": one["val"]["mean"],
                "test": one["test"]["mean"],
                "test_sd": one["test"]["sd"],
                **{key: one[key] for key in ("n", "params", "seconds", "steps", "settings", "capped", "in_mcs")},
            }
            for one in self.result["models"]
        ]
        return pd.DataFrame(rows).set_index("model")

    @property
    def tests(self) -> pd.DataFrame:
        """One row per model that the reference model is tested against. The index is `baseline`."""
        import pandas as pd

        return pd.DataFrame(self.result["tests"]).set_index("baseline")

    @property
    def verdict(self) -> str:
        """The result as text."""
        return str(self.result["verdict"])

    def runs(self) -> dict[str, Run]:
        """Return the runs, by the name of their folders.

        Raises:
            RunError: the comparison was not kept in a folder.
        """
        if self.folder is None:
            raise RunError("the comparison kept no runs; call compare with folder= to keep them")
        return {path.parent.name: load_run(path.parent) for path in sorted(self.folder.glob("*/summary.json"))}

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else str(self.folder)
        return f"<Comparison {where}: {len(self.result['seeds'])} seeds, {len(self.result['models'])} models>"


def search(
    config: str | os.PathLike[str] = "index_returns/growing",
    data: Data | None = None,
    *,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    cluster: Any = None,
    quiet: bool = False,
) -> Run:
    """Search for a cell, retrain it from random weights, train the baselines and score all models.

    Args:
        config: a path, or the name of a shipped config.
        data: a data frame (a `DatetimeIndex` or a column `date`, and one column per series), a path, or a name that the
            task knows, such as `bundled`. None: `task.data` of the config.
        seed: seed of weights, noise and data order. None: `seed` of the config.
        overrides: config values by dotted key, such as `{"strategy.max_nodes": 2}`.
        folder: the run folder to create; a number is appended if the name is taken. None: nothing is written.
        cluster: where the `trial_workers` of the config run; see `compare`.
        quiet: print no progress and no table.

    Returns:
        The finished run.

    Raises:
        ConfigError: the config or an override is wrong; the message lists every problem.
        DataError: the data cannot be used.
        TrainingError: training diverged.
    """
    from grownas.runs import commands

    given = ({} if seed is None else {"seed": seed}) | _place(cluster)
    options = {**given, "quiet": quiet, **(overrides or {})}
    chosen, frame = _config(config, data, options)
    if folder is None:
        task = commands.load_task(chosen, frame=frame)
        summary, files, logs = commands.search_in_memory(chosen, task)
        return Run(chosen, summary, folder=None, files=files, logs=logs, data=frame)
    if frame is not None:
        commands.check_search(chosen, commands.load_task(chosen, frame=frame))  # before a folder is made
    with _folder(folder, "search", frame, chosen) as (rundir, changes):
        chosen, _ = _config(config, data if frame is None else None, {**options, **changes})
        path = commands.search(chosen, rundir)
    return load_run(path)


def compare(
    config: str | os.PathLike[str] = "index_returns/growing",
    data: Data | None = None,
    *,
    seeds: Sequence[int] | None = None,
    strategies: Sequence[str | Mapping[str, Any]] | None = None,
    overrides: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    cluster: Any = None,
    quiet: bool = False,
) -> Comparison:
    """For each seed, search with each strategy and train every baseline, in parallel processes; test the differences.

    Args:
        config: see `search`.
        data: see `search`.
        seeds: one run per seed. None: `seeds` of the config.
        strategies: names of strategies, or their options with the key `use`, and with `name` where two have the same
            `use`; the first is the config's own strategy.
        overrides: see `search`.
        folder: the folder to create for the comparison and its runs. None: a temporary folder, removed at the end.
        cluster: where the runs run: a value of the config's `cluster`, or a cluster object of dask, dask-jobqueue or
            dask-kubernetes, whose machines share `folder`. None: `cluster` of the config.
        quiet: print no progress and no table.

    Raises:
        ConfigError: the config or an override is wrong.
        DataError: the data cannot be used.
        TrainingError: a run failed.
    """
    from grownas.runs import commands

    given: dict[str, Any] = {} if seeds is None else {"seeds": list(seeds)}
    given |= {} if strategies is None else {"strategies": list(strategies)}
    given |= _place(cluster)
    options = {**given, "quiet": quiet, **(overrides or {})}
    chosen, frame = _config(config, data, options)
    if chosen.is_study:
        raise ConfigError("study.momentum or task.replay is set: run a study with `grownas compare`")
    if frame is not None:
        commands.check_search(chosen, commands.load_task(chosen, frame=frame))  # before a folder is made
    with tempfile.TemporaryDirectory(prefix="grownas-") as temporary:
        place = Path(temporary) / "comparison" if folder is None else folder
        with _folder(place, "compare", frame, chosen) as (rundir, changes):
            chosen, _ = _config(config, data if frame is None else None, {**options, **changes})
            path = commands.compare(chosen, rundir)
        result = json.loads((path / "comparison.json").read_text("utf-8"))
    return Comparison(result, None if folder is None else path)


def backtest(
    config: str | os.PathLike[str] = "index_returns/growing",
    data: Data | None = None,
    *,
    every: int | None = None,
    how: str | Sequence[str] | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Backtest:
    """Forecast, then learn, block by block through the test part, with every model.

    Args:
        config: see `search`.
        data: see `search`.
        every: rows of a block. None: `backtest.every` of the config.
        how: how the grown cell learns, see `Run.update`; several: a model for each. None: `backtest.how` of the config.
        seed: see `search`.
        overrides: config values by dotted key, such as `{"backtest.when": "drift"}`.
        folder: the folder to create; a number is appended if the name is taken. None: nothing is written.
        quiet: print no progress and no table.

    Raises:
        ConfigError: the config or an override is wrong, or the task is not on series.
        DataError: the data cannot be used, or the first block begins too early.
        TrainingError: training diverged.
    """
    from grownas.runs import commands

    given: dict[str, Any] = {} if seed is None else {"seed": seed}
    given |= {} if every is None else {"backtest.every": every}
    given |= {} if how is None else {"backtest.how": how if isinstance(how, str) else list(how)}
    options = {**given, "quiet": quiet, **(overrides or {})}
    chosen, frame = _config(config, data, options)
    if folder is None:
        task = commands.load_task(chosen, frame=frame)
        result, files = commands.backtest_in_memory(chosen, task)
        return Backtest(result, files.files, None)
    if frame is not None:
        commands.check_backtest(chosen, commands.load_task(chosen, frame=frame))  # before a folder is made
    with _folder(folder, "backtest", frame, chosen) as (rundir, changes):
        chosen, _ = _config(config, data if frame is None else None, {**options, **changes})
        path = commands.backtest(chosen, rundir)
    return Backtest.load(path)


def load(folder: str | os.PathLike[str], data: pd.DataFrame | None = None) -> Run | Comparison | Backtest:
    """Load a finished run, comparison or backtest from its folder.

    Args:
        folder: the folder.
        data: the data frame that the run read, if it read one and was saved without it (see `Run.save`).

    Raises:
        RunError: the folder is not a run folder, or the run is not finished.
    """
    from grownas.runs.rundir import RunDir

    path = Path(os.path.expanduser(folder))
    if RunDir.open(path).command == "backtest":
        return Backtest.load(path)
    if RunDir.open(path).command != "compare":
        return load_run(path, data)
    file = path / "comparison.json"
    if not file.exists():
        raise RunError(f"{path}: not finished; continue it with `grownas resume {path}`")
    try:
        return Comparison(json.loads(file.read_text("utf-8")), path)
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: damaged: {error}") from error


def load_run(path: Path, data: pd.DataFrame | None = None) -> Run:
    """Load a finished run; see `load`."""
    from grownas.runs import saved

    return Run(loading.load(path / "config.yaml"), saved.summary_of(path), folder=path, data=data)


def _config(
    config: str | os.PathLike[str], data: Data | None, overrides: Mapping[str, Any]
) -> tuple[Config, pd.DataFrame | None]:
    """Return the config with all overrides applied, and the data frame if `data` is one."""
    frame: Any = None
    if isinstance(data, str | os.PathLike):
        overrides = {**overrides, "task.data": os.fspath(data)}
    elif data is not None:
        if not hasattr(data, "columns"):
            hint = "; give data.to_frame()" if hasattr(data, "to_frame") else ""
            raise ConfigError(
                f"data: got a {type(data).__name__}, expected a data frame, a path or a name such as bundled{hint}"
            )
        frame, overrides = data, {**overrides, "task.data": FRAME}
    chosen = loading.load(config, overrides)
    if frame is not None:
        own = {f"task.{key}": value for key, value in chosen.task.of_frame(frame).items()}
        chosen = loading.load(config, {**own, **overrides})
    return chosen, frame


@contextmanager
def _folder(
    folder: str | os.PathLike[str], command: str, frame: pd.DataFrame | None, config: Config
) -> Iterator[tuple[RunDir, dict[str, Any]]]:
    """Create a run folder; yield it and the overrides that point the config to it.

    A data frame is written to the folder, so that the run can be resumed; the overrides hold the keys that follow from
    it.
    """
    from grownas.runs.rundir import RunDir

    place = Path(os.path.abspath(os.path.expanduser(folder)))
    rundir = RunDir.create(place.parent, place.name, command)
    changes: dict[str, Any] = {"runs": str(place.parent), "name": rundir.path.name}
    if frame is not None:
        text = frame.to_csv(index_label="date") if frame.index.dtype.kind == "M" else frame.to_csv(index=False)
        rundir.write_text("data.csv", text)
        changes["task.data"] = str(rundir.path / "data.csv")
        changes |= {f"task.{key}": getattr(config.task, key) for key in config.task.of_frame(frame)}
    yield rundir, changes


def _place(cluster: Any) -> dict[str, Any]:
    """Return the override for where runs run; a cluster object is taken by its address."""
    return {} if cluster is None else {"cluster": getattr(cluster, "scheduler_address", cluster)}


def _as_items(overrides: Mapping[str, Any] | None) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()]
