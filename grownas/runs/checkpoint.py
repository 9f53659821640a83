"""Trees of tensors and plain values on disk, without pickle: what a run needs to go on where it stopped.

A file is one line of text, `grownas.checkpoint VERSION SHA256`, and then a safetensors blob that has this checksum.
The blob holds the arrays by number; its metadata holds the tree as JSON and the identity of the work it belongs to.
The same tree gives the same bytes. A file is there whole or not at all, and the one before it is kept as `NAME.old`.
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

FORMAT, VERSION = "grownas.checkpoint", 2
METADATA = "checkpoint"  # one key only: safetensors does not promise an order of several


class _RefusedError(Exception):
    """A file cannot be used; the message says why."""


def save(path: Path, tree: Any, identity: str) -> None:
    """Write a tree; a good file that was there before is kept as `NAME.old`.

    Args:
        path: where to; its folder exists.
        tree: dicts (keys str or int), lists and tuples, nested, of tensors, numpy arrays and scalars, str, int, float,
            bool and None. All come back with type and dtype, tensors on the CPU, aliases and views as copies.
        identity: what the tree belongs to; only the same can load it.

    Raises:
        TypeError: something else is in the tree; the message says where.
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
        if _is_good(path, identity):  # a damaged file must not push out the good one before it
            path.replace(_old(path))
        temporary.replace(path)
    except BaseException:  # an interrupt too
        temporary.unlink(missing_ok=True)
        raise


def load(path: Path, identity: str) -> Any | None:
    """Return the tree of the newest good file among `NAME` and `NAME.old`; None if there is none.

    A file that is damaged, or that belongs to something else, is refused with a `UserWarning`.
    """
    refused: list[tuple[Path, _RefusedError]] = []
    tree, instead = None, "there is no good one to use instead, so this work is done anew"
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
    """Delete a file, the one before it, and what a kill left of one that was being written."""
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
    """Return a file's tree after checking everything about it."""
    try:
        first, end, blob = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _RefusedError(f"it cannot be read ({error})") from error
    words = first.decode("utf-8", "replace").split(" ")
    if words[0] != FORMAT or len(words) != 3:
        raise _RefusedError(f"it does not begin with {FORMAT!r}, so it is damaged or of another format")
    if words[1] != str(VERSION):
        raise _RefusedError(f"it is of version {words[1]}, this program reads version {VERSION}")
    if first + end != _header(blob):
        raise _RefusedError("its checksum does not fit its content, so it is damaged or cut off")
    size = int.from_bytes(blob[:8], "little")  # of the blob's own header, which is JSON (safetensors' format)
    content = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"][METADATA])
    if content["identity"] != identity:
        raise _RefusedError(f"it belongs to {content['identity']!r}, not to {identity!r}")
    return _decode(content["tree"], safetensors.torch.load(blob))


def _encode(value: Any, arrays: dict[str, Tensor], place: str) -> Any:
    """Return a value as JSON: plain ones and lists as they are, others as `{kind: content}`; arrays are put aside."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        name = str(len(arrays))
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
        arrays[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor" if isinstance(value, Tensor) else "array" if isinstance(value, np.ndarray) else "scalar": name}
    kind = type(value)  # exact: a subclass would come back as something else
    if kind in (type(None), bool, str, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind in (list, tuple):
        items = [_encode(item, arrays, f"{place}[{number}]") for number, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind is dict and {type(key) for key in value} <= {str, int}:
        return {"dict": [[key, _encode(item, arrays, f"{place}[{key!r}]")] for key, item in value.items()]}
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
