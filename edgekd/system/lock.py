"""Locks between processes. The operating system releases them when their process ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from edgekd.system.process import pause

POLL_S = 0.1
PATIENCE_S = 0.5
"""A wait shorter than this is not reported: the other process only copies a result."""

_HELD: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())
"""The locks of this thread, which it may take again."""


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """While open, no other process and no other thread has the lock of the file `path`.

    On a system or file system without locks, nothing is locked. The file stays: deleting it would
    let two processes lock two files of the same name.

    Args:
        waiting: called once if another process keeps the lock for longer than `PATIENCE_S`.
    """
    name = os.path.realpath(path)
    if name in _HELD.get():
        yield
        return
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(file, waiting)
        before = _HELD.set(_HELD.get() | {name})
        try:
            yield
        finally:
            _HELD.reset(before)
    finally:
        _release(file)


def _acquire(file: int, waiting: Callable[[], None]) -> None:
    try:
        import fcntl
    except ImportError:  # pragma: no cover
        return
    begin_s, reported = time.monotonic(), False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError:  # A file system without locks.
            return
        if not reported and time.monotonic() - begin_s >= PATIENCE_S:
            waiting()
            reported = True
        pause(POLL_S)


def _release(file: int) -> None:
    """Releases the lock, also for a forked child that still has the file open."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
    except (ImportError, OSError):  # pragma: no cover
        pass
    os.close(file)
