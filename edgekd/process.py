"""The one start of a subprocess, and the one place where a library's chatter is sent to a log."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, TypeVar

Result = TypeVar("Result")
LOOK_S = 0.2
"""Between two looks whether a thread is to stop."""


@dataclass
class _Stop:
    """Whether the calls side by side are to stop, and whether this one has been told."""

    event: threading.Event = field(default_factory=threading.Event)
    heard: bool = False

    def check(self) -> None:
        """Raises what Ctrl-C raises, once: what is done after it cleans up."""
        if self.event.is_set() and not self.heard:
            self.heard = True
            raise KeyboardInterrupt


_STOP: ContextVar[_Stop | None] = ContextVar("stop", default=None)


def side_by_side(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """What `calls` return, made at once, each in a thread of its own.

    Ctrl-C, which only the first thread hears, ends the processes that the others wait for.
    """
    if len(calls) < 2:
        return [call() for call in calls]
    event = threading.Event()
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = []
        try:
            for call in calls:
                context = copy_context()
                context.run(_STOP.set, _Stop(event))
                futures.append(pool.submit(context.run, call))
            wait(futures)
        except BaseException:
            event.set()
            raise
    return [future.result() for future in futures]


def pause(seconds: float) -> None:
    """Waits, as `time.sleep` does; ends where the threads side by side are to stop."""
    stop = _STOP.get()
    if stop is None:
        time.sleep(seconds)
        return
    stop.event.wait(seconds)
    stop.check()


@dataclass(frozen=True)
class Completed:
    """How a subprocess ended. `code` is None when it ran past its time limit and was killed."""

    code: int | None
    stdout: bytes
    stderr: str

    @property
    def last_lines(self) -> str:
        """The end of what it wrote on stderr, for a message."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return " | ".join(lines[-4:]) or "nothing on stderr"


def run_process(
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes | None = None,
    hold_stdin: bool = False,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> Completed:
    """The finished process of `argv`, never through a shell, with `env` added to ours.

    Args:
        hold_stdin: its stdin is empty but does not end before we do, killed or not: so what reads
            it learns of our end.

    Raises:
        FileNotFoundError: there is no such program.
    """
    stop = _STOP.get()
    if stop is not None:
        stop.check()
    held = os.pipe() if hold_stdin else ()
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=held[0] if held else subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        return _finished(process, stdin, timeout_s, stop)
    finally:
        for end in held:
            os.close(end)


def _finished(
    process: subprocess.Popen[bytes], stdin: bytes | None, timeout_s: float, stop: _Stop | None
) -> Completed:
    code: int | None
    until = time.monotonic() + timeout_s
    try:
        while True:
            left = max(0.0, until - time.monotonic())
            try:
                # A second call goes on with what the first was given.
                step = left if stop is None or stop.heard else min(LOOK_S, left)
                stdout, stderr = process.communicate(stdin, timeout=step)
                code = process.returncode
                break
            except subprocess.TimeoutExpired:
                stdin = None
                if stop is not None:
                    stop.check()
                if time.monotonic() >= until:
                    process.kill()
                    stdout, stderr = process.communicate()
                    code = None
                    break
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Completed(code=code, stdout=stdout, stderr=stderr.decode(errors="replace"))


def follow_process(argv: Sequence[str], on_line: Callable[[str], None]) -> Completed:
    """The finished process of `argv`, each of whose lines on stderr was given to `on_line`.

    It is ended with us: by SIGTERM, so that it can end its own.
    """
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    lines: list[str] = []
    assert process.stderr is not None
    try:
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            on_line(lines[-1])
        code = process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    finally:
        process.stderr.close()
    return Completed(code=code, stdout=b"", stderr="\n".join(lines))


@contextlib.contextmanager
def started(
    argv: Sequence[str], log: Path, *, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with the block, if it has not ended before; what it writes goes to
    the end of `log`."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **(env or {})},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def core_count() -> int:
    """The processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_bytes() -> int:
    """Memory that can be had without swapping; where the system does not tell, half of all."""
    told = Path("/proc/meminfo")
    if told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 2**32


def resident_bytes(pid: int) -> int:
    """The memory that the process `pid` holds; 0 where it has ended or the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


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
