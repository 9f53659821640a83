"""`grownas` in a process that ends when its standard input is closed: a worker's run ends with the worker.

python -m grownas.runs.attended resume FOLDER
"""

from __future__ import annotations

import os
import threading

from grownas.cli import FAILURE, main


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(FAILURE)  # as if killed: the folder's lock is released, and the run goes on from its last snapshot


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main()
