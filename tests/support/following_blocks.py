"""Computes networks of blocks with NumPy alone: from equations.txt, or from a genotype and weights."""

from __future__ import annotations

import re

import numpy as np


def delay(s, k):
    return np.concatenate([np.zeros((k, *s.shape[1:])), s])[: len(s)]


def fir(s, a):
    return sum(tap * delay(s, k) for k, tap in enumerate(a))


def polynomial(s, a):
    return s * sum(c * np.abs(s) ** (2 * k) for k, c in enumerate(a))


def polynomial_all(s, a):
    return s * sum(c * np.abs(s) ** k for k, c in enumerate(a))


def on_grid(v, step, bits):
    """Complex numbers on a grid of `bits` bits with a step size."""
    most = 2 ** (bits - 1) - 1
    re, im = (step * np.rint(np.clip(one / step, -most, most)) for one in (np.real(v), np.imag(v)))
    return re + 1j * im


def quantised(kind, s, a, bits, steps, step_of_r):
    """A FIR or polynomial at bit widths of coefficients and samples; see equations.txt."""
    if kind == "fir":
        return fir(on_grid(s, steps[0, 1], bits[1]), on_grid(a, steps[0, 0], bits[0]))
    t = on_grid(s, steps[0, 1], bits[1])
    y = on_grid(a[0], steps[0, 0], bits[0]) * t
    r = on_grid(np.abs(t) ** (2 if kind == "polynomial" else 1), step_of_r.item(), bits[1]) if len(a) > 1 else None
    for own, (d_a, d_t) in zip(a[1:], steps[1:], strict=True):
        t = on_grid(r * t, d_t, bits[1])
        y = y + on_grid(own, d_a, bits[0]) * t
    return y


def run_op(op, s, coefficients, grids=None):
    """The output of an op; `coefficients` and `grids`, of parts with bit widths, by the part's number, from 0."""
    for number, part in enumerate(op.split("-")):
        kind, size = re.fullmatch(r"(\w+)\((\d+)\)", part).groups()
        if grids and number in grids:
            s = quantised(kind, s, coefficients[number], *grids[number])
        else:
            s = globals()[kind](s, int(size) if kind == "delay" else coefficients[number])
    return s


def run_cells(cells, x):
    """The output of cells in a row: of each the nodes, as sources with ops and coefficients; x complex, (T, B)."""
    before = [x, x]
    for nodes in cells:
        states = list(before)
        for edges in nodes:
            states.append(sum(run_op(op, states[source], *own) for source, op, *own in edges))
        before = [before[1], np.mean(states[2:], axis=0)]
    return before[1]


def from_weights(genotype, tensors, x):
    """The output of a network from its genotype as plain values and its tensors by name."""

    def complex_of(prefix):
        found = {int(name.removeprefix(prefix)): one for name, one in tensors.items() if name.startswith(prefix)}
        return {part: one[:, 0] + 1j * one[:, 1] for part, one in found.items()}

    cells = [
        [
            [
                (edge["reads"], edge["op"], complex_of(f"cells.{cell}.{i}.{j}.coefficients."))
                for j, edge in enumerate(node["edges"])
            ]
            for i, node in enumerate(genotype["nodes"])
        ]
        for cell in range(genotype["cells"])
    ]
    return run_cells(cells, x)


def from_text(read, x):
    """The output of a network for x, complex, from equations.txt as `following.Followed` reads it."""
    words, blocks = read.words, read.blocks
    edges = [(*map(int, re.findall(r"\d+", key)), op) for key, op in words.items() if key.startswith("edge[")]

    def coefficients(cell, state, source):
        place = rf"coefficients\[cell={cell},state={state},source={source},part=(\d+)\]"
        found = {int(match[1]) - 1: one for name, one in blocks.items() if (match := re.fullmatch(place, name))}
        return {part: one[:, 0] + 1j * one[:, 1] for part, one in found.items()}

    def grids(cell, state, source):
        place = f"[cell={cell},state={state},source={source},part="
        return {
            int(part.removeprefix(place)[:-1]) - 1: (bits, blocks[f"steps{part}"], blocks.get(f"step_of_r{part}"))
            for part, bits in read.bits.items()
            if part.startswith(place)
        }

    cells = [
        [
            [
                (source, op, coefficients(cell, state, source), grids(cell, state, source))
                for i, source, op in edges
                if i == state
            ]
            for state in range(2, int(words["nodes"]) + 2)
        ]
        for cell in range(1, int(words["cells"]) + 1)
    ]
    return run_cells(cells, x)
