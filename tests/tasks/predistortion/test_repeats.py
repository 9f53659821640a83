"""Frames that were played again and again: what comes before a frame is its own end."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from grownas import Backbone
from grownas.errors import DataError
from grownas.tasks.predistortion import metrics
from grownas.tasks.predistortion.model import as_pairs, delayed
from grownas.tasks.predistortion.options import MEMORY, POLYNOMIAL, Options
from grownas.tasks.predistortion.polynomial_fit import choose
from grownas.tasks.predistortion.task import LEAD, Predistortion

SIZE = 500  # samples of a frame
FRAMES = {"train": 4, "val": 1, "test": 2}
SMALL = {"start_family": "mp", "start_params": 30, "streams": 4, "nperseg": SIZE}


def amplified(frames):
    """An amplifier with a memory of 6 samples, to which each frame, a row, is played for ever."""
    echoes = sum(0.2 * 0.7**delay * np.roll(frames, delay, axis=1) for delay in range(1, 7))
    return frames + echoes - 0.2 * frames * np.abs(frames) ** 2


@pytest.fixture(scope="module")
def recording():
    rng, read = np.random.default_rng(0), Predistortion.load(Options()).recording
    x = {
        part: np.exp(2j * np.pi * rng.random((many, SIZE))) * rng.random((many, SIZE)) for part, many in FRAMES.items()
    }
    y = {part: amplified(one).ravel() for part, one in x.items()}
    return dataclasses.replace(read, x={part: one.ravel() for part, one in x.items()}, y=y, nperseg=SIZE)


@pytest.fixture
def load(recording, monkeypatch):
    monkeypatch.setattr("grownas.tasks.predistortion.task.read", lambda *_, **__: recording)
    return lambda **options: Predistortion.load(Options(**{**SMALL, **options}))


def drawn(task):
    generator = torch.Generator().manual_seed(0)
    return task.model(Backbone(task.input_size, 4, generator=generator), generator=generator)


def nmse_of(task, polynomial):
    predicted = torch.view_as_real(torch.from_numpy(polynomial.predict(task.scaled("test")[0])))
    return task.evaluate_signal(predicted[MEMORY:, None], "test").metric


def test_an_amplifier_of_repeated_frames_is_found_exactly(load):
    scores = {}
    for repeats in (True, False):
        task = load(repeats=repeats)
        x, y = task.scaled("train")
        scores[repeats] = nmse_of(task, choose(x, y, "mp", used=task.compared("train")))
    assert scores[True] < -150
    assert scores[False] > -60  # the first samples of a frame come after others


def test_windows_hold_what_was_played_before_each_sample(load):
    task = load(repeats=True, streams=1)
    windows = list(task.windows("train", seed=0))
    x, target = (torch.cat([getattr(one, name)[:, 0] for one in windows]) for name in ("x", "target"))
    frames, outputs = (one.reshape(-1, SIZE) / scale for one, scale in zip(
        (task.recording.x["train"], task.recording.y["train"]), task.scales, strict=True
    ))  # fmt: skip
    known = {tuple(pair): place for place, pair in enumerate(as_pairs(frames.ravel()).tolist())}
    for row, wanted in zip(x.reshape(len(x), -1, 2).tolist(), target, strict=True):
        frame, place = divmod(known[tuple(row[0])], SIZE)
        past = frames[frame, (place - np.arange(MEMORY + 1)) % SIZE]
        assert row == as_pairs(past).tolist()
        assert torch.equal(wanted, as_pairs(outputs[frame, [place]])[0])


def test_all_samples_of_the_frames_are_scored_and_no_other(load):
    task = load(repeats=True)
    perfect = as_pairs(task.scaled("test")[1])[MEMORY:, None]
    found = task.evaluate_signal(perfect, "test")
    assert found.forecasts == pytest.approx(torch.view_as_real(torch.from_numpy(task.recording.y["test"])), abs=1e-6)
    assert found.losses.shape == (2 * SIZE,)
    perfect[:LEAD - MEMORY] = 9  # fmt: skip
    assert task.evaluate_signal(perfect, "test").metric == found.metric


def test_a_recurrent_model_scores_as_if_each_frame_had_been_played_before(load):
    task = load(repeats=True)
    model = drawn(task)
    frames = task.recording.x["test"].reshape(-1, SIZE) / task.scales[0]
    played = as_pairs(np.tile(frames, 3).T.reshape(-1)).reshape(3 * SIZE, 2, 2)
    with torch.no_grad():
        output, _ = model(delayed(played, MEMORY))
    expected = output[-SIZE:].transpose(0, 1).reshape(-1, 2).double() * task.scales[1]
    np.testing.assert_allclose(task.evaluate(model, "test").forecasts, expected, atol=1e-5)


def test_the_start_scores_as_its_polynomial(load):
    task = load(repeats=True)
    x, y = task.scaled("train")
    polynomial = choose(x, y, "mp", used=task.compared("train"), most=30)
    start = task.started(drawn(task), POLYNOMIAL)
    assert task.evaluate(start, "test").metric == pytest.approx(nmse_of(task, polynomial), abs=1e-3)


@pytest.mark.parametrize("learning", ["direct", "indirect"])
def test_a_predistorter_of_repeated_frames_is_scored_on_their_samples(load, learning):
    task = load(repeats=True, job="predistort", learning=learning)
    nothing = as_pairs(task.scaled("test")[0])[MEMORY:, None]
    found = task.evaluate_signal(nothing, "test")
    assert found.losses.shape == (2 * SIZE,)
    x = task.recording.x["test"] / task.scales[0]
    plain = amplified(x.reshape(-1, SIZE) * task.scales[0]).ravel() / task.scales[1]
    assert found.metric == pytest.approx(metrics.nmse(plain, x), abs=0.2)  # the fitted amplifier has a large ridge
    assert next(iter(task.windows("train", seed=0))).x.shape == (50, 4, 2 * (MEMORY + 1))


def test_frames_that_do_not_fill_a_part_are_refused(recording, monkeypatch):
    other = dataclasses.replace(recording, nperseg=300)
    monkeypatch.setattr("grownas.tasks.predistortion.task.read", lambda *_, **__: other)
    with pytest.raises(
        DataError, match="the part train has 2000 samples, which is no whole number of frames of nperseg=300"
    ):
        Predistortion.load(Options(repeats=True))
