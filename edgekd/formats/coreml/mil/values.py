"""What is constant in a program: values written into it, and tensors in its weight file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SENTINEL = 0xDEADBEEF
"""Begins the metadata of each tensor in a weight file.
Source: coremltools 9.0, mlmodel/src/MILBlob/Blob/StorageFormat.hpp."""
METADATA = struct.Struct("<IIQQQ")  # sentinel, data type, bytes, offset of them, bits of padding

NUMPY: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "FLOAT16": np.float16,
    "FLOAT32": np.float32,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
}
"""By the program's name of a data type, numpy's."""

PACKED = {
    "INT4": (4, True),
    "UINT1": (1, False),
    "UINT2": (2, False),
    "UINT3": (3, False),
    "UINT4": (4, False),
    "UINT6": (6, False),
}
"""Data types of less than a byte: their bits, and whether they are signed."""


class Weights:
    """The weight files of a package, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, bytes] = {}

    def read(self, name: str, offset: int) -> bytes:
        """The bytes of the tensor whose metadata lies at `offset` of the file `name`.

        Raises:
            ValueError: there is no tensor, or the file ends before it does.
        """
        if name not in self._files:
            relative = name.removeprefix("@model_path/")
            path = (self._folder / relative).resolve()
            if not path.is_relative_to(self._folder.resolve()):
                raise ValueError(f"the program names a weight file outside the package: {name}")
            self._files[name] = path.read_bytes()
        content = self._files[name]
        if offset + METADATA.size > len(content):
            raise ValueError(f"{name} ends before its tensor at {offset}")
        sentinel, _, size, start, _ = METADATA.unpack_from(content, offset)
        if sentinel != SENTINEL or start + size > len(content):
            raise ValueError(f"{name} has no whole tensor at {offset}")
        return content[start : start + size]


def decode(value: Any, weights: Weights, data_types: Any) -> Any:
    """The tensor, string or tuple that a `Value` of the program holds.

    Args:
        data_types: the enumeration `DataType` of the program's protocol buffer.
    """
    kind = value.type.WhichOneof("type")
    if kind == "listType":
        return tuple(
            decode(entry, weights, data_types) for entry in value.immediateValue.list.values
        )
    if kind != "tensorType":
        raise ValueError(f"a constant of the type {kind}")
    data_type = data_types.Name(value.type.tensorType.dataType)
    shape = [dimension.constant.size for dimension in value.type.tensorType.dimensions]
    if value.WhichOneof("value") == "blobFileValue":
        blob = value.blobFileValue
        return _from_bytes(weights.read(blob.fileName, blob.offset), data_type, shape)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    content: Any = getattr(tensor, field).values if field else []
    if data_type == "STRING":
        return content[0] if not shape else tuple(content)
    if field == "bytes":
        return _from_bytes(bytes(content), data_type, shape)
    array = np.array(list(content), dtype=NUMPY[data_type])
    # A value given once stands for all.
    whole = array.size == np.prod(shape, dtype=np.int64)
    full = array.reshape(shape) if whole else np.broadcast_to(array, shape)
    return torch.from_numpy(full.copy())


def _from_bytes(content: bytes, data_type: str, shape: list[int]) -> Tensor:
    count = int(np.prod(shape, dtype=np.int64))
    if data_type in PACKED:
        bits, signed = PACKED[data_type]
        return unpacked(torch.from_numpy(np.frombuffer(content, np.uint8).copy()), bits, count,
                        signed=signed).reshape(shape)  # fmt: skip
    array = np.frombuffer(content, dtype=NUMPY[data_type])
    return torch.from_numpy(array[:count].reshape(shape).copy())


def unpacked(content: Tensor, bits: int, count: int, *, signed: bool = False) -> Tensor:
    """The first `count` numbers of `bits` each, lowest bits first, in the bytes of `content`."""
    flat = np.unpackbits(content.numpy().astype(np.uint8), bitorder="little")
    places = flat[: count * bits].reshape(count, bits).astype(np.int64)
    numbers = (places << np.arange(bits)).sum(axis=1)
    if signed:
        numbers = np.where(numbers >= 2 ** (bits - 1), numbers - 2**bits, numbers)
    return torch.from_numpy(numbers)
