"""End what a process of edgekd started, after that process has ended in any way.

    python guardian.py TOKEN

A process of edgekd starts one guardian and holds the guardian's stdin open. While it lives, it
writes lines to it: "group PID" and "ended PID" for the process groups that it starts and reaps,
"folder PATH" for its temporary folder. When stdin closes, the guardian kills the groups, on Linux
also every process whose environment has TOKEN, and then removes the folders.

It runs by itself, so it needs the standard library only, and imports little: each run starts one.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

VARIABLE = b"EDGEKD_OWNERS="
ROUNDS = 40
ROUND_S = 0.05


def marked(token: bytes) -> list[int]:
    """The processes with `token` in their environment; none on a system without /proc."""
    pids = []
    try:
        entries = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return []
    for pid in entries:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
                variables = file.read().split(b"\0")
        except OSError:  # It has ended, or belongs to another user.
            continue
        owners = next((entry for entry in variables if entry.startswith(VARIABLE)), b"")
        if pid != os.getpid() and token in owners.removeprefix(VARIABLE).split(b","):
            pids.append(pid)
    return pids


def end(groups: set[int], token: bytes) -> None:
    """Kill `groups` and the processes with `token`, and those that they start meanwhile."""
    for group in groups:
        with suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    for _ in range(ROUNDS):
        pids = marked(token)
        if not pids:
            return
        for pid in pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(ROUND_S)


def main(token: str) -> None:
    """Follow the lines on stdin until it closes, then end everything."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    groups: set[int] = set()
    folders: set[str] = set()
    for line in sys.stdin.buffer:
        kind, _, value = os.fsdecode(line.rstrip(b"\n")).partition(" ")
        if kind == "group":
            groups.add(int(value))
        elif kind == "ended":
            groups.discard(int(value))
        elif kind == "folder":
            folders.add(value)
        elif kind == "removed":
            folders.discard(value)
    end(groups, token.encode())
    if folders:
        import shutil

        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
