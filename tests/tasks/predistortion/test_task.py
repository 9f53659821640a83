"""The task: parts, windows, losses, scores, its start, and what it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import numpy as np
import pytest
import torch

from grownas import Backbone
from grownas.errors import DataError
from grownas.protocols import Starting, Task
from grownas.tasks.predistortion import metrics
from grownas.tasks.predistortion.amplifier import MOST, RIDGE, Amplifier
from grownas.tasks.predistortion.model import as_complex, as_pairs
from grownas.tasks.predistortion.options import MEMORY, POLYNOMIAL, Options
from grownas.tasks.predistortion.polynomial import context_of
from grownas.tasks.predistortion.polynomial_fit import GRIDS, Shape, choose
from grownas.tasks.predistortion.reading import as_files
from grownas.tasks.predistortion.simulated import simulated
from grownas.tasks.predistortion.task import UNIT, Predistortion
from grownas.training.distil import Distilled

SMALL = {"start_family": "mp", "start_params": 30, "streams": 4}


@pytest.fixture(scope="module")
def task() -> Predistortion:
    return Predistortion.load(Options(**SMALL))


@pytest.fixture(scope="module")
def predistort() -> Predistortion:
    return Predistortion.load(Options(job="predistort", **SMALL))


def drawn(task: Predistortion):
    generator = torch.Generator().manual_seed(0)
    return task.model(Backbone(task.input_size, 4, generator=generator), generator=generator)


def test_it_is_a_task_that_offers_a_start(task):
    assert isinstance(task, Task)
    assert isinstance(task, Starting)
    assert task.input_size == 6
    assert Predistortion.load(Options(taps=2, features=["i", "q"])).input_size == 6


def test_blocks_read_samples_as_they_are():
    plain = {"features": ["i", "q"]}
    assert Predistortion.load(Options(**plain)).reads_samples
    assert not any(
        Predistortion.load(Options(**plain, **one)).reads_samples for one in ({"taps": 1}, {"phase": "relative"})
    )


def test_the_memory_is_that_of_the_largest_polynomial():
    largest = [Shape(**{field: values[-1] for field, values in grid.items()}) for grid in GRIDS.values()]
    assert max(context_of(shape.terms) for shape in largest) == MEMORY


def test_scaling_sees_the_training_part_only(task):
    louder = dataclasses.replace(task.recording, x={**task.recording.x, "val": 9 * task.recording.x["val"]})
    assert dataclasses.replace(task, recording=louder).scales == task.scales
    assert [np.abs(one).max() for one in task.scaled("train")] == pytest.approx([1, 1])


def test_windows_are_streams_of_the_training_part_in_order(task):
    windows = list(task.windows("train", seed=3))
    assert windows[0].burn_in
    assert windows[0].fresh
    assert {(one.x.shape[0], one.x.shape[1]) for one in windows} == {(50, 4)}
    x, y = (as_pairs(one) for one in task.scaled("train"))
    whole, target = (torch.cat([getattr(one, name) for one in windows]) for name in ("x", "target"))
    for stream in range(4):
        first = int((x == whole[0, stream, :2]).all(1).nonzero()[0])
        assert torch.equal(whole[:, stream, :2], x[first : first + len(whole)])
        assert torch.equal(target[:, stream], y[first : first + len(whole)])
        assert torch.equal(whole[:, stream, -2:], x[first - MEMORY : first - MEMORY + len(whole)])
    again = next(iter(task.windows("train", seed=4)))
    assert not torch.equal(again.x, windows[0].x)


def test_parts_of_bilevel_training_share_no_target(task):
    seen = [torch.cat([one.target for one in task.windows(part, seed=0)]) for part in ("weights", "architecture")]
    values = [{tuple(pair) for pair in one.flatten(0, 1).tolist()} for one in seen]
    assert not values[0] & values[1]


def test_the_start_scores_as_its_polynomial(task):
    start = task.started(drawn(task), POLYNOMIAL)
    x, y = task.scaled("train")
    polynomial = choose(x, y, "mp", most=30)
    for part in ("val", "test"):
        given, wanted = task.scaled(part)
        found = task.evaluate(start, part)
        expected = metrics.nmse(polynomial.predict(given)[MEMORY:], wanted[MEMORY:])
        assert found.metric == pytest.approx(expected, abs=1e-4)  # float32
    assert len(start.polynomial.terms) == len(polynomial.coefficients)


def test_the_loss_is_the_mean_of_the_losses_of_an_evaluation(task):
    model, window = drawn(task), next(iter(task.windows("train", seed=0)))
    out, _ = model.states(window.x)
    expected = (model(window.x)[0] - window.target).square().sum(-1).mean()
    power = np.mean(np.abs(task.scaled("train")[1]) ** 2)
    assert task.loss(model, out, window).item() == pytest.approx(expected.item() / (UNIT * power), rel=1e-5)
    found = task.evaluate(model, "val")
    wanted = task.recording.y["val"][MEMORY:]
    error = np.abs(as_complex(found.forecasts) - wanted) ** 2
    assert found.metric == pytest.approx(10 * np.log10(error.sum() / np.sum(np.abs(wanted) ** 2)))
    np.testing.assert_allclose(found.losses, error / task.scales[1] ** 2 / (UNIT * power), rtol=1e-9)


def test_a_perfect_model_has_the_scores_of_the_recording(task):
    evaluation = task.evaluate_signal(as_pairs(task.scaled("test")[1])[MEMORY:, None].double(), "test")
    scores, y = task.score(evaluation, "test"), task.recording.y["test"][MEMORY:]
    assert evaluation.metric < -120  # float32
    assert (scores["acpr_left_db"], scores["acpr_right_db"]) == pytest.approx(
        metrics.aclr(y, task.recording.band), abs=1e-3
    )
    assert scores["evm_db"] < -120


def test_predictions_without_any_error_have_a_finite_score(task):
    exact = torch.view_as_real(torch.from_numpy(task.scaled("test")[1]))[MEMORY:, None]
    assert task.evaluate_signal(exact, "test").metric == pytest.approx(10 * np.log10(metrics.LEAST))


def test_a_predistorter_that_does_nothing_leaves_the_amplifier_as_it_is(predistort):
    x, _ = predistort.scaled("test")
    found = predistort.evaluate_signal(predistort.delayed(x)[..., :2], "test")
    polynomial = choose(*predistort.scaled("train"), "gmp", most=MOST, ridges=(RIDGE,))
    output, first = polynomial.predict(x), MEMORY + polynomial.context
    assert found.metric == pytest.approx(metrics.nmse(output[first:], x[first:]), abs=1e-4)
    assert predistort.amplifier.memory == polynomial.context


def test_a_fitted_inverse_makes_the_amplifier_more_linear(predistort):
    x, _ = predistort.scaled("test")
    plain = predistort.evaluate_signal(predistort.delayed(x)[..., :2], "test")
    started = predistort.evaluate(predistort.started(drawn(predistort), POLYNOMIAL), "test")
    assert started.metric < plain.metric - 6
    before, after = (predistort.score(one, "test") for one in (plain, started))
    assert after["evm_db"] < before["evm_db"] - 6
    assert max(after["acpr_left_db"], after["acpr_right_db"]) < max(before["acpr_left_db"], before["acpr_right_db"])


def test_gradients_of_a_predistorter_come_through_the_amplifier(predistort):
    model, window = drawn(predistort), next(iter(predistort.windows("train", seed=0)))
    assert torch.equal(window.x[..., :2], window.target)  # the target is the linear gain, 1 after scaling
    loss = predistort.loss(model, model.states(window.x)[0], window)
    loss.backward()
    slope = model.readout.bias.grad.clone()
    assert all(not one.requires_grad for one in predistort.amplifier.module.parameters())
    with torch.no_grad():
        model.readout.bias[0] += 1e-3
        moved = predistort.loss(model, model.states(window.x)[0], window)
    assert (moved - loss).item() / 1e-3 == pytest.approx(slope[0].item(), rel=0.02)


def test_indirect_learning_learns_the_inverse(predistort):
    task = Predistortion.load(Options(job="predistort", learning="indirect", **SMALL))
    window = next(iter(task.windows("train", seed=0)))
    x, y = (as_pairs(one) for one in task.scaled("train"))
    first = int((y == window.x[0, 0, :2]).all(1).nonzero()[0])
    assert torch.equal(window.target[:, 0], x[first : first + 50])
    model = drawn(task)
    assert task.evaluate(model, "val").metric == predistort.evaluate(model, "val").metric  # both through the amplifier


def test_an_amplifier_with_a_state_fills_it_before_the_first_output(task):
    model = drawn(task)
    x = as_pairs(task.scaled("val")[0])[:, None]
    output = Amplifier(model.eval(), MEMORY, "a model", has_state=True)(x)
    expected = as_complex(task.evaluate(model, "val").forecasts) / task.scales[1]
    torch.testing.assert_close(output[:, 0], as_pairs(expected))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bptt": 5000}, "the part train has 11961 samples, but windows of 5000 need at least 15000"),
        ({"job": "predistort", "bptt": 3}, "task.bptt=3: the first 6 samples of a window fill the amplifier's memory"),
    ],
)
def test_what_is_too_short_is_refused(options, words):
    with pytest.raises(DataError, match=words):
        Predistortion.load(Options(**options)).windows("train", seed=0)


def test_a_part_that_only_fills_memories_is_refused(task, monkeypatch):
    recording = task.recording
    short = {
        "x": {**recording.x, "val": recording.x["val"][:100]},
        "y": {**recording.y, "val": recording.y["val"][:100]},
    }
    monkeypatch.setattr(
        "grownas.tasks.predistortion.task.read", lambda *_, **__: dataclasses.replace(recording, **short)
    )
    with pytest.raises(DataError, match="the part val has 100 samples, but at least 1000 are needed: 156, and a frame"):
        Predistortion.load(Options())


def test_a_part_whose_scored_samples_are_silent_is_refused(task, monkeypatch):
    silent = task.recording.y["test"].copy()
    silent[2 * MEMORY :] = 0
    recording = dataclasses.replace(task.recording, y={**task.recording.y, "test": silent})
    monkeypatch.setattr("grownas.tasks.predistortion.task.read", lambda *_, **__: recording)
    with pytest.raises(DataError, match="the part test is 0 from sample 78 on"):
        Predistortion.load(Options())


def test_a_signal_of_other_units_that_overflows_is_refused(task, tmp_path):
    path = tmp_path / "signal.csv"
    path.write_text("I,Q\n1e300,0\n")
    with pytest.raises(DataError, match=r"signal\.csv: the output is not finite; the largest sample is .* times that"):
        task.filtered_file(drawn(task), path)


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        (np.ones((3, 2)), r"shape \(3, 2\); expected complex samples, \(n,\)"),
        ([], r"shape \(0,\)"),
        (["a"], "no array of complex numbers"),
        ([None], "sample 0 of the signal"),
        ([[1], [1, 2]], "no array of complex numbers"),
        ([1, np.nan], "sample 1 of the signal, counted from 0, is not finite"),
    ],
)
def test_what_is_no_signal_is_refused(task, signal, words):
    with pytest.raises(DataError, match=words):
        task.filtered(drawn(task), signal)


def test_a_list_of_real_numbers_is_a_signal(task):
    model = drawn(task)
    assert np.array_equal(task.filtered(model, [1, 2]), task.filtered(model, np.array([1 + 0j, 2])))


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("phase", ["absolute", "relative"])
def test_a_model_is_at_no_distance_from_itself_as_a_teacher(phase, start):
    task = Predistortion.load(Options(data="simulated", start_params=60, phase=phase))
    model = task.model(torch.nn.GRU(6, 4), generator=torch.Generator().manual_seed(0)).eval()
    model = task.started(model, "polynomial") if start else model
    taught = Distilled(task, "train", weight=1.0, temperature=1.0, teacher=model)
    before, window = itertools.islice(taught.windows("train", seed=0), 2)
    out, _ = model.states(window.x, model.states(before.x)[1])
    assert taught.distance(model, out, window).item() < 1e-12


def test_a_predistorters_scores_come_with_how_well_its_amplifier_is_known(task, predistort):
    assert task.caution == ""
    x, y = predistort.scaled("test")
    output = predistort.amplifier(as_pairs(x)[:, None])[:, 0]
    error = as_complex(output.double().numpy())[MEMORY:] - y[predistort.amplifier.memory + MEMORY :]
    nmse = 10 * np.log10(np.sum(np.abs(error) ** 2) / np.sum(np.abs(y[predistort.amplifier.memory + MEMORY :]) ** 2))
    assert predistort.describe()["amplifier_nmse_db"] == pytest.approx(nmse, abs=1e-6)
    assert f"NMSE is {nmse:.2f} dB" in predistort.caution


@pytest.mark.parametrize(
    ("shift", "words"),
    [(0, None), (60, "is 61 samples behind"), (-3, "is 2 samples ahead of the")],  # the simulation delays by 1
)
def test_a_recording_that_is_not_aligned_is_told(tmp_path, shift, words):
    of = simulated(1)
    own = dataclasses.replace(of, y={part: np.roll(signal, shift) for part, signal in of.y.items()})
    for name, text in as_files(own).items():
        (tmp_path / name).write_text(text)
    told = pytest.warns(UserWarning, match=words) if words else contextlib.nullcontext()
    with told:
        Predistortion.load(Options(data=str(tmp_path)))
