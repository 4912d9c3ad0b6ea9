"""Errors of the file system as messages: a full disk, missing permissions, a file in the way."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekd.errors import EdgekdError, Fault, RecipeError

_ROOM = ("free space on the disk", "make room and run the same command again")
_RIGHTS = (
    "a path that this user may read and write",
    "change its permissions, or choose another path, for example with --out",
)
_IN_THE_WAY = (
    "a folder where a folder is written, a file where a file is written, and no other in its way",
    "move it away, or choose another path, for example with --out",
)
_DEVICE = ("a disk that works", "check the disk, or choose another path, for example with --out")
_HANDLES = ("fewer open files", "raise the limit (ulimit -n 4096) and run the same command again")

EXPLAINED: dict[int, tuple[str, str]] = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: (
        "a file system that is not read-only",
        "choose another path, for example with --out",
    ),
    errno.ENAMETOOLONG: (
        "a name of at most 255 bytes, and a path that the file system accepts",
        "choose a shorter name or path",
    ),
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.ENOTEMPTY: _IN_THE_WAY,
    errno.ELOOP: ("a path without circular links", "correct the link, or choose another path"),
    errno.EIO: _DEVICE,
    errno.ESTALE: _DEVICE,
    errno.EMFILE: _HANDLES,
    errno.ENFILE: _HANDLES,
    errno.ENOMEM: ("free memory", "end other programs and run the same command again"),
}
"""By error number, what the file system accepts and how to fix it. Other errors are bugs."""

NUMBER = re.compile(r"\((?:os error|code:) (\d+)\b|\[Errno (\d+)\]")
"""How safetensors and other libraries in Rust, and `shutil.Error`, mention an error number."""

SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""How numpy reports a write that the disk cut short; it keeps no error number."""


@contextmanager
def disk_errors_name(path: Path, draft: Path | None = None) -> Iterator[None]:
    """While open, an error of the file system names `path`; a write's own error names no file.

    Args:
        draft: a temporary folder; `path` is named instead of what lies in it.

    Raises:
        OSError: also if a library raised the error as another exception.
    """
    try:
        yield
    except EdgekdError:
        raise
    except Exception as error:
        number = _number(error)
        if number is None:
            raise
        if isinstance(error, OSError) and error.errno is not None:
            hidden = draft is not None and str(error.filename).startswith(str(draft))
            if error.filename is None or hidden:
                error.filename = str(path)
                del error.filename2
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


@contextmanager
def disk_errors_explained() -> Iterator[None]:
    """While open, an error of the file system becomes an error in five parts.

    Raises:
        RecipeError: what the file system refused, with the path.
    """
    try:
        yield
    except OSError as error:
        number = _number(error)
        if number is None:
            raise
        expected, fix = EXPLAINED[number]
        raise RecipeError(
            Fault(
                what="The file system refuses a file or folder.",
                at=str(error.filename2 or error.filename or "a file without a name, or the output"),
                got=os.strerror(number),
                expected=expected,
                fix=fix,
            )
        ) from error


def _number(error: Exception) -> int | None:
    """The error number of an explained error of the file system; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        text = str(error)
        mentioned = NUMBER.search(text)
        if mentioned is not None:
            number = int(mentioned[1] or mentioned[2])
        elif SHORT_WRITE.search(text):
            number = errno.ENOSPC
    return number if number in EXPLAINED else None
