"""Start subprocesses, with time limits, and stop them when this process is interrupted."""

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


POLL_S = 0.2
"""Interval at which a thread checks whether it must stop."""


@dataclass
class _Stop:
    """Whether concurrent calls must stop, and whether this one has reacted."""

    event: threading.Event = field(default_factory=threading.Event)
    heard: bool = False

    def check(self) -> None:
        """Raise KeyboardInterrupt once, as Ctrl-C does; later calls belong to the clean-up."""
        if self.event.is_set() and not self.heard:
            self.heard = True
            raise KeyboardInterrupt


_STOP: ContextVar[_Stop | None] = ContextVar("stop", default=None)


def run_concurrently(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run `calls` at once, each in its own thread, and return their results in order.

    Ctrl-C, which reaches the main thread only, also ends the processes that other threads wait for.
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
    """Sleep for `seconds`, or until concurrent calls must stop."""
    stop = _STOP.get()
    if stop is None:
        time.sleep(seconds)
        return
    stop.event.wait(seconds)
    stop.check()


@dataclass(frozen=True)
class Completed:
    """A finished subprocess; `code` is None if it was killed at its time limit."""

    code: int | None
    stdout: bytes
    stderr: str

    @property
    def last_lines(self) -> str:
        """The last lines of stderr, for a message."""
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
    """Run `argv`, without a shell, with `env` added to the environment, until it ends.

    Args:
        hold_stdin: keep its stdin open and empty for as long as this process lives, so that a
            reader of it notices our end, however that comes.

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
                # A second call continues with the input of the first.
                step = left if stop is None or stop.heard else min(POLL_S, left)
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
    """Run `argv` until it ends, and call `on_line` with each line of its stderr.

    If this process is interrupted, it is ended by SIGTERM, so that it can end its own children.
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
    """A process that is killed at the end of the block; its output is appended to `log`."""
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
