"""A small NumPy evaluator of `equations.txt` that knows nothing but the text; the fixture `followed` gives it."""

from __future__ import annotations

import re

import numpy as np

FUNCTIONS = {"tanh": np.tanh, "exp": np.exp, "max": np.maximum}  # what the formulas of the file call


class Followed:
    """Reads the part from `begin` to `end` as the file says, and forecasts."""

    def __init__(self, text: str) -> None:
        lines = text.splitlines()
        self.words, self.blocks, self.ops = {}, {}, {}
        self.activation, self.combine = {}, {}
        rest = iter(lines[lines.index("begin") + 1 : lines.index("end")])
        for line in rest:
            name, _, value = line.partition(" ")
            shape = re.fullmatch(r"(\d+)x(\d+)", value)
            if shape:
                rows = [next(rest).split(" ") for _ in range(int(shape[1]))]
                assert {len(row) for row in rows} == {int(shape[2])}
                self.blocks[name] = np.array(rows, dtype=float)
            elif name.startswith("op["):
                self.ops[name[2:]] = value.split()
            elif name in ("activation", "combine"):
                word, formula = value.split(" = ")
                getattr(self, name)[word] = formula
            else:
                self.words[name] = value
        self.dtype = np.dtype(self.words["dtype"])
        self.blocks = {k: v if k in ("mean", "sd") else v.astype(self.dtype) for k, v in self.blocks.items()}

    def call(self, name: str, z: np.ndarray) -> np.ndarray:
        return eval(self.activation[name], {**FUNCTIONS, "z": z})

    def node(self, place: str, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        total, number = 0, 1
        while f"[{place},op={number}]" in self.ops:
            label = f"[{place},op={number}]"
            combine, activation, share = self.ops[label]
            formula = re.sub(r"([xs]) (W_[xh])", r"(\1 @ \2)", self.combine[combine])
            mine = {name[:3]: block for name, block in self.blocks.items() if name[3:] == label}
            z = eval(formula, {**mine, "x": x, "s": s})
            total, number = total + self.dtype.type(share) * self.call(activation, z), number + 1
        if self.words["highway"] == "no":
            return total
        gate = self.call("sigmoid", x @ self.blocks[f"gate_x[{place}]"] + s @ self.blocks[f"gate_h[{place}]"])
        return s + gate * (total - s)

    def forecast(self, values: np.ndarray) -> np.ndarray:
        """From values `(T, I)` in their own units to forecasts of the next days, likewise."""
        layers, nodes, hidden = (int(self.words[key]) for key in ("layers", "nodes", "hidden"))
        mean, sd = self.blocks["mean"], self.blocks["sd"]
        states = [np.zeros((1, hidden), self.dtype) for _ in range(layers)]
        forecasts = []
        for value in values:
            x = ((value - mean) / sd).astype(self.dtype)
            for layer in range(layers):
                for node in range(nodes):
                    states[layer] = self.node(f"layer={layer + 1},node={node + 1}", x, states[layer])
                x = states[layer]
            forecasts.append(mean + sd * (x @ self.blocks["W_out"] + self.blocks["b_out"]))
        return np.concatenate(forecasts)
