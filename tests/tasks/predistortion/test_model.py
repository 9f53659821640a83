"""The model of a signal: what it reads, and its start at a polynomial."""

from __future__ import annotations

import pytest
import torch

from grownas import Backbone
from grownas.tasks.predistortion.dgru import DGRU
from grownas.tasks.predistortion.model import SignalModel, delayed, features_of, phase_of, rebuild, rotated, start_at
from grownas.tasks.predistortion.options import FEATURES
from grownas.tasks.predistortion.polynomial import Shape
from grownas.tasks.predistortion.polynomial_path import path_of
from grownas.tasks.predistortion.simulated import simulated
from grownas.tasks.predistortion.task import UNIT
from support.polynomials import fit


@pytest.fixture(scope="module")
def signals():
    recording = simulated(1)
    return recording.x["train"][:1000], recording.y["train"][:1000]


@pytest.fixture
def drawn() -> SignalModel:
    generator = torch.Generator().manual_seed(0)
    return SignalModel(Backbone(6, 4, generator=generator), FEATURES, 0, generator=generator).double()


def test_a_sample_is_followed_by_those_before_it():
    signal = torch.arange(10.0).view(5, 1, 2)  # sample t is (2 t, 2 t + 1)
    assert delayed(signal, 2)[:, 0].tolist() == [[4, 5, 2, 3, 0, 1], [6, 7, 4, 5, 2, 3], [8, 9, 6, 7, 4, 5]]
    assert torch.equal(delayed(signal, 0), signal)


def test_features_are_those_of_the_benchmark():
    x = torch.tensor([[[3.0, -4.0, 0.0, 0.0]]])
    expected = {"i": 3.0, "q": -4.0, "abs": 5.0, "abs3": 125.0, "cos": 0.6, "sin": -0.8}
    torch.testing.assert_close(features_of(x, FEATURES, 0)[0, 0], torch.tensor([expected[name] for name in FEATURES]))
    assert features_of(x, ["q", "abs"], 1)[0, 0].tolist() == [-4.0, 0.0, 5.0, 0.0]
    x = torch.tensor([[[3.0, -4.0, 0.0, 2.0]]])  # (3 - 4i) and 2i; rotated by -phase: 5 and -1.6 + 1.2i
    torch.testing.assert_close(
        features_of(x, ["i", "q", "abs"], 1, is_relative=True)[0, 0], torch.tensor([5.0, -1.6, 0.0, 1.2, 5.0, 2.0])
    )


def test_features_of_silence_are_zero_and_have_finite_gradients():
    x = torch.zeros(1, 1, 2, requires_grad=True)
    features = features_of(x, FEATURES, 0)
    (features / UNIT).sum().backward()  # as large as those of a loss
    assert features.abs().max() == 0
    assert torch.isfinite(x.grad).all()


def test_the_start_computes_the_polynomial_to_the_last_bit(signals, drawn):
    path, left = path_of(fit(*signals, Shape(3, 3, 3, 2, 1)), *signals)
    x = delayed(torch.view_as_real(torch.from_numpy(signals[0]))[:, None], 4)
    expected = path(x)
    before = drawn(x)[0]
    start = start_at(drawn, path, left)
    assert torch.equal(start(x)[0], expected)
    assert not torch.equal(before, expected)
    assert start.scale.item() == left


@pytest.mark.parametrize("phase", ["absolute", "relative"])
@pytest.mark.parametrize("taps", [0, 4, 39])
def test_a_register_of_features_leaves_the_start_as_it_is(signals, taps, phase):
    path, left = path_of(fit(*signals, Shape(3, 3, 3, 2, 1)), *signals)
    generator = torch.Generator().manual_seed(0)
    core = Backbone(6 * (taps + 1), 4, generator=generator)
    model = SignalModel(core, FEATURES, taps, is_relative=phase == "relative", generator=generator).double()
    x = delayed(torch.view_as_real(torch.from_numpy(signals[0]))[:, None], 39)
    assert torch.equal(start_at(model, path, left)(x)[0], path(x))


