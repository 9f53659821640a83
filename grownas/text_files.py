"""Reading a text file of a user."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from grownas.errors import DataError


def read_text(path: Path, expected: str) -> str:
    """Return the text of a file in UTF-8, without a byte order mark; a file named `.gz` is decompressed.

    Args:
        path: the file.
        expected: what the file should hold, for messages: "a CSV of closes".

    Raises:
        DataError: the file cannot be read, its compression is damaged, or it is not a text in UTF-8.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:  # before OSError, since BadGzipFile is an OSError
        raise DataError(f"{path}: damaged gzip file: {error}; compress it again, or give it uncompressed") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 (byte {error.start}); expected {expected}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise DataError(f"{path}: a binary file; expected {expected}")
    return text
