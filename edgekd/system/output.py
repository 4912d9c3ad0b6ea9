"""Output of this process and of others: redirect it, shorten it, locate crashes in it."""

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

from edgekd.system.excerpt import excerpt_of


@contextlib.contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Append all output of this process, stdout and stderr, to `log` while open.

    Converters also print from C++, so the file descriptors are redirected, not only Python's
    `sys.stdout`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    saved = os.dup(1), os.dup(2)
    try:
        with log.open("a", encoding="utf-8", buffering=1) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with (
                _loggers_to(file),
                contextlib.redirect_stdout(file),
                contextlib.redirect_stderr(file),
            ):
                yield
    finally:
        _flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        os.close(saved[0])
        os.close(saved[1])


@contextlib.contextmanager
def _loggers_to(file: TextIO) -> Iterator[None]:
    """Send the output of loggers on stdout or stderr to `file` while open.

    Their handlers keep the stream they were created with. In a notebook this stream does not write
    to a file descriptor, so redirecting the descriptors has no effect on it.
    """
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = {
        handler
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
    }
    if logging.lastResort is not None:
        handlers.add(logging.lastResort)
    with contextlib.ExitStack() as stack:
        for handler in handlers:
            if isinstance(handler, logging.StreamHandler) and _is_standard(handler):
                stack.enter_context(_stream_set(handler, file))
        yield


def _is_standard(handler: logging.StreamHandler[TextIO]) -> bool:
    """Whether `handler` writes to stdout or stderr; False if it does not say."""
    with contextlib.suppress(Exception):
        return handler.stream is not None and handler.stream in (sys.stdout, sys.stderr)
    return False


@contextlib.contextmanager
def _stream_set(handler: logging.StreamHandler[TextIO], file: TextIO) -> Iterator[None]:
    """While open, `handler` writes to `file`, unless its stream cannot be set.

    `logging.lastResort`, and dill's handler, which is of the same class, look up `sys.stderr` for
    each record, so that they follow it.
    """
    stream = handler.stream
    # A library's handler may raise anything, and its output is not worth a failure.
    with contextlib.suppress(Exception):
        handler.setStream(file)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            handler.setStream(stream)


def _flush() -> None:
    """Flush the buffers of Python and C, so that earlier output goes to its own destination."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)


_CRASH = re.compile(r"^(?:Fatal Python error: |Timeout \()", re.MULTILINE)


_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


def log_text(log: Path) -> str:
    """The beginning and the end of `log`, see `Excerpt`; empty if there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        return excerpt_of(file).decode(errors="replace")


def last_lines(log: Path, count: int = 3) -> str:
    """The last `count` non-empty lines of `log`, for a message; those before faulthandler's report
    if there was a crash."""
    text = _CRASH.split(log_text(log))[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(line[:200] for line in lines[-count:])


def crash_place(log: Path) -> str:
    """The Python frame of the crash that faulthandler reported in `log`; empty without a crash."""
    crash = _CRASH.search(text := log_text(log))
    if crash is None:
        return ""
    # The stacks of other threads come before that of the thread that crashed.
    frame = _FRAME.search(text, max(crash.end(), text.rfind("\nCurrent thread ")))
    return f"{frame[3]}, {frame[1]}:{frame[2]}" if frame else ""
