"""The language model against a few lines of its own, in evaluation and, by the same masks, in training."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone
from grownas.errors import ConfigError
from grownas.protocols import Window
from grownas.tasks.penn_treebank.model import LanguageModel, Stack, training_loss
from grownas.tasks.penn_treebank.regularise import Regularisation
from grownas.tasks.penn_treebank.softmax import SampledSoftmax
from grownas.training.bilevel import architecture_gradient_second, detach

V, E = 11, 4
EVERYTHING = Regularisation(
    dropout_embedding=0.3,
    dropout_input=0.2,
    dropout_hidden=0.25,
    dropout_output=0.4,
    dropout_state=0.35,
    weight_drop=0.5,
    activation=2.0,
    temporal=1.5,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def lstm(inputs=E, hidden=E):
    torch.manual_seed(0)
    return nn.LSTM(inputs, hidden)


def gru(inputs=E, hidden=E):
    torch.manual_seed(0)
    return nn.GRU(inputs, hidden)


def grown(inputs=E, hidden=E):
    return Backbone(inputs, hidden, highway=True, share_projection=True, generator=seeded())


def made(core=None, seed=1, **options):
    return LanguageModel(core or lstm(), V, generator=seeded(seed), **options).double()


def words(T=5, B=3, seed=2):
    return torch.randint(V, (T, B), generator=seeded(seed))


def window(T=5, B=3):
    return Window(words(T, B), words(T, B, seed=3))


each_core = pytest.mark.parametrize("core", [lstm, gru, grown])

# ------------------------------------------------------------------------------------------------------- weights ----


def test_embedding_and_decoder_are_drawn_from_the_generator():
    state = torch.get_rng_state()
    core = grown(4, 6)
    model = LanguageModel(core, 500, tied=False, generator=seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    generator = seeded(5)
    assert torch.equal(model.embedding.weight, torch.empty(500, 4).uniform_(-0.1, 0.1, generator=generator))
    assert torch.equal(model.decoder, torch.empty(500, 6).uniform_(-0.1, 0.1, generator=generator))
    assert not model.bias.any()
    assert model.core is core


@pytest.mark.parametrize(
    ("options", "more"), [({}, 0), ({"learn_gain": True}, 1), ({"tied": False}, V * E)], ids=["tied", "gain", "untied"]
)
def test_parameters(options, more):
    model = made(**options)
    core = sum(one.numel() for one in model.core.parameters())
    assert sum(one.numel() for one in model.parameters()) == core + V * E + V + more


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"learn_gain": True, "gain": 3.0}, {"gain": 3.0}], ids=str)
def test_weights_survive_safetensors(tmp_path, options):
    model, other = made(**options), made(copy.deepcopy(lstm()), seed=8, **{**options, "gain": 1.0})
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")  # refuses shared tensors
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(model(words())[0], other(words())[0])
    assert other.gain.item() == options.get("gain", 1.0)


def test_a_tied_decoder_is_the_embedding():
    model = made()
    assert model.decoder is None
    assert model.weight is model.embedding.weight
    assert not any("decoder" in name for name in model.state_dict())


def test_a_tied_decoder_needs_equal_sizes():
    with pytest.raises(ConfigError, match="6 units with the embedding's 4;"):
        made(lstm(4, 6))
    assert made(lstm(4, 6), tied=False)(words())[0].shape == (5, 3, V)


@pytest.mark.parametrize("gain", [0.0, -1.0, float("inf"), float("nan")])
def test_a_gain_that_cannot_be(gain):
    with pytest.raises(ConfigError, match=f"gain .* got {gain}"):
        made(gain=gain)


@pytest.mark.parametrize("core", [nn.LSTM(E, E, num_layers=2), nn.GRU(E, E, batch_first=True)])
def test_a_core_of_another_form_is_refused(core):
    with pytest.raises(ConfigError, match=f"num_layers = {core.num_layers}, batch_first = {core.batch_first}"):
        made(core)


def test_dropout_between_layers_needs_layers():
    with pytest.raises(ConfigError, match=r"dropout_hidden = 0\.2 .* single LSTM"):
        made(regularisation=Regularisation(dropout_hidden=0.2))


# ---------------------------------------------------------------------------------------------------- evaluation ----


@each_core
@pytest.mark.parametrize("options", [{}, {"tied": False, "gain": 3.0}, {"learn_gain": True, "gain": 0.5}], ids=str)
def test_evaluation_is_embedding_core_gain_decoder(core, options):
    model = made(core(), regularisation=Regularisation(weight_drop=0.5, dropout_output=0.5), **options).eval()
    with torch.no_grad():
        model.bias.normal_(generator=seeded(4))
    state = torch.get_rng_state()
    logits, hidden = model(words())
    assert torch.equal(torch.get_rng_state(), state)
    out, last = model.core(torch.stack([model.embedding.weight[row] for row in words()]))
    weight = model.embedding.weight if options.get("tied", True) else model.decoder
    torch.testing.assert_close(logits, options.get("gain", 1.0) * out @ weight.T + model.bias, rtol=1e-12, atol=1e-14)
    assert all(torch.equal(*pair) for pair in zip(hidden, last, strict=True))


@each_core
def test_the_state_is_carried(core):
    model = made(Stack([core(), core()])).eval()
    whole, last = model(words(6))
    first, hidden = model(words(6)[:4])
    second, hidden = model(words(6)[4:], detach(hidden))
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(hidden, last, rtol=1e-12, atol=1e-14)


def test_a_learned_gain_has_a_gradient_and_a_constant_one_is_no_parameter():
    learned, constant = made(learn_gain=True, gain=2.0), made(gain=2.0)
    out, _ = learned.states(words())
    (gradient,) = torch.autograd.grad(learned.logits(learned.features(out)).sum(), learned.gain)
    torch.testing.assert_close(gradient, (out @ learned.weight.T).sum())
    assert "gain" in constant.state_dict()
    assert "gain" not in dict(constant.named_parameters())


# --------------------------------------------------------------------------------------------------------- stack ----


def test_a_stack_runs_its_layers_one_on_another():
    layers = [lstm(3, 4), grown(4, 5), gru(5, 2)]
    stack = Stack(layers)
    assert (stack.input_size, stack.hidden_size) == (3, 2)
    x = torch.randn(6, 2, 3, generator=seeded())
    out, hidden = stack(x)
    wanted = []
    for layer in layers:
        x, state = layer(x)
        wanted.append(state)
    assert torch.equal(out, x)
    assert torch.equal(hidden[0][1], wanted[0][1])
    assert torch.equal(hidden[2], wanted[2])
    assert isinstance(hidden, tuple)


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="layer 1 has 5 units, but layer 2 reads 4 inputs"):
        Stack([lstm(3, 4), lstm(4, 5), lstm(4, 4)])
    with pytest.raises(ConfigError, match="at least one core"):
        Stack([])


# ------------------------------------------------------------------------------------------------------ training ----


def mask(shape, rate):
    return torch.empty(shape, dtype=torch.float64).bernoulli_(1 - rate) / (1 - rate)


def by_hand(model, ids, layers):
    """Return raw and dropped output in training; the masks drawn for words, input, weights, between layers, output."""
    r = model.regularisation
    B = ids.shape[1]
    x = (mask((V, 1), r.dropout_embedding) * model.embedding.weight)[ids]
    x = x * mask((1, B, E), r.dropout_input)
    masked = copy.deepcopy(layers)
    with torch.no_grad():
        for layer in masked:
            for name, one in layer.named_parameters():
                if name.rpartition(".")[2] in {"weight_hh_l0", "W_h", "gate_h"}:
                    one *= mask(one.shape, r.weight_drop)
    with torch.no_grad():
        for layer in masked:
            units = mask((E,), r.dropout_state)
            for name, one in layer.named_parameters():
                if name.rpartition(".")[2] in {"weight_hh_l0", "W_h", "gate_h"}:
                    one *= units if name == "weight_hh_l0" else units.view(-1, *[1] * (one.dim() - 1))
    for number, layer in enumerate(masked):
        x, _ = layer(x * mask((1, B, E), r.dropout_hidden) if number else x)
    return x, x * mask((1, B, E), r.dropout_output)


@each_core
def test_training_drops_what_it_should_and_adds_the_penalties(core):
    stack = Stack([core(), core()])
    model = made(stack, gain=1.75, regularisation=EVERYTHING).train()
    torch.manual_seed(6)
    out, _ = model.states(words())
    loss = training_loss(model, out, window())
    torch.manual_seed(6)
    raw, dropped = by_hand(model, words(), list(stack.layers))
    torch.testing.assert_close(out, raw, rtol=1e-12, atol=1e-14)
    log_p = torch.log_softmax(1.75 * dropped @ model.embedding.weight.T + model.bias, 2)
    nll = -torch.stack(
        [log_p[t, b, word] for t, row in enumerate(window().target) for b, word in enumerate(row)]
    ).mean()
    steps = torch.stack([raw[t + 1] - raw[t] for t in range(4)])
    torch.testing.assert_close(loss, nll + 2.0 * (dropped**2).mean() + 1.5 * (steps**2).mean(), rtol=1e-12, atol=0)
    assert (steps**2).mean().item() > 0 < (dropped**2).mean().item()


def test_forward_in_training_is_the_same_by_the_same_masks():
    rates = {"dropout_input": 0.2, "dropout_output": 0.4, "dropout_state": 0.3, "weight_drop": 0.5}
    model = made(regularisation=Regularisation(**rates)).train()
    torch.manual_seed(6)
    logits, _ = model(words())
    torch.manual_seed(6)
    out, _ = model.states(words())
    assert torch.equal(model.logits(model.features(out)), logits)


def test_alpha_of_second_order_sees_the_same_units_of_the_state_on_both_sides():
    core = DagBackbone(E, E, 2, generator=seeded(), backend="reference")
    model = made(core, regularisation=Regularisation(dropout_state=0.5)).train()
    own, held_out, rate = window(), Window(words(seed=7), words(seed=8)), 0.5
    named = dict(model.named_parameters())
    alphas = {name: one for name, one in named.items() if name.endswith("alpha")}
    weights = {name: one for name, one in named.items() if name not in alphas}

    def loss(values, at):
        logits, _ = torch.func.functional_call(model, values, (at.x,))
        return nn.functional.cross_entropy(logits.flatten(0, 1), at.target.flatten())

    torch.manual_seed(6)
    slopes = torch.autograd.grad(loss(named, own), list(weights.values()), create_graph=True)
    stepped = {name: one - rate * slope for (name, one), slope in zip(weights.items(), slopes, strict=True)}
    exact = torch.autograd.grad(loss({**stepped, **alphas}, held_out), list(alphas.values()))
    torch.manual_seed(6)
    task = SimpleNamespace(loss=training_loss)
    found, _ = architecture_gradient_second(model, task, own, None, held_out, None, rate=rate)
    for one, true in zip(found, exact, strict=True):
        torch.testing.assert_close(one, true, rtol=1e-4, atol=1e-8)


def test_without_dropout_the_loss_is_the_nll_and_the_penalties():
    plain, held = made(), made(regularisation=Regularisation(activation=2.0, temporal=1.5))
    out, _ = plain.states(words())
    nll = nn.functional.cross_entropy(plain(words())[0].flatten(0, 1), window().target.flatten())
    torch.testing.assert_close(training_loss(plain, out, window()), nll, rtol=1e-12, atol=0)
    more = 2.0 * out.square().mean() + 1.5 * (out[1:] - out[:-1]).square().mean()
    torch.testing.assert_close(training_loss(held, out, window()), nll + more, rtol=1e-12, atol=0)


def test_one_step_has_no_temporal_penalty():
    model = made(regularisation=Regularisation(temporal=1.5))
    out, _ = model.states(words(1))
    torch.testing.assert_close(training_loss(model, out, window(1)), training_loss(made(), out, window(1)))


def test_a_sampled_loss_is_the_sampled_softmax_of_the_features():
    model = made(gain=2.0, regularisation=Regularisation(activation=2.0))
    sampled = SampledSoftmax.of(torch.arange(1.0, V + 1), 4)
    out, _ = model.states(words())
    torch.manual_seed(6)
    loss = training_loss(model, out, window(), sampled)
    torch.manual_seed(6)
    estimate = sampled.loss(2.0 * out, model.weight, model.bias, window().target)
    torch.testing.assert_close(loss, estimate + 2.0 * out.square().mean(), rtol=1e-12, atol=0)
    everything = training_loss(model, out, window(), SampledSoftmax.of(torch.ones(V), V))
    torch.testing.assert_close(everything, training_loss(model, out, window()), rtol=1e-12, atol=0)


@each_core
def test_the_global_generators_state_repeats_a_step_to_the_bit(core):
    model = made(Stack([core(), core()]), regularisation=EVERYTHING).train()
    sampled = SampledSoftmax.of(torch.arange(1.0, V + 1), 4)

    def step():
        out, _ = model.states(words())
        loss = training_loss(model, out, window(), sampled)
        return [loss, *torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)]

    state = torch.get_rng_state()
    first, second = step(), step()
    torch.set_rng_state(state)
    assert all(torch.equal(*pair) for pair in zip(step(), first, strict=True))
    assert not torch.equal(first[0], second[0])


def test_the_model_prints_its_switches():
    assert "tied=True, gain=2, Regularisation(" in str(made(gain=2.0))
    assert "tied=False, gain=learned" in str(made(tied=False, learn_gain=True))
