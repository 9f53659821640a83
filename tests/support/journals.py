"""A run folder in memory, and a kill that nothing in the code catches: for tests of journals and of what uses them."""

from __future__ import annotations

from grownas.runs.journal import LOGS, FolderStore, Journal

ALWAYS, NEVER = -1.0, 1e9  # seconds between snapshots


class Log(list):
    """A log in memory, with the methods of `rundir.JsonLines`."""

    def append(self, line):
        super().append(dict(line))

    def extend(self, lines):
        super().extend(dict(line) for line in lines)

    def truncate(self, size=0):
        del self[size:]

    @property
    def timeless(self):
        return [{key: value for key, value in line.items() if key != "wall_s"} for line in self]


class Progress:
    def __init__(self):
        self.shown = []

    def update(self, **words):
        self.shown.append(words)

    def show(self, title, words="", *, done=0, total=None):
        self.shown.append({"title": title, "words": words})


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in the code catches it to save."""


class Folder:
    """One run folder: its logs stay while journals come and go."""

    def __init__(self, path):
        self.path, self.progress = path, Progress()
        self.metrics, self.growth, self.shares, self.trials = (Log() for _ in LOGS)

    def journal(self, *, identity="config", every_s=ALWAYS):
        logs = {name: getattr(self, name) for name in LOGS}
        return Journal(FolderStore(self.path, identity), every_s=every_s, progress=self.progress, **logs)

    def names(self):
        return sorted(each.name for each in self.path.iterdir())
