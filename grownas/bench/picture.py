"""A picture of a benchmark: the ratio of each backend's time to the floor in each setting."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from grownas.bench.results import Results
from grownas.bench.settings import FLOOR
from grownas.errors import DataError

FORMATS = {".svg": "svg", ".png": "png"}
LOOKS = {  # markers and colours of peers that every run has; other backends use `COLOURS`
    "reference": ("s", "#8a8f98"),
    "nn.LSTM": ("D", "#c8791e"),
    "nn.GRU": ("^", "#b8a23a"),
}
COLOURS = ("#2a6fbb", "#1f9e6e", "#8e4fb0", "#c4454d")


def choose_drawer(path: Path) -> Callable[[Results], None]:
    """Return a function that draws results to a path.

    Raises:
        DataError: the suffix is neither .svg nor .png.
    """
    if path.suffix not in FORMATS:
        raise DataError(
            f"{path}: expected a picture with suffix {', '.join(FORMATS)}, got {path.suffix or 'no suffix'}"
        )
    return partial(draw, path=path)


def draw(results: Results, *, path: Path) -> None:
    """Draw each peer's ratio to the floor (median and quartiles) by setting, on a logarithmic axis."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = [row for row in results.rows if row.base == FLOOR]
    peers = list(dict.fromkeys(name for row in rows for name in row.figures if name != FLOOR))
    colours = iter(COLOURS * len(peers))
    looks = {name: LOOKS.get(name) or ("o", next(colours)) for name in peers}
    with mpl.rc_context({"svg.hashsalt": "grownas", "svg.fonttype": "none", "font.size": 9}):
        canvas = Figure(figsize=(8.5, 1.4 + 0.5 * len(rows)), layout="constrained")
        axes = canvas.subplots()
        for place, name in enumerate(peers):
            marker, colour = looks[name]
            offset = 0.5 * (place / max(len(peers) - 1, 1) - 0.5)  # one line per peer
            for number, row in enumerate(rows):
                if name not in row.figures:
                    continue
                floor, figure = row.figures[FLOOR].median, row.figures[name]
                height, label = number + offset, name if row is rows[0] else None
                axes.plot([figure.low / floor, figure.high / floor], [height, height], color=colour, linewidth=1)
                axes.plot([figure.median / floor], [height], marker, color=colour, markersize=5, label=label)
        axes.axvline(1, color="#30343b", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="x", which="both", color="#d9dce1", linewidth=0.5)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(
            f"time / time of the unavoidable matrix products; {results.machine['cpu']}, {results.date[:10]}"
        )
        canvas.legend(loc="outside upper center", ncols=len(peers), frameon=False)
        part = path.with_name(f"{path.name}.part")
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        canvas.savefig(part, format=FORMATS[path.suffix], dpi=150, metadata=metadata)
    part.replace(path)
