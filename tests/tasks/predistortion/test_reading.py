"""Recordings from folders and files: what is read, and what each refuses."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from grownas.errors import DataError
from grownas.tasks.predistortion.reading import BOTH, PAIR, PARTS, Recording, from_files, from_folder, read_csv

SPEC = {"input_signal_fs": 800e6, "bw_main_ch": 200e6, "bw_sub_ch": 20e6, "n_sub_ch": 10, "nperseg": 160}
NUMBERS = {"sample_rate": 800e6, "bandwidth": 200e6, "channels": 10, "nperseg": 160}


def text(*signals, header=PAIR):
    """Return a CSV of complex signals."""
    cells = np.stack(signals, axis=1).view(float)
    return "\n".join([",".join(header), *(",".join(map(repr, row)) for row in cells.tolist())]) + "\n"


def noise(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 2)).view(complex)[:, 0]


@pytest.fixture
def signals():
    """Input and output by part."""
    sizes = dict(zip(PARTS, (30, 10, 12), strict=True))
    return [{part: noise(size, [side, size]) for part, size in sizes.items()} for side in (0, 1)]


@pytest.fixture
def folder(tmp_path, signals):
    """A folder `amplifier` of six files and `spec.json`."""
    path = tmp_path / "amplifier"
    path.mkdir()
    (path / "spec.json").write_text(json.dumps(SPEC))
    for side, parts in zip(("input", "output"), signals, strict=True):
        for part, signal in parts.items():
            (path / f"{part}_{side}.csv").write_text(text(signal))
    return path


def refusal(read, *given, **options):
    with pytest.raises(DataError) as caught:
        read(*given, **options)
    return str(caught.value)


def edit(path, **changes):
    spec = json.loads((path / "spec.json").read_text())
    spec.update(changes)
    (path / "spec.json").write_text(json.dumps({key: value for key, value in spec.items() if value is not None}))


# ---- folders


def test_a_folder_is_read_to_the_last_bit(folder, signals):
    found = from_folder(folder)
    for part in PARTS:
        assert np.array_equal(found.x[part], signals[0][part])
        assert np.array_equal(found.y[part], signals[1][part])
    assert found.x["train"].dtype == np.complex128
    assert {key: getattr(found, key) for key in NUMBERS} == NUMBERS
    assert (found.name, found.source) == ("amplifier", str(folder))


def test_packed_files_give_the_same_recording(folder):
    plain = from_folder(folder)
    for path in folder.glob("*.csv"):
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert from_folder(folder).checksum == plain.checksum


def test_given_numbers_replace_those_of_the_spec(folder):
    assert from_folder(folder, channels=5, sample_rate=None).channels == 5
    edit(folder, nperseg=None)
    assert from_folder(folder, nperseg=80).nperseg == 80


def test_a_folder_of_one_file_is_split_by_the_spec(folder, signals):
    x, y = (np.concatenate(list(parts.values())) for parts in signals)
    (folder / "all.csv").write_text(text(x, y, header=BOTH))
    shares = {"train": 0.5, "val": 0.25, "test": 0.25}
    edit(folder, dataset_format="single_csv", csv_filename="all.csv", split_ratios=shares)
    found = from_folder(folder)
    assert [len(found.x[part]) for part in PARTS] == [26, 13, 13]
    assert np.array_equal(np.concatenate([found.y[part] for part in PARTS]), y)


def test_the_checksum_changes_with_samples_and_with_what_defines_scores(folder):
    found = from_folder(folder)
    changed = {part: signal + (part == "test") * 1e-15 for part, signal in found.y.items()}
    others = [replace(found, y=changed), *(replace(found, **{key: value / 2}) for key, value in NUMBERS.items())]
    assert len({found.checksum, *(one.checksum for one in others)}) == 6
    assert replace(found, name="other", source="elsewhere").checksum == found.checksum


def test_the_scales_are_the_largest_magnitudes_in_training():
    x = {part: np.array([1, 2j, -1.5]) for part in PARTS}
    y = {"train": np.array([3, -5j, 0]), "val": np.array([9.0, 0, 0]), "test": np.array([9.0, 0, 0])}
    assert Recording("a", x, y, 4.0, 1.0, 1, 8, "a").scales == (2, 5)


# ---- files


def test_a_pair_and_a_single_file_are_split_60_20_20_in_time_order(folder, signals):
    x, y = (parts["train"] for parts in signals)
    (folder / "both.csv").write_text(text(x, y, header=BOTH))
    pair = from_files(folder / "train_input.csv", folder / "train_output.csv")
    assert pair.checksum == from_files(folder / "both.csv").checksum
    assert np.array_equal(pair.x["train"], x[:18])
    assert np.array_equal(pair.y["val"], y[18:24])
    assert np.array_equal(pair.y["test"], y[24:])
    assert pair.name == "train_input"


def test_without_a_spec_the_numbers_can_be_given(folder):
    (folder / "spec.json").unlink()
    paths = folder / "train_input.csv", folder / "train_output.csv"
    assert from_files(*paths, **NUMBERS).bandwidth == 200e6
    assert refusal(from_files, *paths, **{**NUMBERS, "bandwidth": None}) == (
        f"{folder / 'spec.json'}: no bw_main_ch; add it to the file, or set task.bandwidth"
    )


def test_a_pair_of_different_lengths_is_refused(folder):
    x, y = folder / "train_input.csv", folder / "test_output.csv"
    assert refusal(from_files, x, y) == f"{x}: 30 samples, but {y} has 12; expected as many"


# ---- what is refused


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("I,Q\n1,2\n3\n", "row 3: got 1 fields, expected 2 as in the header"),
        ("I,Q\n1,2\n3,nan\n", "row 3: got 'nan', expected a finite number"),
        ("I,Q\n1,2\n3, inf\n", "row 3: got 'inf', expected a finite number"),
        ("I,Q\n1,x\n", "row 2: got 'x', expected a finite number"),
        ("1,2\n3,4\n", "row 1: got the columns 1, 2; expected I,Q"),
        ("Q,I\n3,4\n", "row 1: got the columns Q, I; expected I,Q"),
        ("", "row 1: got the columns (none); expected I,Q"),
    ],
)
def test_a_wrong_cell_is_named_with_its_row(tmp_path, rows, reason):
    path = tmp_path / "signal.csv"
    path.write_text(rows)
    assert refusal(read_csv, path, PAIR) == f"{path}, {reason}"


def test_a_quoted_header_and_blank_lines_at_the_end_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('"I","Q"\n1,2\n3,4\n\n \n')
    assert read_csv(tmp_path / "a.csv", ("I", "Q"))[:, 0].tolist() == [1 + 2j, 3 + 4j]


def test_a_file_without_samples_is_refused(tmp_path):
    path = tmp_path / "signal.csv"
    path.write_text("I,Q\n")
    assert refusal(read_csv, path, PAIR) == f"{path}: no samples below the header; expected one row per sample"


def test_files_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "signal.csv"
    path.write_bytes(b"\xff\xfe")
    assert refusal(read_csv, path, PAIR).startswith(f"{path}: not a text file in UTF-8 (byte 0)")
    packed = tmp_path / "signal.csv.gz"
    packed.write_bytes(b"I,Q\n")
    assert refusal(read_csv, packed, PAIR).startswith(f"{packed}: damaged gzip file: ")
    assert refusal(read_csv, tmp_path, PAIR) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_missing_file_and_a_file_too_many_are_named(folder):
    (folder / "val_output.csv").rename(folder / "val_output.txt")
    assert refusal(from_folder, folder) == f"{folder}: no val_output.csv; expected val_output.csv or val_output.csv.gz"
    for name in ("val_output.csv", "val_output.csv.gz"):
        (folder / name).write_text("")
    assert refusal(from_folder, folder) == f"{folder}: both val_output.csv and val_output.csv.gz; keep one of them"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_sub_ch": None}, "no n_sub_ch; add it to the file, or set task.channels"),
        ({"bw_main_ch": -1}, "bw_main_ch is -1, expected a number above 0"),
        ({"bw_main_ch": True}, "bw_main_ch is True, expected a number above 0"),
        ({"nperseg": "16"}, "nperseg is '16', expected a number above 0"),
        ({"bw_main_ch": 10**309}, f"bw_main_ch is {10**309}, expected a number above 0"),
        ({"nperseg": 16.5}, "nperseg is 16.5, expected a whole number"),
        ({"split_ratios": {"train": 1}}, "split_ratios is {'train': 1}, expected a share for each of train, val, test"),
    ],
)
def test_a_wrong_spec_is_refused(folder, changes, reason):
    edit(folder, **changes)
    assert refusal(from_folder, folder) == f"{folder / 'spec.json'}: {reason}"


def test_shares_that_do_not_sum_to_1_are_refused(folder):
    edit(folder, split_ratios={"train": 0.9, "val": 0.2, "test": 0.2})
    assert refusal(from_folder, folder).endswith("expected shares above 0 that sum to 1")


@pytest.mark.parametrize("document", ["[1]", "{", "[" * 100_000])
def test_a_spec_that_is_no_object_is_refused(folder, document):
    (folder / "spec.json").write_text(document)
    assert refusal(from_folder, folder).startswith(f"{folder / 'spec.json'}: ")


def test_signals_that_cannot_be_scored_are_refused(folder):
    found = from_folder(folder)
    short, still, wild = ({**found.y, "val": signal} for signal in (noise(9, 1), np.zeros(10), np.full(10, np.nan)))
    where = f"{folder}, part val:"
    assert refusal(replace, found, y=short) == f"{where} the input has 10 samples, the output 9; expected as many"
    assert refusal(replace, found, y=still) == f"{where} every sample of the output is 0; expected a signal"
    for size, energy in ((1e200, "inf"), (1e-200, "0.0")):
        words = f"{where} the squares of the output sum to {energy}; give the signal in another unit"
        assert refusal(replace, found, y={**found.y, "val": np.full(10, size)}) == words
    assert refusal(replace, found, y=wild).startswith(f"{where} the output has a sample that is not finite")


def test_frames_that_do_not_resolve_a_sub_channel_are_refused(folder):
    assert refusal(from_folder, folder, nperseg=79) == (
        f"{folder}: frames of 79 samples do not resolve a sub-channel of 2e+07 Hz; give nperseg of at least 80"
    )
    assert from_folder(folder, nperseg=80).band.places[2] == 2


def test_a_file_outside_of_the_folder_is_refused(folder):
    edit(folder, dataset_format="single_csv", csv_filename="../secret.csv")
    assert refusal(from_folder, folder) == (
        f"{folder / 'spec.json'}: csv_filename is '../secret.csv', expected the name of a file beside it"
    )


def test_adjacent_channels_beyond_half_the_sample_rate_are_refused(folder):
    assert refusal(from_folder, folder, channels=1, bandwidth=300e6).startswith(
        f"{folder}: the adjacent channels reach to 4.5e+08 Hz, but a sample rate of 8e+08 Hz shows frequencies up to"
    )
