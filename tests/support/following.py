"""Small NumPy evaluators of `equations.txt` that know nothing but the text; the fixtures `followed...` give them."""

from __future__ import annotations

import re
from functools import partial

import numpy as np

FLOAT64 = ("mean", "sd", "unit_in", "unit_out", "polynomial_terms", "polynomial_coefficients")  # whatever the dtype
FUNCTIONS = {"abs": np.abs, "exp": np.exp, "max": np.maximum, "tanh": np.tanh}  # what the formulas of the file call


def on_grid(v: np.ndarray, step: float, bits: int) -> np.ndarray:
    """The whole numbers q of some numbers."""
    most = 2 ** (bits - 1) - 1
    return np.rint(np.clip(v / step, -most, most)).astype(float)


class Followed:
    """Reads the part from `begin` to `end` as the file says, and forecasts."""

    def __init__(self, text: str) -> None:
        lines = text.splitlines()
        self.words, self.blocks, self.ops, self.nodes, self.bits = {}, {}, {}, {}, {}
        self.activation, self.combine, self.feature = {}, {}, {}
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
            elif name.startswith("bits["):
                self.bits[name[4:]] = [int(one) for one in value.split()]
            elif name.startswith("node["):
                self.nodes[name[4:]] = value.split()
            elif name in ("activation", "combine", "feature"):
                word, formula = value.split(" = ")
                getattr(self, name)[word] = formula
            else:
                self.words[name] = value
        self.dtype = np.dtype(self.words["dtype"])
        self.blocks = {k: v if k in FLOAT64 else v.astype(self.dtype) for k, v in self.blocks.items()}

    def call(self, name: str, z: np.ndarray) -> np.ndarray:
        return eval(self.activation[name], {**FUNCTIONS, "z": z})

    def times(self, label: str, read: str, v: np.ndarray, name: str) -> np.ndarray:
        """The product of x or s with one of its matrices, on grids if the place has bit widths."""
        matrix = self.blocks[f"{name}{label}"]
        if label not in self.bits:
            return v @ matrix
        d_weights, d_inputs = self.blocks[f"step{label}"][0][slice(0, 2) if read == "x" else slice(-2, None)]
        (weights, inputs) = self.bits[label]
        return (
            (d_weights.astype(float) * d_inputs) * (on_grid(v, d_inputs, inputs) @ on_grid(matrix, d_weights, weights))
        ).astype(self.dtype)

    def node(self, place: str, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        total, number = 0, 1
        while f"[{place},op={number}]" in self.ops:
            label = f"[{place},op={number}]"
            combine, activation, share = self.ops[label]
            formula = re.sub(r"([xs]) (W_[xh])", r"times('\1', \1, '\2')", self.combine[combine])
            mine = {name[:3]: block for name, block in self.blocks.items() if name[3:] == label}
            z = eval(formula, {**mine, "x": x, "s": s, "times": partial(self.times, label)})
            total, number = total + self.dtype.type(share) * self.call(activation, z), number + 1
        if self.words["highway"] == "no":
            return total
        products = self.times(f"[{place}]", "x", x, "gate_x"), self.times(f"[{place}]", "s", s, "gate_h")
        gate = self.call("sigmoid", products[0] + products[1])
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
            gate, z = (self.times(label, "s", s, name) for name in ("gate_h", "W_h"))
            if reads == "input":
                gate, z = (one + self.times(label, "x", x, name) for one, name in ((gate, "gate_x"), (z, "W_x")))
            outputs.append(s + self.call("sigmoid", gate) * (self.call(activation, z) - s))
        return np.mean([outputs[int(node)] for node in self.words["mean_of"].split()], axis=0, dtype=self.dtype)

    def states(self, inputs: np.ndarray) -> np.ndarray:
        """From x `(T, I)` to h `(T, H)` of the last layer."""
        layers, hidden = (int(self.words[key]) for key in ("layers", "hidden"))
        step = self.dag if self.words.get("backbone") == "dag" else self.chain
        states, found = [np.zeros((1, hidden), self.dtype) for _ in range(layers)], []
        for x in inputs[:, None]:
            for layer in range(layers):
                x = states[layer] = step(layer + 1, x, states[layer])
            found.append(x)
        return np.concatenate(found)

    def forecast(self, values: np.ndarray) -> np.ndarray:
        """From values `(T, I)` in their own units to forecasts of the next days, likewise."""
        mean, sd = self.blocks["mean"], self.blocks["sd"]
        h = self.states(((values - mean) / sd).astype(self.dtype))
        return mean + sd * (h @ self.blocks["W_out"] + self.blocks["b_out"])


class FollowedWords:
    """Does what the text of a language model says, line by line, with the numbers where it says that they stand.

    Attributes:
        at: the numbers of each symbol.
    """

    def __init__(self, text: str, tensors: dict[str, np.ndarray], shares: list[float]) -> None:
        """Read the text; `shares` are those of genotype.json in order, none for a cell without."""
        self.at = {}
        where = re.compile(r"^(\S+) = ([\w.]+)(?:\[(.*)\])?, (one number|[\dx]+)$", re.MULTILINE)
        for symbol, name, part, shape in where.findall(text):
            self.at[symbol] = tensors[name][tuple(map(self.place, part.split(", "))) if part else ()]
            assert self.at[symbol].shape == (() if shape == "one number" else tuple(map(int, shape.split("x"))))
        sections = dict(section.split("\n", 1) for section in text.split("\n\n") if "\n" in section)
        self.functions: dict[str, object] = dict(FUNCTIONS)
        for name, formula in re.findall(r"(\w+)\(z\) = (.*)", sections["Functions"]):
            self.functions.setdefault(name, eval(f"lambda z: {formula}", self.functions))
        cell, left = re.sub(r"\n +\+", " +", sections["Cell"]), iter(shares)
        cell = re.sub(r"\b[01]\.\d{4} ", lambda _: f"{next(left)!r} * ", cell)  # rounded there
        assert list(left) == []
        z = re.search(r"^ *(z) += (.*?)  ", sections["Word t+1"], re.MULTILINE)
        self.lines = [self.as_python(line) for line in (*cell.splitlines(), " = ".join(z.groups()))]

    @staticmethod
    def place(one: str) -> int | slice:
        first, colon, last = one.partition(":")
        return slice(int(first) if first else None, int(last) if last else None) if colon else int(first)

    @staticmethod
    def as_python(line: str) -> str:
        line = line.strip().replace("h_(t-1)", "h_before").replace("D^T", "D.T")
        line = re.sub(r"(\w+) (D\.T|\w+_[xh]\[[\d,]+\])", r"(\1 @ \2)", line)  # a row vector times a matrix
        line = re.sub(
            r"Q(\d+)\((\w+)\) Q(\d+)\((\w+)_([xh])(\[[\d,]+\])\)",
            lambda m: f"times({m[2]}, {m[1]}, {'xs'[m[5] == 'h']!r}, {m[4]}_{m[5]}{m[6]}, {m[3]}, {m[5]!r}, {m[6]!r})",
            line,
        )
        return re.sub(r"(\w+\[[\d,]+\])", r"at['\1']", line)

    def times(self, v, inputs: int, read: str, matrix, weights: int, kind: str, place: str) -> np.ndarray:
        """A product on grids, with the step sizes of its place."""
        d_inputs, d_weights = (2.0 ** self.at[f"log2_step_of_{name}{place}"] for name in (read, f"W_{kind}"))
        return d_inputs * d_weights * (on_grid(v, d_inputs, inputs) @ on_grid(matrix, d_weights, weights))

    def logits(self, words: list[int]) -> np.ndarray:
        """From words by number to the logits of the next ones, `(T, V)`."""
        known = {
            **self.functions,
            "at": self.at,
            "times": self.times,
            **{key: self.at[key] for key in ("D", "b", "gain")},
        }
        known["h_t"], found = np.zeros(self.at["E"].shape[1], self.at["E"].dtype), []
        for word in words:
            known |= {"x_t": self.at["E"][word], "h_before": known["h_t"], "s_0": known["h_t"]}
            for line in self.lines:
                exec(line, known)
            found.append(known["z"])
        return np.stack(found)
