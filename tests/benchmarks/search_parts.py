"""Runs the main job in a fresh process and prints the seconds of its parts as JSON.

Call it as `python search_parts.py RUNS [key=value ...]`.
The seconds of a fit hold those of its checkpoints. A fit's part is the first word of its key in the journal:
`lstm-16-huber` belongs to `lstm`.
"""

from __future__ import annotations

import json
import sys
import time

CONFIG = "index_returns/growing"
NAMES = {
    "selection": "folds of the start",
    "stage": "growth",
    "after": "growth",
    "refit": "growth",  # of both starts' cells at earlier origins
    "retrained": "retraining",
}  # others are baselines


def main(runs: str, *overrides: str) -> dict[str, float]:
    seconds: dict[str, float] = {}

    def clocked(call, name):
        def timed(*args, **kwargs):
            before = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                part = name(*args) if callable(name) else name
                seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - before

        return timed

    def import_all():
        from grownas.config import loading as config
        from grownas.runs import commands as run
        from grownas.runs import journal

        return config, journal, run

    def part_of(journal, key, *_):
        word = key.partition("-")[0]
        return NAMES.get(word, f"baseline {word}")

    configs, journal, run = clocked(import_all, "imports")()
    journal.Journal.fit = clocked(journal.Journal.fit, part_of)
    journal.Journal.remember = clocked(journal.Journal.remember, part_of)
    run.load_task = clocked(run.load_task, "data")
    run._report = clocked(run._report, "report")
    run.search(configs.load(CONFIG, [f"runs={runs}", "quiet=true", *overrides]))
    return seconds


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
