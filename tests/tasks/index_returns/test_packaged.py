"""Panels of other packages: what is read from a fake package and from installed ones, and what is refused."""

from __future__ import annotations

import bz2
import datetime
import gzip
import hashlib
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from grownas.errors import DataError
from grownas.tasks.index_returns import packaged, sources
from grownas.tasks.index_returns.frequency import next_step
from grownas.tasks.index_returns.options import Options

TEXT = "note,day,b,a\nx,2020/01/02,2,1\ny,2020/01/03,4,-0.5\n"
PACK = {".csv": bytes, ".csv.gz": gzip.compress, ".csv.bz2": bz2.compress}
FREQUENCIES = {"daily": {"Monday to Friday", "every day"}, "monthly": {"monthly, on day 1"}}


@pytest.fixture
def panel(tmp_path, monkeypatch):
    """Return a function that installs a fake package with one file and names its panel `fake`."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(suffix: str = ".csv", version: str = "2.0", **changes) -> packaged.PackagedPanel:
        content = PACK[suffix](TEXT.encode())
        (tmp_path / "fake_data").mkdir()
        (tmp_path / "fake_data" / "__init__.py").write_text("raise AssertionError('imported')\n")
        (tmp_path / "fake_data" / f"values{suffix}").write_bytes(content)
        about = tmp_path / f"fake_data-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fake-data\nVersion: {version}\n")
        fields = {
            "version": "2.0",
            "file": f"fake_data/values{suffix}",
            "sha256": hashlib.sha256(content).hexdigest(),
            **changes,
        }
        made = packaged.PackagedPanel(
            package="fake-data",
            date="day",
            series=("a", "b"),
            frequency="daily",
            unit="degrees",
            kind="levels",
            **fields,
        )
        monkeypatch.setitem(packaged.PANELS, "fake", made)
        return made

    return install


@pytest.mark.parametrize("suffix", PACK)
def test_the_named_columns_are_read_in_the_tables_order_without_an_import(panel, suffix):
    panel(suffix)
    table = packaged.table("fake")
    assert table.names == ["a", "b"]
    assert table.values.tolist() == [[1, 2], [-0.5, 4]]
    assert table.dates == [datetime.date(2020, 1, 2), datetime.date(2020, 1, 3)]
    assert table.kind == "levels"
    assert table.source == "fake (fake-data 2.0: daily degrees)"
    assert "fake_data" not in sys.modules


def test_the_checksum_of_the_data_changes_with_the_file_and_with_the_series(panel, monkeypatch):
    row, seen = panel(), {packaged.table("fake").origin}
    monkeypatch.setitem(packaged.PANELS, "fake", replace(row, series=("b", "a")))
    seen.add(packaged.table("fake").origin)
    file = Path(str(metadata.distribution("fake-data").locate_file(row.file)))
    file.write_text(TEXT.replace("4", "5"))
    other = replace(row, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setitem(packaged.PANELS, "fake", other)
    seen.add(packaged.table("fake").origin)
    assert len(seen) == 3


def test_values_are_converted_to_the_tasks_unit(panel):
    panel(convert=packaged.PANELS["river_stocks"].convert)
    np.testing.assert_allclose(np.exp(packaged.table("fake").values), [[1.01, 1.02], [0.995, 1.04]], rtol=1e-15)


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(
        packaged.PANELS, "river_stocks", replace(packaged.PANELS["river_stocks"], package="no-such-package")
    )
    with pytest.raises(DataError) as caught:
        sources.read("river_stocks")
    assert str(caught.value) == (
        "task.data=river_stocks: the package no-such-package is not installed; python -m pip install 'grownas[panels]'"
    )


def test_another_file_is_refused_with_both_versions(panel):
    found = panel(version="3.1", sha256="0" * 64)
    content = hashlib.sha256(TEXT.encode()).hexdigest()
    with pytest.raises(DataError) as caught:
        packaged.table("fake")
    assert str(caught.value) == (
        f"task.data=fake: {found.file} of the installed fake-data 3.1 differs from the file of fake-data 2.0, so "
        f"results could not be compared: its sha256 is {content}, expected {'0' * 64}; "
        "python -m pip install fake-data==2.0"
    )


def test_the_same_file_of_a_later_version_is_read(panel):
    panel(version="3.1")
    assert packaged.table("fake").source == "fake (fake-data 3.1: daily degrees)"


def test_a_version_without_the_file_is_refused(panel):
    panel(version="3.1", file="fake_data/moved.csv")
    with pytest.raises(
        DataError, match=r"fake_data/moved\.csv of the installed fake-data 3\.1 cannot be read: No such"
    ):
        packaged.table("fake")


@pytest.mark.parametrize("file", ["data/values.pkl", "data/values.npy", "data/values.joblib"])
def test_a_format_that_can_run_code_is_refused(file):
    with pytest.raises(ValueError, match=rf"{file}: expected plain or compressed CSV .* pickle can run code"):
        replace(packaged.PANELS["vega_weather"], file=file)


@pytest.mark.parametrize("name", packaged.PANELS)
def test_an_installed_panel_is_what_its_row_says(name):
    row = packaged.PANELS[name]
    try:
        metadata.distribution(row.package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{row.package} is not installed; it is in the extra `panels`")
    table = sources.read(name)
    assert table.names == list(row.series)
    assert table.values.shape == (len(table.dates), len(row.series))
    assert table.dates == sorted(set(table.dates))
    assert next_step(table.dates).frequency in FREQUENCIES[row.frequency]
    assert np.isfinite(table.values).all()
    assert (table.values > 0).all() == (row.kind == "prices")
    if row.kind == "returns":
        assert 0.002 < table.values.std() < 0.1  # decimals, not per cent
    assert table.kind == sources.KINDS[name] == Options(data=name, values=row.kind).values
