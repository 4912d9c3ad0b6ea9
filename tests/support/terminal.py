"""The command line in a terminal of its own, as a person sees it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path


def in_a_terminal(
    words: list[str], typed: str = "", *, folder: Path | None = None, **environment: str
) -> tuple[int, str]:
    """The exit code of `edgekd WORDS` and all that the terminal got, with `typed` typed into it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekd.cli", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    said = b""
    try:
        while chunk := os.read(ours, 65536):
            said += chunk
    except OSError:  # Linux says so that the other end is closed.
        pass
    os.close(ours)
    return process.wait(), said.decode()
