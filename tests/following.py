"""A small NumPy evaluator of `equations.txt` that knows nothing but the text; the fixture `followed` gives it."""

from __future__ import annotations

import re

import numpy as np

FUNCTIONS = {"tanh": np.tanh, "exp": np.exp, "max": np.maximum}  # what the formulas of the file call


class Followed:
    """Reads the part from `begin` to `end` as the file says, and forecasts."""

    def __init__(self, text: str) -> None:
        lines = text.splitlines()
        self.words, self.blocks, self.ops, self.nodes = {}, {}, {}, {}
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
            elif name.startswith("node["):
                self.nodes[name[4:]] = value.split()
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

    def chain(self, layer: int, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        for node in range(int(self.words["nodes"])):
            s = self.node(f"layer={layer},node={node + 1}", x, s)
        return s

    def dag(self, layer: int, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        outputs: list[np.ndarray] = []
        for node in range(int(self.words["nodes"]) + 1):
            label = f"[layer={layer},node={node}]"
            reads, activation = self.nodes[label]
            s = h if reads == "input" else outputs[int(reads)]
            gate, z = s @ self.blocks[f"gate_h{label}"], s @ self.blocks[f"W_h{label}"]
            if reads == "input":
                gate, z = gate + x @ self.blocks[f"gate_x{label}"], z + x @ self.blocks[f"W_x{label}"]
            outputs.append(s + self.call("sigmoid", gate) * (self.call(activation, z) - s))
        return np.mean([outputs[int(node)] for node in self.words["mean_of"].split()], axis=0, dtype=self.dtype)

    def forecast(self, values: np.ndarray) -> np.ndarray:
        """From values `(T, I)` in their own units to forecasts of the next days, likewise."""
        layers, hidden = (int(self.words[key]) for key in ("layers", "hidden"))
        step = self.dag if self.words.get("backbone") == "dag" else self.chain
        mean, sd = self.blocks["mean"], self.blocks["sd"]
        states = [np.zeros((1, hidden), self.dtype) for _ in range(layers)]
        forecasts = []
        for value in values:
            x = ((value - mean) / sd).astype(self.dtype)
            for layer in range(layers):
                states[layer] = step(layer + 1, x, states[layer])
                x = states[layer]
            forecasts.append(mean + sd * (x @ self.blocks["W_out"] + self.blocks["b_out"]))
        return np.concatenate(forecasts)
