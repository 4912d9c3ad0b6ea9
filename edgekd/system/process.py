"""The one start of a subprocess, and the one place where a library's chatter is sent to a log."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

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
