"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Call `handle` on SIGINT and SIGTERM, then restore the handlers that were there.

    Only the main thread may set handlers. In another thread nothing is set, and the main thread keeps its own.

    Args:
        handle: takes the signal's number and the frame, as `signal.signal` passes them.
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
