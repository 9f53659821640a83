"""The data of an update: a new recording of the same amplifier takes the place of the run's.

Series and texts are joined: their old rows are still true. Recordings are not, because an amplifier drifts with
temperature and age, and a single model cannot fit it as it was and as it is. So the part `train` of the new recording
is learned, its part `val` judges, and its part `test` is only scored. What the run learned before stays in the weights,
among them those of the polynomial beside the cell, from which learning goes on.

The scaling stays that of the run, so that its weights keep their meaning; a predistorter still aims at the same linear
gain. The frozen amplifier that it drives is data: it is fitted to the new recording, or given by `task.amplifier`, and
the predistorters before and after the update are both judged with it.
"""

from __future__ import annotations

from grownas.errors import ConfigError, DataError
from grownas.protocols import Joined
from grownas.tasks.predistortion.options import Options
from grownas.tasks.predistortion.reading import Recording, as_files

KEPT = ("job", "features", "taps", "phase", "scales", "repeats")  # what a model reads and how it is scored
MOST_SEEN = 0.1  # share of learned samples in `val` that is let pass; coarse converters repeat a few by chance
FOLDER = "recording"  # in the run folder


def check_options(own: Options, asked: Options) -> None:
    """Check that an update does not change what its model reads and how it is scored.

    Raises:
        ConfigError: it does.
    """
    for key in KEPT:
        if getattr(asked, key) != getattr(own, key):
            raise ConfigError(f"task.{key}: an update keeps that of the run; leave it out, or start a new search")


def check_recording(own: Recording, new: Recording) -> None:
    """Check that a new recording can be compared with that of the run, and has samples that were not learned.

    It is compared with the recording of that run alone, not with those before it.

    Raises:
        DataError: the sample rates, channels or frames differ, or learned samples are in its part `val` or `test`.
    """
    for key, before, after in zip(own.band._fields, own.band, new.band, strict=True):
        if before != after:
            raise DataError(
                f"{new.source}: {key} is {after!r}, but that of the run's recording {before!r}; give a recording with "
                "the same numbers, or start a new search"
            )
    learned = {pair for part in ("train", "val") for pair in _samples(own, part)} - {(0j, 0j)}  # pauses repeat
    for part in ("val", "test"):
        samples = _samples(new, part)
        share = sum(pair in learned for pair in samples) / len(samples)
        if share > MOST_SEEN:
            raise DataError(
                f"{new.source}: {share:.0%} of the samples of its part {part} are in the parts train and val of the "
                "run's recording, so they cannot judge what is learned; give a later recording alone"
            )


def joined(new: Recording, scales: tuple[float, float]) -> Joined:
    """Return a new recording as the files of an update, in the scaling of the run."""
    files = {f"{FOLDER}/{name}": text for name, text in as_files(new).items()}
    theirs = dict.fromkeys(("output", "sample_rate", "bandwidth", "channels", "nperseg"))  # in the files, so null
    return Joined(FOLDER, files, {**theirs, "scales": scales})


def _samples(recording: Recording, part: str) -> list[tuple[complex, complex]]:
    return list(zip(recording.x[part].tolist(), recording.y[part].tolist(), strict=True))
