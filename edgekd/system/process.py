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
from typing import BinaryIO, TypeVar

from edgekd.system.excerpt import KEEP_BYTES, Excerpt
from edgekd.system.lifetime import end, guarded, owners, sweep

Result = TypeVar("Result")


POLL_S = 0.2
"""Interval at which a thread checks whether it must stop."""
DRAIN_S = 1.0
"""Time to read what is left in the pipes of a process that has ended."""
TERMINATE_S = 30.0
"""Time that a process gets to end its own children after SIGTERM."""
CHUNK_BYTES = 64 * 2**10
LINE_BYTES = 2**20


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
    keep_bytes: int = KEEP_BYTES,
) -> Completed:
    """Run `argv`, without a shell, with `env` added to the environment, until it ends.

    Processes that it leaves behind in its group are killed.

    Args:
        hold_stdin: keep its stdin open and empty for as long as this process lives, so that a
            reader of it notices our end, however that comes.
        keep_bytes: of each output stream, the bytes of the beginning and of the end to keep.

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
            env=_environment(env),
            start_new_session=True,
        )
        with guarded(process):
            return _finished(process, stdin, timeout_s, stop, keep_bytes)
    finally:
        for end_of_pipe in held:
            os.close(end_of_pipe)


def _environment(added: dict[str, str] | None) -> dict[str, str]:
    return {**os.environ, **owners(), **(added or {})}


def _finished(
    process: subprocess.Popen[bytes],
    stdin: bytes | None,
    timeout_s: float,
    stop: _Stop | None,
    keep_bytes: int,
) -> Completed:
    """The finished `process`, whose pipes are served by threads, so that no wait depends on it."""
    outputs = Excerpt(keep_bytes), Excerpt(keep_bytes)
    threads = [
        _start_thread(_drain, stream, output)
        for stream, output in zip((process.stdout, process.stderr), outputs, strict=True)
    ]
    if process.stdin is not None:
        _start_thread(_feed, process.stdin, stdin or b"")
    until = time.monotonic() + timeout_s
    code: int | None = None
    while code is None:
        if stop is not None:
            stop.check()
        left_s = until - time.monotonic()
        if left_s <= 0:
            break
        code = _wait(process, threads, min(POLL_S, left_s))
    if code is None:
        end(process)
    else:
        sweep(process)
    # A process outside the group may hold the pipes open for longer.
    until = time.monotonic() + DRAIN_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    stdout, stderr = (output.read() for output in outputs)
    return Completed(code=code, stdout=stdout, stderr=stderr.decode(errors="replace"))


def _wait(
    process: subprocess.Popen[bytes], threads: Sequence[threading.Thread], step_s: float
) -> int | None:
    """The exit code of `process` if it ends within `step_s`, else None.

    The end of its output usually is its own, and is noticed at once.
    """
    for thread in threads:
        thread.join(step_s / len(threads))
    if any(thread.is_alive() for thread in threads):
        return process.poll()
    try:
        return process.wait(timeout=step_s)
    except subprocess.TimeoutExpired:
        return None


def _start_thread(function: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def _drain(stream: BinaryIO, output: Excerpt) -> None:
    with stream:
        while data := os.read(stream.fileno(), CHUNK_BYTES):
            output.write(data)


def _feed(stream: BinaryIO, data: bytes) -> None:
    with contextlib.suppress(OSError), stream:  # It may end before it has read everything.
        stream.write(data)


def follow_process(
    argv: Sequence[str], on_line: Callable[[str], None], *, env: dict[str, str] | None = None
) -> Completed:
    """Run `argv` until it ends, and call `on_line` with each line of its stderr.

    If this process is interrupted, it is ended by SIGTERM, so that it can end its own children.
    Of its lines, the beginning and the end are returned; a line is cut after `LINE_BYTES`.
    """
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(env),
        start_new_session=True,
    )
    kept = Excerpt()
    assert process.stderr is not None
    with guarded(process), process.stderr:
        try:
            while line := process.stderr.readline(LINE_BYTES):
                kept.write(line)
                on_line(line.decode(errors="replace").rstrip("\r\n"))
            code = process.wait()
            sweep(process)
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=TERMINATE_S)
                sweep(process)
            raise
    return Completed(code=code, stdout=b"", stderr=kept.read().decode(errors="replace"))


@contextlib.contextmanager
def started(
    argv: Sequence[str], log: Path, *, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed at the end of the block; its output is appended to `log`.

    Who reaps it within the block calls `edgekd.system.lifetime.sweep` at once.
    """
    with log.open("ab") as file:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=_environment(env),
            start_new_session=True,
        )
    with guarded(process):
        yield process
