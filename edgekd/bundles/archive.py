"""A bundle as one zip file, for a release; the same contents always give the same bytes."""

from __future__ import annotations

import io
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from edgekd.bundles.manifest import MANIFEST, Manifest, inside
from edgekd.errors import Fault, RecipeError
from edgekd.system.files import written_atomically

FORMATS: tuple[str, ...] | None = None

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can store; it replaces the time of packing."""

LIMIT_BYTES = 8 * 2**30
"""Limit of the unpacked size: many times any bundle, but no full disk."""
LIMIT_RATIO = 200
"""Limit of the unpacked size by that of the archive; models shrink to a tenth at most."""
LIMIT_FILES = 10_000
LIMIT_TABLE_BYTES = 4 * 2**20
"""Limit of the table of contents, which is read at once: 100 bytes a file, and more."""


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


def unpack(path: Path, out: Path) -> Path:
    """Unpack the zip archive `path` into the folder `out`, and nowhere else.

    Returns the folder of the bundle that it holds.

    Raises:
        RecipeError: it is not a zip, it is damaged, or it has contents that no bundle has: a link,
            a path that leads outside, a duplicate name, more than `LIMIT_BYTES` or `LIMIT_FILES`,
            or anything beside one bundle.
    """
    try:
        with _BoundedReads(path) as file, zipfile.ZipFile(file) as archive:
            entries = _checked_entries(archive, path.stat().st_size, out)
            root = _root(entry.filename for entry in entries)
            for entry in entries:
                target = out / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                # Reading checks each file's size and checksum in the archive.
                with archive.open(entry) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink)
    except DAMAGE as error:
        raise RecipeError(
            Fault(
                what="The archive of a bundle cannot be read.",
                at=str(path),
                got=f"{type(error).__name__}: {error}",
                expected="a zip, as edgekd bundle --kind archive writes it",
                fix="get it from its source again, or name the folder of a bundle",
            )
        ) from error
    return out / root


DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError,
    LookupError, OverflowError,
)  # fmt: skip
"""What `zipfile` raises for damaged archives."""


class _BoundedReads(io.FileIO):
    """A file that is never read as a whole: `zipfile` reads the table of contents at once."""

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes.

        Raises:
            ValueError: `size` is beyond the largest table of contents.
        """
        wanted = LIMIT_TABLE_BYTES if size is None or size < 0 else size
        if wanted > LIMIT_TABLE_BYTES:
            raise ValueError(f"a table of contents of {wanted:,} bytes")
        return super().read(wanted) or b""


def _checked_entries(archive: zipfile.ZipFile, packed: int, out: Path) -> list[zipfile.ZipInfo]:
    """The files in `archive`.

    Raises:
        ValueError: an entry cannot be a bundle's file, or all of them are too large.
    """
    if len(archive.infolist()) > LIMIT_FILES:
        raise ValueError(f"{len(archive.infolist()):,} entries, more than {LIMIT_FILES:,}")
    entries = [entry for entry in archive.infolist() if not entry.orig_filename.endswith("/")]
    total = sum(entry.file_size for entry in archive.infolist())
    limit = min(LIMIT_BYTES, LIMIT_RATIO * packed + 2**26, shutil.disk_usage(out).free)
    if total > limit:
        raise ValueError(f"{total:,} bytes unpacked, more than {limit:,}")
    seen: set[str] = set()
    for entry in entries:
        # zipfile cuts a name at its first NUL.
        inside(entry.orig_filename)
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ValueError(f"{entry.filename} is not a regular file")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename} is compressed by method {entry.compress_type}")
        if entry.filename in seen:
            raise ValueError(f"{entry.filename} occurs twice")
        seen.add(entry.filename)
    return entries


def _root(names: Iterable[str]) -> str:
    """The folder of the one bundle that an archive with the files `names` holds.

    Raises:
        ValueError: a file lies beside the bundle, such as a second bundle.
    """
    names = sorted(names)
    manifests = [name for name in names if name.rpartition("/")[2] == MANIFEST]
    if not manifests:
        return ""
    top = min(manifests, key=lambda name: name.count("/")).removesuffix(MANIFEST)
    beside = [name for name in names if not name.startswith(top)]
    if beside:
        second = " and ".join(name for name in manifests if name in beside)
        raise ValueError(
            f"{second or beside[0]} beside {top}{MANIFEST}; an archive holds one bundle"
        )
    return top


def files_under(folder: Path) -> dict[str, Path]:
    """The files in `folder` by relative path, sorted."""
    entries = {entry.relative_to(folder).as_posix(): entry for entry in folder.rglob("*")}
    return {name: entries[name] for name in sorted(entries) if entries[name].is_file()}
