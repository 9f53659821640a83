"""Vocabulary and ids: seen in the training part alone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grownas.errors import DataError
from grownas.tasks.penn_treebank import sources
from grownas.tasks.penn_treebank.corpus import Corpus
from grownas.tasks.penn_treebank.options import Options
from grownas.tasks.penn_treebank.sources import Text
from grownas.tasks.penn_treebank.task import PennTreebank

PARTS = ("train", "val", "test")


def text_of(train, val="a", test="b"):
    return Text(train.split(), val.split(), test.split(), "somewhere", "some text", "sha256:0")


def spelled(corpus, part):
    return " ".join(corpus.words[number] for number in corpus.part(part).tolist())


def test_frequent_words_come_first_then_earlier_ones():
    corpus = Corpus.of(text_of("c b a <unk> a <eos> b a <eos>"))
    assert corpus.words == ("a", "b", "<eos>", "c", "<unk>")
    assert corpus.index == {"a": 0, "b": 1, "<eos>": 2, "c": 3, "<unk>": 4}
    assert corpus.train.tolist() == [3, 1, 0, 4, 0, 2, 1, 0, 2]


def test_what_was_read_is_kept():
    corpus = Corpus.of(text_of("a b"))
    assert (corpus.source, corpus.name, corpus.checksum) == ("somewhere", "some text", "sha256:0")


@given(*(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=30) for _ in PARTS))
def test_ids_are_the_words_and_nothing_is_learned_from_other_parts(train, val, test):
    text = text_of(" ".join([*train, "x", "y", "<unk>"]), " ".join(val), " ".join(test))
    corpus = Corpus.of(text)
    assert set(corpus.words) == set(text.train)
    assert len(set(corpus.words)) == len(corpus.words)
    for part in PARTS:
        ids = corpus.part(part)
        assert ids.dtype == torch.int64
        words = getattr(text, part)
        assert spelled(corpus, part) == " ".join(word if word in text.train else "<unk>" for word in words)
    other = Corpus.of(replace(text, val=["h"], test=["i", "j"]))
    assert other.words == corpus.words
    assert torch.equal(other.train, corpus.train)


@pytest.mark.parametrize(("part", "name"), [("val", "the part val"), ("test", "the part test")])
def test_an_unknown_word_is_refused_by_its_name_where_there_is_no_unk(part, name):
    text = replace(text_of("a b <eos>"), **{part: ["a", "zebra", "yak"]})
    words = f"somewhere: {name}: the word 'zebra' (token 2) is not in the vocabulary of 3, which has no <unk>;"
    with pytest.raises(DataError, match=re.escape(words)):
        Corpus.of(text)


@pytest.mark.parametrize(("train", "found"), [("a a <eos> a <eos>", "'a'"), ("a", "'a'"), ("<eos>", "empty")])
def test_a_vocabulary_of_one_word_is_refused(train, found):
    with pytest.raises(DataError, match=f"somewhere: besides <eos> the vocabulary of the training part is {found}; at"):
        Corpus.of(text_of(train))


def test_a_saved_vocabulary_is_taken_as_it_is():
    corpus = Corpus.of(text_of("new a b b", "b", "a new"), words=["a", "<unk>", "b", "c"])
    assert corpus.words == ("a", "<unk>", "b", "c")
    assert [corpus.part(part).tolist() for part in PARTS] == [[1, 0, 2, 2], [2], [0, 1]]


# ---- parts


@pytest.fixture
def corpus():
    return Corpus.of(text_of("a b c d e f g h i j", "a b c", "d e"))


@pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 0.5])
@pytest.mark.parametrize("refit", [False, True])
def test_the_architecture_part_is_the_end_of_the_training_part(corpus, share, refit):
    if refit:
        corpus = corpus.with_refit()
    train, weights, architecture = (
        corpus.part(name, architecture_share=share) for name in ("train", "weights", "architecture")
    )
    assert torch.equal(torch.cat([weights, architecture]), train)
    assert abs(len(architecture) - share * len(train)) <= 0.5


def test_parts_are_in_the_texts_order_and_refitting_joins_the_first_two(corpus):
    assert [spelled(corpus, part) for part in PARTS] == ["a b c d e f g h i j", "a b c", "d e"]
    again = corpus.with_refit()
    assert [spelled(again, part) for part in PARTS] == ["a b c d e f g h i j a b c", "a b c", "d e"]
    assert again.words == corpus.words
    assert spelled(corpus, "train") == "a b c d e f g h i j"  # left as it was


def test_an_unknown_part_is_no_part(corpus):
    with pytest.raises(KeyError, match="valid"):
        corpus.part("valid")


# ---- texts


def test_the_treebank_in_numbers(ptb):
    corpus = Corpus.of(sources.from_folder(ptb))
    assert [len(corpus.part(part)) for part in PARTS] == [929_589, 73_760, 82_430]
    assert len(corpus.words) == 10_000
    assert corpus.words[:3] == ("the", "<unk>", "<eos>")
    counts = torch.bincount(corpus.train)
    assert counts[corpus.index["<unk>"]] == 45_020  # its README
    assert counts[corpus.index["<eos>"]] == 42_068


def test_the_embedded_text_in_numbers():
    text = sources.embedded()
    corpus = Corpus.of(text)
    assert len(corpus.words) == len(set(text.train)) <= 2_000
    for part in PARTS:
        assert spelled(corpus, part) == " ".join(getattr(text, part))


def test_fewer_words_to_train_on_change_no_id_and_no_vocabulary():
    whole, cut = (PennTreebank.load(Options(train_words=count, streams=4)).corpus for count in (None, 3000))
    assert (cut.words, len(cut.train)) == (whole.words, 3000)
    assert torch.equal(cut.train, whole.train[:3000])
    assert torch.equal(cut.test, whole.test)
