"""Learning on from a new recording: what is kept, what is refused, and what a refit learns from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from grownas.errors import ConfigError, DataError
from grownas.tasks.predistortion.model import as_pairs
from grownas.tasks.predistortion.options import MEMORY, Options
from grownas.tasks.predistortion.reading import PARTS, from_folder
from grownas.tasks.predistortion.task import Predistortion
from grownas.tasks.predistortion.updating import KEPT, check_options, check_recording
from support.drifting import COLD, LENGTHS, WARM, recording, write


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("recordings")
    return {
        name: str(write(place / name, recording(drive, seed)))
        for name, drive, seed in (("cold", COLD, 1), ("warm", WARM, 2))
    }


@pytest.fixture(scope="module")
def task(folders):
    return Predistortion.load(Options(data=folders["cold"]))


def test_files_hold_a_recording_to_the_last_bit(folders):
    assert from_folder(Path(folders["cold"])).checksum == recording(COLD, 1).checksum


def test_a_new_recording_takes_the_place_of_the_old_in_its_scaling(task, folders, tmp_path):
    joined = task.joined(Options(data=folders["warm"]))
    for name, text in joined.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    changes = {"data": str(tmp_path / joined.data), **joined.options}
    updated = Predistortion.load(Options(**changes))
    assert updated.recording.checksum == recording(WARM, 2).checksum
    assert updated.scales == task.scales != updated.recording.scales
    np.testing.assert_array_equal(updated.scaled("test")[1], updated.recording.y["test"] / task.scales[1])


def test_numbers_that_the_run_was_given_go_into_the_files(folders):
    given = {"sample_rate": 100e6, "bandwidth": 10e6, "channels": 1, "nperseg": 50}
    task = Predistortion.load(Options(data=folders["cold"], **given))
    joined = task.joined(Options(data=folders["warm"], **given))
    assert all(joined.options[key] is None for key in (*given, "output"))
    assert '"bw_main_ch": 10000000.0' in joined.files["recording/spec.json"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sample_rate", 90e6, r"sample_rate is 90000000.0, but that of the run's recording 100000000.0"),
        ("bandwidth", 10e6, "bandwidth is 10000000.0"),
        ("nperseg", 50, "nperseg is 50, but that of the run's recording 100; give a recording with the same"),
    ],
)
def test_another_band_is_refused(task, key, value, words):
    with pytest.raises(DataError, match=words):
        check_recording(task.recording, replace(recording(WARM, 2), **{key: value}))


@pytest.mark.parametrize("own_part", ["train", "val"])
@pytest.mark.parametrize("part", ["val", "test"])
def test_samples_that_were_learned_cannot_judge(task, part, own_part):
    new = recording(WARM, 2)
    old = slice(0, min(LENGTHS[part], LENGTHS[own_part]))
    x, y = (
        {**sides, part: own[own_part][old]} for sides, own in ((new.x, task.recording.x), (new.y, task.recording.y))
    )
    words = f"drifting: 100% of the samples of its part {part} are in the parts train and val"
    with pytest.raises(DataError, match=words):
        check_recording(task.recording, replace(new, x=x, y=y))


def test_a_data_frame_is_no_recording(task, folders):
    with pytest.raises(ConfigError, match="a recording is read from files: give a path"):
        task.joined(Options(data=folders["warm"]), frame=object())


def test_pauses_are_no_learned_samples(task):
    def with_pause(one):
        x, y = ({part: side[part].copy() for part in PARTS} for side in (one.x, one.y))
        for signal in (x["train"], x["val"], y["train"], y["val"]):
            signal[-300:] = 0
        return replace(one, x=x, y=y)

    check_recording(with_pause(task.recording), with_pause(recording(WARM, 2)))


CHANGED = {
    "job": "predistort",
    "features": ("i", "q"),
    "taps": 2,
    "phase": "relative",
    "scales": (1.0, 2.0),
    "repeats": True,
}


@pytest.mark.parametrize("key", KEPT)
def test_what_the_model_reads_cannot_change(key):
    with pytest.raises(ConfigError, match=f"task.{key}: an update keeps that of the run; leave it out"):
        check_options(Options(), Options(**{key: CHANGED[key]}))


def test_a_block_is_refused(task, folders):
    with pytest.raises(ConfigError, match=r"update\.block=100: a recording has its own parts"):
        task.joined(Options(data=folders["warm"]), block=100)


@pytest.mark.parametrize("scales", [None, (1.0, 0.5)])
def test_the_amplifier_and_the_scaling_see_the_training_part_only(folders, scales, monkeypatch):
    options = Options(data=folders["cold"], job="predistort", scales=scales)
    task = Predistortion.load(options)
    louder = replace(task.recording, y={**task.recording.y, **{part: 9 * task.recording.y[part] for part in PARTS[1:]}})
    monkeypatch.setattr("grownas.tasks.predistortion.task.read", lambda *_, **__: louder)
    other = Predistortion.load(options)
    assert other.scales == task.scales
    one, two = (each.amplifier.module.state_dict() for each in (task, other))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_refit_learns_from_the_validation_part_too_and_changes_no_scaling(task):
    refit = task.with_refit()
    assert refit.scales == task.scales
    lengths = LENGTHS["train"], LENGTHS["val"]
    np.testing.assert_array_equal(np.flatnonzero(~refit.compared("train")), [
        *range(MEMORY), *range(lengths[0], lengths[0] + MEMORY)
    ])  # fmt: skip
    rows = refit._learned[0]
    assert len(rows) == sum(lengths) - 2 * MEMORY
    torch.testing.assert_close(rows[-1, :2], as_pairs(task.scaled("val")[0])[-1], rtol=0, atol=0)
    for part in ("val", "test"):
        np.testing.assert_array_equal(refit.scaled(part), task.scaled(part))
