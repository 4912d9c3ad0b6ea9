"""A bundle as one zip file, for a release; the same contents always give the same bytes."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

from edgekd.bundles.manifest import Manifest, inside
from edgekd.errors import Fault, RecipeError
from edgekd.system.files import written_atomically

FORMATS: tuple[str, ...] | None = None

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can store; it replaces the time of packing."""

LIMIT_BYTES = 8 * 2**30
"""Limit of the unpacked size: many times any bundle, but no full disk."""


def pack(bundle: Path, manifest: Manifest, out: Path) -> None:
    """Write `NAME-VERSION.zip`, which edgekd reads wherever it reads a bundle's folder."""
    stem = f"{manifest.name}-{manifest.version}"
    write_zip(
        out / f"{stem}.zip",
        {f"{stem}/{name}": path for name, path in files_under(bundle).items()},
    )


def write_zip(
    path: Path, contents: Mapping[str, bytes | Path], stored: Collection[str] = ()
) -> None:
    """Write `contents`, by name, to the archive `path`, sorted and without times or owners.

    Args:
        stored: suffixes of files to leave uncompressed, so that a system can map them.
    """
    with (
        written_atomically(path) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in sorted(contents):
            content = contents[name]
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = 0o100644 << 16
            info.create_system = 3
            plain = name.endswith(tuple(stored)) if stored else False
            info.compress_type = zipfile.ZIP_STORED if plain else zipfile.ZIP_DEFLATED
            data = content if isinstance(content, bytes) else content.read_bytes()
            archive.writestr(info, data)


def unpack(path: Path, out: Path) -> None:
    """Unpack the zip archive `path` into the folder `out`, and nowhere else.

    Raises:
        RecipeError: it is not a zip, it is damaged, or it has contents that no bundle has: a link,
            a path that leads outside, a duplicate name, or more than `LIMIT_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_entries(entries)
            for entry in entries:
                target = out / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                # Reading checks each file's size and checksum in the archive.
                with archive.open(entry) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise RecipeError(
            Fault(
                what="The archive of a bundle cannot be read.",
                at=str(path),
                got=f"{type(error).__name__}: {error}",
                expected="a zip, as edgekd bundle --kind archive writes it",
                fix="get it from its source again, or name the folder of a bundle",
            )
        ) from error


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    """Raise a ValueError if an entry cannot be a bundle's file."""
    total = sum(entry.file_size for entry in entries)
    if total > LIMIT_BYTES:
        raise ValueError(f"{total:,} bytes unpacked, more than {LIMIT_BYTES:,}")
    seen: set[str] = set()
    for entry in entries:
        inside(entry.filename)
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ValueError(f"{entry.filename} is not a regular file")
        if entry.filename in seen:
            raise ValueError(f"{entry.filename} occurs twice")
        seen.add(entry.filename)


def files_under(folder: Path) -> dict[str, Path]:
    """The files in `folder` by relative path, sorted."""
    entries = {entry.relative_to(folder).as_posix(): entry for entry in folder.rglob("*")}
    return {name: entries[name] for name in sorted(entries) if entries[name].is_file()}
