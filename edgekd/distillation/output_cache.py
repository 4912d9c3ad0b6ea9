"""A cache of a teacher's outputs on disk: one per view of the data, compact and memory-mapped.

A view is stored in shards. Each is a `.npy` file with one row of bytes per sample, written
atomically, with its sha256 beside it. A build that was killed continues with the missing shards. A
process reads its shards of a view once before it uses them, and computes damaged ones again.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from edgekd.distillation.output_codec import DECODE, ENCODE, index_type
from edgekd.errors import Fault, RecipeError
from edgekd.system.files import digest, make_folders, write_json, write_text, written_atomically
from edgekd.system.lock import locked
from edgekd.tasks.evaluate import BATCH_SIZE

CacheFormat = Literal["int8", "top-k", "fp16", "fp32"]

SHARD_BYTES = 16 * 2**20
"""The size of a shard, which has at least one batch."""

MOST_SHARDS = 256
"""The largest number of shards of a view: each open one takes one of some 1,024 descriptors."""

DECODED_BYTES = 256 * 2**20
"""A view up to this size in float32 is decoded as a whole, so that a step only indexes it."""

LARGEST = {"fp16": float(np.finfo(np.float16).max), "int8": float(np.finfo(np.float32).max) / 4}
"""The largest magnitude that a format stores; in int8, the range of a row must be a float32."""

VERSION = 2


@dataclass(frozen=True)
class Layout:
    """The layout of outputs in bytes, and of samples in shards."""

    count: int
    format: CacheFormat
    top_k: int
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """The number of values of a vector, which is the last axis."""
        return self.shape[-1] if self.shape else 1

    @property
    def k(self) -> int:
        """The number of values of a vector that top-k stores."""
        return min(self.top_k, self.width)

    @cached_property
    def row_bytes(self) -> int:
        """The size of a sample in bytes."""
        vector = {
            "int8": 8 + self.width,
            "top-k": 4 + self.k * (4 + int(index_type(self.width).itemsize)),
            "fp16": 2 * self.width,
            "fp32": 4 * self.width,
        }
        return math.prod(self.shape[:-1]) * vector[self.format]

    @cached_property
    def shard_rows(self) -> int:
        """The number of samples of a shard: whole batches, whichever process computes them."""
        few = -(-self.count // (BATCH_SIZE * MOST_SHARDS))
        return max(1, SHARD_BYTES // (self.row_bytes * BATCH_SIZE), few) * BATCH_SIZE

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """The first sample of each shard, and the one after its last."""
        starts = range(0, self.count, self.shard_rows)
        return [(start, min(self.count, start + self.shard_rows)) for start in starts]

    def document(self) -> dict[str, Any]:
        """The content of `meta.json`, with a digest of the rest."""
        document = {
            "version": VERSION,
            "count": self.count,
            "format": self.format,
            "k": self.k if self.format == "top-k" else None,
            "shape": list(self.shape),
            "shard_rows": self.shard_rows,
        }
        return {**document, "digest": digest(document)}

    def encoded(self, values: Any) -> Any:
        """Float32 outputs of some samples as bytes, samples x row_bytes."""
        codes = ENCODE[self.format](values.reshape(-1, self.width), self.k)
        return codes.reshape(len(values), self.row_bytes)

    def decoded(self, codes: Any) -> Any:
        """The outputs in float32 that `codes` encode."""
        vectors = math.prod(self.shape[:-1])
        flat = np.ascontiguousarray(codes)
        flat = flat.reshape(len(codes) * vectors, self.row_bytes // vectors)
        return DECODE[self.format](flat, self.width, self.k).reshape(len(codes), *self.shape)


class TeacherOutputs:
    """The cached outputs of a teacher for each sample in each view.

    Args:
        count: the number of samples.
        compute: returns the outputs for (view, ids), samples first, on the CPU.
        folder: a folder for these outputs only; they are kept in memory, encoded, if None.
        format: how a vector, the last axis of the outputs, is encoded. "int8" stores codes between
            its smallest and largest value, with an error of at most (largest - smallest) / 510, so
            that one outlier affects the whole vector. "top-k" stores the k largest values exactly
            and gives the others the value that keeps their total probability at temperature 1.
            "fp16" rounds, "fp32" is exact.
        top_k: k; a vector with at most k values is stored exactly.
        progress: called with (view, samples computed, samples) after each shard.
        report: called with a line about each damaged file, which is computed again.
        share: the number of this process and the number of processes that build the cache.
        barrier: waits for the other processes.

    Raises:
        RecipeError: the folder changes during the run or cannot be written, or outputs cannot be
            cached: not finite, too large for the format, or of several shapes.
    """

    def __init__(
        self,
        count: int,
        compute: Callable[[int, Tensor], Tensor],
        folder: Path | None,
        *,
        format: CacheFormat = "int8",
        top_k: int = 16,
        progress: Callable[[int, int, int], None] = lambda view, done, total: None,  # noqa: ARG005
        report: Callable[[str], None] = lambda line: None,  # noqa: ARG005
        share: tuple[int, int] = (0, 1),
        barrier: Callable[[], None] = lambda: None,
    ) -> None:
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}, not 1 or more")
        if folder is None and share[1] > 1:
            raise ValueError("processes share what they compute in a folder, and there is none")
        self.count, self.compute, self.folder = count, compute, folder
        self.format, self.top_k = format, top_k
        self.progress, self.report = progress, report
        self.share, self.barrier = share, barrier
        self.known: Layout | None = None
        self.shards: dict[tuple[int, int], Any] = {}
        self.intact: set[tuple[int, int]] = set()
        self.decoded: tuple[int, Tensor] | None = None
        self.built: set[int] = set()
        self.opened = -1

    @property
    def layout(self) -> Layout:
        """The layout of the outputs, which is known after the first call of `rows`."""
        assert self.known is not None
        return self.known

    def rows(self, view: int, ids: Tensor) -> Tensor:
        """The outputs of the samples `ids` in `view`, in float32 on the CPU.

        The first call for a view computes its missing shards.
        """
        if self.decoded is not None and self.decoded[0] == view:
            return self.decoded[1].index_select(0, ids)
        if view not in self.built:
            self._build(view)
        if self.folder is not None and self.opened != view:
            self.shards.clear()  # The shards of the previous view are still on disk.
        self.opened, shape = view, (self.count, *self.layout.shape)
        if 4 * math.prod(shape) > DECODED_BYTES:
            return torch.from_numpy(self.layout.decoded(self._gathered(view, ids.numpy())))
        self.decoded = None  # Frees the memory of the previous view.
        whole = np.empty(shape, np.float32)
        for number, span in enumerate(self.layout.spans):
            whole[slice(*span)] = self.layout.decoded(self._shard(view, number))
        self.decoded = (view, torch.from_numpy(whole))
        return self.decoded[1].index_select(0, ids)

    def _build(self, view: int) -> None:
        """Computes the missing shards of `view` that this process is responsible for."""
        first = self._learn_layout(view)
        for i in range(self.share[0], len(self.layout.spans), self.share[1]):
            if self.folder is not None and self._is_intact(view, i):
                continue
            start, end = self.layout.spans[i]
            parts = []
            for ids in torch.arange(start, end).split(BATCH_SIZE):
                again = first is None or int(ids[0]) > 0
                parts.append(self._encoded(view, ids, self.compute(view, ids) if again else first))
            self._keep(view, i, np.concatenate(parts))
            self.progress(view, end, self.count)
        self.barrier()
        self.built.add(view)

    def _learn_layout(self, view: int) -> Tensor | None:
        """Learns the shape of the outputs; returns the first batch if it was computed."""
        if self.known is not None:
            return None
        path = self.folder / "meta.json" if self.folder is not None else None
        if path is not None and path.exists():
            self.known = self._read_layout(path)
            if self.known is not None:
                return None
        ids = torch.arange(min(BATCH_SIZE, self.count))
        outputs = self.compute(view, ids)
        self.known = Layout(self.count, self.format, self.top_k, tuple(outputs.shape[1:]))
        if path is not None:
            with self._writing(path):
                write_json(path, self.known.document())
        return outputs

    def _read_layout(self, path: Path) -> Layout | None:
        """The layout of the shards that are there; None if it is damaged and learned again."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            layout = Layout(self.count, self.format, self.top_k, tuple(document["shape"]))
            if document == layout.document():
                return layout
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
            pass
        self._report_damage(path)
        return None

    def _report_damage(self, path: Path) -> None:
        name = path.relative_to(self.folder) if self.folder is not None else path
        self.report(
            f"the stored outputs of the teacher do not match their digest ({name.as_posix()}); "
            "they are computed again"
        )

    def _is_intact(self, view: int, number: int) -> bool:
        """Whether a shard is there, undamaged; reads all of it unless this process did before."""
        path = self._path(view, number)
        if (view, number) in self.intact or not path.exists():
            return (view, number) in self.intact
        try:
            expected = path.with_suffix(".sha256").read_text(encoding="utf-8")
            if expected == self._sha(view, number, path.read_bytes()):
                self.intact.add((view, number))
                return True
        except (OSError, ValueError):
            pass
        self._report_damage(path)
        return False

    def _path(self, view: int, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"view-{view:04}" / f"{number:05}.npy"

    def _sha(self, view: int, number: int, content: Any) -> str:
        """The sha256 of a shard's bytes, layout, view and number: shards are not mixed up."""
        sha = hashlib.sha256(digest([self.layout.document(), view, number]).encode())
        sha.update(content)
        return sha.hexdigest()

    def _keep(self, view: int, number: int, codes: Any) -> None:
        if self.folder is None:
            self.shards[view, number] = codes
            return
        path, buffer = self._path(view, number), io.BytesIO()
        np.save(buffer, codes, allow_pickle=False)
        with self._writing(path):
            make_folders(path.parent)
            # Another run may store the same shard: its two files must not mix with these.
            with locked(path.parent / "write.lock", lambda: None):
                write_text(path.with_suffix(".sha256"), self._sha(view, number, buffer.getbuffer()))
                with written_atomically(path) as draft:
                    draft.write_bytes(buffer.getbuffer())

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Reports a write that fails, for instance on a full disk."""
        try:
            yield
        except OSError as error:
            count = len(list((self.folder or path.parent).glob("view-*/*.npy")))
            fault = Fault(
                what="A teacher's outputs cannot be written.",
                at=str(path),
                got=f"{type(error).__name__}: {error}",
                expected="free space on the disk",
                fix=f"free some space and run again: it continues after the {count} shards on disk",
            )
            raise RecipeError(fault) from error

    def _shard(self, view: int, number: int) -> Any:
        """The bytes of a shard, memory-mapped, and verified when it is first opened."""
        if (view, number) not in self.shards:
            path = self._path(view, number)
            try:
                if (view, number) not in self.intact:
                    expected = path.with_suffix(".sha256").read_text(encoding="utf-8")
                    if expected != self._sha(view, number, path.read_bytes()):
                        raise ValueError("its sha256 is not that of the file beside it")
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise _damaged(path, f"{type(error).__name__}: {error}") from error
            self.intact.add((view, number))
            self.shards[view, number] = rows
        return self.shards[view, number]

    def _gathered(self, view: int, ids: Any) -> Any:
        """The bytes of the samples `ids`."""
        rows = np.empty((len(ids), self.layout.row_bytes), dtype=np.uint8)
        numbers = ids // self.layout.shard_rows
        for number in np.unique(numbers):
            chosen = numbers == number
            within = ids[chosen] - number * self.layout.shard_rows
            rows[chosen] = self._shard(view, int(number))[within]
        return rows

    def _encoded(self, view: int, ids: Tensor, outputs: Any) -> Any:
        """The encoded outputs of the samples `ids`, one row each."""
        if outputs.shape[1:] != self.layout.shape or len(outputs) != len(ids):
            fault = Fault(
                what="A teacher's outputs differ in shape between samples.",
                at=f"view {view}, samples {int(ids[0])} to {int(ids[-1])}",
                got=str(tuple(outputs.shape)),
                expected=str((len(ids), *self.layout.shape)),
                fix='use a teacher with one output shape, or set teacher_outputs = "live"',
            )
            raise RecipeError(fault)
        values = outputs.detach().float().numpy()
        _check_values(view, ids, values.reshape(len(ids), -1), self.format)
        return self.layout.encoded(values)


def _damaged(path: Path, got: str) -> RecipeError:
    fault = Fault(
        what="The cache of a teacher's outputs is damaged.",
        at=str(path),
        got=got,
        expected="the file as this cache wrote it",
        fix="run again: it is computed again",
    )
    return RecipeError(fault)


def _check_values(view: int, ids: Tensor, values: Any, format: str) -> None:
    """Checks that the outputs of the samples `ids`, samples x values, can be cached."""
    most = LARGEST.get(format, float(np.finfo(np.float32).max))
    finite = bool(np.isfinite(values).all())
    bad = np.abs(values) > most if finite else ~np.isfinite(values)
    if not bad.any():
        return
    problem = "are too large for the cache" if finite else "are not finite numbers"
    samples = ids[torch.from_numpy(bad.any(1))].tolist()
    more = f" and {len(samples) - 8} more" if samples[8:] else ""
    fault = Fault(
        what=f"A teacher's outputs {problem}.",
        at=f"view {view}, samples {samples[:8]}{more}",
        got=f"{values[bad][0]:g}",
        expected=f"finite numbers, at most {most:g} in magnitude in {format}",
        fix='set cache_format = "fp32"' if finite else "check the teacher on these samples",
    )
    raise RecipeError(fault)
