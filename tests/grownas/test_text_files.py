"""Reading a user's text file: compressed or not, with or without a byte order mark, and what is refused."""

from __future__ import annotations

import gzip

import pytest

from grownas.errors import DataError
from grownas.text_files import read_text

TEXT = "date,Börse\n2020-01-01,1\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_compressed_file_reads_as_the_plain_one(tmp_path, encoding):
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_bytes(TEXT.encode(encoding))
    packed.write_bytes(gzip.compress(TEXT.encode(encoding)))
    assert read_text(plain, "a CSV") == read_text(packed, "a CSV") == TEXT


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "Börse".encode("latin-1"), "not a text file in UTF-8 (byte 1); expected a CSV"),
        ("a.csv", b"a\0", "a binary file; expected a CSV"),
        ("a.csv.gz", TEXT.encode(), "damaged gzip file: "),
        ("a.csv.gz", gzip.compress(TEXT.encode())[:-9], "damaged gzip file: "),
        ("a.csv", None, "cannot be read: "),
    ],
    ids=["latin-1", "NUL", "plain named .gz", "cut off", "missing"],
)
def test_refuses_another_file_by_name(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_text(path, "a CSV")
    assert str(caught.value).startswith(f"{path}: {words}")
