"""Files and folders: digests, atomic writes, and the package's data."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]


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


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: moved onto it after success, removed after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        draft = scratch / path.name
        yield draft
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        draft.replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, completely or not at all."""
    with written_atomically(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write `document` to `path` as indented JSON, completely or not at all."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")
