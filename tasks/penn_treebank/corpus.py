"""The numbered text: its vocabulary and the ids of its parts.

`task.py` creates `Corpus.of(sources.read(...))` and cuts the ids of `part` into windows. To score a saved model on
another text it uses `Corpus.of(text, words=...)` with the model's vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from grownas.errors import DataError
from grownas.tasks.penn_treebank.sources import EOS, UNK, Text


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text's vocabulary and ids.

    Attributes:
        words: the vocabulary in the order of ids, the most frequent word first.
        train, val, test: ids of the parts, int64, shape `(n,)`.
        source, name, checksum: see `Text`.
        refitting: whether the training part includes the validation part.
    """

    words: tuple[str, ...]
    train: Tensor
    val: Tensor
    test: Tensor
    source: str
    name: str
    checksum: str
    refitting: bool = False

    @classmethod
    def of(cls, text: Text, words: Sequence[str] | None = None) -> Corpus:
        """Number the words of a text.

        The vocabulary is that of the training part, sorted by frequency and then by first appearance. Other words
        become `<unk>`.

        Args:
            text: the text.
            words: vocabulary to use instead.

        Raises:
            DataError: the vocabulary has fewer than two words, or it lacks `<unk>` and a word is unknown.
        """
        if words is None:
            words = [word for word, _ in Counter(text.train).most_common()]  # ties: first appearance first
        if len(set(words) - {EOS}) < 2:
            only = ", ".join(repr(word) for word in words if word != EOS)
            raise DataError(
                f"{text.source}: besides {EOS} the vocabulary of the training part is {only or 'empty'}; at least two "
                "words are needed. Give another text"
            )
        index = {word: number for number, word in enumerate(words)}
        train, val, test = (
            _numbered(getattr(text, part), index, f"{text.source}: the part {part}")
            for part in ("train", "val", "test")
        )
        return cls(tuple(words), train, val, test, source=text.source, name=text.name, checksum=text.checksum)

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> id."""
        return {word: number for number, word in enumerate(self.words)}

    def part(self, name: str, *, architecture_share: float = 0.2) -> Tensor:
        """Return the ids of a part, int64, shape `(n,)`.

        Args:
            name: `train`, its pieces `weights` and `architecture`, `val`, `test`, or `all` (all three, concatenated).
            architecture_share: share of the training part, at its end, that forms the piece `architecture`.
        """
        train = torch.cat([self.train, self.val]) if self.refitting else self.train
        held_out = round(len(train) * (1 - architecture_share))
        return {
            "train": train,
            "weights": train[:held_out],
            "architecture": train[held_out:],
            "val": self.val,
            "test": self.test,
            "all": torch.cat([self.train, self.val, self.test]),
        }[name]

    def with_refit(self) -> Corpus:
        """Return the same corpus and vocabulary, with a training part that includes the validation part."""
        return replace(self, refitting=True)


def _numbered(words: Sequence[str], index: Mapping[str, int], what: str) -> Tensor:
    ids = [index.get(word, index.get(UNK, -1)) for word in words]
    if -1 in ids:
        place = ids.index(-1)
        raise DataError(
            f"{what}: the word {words[place]!r} (token {place + 1}) is not in the vocabulary of {len(index)}, which "
            f"has no {UNK}; write {UNK} for rare words in the training text"
        )
    return torch.tensor(ids)
