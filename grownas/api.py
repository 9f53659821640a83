"""The door for Python: search, compare, load a run, forecast and score with it.

Data frames go in and come out. The same config, data and seed give the same bits as the command line. Nothing is
written unless `folder` asks for it.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grownas.config import loading
from grownas.config.sections import Config
from grownas.errors import ConfigError, RunError
from grownas.genotype import AnyGenotype, Genotype
from grownas.protocols import FRAME

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from grownas.cells.cell import GrownRNN
    from grownas.runs.memory import MemoryFolder
    from grownas.runs.rundir import RunDir

    Data = pd.DataFrame | str | os.PathLike[str]


class Run:
    """A finished run, from `search` or from a run folder.

    Attributes:
        config: of the run.
        summary: what `summary.json` holds: the chosen model, its scores, what the search found.
        folder: the run folder; None if nothing was written.
    """

    def __init__(
        self,
        config: Config,
        summary: dict[str, Any],
        *,
        folder: Path | None,
        files: MemoryFolder | None = None,
        growth: Sequence[Mapping[str, Any]] | None = None,
        data: Any = None,
    ) -> None:
        """Take a run; use `search` or `load`."""
        self.config, self.summary, self.folder = config, summary, folder
        self._files, self._growth, self._data = files, growth, data
        self._model: nn.Module | None = None

    @property
    def scores(self) -> pd.DataFrame:
        """One row for each model: validation and test score, parameters, seconds, settings tried.

        Index `model`; the scores are in `summary["metric"]`, lower is better.
        """
        import pandas as pd

        rows = [{key: value for key, value in entry.items() if key != "detail"} for entry in self.summary["scores"]]
        return pd.DataFrame(rows).set_index("model")

    @property
    def genotype(self) -> AnyGenotype:
        """The cell of the chosen model.

        Raises:
            RunError: the run trained a baseline, which has no cell.
        """
        with self._path() as path:
            if not (path / "genotype.json").exists():
                raise RunError(f"{self}: it trained a baseline, which has no cell")
            return Genotype.load(path / "genotype.json")

    @property
    def growth(self) -> pd.DataFrame:
        """One row for each change of the cell that was tried, accepted or not (`growth.jsonl`)."""
        import pandas as pd

        if self._growth is None:
            assert self.folder is not None
            text = (self.folder / "growth.jsonl").read_text("utf-8")
            self._growth = [json.loads(line) for line in text.splitlines()]
        return pd.DataFrame(list(self._growth))

    @property
    def model(self) -> nn.Module:
        """The chosen model: cell and readout or decoder, in evaluation mode."""
        if self._model is None:
            from grownas.modules import as_module
            from grownas.runs import reload

            with self._path() as path:
                self._model = as_module(reload.model(path, data=self._data))
        return self._model

    def cell(self) -> GrownRNN:
        """Return a copy of the trained cell, a drop-in for `nn.GRU`.

        Raises:
            RunError: the model has several layers of cells, which are no single `GrownRNN`.
        """
        from grownas.cells.cell import GrownRNN

        core = self.model.core
        if not isinstance(core, GrownRNN):
            raise RunError(f"{self}: its core is a {type(core).__name__}, not one GrownRNN; use run.model.core")
        return copy.deepcopy(core)

    def predict(self, data: Data | None = None, overrides: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return forecasts of one step ahead, each from the rows before it.

        Args:
            data: a data frame (a `DatetimeIndex` or a column `date`, one column a series), a path, or a task's word
                such as `bundled`. Any number of rows; old rows are context. None: the run's own validation and test
                rows.
            overrides: such as `{"task.units": "prices"}`.

        Returns:
            Columns `date`, `series`, `forecast`, `actual`, in the units of the data's returns unless `task.units` says
            otherwise. The last rows are the next step's: `actual` is missing.

        Raises:
            DataError: the data lack a series, or cannot be read.
        """
        from grownas.runs import reload

        with self._path() as path:
            return reload.predict(path, _as_items(overrides), data=self._data if data is None else data)

    def evaluate(
        self,
        data: Data | None = None,
        since: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Score the chosen model.

        Args:
            data: see `predict`.
            since: score only rows dated after this day; earlier rows are context.
            overrides: such as `{"task.cache_size": 500}` for a text.

        Returns:
            Scores by part: `val` and `test` of the run's own data, `seen` and `new` of other series, `all` of another
            text.

        Raises:
            DataError: the data lack a series, or cannot be read.
        """
        from grownas.runs import reload

        with self._path() as path:
            return reload.evaluate(path, _as_items(overrides), data=self._data if data is None else data, since=since)

    @contextmanager
    def _path(self) -> Iterator[Path]:
        """Yield a run folder: the run's own, or one that is written for the moment."""
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
        result: what `comparison.json` holds.
        folder: of the comparison, with a run folder for each seed; None if it was not kept.
    """

    def __init__(self, result: dict[str, Any], folder: Path | None) -> None:
        """Take a comparison; use `compare` or `load`."""
        self.result, self.folder = result, folder

    @property
    def scores(self) -> pd.DataFrame:
        """One row for each model: means and standard deviations over the seeds; index `model`."""
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
        """One row for each model that the reference is tested against; index `baseline`."""
        import pandas as pd

        return pd.DataFrame(self.result["tests"]).set_index("baseline")

    @property
    def verdict(self) -> str:
        """The result in words."""
        return str(self.result["verdict"])

    def runs(self) -> dict[str, Run]:
        """Return the run of each seed, by the name of its folder.

        Raises:
            RunError: the comparison was not kept in a folder.
        """
        if self.folder is None:
            raise RunError("the comparison kept no runs; give folder= to keep them")
        return {path.parent.name: _load_run(path.parent) for path in sorted(self.folder.glob("*/summary.json"))}

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
    quiet: bool = False,
) -> Run:
    """Search for a cell, train what was found anew, fit the baselines and score all.

    Args:
        config: a path, or the name of a shipped config.
        data: a data frame (a `DatetimeIndex` or a column `date`, one column a series), a path, or a task's word such as
            `bundled`; None: what the config says.
        seed: of weights, noise and data order; None: what the config says.
        overrides: of the config, by dotted key, such as `{"strategy.max_nodes": 2}`.
        folder: the run folder to make; a name that is taken gets a number. None: nothing is written.
        quiet: show no progress and no table.

    Returns:
        The finished run.

    Raises:
        ConfigError: the config or an override is wrong; the message lists every problem.
        DataError: the data cannot be used.
        TrainingError: training diverged.
    """
    from grownas.runs import commands

    options = {**({} if seed is None else {"seed": seed}), "quiet": quiet, **(overrides or {})}
    chosen, frame = _config(config, data, options)
    if folder is None:
        task = commands.load_task(chosen, frame=frame)
        summary, files, growth = commands.search_in_memory(chosen, task)
        return Run(chosen, summary, folder=None, files=files, growth=growth, data=frame)
    if frame is not None:
        commands.check_search(chosen, commands.load_task(chosen, frame=frame))  # before a folder is made
    with _folder(folder, "search", frame) as (rundir, changes):
        chosen, _ = _config(config, data if frame is None else None, {**options, **changes})
        path = commands.search(chosen, rundir)
    return _load_run(path)


def compare(
    config: str | os.PathLike[str] = "index_returns/growing",
    data: Data | None = None,
    *,
    seeds: Sequence[int] | None = None,
    strategies: Sequence[str | Mapping[str, Any]] | None = None,
    overrides: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Comparison:
    """Search with each strategy and run every baseline for each seed, in parallel processes; test the differences.

    Args:
        config: see `search`.
        data: see `search`.
        seeds: of the runs; None: what the config says.
        strategies: names, or options with `use`; the first is the config's own.
        overrides: see `search`.
        folder: to keep the comparison and its runs in; None: they are written to a temporary folder, which is removed.
        quiet: show no progress and no table.

    Raises:
        ConfigError: the config or an override is wrong.
        DataError: the data cannot be used.
        TrainingError: a run failed.
    """
    from grownas.runs import commands

    given: dict[str, Any] = {} if seeds is None else {"seeds": list(seeds)}
    given |= {} if strategies is None else {"strategies": list(strategies)}
    options = {**given, "quiet": quiet, **(overrides or {})}
    chosen, frame = _config(config, data, options)
    if frame is not None:
        commands.check_search(chosen, commands.load_task(chosen, frame=frame))  # before a folder is made
    with tempfile.TemporaryDirectory(prefix="grownas-") as temporary:
        place = Path(temporary) / "comparison" if folder is None else folder
        with _folder(place, "compare", frame) as (rundir, changes):
            chosen, _ = _config(config, data if frame is None else None, {**options, **changes})
            path = commands.compare(chosen, rundir)
        result = json.loads((path / "comparison.json").read_text("utf-8"))
    return Comparison(result, None if folder is None else path)


def load(folder: str | os.PathLike[str]) -> Run | Comparison:
    """Load a finished run or comparison from its folder.

    Raises:
        RunError: it is no run folder, or the run is not finished.
    """
    from grownas.runs.rundir import RunDir

    path = Path(os.path.expanduser(folder))
    if RunDir.open(path).command != "compare":
        return _load_run(path)
    file = path / "comparison.json"
    if not file.exists():
        raise RunError(f"{path}: not finished; `grownas resume {path}` goes on with it")
    try:
        return Comparison(json.loads(file.read_text("utf-8")), path)
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: damaged: {error}") from error


def _load_run(path: Path) -> Run:
    from grownas.runs import reload

    return Run(loading.load(path / "config.yaml"), reload.summary_of(path), folder=path)


def _config(
    config: str | os.PathLike[str], data: Data | None, overrides: Mapping[str, Any]
) -> tuple[Config, pd.DataFrame | None]:
    """Return the config with all that was given, and the data frame if there is one."""
    frame: Any = None
    if isinstance(data, str | os.PathLike):
        overrides = {**overrides, "task.data": os.fspath(data)}
    elif data is not None:
        if not hasattr(data, "columns"):
            raise ConfigError(f"data: got a {type(data).__name__}, expected a data frame, a path or a word")
        frame, overrides = data, {**overrides, "task.data": FRAME}
    return loading.load(config, overrides), frame


@contextmanager
def _folder(
    folder: str | os.PathLike[str], command: str, frame: pd.DataFrame | None
) -> Iterator[tuple[RunDir, dict[str, Any]]]:
    """Make a run folder; yield it, and what the config changes. A data frame is kept in it, for resuming."""
    from grownas.runs.rundir import RunDir

    place = Path(os.path.abspath(os.path.expanduser(folder)))
    rundir = RunDir.create(place.parent, place.name, command)
    changes: dict[str, Any] = {"runs": str(place.parent), "name": rundir.path.name}
    if frame is not None:
        text = frame.to_csv(index_label="date") if frame.index.dtype.kind == "M" else frame.to_csv(index=False)
        rundir.write_text("data.csv", text)
        changes["task.data"] = str(rundir.path / "data.csv")
    yield rundir, changes


def _as_items(overrides: Mapping[str, Any] | None) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()]
