"""Arrays in an .npz file of somebody else: no pickles, and no more memory than the file has."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

ENTRIES = 10_000


def read_npz(path: Path, most_bytes: int | None = None) -> dict[str, Any]:
    """The arrays in the .npz file at `path` by name, in the byte order of this machine.

    The size that an array claims is compared with its part of the file before it is allocated.

    Args:
        most_bytes: the most that all arrays may take, where they are compressed.

    Raises:
        ValueError: an array is not one of numbers, or does not fit its part of the file.
        OSError, zipfile.BadZipFile: the file cannot be read.
    """
    import numpy as np

    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        limit = math.inf if most_bytes is None else max(most_bytes, path.stat().st_size)
        if total > limit or len(members) > ENTRIES:
            raise ValueError(f"it claims {total} bytes in {len(members)} arrays")
        for member in members:
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read_header = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = read_header(file)
                if dtype.kind not in "biuf" or dtype.itemsize > 8:
                    raise ValueError(f"{name!r} is an array of {dtype}, not of numbers")
                size = math.prod(shape) * dtype.itemsize
                if min(shape, default=0) < 0 or size > member.file_size:
                    raise ValueError(f"{name!r} claims {size} bytes of {member.file_size}")
                data = file.read()
            if len(data) != size:
                raise ValueError(f"{name!r} has {len(data)} bytes, not {size}")
            array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")
            arrays[name] = np.array(array, dtype=dtype.newbyteorder("="), order="C")
    return arrays
