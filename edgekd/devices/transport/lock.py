"""One measurement at a time on a device: a lock per device, in the user's cache folder.

The lock belongs to the operating system, which releases it when its process ends in any way. On a
system or file system without locks, nothing is locked.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekd.devices.transport.url import split_url
from edgekd.errors import Fault, UnreachableError
from edgekd.system.process import pause

WAIT_S = 3600.0
"""Longer than any measurement takes."""
POLL_S = 0.2


def device_key(url: str) -> str:
    """The key of a device, the same for all its URLs: its host or serial, without the user."""
    if url.startswith("imported://"):  # The rest is a path, not an address.
        return "imported-" + re.sub(r"[^A-Za-z0-9.-]", "_", url.removeprefix("imported://"))[-100:]
    parts = split_url(url)
    host = parts.netloc.rpartition("@")[2].lower() if parts.scheme == "ssh" else parts.netloc
    return re.sub(r"[^A-Za-z0-9.-]", "_", f"{parts.scheme or 'local'}-{host}".rstrip("-"))


@contextmanager
def exclusive(
    url: str, waiting: Callable[[str], None], *, wait_s: float = WAIT_S
) -> Iterator[None]:
    """Keep other edgekd processes of this user from measuring on the device while open.

    Args:
        waiting: called once with a message if another process holds the device.

    Raises:
        UnreachableError: the device is still in use after `wait_s`.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover
        yield
        return
    path = _folder() / f"{device_key(url)}.lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        until, reported = time.monotonic() + wait_s, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise UnreachableError(_busy(url, path, wait_s)) from error
            except OSError:  # A file system without locks.
                break
            if not reported:
                waiting(f"another edgekd process is measuring on {url}: waiting for it")
                reported = True
            pause(POLL_S)
        yield
    finally:
        os.close(file)  # This releases the lock.


def _folder() -> Path:
    """The folder of locks: in XDG_CACHE_HOME or ~/.cache, else in the temporary folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    for parent in (Path(home), Path(tempfile.gettempdir())):
        folder = parent / "edgekd" / "locks"
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
        got=f"another edgekd process has been measuring on it for {wait_s:.0f} s",
        expected="one measurement at a time",
        fix="wait until the other process ends, or end it",
    )