@pytest.mark.parametrize("phase", ["absolute", "relative"])
@pytest.mark.parametrize("taps", [0, 3])
def test_steps_are_the_sequence_after_silence(signals, taps, phase):
    model = registered(taps, phase)
    start_at(model, *path_of(fit(*signals, Shape(3, 3)), *signals))
    with torch.no_grad():
        model.readout.weight.normal_(generator=torch.Generator().manual_seed(1))
    samples = torch.rand(30, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 0.5
    samples[5:9] = 0
    whole, _ = model(delayed(torch.cat([torch.zeros(model.memory, 2, 2, dtype=torch.float64), samples]), model.memory))
    state, found = None, []
    for sample in samples:
        one, state = model.step(sample, state)
        found.append(one)
    assert model.memory == max(taps, 2)
    torch.testing.assert_close(torch.stack(found), whole, rtol=0, atol=1e-14)


def test_a_model_of_relative_phases_turns_its_output_with_its_input():
    model = registered(3, "relative")
    with torch.no_grad():
        model.scale.fill_(0.3)
    x = torch.randn(20, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    angle = torch.tensor(0.7).double()
    quarter = torch.stack([angle.cos(), angle.sin()])
    by_angle = rotated(x.unflatten(-1, (4, 2)), quarter).flatten(-2)
    torch.testing.assert_close(model(by_angle)[0], rotated(model(x)[0], quarter))
    absolute = registered(3, "absolute")
    assert not torch.allclose(absolute(by_angle)[0], rotated(absolute(x)[0], quarter))


def test_the_phase_of_silence_is_zero_and_has_a_finite_gradient():
    x = torch.zeros(1, 1, 4, requires_grad=True)
    assert phase_of(x)[0, 0].tolist() == [1, 0]
    features_of(x, FEATURES, 1, is_relative=True).sum().backward()
    assert torch.isfinite(x.grad).all()


def registered(taps: int, phase: str) -> SignalModel:
    """Return a model with drawn weights that reads I, Q and magnitude of `taps` earlier samples too, in float64."""
    generator = torch.Generator().manual_seed(0)
    core = Backbone(3 * (taps + 1), 4, generator=generator)
    features = ["i", "q", "abs"]
    return SignalModel(core, features, taps, is_relative=phase == "relative", generator=generator).double()


def test_the_start_can_learn_in_its_readout_and_its_polynomial_at_once(signals, drawn):
    start = start_at(drawn, *path_of(fit(*signals, Shape(3, 3)), *signals))
    x = delayed(torch.view_as_real(torch.from_numpy(signals[0]))[:, None], 4)
    start(x)[0].square().sum().backward()
    assert start.readout.weight.grad.abs().min() > 0
    assert start.polynomial.change.grad.abs().min() > 0


def test_what_is_saved_of_a_start_is_rebuilt(signals, drawn):
    start = start_at(drawn, *path_of(fit(*signals, Shape(3, 3)), *signals))
    saved = start.state_dict()
    again = rebuild(SignalModel(Backbone(6, 4), FEATURES, 0), saved).double()
    again.load_state_dict(saved)
    x = torch.rand(9, 2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again(x)[0], start(x)[0])
    plain = SignalModel(Backbone(6, 4), FEATURES, 0)
    assert rebuild(plain, plain.state_dict()).polynomial is None


def test_blocks_of_a_signal_give_the_output_of_the_whole(signals, drawn):
    start = start_at(drawn, *path_of(fit(*signals, Shape(3, 3)), *signals))
    with torch.no_grad():
        start.readout.weight.normal_(generator=torch.Generator().manual_seed(1))
        x = delayed(torch.view_as_real(torch.from_numpy(signals[0][:60]))[:, None], 4)
        whole, _ = start(x)
        first, state = start(x[:20])
        second, _ = start(x[20:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-13)


def test_dgru_is_that_of_the_benchmark():
    """The same numbers as its definition with `torch.nn` modules: GRU, relu of a hidden layer, shortcut, output."""
    core = DGRU(6, 5, generator=torch.Generator().manual_seed(0))
    model = SignalModel(core, FEATURES, 0, generator=torch.Generator().manual_seed(1))
    gru = torch.nn.GRU(6, 5)
    gru.load_state_dict(core.gru.state_dict())
    x = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(2))
    features = features_of(x, FEATURES, 0)
    shortcut = torch.cat([torch.relu(core.hidden(gru(features)[0])), features], dim=-1)
    torch.testing.assert_close(model(x)[0], model.readout(shortcut))
    assert sum(p.numel() for p in model.parameters()) == 3 * 5 * (6 + 5 + 2) + 5 * 6 + 2 * 12
