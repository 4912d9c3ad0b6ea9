"""The encodings of a teacher's outputs: rows of float32 values as rows of bytes, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def index_type(width: int) -> Any:
    """The dtype of indices; float16 cannot represent 2,049."""
    return np.dtype(np.uint16 if width <= 2**16 else np.uint32)


def _bytes(columns: Any) -> Any:
    return np.ascontiguousarray(columns).view(np.uint8)


def _to_int8(rows: Any, _: int) -> Any:
    low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
    step = (high.astype(np.float64) - low) / 255
    codes = np.rint((rows - low.astype(np.float64)) / np.where(step > 0, step, 1.0))
    header = np.concatenate([low, step.astype(np.float32)], axis=1)
    return np.concatenate([_bytes(header), codes.astype(np.uint8)], axis=1)


def _from_int8(flat: Any, width: int, _: int) -> Any:
    header = np.ascontiguousarray(flat[:, :8]).view(np.float32)
    values = flat[:, 8 : 8 + width].astype(np.float32)
    np.multiply(values, header[:, 1:], out=values)
    return np.add(values, header[:, :1], out=values)


def _to_top(rows: Any, k: int) -> Any:
    width, rest = rows.shape[1], np.zeros((len(rows), 1))
    largest = np.sort(np.argpartition(-rows, k - 1, axis=1)[:, :k], axis=1)
    tail = rows.astype(np.float64)
    np.put_along_axis(tail, largest, -np.inf, axis=1)
    if width > k:
        top = tail.max(1, keepdims=True)
        rest = top + (np.log(np.exp(tail - top).sum(1, keepdims=True)) - np.log(width - k))
    values = np.take_along_axis(rows, largest, axis=1)
    parts = [rest.astype(np.float32), values, largest.astype(index_type(width))]
    return np.concatenate([_bytes(part) for part in parts], axis=1)


def _from_top(flat: Any, width: int, k: int) -> Any:
    rest = np.ascontiguousarray(flat[:, :4]).view(np.float32)
    values = np.ascontiguousarray(flat[:, 4 : 4 + 4 * k]).view(np.float32)
    indices = np.ascontiguousarray(flat[:, 4 + 4 * k :]).view(index_type(width))
    rows = np.repeat(rest, width, axis=1)
    np.put_along_axis(rows, indices.astype(np.int64), values, axis=1)
    return rows


ENCODE: dict[str, Callable[[Any, int], Any]] = {
    "int8": _to_int8,
    "top-k": _to_top,
    "fp16": lambda rows, _: _bytes(rows.astype(np.float16)),
    "fp32": lambda rows, _: _bytes(rows),
}
DECODE: dict[str, Callable[[Any, int, int], Any]] = {
    "int8": _from_int8,
    "top-k": _from_top,
    "fp16": lambda flat, *_: flat.view(np.float16).astype(np.float32),
    "fp32": lambda flat, *_: flat.view(np.float32).copy(),
}
