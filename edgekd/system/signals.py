"""SIGTERM and SIGHUP end a command as Ctrl-C does, with the same clean-up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")


@contextlib.contextmanager
def signals_interrupt() -> Iterator[list[int]]:
    """While open, the signals raise KeyboardInterrupt; the numbers of those that came.

    A signal that is ignored stays ignored: nohup ignores SIGHUP.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
