"""A run folder: file writes are atomic, and only one process writes at a time."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grownas.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

MARK = "run.json"  # marks a run folder, and names the command that created it
BACKTEST = "backtest.json"  # the result of a backtest
FINISHED = ("summary.json", BACKTEST)  # either marks a folder as finished
COMMANDS = ("search", "compare", "train", "update", "backtest", "study", "walk")  # the last two: parts


class LockedError(RunError):
    """Another process is writing to the run folder."""


class RunDir:
    """A run folder. `grownas/README.md` describes its files."""

    def __init__(self, path: Path) -> None:
        """Wrap an existing folder."""
        self.path = path

    @classmethod
    def create(cls, parent: Path, name: str, command: str, what: str | None = None) -> RunDir:
        """Create a new folder; a number is appended if the name is taken.

        Args:
            parent: the parent folder; created if it does not exist.
            name: name of the folder.
            command: the command that creates the run.
            what: the baseline that `train` trains; None otherwise.

        Raises:
            RunError: the folder cannot be created.
        """
        try:
            parent.mkdir(parents=True, exist_ok=True)
            number = 1
            while True:
                path = parent / (name if number == 1 else f"{name}-{number}")
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    number += 1
        except OSError as error:
            raise RunError(
                f"{parent}: cannot create a run folder there: {error.strerror}; choose another place with runs=DIR"
            ) from error
        rundir = cls(path)
        rundir.write_json(MARK, {"command": command, "what": what})
        return rundir

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Open an existing run folder.

        Raises:
            RunError: the folder does not exist, or it is not a run folder.
        """
        if not path.is_dir():
            what = "not a folder" if path.exists() else "no such folder"
            raise RunError(f"{path}: {what}; give the path of a run folder, such as runs/NAME")
        missing = [name for name in (MARK, "config.yaml") if not (path / name).is_file()]
        if missing == ["config.yaml"]:
            raise RunError(
                f"{path}: config.yaml is missing: the run was stopped before it saved anything, so nothing can be "
                "resumed; start it again, in a new folder"
            )
        if missing:
            raise RunError(
                f"{path}: not a run folder: it has no {' and no '.join(missing)}; give the path of a run folder, such "
                "as runs/NAME"
            )
        return cls(path)

    @property
    def command(self) -> str:
        """The command that created the run."""
        return str(self._mark()["command"])

    @property
    def what(self) -> str | None:
        """The baseline that `train` trains, None for a genotype; or the model of a part of a backtest."""
        what = self._mark().get("what")
        return None if what is None else str(what)

    def _mark(self) -> dict[str, Any]:
        path = self.path / MARK
        try:
            mark = json.loads(path.read_text("utf-8"))
            if mark["command"] not in COMMANDS:
                raise ValueError(f"unknown command {mark['command']!r}, expected one of {', '.join(COMMANDS)}")
            return dict(mark)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: damaged: {error}") from error

    @contextmanager
    def lock(self, *, name: str = ".lock", wait_s: float = 1.0) -> Iterator[None]:
        """Lock the folder against other processes; the lock is released even if the process is killed.

        Args:
            name: of the file; another file locks a part of the work.
            wait_s: time to wait for another process, which may only have looked with `is_locked`.

        Raises:
            LockedError: another process is writing to the folder.
            RunError: the folder cannot be written to.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / name, timeout=wait_s)
        try:
            lock.acquire()
        except Timeout as error:
            raise LockedError(f"{self.path}: another process is writing to this run; wait for it or stop it") from error
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be written to ({error.strerror}: {lock.lock_file}); "
                "make the folder writable, or start a new run in another folder with runs=DIR"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Return whether a process is writing to the folder.

        Raises:
            RunError: the folder cannot be written to.
        """
        try:
            with self.lock(wait_s=0):
                return False
        except LockedError:
            return True

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write the content of a file."""
        self._write(name, content)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        self._write(name, text.encode())

    def write_json(self, name: str, tree: Mapping[str, Any]) -> None:
        """Write a JSON file; nan and infinity become null."""
        self._write(name, (json.dumps(_finite(tree), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file, with text notes in its header."""
        from safetensors.torch import save

        copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        self._write(name, _in_order(save(copies, dict(notes or {}))))

    def log(self, name: str) -> JsonLines:
        """Return the log file of this name."""
        return JsonLines(self.path / name)

    def _write(self, name: str, content: bytes) -> None:
        part = self.path / f".{name}.part"
        with writing(self.path / name):
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path / name)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise RunError if the block cannot write a file, for example because the disk is full."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error


def _in_order(content: bytes) -> bytes:
    """Sort the notes of a safetensors file, which the library writes in an order that changes between processes."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def write_file(path: Path, content: bytes) -> None:
    """Write a file that the user named; it is whole or absent.

    Raises:
        RunError: it cannot be written.
    """
    RunDir(path.parent).write_bytes(path.name, content)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder, which gets the path when the block ends well: so it is whole or absent.

    Raises:
        RunError: the path exists, or its parent cannot be written to.
    """
    if path.exists():
        raise RunError(f"{path}: exists; give the path of a new folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".grownas-", dir=path.parent)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error
    with temporary:
        folder = Path(temporary.name, path.name)
        folder.mkdir()
        yield folder
        os.replace(folder, path)


class JsonLines:
    """A log file with one JSON object per line."""

    def __init__(self, path: Path) -> None:
        """Set the path; nothing is written yet."""
        self.path = path

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line with a single write."""
        self.extend([line])

    def extend(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines with a single write.

        Raises:
            RunError: they cannot be written, or only in part.
        """
        content = "".join(f"{_dumped(line)}\n" for line in lines).encode()
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def truncate(self, size: int = 0) -> None:
        """Cut the log to a size in bytes; create the file if it does not exist."""
        with writing(self.path), self.path.open("ab") as file:
            file.truncate(size)


def _dumped(line: Mapping[str, Any]) -> str:
    try:
        return json.dumps(line, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):  # seldom: a number that is not finite
        return json.dumps(_finite(line), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """Replace nan and infinity by None, because JSON has no such numbers."""
    if isinstance(value, float):
        return float(value) if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
