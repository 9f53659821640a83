"""A small text on disk, and the Penn Treebank where it lies beside the checkout."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

PTB = Path(__file__).parents[3].parent / "shared" / "data" / "ptb"
SMALL = {
    "train": " a b c <unk>\n b a\n\n c c a b\n",  # the third line is blank
    "valid": " a c\n",
    "test": " b d a\n c\n",
}


@pytest.fixture
def folder(tmp_path):
    """A folder `small` of three plain files."""
    path = tmp_path / "small"
    path.mkdir()
    for part, text in SMALL.items():
        (path / f"{part}.txt").write_text(text)
    return path


@pytest.fixture(scope="session")
def ptb():
    """The folder of the Penn Treebank, `{train,valid,test}.txt.gz`."""
    if not all((PTB / f"{part}.txt.gz").exists() for part in SMALL):
        pytest.skip("the Penn Treebank is not beside this checkout; its licence keeps it out of it")
    return PTB


@pytest.fixture(scope="session")
def raw_ptb(ptb):
    """Its files as they are downloaded: name -> bytes."""
    return {f"ptb.{part}.txt": gzip.decompress((ptb / f"{part}.txt.gz").read_bytes()) for part in SMALL}


@pytest.fixture
def raw_small():
    """The small text likewise."""
    return {f"ptb.{part}.txt": text.encode() for part, text in SMALL.items()}


@pytest.fixture
def sums():
    """Return the sha256 of files: name -> hexadecimal digits."""
    return lambda files: {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
