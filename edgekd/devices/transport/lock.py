"""One timing at a time on a device: a lock per device, in the user's cache folder.

It is the operating system's: it goes with the process that holds it, however that ends. Where a
system or a file system has none, nothing is locked.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from edgekd.errors import Fault, UnreachableError
from edgekd.system.process import pause

WAIT_S = 3600.0
"""Longer than anything is timed for."""
LOOK_S = 0.2


def device_key(url: str) -> str:
    """Of URLs of the same device the same: its host, or its serial, whoever the user is there."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2].lower() if parts.scheme == "ssh" else parts.netloc
    return re.sub(r"[^A-Za-z0-9.-]", "_", f"{parts.scheme or 'local'}-{place}".rstrip("-"))


@contextmanager
def exclusive(
    url: str, waiting: Callable[[str], None], *, wait_s: float = WAIT_S
) -> Iterator[None]:
    """While open, no other edgekd of this user times on the device at `url`.

    Args:
        waiting: told once, where another does.

    Raises:
        UnreachableError: it is still in use after `wait_s`.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover
        yield
        return
    path = _folder() / f"{device_key(url)}.lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        until, told = time.monotonic() + wait_s, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise UnreachableError(_busy(url, path, wait_s)) from error
            except OSError:  # A file system without locks.
                break
            if not told:
                waiting(f"{url} is timing for another edgekd: waiting for it")
                told = True
            pause(LOOK_S)
        yield
    finally:
        os.close(file)  # Which lets go of the lock.


def _folder() -> Path:
    """Where locks are kept: in XDG_CACHE_HOME or ~/.cache, or where neither can be written."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    for place in (Path(home), Path(tempfile.gettempdir())):
        folder = place / "edgekd" / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.gettempdir())


def _busy(url: str, path: Path, wait_s: float) -> Fault:
    return Fault(
        what=f"The device {url} is in use.",
        at=str(path),
        got=f"another edgekd has been timing on it for {wait_s:.0f} s",
        expected="one timing at a time",
        fix="wait until it has ended, or end it",
    )
