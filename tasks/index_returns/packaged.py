"""Reads panels from data files of installed packages; the files are read, the packages' code is never imported.

The packages (extra `panels`) hold the data for their own examples, and a package's licence need not cover them. So no
data is copied here: a row of `PANELS` says where a file lies and what is in it. Its checksum ensures that equal names
mean equal data. `pip install --no-deps` installs the packages without the dependencies that their code needs.
"""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from grownas.errors import DataError
from grownas.tasks.index_returns.frequency import Moment
from grownas.tasks.index_returns.reading import Kind, Table, checksum_of

Array = np.ndarray

UNPACK: dict[str, Callable[[bytes], bytes]] = {".csv": bytes, ".gz": gzip.decompress, ".bz2": bz2.decompress}


@dataclass(frozen=True)
class PackagedPanel:
    """A panel in a file of a package.

    Attributes:
        package: name of the package at PyPI.
        version: version of the package from which the checksum was taken.
        file: path of the file, relative to the folder in which packages are installed.
        sha256: checksum of the file.
        date: name of the column of dates.
        series: names of the columns that are read; the others are ignored.
        frequency: frequency of the rows, for messages.
        unit: unit of the file's values, for messages.
        kind: kind of the values after `convert`.
        convert: function from the file's values to prices, log returns in decimals, or levels.

    Raises:
        ValueError: the file is not a plain or compressed CSV. Formats such as pickle can run code when they are read.
    """

    package: str
    version: str
    file: str
    sha256: str
    date: str
    series: tuple[str, ...]
    frequency: str
    unit: str
    kind: Kind
    convert: Callable[[Array], Array] = np.asarray

    def __post_init__(self) -> None:
        """Check the format of the file."""
        if Path(self.file).suffix not in UNPACK:
            raise ValueError(
                f"{self.file}: expected plain or compressed CSV ({', '.join(UNPACK)}); formats such as pickle can run "
                "code when they are read"
            )


def _log_of_percent(returns: Array) -> Array:
    return np.log1p(returns / 100)


PANELS: dict[str, PackagedPanel] = {  # value of `task.data` -> panel
    "skfolio_sp500": PackagedPanel(
        package="skfolio",
        version="1.12.2",
        file="skfolio/datasets/data/sp500_dataset.csv.gz",
        sha256="ee21cac28befb1d0a739a9ceb22184f995394726aa0cfde9a21941d1ac04ac0d",
        date="Date",
        series=(
            *("AAPL", "AMD", "BAC", "BBY", "CVX", "GE", "HD", "JNJ", "JPM", "KO"),
            *("LLY", "MRK", "MSFT", "PEP", "PFE", "PG", "RRC", "UNH", "WMT", "XOM"),
        ),
        frequency="daily",
        unit="adjusted closes in US dollars",
        kind="prices",
    ),
    "river_stocks": PackagedPanel(
        package="river",
        version="0.26.1",
        file="river/datasets/sp500.csv.gz",
        sha256="ba241c10ca76383f5b75961e50b8f232939834b9f8e6c3f1bcccb92277be545c",
        date="date",
        # without `next_day_return`, which tells the mean of the next row
        series=("AAPL", "AMZN", "IBM", "INTC", "JNJ", "JPM", "KO", "MSFT", "WMT", "XOM"),
        frequency="daily",
        unit="simple returns in per cent",
        kind="returns",
        convert=_log_of_percent,
    ),
    "linearmodels_fama_french": PackagedPanel(
        package="linearmodels",
        version="7.1",
        file="linearmodels/datasets/french/french.csv.bz2",
        sha256="fab6482f4f011a2fcec2fd087d740eef3c5bcc24a39459569a4224516fca1b6e",
        date="dates",
        # the industry portfolios of Fama and French; their factors are differences of portfolios, without log returns
        series=(
            *("NoDur", "Durbl", "Manuf", "Enrgy", "Chems", "BusEq"),
            *("Telcm", "Utils", "Shops", "Hlth", "Money", "Other"),
        ),
        frequency="monthly",
        unit="simple returns in decimals",
        kind="returns",
        convert=np.log1p,
    ),
    "vega_weather": PackagedPanel(
        package="vega-datasets",
        version="0.9.0",
        file="vega_datasets/_data/seattle-weather.csv",
        sha256="62f0609f787158128aa2bd102967173a4953122dd4f872bf1d502cae1037df0b",
        date="date",
        # without `precipitation`, which stays zero for weeks of a dry summer
        series=("temp_max", "temp_min", "wind"),
        frequency="daily",
        unit="degrees Celsius and metres per second in Seattle",
        kind="levels",
    ),
}


def table(name: str) -> Table:
    """Return a panel of `PANELS` by its name.

    Raises:
        DataError: the package is not installed, or its file is missing or differs from the expected file.
    """
    panel = PANELS[name]
    content, version = _content(name, panel)
    text = UNPACK[Path(panel.file).suffix](content).decode()
    rows = list(csv.DictReader(text.splitlines()))
    dates: list[Moment] = [datetime.date.fromisoformat(row[panel.date].replace("/", "-")) for row in rows]
    values = panel.convert(np.array([[float(row[one]) for one in panel.series] for row in rows]))
    origin = checksum_of(panel.sha256, panel.series)
    source = f"{name} ({panel.package} {version}: {panel.frequency} {panel.unit})"
    return Table(dates, list(panel.series), values, source, panel.kind, origin)


def _content(name: str, panel: PackagedPanel) -> tuple[bytes, str]:
    """Return the content of a panel's file and the version of the installed package."""
    try:
        installed = metadata.distribution(panel.package)
    except metadata.PackageNotFoundError as error:
        raise DataError(
            f"task.data={name}: the package {panel.package} is not installed; python -m pip install 'grownas[panels]'"
        ) from error
    here = f"task.data={name}: {panel.file} of the installed {panel.package} {installed.version}"
    advice = f"python -m pip install {panel.package}=={panel.version}"
    try:
        content = Path(str(installed.locate_file(panel.file))).read_bytes()
    except OSError as error:
        raise DataError(f"{here} cannot be read: {error.strerror}; {advice}") from error
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != panel.sha256:
        raise DataError(
            f"{here} differs from the file of {panel.package} {panel.version}, so results could not be compared: its "
            f"sha256 is {checksum}, expected {panel.sha256}; {advice}"
        )
    return content, installed.version
