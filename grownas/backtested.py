"""A finished backtest as data frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grownas.errors import RunError
from grownas.observations import stamps

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

FORECASTS, INTERVALS, LOSSES = FILES = ("forecasts.safetensors", "intervals.safetensors", "losses.safetensors")


class Backtest:
    """A finished backtest, returned by `grownas.backtest` or loaded from its folder.

    Attributes:
        result: the content of `backtest.json`.
        folder: its folder; None if nothing was written.
    """

    def __init__(
        self, result: dict[str, Any], files: Mapping[str, tuple[Mapping[str, Tensor], Mapping[str, str]]], folder: Any
    ) -> None:
        """Create a backtest; users call `backtest` or `load` instead. `files` are tensors and notes by name."""
        self.result, self.folder, self._files = result, folder, files

    @classmethod
    def load(cls, folder: Path) -> Backtest:
        """Load a finished backtest from its folder.

        Raises:
            RunError: it is not finished, or a file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        from grownas.runs.rundir import BACKTEST

        if not (folder / BACKTEST).exists():
            raise RunError(f"{folder}: not finished; continue it with `grownas resume {folder}`")
        files = {}
        try:
            result = json.loads((folder / BACKTEST).read_text("utf-8"))
            for name in FILES:
                if name != LOSSES and not (folder / name).exists():  # a text has losses only
                    continue
                with safe_open(folder / name, framework="pt") as file:
                    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                    files[name] = tensors, file.metadata() or {}
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(f"{folder}: damaged: {error}") from error
        return cls(result, files, folder)

    @property
    def table(self) -> pd.DataFrame:
        """One row per model: mean loss, time of all work, test against the reference. The index is `model`."""
        import pandas as pd

        frame = pd.DataFrame(self.result["models"]).set_index("model")
        tests = pd.DataFrame(self.result["tests"], columns=["baseline", "statistic", "p_value"]).set_index("baseline")
        members = self.result["mcs"]["members"] if self.result["mcs"] else []
        return frame.join(tests).assign(in_mcs=frame.index.isin(members))

    @property
    def losses(self) -> pd.DataFrame:
        """Loss of each model at each row; the index is `date`, of a text the number of words before the row.

        The loss is the squared error, mean over standardised series, or the mean nats per word.
        """
        import pandas as pd

        columns = {name: self._files[LOSSES][0][name].numpy() for name in self._models}
        return pd.DataFrame(columns, index=self._dates)

    @property
    def forecasts(self) -> pd.DataFrame:
        """Forecasts in the units of the series; columns are (model, series), with the model `actual` for what came.

        Raises:
            RunError: the task is not on series.
        """
        import pandas as pd

        if FORECASTS not in self._files:
            raise RunError(f"{self}: only a backtest on series has forecasts")
        tensors, names = self._files[FORECASTS][0], self._axes["names"]
        frames = {
            model: pd.DataFrame(tensors[model].numpy(), index=self._dates, columns=names)
            for model in ("actual", *self._models)
        }
        return pd.concat(frames, axis=1)

    @property
    def intervals(self) -> pd.DataFrame:
        """Prediction intervals in the units of the series; columns are (model, series, lower or upper).

        They are adaptive conformal intervals, each formed before its row, see `evaluation.intervals`. Their coverages
        and widths are in `result["intervals"]`.

        Raises:
            RunError: the task is not on series, or an older version of grownas wrote the folder.
        """
        import pandas as pd

        if INTERVALS not in self._files:
            raise RunError(
                f"{self}: no intervals; only a backtest on series has them: run it again if the folder is older"
            )
        tensors, names = self._files[INTERVALS][0], self._axes["names"]
        columns = {
            (model, name, side): tensors[model][place, :, number].numpy()
            for model in self._models
            for number, name in enumerate(names)
            for place, side in enumerate(("lower", "upper"))
        }
        return pd.DataFrame(columns, index=self._dates)

    @property
    def years(self) -> pd.DataFrame:
        """Mean loss of each model per year, or perplexity per text."""
        return self._means("years")

    @property
    def blocks(self) -> pd.DataFrame:
        """Mean loss or perplexity of each model per block; the index is the label of the block's first row."""
        return self._means("blocks")

    @property
    def events(self) -> pd.DataFrame:
        """Rises of losses, accepted changes and accepted moves of growth: `model, date, row, kind`."""
        import pandas as pd

        return pd.DataFrame(self.result["events"], columns=["model", "date", "row", "kind"])

    def _means(self, key: str) -> pd.DataFrame:
        import pandas as pd

        lines = self.result[key]
        return pd.DataFrame([one["losses"] for one in lines], index=[one["name"] for one in lines])

    @property
    def _models(self) -> list[str]:
        return [one["model"] for one in self.result["models"]]

    @property
    def _dates(self) -> pd.Index[Any]:
        import pandas as pd

        labels = self._axes["dates"]
        if FORECASTS not in self._files:
            return pd.Index(map(int, labels))
        return stamps(labels, self._axes.get("zone")).rename("date")  # older folders have no zone

    @property
    def _axes(self) -> dict[str, Any]:
        """Dates, their time zone, and names of the series: rows and columns of the forecasts."""
        notes = self._files.get(FORECASTS, self._files[LOSSES])[1]
        axes: dict[str, Any] = json.loads(notes["table"])
        return axes

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else str(self.folder)
        return f"<Backtest {where}: {self.result['rows']} rows, {len(self._models)} models>"
