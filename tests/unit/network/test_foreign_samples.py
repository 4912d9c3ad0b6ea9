"""Sample files of others: no pickles, no code, and no more memory than the file has."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.errors import RecipeError
from edgekd.network.sample_files import read_samples
from tests.support.project import assert_five_parts


def npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def claimed(shape: str, dtype: str = "<f4", data: bytes = b"") -> bytes:
    header = f"{{'descr':'{dtype}','fortran_order':False,'shape':{shape}}}".encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
                         + data)  # fmt: skip
    return file.getvalue()


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HUGE = {"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
CASES = {
    "objects.npz": npz(x=np.array([{}], dtype=object)),
    "texts.npz": npz(x=np.array(["a"])),
    "scalar.npz": npz(x=np.array(3)),
    "empty.npz": npz(),
    "none.npz": npz(x=np.ones((0, 3))),
    "lengths.npz": npz(x=np.ones(3), y=np.ones(2)),
    "pickle.npz": b"\x80\x04K\x01.",
    "pickled.npz": claimed("(1,)", "|O", b"\x80\x04K\x01."),
    "huge.npz": claimed("(10000000000,)"),
    "negative.npz": claimed("(-1,)"),
    "code.npz": claimed("__import__('os').abort()"),
    "cut.npz": npz(x=np.ones(100))[:150],
    "nothing.npz": b"",
    "nothing.safetensors": b"",
    "length.safetensors": struct.pack("<Q", 2**60) + b"{}",
    "json.safetensors": safetensors(b"{not json"),
    "list.safetensors": safetensors([]),
    "deep.safetensors": safetensors(b"[" * 100_000),
    "huge.safetensors": safetensors(HUGE),
    "kind.safetensors": safetensors(
        {"x": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 1]}}, b"0"
    ),
    "negative.safetensors": safetensors(
        {"x": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}}, b"0"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_without_readable_samples_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(CASES[name])
    with pytest.raises(RecipeError) as stop:
        read_samples(tmp_path / name)
    assert_five_parts(str(stop.value))


def test_arrays_of_any_order_are_read(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(values), y=values.astype(">f4"))
    batch = read_samples(tmp_path / "a.npz")
    joined = {name: torch.cat([sample[name] for sample in batch]) for name in ("x", "y")}
    assert torch.equal(joined["x"], torch.from_numpy(values))
    assert torch.equal(joined["y"], torch.from_numpy(values))
