"""The output of this process and of others: redirected, cut to its last lines, crashes located."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def output_to(log: Path) -> Iterator[None]:
    """While open, all that this process writes on stdout and stderr is appended to `log`.

    Converters print from C++ too, so the file descriptors are redirected, not only Python's
    `sys.stdout`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    kept = os.dup(1), os.dup(2)
    try:
        with log.open("a", encoding="utf-8", buffering=1) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with (
                _logged_to(file),
                contextlib.redirect_stdout(file),
                contextlib.redirect_stderr(file),
            ):
                yield
    finally:
        _flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        os.close(kept[0])
        os.close(kept[1])


@contextlib.contextmanager
def _logged_to(file: TextIO) -> Iterator[None]:
    """While open, what loggers write on stdout or stderr goes to `file`.

    They keep the stream that they began with. In a notebook that is no file, and what it gets is
    seen whatever the descriptors are.
    """
    known = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    streams = {
        handler: handler.stream
        for logger in known
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
    }
    for handler in streams:
        handler.setStream(file)
    try:
        yield
    finally:
        for handler, stream in streams.items():
            handler.setStream(stream)


def _flush() -> None:
    """Empties Python's and C's buffers, so that what was printed goes where it was meant to go."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)


_CRASH = re.compile(r"^(?:Fatal Python error: |Timeout \()", re.MULTILINE)


_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


def last_lines(log: Path, count: int = 3) -> str:
    """The last `count` lines of `log` that say something, for a message; of those before a crash
    where faulthandler wrote of one."""
    if not log.exists():
        return ""
    text = _CRASH.split(log.read_text(errors="replace"))[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(line[:200] for line in lines[-count:])


def crash_place(log: Path) -> str:
    """Where Python was at the crash that faulthandler wrote of in `log`; empty where it did not."""
    crash = _CRASH.search(text := log.read_text(errors="replace")) if log.exists() else None
    frame = _FRAME.search(text, crash.end()) if crash else None
    return f"{frame[3]}, {frame[1]}:{frame[2]}" if frame else ""
