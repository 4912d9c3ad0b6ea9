"""Temporary folders of this process, all below one: `edgekd-PID-RANDOM` in the temporary folder.

That folder is removed with the last of them, by the guardian if this process is killed, or else by
the next process of edgekd: its owner holds a lock, which the system releases when the owner ends.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.system.lifetime import forget_folder, guard_folder

OWNER = "owner"
"""The file that the owner of a folder has locked."""
NAME = re.compile(r"edgekd-\d+-[a-z0-9_]{8}")


@dataclass
class _Root:
    """The folder of one process, and how many of its folders are open."""

    folder: Path
    lock: int
    open_count: int = 0
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


_ROOTS: dict[tuple[int, str], _Root] = {}
_LOCK = threading.Lock()
_CLEARED: set[str] = set()


@contextlib.contextmanager
def scratch_folder(purpose: str = "files") -> Iterator[Path]:
    """A new temporary folder, named after `purpose`, that is removed on exit."""
    # A forked process does not share the folder of its parent.
    key = os.getpid(), tempfile.gettempdir()
    with _LOCK:
        if key not in _ROOTS:
            _ROOTS[key] = _new_root(Path(key[1]))
        root = _ROOTS[key]
        root.open_count += 1
        folder = root.folder / f"{purpose}-{next(root.numbers)}"
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with _LOCK:
            root.open_count -= 1
            if not root.open_count:
                del _ROOTS[key]
                _remove(root)


def lasting_folder(purpose: str) -> Path:
    """A new temporary folder that is removed when this process ends."""
    folder = contextlib.ExitStack()
    atexit.register(folder.close)
    return folder.enter_context(scratch_folder(purpose))


def _new_root(parent: Path) -> _Root:
    if str(parent) not in _CLEARED:
        _CLEARED.add(str(parent))
        clear_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"edgekd-{os.getpid()}-", dir=parent))
    guard_folder(folder)
    # Locked before it gets its name, so that nobody finds it without its lock.
    draft = folder / f"{OWNER}.new"
    lock = os.open(draft, os.O_RDWR | os.O_CREAT, 0o600)
    _lock(lock)
    draft.replace(folder / OWNER)
    return _Root(folder, lock)


def _remove(root: _Root) -> None:
    shutil.rmtree(root.folder, ignore_errors=True)
    os.close(root.lock)
    forget_folder(root.folder)


def clear_abandoned(parent: Path) -> None:
    """Remove the folders in `parent` of this user's processes that have ended without doing so."""
    with contextlib.suppress(OSError):
        for folder in parent.iterdir():
            with contextlib.suppress(OSError):
                if NAME.fullmatch(folder.name) and _abandoned(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    status = folder.lstat()
    if folder.is_symlink() or not hasattr(os, "getuid") or status.st_uid != os.getuid():
        return False
    file = os.open(folder / OWNER, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        return _lock(file)
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    """Whether this process now has the lock of `file`; False on a file system without locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
