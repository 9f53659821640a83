"""Saves trees of tensors and plain values to disk, without pickle, so that a run can resume.

A file has one line of text, `grownas.checkpoint VERSION SHA256`, followed by a safetensors blob with this checksum.
The blob holds the arrays by number; its metadata holds the tree as JSON and the identity of the work it belongs to.
The same tree gives the same bytes. Writes are atomic, and the previous file is kept as `NAME.old`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

FORMAT, VERSION = "grownas.checkpoint", 3
PLAIN = (type(None), bool, str, int)
METADATA = "checkpoint"  # a single key: safetensors does not guarantee the order of several


class _RefusedError(Exception):
    """A checkpoint file cannot be used; the message says why."""


def save(path: Path, tree: Any, identity: str) -> None:
    """Write a tree; a valid previous file is kept as `NAME.old`.

    Args:
        path: the file; its folder must exist.
        tree: nested dicts (keys str or int), lists and tuples of tensors, numpy arrays and scalars, str, int, float,
            bool and None. Loading restores types and dtypes; tensors are loaded on the CPU, aliases and views as
            copies.
        identity: name of the work that the tree belongs to; `load` needs the same identity.

    Raises:
        TypeError: the tree holds a value of another type; the message says where.
    """
    arrays: dict[str, Tensor] = {}
    content = json.dumps({"identity": identity, "tree": _encode(tree, arrays, "tree")}, allow_nan=False)
    blob = safetensors.torch.save(arrays, {METADATA: content})
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_header(blob) + blob)
            file.flush()
            os.fsync(file.fileno())
        if _is_good(path, identity):  # a damaged file must not replace the valid NAME.old
            path.replace(_old(path))
        temporary.replace(path)
    except BaseException:  # includes KeyboardInterrupt
        temporary.unlink(missing_ok=True)
        raise


def load(path: Path, identity: str) -> Any | None:
    """Return the tree of the newest valid file among `NAME` and `NAME.old`; None if there is none.

    A `UserWarning` reports a file that is damaged or has another identity; the file is not used.
    """
    refused: list[tuple[Path, _RefusedError]] = []
    tree, instead = None, "there is no other valid checkpoint, so this work is repeated"
    for candidate in (path, _old(path)):
        try:
            tree = _read(candidate, identity)
        except FileNotFoundError:
            continue
        except _RefusedError as error:
            refused.append((candidate, error))
            continue
        instead = f"{candidate.name} is used instead"
        break
    for candidate, reason in refused:
        warnings.warn(f"{candidate}: checkpoint refused: {reason}; {instead}", stacklevel=2)
    return tree


def remove(path: Path) -> None:
    """Delete a file, its previous version, and the temporary file that a killed process may have left."""
    for each in (path, _old(path), path.with_name(f"{path.name}.tmp")):
        each.unlink(missing_ok=True)


def _old(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _header(blob: bytes) -> bytes:
    return f"{FORMAT} {VERSION} {hashlib.sha256(blob).hexdigest()}\n".encode()


def _is_good(path: Path, identity: str) -> bool:
    try:
        _read(path, identity)
    except (FileNotFoundError, _RefusedError):
        return False
    return True


def _read(path: Path, identity: str) -> Any:
    """Return a file's tree after checking format, version, checksum and identity."""
    try:
        first, end, blob = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _RefusedError(f"it cannot be read ({error})") from error
    words = first.decode("utf-8", "replace").split(" ")
    if words[0] != FORMAT or len(words) != 3:
        raise _RefusedError(f"it does not begin with {FORMAT!r}, so it is damaged or has another format")
    if words[1] != str(VERSION):
        raise _RefusedError(f"it has version {words[1]}, this program reads version {VERSION}")
    if first + end != _header(blob):
        raise _RefusedError("its checksum does not match its content, so it is damaged or cut off")
    size = int.from_bytes(blob[:8], "little")  # length of the blob's JSON header (safetensors format)
    content = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"][METADATA])
    if content["identity"] != identity:
        raise _RefusedError(f"it belongs to {content['identity']!r}, not to {identity!r}")
    return _decode(content["tree"], safetensors.torch.load(blob))


def _encode(value: Any, arrays: dict[str, Tensor], place: str) -> Any:
    """Return a value as JSON and add its arrays to `arrays`.

    Plain values and lists stay as they are; other values become `{kind: content}`.
    """
    kind = type(value)  # the exact type: a subclass would be loaded as its base class
    if kind in PLAIN or (kind is float and math.isfinite(value)):  # first, since logs are long
        return value
    if kind is float:
        return {"float": str(value)}
    if kind in (list, tuple):
        items = [_encode(item, arrays, f"{place}[{number}]") for number, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind is dict and {type(key) for key in value} <= {str, int}:
        return {"dict": [[key, _encode(item, arrays, f"{place}[{key!r}]")] for key, item in value.items()]}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        name = str(len(arrays))
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
        arrays[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor" if isinstance(value, Tensor) else "array" if isinstance(value, np.ndarray) else "scalar": name}
    raise TypeError(f"{place}: a {type(value).__name__} cannot be saved: {value!r:.80}")


def _decode(value: Any, arrays: dict[str, Tensor]) -> Any:
    """Undo `_encode`."""
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "tensor":
            return arrays[content]
        case "array":
            return arrays[content].numpy()
        case "scalar":
            return arrays[content].numpy()[()]
        case "float":
            return float(content)
        case "tuple":
            return tuple(_decode(item, arrays) for item in content)
    return {key: _decode(item, arrays) for key, item in content}
