"""The style of all plots: inline SVG with text as text, colours as CSS variables, and reproducible bytes.

Matplotlib draws with placeholder colours, one per role; `as_svg` replaces them by CSS variables, so that a plot follows
the page's light or dark theme.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW, PANEL = 7.6, 4.0, 4.3  # width in inches: desktop, phone, a panel in a row of panels
LETTER, LINE = 0.059, 0.165  # inches: mean width of a letter, height of a line of text
INK, MUTED, GRID, ACCENT, OTHER, THIRD, FOURTH = (f"#0{i}0{i}0{i}" for i in range(1, 8))
ROLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--rim",
    ACCENT: "--ours",
    OTHER: "--other",
    THIRD: "--third",
    FOURTH: "--fourth",
}
STYLE: Any = {  # Any: Matplotlib's type for rcParams differs between versions
    "svg.fonttype": "none",
    "text.parse_math": False,  # the name of a series may be $x$
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",  # ships with Matplotlib, so text has the same size everywhere; the page sets its own
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.left": False,
    "legend.frameon": False,
}
LONGEST = 24  # most letters of a name


def shorten(name: str) -> str:
    """Cut a name to `LONGEST` letters."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Create a figure in the style of this page, without pyplot; width and height in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(width, height), layout="constrained")
        yield canvas, canvas.subplots()


@contextmanager
def grid(width: float, height: float, *, rows: int, columns: int) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """Create a figure of several panels, as `drawing` does of one; the panels of a row share the vertical axis."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(width, height), layout="constrained")
        yield canvas, canvas.subplots(rows, columns, sharex=True, sharey="row", squeeze=False).tolist()


def as_svg(canvas: Figure) -> str:
    """Return a figure as an `<svg>` element that uses the page's colours and font."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "grownas"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # a style would apply to the whole page
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg class="plot" viewBox="\1" role="img">', text, count=1)
    # ids must be unique in a page, and no element refers to a group
    text = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    own = f"f{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    text = re.sub(r'(id="|#)([mp][0-9a-f]{10})\b', rf"\1{own}\2", text)  # make ids of markers and clips unique
    for colour, role in ROLES.items():
        text = text.replace(colour, f"var({role})")
    return text.strip()
