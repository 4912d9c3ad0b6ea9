"""A teacher's outputs on disk: computed once for each view of the data, compact, memory-mapped.

A view is kept in shards, each a `.npy` of one row of bytes a sample, written whole or not at all,
with its sha256 beside it. A build that was killed goes on with the shards that are not there.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from edgekd.errors import Fault, RecipeError
from edgekd.store import path_digest, write_json, written_atomically

CacheFormat = Literal["int8", "top-k", "fp16", "fp32"]

BATCH_SIZE = 512
"""Samples a teacher is asked for at once."""

SHARD_BYTES = 16 * 2**20
"""A shard has as many batches as fit into this, and at least one."""

DECODED_BYTES = 256 * 2**20
"""A view no larger than this as float32 is decoded whole, so that a step only indexes it."""

VERSION = 1


class TeacherOutputs:
    """The outputs of a teacher for each sample in each view.

    Args:
        count: the number of samples.
        compute: (view, ids) to the outputs of these samples in this view, samples first.
        folder: for these very outputs alone; without it they are kept in memory, as compact.
        format: "int8" codes between the smallest and the largest of a row, off by at most half a
            step, (largest - smallest) / 510; "top-k" the k largest of a row exactly, the rest at
            the uniform value that keeps their joint probability; "fp16"; or "fp32", exact. A row is
            what lies on the last axis.
        top_k: k.
        tell: called with (view, samples computed, samples) after each shard.
        share: the number of this process and how many build together; each has its own shards.
        barrier: waits for the other processes.

    Raises:
        RecipeError: what is in the folder is not what was written there.
    """

    def __init__(
        self,
        count: int,
        compute: Callable[[int, Tensor], Tensor],
        folder: Path | None,
        *,
        format: CacheFormat = "int8",
        top_k: int = 16,
        tell: Callable[[int, int, int], None] = lambda view, done, total: None,  # noqa: ARG005
        share: tuple[int, int] = (0, 1),
        barrier: Callable[[], None] = lambda: None,
    ) -> None:
        self.count, self.compute, self.folder = count, compute, folder
        self.format, self.top_k, self.tell = format, top_k, tell
        self.share, self.barrier = share, barrier
        self.shape: tuple[int, ...] | None = None
        self.shards: dict[tuple[int, int], Any] = {}
        self.decoded: tuple[int, Tensor] | None = None
        self.built: set[int] = set()

    def rows(self, view: int, ids: Tensor) -> Tensor:
        """The outputs of the samples `ids` in `view`, in float32 on the CPU.

        The first time a view is asked for, all of it is computed that is not there.
        """
        if self.decoded is not None and self.decoded[0] == view:
            return self.decoded[1][ids]
        if view not in self.built:
            self._build(view)
        assert self.shape is not None
        values = self.count * int(np.prod(self.shape)) * 4
        if values > DECODED_BYTES:
            return self._decode(self._gathered(view, ids.numpy()))
        whole = np.concatenate([self._shard(view, i) for i in range(self.shard_count)])
        self.decoded = (view, self._decode(whole))
        return self.decoded[1][ids]

    @property
    def row_bytes(self) -> int:
        """The bytes a sample takes."""
        rows, width = self._rows_and_width()
        each = {
            "int8": 8 + width,
            "top-k": 4 + self._k(width) * (4 + _index_type(width).itemsize),
            "fp16": 2 * width,
            "fp32": 4 * width,
        }
        return int(each[self.format] * rows)

    @property
    def shard_rows(self) -> int:
        """The samples of a shard, a multiple of a batch."""
        return max(1, SHARD_BYTES // (self.row_bytes * BATCH_SIZE)) * BATCH_SIZE

    @property
    def shard_count(self) -> int:
        """The number of shards of a view."""
        return -(-self.count // self.shard_rows)

    def _rows_and_width(self) -> tuple[int, int]:
        """How many rows the output of a sample has, and how many values a row."""
        assert self.shape is not None
        return int(np.prod(self.shape[:-1], dtype=int)), self.shape[-1] if self.shape else 1

    def _k(self, width: int) -> int:
        return min(self.top_k, width)

    def _build(self, view: int) -> None:
        """Computes the shards of `view` that are not there and are ours."""
        first = self._known_shape(view)
        number, processes = self.share
        for i in range(number, self.shard_count, processes):
            if self.folder is not None and self._path(view, i).exists():
                continue
            start, end = i * self.shard_rows, min(self.count, (i + 1) * self.shard_rows)
            parts = []
            for ids in torch.arange(start, end).split(BATCH_SIZE):
                whole = first is not None and int(ids[0]) == 0 and len(first) == len(ids)
                outputs = first if whole else self.compute(view, ids)
                assert outputs is not None
                parts.append(self._encoded(view, ids, outputs))
            self._keep(view, i, np.concatenate(parts))
            self.tell(view, end, self.count)
        self.barrier()
        self.built.add(view)

    def _known_shape(self, view: int) -> Tensor | None:
        """Finds out the shape of an output; the first batch's, where they had to be computed."""
        meta = {"version": VERSION, "count": self.count, "format": self.format, "k": self.top_k}
        path = self.folder / "meta.json" if self.folder is not None else None
        if path is not None and path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                shape = tuple(int(size) for size in found.pop("shape"))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _damaged(path, f"{type(error).__name__}: {error}") from error
            if found != meta:
                raise _damaged(path, f"it is of {found}, not of {meta}")
            self.shape = shape
            return None
        if self.shape is not None:
            return None
        ids = torch.arange(min(BATCH_SIZE, self.count))
        outputs = self.compute(view, ids)
        self.shape = tuple(outputs.shape[1:])
        if path is not None:
            with _told_if_full(path):
                write_json(path, {**meta, "shape": list(self.shape)})
        return outputs

    def _path(self, view: int, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"view-{view:04}" / f"{number:05}.npy"

    def _keep(self, view: int, number: int, codes: Any) -> None:
        if self.folder is None:
            self.shards[view, number] = codes
            return
        path = self._path(view, number)
        buffer = io.BytesIO()
        np.save(buffer, codes, allow_pickle=False)
        payload = buffer.getvalue()
        with _told_if_full(path):
            write_json(path.with_suffix(".json"), {"sha256": hashlib.sha256(payload).hexdigest()})
            with written_atomically(path) as draft:
                draft.write_bytes(payload)

    def _shard(self, view: int, number: int) -> Any:
        """The bytes of a shard, memory-mapped, and checked when it is first opened."""
        if (view, number) not in self.shards:
            path = self._path(view, number)
            try:
                told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
                if path_digest(path) != told["sha256"]:
                    raise ValueError("its bytes are not those that were written")
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise _damaged(path, f"{type(error).__name__}: {error}") from error
            self.shards[view, number] = rows
        return self.shards[view, number]

    def _gathered(self, view: int, ids: Any) -> Any:
        """The bytes of the samples `ids`."""
        found = np.empty((len(ids), self.row_bytes), dtype=np.uint8)
        places = ids // self.shard_rows
        for number in np.unique(places):
            ours = places == number
            found[ours] = self._shard(view, int(number))[ids[ours] - number * self.shard_rows]
        return found

    def _encoded(self, view: int, ids: Tensor, outputs: Tensor) -> Any:
        """The bytes of the outputs of the samples `ids`, a row each."""
        assert self.shape is not None
        if tuple(outputs.shape) != (len(ids), *self.shape):
            raise RecipeError(_another_shape(ids, outputs, self.shape))
        values = outputs.detach().float().numpy()
        half = np.abs(values).max(initial=0.0) > np.finfo(np.float16).max
        if not np.isfinite(values).all() or (self.format == "fp16" and half):
            raise RecipeError(_not_finite(view, ids, values, self.format))
        rows = values.reshape(-1, self._rows_and_width()[1])
        return _ENCODE[self.format](rows, self._k(rows.shape[1])).reshape(len(ids), -1)

    def _decode(self, codes: Any) -> Tensor:
        assert self.shape is not None
        rows, width = self._rows_and_width()
        flat = np.ascontiguousarray(codes).reshape(rows * len(codes), -1)
        values = _DECODE[self.format](flat, width, self._k(width))
        return torch.from_numpy(values.reshape(len(codes), *self.shape))


def _index_type(width: int) -> Any:
    """Indices are whole numbers: float16 cannot tell 2,048 from 2,049."""
    return np.dtype(np.uint16 if width <= 2**16 else np.uint32)


def _bytes(columns: Any) -> Any:
    return np.ascontiguousarray(columns).view(np.uint8)


def _to_int8(rows: Any, _: int) -> Any:
    low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
    step = (high.astype(np.float64) - low) / 255
    codes = np.rint((rows - low.astype(np.float64)) / np.where(step > 0, step, 1.0))
    ends = np.concatenate([low, step.astype(np.float32)], axis=1)
    return np.concatenate([_bytes(ends), codes.astype(np.uint8)], axis=1)


def _from_int8(flat: Any, width: int, _: int) -> Any:
    ends = np.ascontiguousarray(flat[:, :8]).view(np.float32)
    return ends[:, :1] + ends[:, 1:] * flat[:, 8 : 8 + width].astype(np.float32)


def _to_top(rows: Any, k: int) -> Any:
    width = rows.shape[1]
    largest = np.sort(np.argpartition(-rows, k - 1, axis=1)[:, :k], axis=1)
    tail = rows.astype(np.float64)
    np.put_along_axis(tail, largest, -np.inf, axis=1)
    top = tail.max(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = top + np.log(np.exp(tail - top).sum(1, keepdims=True)) - np.log(max(1, width - k))
    rest = np.where(np.isfinite(rest), rest, 0.0).astype(np.float32)
    values = np.take_along_axis(rows, largest, axis=1).astype(np.float32)
    parts = [_bytes(rest), _bytes(values), _bytes(largest.astype(_index_type(width)))]
    return np.concatenate(parts, axis=1)


def _from_top(flat: Any, width: int, k: int) -> Any:
    rest = np.ascontiguousarray(flat[:, :4]).view(np.float32)
    values = np.ascontiguousarray(flat[:, 4 : 4 + 4 * k]).view(np.float32)
    places = np.ascontiguousarray(flat[:, 4 + 4 * k :]).view(_index_type(width))
    rows = np.repeat(rest, width, axis=1)
    np.put_along_axis(rows, places.astype(np.int64), values, axis=1)
    return rows


_ENCODE: dict[str, Callable[[Any, int], Any]] = {
    "int8": _to_int8,
    "top-k": _to_top,
    "fp16": lambda rows, _: _bytes(rows.astype(np.float16)),
    "fp32": lambda rows, _: _bytes(rows.astype(np.float32)),
}
_DECODE: dict[str, Callable[[Any, int, int], Any]] = {
    "int8": _from_int8,
    "top-k": _from_top,
    "fp16": lambda flat, *_: flat.view(np.float16).astype(np.float32),
    "fp32": lambda flat, *_: flat.view(np.float32).copy(),
}


class _told_if_full:
    """Tells a write that fails, for instance on a full disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise RecipeError(
                Fault(
                    what="A teacher's outputs cannot be written.",
                    at=str(self.path),
                    got=f"{type(error).__name__}: {error}",
                    expected="room on the disk",
                    fix="make room and run again: the shards that are there are used; or set "
                    'teacher_outputs = "live"',
                )
            ) from error


def _damaged(path: Path, got: str) -> RecipeError:
    folder = path.name == "meta.json"
    return RecipeError(
        Fault(
            what="The cache of a teacher's outputs is not what was written.",
            at=str(path),
            got=got,
            expected="the file this cache wrote",
            fix=f"delete {path.parent if folder else path}: it is computed again",
        )
    )


def _another_shape(ids: Tensor, outputs: Tensor, shape: tuple[int, ...]) -> Fault:
    return Fault(
        what="A teacher's outputs change their shape.",
        at=f"samples {ids[:3].tolist()} and on",
        got=str(tuple(outputs.shape)),
        expected=str((len(ids), *shape)),
        fix='a teacher of one output shape, or teacher_outputs = "live"',
    )


def _not_finite(view: int, ids: Tensor, values: Any, format: str) -> Fault:
    flat = np.abs(values.reshape(len(ids), -1))
    most = np.finfo(np.float16).max if format == "fp16" else np.inf
    bad = ids[torch.from_numpy(~np.isfinite(flat).all(1) | (flat > most).any(1))]
    return Fault(
        what="A teacher's outputs are not finite numbers, or too large for the cache.",
        at=f"view {view}, samples {bad[:8].tolist()}",
        got=f"largest {flat.max():.4g}",
        expected=f"finite outputs, up to {most:.0f} in {format}",
        fix="look at these samples, or set cache_format",
    )
