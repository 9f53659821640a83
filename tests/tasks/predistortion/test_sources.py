"""Recordings by name and by path, and a fake and the installed package `opendpd`."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import numpy as np
import pytest

from grownas.errors import DataError
from grownas.tasks.predistortion import sources
from grownas.tasks.predistortion.reading import PARTS
from grownas.tasks.predistortion.simulated import simulated

SPEC = {"input_signal_fs": 8.0, "bw_main_ch": 2.0, "n_sub_ch": 1, "nperseg": 8}


def refusal(*given, **options):
    with pytest.raises(DataError) as caught:
        sources.read(*given, **options)
    return str(caught.value)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Install a fake package `fake-dpd` with a recording `DPA_200MHz`; return the folder of the recording."""
    folder = tmp_path / "datasets" / "DPA_200MHz"
    folder.mkdir(parents=True)
    (tmp_path / "datasets" / "__init__.py").write_text("raise AssertionError('imported')\n")
    (folder / "spec.json").write_text(json.dumps(SPEC))
    for part in PARTS:
        for side in ("input", "output"):
            (folder / f"{part}_{side}.csv").write_text("I,Q\n1,2\n3,4\n")
    about = tmp_path / "fake_dpd-3.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-dpd\nVersion: 3.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sources, "PACKAGE", "fake-dpd")
    return folder


def test_a_file_of_the_package_is_read_without_an_import(fake, monkeypatch):
    expected = sources.from_folder(fake).checksum
    monkeypatch.setitem(sources.MEASURED, "DPA_200MHz", expected)
    found = sources.read("DPA_200MHz")
    assert (found.name, found.source) == ("DPA_200MHz", "DPA_200MHz (fake-dpd 3.0)")
    assert found.x["test"].tolist() == [1 + 2j, 3 + 4j]
    assert "datasets" not in sys.modules


def test_other_files_than_expected_are_refused(fake):
    assert refusal("DPA_200MHz") == (
        "DPA_200MHz (fake-dpd 3.0) differs from fake-dpd 2.4.2, so results could not be compared: its checksum is "
        f"{sources.from_folder(fake).checksum}, expected {sources.MEASURED['DPA_200MHz']}; "
        "python -m pip install --no-deps fake-dpd==2.4.2"
    )


def test_a_missing_file_of_the_package_is_named(fake):
    (fake / "val_input.csv").unlink()
    assert refusal("DPA_200MHz") == (
        f"DPA_200MHz (fake-dpd 3.0) cannot be read: {fake}: no val_input.csv; expected val_input.csv or "
        "val_input.csv.gz; python -m pip install --no-deps fake-dpd==2.4.2"
    )


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(sources, "PACKAGE", "no-such-package")
    assert refusal("APA_200MHz") == (
        "task.data=APA_200MHz: the package no-such-package is not installed; "
        "python -m pip install --no-deps no-such-package"
    )


@pytest.mark.parametrize("name", sources.MEASURED)
def test_the_installed_recordings_are_those_expected(name):
    try:
        metadata.distribution(sources.PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package opendpd")
    assert sources.read(name).source.startswith(f"{name} (opendpd ")


def test_a_name_a_folder_and_files_are_told_apart(fake):
    assert sources.read("simulated", data_seed=3).checksum == simulated(3).checksum
    assert sources.read(str(fake)).name == "DPA_200MHz"
    x, y = fake / "long_input.csv", fake / "long_output.csv"
    for path in (x, y):
        path.write_text("I,Q\n" + "1,2\n" * 10)
    assert np.array_equal(sources.read(str(x), output=str(y), nperseg=20).x["val"], [1 + 2j, 1 + 2j])


def test_an_unknown_name_suggests_the_nearest():
    assert refusal("DPA_20MHz") == "task.data=DPA_20MHz: no such file or folder; did you mean DPA_200MHz?"
    assert refusal("/nowhere/x") == (
        "task.data=/nowhere/x: no such file or folder; expected a folder, a CSV, or one of simulated, DPA_200MHz, "
        "DPA_160MHz, APA_200MHz, APA_200MHz_b"
    )


def test_numbers_of_a_known_recording_cannot_be_replaced():
    assert refusal("simulated", nperseg=100) == (
        "task.nperseg=100: task.data=simulated has its own; leave task.nperseg out"
    )


def test_an_output_without_an_input_is_refused(fake):
    for data in ("simulated", str(fake)):
        assert refusal(data, output="y.csv") == (
            f"task.output=y.csv: task.data={data} is no CSV of an input; set task.output=null"
        )
