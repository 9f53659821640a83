"""The task: predict the next word of a text from the words before it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Generator, Tensor

from grownas.errors import ConfigError, DataError
from grownas.protocols import Evaluation, Joined, Model, Recurrent, Window
from grownas.tasks.penn_treebank import scoring, sources
from grownas.tasks.penn_treebank.corpus import Corpus
from grownas.tasks.penn_treebank.model import LanguageModel, Stack, training_loss
from grownas.tasks.penn_treebank.options import Options
from grownas.tasks.penn_treebank.regularise import Regularisation
from grownas.tasks.penn_treebank.softmax import SampledSoftmax
from grownas.tasks.penn_treebank.windows import Reading, training

READ_AT_ONCE = 1000  # tokens per window in evaluation
DYNAMIC_STEPS = 5  # tokens per step of dynamic evaluation, as published


@dataclass(frozen=True, eq=False)
class PennTreebank:
    """A text split into training, validation and test part: the Penn Treebank or any text in the same format.

    Attributes:
        options: see `Options`.
        corpus: the words and their ids.
        architecture_share: share of the training part, at its end, that trains alpha in bilevel training.
        device: device of new models.
    """

    options: Options
    corpus: Corpus
    architecture_share: float = 0.2
    device: str = "cpu"

    name = "penn_treebank"
    kind = Options.KIND
    metric = "perplexity"
    section = Options  # the config section `task`
    loss_name = "nll"
    losses = Options.LOSSES
    unit = "words"
    reads_samples = False

    @classmethod
    def load(cls, options: Options, *, architecture_share: float = 0.2) -> PennTreebank:
        """Read the text and number its words.

        Raises:
            DataError: the text cannot be used; the message says where and why.
        """
        task = cls(options, cls._corpus(options), architecture_share)
        task.windows("train", seed=0)  # raises if the part is too short
        for part in ("val", "test"):
            task._reading(part)
        return task

    @staticmethod
    def _corpus(options: Options, words: list[str] | None = None) -> Corpus:
        corpus = Corpus.of(sources.read(options.data, Path(os.path.expanduser(options.cache))), words)
        return replace(corpus, train=corpus.train[: options.train_words])

    @property
    def words(self) -> list[str]:
        """The vocabulary, in the order of ids."""
        return list(self.corpus.words)

    def model(self, *cores: Recurrent, generator: Generator | None = None) -> LanguageModel:
        """Return a model around a core, or around a stack of single-layer cores."""
        options = self.options
        rates = {field.name: getattr(options, field.name) for field in fields(Regularisation)}
        if len(cores) == 1:  # a single layer has no dropout between layers
            rates["dropout_hidden"] = 0.0
        return LanguageModel(
            cores[0] if len(cores) == 1 else Stack(cores),
            len(self.corpus.words),
            tied=options.tied,
            gain=options.gain,
            learn_gain=options.learn_gain,
            regularisation=Regularisation(**rates),
            generator=generator,
        ).to(self.device)

    def windows(self, part: str, *, seed: int) -> Iterator[Window]:
        """Yield an epoch of training windows, see `windows.training`.

        Raises:
            DataError: the part is too short.
        """
        options = self.options
        return training(
            self._ids(part),
            streams=options.streams,
            bptt=options.bptt,
            what=f"{self.corpus.source}: the part {part}",
            random_bptt=options.random_bptt,
            seed=seed,
        )

    def _ids(self, part: str) -> Tensor:
        return self.corpus.part(part, architecture_share=self.architecture_share)

    def _reading(self, part: str) -> Reading:
        options = self.options
        what = f"{self.corpus.source}: the part {part}"
        return Reading.of(self._ids(part), streams=options.eval_streams, context=options.context, what=what)

    def loss(self, model: Model, out: Tensor, window: Window) -> Tensor:
        """Return a window's mean nll in nats plus penalties, from the core's output `(T, B, H)`.

        If `options.samples` is set, the nll in training is estimated from a sample of words.
        """
        assert isinstance(model, LanguageModel)
        return training_loss(model, out, window, self._sampled if model.training else None)

    @cached_property
    def _sampled(self) -> SampledSoftmax | None:
        if self.options.samples is None:
            return None
        counts = torch.bincount(self._ids("train"), minlength=len(self.corpus.words))
        return SampledSoftmax.of(counts, self.options.samples)

    def evaluate(self, model: Model, part: str) -> Evaluation:
        """Score a model on every token of a part except the first, from a zero state.

        The options choose the full softmax, dynamic evaluation or a neural cache.

        Raises:
            ConfigError: the rate of dynamic evaluation is so high that the weights diverge.
        """
        assert isinstance(model, LanguageModel)
        reading, options = self._reading(part), self.options
        if options.dynamic_rate:
            steps = reading.windows(DYNAMIC_STEPS)
            losses = scoring.dynamic_losses(model, steps, self._dynamics(model))
            if not losses.isfinite().all() and all(one.isfinite().all() for one in model.parameters()):
                raise ConfigError(
                    f"task.dynamic_rate={options.dynamic_rate:g}: the weights diverge in dynamic evaluation; lower the "
                    "rate (published rates are from 3e-5 to 1e-4)"
                )
        elif options.cache_size:
            cache = scoring.Cache(options.cache_size, options.cache_flatness, options.cache_share)
            losses = scoring.cache_losses(model, reading.windows(READ_AT_ONCE), cache)
        else:
            losses = scoring.token_losses(model, reading.windows(max(1, READ_AT_ONCE // options.eval_streams)))
        losses = reading.in_order(losses).cpu()
        return Evaluation(scoring.perplexity(losses), losses.numpy())

    def _dynamics(self, model: LanguageModel) -> scoring.Dynamics:
        """Return the settings of dynamic evaluation, scaled by mean squared gradients on the training text."""
        ids = self._ids("train")
        of_train = Reading.of(ids, what=f"{self.corpus.source}: the part train").windows(DYNAMIC_STEPS)
        scale = scoring.mean_squared_gradients(model, of_train)
        return scoring.Dynamics(self.options.dynamic_rate, self.options.dynamic_decay, scale)

    def score(self, evaluation: Evaluation, part: str) -> dict[str, Any]:
        """Return all scores of an evaluation."""
        nll = float(evaluation.losses.mean())
        return {"nll": nll, "bits_per_word": nll / math.log(2), "tokens": len(evaluation.losses)}

    def predict(self, model: Model) -> NoReturn:
        """Raise an error, because a text has no series.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{self.name} has no series to forecast")

    def with_device(self, device: str) -> PennTreebank:
        """Return the same task with new models on another device."""
        return replace(self, device=device)

    def with_loss(self, name: str) -> PennTreebank:
        """Return the same task, because there is only one loss."""
        return self

    def with_refit(self) -> PennTreebank:
        """Return the same task with a training part that includes the validation part."""
        return replace(self, corpus=self.corpus.with_refit())

    def with_options(self, values: Mapping[str, float]) -> PennTreebank:
        """Return the same task with other options; `dropout` sets both `dropout_input` and `dropout_output`."""
        given = dict(values)
        if "dropout" in given:
            given["dropout_input"] = given["dropout_output"] = given.pop("dropout")
        return replace(self, options=self.options.model_copy(update=given))

    def restored(self, tensors: Mapping[str, Tensor], words: list[str]) -> tuple[PennTreebank, int, int]:
        """Return the text numbered with a saved model's vocabulary, and the input and hidden size of its core.

        Raises:
            DataError: a word of the text is unknown and the vocabulary has no `<unk>`.
            KeyError: a tensor is missing.
            ValueError: a tensor does not fit a model with these words.
        """
        embedding = tensors["embedding.weight"]
        decoder = embedding if self.options.tied else tensors["decoder"]
        for name, one in (("embedding.weight", embedding), ("decoder", decoder)):
            if one.dim() != 2 or len(one) != len(words) or not one.numel():
                raise ValueError(
                    f"{name} has shape {tuple(one.shape)}, expected two axes, the first of size {len(words)} (words)"
                )
        corpus = self.corpus if words == self.words else self._corpus(self.options, words)
        return replace(self, corpus=corpus), embedding.shape[1], decoder.shape[1]

    @property
    def text(self) -> list[str]:
        """The words of the training part, for a backtest, which walks through them."""
        return [self.corpus.words[number] for number in self.corpus.train.tolist()]

    def further(self, data: str) -> tuple[str, list[str]]:
        """Return the name and all words of a further text, a folder as for a search or a file.

        Raises:
            DataError: the text cannot be read.
        """
        new = sources.further(data, Path(os.path.expanduser(self.options.cache)))
        return new.name, [*new.train, *new.val, *new.test]

    def of_words(
        self, train: list[str], val: list[str], test: list[str], words: Sequence[str] | None = None
    ) -> PennTreebank:
        """Return the same task on other words; `words` is the vocabulary, None for that of the training part.

        Raises:
            DataError: a word is unknown and the vocabulary has no `<unk>`.
        """
        text = sources.Text(train, val, test, self.corpus.source, self.corpus.name, self.checksum)
        return replace(self, corpus=Corpus.of(text, words))

    def joined(self, options: Options, *, frame: None = None, block: int | None = None) -> Joined:
        """Return the run's text, all of which is learned, and a further text, whose end is not.

        A further text in three files keeps its parts. Of a single file the first half is learned, the next quarter is
        the validation part and the last quarter the test part.

        Args:
            options: `data` is a folder as for a search, or a file of text.
            frame: not for texts.
            block: not for texts.

        Raises:
            DataError: the text cannot be read, or `block` is given.
        """
        if block is not None:
            raise DataError(f"update.block={block}: a text has no rows; leave it out")
        new = sources.further(options.data, Path(os.path.expanduser(options.cache)))
        ids = self.corpus.part("all").tolist()
        train = [*(self.corpus.words[number] for number in ids), *new.train]
        parts = {"train": train, "val": new.val, "test": new.test}
        files = {f"text/{sources.FILES[part]}": sources.as_lines(words) for part, words in parts.items()}
        return Joined("text", files, {"train_words": None})

    @property
    def input_size(self) -> None:
        """None: a core may have any input size, because the embedding takes the core's size."""
        return None

    @property
    def source(self) -> str:
        """Where the text came from."""
        return self.corpus.source

    @property
    def checksum(self) -> str:
        """Checksum of the words that were read."""
        return self.corpus.checksum

    def describe(self) -> dict[str, Any]:
        """Return the description of the data for `data.json`: plain values."""
        corpus = self.corpus
        return {
            "name": corpus.name,
            "source": corpus.source,
            "checksum": corpus.checksum,
            "words": len(corpus.words),
            "n_train": len(corpus.train),
            "n_val": len(corpus.val),
            "n_test": len(corpus.test),
        }
