"""The whole model as ONNX: what comes before the cell, the cell, what comes after it, and notes on all of it.

    given -> encode -> (T, B, I) -> core -> (T, B, H) -> decode -> result

The form `step` has the same parts for one time step, with the state in and out. The graph is written from the
genotype, because tracing would fix the number of time steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from grownas.cells.blocks import BlocksNetwork
from grownas.cells.derived import Derived
from grownas.errors import ConfigError
from grownas.evaluation.scoring import evaluating
from grownas.export import FORMS
from grownas.export.blocks import Blocks
from grownas.export.cells import Core, as_array, layers_of
from grownas.export.ends import Ends
from grownas.export.graph import OPSET, QUANTISED_OPSET, Array, Graph, Sizes, Value, evaluate
from grownas.language_equations import WordModel
from grownas.modules import as_module
from grownas.protocols import Model
from grownas.readout import LinearReadout

if TYPE_CHECKING:
    from onnx import ModelProto

STEPS, STREAMS = 3, 16  # T and B of the check against PyTorch
TOLERANCE = 1e-4  # of the check, relative: rounding in a few steps is far below, another function far above
OTHER_SIDE = 0.5  # most predictions that may differ because a number with few bits is rounded to the other side


def onnx_model(model: Model, form: str, notes: Mapping[str, str], ends: Ends | None = None) -> ModelProto:
    """Return a trained model as ONNX, after a check against PyTorch on a few random steps.

    Inputs and outputs of the form `sequence`, for any T and B:

    - a model of series: `values`, float64 `(T, B, I)`, in the series' own units; `forecasts` of the next step likewise,
      of the first O series, the others being inputs only
    - a model of words: `words`, int64 `(T, B)`, ids; `logits` of the next word, `(T, B, V)`
    - another model with a linear readout: `x`, `(T, B, I)`; `predictions`, `(T, B, O)`
    - with `ends`: their names, dtypes and sizes
    - `next_state`: the state after the last step, with the axes that it has in PyTorch, `(L, B, H)` of derived cells
      and `(D, B, 2)` of networks of blocks; the first state is zero

    The form `step` has them without T, and the input `state` like `next_state`: zeros, or the last `next_state`. If the
    model also reads M earlier inputs, it has the input `register`, `(B, M * I)`, and the output `next_register`
    likewise; the form `sequence` has zeros before the first input. Numbers without a dtype here have that of the
    weights, float32 unless the model was converted.

    Args:
        model: the model; its core is a derived cell, a stack of derived cells or a network of blocks.
        form: a name in `FORMS`.
        notes: text for the metadata, by key.
        ends: what comes before and after the cell; None: that of the model's class.

    Raises:
        ConfigError: the model does something else than embedding or scaling, cells and readout; or it has bit widths
            and is not float32.
        GenotypeError: an activation's formula cannot be written as ONNX.
    """
    add, run = FORM[form]
    module = as_module(model)
    ends, core = ends or _ends(module), _core(model)
    dtype = as_array(next(module.parameters())).dtype
    has_bits = any(isinstance(one, Derived) and one.genotype.bits for one in module.modules())
    if has_bits and dtype != np.float32:
        raise ConfigError(f"a cell with bit widths in {dtype} cannot be written as ONNX; convert it with .float()")
    graph = Graph(dtype, opset=QUANTISED_OPSET if has_bits else OPSET)
    add(graph, ends, core)
    proto = graph.model("grownas", {**notes, "form": form})
    streams, (first, last) = ends.sample.shape[1], core.state
    initial = [np.zeros((first, streams, last), graph.dtype)]
    if ends.memory:
        initial.append(np.zeros((streams, ends.memory * ends.sizes[0][0]), ends.types[0]))
    _check(module, ends, lambda given: run(proto, given, initial), OTHER_SIDE if has_bits else 0.0)
    return proto


def _core(model: Model) -> Core:
    if isinstance(model.core, BlocksNetwork):
        return Blocks("core", model.core)
    return layers_of(as_module(model), Sizes(model.core.input_size, model.core.hidden_size))


def _sequence(graph: Graph, ends: Ends, core: Core) -> None:
    """Write the form that reads a whole sequence from a zero state."""
    given = graph.input(ends.given, ends.types[0], ("T", "B", *ends.sizes[0]))
    batch = graph.add("Shape", given, start=1, end=2)
    first, last = core.state
    zero = graph.add("Expand", 0.0, graph.add("Concat", graph.ints(first), batch, graph.ints(last), axis=0))
    read = _with_earlier(graph, given, batch, ends) if ends.memory else given
    out, state = core.sequence(graph, ends.encode(graph, read), zero)
    graph.output(ends.result, ends.decode(graph, out, read), ends.types[1], ("T", "B", *ends.sizes[1]))
    graph.output("next_state", state, graph.dtype, (first, "B", last))


def _with_earlier(graph: Graph, given: Value, batch: Value, ends: Ends) -> Value:
    """Return each input of a sequence followed by those before it, `(T, B, (M + 1) * I)`; zeros come before all."""
    shape = graph.add("Concat", graph.ints(ends.memory), batch, graph.ints(*ends.sizes[0]), axis=0)
    silence = graph.add("Expand", graph.tensor("silence", np.zeros((), ends.types[0])), shape)
    padded, steps = graph.add("Concat", silence, given, axis=0), graph.add("Shape", given, start=0, end=1)
    begins = [graph.ints(ends.memory - delay) for delay in range(ends.memory + 1)]
    delayed = [graph.add("Slice", padded, begin, graph.add("Add", begin, steps), graph.ints(0)) for begin in begins]
    return graph.add("Concat", *delayed, axis=-1)


def _step(graph: Graph, ends: Ends, core: Core) -> None:
    """Write the form that does one time step."""
    given = graph.input(ends.given, ends.types[0], ("B", *ends.sizes[0]))
    axes = (core.state[0], "B", core.state[1])
    state = graph.input("state", graph.dtype, axes)
    read = given
    if ends.memory:
        kept = ends.memory * ends.sizes[0][0]
        read = graph.add("Concat", given, graph.input("register", ends.types[0], ("B", kept)), axis=-1)
    out, state = core.step(graph, ends.encode(graph, read), state)
    graph.output(ends.result, ends.decode(graph, out, read), ends.types[1], ("B", *ends.sizes[1]))
    graph.output("next_state", state, graph.dtype, axes)
    if ends.memory:
        register = graph.add("Slice", read, graph.ints(0), graph.ints(kept), graph.ints(-1))
        graph.output("next_register", register, ends.types[0], ("B", kept))


def _ends(module: nn.Module) -> Ends:
    if isinstance(module, WordModel):
        return _words(module)
    if isinstance(module, LinearReadout):
        plain = _readout(module)
        return _in_own_units(plain, module) if hasattr(module, "mean") else plain
    raise ConfigError(
        f"a {type(module).__name__} cannot be written as ONNX; expected a LinearReadout or a model of words"
    )


def _words(model: WordModel) -> Ends:
    """Return embedding and decoder; a tied decoder is stored once, as the embedding."""
    words, dtype = len(model.bias), as_array(model.bias).dtype
    sample = torch.randint(words, (STEPS, STREAMS), generator=torch.Generator().manual_seed(0)).numpy()

    def read(ids: Array) -> Tensor:
        return torch.from_numpy(ids).to(model.bias.device)

    def encode(graph: Graph, ids: Value) -> Value:
        return graph.add("Gather", _stored(graph, model, model.embedding.weight), ids)

    def decode(graph: Graph, out: Value, ids: Value) -> Value:
        return _linear(graph, model, out * _stored(graph, model, model.gain), model.weight, model.bias)

    return Ends("words", "logits", (np.int64, dtype), ((), (words,)), encode, decode, sample, read)


def _readout(model: LinearReadout) -> Ends:
    """Return no encoding, and the linear readout."""
    linear, dtype = model.readout, as_array(model.readout.weight).dtype
    sizes = (model.core.input_size,), (linear.out_features,)
    sample = torch.randn(STEPS, STREAMS, *sizes[0], generator=torch.Generator().manual_seed(0)).numpy().astype(dtype)

    def read(x: Array) -> Tensor:
        return torch.from_numpy(x).to(linear.weight)

    def decode(graph: Graph, out: Value, x: Value) -> Value:
        return _linear(graph, model, out, linear.weight, linear.bias)

    return Ends("x", "predictions", (dtype, dtype), sizes, lambda graph, x: x, decode, sample, read)


def _in_own_units(plain: Ends, model: Any) -> Ends:
    """Return the ends of a model of series: its buffers `mean` and `sd` scale inputs and outputs, in float64."""
    mean, sd, dtype = as_array(model.mean), as_array(model.sd), plain.types[0]
    outputs = model.readout.out_features

    def of_outputs(graph: Graph, each: Value) -> Value:
        return each if outputs == len(mean) else graph.add("Slice", each, graph.ints(0), graph.ints(outputs))

    def scaled(values: Array) -> Array:
        own: Array = mean[: values.shape[-1]] + sd[: values.shape[-1]] * values
        return own

    def encode(graph: Graph, values: Value) -> Value:
        return ((values - _stored(graph, model, model.mean)) / _stored(graph, model, model.sd)).cast(dtype)

    def decode(graph: Graph, out: Value, values: Value) -> Value:
        own_mean, own_sd = (of_outputs(graph, _stored(graph, model, one)) for one in (model.mean, model.sd))
        return own_sd * plain.decode(graph, out, values).cast(mean.dtype) + own_mean

    return plain._replace(
        given="values",
        result="forecasts",
        types=(mean.dtype, mean.dtype),
        encode=encode,
        decode=decode,
        sample=scaled(plain.sample),
        read=lambda values: plain.read((values - mean) / sd),
        scaled=scaled,
        unit=sd[:outputs],
    )


def _stored(graph: Graph, model: Any, tensor: Tensor) -> Value:
    """Return a parameter or buffer of the model under its name in weights.safetensors."""
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    return graph.tensor(next(name for name, one in named if one is tensor), as_array(tensor))


def _linear(graph: Graph, model: Any, x: Value, weight: Tensor, bias: Tensor) -> Value:
    return x @ graph.add("Transpose", _stored(graph, model, weight), perm=[1, 0]) + _stored(graph, model, bias)


def _check(model: nn.Module, ends: Ends, run: Callable[[Array], Array], most: float) -> None:
    """Compare the graph with the model on the sample; a share `most` of the predictions may differ.

    Raises:
        ConfigError: they differ: the model overrides a part of its class, or an activation has a wrong formula.
    """
    with torch.no_grad(), evaluating(model):
        wanted = ends.scaled(as_array(model(ends.read(ends.sample))[0]))
    found = run(ends.sample)
    if not np.isclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE * ends.unit).mean() >= 1 - most:
        raise ConfigError(
            f"a {type(model).__name__} cannot be written as ONNX: in {len(found)} random steps its {ends.result} "
            f"differ by {np.abs(found - wanted).max():g} from those of the graph; the model computes more than its "
            "class, or the formula of an activation is wrong"
        )


def _run_sequence(proto: ModelProto, given: Array, initial: Sequence[Array]) -> Array:
    return evaluate(proto, given)[0]


def _run_steps(proto: ModelProto, given: Array, initial: Sequence[Array]) -> Array:
    results, kept = list[Array](), initial
    for one in given:
        result, *kept = evaluate(proto, one, *kept)
        results.append(result)
    return np.stack(results)


FORM = dict(zip(FORMS, [(_sequence, _run_sequence), (_step, _run_steps)], strict=True))
