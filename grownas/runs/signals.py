"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Call `handle` on SIGINT and SIGTERM; restore the previous handlers at the end.

    Python allows only the main thread to set handlers. In any other thread this context manager does nothing.

    Args:
        handle: takes the number of the signal and the stack frame, as for `signal.signal`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
