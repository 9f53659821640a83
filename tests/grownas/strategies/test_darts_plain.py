"""Second-order DARTS on the chain beside a script of its own: plain PyTorch, the look-ahead differentiated exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.func import functional_call

from grownas.backbones.chain import Backbone
from grownas.config.loading import load
from grownas.runs.commands import load_task
from grownas.training.loop import fit
from grownas.training.recipe import OptimizerRecipe, Recipe

OPS = list(itertools.product(("add", "hadamard"), ("identity", "tanh", "sigmoid", "relu")))
PHI = {"identity": lambda z: z, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}
NODES, HIDDEN, RATE, DECAY, ALPHA_RATE, CLIP = 2, 8, 5e-3, 0.5, 3e-3, 1.0


class PlainChain(torch.nn.Module):
    """A chain supernet with a linear readout, written from the formulas alone, all ops of a node in a few products."""

    def __init__(self, model):
        super().__init__()
        self.alpha = torch.nn.ParameterList([torch.zeros(len(OPS)) for _ in range(NODES)])
        self.W_x, self.b_x, self.W_h, self.b_h = (torch.nn.ParameterList() for _ in range(4))
        for node in range(NODES):
            own = [model.core.op_parameters(node, op) for op in range(len(OPS))]
            self.W_x.append(torch.stack([one["W_x"] for one in own]).clone())  # (K, I, H)
            self.b_x.append(torch.stack([one["b_x"] for one in own]).clone())
            self.W_h.append(torch.stack([one["W_h"] for one in own]).clone())
            self.b_h.append(torch.stack([one["b_h"] for one in own if "b_h" in one]).clone())
        self.V, self.c = (torch.nn.Parameter(p.detach().clone()) for p in model.readout.parameters())

    def forward(self, x, h):
        out, half = [], len(OPS) // 2
        for x_t in x:
            for node in range(NODES):
                p = torch.einsum("bi,kih->kbh", x_t, self.W_x[node]) + self.b_x[node].unsqueeze(1)
                q = torch.einsum("bj,kjh->kbh", h, self.W_h[node])
                z = torch.cat([p[:half] + q[:half], p[half:] * (q[half:] + self.b_h[node].unsqueeze(1))])
                values = torch.stack([PHI[phi](one) for (_, phi), one in zip(OPS, z, strict=True)])
                h = torch.einsum("k,kbh->bh", torch.softmax(self.alpha[node], 0), values)
            out.append(h)
        return torch.stack(out) @ self.V.T + self.c, h


def plain_darts(task, model, *, epochs, seed):
    """Train with the exact gradient in alpha through one step of the weights; return the lowest validation loss."""
    net = PlainChain(model)
    names = [name for name, _ in net.named_parameters() if not name.startswith("alpha")]
    parameters = dict(net.named_parameters())
    weights = torch.optim.AdamW([parameters[name] for name in names], lr=RATE, weight_decay=DECAY)
    alphas = torch.optim.AdamW(list(net.alpha), lr=ALPHA_RATE, weight_decay=0.0)

    def loss_with(values, window, h):
        forecast, h = functional_call(net, values, (window.x, h))
        return (0.5 * (forecast - window.target) ** 2).mean(), h.detach()

    def windows(part, epoch):
        return task.windows(part, seed=int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))

    def endless(part):
        for epoch in itertools.count():
            yield from windows(part, epoch)

    def zeros(window):
        return window.x.new_zeros(window.x.shape[1], HIDDEN)

    def validate():
        rows = task.rows("val")
        first = max(0, rows.start - 1 - task.options.context)
        x = torch.from_numpy(task.values[first : rows.stop - 1]).float().unsqueeze(1)
        with torch.no_grad():
            forecast, _ = net(x, x.new_zeros(1, HIDDEN))
        error = forecast[rows.start - 1 - first :, 0].double().numpy() - task.values[rows]
        return 0.5 * (error**2).mean()

    held_out, held_h, h, best, waited = endless("architecture"), None, None, validate(), 0
    for epoch in range(epochs):
        for window in windows("weights", epoch):
            h = zeros(window) if window.fresh else h
            if window.burn_in:
                with torch.no_grad():
                    _, h = net(window.x, h)
                continue
            while True:
                other = next(held_out)
                held_h = zeros(other) if other.fresh else held_h
                if not other.burn_in:
                    break
                with torch.no_grad():
                    _, held_h = net(other.x, held_h)
            now = dict(net.named_parameters())
            train, _ = loss_with(now, window, h)
            steps = torch.autograd.grad(train, [now[name] for name in names], create_graph=True)
            ahead = {**now, **{name: now[name] - RATE * step for name, step in zip(names, steps, strict=True)}}
            valid, held_h = loss_with(ahead, other, held_h)
            for alpha, gradient in zip(net.alpha, torch.autograd.grad(valid, list(net.alpha)), strict=True):
                alpha.grad = gradient
            alphas.step()
            weights.zero_grad()
            train, h = loss_with(dict(net.named_parameters()), window, h)
            train.backward()
            torch.nn.utils.clip_grad_norm_([parameters[name] for name in names], CLIP)
            weights.step()
        value = validate()
        best, waited = (value, 0) if value < best else (best, waited + 1)
        if waited == 8:
            break
    return best


def ours(task, model, *, epochs, seed):
    recipe = Recipe(
        epochs=epochs,
        patience=8,
        clip=CLIP,
        bilevel="second",
        weights=OptimizerRecipe(rate=RATE, weight_decay=DECAY),
        alpha=OptimizerRecipe(rate=ALPHA_RATE),
    )
    return fit(model, task, recipe, seed=seed).loss


def planted(bptt=20, streams=16):
    config = load("index_returns/growing", ["task.data=planted", f"task.bptt={bptt}", f"task.streams={streams}"])
    return load_task(config).with_loss("squared")


def model_of(task, seed):
    generator = torch.Generator().manual_seed(seed)
    core = Backbone(task.input_size, HIDDEN, NODES, OPS, generator=generator)
    return task.model(core, generator=generator)


def test_a_few_steps_are_those_of_the_plain_script():
    task = planted(bptt=5, streams=4)
    model = model_of(task, 1)
    assert ours(task, model, epochs=1, seed=1) == pytest.approx(plain_darts(task, model, epochs=1, seed=1), rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_supernet_is_as_good_as_the_plain_scripts():
    task = planted()
    models = {seed: model_of(task, seed) for seed in range(1, 6)}
    ways = (ours, plain_darts)
    found = [[way(task, model, epochs=200, seed=seed) for way in ways] for seed, model in models.items()]
    mean, expected = np.mean(found, axis=0)
    print(f"validation loss of the supernet, 5 seeds: ours {mean:.5f}, plain script {expected:.5f}")
    assert mean == pytest.approx(expected, rel=0.01)
