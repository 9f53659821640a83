"""Writes `equations.txt` of a language model: equations for people, and where weights.safetensors has each number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from grownas.cells.cell import GrownRNN
from grownas.equations import FORMS, NUMBERS, cell_text, underlined
from grownas.protocols import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

WORD_NOTATION = """\
Notation
  w_t       word t of the text as a number: its place, from 0, in the list `names`
  x_t       its row of the embedding, {inputs} numbers: x_t = E[w_t]
{cell}

Words are read in the order of the text, one step a word. The end of a line is a
word, <eos>, and a word that `names` lacks is read as <unk>. The perplexity of a
text is exp of the mean of -log p over all its words but the first, read in one
stream from h_0 = 0."""

NEXT_WORD = """\
Word t+1
  z                  = gain * h_t D^T + b          a number for each word
  p(w_(t+1) = v)     = exp(z[v]) / sum over all u of exp(z[u])"""

TENSORS = """\
All numbers are in weights.safetensors; `names` is a JSON list in its metadata. Each line below gives a symbol's tensor,
the part of the tensor, and the symbol's shape. A part has an entry for each axis of the tensor, places counted from
0: one number picks a place and drops the axis, `a:b` keeps the places from a up to b, not including it, and `:` keeps
all. Several symbols may be the same part of a tensor."""

SEVERAL = """ `layer=2` in front of a symbol's numbers means the symbol of that name
in the cell of layer 2; the next word's h_t is the last layer's."""


@runtime_checkable
class WordModel(Model, Protocol):
    """A language model with equations: embedding, core, output gain and linear decoder.

    Attributes:
        embedding: embedding of the words.
        bias: bias of the decoder, shape `(V,)`.
        gain: output gain, a scalar.
    """

    embedding: nn.Embedding
    bias: nn.Parameter
    gain: Tensor

    @property
    def weight(self) -> Tensor:
        """The weight of the decoder, shape `(V, H)`."""
        ...


def language_equations(model: WordModel) -> str:
    """Return a language model as equations, with the tensor of each symbol in weights.safetensors.

    Args:
        model: its `core` is a one-layer derived cell or a stack of such cells with the same genotype.

    Returns:
        The text, ending with a newline.
    """
    layers = [one for one in model.modules() if isinstance(one, GrownRNN)]
    cell = cell_text(layers[0], "word", layers=len(layers))
    sizes = f"{layers[0].hidden_size} units, {len(layers[0].genotype.nodes)} node(s), {len(layers)} layer(s)"
    notation = cell.notation.replace("and exact below", "and exact in genotype.json")
    blocks = [
        underlined(f"A grown language model: {len(model.bias):,} words, {sizes}", "="),
        WORD_NOTATION.format(inputs=layers[0].input_size, cell=notation),
        *cell.equations,
        NEXT_WORD,
        underlined(NUMBERS, "="),
        TENSORS + (SEVERAL if len(layers) > 1 else ""),
        "\n".join(_tensors(model, layers)),
    ]
    return "\n\n".join(blocks) + "\n"


def _tensors(model: WordModel, layers: Sequence[GrownRNN]) -> Iterator[str]:
    """Yield the tensor and the part of it for each symbol of a language model."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for symbol, tensor in (("E", model.embedding.weight), ("D", model.weight), ("b", model.bias), ("gain", model.gain)):
        yield f"{symbol} = {_where(tensor, named)}"
    for number, cell in enumerate(layers, start=1):
        lead = f"layer={number}," if len(layers) > 1 else ""
        for label, parameters in FORMS[type(cell.genotype)].parts(cell):
            yield from (f"{name}[{lead}{label}] = {_where(view, named)}" for name, view in parameters.items())


def _where(view: Tensor, named: Mapping[str, Tensor]) -> str:
    """Return the name of a view's tensor, the part that the view shows, and the view's shape."""
    name, whole = next(
        (name, one)
        for name, one in named.items()
        if one.untyped_storage().data_ptr() == view.untyped_storage().data_ptr()
    )
    offset, kept, place = int(view.storage_offset()), list(zip(view.stride(), view.shape, strict=True)), []
    for stride, size in zip(whole.stride(), whole.shape, strict=True):
        first, offset = divmod(offset, stride)
        if kept and kept[0][0] == stride:  # the view has this axis; only axes of size 1 have equal strides
            _, length = kept.pop(0)
            place.append(":" if length == size else f"{first}:{first + length}")
        else:
            place.append(str(first))
    part = f"[{', '.join(place)}]" if view.shape != whole.shape else ""
    return f"{name}{part}, {'x'.join(map(str, view.shape)) or 'one number'}"
