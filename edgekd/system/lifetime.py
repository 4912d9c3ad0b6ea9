"""What this process starts ends with it, however it ends: processes, and temporary folders.

A guardian, a small process with a pipe from this one, kills the process groups that are left when
the pipe closes; see `edgekd.system.guardian`. It also covers programs that are not edgekd's own
(ssh, qemu, a converter's tools), and Python processes that hang in C code. On Linux, edgekd's own
workers ask the kernel besides to end with their parent.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

GUARDIAN = Path(__file__).with_name("guardian.py")
OWNERS = "EDGEKD_OWNERS"
"""The environment variable that names the processes of edgekd above this one, by their tokens."""
PR_SET_PDEATHSIG = 1
"""Source: linux/prctl.h."""
POLL_S = 0.5
END_S = 2.0
"""Time that a killed process gets to end: one that waits for hardware may not end at all."""


class _Guardian:
    """The guardian of this process, started by the first line for it."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self.lock = threading.Lock()
        self.process: Popen[bytes] | None = None
        self.lines: dict[str, str] = {}
        """What it watches, by value: a new guardian gets all of it."""

    def watch(self, kind: str, value: str) -> None:
        with self.lock:
            self.lines[value] = kind
            self._send([f"{kind} {value}"])

    def forget(self, kind: str, value: str) -> bool:
        """Whether it watched `value`, which it does not any more."""
        with self.lock:
            watched = self.lines.pop(value, None) is not None
            if watched and self.process is not None:
                self._send([f"{kind} {value}"])
            return watched

    def _send(self, lines: list[str]) -> None:
        for _ in range(2):
            if self.process is None:
                self._start()
                lines = [f"{kind} {value}" for value, kind in self.lines.items()]
            if self.process is None or self.process.stdin is None:
                return
            try:
                self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())
                self.process.stdin.flush()
                return
            except OSError:  # It was killed: start another one.
                self.close()

    def _start(self) -> None:
        if not sys.executable:  # An embedded interpreter.
            return
        # Not in a session of the terminal, whose end would end the guardian first.
        with contextlib.suppress(OSError):
            self.process = Popen(
                [sys.executable, "-I", "-S", str(GUARDIAN), self.token],
                stdin=PIPE,
                stdout=DEVNULL,
                stderr=DEVNULL,
                start_new_session=True,
            )

    def close(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.returncode = 0  # It ends by itself, and nobody waits for it.


_GUARDIAN = _Guardian()


def _after_fork() -> None:
    """Close a forked process's copy of the pipe, which would keep it open after the parent."""
    global _GUARDIAN
    _GUARDIAN.close()
    _GUARDIAN = _Guardian()


atexit.register(lambda: _GUARDIAN.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def owners() -> dict[str, str]:
    """The environment variable that marks a child of this process."""
    above = os.environ.get(OWNERS)
    return {OWNERS: f"{above},{_GUARDIAN.token}" if above else _GUARDIAN.token}


@contextlib.contextmanager
def guarded(process: Popen[bytes]) -> Iterator[None]:
    """While open, `process` and its group end with this process; on exit, they are killed.

    It must have been started with `start_new_session`, so that it is the first of a group.
    """
    _GUARDIAN.watch("group", str(process.pid))
    try:
        yield
    finally:
        end(process)
        _GUARDIAN.forget("ended", str(process.pid))


def end(process: Popen[bytes]) -> None:
    """Kill `process` and its group, if it has not been reaped."""
    if process.returncode is not None:
        return
    _kill_group(process.pid)
    process.kill()
    with contextlib.suppress(TimeoutExpired):
        process.wait(timeout=END_S)
    _GUARDIAN.forget("ended", str(process.pid))


def sweep(process: Popen[bytes]) -> None:
    """Kill what the group of `process` still has, right after it was reaped.

    Not later: the system gives the number of an empty group away again.
    """
    if _GUARDIAN.forget("ended", str(process.pid)):
        _kill_group(process.pid)


def _kill_group(pid: int) -> None:
    if os.name == "posix":
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def guard_folder(folder: Path) -> None:
    """Have `folder` removed after this process has ended, if it was killed."""
    _GUARDIAN.watch("folder", str(folder))


def forget_folder(folder: Path) -> None:
    """Take back `guard_folder`: the folder was removed."""
    _GUARDIAN.forget("removed", str(folder))


def end_with_parent() -> None:
    """End this process when its parent ends, also by SIGKILL; for a process of edgekd's own."""
    parent = os.getppid()
    asked = False
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            number = ctypes.c_ulong(signal.SIGKILL)
            asked = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number) == 0
    if os.getppid() != parent:  # It ended before the kernel was asked.
        os._exit(1)
    if not asked:
        threading.Thread(target=_watch, args=[parent], daemon=True, name="edgekd-parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)
