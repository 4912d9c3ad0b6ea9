"""Archives of the same bytes from the same contents."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

from edgekd.store import written_atomically

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold: no file carries when it was packed."""


def write_zip(
    path: Path, contents: Mapping[str, bytes | Path], stored: Collection[str] = ()
) -> None:
    """Writes `contents`, by name, to the archive `path`, sorted and without times or owners.

    Args:
        stored: suffixes of names that are not compressed, so that a system can map them.
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
            kept = name.endswith(tuple(stored)) if stored else False
            info.compress_type = zipfile.ZIP_STORED if kept else zipfile.ZIP_DEFLATED
            data = content if isinstance(content, bytes) else content.read_bytes()
            archive.writestr(info, data)


def files_under(folder: Path) -> dict[str, Path]:
    """The files in `folder` by their path in it, sorted."""
    found = {entry.relative_to(folder).as_posix(): entry for entry in folder.rglob("*")}
    return {name: found[name] for name in sorted(found) if found[name].is_file()}
