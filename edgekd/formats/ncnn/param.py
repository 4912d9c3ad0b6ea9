"""Reads and writes ncnn's `.param` files: a network's layers as text, beside a `.bin` of weights.

Source: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAGIC = "7767517"
INPUT = "Input"
IS_INTEGER = 29
"""A parameter that edgekd puts on an `Input`, where ncnn reads none of that number: whether the
values are int32, which ncnn's tensors do not state."""


@dataclass(frozen=True)
class NcnnLayer:
    """A line of the file.

    Attributes:
        kind: the layer's type; one with a dot is PyTorch's, which ncnn does not have.
        takes, gives: the names of its tensors, which ncnn calls blobs.
        values: the parameters by number, as they are written.
    """

    kind: str
    name: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    values: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """The layer as the file has it."""
        counts = f"{len(self.takes)} {len(self.gives)}"
        values = [f"{key}={value}" for key, value in self.values.items()]
        fields = [f"{self.kind:<24} {self.name:<24} {counts}", *self.takes, *self.gives, *values]
        return " ".join(fields)


def read_param(path: Path) -> list[NcnnLayer]:
    """The layers in the file at `path`, in order.

    Raises:
        ValueError: it is not an ncnn file.
        OSError: there is no such file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no ncnn file: {error}") from error
    if not lines or lines[0].strip() != MAGIC:
        raise ValueError(f"{path.name} is no ncnn file: its first line is not {MAGIC}")
    try:
        return [_layer(line.split()) for line in lines[2:] if line.strip()]
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path.name} is no ncnn file: {error}") from error


def _layer(fields: Sequence[str]) -> NcnnLayer:
    kind, name, taken, given = fields[0], fields[1], int(fields[2]), int(fields[3])
    rest = fields[4:]
    if len(rest) < taken + given:
        raise ValueError(f"layer {name} has too few tensors")
    values = dict(entry.split("=", 1) for entry in rest[taken + given :])
    return NcnnLayer(kind, name, tuple(rest[:taken]), tuple(rest[taken : taken + given]), values)


def write_param(path: Path, layers: Sequence[NcnnLayer]) -> None:
    """Writes `layers` to `path`."""
    tensors = {name for layer in layers for name in layer.gives}
    lines = [MAGIC, f"{len(layers)} {len(tensors)}", *(layer.line() for layer in layers)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
