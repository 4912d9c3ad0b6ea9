"""Run the command line in a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path


def in_a_terminal(
    args: list[str], typed: str = "", *, folder: Path | None = None, **environment: str
) -> tuple[int, str]:
    """The exit code of `edgekd ARGS` and all its terminal output, with `typed` as input."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekd.cli", *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    output = b""
    try:
        while chunk := os.read(ours, 65536):
            output += chunk
    except OSError:  # On Linux: the other end is closed.
        pass
    os.close(ours)
    return process.wait(), output.decode()
