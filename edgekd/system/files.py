"""Files and folders: digests, durable atomic writes, and the package's data."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from edgekd.system.disk_errors import disk_errors_name

PACKAGE = Path(__file__).parents[1]

DRAFT = ".draft-"
"""The prefix of temporary folders beside what is written; a killed process leaves them."""


def data_folder(name: str) -> Path:
    """The folder of shipped data `name`: inside an installed wheel, or at the repository's root."""
    shipped = PACKAGE / "_data" / name
    return shipped if shipped.is_dir() else PACKAGE.parent / name


def digest(document: Any) -> str:
    """The sha256, in hex, of a JSON document with its keys sorted."""
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def path_digest(path: Path) -> str:
    """The sha256, in hex, of a file's bytes, or of a folder's file names and bytes."""
    if path.is_file():
        sha = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                sha.update(chunk)
        return sha.hexdigest()
    files = sorted(entry for entry in path.rglob("*") if entry.is_file())
    return digest([[entry.relative_to(path).as_posix(), path_digest(entry)] for entry in files])


@cache
def package_digest() -> str:
    """The digest of edgekd's own sources; results of another version are not reused."""
    return digest([path_digest(path) for path in sorted(PACKAGE.rglob("*.py"))])


def path_bytes(path: Path) -> int:
    """The size of a file, or of all files in a folder, in bytes."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_size for entry in files)


def fsync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on the disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():  # pragma: no cover
        return  # Windows cannot open folders.
    with disk_errors_name(path):
        file = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
        try:
            os.fsync(file)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # A file system without it.
                raise
        finally:
            os.close(file)


def make_folders(folder: Path) -> None:
    """Creates `folder` and its missing parents, durably.

    Raises:
        FileExistsError, NotADirectoryError: a file is in the way.
    """
    missing = [entry for entry in (folder, *folder.parents) if not entry.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for entry in missing:
        fsync(entry.parent)


def publish(draft: Path, path: Path) -> None:
    """Moves a file, link or folder from `draft` to `path`, where it then is complete and durable.

    All bytes are on the disk before the name exists, so that a power failure leaves either what was
    at `path` before or the whole of what is there now. A folder takes the place of a folder.

    Raises:
        IsADirectoryError: `draft` is no folder, and a folder is at `path`; it is left as it is.
    """
    folder = draft.is_dir() and not draft.is_symlink()
    for entry in [*draft.rglob("*"), draft] if folder else [draft]:
        if not entry.is_symlink():
            fsync(entry)
    if path.is_dir() and not path.is_symlink():
        if not folder:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        old = Path(tempfile.mkdtemp(prefix=DRAFT, dir=path.parent))
        path.replace(old / "old")
        try:
            draft.replace(path)
        except BaseException:
            (old / "old").replace(path)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    else:
        draft.replace(path)
    fsync(path.parent)


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: published as `path` after success, removed after an error.

    Raises:
        OSError: the file system refuses it; the error names `path`.
    """
    make_folders(path.parent)
    with disk_errors_name(path):
        try:
            scratch = Path(tempfile.mkdtemp(prefix=DRAFT, dir=path.parent))
        except OSError as error:
            error.filename = str(path)
            raise
    try:
        with disk_errors_name(path, scratch):
            draft = scratch / path.name
            yield draft
            publish(draft, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, completely or not at all."""
    with written_atomically(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write `document` to `path` as indented JSON, completely or not at all."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")
